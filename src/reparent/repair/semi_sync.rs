//! Semi-sync as the policy wants it, switched in the order in which no write ever waits for nobody: on from the replicas to the primary,
//! off from the primary to the replicas.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Refusal, RepairError,
    outcome::{Fixed, Stop, during},
    scene::Scene,
    server::Server,
};
use crate::{
    pb::topodata::Tablet,
    reparent::{
        dba::{Spelling, is_unknown_variable},
        run::Run,
    },
    tablet::{TabletError, TabletErrorKind},
    topo::TabletAlias,
};

/// How long a server may take to show a change that was answered.
const SHOW_LIMIT: Duration = Duration::from_secs(2);

impl Run {
    /// Semi-sync of the declared primary: on or off, and when on, timeout, wait count, wait point as safety rules, section 5, have it.
    pub(super) async fn semi_sync_primary(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let record = scene.as_primary(alias)?.clone();
        let server = self.server(&record, alias).await?;
        if !server.is_writable() {
            let reason = format!("{alias} is read-only, and semi-sync is set when it is made writable");
            return Err(Refusal::Later { first: "MakeWritable".to_owned(), reason }.into());
        }
        if !scene.declared.semi_sync_primary(alias) {
            return self.semi_sync_off(scene, (alias, &record), &server).await;
        }
        let member = scene.declared.member(alias);
        let needed = scene.declared.policy.acks_needed(&member);
        if server.full.semi_sync_primary_enabled && self.semi_sync_is_right(&scene.declared, alias).await? {
            return Ok(Fixed::Already(format!("{alias} waits for {needed} acknowledgement(s), for ever")));
        }
        let others = self.others(&scene.declared, alias).await;
        let acking = acking(scene, (alias, &record), &others).count();
        if acking < needed {
            let why = format!("{alias} is not made to wait for acknowledgements");
            return Err(Refusal::TooFewAckers { why, primary: alias.clone(), acking, needed }.into());
        }
        self.repair_semi_sync(&scene.declared, alias).await?;
        if !server.full.semi_sync_primary_enabled {
            self.tell_primary(alias, &record, true).await?;
        }
        Ok(Fixed::Done(format!("{alias} waits for {needed} acknowledgement(s), for ever; {acking} tablet(s) acknowledge")))
    }

    async fn semi_sync_off(
        &mut self,
        scene: &Scene,
        (alias, record): (&TabletAlias, &Tablet),
        server: &Server,
    ) -> Result<Fixed, Stop> {
        let policy = scene.declared.policy.name();
        if !server.full.semi_sync_primary_enabled {
            return Ok(Fixed::Already(format!("{alias} waits for nobody, as the policy {policy} has it")));
        }
        self.tell_primary(alias, record, false).await?;
        Ok(Fixed::Done(format!("{alias} waits for nobody, as the policy {policy} has it")))
    }

    /// Switches the source side of a primary that is writable. Its tablet is told first, because a vttablet starts its monitor then; what it
    /// leaves undone is done by statement.
    async fn tell_primary(&mut self, alias: &TabletAlias, record: &Tablet, on: bool) -> Result<(), Stop> {
        let call = self.certain_call().await?;
        let told = self.hands.tablets.undo_demote_primary(record, on, call).await;
        let is_right = |server: &Server| server.full.semi_sync_primary_enabled == on;
        let mut now = self.server(record, alias).await?;
        if !is_right(&now) {
            if let Err(error) = told {
                self.say(format!("{error}; switching semi-sync of {alias} by statement"));
            }
            self.verify().await?;
            self.switch(record, on).await.map_err(during("semi-sync of the primary was not switched"))?;
            now = self.look_until(record, alias, SHOW_LIMIT, is_right).await?;
        }
        match is_right(&now) {
            true => Ok(()),
            false => {
                let found = format!("its semi-sync source side is {}", if on { "off" } else { "on" });
                Err(RepairError::NotVerified { tablet: alias.clone(), found }.into())
            }
        }
    }

