//! The observed world as others use it, and the one task that follows the declared one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    declared::{Declared, DeclaredShard, Gaps, Reading, Watched, touched},
    errant::{ErrantFilter, TabletReport},
    primary::PrimaryWatch,
    shard::Shard,
    world::World,
};
use crate::{
    durability::Extra,
    elect::SeenPrimary,
    metrics::Metrics,
    mysql::probe::DirectMysql,
    peers::Ownership,
    shard::{Greeting, ShardView},
    tablet::TabletManager,
    topo::{Freshness, ShardId, Snapshot, TabletAlias, Topo, Watcher},
};

/// A cell that cannot be read holds up the first look for that long.
const FIRST_READ_LIMIT: Duration = Duration::from_secs(3);

/// How tablets are watched.
#[derive(Debug, Clone)]
pub struct SenseSettings {
    /// How often each tablet says everything (`--instance-poll-time`).
    pub status_interval: Duration,
    /// How often a declared primary is asked whether it lives (`--primary-liveness-interval`).
    pub primary_liveness_interval: Duration,
    /// So many such questions a second in the whole fleet; with more primaries each is asked less often.
    pub liveness_per_second_max: u32,
    /// Limit of one call to a tablet (`--remote-operation-timeout`).
    pub remote_operation_timeout: Duration,
    /// Which shards.
    pub watched: Watched,
    /// What is demanded beyond durability policies (`--durability-extra`), by keyspace.
    pub durability_extra: BTreeMap<String, Extra>,
}

/// Watches every tablet of the shards that are ours. Dropping it ends that.
pub struct Senses {
    world: Arc<World>,
    shards: Arc<RwLock<BTreeMap<ShardId, Arc<Shard>>>>,
    names: watch::Receiver<Arc<BTreeSet<ShardId>>>,
    declared: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Whether every cell was read, or could not be for some time.
    listed: Arc<AtomicBool>,
    _stop_with_us: DropGuard,
}

/// A recovery that is under way.
pub struct Recovering(Arc<World>);

impl Drop for Recovering {
    fn drop(&mut self) {
        self.0.recoveries.fetch_sub(1, Relaxed);
    }
}

impl Senses {
    /// Starts watching; ends with `stop`.
    pub fn start(
        topo: &Topo,
        tablets: Arc<dyn TabletManager>,
        direct: Option<Arc<dyn DirectMysql>>,
        metrics: Arc<Metrics>,
        settings: SenseSettings,
        owned: watch::Receiver<Arc<Ownership>>,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let watcher = Watcher::start(topo, &stop);
        let (publish, names) = watch::channel(Arc::default());
        let (publish_declared, declared) = watch::channel(None);
        let listed = Arc::new(AtomicBool::new(false));
        let shards = Arc::new(RwLock::default());
        let reading =
            Reading { watched: settings.watched.clone(), extra: settings.durability_extra.clone(), regions: BTreeMap::new() };
        let world = Arc::new(World::new(tablets, direct, metrics, settings, &stop));
        let curator = Curator {
            world: world.clone(),
            topo: topo.clone(),
            reading,
            shards: shards.clone(),
            publish,
            publish_declared,
            sensors: BTreeMap::new(),
            primaries: BTreeMap::new(),
            watched: BTreeMap::new(),
            last: None,
            listed: listed.clone(),
        };
        let curating = stop.clone();
        // The watcher ends with the task that reads from it.
        world.tasks.spawn(async move { curating.run_until_cancelled(curator.run(watcher, owned)).await });
        Self { world, shards, names, declared, listed, _stop_with_us: stop.drop_guard() }
    }

    /// The shards that are watched and ours.
    pub fn shards(&self) -> watch::Receiver<Arc<BTreeSet<ShardId>>> {
        self.names.clone()
    }

    /// Everything that the topology declares, whoever looks after it; `None` before it was read.
    pub fn declared(&self) -> Option<Arc<Snapshot>> {
        self.declared.borrow().clone()
    }

    /// What is missing of the first look at the topology and at every tablet of our shards; `None` when nothing is.
    pub fn unseen(&self) -> Option<String> {
        if !self.listed.load(Acquire) {
            return Some("the topology was not read yet".to_owned());
        }
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        match shards.values().filter(|shard| !shard.is_looked_at()).count() {
            0 => None,
            unseen => Some(format!("{unseen} of {} shards were not looked at yet", shards.len())),
        }
    }

    /// A shard at this moment; `None` when it is not watched.
    pub fn view(&self, shard: &ShardId) -> Option<ShardView> {
        self.shard(shard).map(|shard| shard.view())
    }

    /// Changes when something significant was seen: another record or status (positions apart), a channel that fails or works again,
    /// testimony, the end of the first look. Of a shard that is not watched nothing is ever heard: its sender is gone.
    pub fn news(&self, shard: &ShardId) -> watch::Receiver<u64> {
        self.shard(shard).map_or_else(|| watch::Sender::new(0).subscribe(), |shard| shard.news())
    }

