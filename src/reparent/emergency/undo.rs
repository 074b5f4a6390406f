//! Giving up before the point of no return: what was stopped runs again, and what cannot be put back is said.

use std::collections::{BTreeMap, BTreeSet};

use super::{Changed, scene::Scene};
use crate::{
    elect::Reach,
    reparent::{Aftermath, ReparentError, dba::SET_ONLINE, journal::Journal, run::Run},
    tablet::SetSource,
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
        let mut left = BTreeMap::new();
        if let Some(old) = scene.old_primary()
            && let Err(reason) = self.may_still_act(&scene.declared, old, false).await
        {
            left.insert(old.clone(), reason);
            return cause.after(Aftermath::Reverted { writable: None, restarted: BTreeSet::new(), left });
        }
        drop(std::mem::take(&mut changed.followers));
        let old = self.to_be_writable(scene, &changed, &mut left);
        let mut restarted = BTreeSet::new();
        for alias in &changed.touched.stopped {
            let Some(testimony) = scene.tablets.get(alias).filter(|testimony| testimony.was_replicating) else { continue };
            let result = match &old {
                Some(old) if changed.repointed.contains(alias) => self.point_back(scene, alias, old).await,
                _ => self.start_io(&scene.declared, [alias.clone()], None).await.map_err(|(_, reason)| reason),
            };
            match result {
                Ok(()) => {
                    restarted.insert(alias.clone());
                }
                Err(reason) if matches!(testimony.reach, Reach::Unreached(_)) => {
                    left.insert(alias.clone(), format!("it does not answer, and its replication may be stopped ({reason})"));
                }
                Err(reason) => {
                    left.insert(alias.clone(), format!("its replication is stopped ({reason})"));
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
            self.close(journal).await;
        }
        cause.after(Aftermath::Reverted { writable, restarted, left })
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
            self.dba(tablet, SET_ONLINE).await.map_err(|error| error.to_string())?;
        }
        self.make_writable_again(&scene.declared, old).await
    }

    async fn point_back(&self, scene: &Scene, alias: &TabletAlias, old: &TabletAlias) -> Result<(), String> {
        let Some(tablet) = scene.declared.tablet(alias) else { return Ok(()) };
        let set = SetSource {
            parent: old,
            time_created_ns: 0,
            force_start: true,
            wait_position: "",
            semi_sync: scene.declared.semi_sync_replica(old, alias),
            heartbeat_interval_s: 0.0,
        };
        let sent = self.hands.tablets.set_replication_source(tablet, set, self.short()).await;
        sent.map_err(|error| error.to_string())
    }
}
