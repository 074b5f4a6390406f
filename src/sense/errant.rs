//! Errant GTIDs, continuously: one sensor per watched tablet, and what they found.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    ask::{Asker, Doubt, PrimaryReader, everything},
    declared::{Declared, Watched},
};
use crate::{
    diagnose::errant::{Evidence, Look, Unknown, judge},
    metrics::Metrics,
    mysql::GtidSet,
    tablet::TabletManager,
    topo::{ShardId, Snapshot, TabletAlias, Topo, Watcher},
};

/// What stands out for the first time is looked at again that soon: errant or only in flight?
const CONFIRM_AFTER: Duration = Duration::from_millis(500);
/// Longest limit of one question: nobody waits for its answer, so there is no haste, and no sense in more either.
const ASK_LIMIT_MAX: Duration = Duration::from_secs(3);
/// Longest set in a log line, in characters.
const LOGGED_SET_MAX: usize = 500;

/// How tablets are watched.
#[derive(Debug, Clone)]
pub struct ErrantSettings {
    /// How often each tablet is looked at (`--instance-poll-time`).
    pub period: Duration,
    /// Limit of one call to a tablet (`--remote-operation-timeout`).
    pub remote_operation_timeout: Duration,
    /// Which tablets.
    pub watched: Watched,
}

/// Which tablets a report is about; empty names = all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrantFilter {
    /// Only this keyspace.
    pub keyspace: String,
    /// Only this shard of it.
    pub shard: String,
}

/// What is known of one tablet; never the primary, which has no errant transactions by definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TabletReport {
    /// The tablet.
    pub alias: TabletAlias,
    /// Its shard.
    pub shard: ShardId,
    /// The last judgement, however old; none when there never was one.
    pub verdict: Option<ErrantVerdict>,
    /// Why the last look came to no judgement, if it did not: the verdict is then stale.
    pub unknown: Option<Unknown>,
}

/// A judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrantVerdict {
    /// The errant transactions; empty = clean.
    pub errant: GtidSet,
    /// The primary that does not have them.
    pub against: TabletAlias,
    /// When the tablet was looked at.
    pub at: Instant,
}

/// Watches every tablet. Dropping it ends that.
pub struct ErrantWatch {
    board: Arc<Board>,
    tasks: TaskTracker,
    _stop_with_us: DropGuard,
}

impl ErrantWatch {
    /// Starts watching; ends with `stop`.
    pub fn start(
        topo: &Topo,
        tablets: Arc<dyn TabletManager>,
        metrics: Arc<Metrics>,
        settings: ErrantSettings,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let watcher = Watcher::start(topo, &stop);
        let board = Arc::new(Board { metrics, entries: Mutex::default() });
        let (declared, _) = watch::channel(Arc::default());
        let limit = settings.remote_operation_timeout.min(ASK_LIMIT_MAX);
        let curator = Curator {
            asker: Arc::new(Asker::new(tablets, limit)),
            settings,
            board: board.clone(),
            declared,
            sensors: BTreeMap::new(),
            readers: BTreeMap::new(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            epoch: Instant::now(),
            started: 0,
        };
        let tasks = curator.tasks.clone();
        let curating = stop.clone();
        // The watcher ends with the task that reads from it.
        tasks.spawn(async move { curating.run_until_cancelled(curator.run(watcher)).await });
        Self { board, tasks, _stop_with_us: stop.drop_guard() }
    }

    /// What is known now, by alias.
    pub fn snapshot(&self, filter: &ErrantFilter) -> Vec<TabletReport> {
        let wanted = |shard: &ShardId| {
            (filter.keyspace.is_empty() || filter.keyspace == shard.keyspace)
                && (filter.shard.is_empty() || filter.shard == shard.shard)
        };
        let entries = self.board.lock();
        let watched = entries.iter().filter(|(_, entry)| !entry.is_primary && wanted(&entry.shard));
        watched
            .map(|(alias, entry)| TabletReport {
                alias: alias.clone(),
                shard: entry.shard.clone(),
                verdict: entry.verdict.clone(),
                unknown: entry.unknown.clone(),
            })
            .collect()
    }

    /// Waits until every task has ended after `stop` was cancelled, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "the watch for errant GTIDs did not stop in time");
        }
    }
}

/// Starts and stops sensors as tablets come and go.
struct Curator {
    asker: Arc<Asker>,
    settings: ErrantSettings,
    board: Arc<Board>,
    declared: watch::Sender<Arc<Declared>>,
    sensors: BTreeMap<TabletAlias, (ShardId, DropGuard)>,
    readers: BTreeMap<ShardId, Arc<PrimaryReader>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// From when the times of looks are counted.
    epoch: Instant,
    /// Counts the sensors that were ever started.
    started: u64,
}

