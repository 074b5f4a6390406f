//! What a dead run has left, as an emergency reparent takes it over.

use std::collections::BTreeSet;

use super::{Changed, scene::Scene};
use crate::{
    elect::Reach,
    pb::topodata::TabletType,
    reparent::{
        Emergency, ReparentError,
        declared::Declared,
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
    /// Tablets whose clients it may have cut off.
    pub fenced: BTreeSet<TabletAlias>,
    /// Its elect is primary by its record and cannot be reached: nothing is put back then.
    pub forward_only: bool,
    /// Its journal, where it was not finished.
    pub journal: Option<Journal>,
}

impl Run {
    /// Finishes the promotion of a dead run if its elect is the primary by its record. Else everything begins anew, and that is safe at any
    /// stage: no call of the dead run is under way any more, and whatever it stopped is stopped again, looked at, and pointed at the elect.
    pub(super) async fn left_behind(
        &mut self,
        scene: &mut Scene,
        journal: Option<Journal>,
        request: &Emergency,
    ) -> Result<Left, ReparentError> {
        let Some(journal) = journal else { return Ok(Left::default()) };
        if journal.stage == Stage::Finished {
            // Whose clients it left cut off is still to be seen to.
            let fenced = journal.fenced().map_err(|error| self.foreign(&error))?;
            return Ok(Left { fenced, ..Left::default() });
        }
        let foreign = |error: JournalError| self.foreign(&error);
        let (elect, stopped) = (journal.elect().map_err(foreign)?, journal.stopped_io().map_err(foreign)?);
        let fenced = journal.fenced().map_err(foreign)?;
        self.warn(format!(
            "{} by {} ended half-way ({:?}, to {elect}); taking it over",
            journal.action, journal.who, journal.stage
        ));
        if !self.is_settled(&scene.declared, &journal, &elect).await {
            // A call of the dead run may still be under way: its limit has to pass.
            tokio::time::sleep(journal.calls_end_in()).await;
            *scene = Scene::new(Declared::read(self).await?, request)?;
        }
        let wanted =
            request.new_primary.as_ref().is_none_or(|named| *named == elect) && !request.ignore_replicas.contains(&elect);
        let look = self.look(&elect).await;
        let is_recorded = scene.declared.tablet_type(&elect) == TabletType::Primary;
        let is_promoted =
            journal.stage == Stage::Promoting && look.as_ref().is_ok_and(|look| look.recorded_primary && look.agrees);
        if is_promoted && wanted {
            let stopped = stopped.clone();
            self.lead_on(&scene.declared, &elect, How::Rewrite, stopped, request.wait_replicas_timeout, &journal).await?;
            return Ok(Left { finished: Some(elect), ..Left::default() });
        }
        let forward_only = journal.stage == Stage::Promoting && is_recorded;
        Ok(Left { finished: None, stopped, fenced, forward_only, journal: Some(journal) })
    }

    /// A new run refuses before it touches anything: what the dead one has left is put back as far as it can be.
    pub(super) async fn take_back_leftover(&mut self, scene: &mut Scene, left: Left, cause: ReparentError) -> ReparentError {
        let Some(journal) = left.journal else { return cause };
        let mut changed = Changed { forward_only: left.forward_only, ..Changed::default() };
        changed.repointed = left.stopped.clone();
        (changed.touched.stopped, changed.touched.fenced) = (left.stopped, left.fenced);
        if let Some(old) = scene.old_primary().cloned()
            && scene.tablets.get(&old).is_some_and(|testimony| testimony.reach == Reach::Seen)
            && !scene.writable.contains(&old)
        {
            // It answers, is the primary by every record, and is read-only: the dead run has demoted it.
            changed.touched.demoted.insert(old.clone());
            scene.writable.insert(old.clone());
            scene.learn(&old, |testimony| testimony.reach = Reach::Demoted);
        }
        self.put_back(scene, changed, &journal, cause).await
    }
}
