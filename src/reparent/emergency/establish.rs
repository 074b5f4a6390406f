//! Before anything is promoted, enough tablets follow the elect to acknowledge its writes (safety rules, section 5).

use std::time::Duration;

use tokio::time::Instant;

use super::{Changed, apply_first, scene::Scene};
use crate::{
    durability::{Members, can_establish},
    elect::Chosen,
    reparent::run::Run,
    topo::TabletAlias,
};

impl Run {
    /// Points the ackers at the elect until enough have answered; the others go on meanwhile. `false` when too few can: what failed is
    /// known to the scene, and another look at it decides.
    pub(super) async fn establish(&mut self, scene: &mut Scene, chosen: &Chosen, changed: &mut Changed, wait: Duration) -> bool {
        let elect = &chosen.elect;
        let Ok(established) = &chosen.proof.established else { return true };
        // Pointed at somebody else before: that counts no more.
        changed.following.clear();
        changed.followers = Default::default();
        let deadline = Instant::now() + wait;
        let apply_first = apply_first(scene, elect);
        let (last, first): (Vec<_>, Vec<_>) = established.ackers.iter().partition(|alias| scene.is_demoted(alias));
        for ackers in [first, last] {
            for alias in ackers {
                // An old primary is touched only if the others do not suffice: as long as it is not, an undo is simple.
                if self.is_established(scene, elect, changed) {
                    break;
                }
                changed.repointed.insert(alias.clone());
                let force = scene.tablets.get(alias).is_some_and(|testimony| testimony.was_replicating);
                if let Some(mut follower) = self.follower(&scene.declared, elect, alias, force, deadline) {
                    follower.apply_first = apply_first.get(alias).cloned();
                    changed.followers.start(&self.hands.tasks, alias.clone(), follower);
                }
            }
            while !self.is_established(scene, elect, changed) {
                let Some((alias, answer)) = changed.followers.next().await else { break };
                match answer {
                    Ok(()) => {
                        changed.following.insert(alias);
                    }
                    Err(error) => {
                        self.warn(format!("{alias} cannot be pointed at {elect}: {error}"));
                        scene.learn(&alias, |testimony| testimony.follow_failed = Some(error.to_string()));
                    }
                }
            }
        }
        self.is_established(scene, elect, changed)
    }

    fn is_established(&self, scene: &Scene, elect: &TabletAlias, changed: &Changed) -> bool {
        let reached: Members =
            changed.following.iter().chain([elect]).map(|alias| (alias.clone(), scene.declared.tablet_type(alias))).collect();
        can_establish(&*scene.declared.policy, &scene.declared.member(elect), &reached).is_ok()
    }
}
