//! The emergency reparent: the old primary is gone, stuck or cut off (safety rules, sections 1 to 6).

mod apply;
mod decide;
mod establish;
mod fence;
mod leftover;
mod scene;
mod stop;
mod survey;
mod undo;

use std::collections::{BTreeMap, BTreeSet};

use tokio::{task::JoinHandle, time::Instant};

use self::{scene::Scene, stop::Touched};
use super::{
    Branch, Edge, Emergency, Promoted, ReparentError, Step,
    declared::Declared,
    fitness,
    journal::{Journal, Stage},
    lead::{Failed, Followers, How, Lead},
    resume::term_ns,
    run::Run,
};
use crate::{
    elect::{Chosen, EmergencyRejection, NoPromotion, Testimony},
    topo::TabletAlias,
};

/// What the reparent journal and the lock say is done; Vitess writes the same words.
pub(super) const ACTION: &str = "EmergencyReparentShard";

/// The whole operation, from the lock to the lock.
pub(super) async fn emergency(run: &mut Run, request: Emergency) -> Result<Promoted, ReparentError> {
    let action = request.new_primary.as_ref().map_or_else(|| ACTION.to_owned(), |named| format!("{ACTION}({named})"));
    run.lock(action).await?;
    let result = run.emergency_under_lock(&request).await;
    run.unlock().await;
    result
}

/// What would be done, and why; nothing but reads.
pub(super) async fn preview(run: &mut Run, request: &Emergency) -> Result<Promoted, ReparentError> {
    let declared = Declared::read(run).await?;
    declared.check_expected(request.expected_primary.as_ref())?;
    let mut scene = Scene::new(declared, request)?;
    run.survey(&mut scene, request.wait_for_all_tablets).await;
    let chosen = scene.forecast(run.hands.fence.is_some());
    run.decision = Some(decide::decision(&scene, &chosen, None));
    let chosen = chosen?;
    Ok(Promoted { branch: Branch::Emergency, primary: chosen.elect, old_primary: scene.old_primary().cloned() })
}

/// The closer look at the tablet that will probably be elected, while the others are stopped.
struct ReadAhead {
    of: TabletAlias,
    task: JoinHandle<fitness::Reading>,
}

/// What may still have to be put back, or is to be taken over by the promotion.
#[derive(Default)]
struct Changed {
    touched: Touched,
    /// Tablets pointed at the elect already, or on their way.
    followers: Followers,
    /// Those of them that have answered.
    following: BTreeSet<TabletAlias>,
    /// A run before this one may have promoted its elect: nothing is put back.
    forward_only: bool,
    /// Tablets that were pointed at another one than the old primary.
    repointed: BTreeSet<TabletAlias>,
}

impl Run {
    pub(super) async fn emergency_under_lock(&mut self, request: &Emergency) -> Result<Promoted, ReparentError> {
        self.edge(Step::Survey, Edge::Before).await;
        let journal = self.reading_journal();
        let (declared, journal) = tokio::join!(Declared::read(self), journal);
        let declared = declared?;
        declared.check_expected(request.expected_primary.as_ref())?;
        let mut scene = Scene::new(declared, request)?;
        let left = self.left_behind(&mut scene, journal?, request).await?;
        if let Some(primary) = left.finished {
            let old_primary = scene.declared.primary;
            return Ok(Promoted { branch: Branch::Partial, primary, old_primary });
        }
        let asked_at = Instant::now();
        self.survey(&mut scene, request.wait_for_all_tablets).await;
        for alias in &left.stopped {
            // The run that stopped it is dead; before, it ran.
            scene.learn(alias, |testimony| testimony.was_replicating = true);
        }
        let forecast = match scene
            .forecast(self.hands.fence.is_some())
            .map_err(|none| (none.pending().and_then(BTreeSet::first).cloned(), none))
        {
            Ok(forecast) => forecast.elect,
            // It has to apply what it received before anything can be said; that it may do.
            Err((Some(pending), _)) => pending,
            Err((None, none)) => {
                self.decision = Some(decide::decision(&scene, &Err(none.clone()), None));
                return Err(self.take_back_leftover(&mut scene, left, none.into()).await);
            }
        };
        let old_primary = scene.old_primary().cloned();
        let old = old_primary.as_ref().map(|old| (old, term_ns(&scene.declared, old)));
        let mut journal = self.journal(Stage::Demoting, &forecast, old);
        journal.stopped_io = scene.may_stop().union(&left.stopped).map(ToString::to_string).collect();
        let may_fence = scene.asked().map(|(alias, _)| alias).filter(|alias| scene.acts_as_primary(alias));
        journal.fenced = may_fence.chain(&left.fenced).map(ToString::to_string).collect();
        self.edge(Step::Survey, Edge::After).await;
        self.intend(Step::Stop, &journal).await?;
        self.edge(Step::Stop, Edge::Before).await;
        self.demoted_at = Some(asked_at);
        let mut changed = Changed::default();
        changed.touched.stopped.extend(left.stopped);
        changed.touched.fenced.extend(left.fenced);
        changed.forward_only = left.forward_only;
        let reading = self.read_fitness(&scene.declared, &forecast);
        self.stop_everybody(&mut scene, &mut changed.touched, request.wait_for_all_tablets, asked_at).await;
        self.edge(Step::Stop, Edge::After).await;
        match self.prepare(&mut scene, request, &mut changed, &mut journal, reading).await {
            Ok(chosen) => self.promote_chosen(&scene, request, changed, journal, chosen).await,
            Err(error) => {
                if let ReparentError::NoPromotion(none) = &error {
                    self.decision = Some(decide::decision(&scene, &Err((**none).clone()), None));
                }
                Err(self.put_back(&scene, changed, &journal, error).await)
            }
        }
    }

