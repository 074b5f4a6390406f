//! Giving up before the point of no return: what was stopped runs again, and what cannot be put back is said.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::{Changed, scene::Scene};
use crate::{
    elect::{Reach, Testimony},
    reparent::{Aftermath, ReparentError, journal::Journal, run::Run},
    topo::TabletAlias,
};

impl Run {
    /// Puts everything back because of `cause`; the error says what came of it.
    pub(super) async fn put_back(
        &mut self,
        scene: &Scene,
        mut changed: Changed,
        journal: &Journal,
        cause: ReparentError,
    ) -> ReparentError {
        self.warn(format!("{cause}; putting back what was stopped"));
        self.given_up.cancel();
        changed.touched.too_late.cancel();
        drop(std::mem::take(&mut changed.followers));
        if let Err(reason) = self.may_put_back(scene, &changed, journal, &cause).await {
            return cause.after(Aftermath::LeftToTheNext { reason });
        }
        let mut left = BTreeMap::new();
        let old = self.to_be_writable(scene, &changed, &mut left);
        let mut restarted = BTreeSet::new();
        let stopped = changed.touched.stopped.iter().filter(|alias| {
            // Whoever was idle before stays idle; of whom nobody knows, replication may be stopped now.
            let idle = |testimony: &&Testimony| !testimony.was_replicating && !matches!(testimony.reach, Reach::Unreached(_));
            scene.tablets.get(*alias).filter(idle).is_none()
        });
        let run = &*self;
        let started = stopped.map(|alias| async {
            let repointed = changed.repointed.contains(alias);
            (alias.clone(), run.replicate_again(scene, alias, old.as_ref(), repointed).await)
        });
        for (alias, result) in join_all(started).await {
            match result {
                Ok(()) => {
                    restarted.insert(alias);
                }
                Err(reason) => {
                    left.insert(alias, reason);
                }
            }
        }
        let mut writable = None;
        if let Some(old) = old {
            match self.reopen(scene, &old, &changed).await {
                Ok(()) => writable = Some(old),
                Err(reason) => {
                    left.insert(old, format!("it is read-only ({reason})"));
                }
            }
        }
        if left.is_empty() {
            self.close(&journal.leaving_nothing()).await;
        }
        cause.after(Aftermath::Reverted { writable, restarted, left })
    }

    /// Whether putting back is ours to do, and certain to be what the journal says.
    async fn may_put_back(
        &mut self,
        scene: &Scene,
        changed: &Changed,
        journal: &Journal,
        cause: &ReparentError,
    ) -> Result<(), String> {
        if changed.forward_only {
            return Err("an earlier run may have promoted its elect, which does not answer".to_owned());
        }
        if let Some(old) = scene.old_primary() {
            self.may_still_act(&scene.declared, old, false).await?;
        }
        self.take_back_intent(journal, cause).await
    }

    /// Lets a replica that we stopped receive again, from whom it did before.
    async fn replicate_again(
        &self,
        scene: &Scene,
        alias: &TabletAlias,
        old: Option<&TabletAlias>,
        repointed: bool,
    ) -> Result<(), String> {
        let Some(tablet) = scene.declared.tablet(alias) else { return Ok(()) };
        self.ended(alias).await;
        match old {
            Some(old) if repointed => self.point_back(scene, alias, old).await,
            _ => {
                let started = self.start_io_of(tablet).await;
                started.map_err(|error| format!("its replication may be stopped ({error})"))?;
                match repointed {
                    true => Err("it may follow a tablet that was not promoted after all".to_owned()),
                    false => Ok(()),
                }
            }
        }
    }

    /// The one tablet that was writable before, is demoted for certain now, and is what the records say is the primary. With two of them
    /// nobody knows which one was right, and both stay as they are.
    fn to_be_writable(&self, scene: &Scene, changed: &Changed, left: &mut BTreeMap<TabletAlias, String>) -> Option<TabletAlias> {
        let mut candidates = Vec::new();
        for alias in changed.touched.demoted.intersection(&scene.writable) {
            match scene.tablets.get(alias).map(|testimony| &testimony.reach) {
                Some(Reach::Demoted) => candidates.push(alias.clone()),
                _ => {
                    left.insert(alias.clone(), "its demotion was sent and has not answered".to_owned());
                }
            }
        }
        match candidates.as_slice() {
            [one] if scene.old_primary() == Some(one) => Some(one.clone()),
            several => {
                for alias in several {
                    left.insert(alias.clone(), "it is read-only: whether it is the primary is not clear".to_owned());
                }
                None
            }
        }
    }

    async fn reopen(&mut self, scene: &Scene, old: &TabletAlias, changed: &Changed) -> Result<(), String> {
        if changed.touched.fenced.contains(old)
            && let Some(tablet) = scene.declared.tablet(old)
        {
            self.let_in(old, tablet).await?;
        }
        self.make_writable_again(&scene.declared, old).await
    }

    async fn point_back(&self, scene: &Scene, alias: &TabletAlias, old: &TabletAlias) -> Result<(), String> {
        let Some(tablet) = scene.declared.tablet(alias) else { return Ok(()) };
        self.point(&scene.declared, tablet, alias, old, self.short()).await.map_err(|error| error.to_string())
    }
}
