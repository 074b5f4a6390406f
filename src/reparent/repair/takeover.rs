//! A wrong primary corrected: the topology declares one tablet, and another one works.

use std::{collections::BTreeMap, time::Duration};

use super::{outcome::Stop, server::Server};
use crate::{
    pb::topodata::{Tablet, TabletType},
    reparent::{FailedStep, Mode, Planned, Promoted, ReparentError, declared::Declared, run::Run},
    tablet::TabletErrorKind,
    topo::TabletAlias,
};

/// Limit of catching up and of re-pointing.
const WAIT: Duration = Duration::from_secs(30);

/// Moves the primary from the one that works to the one that is declared. There are never two writers: first the topology is told what is
/// so, which changes no server, and then the primary moves as in every planned reparent. If that fails, the one that works is the declared
/// one.
pub(in crate::reparent) async fn take_over(run: &mut Run, to: &TabletAlias) -> Result<Promoted, ReparentError> {
    run.lock(format!("TakeOver({to})")).await?;
    let result = run.take_over_locked(to).await;
    run.unlock().await;
    result
}

impl Run {
    async fn take_over_locked(&mut self, to: &TabletAlias) -> Result<Promoted, ReparentError> {
        self.declare_what_works(to).await.map_err(|stop| self.as_reparent_error(stop, to))?;
        let request = Planned {
            new_primary: Some(to.clone()),
            avoid_primary: None,
            expected_primary: None,
            wait_replicas_timeout: WAIT,
            tolerable_lag: None,
            allow_cross_cell: true,
            mode: Mode::Graceful,
        };
        self.planned_under_lock(&request, false).await
    }

    /// Makes the record of the tablet that works PRIMARY, with the newest term. No server is touched, except that the declared one is kept
    /// read-only.
    async fn declare_what_works(&mut self, to: &TabletAlias) -> Result<(), Stop> {
        let scene = self.scene().await?;
        let record = scene.as_primary(to)?.clone();
        let declared = self.server(&record, to).await?;
        let others = self.others(&scene.declared, to).await;
        let (from, server) = the_one_that_works((to, &declared), &others).map_err(Stop::NotDue)?;
        let working = scene.tablet(from)?.clone();
        if !declared.is_closed() {
            self.close_server(to, &record, &declared).await?;
        }
        let missing = lacks(&declared, server);
        if !missing.is_empty() {
            let (elect, ahead) = (from.clone(), to.clone());
            return Err(ReparentError::CandidateBehind { elect, ahead, missing: missing.to_string() }.into());
        }
        // Its clock makes the new term, which has to be the newest.
        self.check_fitness(&scene.declared, from).await?;
        self.say(format!("{from} works and {to} is declared: the topology is told so before the primary moves"));
        self.become_declared(&working, from).await?;
        let look = self.look(from).await.map_err(ReparentError::from)?;
        if !look.recorded_primary || look.term <= scene.declared.newest_term() {
            let reason = "its record does not say PRIMARY with the newest term".to_owned();
            return Err(ReparentError::Unfit { elect: from.clone(), reason }.into());
        }
        self.wait_for_shard_record(from).await;
        Ok(())
    }

    async fn become_declared(&mut self, working: &Tablet, from: &TabletAlias) -> Result<(), Stop> {
        let failed = |source| ReparentError::Step { step: FailedStep::Promote, source, remedy: "see why on that tablet" };
        let call = self.certain_call().await?;
        match self.hands.tablets.replica_was_promoted(working, call).await {
            Err(error) if error.kind == TabletErrorKind::Unimplemented => {
                let call = self.certain_call().await?;
                let told = self.hands.tablets.change_type(working, TabletType::Primary, true, call).await;
                Ok(told.map_err(failed)?)
            }
            // The record tells what came of it.
            Err(error) if error.kind == TabletErrorKind::UnknownOutcome => {
                self.say(format!("{error}; looking at the record of {from}"));
                Ok(())
            }
            other => Ok(other.map_err(failed)?),
        }
    }

    fn as_reparent_error(&self, stop: Stop, to: &TabletAlias) -> ReparentError {
        let not_due = |reason| ReparentError::NotDue { shard: self.shard.clone(), reason };
        match stop {
            Stop::NotDue(reason) => not_due(reason),
            Stop::Refused(refusal) => not_due(refusal.to_string()),
            Stop::Failed(error) => match error {
                super::RepairError::Topo(error) => error.into(),
                super::RepairError::LockLost(lost) => lost.into(),
                super::RepairError::Reparent(error) => *error,
                super::RepairError::Tablet { source, .. } => ReparentError::TabletUnreachable { source },
                other => ReparentError::Unfit { elect: to.clone(), reason: other.to_string() },
            },
        }
    }

    /// Refuses to make a primary writable that is read-only while another tablet takes writes.
    pub(in crate::reparent) async fn no_second_writer(
        &self,
        declared: &Declared,
        elect: &TabletAlias,
    ) -> Result<(), ReparentError> {
        if self.look(elect).await?.writable {
            return Ok(());
        }
        match self.others(declared, elect).await.iter().find(|(_, other)| other.is_writable()) {
            Some((writer, _)) => {
                let reason = format!("{writer} is writable: make that one the primary first, or read-only");
                Err(ReparentError::Unfit { elect: elect.clone(), reason })
            }
            None => Ok(()),
        }
    }
}

/// The only server that takes writes, where the declared primary takes none.
fn the_one_that_works<'a>(
    (to, declared): (&TabletAlias, &Server),
    others: &'a BTreeMap<TabletAlias, Server>,
) -> Result<(&'a TabletAlias, &'a Server), String> {
    if declared.is_writable() {
        return Err(format!("{to} takes writes: whoever else does is to be retired, and not to be followed"));
    }
    let mut writable = others.iter().filter(|(_, other)| other.is_writable());
    match (writable.next(), writable.next()) {
        (None, _) => Err(format!("nobody takes writes, and {to} is declared")),
        (Some((one, _)), Some((other, _))) => Err(format!("{one} and {other} both take writes")),
        (Some((one, server)), None) if server.replication().is_some() => {
            Err(format!("{one} takes writes, and replicates as well"))
        }
        (Some(working), None) => Ok(working),
    }
}

/// What `declared` has and `working` lacks; not what `working` wrote and has not committed yet.
fn lacks(declared: &Server, working: &Server) -> crate::mysql::GtidSet {
    let extra = declared.everything.subtract(&working.executed);
    working.uuid.map_or(extra.clone(), |uuid| extra.without_server(uuid))
}
