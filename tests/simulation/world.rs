//! The shard: hosts with a mysqld and a tablet manager each, a topology, a network, clients, and the diary of what happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::watch, task::AbortHandle, time::Instant};
use vtelector::{
    durability::{Member, policy},
    ledger::FlapRules,
    pb::{
        topodata::{self, TabletType},
        vttime,
    },
    topo::{MemoryKv, ShardId, TabletAlias, Topo},
};

use super::{
    check::Violation,
    diary::Diary,
    electors::Seated,
    gtid::Pos,
    manager::{Flavour, Manager},
    mysqld::{Mysqld, Process},
    net::{Net, Node},
    store,
};

/// The world goes on in steps of this length.
pub const TICK: Duration = Duration::from_millis(4);
/// MySQL's port everywhere.
pub const MYSQL_PORT: i32 = 3306;

/// What a world looks like.
#[derive(Debug, Clone)]
pub struct Shape {
    pub seed: u64,
    pub tablets: usize,
    pub cells: usize,
    pub policy: &'static str,
    pub flavour: Flavour,
    pub electors: usize,
    pub net_timeout: Duration,
    /// The anti-flapping rules that the electors hold to.
    pub flap: FlapRules,
    /// Whether the electors may change anything.
    pub allow_recovery: bool,
    /// How long before this moment the story began: sensors read the real clock, to which a long story would be the future.
    pub began_ago: Duration,
}

pub struct Host {
    pub alias: TabletAlias,
    pub mysqld: Mysqld,
    pub manager: Manager,
    /// Its clock's error, in milliseconds.
    pub clock_error_ms: i64,
    /// When its clients commit next.
    pub write_next: Instant,
    /// When its clients were told of a commit last.
    pub last_ack: Option<Instant>,
}

/// A client was told that this is committed.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub server: usize,
    pub sequence: u64,
    pub asked: Instant,
    pub at: Instant,
}

/// A row of the reparent journal: whose transaction it is.
#[derive(Debug, Clone, Copy)]
pub struct JournalRow {
    pub server: usize,
    pub sequence: u64,
    pub time_created_ns: i64,
}

/// An elector's or a person's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub process: Process,
}

pub struct State {
    pub net: Net,
    pub rng: StdRng,
    pub hosts: Vec<Host>,
    pub journal: Vec<JournalRow>,
    pub acks: Vec<Ack>,
    pub seats: BTreeMap<Node, Seat>,
    pub etcd_up: bool,
    pub etcd_delay: Option<Duration>,
    /// Calls of each elector in each second.
    pub calls: BTreeMap<(Node, u64), usize>,
    /// How often a replica's IO thread was stopped by request.
    pub io_stops: usize,
    /// Promotions that a tablet carried out.
    pub promotions: Vec<(Instant, usize)>,
    pub violations: BTreeSet<Violation>,
    pub writing: bool,
    /// When the last fault will have been mended.
    pub mended_at: Instant,
    /// Acknowledgements that the invariants have looked at.
    pub acks_seen: usize,
    /// Who acknowledged writes, each with its first one, in order.
    pub writers: Vec<(usize, Instant)>,
}

pub struct World {
    pub shape: Shape,
    pub shard: ShardId,
    pub start: Instant,
    pub diary: Arc<Diary>,
    pub kv: Arc<MemoryKv>,
    state: Mutex<State>,
    ticks: watch::Sender<u64>,
    /// Everything that goes on by itself; ended with the world.
    tasks: Mutex<Vec<AbortHandle>>,
    electors: Mutex<BTreeMap<Node, Seated>>,
}

