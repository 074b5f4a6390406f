//! Asking tablets: on a rhythm, and all of a shard at once when something happens. The dead are never in the way of the living.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{SenseSettings, bucket::Bucket, rhythm::Rhythm, shard::Shard};
use crate::{
    metrics::Metrics,
    mysql::probe::DirectMysql,
    pb::topodata::Tablet,
    shard::FailureClass,
    tablet::{self, Call, TabletErrorKind, TabletManager},
    topo::TabletAlias,
};

/// Longest limit of one question: what comes later is no news.
const ASK_LIMIT_MAX: Duration = Duration::from_secs(3);
/// Shortest one: less is the network's doing.
const ASK_LIMIT_MIN: Duration = Duration::from_millis(500);
/// Regular questions under way to tablets that do not answer: each takes its whole limit, and a connection attempt.
const DOUBTFUL_MAX: usize = 512;
/// Emergency questions that the whole fleet may be asked at once, and how fast more are allowed.
const EMERGENCY_BURST: u32 = 2000;
const EMERGENCY_PER_SECOND: u32 = 2000;
/// With so many recoveries under way at a time everybody is asked for his status half as often: they need the processor more. What proves
/// that a primary lives is asked as ever.
const RECOVERIES_BUSY: usize = 32;
/// A limit that passes is noticed within that time by a process that runs.
const NOTICED_WITHIN: Duration = Duration::from_millis(250);
/// How long after its replicas a primary is asked, so that one answer of it serves them all; with short periods a quarter of them.
const PRIMARY_LATER_MAX: Duration = Duration::from_millis(200);

/// Whether a server refuses its clients: nothing that `FullStatus` shows.
const OFFLINE_MODE: &str = "SELECT @@global.offline_mode";

/// What every sensor works with.
pub(super) struct World {
    pub tablets: Arc<dyn TabletManager>,
    pub metrics: Arc<Metrics>,
    pub settings: SenseSettings,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// From when the times of looks are counted.
    pub epoch: Instant,
    /// Connections of our own to MySQL servers, where there is an account.
    pub direct: Option<Arc<dyn DirectMysql>>,
    /// How many primaries are watched.
    pub primaries: AtomicUsize,
    /// How many recoveries are under way.
    pub recoveries: AtomicUsize,
    bucket: Bucket,
    liveness: Bucket,
    doubtful: Semaphore,
}

impl World {
    pub fn new(
        tablets: Arc<dyn TabletManager>,
        direct: Option<Arc<dyn DirectMysql>>,
        metrics: Arc<Metrics>,
        settings: SenseSettings,
        stop: &CancellationToken,
    ) -> Self {
        let epoch = Instant::now();
        let liveness = settings.liveness_per_second_max;
        Self {
            epoch,
            direct,
            primaries: AtomicUsize::new(0),
            recoveries: AtomicUsize::new(0),
            liveness: Bucket::new(liveness, liveness, epoch),
            tablets,
            metrics,
            settings,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            bucket: Bucket::new(EMERGENCY_BURST, EMERGENCY_PER_SECOND, epoch),
            doubtful: Semaphore::new(DOUBTFUL_MAX),
        }
    }

    /// How often each primary is asked whether it lives: less often where there are more than may be asked in a second.
    pub fn liveness_interval(&self) -> Duration {
        let SenseSettings { primary_liveness_interval, liveness_per_second_max, .. } = self.settings;
        let primaries = self.primaries.load(Ordering::Relaxed) as f64;
        let share = Duration::from_secs_f64(primaries / f64::from(liveness_per_second_max.max(1)));
        primary_liveness_interval.max(share)
    }

    /// Whether one more such question fits into what the fleet may be asked.
    pub fn may_ask_liveness(&self, now: Instant) -> bool {
        self.liveness.take(1, now)
    }

    /// Limit of one regular question.
    pub fn ask_limit(&self) -> Duration {
        let SenseSettings { status_interval, remote_operation_timeout, .. } = self.settings;
        status_interval.clamp(ASK_LIMIT_MIN, ASK_LIMIT_MAX).min(remote_operation_timeout)
    }

    /// The life of a sensor: asks one tablet again and again.
    pub async fn sense(self: Arc<Self>, shard: Arc<Shard>, alias: TabletAlias) {
        let period = self.settings.status_interval;
        let rhythm = Rhythm::of(&shard.id, self.epoch, period);
        let of_primary = rhythm.later(PRIMARY_LATER_MAX.min(period / 4));
        let mut due = rhythm.after(Instant::now());
        loop {
            sleep_until(due).await;
            // The queue is fair, and each one ahead ends within its limit. It fails only when closed, which nobody does.
            let _turn = if shard.is_silent(&alias) {
                let _queued = self.metrics.sense.queued();
                self.doubtful.acquire().await.ok()
            } else {
                None
            };
            self.look(&shard, &alias, self.ask_limit()).await;
            // Beside the rhythm: the next status does not wait for it.
            if let Some(record) = shard.offline_question(&alias, false) {
                let (world, shard, alias) = (self.clone(), shard.clone(), alias.clone());
                let asking = async move { world.stop.run_until_cancelled(world.ask_offline_mode(&shard, &alias, &record)).await };
                self.tasks.spawn(asking);
            }
            let rhythm = if shard.primary().as_ref() == Some(&alias) { &of_primary } else { &rhythm };
            let is_busy = self.recoveries.load(Ordering::Relaxed) >= RECOVERIES_BUSY;
            due = rhythm.after(Instant::now() + if is_busy { period } else { Duration::ZERO });
        }
    }