    /// A recovery is under way until the answer is dropped.
    pub fn recovering(&self) -> Recovering {
        self.world.recoveries.fetch_add(1, Relaxed);
        Recovering(self.world.clone())
    }

    /// Asks every tablet of a shard now; returns when all have answered, or at the limit.
    pub async fn reread(&self, shard: &ShardId, limit: Duration) {
        if let Some(shard) = self.shard(shard) {
            self.world.reread(&shard, &shard.aliases().into_iter().collect(), limit).await;
        }
    }

    /// The same for some of its tablets.
    pub async fn reread_some(&self, shard: &ShardId, tablets: &BTreeSet<TabletAlias>, limit: Duration) {
        if let Some(shard) = self.shard(shard) {
            self.world.reread(&shard, tablets, limit).await;
        }
    }

    /// Lets every tablet that answers say what its host hears of that tablet's MySQL; the view then has it.
    /// Answers whether some of them do not know how to: a vttablet has to be asked by [`crate::reparent::Hands::testify`].
    pub async fn ask_witnesses(&self, shard: &ShardId, of: &TabletAlias, limit: Duration) -> bool {
        match self.shard(shard) {
            Some(shard) => self.world.ask_witnesses(&shard, of, limit).await,
            None => false,
        }
    }

    /// Takes in what was heard of a tablet's MySQL by other means than [`Senses::ask_witnesses`], all of it after `sent`.
    pub fn testified(&self, shard: &ShardId, of: &TabletAlias, sent: Instant, heard: BTreeMap<TabletAlias, Greeting>) {
        if let Some(shard) = self.shard(shard) {
            for (witness, greeting) in heard {
                shard.greeted(of, &witness, sent, greeting);
            }
        }
    }

    /// The highest position seen on a shard's declared primary, and who that was: an emergency reparent away from it has to find again what
    /// was certainly acknowledged.
    pub fn seen_primary(&self, shard: &ShardId) -> Option<(TabletAlias, SeenPrimary)> {
        self.shard(shard)?.seen_primary()
    }

    /// What is known of errant transactions, by shard and alias.
    pub fn errant(&self, filter: &ErrantFilter) -> Vec<TabletReport> {
        let mut reports = Vec::new();
        for shard in self.shards.read().unwrap_or_else(PoisonError::into_inner).values() {
            shard.errant(filter, &mut reports);
        }
        reports
    }

    /// Waits until every task has ended after `stop` was cancelled, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        self.world.tasks.close();
        if timeout(limit, self.world.tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "the sensors did not stop in time");
        }
    }

    fn shard(&self, shard: &ShardId) -> Option<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(shard).cloned()
    }
}

/// Starts and stops sensors as shards and tablets come and go.
struct Curator {
    world: Arc<World>,
    topo: Topo,
    reading: Reading,
    shards: Arc<RwLock<BTreeMap<ShardId, Arc<Shard>>>>,
    publish: watch::Sender<Arc<BTreeSet<ShardId>>>,
    publish_declared: watch::Sender<Option<Arc<Snapshot>>>,
    sensors: BTreeMap<ShardId, BTreeMap<TabletAlias, DropGuard>>,
    primaries: BTreeMap<ShardId, (TabletAlias, DropGuard)>,
    /// How many tablets are watched, as the metrics say.
    watched: BTreeMap<ShardId, usize>,
    /// What was taken in last.
    last: Option<Last>,
    /// Whether every cell was read, or could not be for some time.
    listed: Arc<AtomicBool>,
}

/// What is declared, as it was taken in.
struct Last {
    snapshot: Arc<Snapshot>,
    ownership: Arc<Ownership>,
    /// Whether every cell was read, or could not be for some time.
    listed: bool,
}