impl World {
    /// A healthy shard whose first tablet is primary.
    pub async fn new(shape: Shape, diary: Arc<Diary>) -> Arc<Self> {
        let now = Instant::now();
        let mut first = Pos::default();
        first.0[0] = 10;
        let host = |index: usize| Host {
            alias: format!("zone{}-{}", 1 + index % shape.cells, 100 + index).parse().unwrap(),
            mysqld: Mysqld { net_timeout: shape.net_timeout, ..Mysqld::new(index, first, shape.flavour.connect_retry()) },
            manager: Manager::new(shape.flavour),
            clock_error_ms: 0,
            write_next: now,
            last_ack: None,
        };
        let hosts: Vec<_> = (0..shape.tablets).map(host).collect();
        let state = State {
            net: Net::default(),
            rng: StdRng::seed_from_u64(shape.seed),
            hosts,
            journal: vec![JournalRow { server: 0, sequence: 5, time_created_ns: 1 }],
            acks: Vec::new(),
            seats: BTreeMap::new(),
            etcd_up: true,
            etcd_delay: None,
            calls: BTreeMap::new(),
            io_stops: 0,
            promotions: Vec::new(),
            violations: BTreeSet::new(),
            writing: true,
            mended_at: now,
            acks_seen: 0,
            writers: Vec::new(),
        };
        let world = Arc::new(Self {
            shape,
            shard: "commerce/0".parse().unwrap(),
            start: now,
            diary,
            kv: Arc::default(),
            state: Mutex::new(state),
            ticks: watch::Sender::new(0),
            tasks: Mutex::default(),
            electors: Mutex::default(),
        });
        world.declare().await;
        let (ticker, guards) = (Arc::downgrade(&world), world.shape.tablets);
        world.goes_on(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(world) = ticker.upgrade() else { return };
                world.tick();
            }
        });
        for host in 0..guards {
            world.goes_on(super::guard::run(Arc::downgrade(&world), host));
        }
        world
    }

    /// Writes the records of a shard that has been there for a day.
    async fn declare(self: &Arc<Self>) {
        let topo = self.topo(Node::Person);
        let cells: BTreeSet<String> = self.lock().hosts.iter().map(|host| host.alias.cell.clone()).collect();
        for cell in cells {
            let info = topodata::CellInfo { server_address: "etcd".to_owned(), root: format!("/vitess/{cell}") };
            topo.create_cell_info(&cell, &info).await.unwrap();
        }
        let keyspace = topodata::Keyspace { durability_policy: self.shape.policy.to_owned(), ..Default::default() };
        topo.create_keyspace(&self.shard.keyspace, &keyspace).await.unwrap();
        topo.create_shard(&self.shard, Duration::from_secs(1)).await.unwrap();
        let term = self.clock(0, -86_400_000);
        for host in 0..self.shape.tablets {
            self.set_up(host, term);
            let record = self.record(host);
            topo.create_tablet(&record).await.unwrap();
            topo.add_to_shard_replication(&self.shard, &self.alias(host)).await.unwrap();
        }
        let primary = self.alias(0);
        let mut change = |record: &mut topodata::Shard| {
            (record.primary_alias, record.primary_term_start_time) = (Some((&primary).into()), Some(term));
            true
        };
        topo.update_shard(&self.shard, &mut change).await.unwrap();
    }

    fn set_up(&self, host: usize, term: vttime::Time) {
        let now = Instant::now();
        let (is_source, acks) = (self.acks_needed(0) > 0, self.may_ack(0, host));
        let mut state = self.lock();
        let host = &mut state.hosts[host];
        if host.mysqld.index == 0 {
            (host.manager.tablet_type, host.manager.term) = (TabletType::Primary, Some(term));
            host.mysqld.open();
            (host.mysqld.source_enabled, host.mysqld.replica_enabled) = (is_source, is_source);
        } else {
            host.mysqld.replica_enabled = acks;
            host.mysqld.change_source(Some(0));
            host.mysqld.sql = true;
            host.mysqld.start_io(now);
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The topology as that node sees it.
    pub fn topo(self: &Arc<Self>, node: Node) -> Topo {
        store::topo(self, node)
    }

    /// Runs beside everything until the world ends.
    pub fn goes_on(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(tokio::spawn(task).abort_handle());
    }

    /// The electors that sit in the world.
    pub fn electors(&self) -> MutexGuard<'_, BTreeMap<Node, Seated>> {
        self.electors.lock().unwrap()
    }

    pub fn end(&self) {
        let electors = std::mem::take(&mut *self.electors());
        drop(electors);
        self.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    pub fn alias(&self, host: usize) -> TabletAlias {
        self.lock().hosts[host].alias.clone()
    }

    pub fn host_of(&self, alias: &TabletAlias) -> Option<usize> {
        self.lock().hosts.iter().position(|host| host.alias == *alias)
    }

    fn member(&self, host: usize, tablet_type: TabletType) -> Member {
        Member::new(self.alias(host), tablet_type)
    }

    pub fn acks_needed(&self, primary: usize) -> usize {
        policy(self.shape.policy).unwrap().acks_needed(&self.member(primary, TabletType::Primary))
    }

    pub fn may_ack(&self, primary: usize, replica: usize) -> bool {
        let (primary, replica) = (self.member(primary, TabletType::Primary), self.member(replica, TabletType::Replica));
        policy(self.shape.policy).unwrap().may_ack(&primary, &replica)
    }

    /// A host's wall clock, and so much more.
    pub fn clock(&self, host: usize, more_ms: i64) -> vttime::Time {
        let error = self.lock().hosts[host].clock_error_ms + more_ms;
        let now = self.wall().duration_since(UNIX_EPOCH).unwrap();
        let ms = now.as_millis() as i64 + error;
        vttime::Time { seconds: ms.div_euclid(1000), nanoseconds: (ms.rem_euclid(1000) * 1_000_000) as i32 }
    }

    /// The true wall clock.
    pub fn wall(&self) -> SystemTime {
        self.diary.began + self.start.elapsed()
    }

    /// A tablet's record as its manager would write it.
    pub fn record(&self, host: usize) -> topodata::Tablet {
        let state = self.lock();
        let host = &state.hosts[host];
        let name = host.alias.to_string();
        topodata::Tablet {
            alias: Some((&host.alias).into()),
            hostname: name.clone(),
            port_map: [("grpc".to_owned(), 15_999)].into(),
            keyspace: self.shard.keyspace.clone(),
            shard: self.shard.shard.clone(),
            r#type: host.manager.tablet_type as i32,
            mysql_hostname: name,
            mysql_port: MYSQL_PORT,
            primary_term_start_time: host.manager.term,
            ..Default::default()
        }
    }

    /// Waits until something holds; looked at after every tick.
    pub async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut ticks = self.ticks.subscribe();
        while !holds(&self.lock()) {
            // The sender lives in the world.
            let _ = ticks.changed().await;
        }
    }

    /// A packet's way: it waits while the link is cut, and goes on when it is healed.
    pub async fn travel(&self, from: Node, to: Node) {
        loop {
            let delay = {
                let state = &mut *self.lock();
                state.net.delay(&mut state.rng, from, to)
            };
            tokio::time::sleep(delay).await;
            if self.lock().net.reaches(from, to) {
                return;
            }
            self.until(|state| state.net.reaches(from, to)).await;
        }
    }

    /// Waits while a process is frozen; a dead one never goes on.
    pub async fn gets_on(&self, node: Node) {
        let runs = |state: &State| state.seats.get(&node).is_none_or(|seat| seat.process == Process::Running);
        if !runs(&self.lock()) {
            self.until(runs).await;
        }
    }

    pub fn note(&self, text: impl AsRef<str>) {
        self.diary.note(text.as_ref());
    }

    pub fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.lock().rng)
    }

    fn tick(self: &Arc<Self>) {
        let now = Instant::now();
        let notes = {
            let state = &mut *self.lock();
            super::flow::step(state, now);
            super::clients::step(state, now, &self.shape);
            super::check::watch(state, now, self.start)
        };
        for note in notes {
            self.note(note);
        }
        self.ticks.send_modify(|tick| *tick += 1);
    }
}

impl State {
    pub fn between(&mut self, from: Node, to: Node) -> Duration {
        self.net.delay(&mut self.rng, from, to)
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// Rows of the reparent journal that a server has.
    pub fn rows(&self, host: usize) -> impl Iterator<Item = &JournalRow> {
        let executed = self.hosts[host].mysqld.executed;
        self.journal.iter().filter(move |row| executed.0[row.server] >= row.sequence)
    }
}
