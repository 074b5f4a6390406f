//! Taking the old primary its power to commit: demoted first, fenced where it does not answer, its ackers proven stopped (safety rules,
//! sections 2 and 3).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    fence::{Sent, SentDirectly},
    scene::{Scene, is_io_stopped, is_replicating, read_status},
    survey::{Asked, GRACE, collect},
};
use crate::{
    elect::Reach,
    mysql::Position,
    pb::{
        replicationdata::{PrimaryStatus, Status, StopReplicationMode},
        topodata::Tablet,
    },
    reparent::{dba::STOP_IO, run::Run},
    shard::FailureClass,
    tablet::{Call, TabletError, TabletErrorKind, TabletManager, commits_wait},
    topo::TabletAlias,
};

/// How long an old primary's demotion is waited for, counted from the first question that it was asked; with the head start of its fence
/// 400 ms. It is never cancelled.
const DEMOTION_PATIENCE: Duration = Duration::from_millis(370);
/// The same of one that has not answered the first question: only to hear whether it lives after all and nothing hangs there.
const SILENT_PATIENCE: Duration = Duration::from_millis(150);
/// How long a fence is waited for; that it is set is proven only by its answer.
const FENCE_PATIENCE: Duration = Duration::from_millis(100);

/// How long those are waited for who answered a moment ago, once enough is known: they may hold what nobody else has.
const GRACE_OF_THE_LIVING: Duration = Duration::from_millis(500);
/// How long the replicas are left running for a fence to be first.
const FENCE_HEAD_START: Duration = Duration::from_millis(30);

/// What a tablet did when it was to be stopped.
enum Stopped {
    Replica(Box<(Status, Status)>),
    Demoted(PrimaryStatus),
    Failed(TabletError),
    /// The IO thread does not stop.
    StillRuns(String),
}

/// A demotion that is under way.
type Demotion = JoinHandle<Result<PrimaryStatus, TabletError>>;

/// A demotion that was ordered.
struct Order {
    alias: TabletAlias,
    /// How long it is waited for ...
    limit: Instant,
    /// ... and longer, once this is cancelled: see [`First`].
    is_well: CancellationToken,
    demotion: Demotion,
}

/// A fence that is under way.
enum Fencing {
    Tablet(Sent),
    Directly(SentDirectly),
    /// How it ended.
    Ended(bool),
}

impl Fencing {
    /// Waits for it until then.
    async fn wait(&mut self, end: Instant) {
        let done = match self {
            Self::Tablet(sent) => timeout_at(end, sent).await.ok().map(|answer| matches!(answer, Ok(true))),
            Self::Directly(sent) => timeout_at(end, sent).await.ok().map(|answer| matches!(answer, Ok(Ok(_)))),
            Self::Ended(_) => None,
        };
        if let Some(done) = done {
            *self = Self::Ended(done);
        }
    }
}

/// What was sent and must be known of later.
#[derive(Default)]
pub(super) struct Touched {
    /// Tablets that were sent a demotion.
    pub demoted: BTreeSet<TabletAlias>,
    /// Tablets that were sent `offline_mode`: whoever sees them follow the new primary lifts it.
    pub fenced: BTreeSet<TabletAlias>,
    /// The same of this run, each with what is cancelled when its clients are thrown out.
    pub cut_off: BTreeMap<TabletAlias, CancellationToken>,
    /// Cancelled when the promotion begins: a demotion that still waits for its server is not sent any more.
    pub too_late: CancellationToken,
    /// Replicas whose IO thread may be stopped now.
    pub stopped: BTreeSet<TabletAlias>,
}

impl Touched {
    /// This tablet's clients are about to be thrown out: what says so when it is done.
    fn cutting_off(&mut self, alias: &TabletAlias) -> &CancellationToken {
        self.fenced.insert(alias.clone());
        self.cut_off.entry(alias.clone()).or_default()
    }
}

/// What has to come before the demotion of a primary that is silent. Commits may hang there, and a forced demotion ends them: a client
/// that is still there would be told that they are committed.
struct First {
    /// Its clients are thrown out ...
    cut_off: CancellationToken,
    /// ... or it says that nothing hangs, before anybody is stopped who could acknowledge. `None` = they are being thrown out already.
    well_until: Option<Instant>,
    /// Cancelled when it has said so.
    is_well: CancellationToken,
    /// Nobody needs it any more: who is thrown out and read-only will be told to follow.
    too_late: CancellationToken,
}