impl Curator {
    async fn run(mut self, watcher: Watcher) {
        let mut snapshots = watcher.snapshots();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            self.follow(&snapshot);
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    fn follow(&mut self, snapshot: &Snapshot) {
        let declared = Arc::new(Declared::of(snapshot, &self.settings.watched));
        self.declared.send_replace(declared.clone());
        let shard_of = |alias: &TabletAlias| declared.tablets.get(alias).map(|(shard, _)| shard);
        let gone: Vec<TabletAlias> = (self.sensors.iter())
            .filter(|(alias, (shard, _))| shard_of(alias) != Some(shard))
            .map(|(alias, _)| alias.clone())
            .collect();
        for alias in gone {
            self.sensors.remove(&alias);
            self.board.remove(&alias);
        }
        for (alias, (shard, _)) in &declared.tablets {
            if !self.sensors.contains_key(alias) {
                self.start_sensor(alias, shard);
            }
        }
        // Whoever reads on behalf of a shard without sensors has none to read for.
        self.readers.retain(|_, reader| Arc::strong_count(reader) > 1);
    }

    fn start_sensor(&mut self, alias: &TabletAlias, shard: &ShardId) {
        self.started += 1;
        let stop = self.stop.child_token();
        let sensor = Sensor {
            number: self.started,
            alias: alias.clone(),
            shard: shard.clone(),
            rhythm: Rhythm::of(shard, self.epoch, self.settings.period),
            asker: self.asker.clone(),
            reader: self.readers.entry(shard.clone()).or_default().clone(),
            declared: self.declared.subscribe(),
            board: self.board.clone(),
            doubt: Doubt::default(),
            stood_out: None,
        };
        self.board.insert(alias, shard, self.started);
        self.sensors.insert(alias.clone(), (shard.clone(), stop.clone().drop_guard()));
        self.tasks.spawn(async move { stop.run_until_cancelled(sensor.run()).await });
    }
}

/// Looks at one tablet.
struct Sensor {
    number: u64,
    alias: TabletAlias,
    shard: ShardId,
    rhythm: Rhythm,
    asker: Arc<Asker>,
    reader: Arc<PrimaryReader>,
    declared: watch::Receiver<Arc<Declared>>,
    board: Arc<Board>,
    doubt: Doubt,
    /// What stood out in the last look that was judged.
    stood_out: Option<GtidSet>,
}

impl Sensor {
    async fn run(mut self) {
        let mut due = self.rhythm.after(Instant::now());
        loop {
            sleep_until(due).await;
            let known = self.stood_out.clone();
            self.look().await;
            let is_news = self.stood_out != known && self.stood_out.as_ref().is_some_and(|out| !out.is_empty());
            let (now, regular) = (Instant::now(), self.rhythm.after(Instant::now()));
            due = if is_news { regular.min(now + CONFIRM_AFTER) } else { regular };
        }
    }

    async fn look(&mut self) {
        let declared = self.declared.borrow().clone();
        let is_primary = declared.primary_of(&self.shard).is_ok_and(|primary| primary.alias == self.alias);
        if is_primary {
            self.stood_out = None;
            return self.board.is_primary(&self.alias, self.number);
        }
        let at = Instant::now();
        match self.judged(&declared).await {
            Err(why) => self.board.unknown(&self.alias, self.number, why),
            Ok((against, Look { stands_out, errant })) => {
                let count = stands_out.count();
                self.stood_out = Some(stands_out);
                match errant {
                    Some(errant) => self.board.judged(&self.alias, self.number, ErrantVerdict { errant, against, at }),
                    None => self.board.unknown(&self.alias, self.number, Unknown::SeenOnce { count }),
                }
            }
        }
    }

    async fn judged(&self, declared: &Declared) -> Result<(TabletAlias, Look), Unknown> {
        let before = declared.primary_of(&self.shard)?.clone();
        let tablet = declared.record(&self.alias).ok_or(Unknown::NotYet)?;
        if tablet.tablet_shutdown_time.is_some() {
            return Err(Unknown::ShutDown);
        }
        let unlisted = || Unknown::PrimarySilent { primary: before.alias.clone(), reason: "it has no record".to_owned() };
        let primary = declared.record(&before.alias).ok_or_else(unlisted)?;
        let status = self.asker.full_status(&self.doubt, tablet).await.map_err(|error| Unknown::Silent(error.to_string()))?;
        let has = everything(&status).map_err(Unknown::NoGtids)?;
        let with_waits = self.stood_out.as_ref().is_some_and(|out| !out.is_empty());
        let facts = self.reader.read(&self.asker, (&before.alias, primary), Instant::now(), with_waits).await;
        let now = self.declared.borrow().clone();
        let after = now.primary_of(&self.shard);
        let look = judge(&Evidence {
            declared_before: &before,
            has: &has,
            primary: facts.as_ref().as_ref().map_err(String::as_str),
            declared_after: after.as_ref().copied(),
            stood_out: self.stood_out.as_ref(),
        })?;
        Ok((before.alias, look))
    }
}

/// When the tablets of a shard are looked at: all at the same time, so that one reading of the primary serves them all, and each shard at
/// another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    first: Instant,
    period: Duration,
}

