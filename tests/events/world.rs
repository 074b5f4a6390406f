//! Boards, logs and deliverers of a few electors over one store.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use prost_reflect::DescriptorPool;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vtelector::{
    diagnose::{Code, Problem, Remedy},
    ledger::{Clock, Kind, Outcome, Recovery},
    metrics::Metrics,
    pb::{self, vtelector::Event},
    recover::board::{Blocked, Board, DecisionRecord, ShardReport},
    serve::events::{
        EventLog, LogSettings, Printer,
        webhook::{Desk, Failure, Message, Post, Posts},
    },
    topo::{Kv, KvEntry, KvError, LeaseId, Listing, ShardId, Version, Watch},
};

pub const ROOT: &str = "/vtelector";
/// Much longer than anything takes; on a paused clock it costs nothing.
pub const SOON: Duration = Duration::from_secs(60);

/// A wall clock that goes with tokio's, and that a test may put forward beyond that.
fn clock(jumped: Arc<Mutex<Duration>>) -> Clock {
    let began = tokio::time::Instant::now();
    Clock::new(Arc::new(move || now() + began.elapsed() + *jumped.lock().unwrap()))
}

/// Which electors are alive, as a test says.
pub type Alive = Arc<Mutex<BTreeMap<String, bool>>>;

/// One elector, as far as events go.
pub struct Elector {
    pub board: Board,
    pub log: EventLog,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    jumped: Arc<Mutex<Duration>>,
}

impl Elector {
    pub fn start(kv: Arc<dyn Kv>, who: &str, alive: &Alive) -> Self {
        let (board, metrics, stop) = (Board::default(), Arc::new(Metrics::new().unwrap()), CancellationToken::new());
        alive.lock().unwrap().insert(who.to_owned(), true);
        let alive = alive.clone();
        let is_alive = Arc::new(move |who: &str| alive.lock().unwrap().get(who).copied().unwrap_or_default());
        let jumped = Arc::<Mutex<Duration>>::default();
        let log = EventLog::start(place(kv, who, jumped.clone()), &board, is_alive, metrics.events.clone(), &stop);
        Self { board, log, metrics, stop, jumped }
    }

    pub fn alone(kv: Arc<dyn Kv>) -> Self {
        Self::start(kv, "elector1:15999", &Alive::default())
    }

    /// Delivers by `post`, as the file says.
    pub fn deliver(&self, file: &Path, post: Arc<dyn Post>) -> Desk {
        let posts: Posts = Arc::new(move |_| Ok(post.clone()));
        Desk::with_posts(Some(file.to_owned()), self.log.clone(), printer(), posts, TaskTracker::new(), &self.stop)
    }

    /// Delivers over HTTP, as the file says.
    pub fn deliver_over_http(&self, file: &Path) -> Desk {
        Desk::start(Some(file.to_owned()), self.log.clone(), printer(), &self.stop)
    }

    /// So much time passes on the wall.
    pub fn jump(&self, time: Duration) {
        *self.jumped.lock().unwrap() += time;
    }

    /// The value of a metric; 0 where it does not show.
    pub fn metric(&self, line: &str) -> f64 {
        let page = self.metrics.page().unwrap();
        page.lines().find_map(|found| found.strip_prefix(&format!("{line} "))?.parse().ok()).unwrap_or_default()
    }

    /// Waits until the log has that many events after a number, and answers them.
    pub async fn logged(&self, after: u64, count: usize) -> Vec<Event> {
        let mut changes = self.log.changes();
        let found = async {
            loop {
                changes.borrow_and_update();
                let (events, _) = self.log.after(after, usize::MAX, |_| true);
                if events.len() >= count {
                    return events;
                }
                changes.changed().await.unwrap();
            }
        };
        timeout(SOON, found).await.unwrap_or_else(|_| panic!("only {:?}", self.log.after(after, usize::MAX, |_| true).0))
    }
}

fn place(kv: Arc<dyn Kv>, who: &str, jumped: Arc<Mutex<Duration>>) -> LogSettings {
    LogSettings { kv, ledger_root: ROOT.to_owned(), who: who.to_owned(), clock: clock(jumped) }
}

pub fn printer() -> Printer {
    Printer::new(DescriptorPool::decode(pb::DESCRIPTORS).unwrap())
}

/// Waits until `holds`, looking now and then.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let looks = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(SOON, looks).await.is_ok(), "never came: {what}");
}

pub fn shard(name: &str) -> ShardId {
    name.parse().unwrap()
}

pub fn problem(code: Code, tablet: &str, why: &str) -> Problem {
    Problem { code, tablet: Some(tablet.parse().unwrap()), why: why.to_owned(), remedy: Remedy::Report }
}

pub fn dead() -> Problem {
    problem(Code::DeadPrimary, "zone1-100", "its port refuses connections")
}

pub fn report(name: &str, at: SystemTime, problems: Vec<Problem>) -> ShardReport {
    ShardReport { shard: shard(name), problems, decision: decision(at, "nothing", None) }
}