    fn read_fitness(&self, declared: &Declared, elect: &TabletAlias) -> ReadAhead {
        let (tablets, call) = (self.hands.tablets.clone(), self.short());
        let tablet = declared.tablet(elect).cloned().unwrap_or_default();
        let task = self.hands.tasks.spawn(async move { fitness::read(&*tablets, &tablet, call).await });
        ReadAhead { of: elect.clone(), task }
    }

    /// Everything between the stop and the point of no return: who it is, that it holds everything, that it is fit, that it will be
    /// acknowledged, and the intent.
    async fn prepare(
        &mut self,
        scene: &mut Scene,
        request: &Emergency,
        changed: &mut Changed,
        journal: &mut Journal,
        reading: ReadAhead,
    ) -> Result<Chosen, ReparentError> {
        self.edge(Step::Apply, Edge::Before).await;
        let mut reading = Some(reading);
        let mut fit = BTreeSet::new();
        let chosen = loop {
            let chosen = self.make_complete(scene, &mut changed.repointed, request.wait_replicas_timeout).await?;
            if !fit.contains(&chosen.elect) {
                let checked = match reading.take().filter(|reading| reading.of == chosen.elect) {
                    Some(ReadAhead { task, .. }) => match task.await {
                        Ok(reading) => self.judge_fitness(&scene.declared, &chosen.elect, reading).await,
                        Err(_) => self.check_fitness(&scene.declared, &chosen.elect).await,
                    },
                    None => self.check_fitness(&scene.declared, &chosen.elect).await,
                };
                match checked {
                    Err(ReparentError::Unfit { elect, reason }) => {
                        self.warn(format!("{elect} must not become primary: {reason}"));
                        scene.learn(&elect, |testimony| testimony.unfit = Some(reason));
                        continue;
                    }
                    other => other?,
                }
                fit.insert(chosen.elect.clone());
            }
            if self.establish(scene, &chosen, changed, request.wait_replicas_timeout).await {
                break chosen;
            }
        };
        self.edge(Step::Apply, Edge::After).await;
        if self.cancel.is_cancelled() {
            return Err(ReparentError::Cancelled { elect: chosen.elect });
        }
        journal.elect = chosen.elect.to_string();
        journal.fenced = changed.touched.fenced.iter().map(ToString::to_string).collect();
        self.intend(Step::Promote, &journal.at(Stage::Promoting)).await?;
        Ok(chosen)
    }