impl Rhythm {
    pub(super) fn of(shard: &ShardId, epoch: Instant, period: Duration) -> Self {
        let mut hasher = DefaultHasher::new();
        shard.hash(&mut hasher);
        let place = f64::from(u16::try_from(hasher.finish() >> 48).unwrap_or(0)) / f64::from(u16::MAX);
        Self { first: epoch + period.mul_f64(place), period }
    }

    /// The next time; what was missed is not made up for.
    pub(super) fn after(&self, now: Instant) -> Instant {
        if now < self.first {
            return self.first;
        }
        let past = now - self.first;
        let laps = past.as_nanos() / self.period.as_nanos().max(1) + 1;
        self.first + self.period.saturating_mul(u32::try_from(laps).unwrap_or(u32::MAX))
    }
}

/// What is known of every watched tablet. Log lines and metrics are made here, so that they say the same.
struct Board {
    metrics: Arc<Metrics>,
    entries: Mutex<BTreeMap<TabletAlias, Entry>>,
}

struct Entry {
    /// The sensor's: what an earlier one has to say is void.
    number: u64,
    shard: ShardId,
    is_primary: bool,
    verdict: Option<ErrantVerdict>,
    unknown: Option<Unknown>,
}

impl Entry {
    fn is_errant(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| !verdict.errant.is_empty())
    }
}

impl Board {
    fn insert(&self, alias: &TabletAlias, shard: &ShardId, number: u64) {
        let unknown = Some(Unknown::NotYet);
        let entry = Entry { number, shard: shard.clone(), is_primary: false, verdict: None, unknown };
        self.lock().insert(alias.clone(), entry);
    }

    fn remove(&self, alias: &TabletAlias) {
        if let Some(entry) = self.lock().remove(alias) {
            if entry.is_errant() {
                tracing::info!(tablet = %alias, shard = %entry.shard, "a tablet with errant GTIDs is watched no more");
            }
            self.metrics.errant.forget(&entry.shard.keyspace, &entry.shard.shard, &alias.to_string());
        }
    }

    fn judged(&self, alias: &TabletAlias, number: u64, verdict: ErrantVerdict) {
        self.change(alias, number, |entry| {
            match (entry.is_errant(), verdict.errant.is_empty()) {
                (false, false) => tracing::warn!(
                    tablet = %alias, shard = %entry.shard, primary = %verdict.against, count = %verdict.errant.count(),
                    errant = cut(&verdict.errant.to_string()),
                    "errant GTIDs: this tablet has transactions that its primary does not have"
                ),
                (true, true) => tracing::info!(
                    tablet = %alias, shard = %entry.shard, primary = %verdict.against, "no errant GTIDs any more"
                ),
                (true, false) | (false, true) => {}
            }
            (entry.is_primary, entry.verdict, entry.unknown) = (false, Some(verdict), None);
        });
    }

    fn unknown(&self, alias: &TabletAlias, number: u64, why: Unknown) {
        self.change(alias, number, |entry| (entry.is_primary, entry.unknown) = (false, Some(why)));
    }

    fn is_primary(&self, alias: &TabletAlias, number: u64) {
        self.change(alias, number, |entry| {
            if entry.is_errant() {
                tracing::info!(tablet = %alias, shard = %entry.shard, "no errant GTIDs any more: the tablet is the primary now");
            }
            (entry.is_primary, entry.verdict, entry.unknown) = (true, None, None);
        });
    }

    fn change(&self, alias: &TabletAlias, number: u64, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(alias).filter(|entry| entry.number == number) else { return };
        change(entry);
        let ShardId { keyspace, shard } = &entry.shard;
        if entry.is_primary {
            return self.metrics.errant.forget(keyspace, shard, &alias.to_string());
        }
        let count = entry.verdict.as_ref().map(|verdict| verdict.errant.count());
        self.metrics.errant.set(keyspace, shard, &alias.to_string(), count, entry.unknown.is_some());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TabletAlias, Entry>> {
        // A panic elsewhere leaves at worst one entry as it was.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text as it may be logged.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LOGGED_SET_MAX) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.chars().count()),
    }
}