    /// Asks one tablet everything.
    pub async fn look(self: &Arc<Self>, shard: &Arc<Shard>, alias: &TabletAlias, limit: Duration) {
        let Some(question) = shard.question(alias) else { return };
        // Before the status: a commit that ends in between is then in the executed set.
        let waits = if question.with_waits { self.commits_wait(&question.record, limit).await } else { None };
        let (sent, asking) = (Instant::now(), self.metrics.sense.asking());
        let answer = self.tablets.full_status(&question.record, Call::read(limit)).await;
        drop(asking);
        if sent.elapsed() > self.settings.status_interval {
            self.metrics.sense.slow();
        }
        if answer.as_ref().is_err_and(|error| error.lost.is_some_and(|class| self.is_noticed_late(sent, limit, class))) {
            return;
        }
        if shard.answered(alias, &question, sent, (answer, waits)) {
            self.emergency(shard);
        }
    }

    /// Asks whether its server refuses clients. What is not said stays as it was known.
    async fn ask_offline_mode(&self, shard: &Shard, alias: &TabletAlias, record: &Tablet) {
        let sent = Instant::now();
        let answer = self.tablets.execute_fetch_as_dba(record, OFFLINE_MODE, 1, Call::read(self.ask_limit())).await;
        if let Some(row) = answer.ok().and_then(|answer| answer.rows.into_iter().next()) {
            shard.observe(alias, record, |tablet, _| tablet.refuses(row.values == b"1", sent));
        }
    }

    /// Whether silence is to be laid to this process: a limit that was noticed long after it had passed. Frozen, or without processor time,
    /// we would not have heard an answer.
    pub fn is_noticed_late(&self, sent: Instant, limit: Duration, class: FailureClass) -> bool {
        let late = class == FailureClass::Silent && sent.elapsed() > limit + NOTICED_WITHIN;
        if late {
            self.metrics.sense.noticed_late();
        }
        late
    }

    /// Whether commits wait for an acknowledgement there; `None` when it does not say.
    async fn commits_wait(&self, tablet: &Tablet, limit: Duration) -> Option<bool> {
        tablet::commits_wait(&*self.tablets, tablet, Call::read(limit)).await.ok()?
    }

    /// Asks everybody in the shard now, or as soon as they may be asked again.
    pub fn emergency(self: &Arc<Self>, shard: &Arc<Shard>) {
        let Some(due) = shard.plan_emergency() else { return };
        let (world, shard) = (self.clone(), shard.clone());
        self.tasks.spawn(async move {
            let round = async {
                sleep_until(due).await;
                shard.begin_emergency();
                let everybody = shard.aliases();
                let asked = world.bucket.take(everybody.len(), Instant::now());
                world.metrics.sense.emergency(asked);
                if asked {
                    let limit = world.ask_limit();
                    join_all(everybody.iter().map(|alias| world.look(&shard, alias, limit))).await;
                }
            };
            world.stop.run_until_cancelled(round).await;
        });
    }

    /// Asks these tablets now; returns when all have answered, or at the limit.
    pub async fn reread(self: &Arc<Self>, shard: &Arc<Shard>, tablets: &BTreeSet<TabletAlias>, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.bucket.take(tablets.len(), Instant::now()) {
            let next = Instant::now() + super::shard::EMERGENCY_INTERVAL;
            if next >= deadline {
                return;
            }
            sleep_until(next).await;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Each question has the limit of its own; the tasks outlive a caller who gives up, so that every failure is seen.
        let looks: Vec<_> = (tablets.iter().cloned())
            .map(|alias| {
                let (world, shard, limit) = (self.clone(), shard.clone(), left.max(ASK_LIMIT_MIN));
                let looking = async move {
                    world.look(&shard, &alias, limit).await;
                    if let Some(record) = shard.offline_question(&alias, true) {
                        world.ask_offline_mode(&shard, &alias, &record).await;
                    }
                };
                let stop = self.stop.clone();
                self.tasks.spawn(async move { stop.run_until_cancelled(looking).await })
            })
            .collect();
        let _ = timeout(left, join_all(looks)).await;
    }

    /// Lets every tablet that answers say what its host hears of another's MySQL.
    pub async fn ask_witnesses(&self, shard: &Arc<Shard>, of: &TabletAlias, limit: Duration) -> bool {
        let (Some(subject), witnesses) = shard.reachable_but(of) else { return false };
        let unable = AtomicBool::new(false);
        let wait = limit.mul_f64(0.8);
        let questions = witnesses.iter().map(|(from, witness)| {
            let (subject, unable) = (&subject, &unable);
            async move {
                let sent = Instant::now();
                match self.tablets.hear(witness, subject, wait, Call::read(limit)).await {
                    Ok(greeting) => shard.greeted(of, from, sent, greeting),
                    // A vttablet does not know the call.
                    Err(error) if error.kind == TabletErrorKind::Unimplemented => unable.store(true, Ordering::Relaxed),
                    Err(error) => tracing::debug!(shard = %shard.id, witness = %from, %of, %error, "no testimony"),
                }
            }
        });
        let _ = timeout(limit, join_all(questions)).await;
        unable.into_inner()
    }
}