    /// From here on there is only forward.
    async fn promote_chosen(
        &mut self,
        scene: &Scene,
        request: &Emergency,
        changed: Changed,
        journal: Journal,
        chosen: Chosen,
    ) -> Result<Promoted, ReparentError> {
        self.decision = Some(decide::decision(scene, &Ok(chosen.clone()), Some(self.is_locked())));
        for caveat in decide::caveats(&chosen) {
            self.warn(caveat);
        }
        for (alias, why) in chosen.rejected.iter().filter(|(_, why)| **why != EmergencyRejection::NotNamed) {
            self.say(format!("{alias} was not elected: {why}"));
        }
        for (alias, errant) in &chosen.errant {
            self.warn(format!("{alias} has errant transactions and will not follow: {errant}"));
        }
        self.say(format!(
            "elected {} (emergency, policy {}); {}",
            chosen.elect,
            scene.declared.policy.name(),
            decide::because(&chosen)
        ));
        let stragglers: BTreeSet<_> = scene.declared.tablets.keys().filter(|alias| !scene.is_reached(alias)).cloned().collect();
        let ran = |alias: &TabletAlias| scene.tablets.get(alias).is_some_and(|testimony| testimony.was_replicating);
        let force = scene.declared.tablets.keys().filter(|alias| ran(alias)).cloned().collect();
        changed.touched.too_late.cancel();
        let fenced = changed.touched.fenced;
        let lead = Lead {
            stragglers: stragglers.clone(),
            cut_off: changed.touched.cut_off,
            left_alone: scene.wish.ignored.clone(),
            followers: changed.followers,
            following: changed.following,
            not_established: chosen.proof.established.is_err(),
            apply_first: apply_first(scene, &chosen.elect),
            tolerant: true,
            bystanders: scene.declared.tablets.keys().cloned().collect(),
            force,
            ..Lead::new(&scene.declared, &chosen.elect, How::Promote, request.wait_replicas_timeout, ACTION)
        };
        let result = match self.lead(lead).await {
            Ok(()) => Ok(()),
            Err(Failed::Standing(error @ ReparentError::ReplicasFailed { .. })) => Err(error),
            Err(Failed::Standing(error)) => return Err(error),
            Err(Failed::NotPromoted { error, .. }) => return Err(self.say_what_is(&chosen.elect, error).await),
        };
        self.edge(Step::Follow, Edge::After).await;
        self.wait_for_shard_record(&chosen.elect).await;
        self.edge(Step::Finish, Edge::Before).await;
        let fenced = self.lift_those_that_follow(scene, &chosen.elect, &fenced, &stragglers).await;
        // Those who could not be told are not forgotten: whoever comes next sees to them.
        self.close(&journal.leaving(&fenced, &stragglers)).await;
        self.edge(Step::Finish, Edge::After).await;
        result?;
        let old_primary = scene.old_primary().cloned();
        Ok(Promoted { branch: Branch::Emergency, primary: chosen.elect, old_primary })
    }

    /// Lifts the fences of tablets that answered; the others are the duty of whoever sees them follow.
    async fn lift_those_that_follow(
        &mut self,
        scene: &Scene,
        elect: &TabletAlias,
        fenced: &BTreeSet<TabletAlias>,
        stragglers: &BTreeSet<TabletAlias>,
    ) -> BTreeSet<TabletAlias> {
        let mut left = fenced.clone();
        for alias in fenced.difference(stragglers) {
            let Some(tablet) = scene.declared.tablet(alias) else { continue };
            // The elect may have been fenced by an earlier run, as the old primary of that one: now it is not to be made read-only.
            let lifted = if alias == elect { self.let_in(alias, tablet).await } else { self.lift(alias, tablet).await };
            match lifted {
                Ok(()) => {
                    left.remove(alias);
                }
                Err(error) => self.warn(format!("the clients of {alias} are still cut off (offline_mode): {error}")),
            }
        }
        left
    }
}

/// With more than one acknowledgement a transaction may be on two tablets only, and the change of source throws an unapplied relay log
/// away: whoever has one applies it first. With a single acknowledgement the elect has all of it.
fn apply_first(scene: &Scene, elect: &TabletAlias) -> BTreeMap<TabletAlias, String> {
    if scene.declared.policy.acks_needed(&scene.declared.member(elect)) < 2 {
        return BTreeMap::new();
    }
    let is_behind = |testimony: &&Testimony| testimony.is_replica && !testimony.executed.contains(&testimony.received);
    let behind = scene.tablets.iter().filter_map(|(alias, testimony)| Some((alias, Some(testimony).filter(is_behind)?)));
    behind.map(|(alias, testimony)| (alias.clone(), testimony.received.encode())).collect()
}

impl From<NoPromotion> for ReparentError {
    fn from(none: NoPromotion) -> Self {
        Self::NoPromotion(Box::new(none))
    }
}