pub fn decision(at: SystemTime, action: &str, blocked_by: Option<&str>) -> DecisionRecord {
    let blocked = |by: &str| Blocked { by: by.to_owned(), reason: format!("{by} says so"), until: None };
    DecisionRecord {
        at,
        action: action.to_owned(),
        tablet: None,
        code: Some(Code::DeadPrimary),
        why: "DeadPrimary: its port refuses connections".to_owned(),
        rejected: Vec::new(),
        blocked: blocked_by.map(blocked),
    }
}

pub fn recovery(name: &str, outcome: Outcome) -> Recovery {
    Recovery {
        shard: shard(name),
        code: "DeadPrimary".to_owned(),
        kind: Kind::Emergency,
        promoted: Some("zone1-101".parse().unwrap()),
        old: Some("zone1-100".parse().unwrap()),
        who: "elector1:15999".to_owned(),
        at: now(),
        took: Duration::from_millis(350),
        outcome,
        evidence: "its port refuses connections".to_owned(),
    }
}

pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_760_000_000)
}

/// Tells the board of so many recoveries, of shards that are numbered from 0 on.
pub fn recover(board: &Board, numbers: std::ops::Range<usize>) {
    for number in numbers {
        board.recovered(&recovery(&format!("commerce/{number}"), Outcome::Done));
    }
}

/// A file of webhooks in a folder of its own.
pub fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("webhooks.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// Takes or refuses messages as a test says, and remembers what it was given.
#[derive(Default)]
pub struct Script {
    pub taken: Mutex<Vec<Message>>,
    pub tried: Mutex<u64>,
    when_taken: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// What it answers; nothing = it takes everything.
    pub fails: Mutex<Option<Failure>>,
}

impl Script {
    pub fn failing(is_passing: bool) -> Arc<Self> {
        let script = Self::default();
        script.refuse(is_passing);
        Arc::new(script)
    }

    /// Answers 500 from now on.
    pub fn refuse(&self, is_passing: bool) {
        let text = "http://pager: it answered 500".to_owned();
        *self.fails.lock().unwrap() = Some(Failure { reason: "status_5xx", text, is_passing, retry_after: None });
    }

    /// Does that whenever it has taken something, before it says so.
    pub fn when_taken(&self, does: impl Fn() + Send + 'static) {
        *self.when_taken.lock().unwrap() = Some(Box::new(does));
    }

    pub fn mend(&self) {
        *self.fails.lock().unwrap() = None;
    }

    pub fn tried(&self) -> u64 {
        *self.tried.lock().unwrap()
    }

    /// The numbers of the events that it has taken, in order.
    pub fn sequences(&self) -> Vec<u64> {
        self.taken.lock().unwrap().iter().map(|message| message.sequence).collect()
    }
}

#[async_trait]
impl Post for Script {
    async fn post(&self, message: &Message) -> Result<(), Failure> {
        *self.tried.lock().unwrap() += 1;
        if let Some(failure) = self.fails.lock().unwrap().clone() {
            return Err(failure);
        }
        self.taken.lock().unwrap().push(message.clone());
        if let Some(does) = &*self.when_taken.lock().unwrap() {
            does();
        }
        Ok(())
    }
}

/// The store as an elector sees it that may die: nothing that it asks for is done before it lives again.
pub struct Mortal {
    inner: Arc<dyn Kv>,
    is_dead: watch::Sender<bool>,
}

impl Mortal {
    pub fn new(inner: Arc<dyn Kv>) -> Self {
        Self { inner, is_dead: watch::Sender::new(false) }
    }

    pub fn die(&self) {
        self.is_dead.send_replace(true);
    }

    pub fn live(&self) {
        self.is_dead.send_replace(false);
    }
}

/// Writes the methods of the store: each is the inner store's, and waits while that is dead.
macro_rules! mortal_kv {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Kv for Mortal {
            $(async fn $name(&self, $($arg: $kind),*) -> Result<$answer, KvError> {
                _ = self.is_dead.subscribe().wait_for(|is_dead| !is_dead).await;
                self.inner.$name($($arg),*).await
            })*
        }
    };
}

mortal_kv! {
    get(key: &str) -> Option<KvEntry>;
    get_at(key: &str, revision: Version) -> Option<KvEntry>;
    list(prefix: &str) -> Listing;
    list_keys(prefix: &str) -> Listing;
    create(key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Version;
    update(key: &str, value: Vec<u8>, expected: Version) -> Version;
    put(key: &str, value: Vec<u8>) -> Version;
    delete(key: &str, expected: Option<Version>) -> bool;
    put_guarded(guard: (&str, Version), key: &str, value: Vec<u8>) -> Option<Version>;
    lease_grant(ttl: Duration) -> LeaseId;
    lease_keepalive(lease: LeaseId) -> Duration;
    lease_revoke(lease: LeaseId) -> ();
    watch(prefix: &str, from: Version) -> Watch;
}