impl First {
    async fn comes(
        self,
        tablets: &dyn TabletManager,
        (alias, tablet): (&TabletAlias, &Tablet),
        call: Call,
    ) -> Result<(), TabletError> {
        let not_sent = || Err(TabletError::not_sent(alias.clone(), "DemotePrimary"));
        let end = Instant::now() + call.timeout;
        if let Some(until) = self.well_until {
            let asked = tokio::select! {
                biased;
                () = self.cut_off.cancelled() => return Ok(()),
                asked = timeout_at(until, commits_wait(tablets, tablet, call)) => asked,
            };
            match asked {
                Ok(Ok(Some(false))) => {
                    self.is_well.cancel();
                    return Ok(());
                }
                Ok(Err(error)) if error.lost == Some(FailureClass::Refused) => return Err(error),
                _ => {}
            }
        }
        tokio::select! {
            biased;
            () = self.cut_off.cancelled() => Ok(()),
            () = self.too_late.cancelled() => not_sent(),
            () = sleep_until(end) => not_sent(),
        }
    }
}

impl Run {
    /// Demotes whoever acts as a primary, then stops the replicas. What is proven thereafter stands in the scene.
    pub(super) async fn stop_everybody(&mut self, scene: &mut Scene, touched: &mut Touched, all: bool, asked_at: Instant) {
        let primaries: Vec<_> = scene.asked().filter(|(alias, _)| scene.acts_as_primary(alias)).collect();
        let primaries: Vec<_> = primaries.into_iter().map(|(alias, tablet)| (alias.clone(), tablet.clone())).collect();
        let mut fences = Vec::new();
        for (alias, tablet) in &primaries {
            let hang = scene.commits_hang(alias) && !scene.is_gone(alias);
            if hang {
                self.warn(format!("nobody acknowledges what {alias} commits; its clients are cut off before it is demoted"));
            }
            if hang || (scene.is_proven_dead(alias) && !scene.mysqld_down.contains(alias)) {
                self.fence_by_all_ways(touched, alias, tablet, &mut fences);
            }
        }
        let patience = if all { Instant::now() + self.remote() } else { asked_at + DEMOTION_PATIENCE };
        let orders: Vec<_> = primaries.iter().map(|primary| self.order(scene, touched, primary, all, patience)).collect();
        for (alias, _) in &primaries {
            // Until it answers it proves nothing, whatever it said before.
            scene.unreached(alias, "its demotion has not answered yet".to_owned());
        }
        touched.demoted.extend(primaries.iter().map(|(alias, _)| alias.clone()));
        let mut late = Vec::new();
        for Order { alias, limit, is_well, mut demotion } in orders {
            let mut answer = timeout_at(limit, &mut demotion).await;
            if answer.is_err() && is_well.is_cancelled() {
                answer = timeout_at(patience, &mut demotion).await;
            }
            match answer {
                Ok(answer) => self.demoted(scene, &alias, answer.ok()),
                Err(_) => late.push((alias, demotion)),
            }
        }
        self.fence_the_silent(scene, touched, &primaries, &late, &mut fences);
        // Once the ackers are stopped commits hang, and a demotion under way would end that by telling clients that they are committed.
        let before_that = Instant::now() + FENCE_HEAD_START;
        for (_, fence) in &mut fences {
            fence.wait(before_that).await;
        }
        self.stop_replicas(scene, touched, all).await;
        self.last_words(scene, late, fences).await;
    }

    /// Orders a primary to become read-only, when it is time to.
    fn order(
        &self,
        scene: &Scene,
        touched: &mut Touched,
        (alias, tablet): &(TabletAlias, Tablet),
        all: bool,
        patience: Instant,
    ) -> Order {
        let silent = !scene.is_reached(alias) && !scene.mysqld_down.contains(alias);
        let limit = match silent {
            _ if all => patience,
            // A server that is gone has nothing to be waited for: its demotion fails while the others are stopped.
            _ if scene.is_gone(alias) => Instant::now() + FENCE_PATIENCE,
            true => Instant::now() + SILENT_PATIENCE,
            false => patience,
        };
        let is_fenced = touched.cut_off.contains_key(alias);
        let is_well = CancellationToken::new();
        let first = (silent || is_fenced).then(|| First {
            cut_off: touched.cut_off.entry(alias.clone()).or_default().clone(),
            well_until: (!is_fenced).then_some(limit),
            is_well: is_well.clone(),
            too_late: touched.too_late.clone(),
        });
        Order { alias: alias.clone(), limit, is_well, demotion: self.send_forced_demotion(alias, tablet, first) }
    }