impl Curator {
    async fn run(mut self, watcher: Watcher, mut owned: watch::Receiver<Arc<Ownership>>) {
        let mut snapshots = watcher.snapshots();
        self.learn_regions().await;
        let started = Instant::now();
        loop {
            let (snapshot, ownership) = (snapshots.borrow_and_update().clone(), owned.borrow_and_update().clone());
            let listed = self.listed.load(Relaxed) || is_listed(&snapshot, started);
            // Before the records were read once there is nothing to be watched.
            if self.last.is_some() || *snapshot.global() == Freshness::Current {
                self.follow(snapshot, ownership, listed);
            }
            // Only now: whoever sees it finds the shards.
            self.listed.store(listed, Release);
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                // Whoever divided the work is gone: it stays as it was.
                Ok(()) = owned.changed() => {}
                () = sleep_until(started + FIRST_READ_LIMIT), if !listed && started.elapsed() < FIRST_READ_LIMIT => {}
            }
        }
    }

    /// Regions matter only where our settings demand several.
    async fn learn_regions(&mut self) {
        if self.reading.extra.values().all(|extra| extra.regions == 0) {
            return;
        }
        match self.topo.cells_aliases().await {
            Ok(aliases) => {
                let cells = aliases
                    .into_iter()
                    .flat_map(|(region, alias)| alias.cells.into_iter().map(move |cell| (cell, region.clone())));
                self.reading.regions = cells.collect();
            }
            Err(error) => tracing::warn!(%error, "the regions of cells are unknown: each cell counts as one of its own"),
        }
    }

    /// Takes in what has changed since the last time.
    fn follow(&mut self, snapshot: Arc<Snapshot>, ownership: Arc<Ownership>, listed: bool) {
        let same = |last: &Last| Arc::ptr_eq(&last.ownership, &ownership) && last.listed == listed;
        let scope = self.last.as_ref().filter(|last| same(last)).and_then(|last| touched(&last.snapshot, &snapshot));
        let mut declared = Declared::of(&snapshot, &self.reading, scope.as_ref());
        declared.shards.retain(|id, _| ownership.owns(id));
        let known: Vec<ShardId> = self.sensors.keys().cloned().collect();
        let in_scope = |id: &ShardId| scope.as_ref().is_none_or(|scope| scope.contains(id));
        for gone in known.iter().filter(|id| in_scope(id) && !declared.shards.contains_key(*id)) {
            self.forget(gone);
        }
        for (id, declared_shard) in declared.shards {
            let aliases: BTreeSet<TabletAlias> = declared_shard.tablets.keys().cloned().collect();
            let shard = self.declare(id, declared_shard, &declared.gaps, listed);
            self.sense(&shard, &aliases);
            self.watch_primary(&shard);
        }
        if !known.iter().eq(self.sensors.keys()) {
            self.publish.send_replace(Arc::new(self.sensors.keys().cloned().collect()));
        }
        self.count();
        self.publish_declared.send_replace(Some(snapshot.clone()));
        self.last = Some(Last { snapshot, ownership, listed });
    }

    fn declare(&self, id: ShardId, declared: DeclaredShard, gaps: &Arc<Gaps>, listed: bool) -> Arc<Shard> {
        let known = self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(shard) = known {
            if shard.declare(declared, gaps.clone(), listed) {
                // What they said before is about another world.
                self.world.emergency(&shard);
            }
            return shard;
        }
        let shard = Arc::new(Shard::new(id.clone(), self.world.metrics.clone(), declared, gaps.clone(), listed));
        self.shards.write().unwrap_or_else(PoisonError::into_inner).insert(id, shard.clone());
        shard
    }

    fn forget(&mut self, id: &ShardId) {
        self.sensors.remove(id);
        self.primaries.remove(id);
        if let Some(shard) = self.shards.write().unwrap_or_else(PoisonError::into_inner).remove(id) {
            shard.end();
        }
    }

    /// The declared primary is watched more closely; while nobody knows who it is, the last one is.
    fn watch_primary(&mut self, shard: &Arc<Shard>) {
        let Some(primary) = shard.primary() else { return };
        if self.primaries.get(&shard.id).is_some_and(|(watched, _)| *watched == primary) {
            return;
        }
        let stop = self.world.stop.child_token();
        self.primaries.insert(shard.id.clone(), (primary.clone(), stop.clone().drop_guard()));
        let watch = PrimaryWatch::new(self.world.clone(), shard.clone(), primary);
        self.world.tasks.spawn(async move { stop.run_until_cancelled(watch.run()).await });
    }

    fn count(&mut self) {
        let counts: BTreeMap<ShardId, usize> = self.sensors.iter().map(|(id, sensors)| (id.clone(), sensors.len())).collect();
        if counts != self.watched {
            let mut cells: BTreeMap<String, usize> = BTreeMap::new();
            for alias in self.sensors.values().flat_map(BTreeMap::keys) {
                *cells.entry(alias.cell.clone()).or_default() += 1;
            }
            self.world.metrics.sense.watched(&counts, &cells);
            self.watched = counts;
        }
    }

    /// One sensor per tablet.
    fn sense(&mut self, shard: &Arc<Shard>, aliases: &BTreeSet<TabletAlias>) {
        let sensors = self.sensors.entry(shard.id.clone()).or_default();
        sensors.retain(|alias, _| aliases.contains(alias));
        for alias in aliases {
            if !sensors.contains_key(alias) {
                let stop = self.world.stop.child_token();
                sensors.insert(alias.clone(), stop.clone().drop_guard());
                let sensing = self.world.clone().sense(shard.clone(), alias.clone());
                self.world.tasks.spawn(async move { stop.run_until_cancelled(sensing).await });
            }
        }
    }
}

/// Whether the lists of tablets are as complete as they can be: each cell was read, or could not be.
fn is_listed(snapshot: &Snapshot, started: Instant) -> bool {
    let waited = started.elapsed() >= FIRST_READ_LIMIT;
    *snapshot.global() == Freshness::Current
        && (waited || snapshot.cells.values().all(|cell| *cell.freshness() == Freshness::Current))
}
