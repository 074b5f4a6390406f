//! What vtgate and operators see: errant replicas drained, the primary published, fences lifted.

use std::time::Duration;

use super::{
    Refusal, RepairError,
    outcome::{Fixed, Stop, during},
    scene::Scene,
    writable::nobody_else_writes,
};
use crate::{
    pb::topodata::{Shard, Tablet, TabletType},
    reparent::{
        dba::IS_OFFLINE,
        declared::{Term, term},
        run::Run,
    },
    topo::TabletAlias,
};

/// How long a primary's own tablet is given to write the shard record after it was told to look at it.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(2);

impl Run {
    /// An errant replica becomes DRAINED: nobody reads from it. Never the primary, never the last acker.
    pub(super) async fn drain(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (primary, _) = scene.primary_beside(alias)?;
        let record = scene.tablet(alias)?.clone();
        match record.r#type() {
            TabletType::Drained => return Ok(Fixed::Already(format!("{alias} is DRAINED"))),
            TabletType::Replica | TabletType::Rdonly | TabletType::Spare | TabletType::Experimental => {}
            other => {
                let reason = format!("it is {}", other.as_str_name());
                return Err(Refusal::LeftAlone { tablet: alias.clone(), reason }.into());
            }
        }
        let server = self.server(&record, alias).await?;
        let errant = match self.validate(scene, alias, &server).await {
            Err(Stop::Refused(Refusal::Errant { errant, .. })) => errant,
            Ok(()) | Err(Stop::Refused(Refusal::NeedsRebuild { .. })) => {
                return Ok(Fixed::Already(format!("{alias} has nothing that {primary} does not have")));
            }
            Err(stop) => return Err(stop),
        };
        self.is_not_needed(scene, primary, alias, &format!("it is not drained, though {errant} is errant")).await?;
        self.verify().await?;
        let told = self.hands.tablets.change_type(&record, TabletType::Drained, false, self.change()).await;
        if !self.is_recorded_as(alias, TabletType::Drained).await? {
            told.map_err(during("it was not drained"))?;
            let found = "its record does not say DRAINED".to_owned();
            return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
        }
        Ok(Fixed::Done(format!("{alias} is DRAINED: it has {errant}, which {primary} does not have")))
    }

    /// The shard record names the primary that the tablets' records name. That is that tablet's own duty: it is told first, and given time.
    pub(super) async fn publish(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let record = self.newest_recorded(scene, alias)?.clone();
        let own = term(record.primary_term_start_time.as_ref());
        if self.is_published(alias, own).await? {
            return Ok(Fixed::Already(format!("the shard record names {alias}")));
        }
        let server = self.server(&record, alias).await?;
        if server.tablet_type() != TabletType::Primary {
            let reason = format!("its tablet believes to be {}", server.tablet_type().as_str_name());
            return Err(Refusal::Later { first: "AlignType".to_owned(), reason }.into());
        }
        let told = self.hands.tablets.refresh_state(&record, self.change()).await;
        if let Err(error) = told {
            self.say(error.to_string());
        }
        let end = tokio::time::Instant::now() + PUBLISH_PATIENCE;
        while tokio::time::Instant::now() < end {
            if self.is_published(alias, own).await? {
                return Ok(Fixed::Done(format!("the shard record names {alias}: its tablet wrote it")));
            }
            self.pause(Duration::from_millis(100)).await?;
        }
        self.verify().await?;
        let mut change = |shard: &mut Shard| {
            // Guarded: whoever has a later term keeps it.
            let is_older = term(shard.primary_term_start_time.as_ref()) < own;
            if is_older {
                shard.primary_alias = Some(alias.into());
                shard.primary_term_start_time = record.primary_term_start_time;
            }
            is_older
        };
        self.hands.topo.update_shard(&self.shard, &mut change).await?;
        if !self.is_published(alias, own).await? {
            let found = "the shard record names another primary with a term that is not older".to_owned();
            return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
        }
        Ok(Fixed::Done(format!("the shard record names {alias}; its own tablet did not write it")))
    }

    /// The record of `alias` where it is the only PRIMARY of the newest term by the tablets' own records, and the shard record knows no later.
    fn newest_recorded<'a>(&self, scene: &'a Scene, alias: &TabletAlias) -> Result<&'a Tablet, Stop> {
        let none = |reason: String| Refusal::NoPrimary { reason };
        let Some(current) = scene.declared.current_primary() else {
            return Err(none("no tablet, or more than one, is recorded as PRIMARY with the newest term".to_owned()).into());
        };
        if current != alias {
            return Err(Refusal::Role { tablet: alias.clone(), primary: current.clone() }.into());
        }
        let record = scene.tablet(alias)?;
        if scene.declared.term > term(record.primary_term_start_time.as_ref()) {
            return Err(none(format!("the shard record has a later term than {alias}")).into());
        }
        Ok(record)
    }

    async fn is_published(&self, alias: &TabletAlias, own: Option<Term>) -> Result<bool, Stop> {
        let shard = self.hands.topo.shard(&self.shard).await?.value;
        Ok(shard.primary_alias == Some(alias.into()) && term(shard.primary_term_start_time.as_ref()) == own)
    }

    /// `offline_mode` is lifted from a server that follows the primary, or is the primary and nobody works in its place. A primary that is
    /// read-only yet lets clients in as well: its replicas are clients too, and without them it could not be made writable.
    pub(super) async fn lift_fence(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (primary, source) = scene.primary()?;
        let record = scene.tablet(alias)?.clone();
        if !self.is_offline(&record).await? {
            return Ok(Fixed::Already(format!("{alias} is not in offline_mode")));
        }
        let server = self.server(&record, alias).await?;
        let lifted = if primary == alias {
            if server.replication().is_some() {
                let (primary, source_address) = (alias.clone(), server.source_address());
                return Err(Refusal::PrimaryReplicates { primary, source_address }.into());
            }
            nobody_else_writes(alias, &self.others(&scene.declared, alias).await)?;
            self.verify().await?;
            self.let_in(alias, &record).await
        } else {
            if !server.has_source(source) || !server.io_runs() {
                let reason = format!("its clients are let in when it follows {primary}");
                return Err(Refusal::Later { first: "Connect".to_owned(), reason }.into());
            }
            self.verify().await?;
            self.lift(alias, &record).await
        };
        if self.is_offline(&record).await? {
            let found = lifted.err().unwrap_or_else(|| "offline_mode is still on".to_owned());
            return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
        }
        self.see_to_the_rest(&scene.declared, Some(alias)).await?;
        Ok(Fixed::Done(format!("clients may connect to {alias} again")))
    }

    pub(super) async fn is_offline(&self, record: &Tablet) -> Result<bool, Stop> {
        let row = self.dba(record, IS_OFFLINE).await.map_err(during("its offline_mode cannot be read"))?;
        Ok(row.first().is_some_and(|value| value == "1"))
    }
}