    /// A demotion in a task that outlives the step: cut off half-way, a vttablet reopens its query service with semi-sync off.
    fn send_forced_demotion(&self, alias: &TabletAlias, tablet: &Tablet, first: Option<First>) -> Demotion {
        let (tablets, call, alias, tablet) = (self.hands.tablets.clone(), self.short(), alias.clone(), tablet.clone());
        self.hands.tasks.spawn(async move {
            if let Some(first) = first {
                first.comes(&*tablets, (&alias, &tablet), call).await?;
            }
            tablets.demote_primary(&tablet, true, call).await
        })
    }

    fn demoted(&mut self, scene: &mut Scene, alias: &TabletAlias, answer: Option<Result<PrimaryStatus, TabletError>>) {
        let Some(answer) = answer else { return };
        match answer.map(|status| (Position::decode(&status.position), status)) {
            Ok((Ok(position), status)) => {
                self.say(format!("{alias} is demoted at {}", status.position));
                scene.learn(alias, |testimony| {
                    testimony.reach = Reach::Demoted;
                    testimony.server_uuid = status.server_uuid.parse().ok().or(testimony.server_uuid);
                    if !testimony.is_replica {
                        (testimony.received, testimony.executed) = (position.clone(), position);
                    }
                });
            }
            Ok((Err(error), _)) => self.lost_sight(scene, alias, format!("its position cannot be understood: {error}")),
            Err(error) => self.lost_sight(scene, alias, error.to_string()),
        }
    }

    fn lost_sight(&mut self, scene: &mut Scene, alias: &TabletAlias, reason: String) {
        self.warn(format!("{alias} is not demoted: {reason}"));
        scene.unreached(alias, reason);
    }

    /// Those who are not demoted in time are cut off from their clients. The statement goes out before the promotion and stays queued,
    /// so that a frozen server does it first of all when it thaws.
    fn fence_the_silent(
        &mut self,
        scene: &mut Scene,
        touched: &mut Touched,
        primaries: &[(TabletAlias, Tablet)],
        late: &[(TabletAlias, Demotion)],
        fences: &mut Vec<(TabletAlias, Fencing)>,
    ) {
        for (alias, tablet) in
            primaries.iter().filter(|(alias, _)| !scene.is_demoted(alias) && !scene.mysqld_down.contains(alias))
        {
            if late.iter().any(|(late, _)| late == alias) {
                self.warn(format!("{alias} has not answered its demotion in time; fencing it"));
            }
            if !fences.iter().any(|(fenced, _)| fenced == alias) {
                self.fence_by_all_ways(touched, alias, tablet, fences);
            }
        }
        for (alias, _) in late {
            scene.unreached(alias, "its demotion has not answered yet, which proves nothing".to_owned());
        }
    }

    fn fence_by_all_ways(
        &mut self,
        touched: &mut Touched,
        alias: &TabletAlias,
        tablet: &Tablet,
        fences: &mut Vec<(TabletAlias, Fencing)>,
    ) {
        let cut_off = touched.cutting_off(alias);
        fences.push((alias.clone(), Fencing::Tablet(self.fence(alias, tablet, cut_off))));
        fences.extend(self.fence_directly(alias, tablet, cut_off).map(|fence| (alias.clone(), Fencing::Directly(fence))));
    }

    /// Looks a last time at what had not answered: meanwhile the replicas were stopped.
    async fn last_words(&mut self, scene: &mut Scene, late: Vec<(TabletAlias, Demotion)>, fences: Vec<(TabletAlias, Fencing)>) {
        let limit = Instant::now() + FENCE_PATIENCE;
        for (alias, mut fence) in fences {
            // Where the proof does without it nobody waits.
            let end = if scene.elect().is_ok() { Instant::now() } else { limit };
            fence.wait(end).await;
            if matches!(fence, Fencing::Ended(true)) && !scene.is_demoted(&alias) {
                self.say(format!("{alias} is fenced: it accepts no client any more"));
                scene.learn(&alias, |testimony| testimony.reach = Reach::Fenced);
            }
        }
        for (alias, demotion) in late {
            if let Some(answer) = demotion.now_or_never() {
                self.demoted(scene, &alias, answer.ok());
            }
        }
    }

