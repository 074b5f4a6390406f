//! What a dead run has left, as an emergency reparent takes it over.

use std::collections::BTreeSet;

use super::scene::Scene;
use crate::{
    reparent::{
        Emergency, ReparentError,
        journal::{Journal, JournalError, Stage},
        lead::How,
        run::Run,
    },
    topo::TabletAlias,
};

/// What is left of a dead run.
#[derive(Default)]
pub(super) struct Left {
    /// It was led to its end: this is the primary.
    pub finished: Option<TabletAlias>,
    /// Replicas whose IO thread it may have stopped.
    pub stopped: BTreeSet<TabletAlias>,
    /// Its journal, where it was not finished.
    pub journal: Option<Journal>,
}

impl Run {
    /// Finishes the promotion of a dead run if its elect is the primary by its record. Else everything begins anew, and that is safe at any
    /// stage: no call of the dead run is under way any more, and whatever it stopped is stopped again, looked at, and pointed at the elect.
    pub(super) async fn left_behind(&mut self, scene: &Scene, request: &Emergency) -> Result<Left, ReparentError> {
        let Some(journal) = self.read_journal().await?.filter(|journal| journal.stage != Stage::Finished) else {
            return Ok(Left::default());
        };
        let foreign = |error: JournalError| self.foreign(&error);
        let (elect, stopped) = (journal.elect().map_err(foreign)?, journal.stopped_io().map_err(foreign)?);
        self.warn(format!(
            "{} by {} ended half-way ({:?}, to {elect}); taking it over",
            journal.action, journal.who, journal.stage
        ));
        if !self.is_settled(&scene.declared, &journal, &elect).await {
            // A call of the dead run may still be under way: its limit has to pass.
            tokio::time::sleep(journal.calls_end_in()).await;
        }
        let wanted =
            request.new_primary.as_ref().is_none_or(|named| *named == elect) && !request.ignore_replicas.contains(&elect);
        let promoted =
            journal.stage == Stage::Promoting && self.look(&elect).await.is_ok_and(|look| look.recorded_primary && look.agrees);
        if promoted && wanted {
            let stopped = stopped.clone();
            self.lead_on(&scene.declared, &elect, How::Rewrite, stopped, request.wait_replicas_timeout, &journal).await?;
            return Ok(Left { finished: Some(elect), ..Left::default() });
        }
        Ok(Left { finished: None, stopped, journal: Some(journal) })
    }

    /// A new run refuses before it touches anything: what the dead one stopped is started again.
    pub(super) async fn take_back_leftover(&mut self, scene: &Scene, left: Left) {
        let Some(journal) = left.journal.filter(|journal| journal.stage == Stage::Demoting) else { return };
        match self.start_io(&scene.declared, left.stopped, None).await {
            Ok(()) => self.close(&journal).await,
            Err((alias, reason)) => self.warn(format!("replication of {alias} could not be started again: {reason}")),
        }
    }
}
