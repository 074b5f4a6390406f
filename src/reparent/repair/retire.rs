//! Several primaries reduced to the declared one.

use std::time::Duration;

use super::{
    Refusal, RepairError,
    outcome::{Fixed, Stop},
    scene::Scene,
    server::Server,
    writable::is_no_working_primary,
};
use crate::{
    pb::topodata::{Tablet, TabletType},
    reparent::{declared::Term, declared::term, run::Run},
    tablet::{Call, TabletError, TabletErrorKind},
    topo::TabletAlias,
};

/// How long a forced demotion is waited for. It is never cut off: half of one is worse than a late one.
const DEMOTION_LIMIT: Duration = Duration::from_secs(5);
/// How long a server may take to show a change that was answered.
const SHOW_LIMIT: Duration = Duration::from_secs(1);

impl Run {
    /// A PRIMARY record of an older term: its server takes no writes, its record says REPLICA, and it follows the primary where it is clean.
    pub(super) async fn retire(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (primary, _) = scene.primary_beside(alias)?;
        let record = scene.tablet(alias)?.clone();
        if record.r#type() != TabletType::Primary {
            return Ok(Fixed::Already(format!("{alias} is recorded as {}", record.r#type().as_str_name())));
        }
        let others = self.others(&scene.declared, alias).await;
        if !others.contains_key(primary) {
            let reason = format!("{primary} does not answer, and whoever may stand in for it is not stopped");
            return Err(Refusal::Later { first: "the declared primary".to_owned(), reason }.into());
        }
        let server = match self.server(&record, alias).await {
            Ok(server) => server,
            Err(Stop::Failed(RepairError::Tablet { source, .. })) if is_gone(&source) => {
                self.retire_record(alias, term(record.primary_term_start_time.as_ref())).await?;
                return Ok(Fixed::Done(format!(
                    "the record of {alias} says REPLICA; its tablet does not answer ({})",
                    source.message
                )));
            }
            Err(stop) => return Err(stop),
        };
        is_no_working_primary((alias, &record), (primary, &others))?;
        self.demote_by_force(alias, &record, &server).await?;
        self.turn_into_replica(scene, alias, &record).await?;
        let server = self.server(&record, alias).await?;
        match self.attach(scene, (alias, &record), server).await {
            Ok(()) => {
                self.see_to_the_rest(&scene.declared, Some(alias)).await?;
                Ok(Fixed::Done(format!("{alias} is primary no more, and follows {primary}")))
            }
            // It does no harm any more; what keeps it from following is a problem of its own.
            Err(Stop::Refused(refusal)) => {
                self.say(refusal.to_string());
                Ok(Fixed::Done(format!("{alias} is primary no more, and does not follow {primary}: {refusal}")))
            }
            Err(stop) => Err(stop),
        }
    }

    /// Takes the writes away from a server that is no primary any more. Where commits may hang its clients are thrown out first (safety
    /// rules, section 3); `DemotePrimary` then ends its query service, too.
    async fn demote_by_force(&mut self, alias: &TabletAlias, record: &Tablet, server: &Server) -> Result<(), Stop> {
        if !server.is_closed() {
            self.close_server(alias, record, server).await?;
        }
        self.verify().await?;
        let (tablets, call, tablet) = (self.hands.tablets.clone(), self.short(), record.clone());
        let sent = self.hands.tasks.spawn(async move { tablets.demote_primary(&tablet, true, call).await });
        // The server is read-only already: what the demotion adds is the tablet's own knowledge, and that shows later as well.
        if let Ok(Ok(Err(error))) = tokio::time::timeout(DEMOTION_LIMIT, sent).await {
            self.say(format!("{error}; its MySQL is read-only all the same"));
        }
        Ok(())
    }

    /// Its tablet gives the type up and publishes that; a tablet manager without the call is told otherwise.
    pub(super) async fn turn_into_replica(&mut self, scene: &Scene, alias: &TabletAlias, record: &Tablet) -> Result<(), Stop> {
        let (primary, _) = scene.primary_beside(alias)?;
        self.verify().await?;
        let told = self.hands.tablets.replica_was_restarted(record, primary, self.change()).await;
        if let Err(error) = &told
            && error.kind == TabletErrorKind::Unimplemented
        {
            let semi_sync = scene.declared.semi_sync_replica(primary, alias);
            let changed = self.hands.tablets.change_type(record, TabletType::Replica, semi_sync, self.change()).await;
            changed.map_err(super::outcome::during("its type was not changed"))?;
        }
        if self.is_recorded_as(alias, TabletType::Replica).await? {
            return Ok(());
        }
        // It publishes in the background where the topology did not take its word.
        self.retire_record(alias, term(record.primary_term_start_time.as_ref())).await
    }

    /// Looks a while whether the record says so.
    pub(super) async fn is_recorded_as(&self, alias: &TabletAlias, wanted: TabletType) -> Result<bool, Stop> {
        let end = tokio::time::Instant::now() + SHOW_LIMIT;
        loop {
            if self.hands.topo.tablet(alias).await?.value.r#type() == wanted {
                return Ok(true);
            }
            if tokio::time::Instant::now() >= end {
                return Ok(false);
            }
            self.pause(Duration::from_millis(50)).await?;
        }
    }

    /// Makes the record REPLICA, if it is still the PRIMARY of that term.
    async fn retire_record(&self, alias: &TabletAlias, of: Option<Term>) -> Result<(), Stop> {
        self.verify().await?;
        let mut change = |record: &mut Tablet| {
            let is_it = record.r#type() == TabletType::Primary && term(record.primary_term_start_time.as_ref()) == of;
            if is_it {
                record.set_type(TabletType::Replica);
                record.primary_term_start_time = None;
            }
            is_it
        };
        self.hands.topo.update_tablet(alias, &mut change).await?;
        Ok(())
    }

    /// Record and tablet name the same type again.
    pub(super) async fn align_type(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let record = scene.tablet(alias)?.clone();
        let server = self.server(&record, alias).await?;
        let (recorded, own) = (record.r#type(), server.tablet_type());
        let name = |of: TabletType| of.as_str_name();
        if recorded == own || own == TabletType::Unknown {
            return Ok(Fixed::Already(format!("{alias} is {}, and recorded so", name(own))));
        }
        match (recorded, own) {
            (TabletType::Primary, _) => match scene.primary()?.0 {
                // Its tablet adopts the record's term.
                primary if primary == alias => self.make_writable(scene, alias).await?,
                _ => self.retire(scene, alias).await?,
            },
            (_, TabletType::Primary) => return self.align_primary(scene, alias, &record, &server).await,
            (TabletType::Backup | TabletType::Restore | TabletType::Unknown, _) => {
                let reason = format!("it is recorded as {}", name(recorded));
                return Err(Refusal::LeftAlone { tablet: alias.clone(), reason }.into());
            }
            _ => {
                self.take_type(scene, alias, &record).await?;
                Fixed::Done(String::new())
            }
        };
        self.agrees(alias, &record).await
    }

    /// A tablet that believes that it is primary, and is recorded as something else.
    async fn align_primary(
        &mut self,
        scene: &Scene,
        alias: &TabletAlias,
        record: &Tablet,
        server: &Server,
    ) -> Result<Fixed, Stop> {
        let nobody_else = scene.declared.current_primary().is_none() && scene.declared.primary.as_ref() == Some(alias);
        if nobody_else && scene.declared.unreadable.is_empty() {
            // The shard record agrees with it: its own record was rewritten under it.
            let others = self.others(&scene.declared, alias).await;
            if let Some((writer, _)) = others.iter().find(|(_, other)| other.is_writable()) {
                let reason = "is writable".to_owned();
                return Err(Refusal::WrongPrimary { primary: alias.clone(), writer: writer.clone(), reason }.into());
            }
            let call = self.certain_call().await?;
            let told = self.hands.tablets.replica_was_promoted(record, call).await;
            told.map_err(super::outcome::during("its record was not made PRIMARY"))?;
            return self.agrees(alias, record).await;
        }
        let (primary, _) = scene.primary_beside(alias)?;
        let others = self.others(&scene.declared, alias).await;
        is_no_working_primary((alias, record), (primary, &others))?;
        if !server.is_closed() {
            self.close_server(alias, record, server).await?;
        }
        match record.r#type() {
            TabletType::Replica => self.turn_into_replica(scene, alias, record).await?,
            _ => self.take_type(scene, alias, record).await?,
        }
        self.agrees(alias, record).await
    }

    /// `ChangeType` to what is recorded.
    async fn take_type(&mut self, scene: &Scene, alias: &TabletAlias, record: &Tablet) -> Result<(), Stop> {
        let semi_sync = match scene.primary() {
            Ok((primary, _)) if primary != alias => scene.declared.semi_sync_replica(primary, alias),
            _ => false,
        };
        self.verify().await?;
        let told = self.hands.tablets.change_type(record, record.r#type(), semi_sync, self.change()).await;
        told.map_err(super::outcome::during("its type was not changed"))
    }

    async fn agrees(&self, alias: &TabletAlias, record: &Tablet) -> Result<Fixed, Stop> {
        let end = tokio::time::Instant::now() + SHOW_LIMIT;
        loop {
            let now = self.hands.topo.tablet(alias).await?.value.r#type();
            let call = Call::read(self.remote().min(SHOW_LIMIT));
            let full = self.hands.tablets.full_status(record, call).await;
            let own = full.map_err(super::outcome::during("it cannot be looked at"))?.tablet_type();
            if own == now {
                return Ok(Fixed::Done(format!("{alias} is {}, and recorded so", own.as_str_name())));
            }
            if tokio::time::Instant::now() >= end {
                let found = format!("it is recorded as {} and believes to be {}", now.as_str_name(), own.as_str_name());
                return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
            }
            self.pause(Duration::from_millis(50)).await?;
        }
    }
}

/// Nobody was there to be asked, for certain or as far as can be told from here.
fn is_gone(error: &TabletError) -> bool {
    matches!(error.kind, TabletErrorKind::Unreachable | TabletErrorKind::UnknownOutcome | TabletErrorKind::MysqlDown)
}