    async fn stop_replicas(&mut self, scene: &mut Scene, touched: &mut Touched, all: bool) {
        // One that refused the connection a moment ago is not asked again: if it could acknowledge anything, the proof does without it.
        let is_replica =
            |alias: &TabletAlias| !scene.deaf.contains(alias) && (!touched.demoted.contains(alias) || scene.is_replica(alias));
        let replicas: Vec<_> = scene.asked().filter(|(alias, _)| is_replica(alias)).collect();
        let replicas: Vec<_> = replicas.into_iter().map(|(alias, tablet)| (alias.clone(), tablet.clone())).collect();
        let mut alive = BTreeSet::new();
        let mut calls: Vec<Asked<'_, Stopped>> = Vec::new();
        for (alias, tablet) in replicas {
            if scene.is_reached(&alias) {
                alive.insert(alias.clone());
            }
            touched.stopped.insert(alias.clone());
            if !scene.is_demoted(&alias) {
                // What it said before does not prove that it is stopped.
                scene.unreached(&alias, "its stop has not answered yet".to_owned());
            }
            let (tablets, call, under_way) = (self.hands.tablets.clone(), self.short(), self.begin(&alias));
            // In a task of its own: a stop that was sent and is not waited for must not be cut off half-way.
            let task = self.hands.tasks.spawn(async move {
                let stopped = stop(&*tablets, &tablet, call).await;
                drop(under_way);
                stopped
            });
            let answer = async move { (alias, task.await.unwrap_or_else(|error| Stopped::StillRuns(error.to_string()))) };
            calls.push(answer.boxed());
        }
        let mut said = Vec::new();
        collect(calls, |alias, stopped| {
            if let Some(line) = hear(scene, touched, &alias, stopped) {
                said.push(line);
            }
            alive.remove(&alias);
            let grace = if alive.is_empty() { GRACE } else { GRACE_OF_THE_LIVING };
            (!all && scene.is_enough()).then_some(grace)
        })
        .await;
        for line in said {
            self.warn(line);
        }
    }
}

/// Takes in what became of a stop; a line where it did not succeed.
fn hear(scene: &mut Scene, touched: &mut Touched, alias: &TabletAlias, stopped: Stopped) -> Option<String> {
    let reason = match stopped {
        Stopped::Replica(statuses) => {
            let (before, after) = *statuses;
            let mut read = Ok(());
            scene.learn(alias, |testimony| {
                testimony.was_replicating |= is_replicating(&before);
                testimony.backup_running |= before.backup_running;
                read = read_status(testimony, &after);
                testimony.reach = if testimony.reach == Reach::Demoted { Reach::Demoted } else { Reach::Stopped };
            });
            match read {
                Ok(()) => return None,
                Err(error) => format!("its position cannot be understood: {error}"),
            }
        }
        Stopped::Demoted(status) => match Position::decode(&status.position) {
            Ok(position) => {
                touched.demoted.insert(alias.clone());
                touched.stopped.remove(alias);
                scene.learn(alias, |testimony| {
                    testimony.reach = Reach::Demoted;
                    testimony.is_replica = false;
                    (testimony.received, testimony.executed) = (position.clone(), position);
                });
                return None;
            }
            Err(error) => format!("its position cannot be understood: {error}"),
        },
        Stopped::Failed(error) => error.to_string(),
        Stopped::StillRuns(reason) => reason,
    };
    let line = format!("{alias} was not stopped: {reason}");
    scene.unreached(alias, reason);
    Some(line)
}

/// Stops a replica's IO thread and sees that it is stopped. A vttablet leaves one that is connecting with an error as it is, and answers
/// that all is well; such a thread connects as soon as the old primary is back.
async fn stop(tablets: &dyn TabletManager, tablet: &Tablet, call: Call) -> Stopped {
    let answer = tablets.stop_replication_and_get_status(tablet, StopReplicationMode::Iothreadonly, call).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.kind == TabletErrorKind::NotReplica => {
            return match tablets.demote_primary(tablet, true, call).await {
                Ok(status) => Stopped::Demoted(status),
                Err(error) => Stopped::Failed(error),
            };
        }
        Err(error) => return Stopped::Failed(error),
    };
    let before = answer.before.clone().or_else(|| answer.after.clone()).unwrap_or_default();
    if let Some(after) = answer.after.filter(is_io_stopped) {
        return Stopped::Replica(Box::new((before, after)));
    }
    let stopped = match tablets.execute_fetch_as_dba(tablet, STOP_IO, 1, call).await {
        Ok(_) => Ok(()),
        Err(_) => tablets.stop_replication(tablet, call).await,
    };
    if let Err(error) = stopped {
        return Stopped::Failed(error);
    }
    match tablets.replication_status(tablet, call).await {
        Ok(after) if is_io_stopped(&after) => Stopped::Replica(Box::new((before, after))),
        Ok(_) => Stopped::StillRuns("its IO thread runs after it was stopped".to_owned()),
        Err(error) => Stopped::Failed(error),
    }
}