    async fn switch(&self, record: &Tablet, on: bool) -> Result<(), TabletError> {
        let set = |spelling: Spelling| format!("SET GLOBAL {} = {}", spelling.enabled(), if on { "ON" } else { "OFF" });
        match self.dba(record, &set(Spelling::Source)).await {
            Err(error) if is_unknown_variable(&error) => self.dba(record, &set(Spelling::Master)).await.map(drop),
            other => other.map(drop),
        }
    }

    /// Whether a replica acknowledges, as the policy wants it. The last one that a primary waits for goes on.
    pub(super) async fn semi_sync_replica(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (primary, source) = scene.primary_beside(alias)?;
        let record = scene.in_service(alias)?.clone();
        let wanted = scene.declared.semi_sync_replica(primary, alias);
        let server = self.server(&record, alias).await?;
        if !server.has_source(source) {
            let reason = format!("its source is {:?}, and not the primary", server.source_address());
            return Err(Refusal::Later { first: "Connect".to_owned(), reason }.into());
        }
        let word = if wanted { "acknowledges" } else { "does not acknowledge" };
        if is_as(&server, wanted) {
            return Ok(Fixed::Already(format!("{alias} {word}")));
        }
        if !wanted {
            self.is_not_needed(scene, primary, alias, "it goes on acknowledging").await?;
        }
        self.validate(scene, alias, &server).await?;
        self.verify().await?;
        let told = self.point(&scene.declared, &record, alias, primary, self.change()).await;
        if let Err(error) = told
            && error.kind != TabletErrorKind::UnknownOutcome
        {
            return Err(during("its semi-sync was not switched")(error));
        }
        let now = self.look_until(&record, alias, SHOW_LIMIT, |server| is_as(server, wanted)).await?;
        if !is_as(&now, wanted) {
            let found = format!("its semi-sync replica side is {}", if wanted { "off" } else { "on" });
            return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
        }
        self.sees_running(scene, alias, &record).await?;
        Ok(Fixed::Done(format!("{alias} {word}")))
    }

    /// Refuses to take an acker from a primary that waits for as many as are left without it.
    pub(super) async fn is_not_needed(
        &self,
        scene: &Scene,
        primary: &TabletAlias,
        alias: &TabletAlias,
        why: &str,
    ) -> Result<(), Stop> {
        let record = scene.tablet(primary)?;
        let server = self.server(record, primary).await?;
        if !server.full.semi_sync_primary_enabled {
            return Ok(());
        }
        let by_policy = scene.declared.policy.acks_needed(&scene.declared.member(primary));
        let needed = by_policy.max(server.full.semi_sync_wait_for_replica_count as usize);
        let others = self.others(&scene.declared, primary).await;
        let acking = connected(record, &others).filter(|acker| *acker != alias).count();
        if acking < needed {
            return Err(Refusal::TooFewAckers { why: why.to_owned(), primary: primary.clone(), acking, needed }.into());
        }
        Ok(())
    }
}

fn is_as(server: &Server, acknowledges: bool) -> bool {
    let status = &server.full;
    // The variable counts when the IO thread starts; the status says what it is.
    status.semi_sync_replica_enabled == acknowledges && (!server.io_runs() || status.semi_sync_replica_status == acknowledges)
}

/// Who acknowledges that primary now.
fn connected<'a>(primary: &'a Tablet, others: &'a BTreeMap<TabletAlias, Server>) -> impl Iterator<Item = &'a TabletAlias> {
    let acks = move |server: &Server| server.has_source(primary) && server.io_runs() && server.full.semi_sync_replica_status;
    others.iter().filter(move |(_, server)| acks(server)).map(|(alias, _)| alias)
}

/// Those of them that the policy lets acknowledge.
fn acking<'a>(
    scene: &'a Scene,
    (alias, record): (&'a TabletAlias, &'a Tablet),
    others: &'a BTreeMap<TabletAlias, Server>,
) -> impl Iterator<Item = &'a TabletAlias> {
    connected(record, others).filter(move |acker| scene.declared.semi_sync_replica(alias, acker))
}
