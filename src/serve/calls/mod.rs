//! Every call, whichever face it comes through: what vtctld serves and an operator of an elector needs, and what is our own.

pub mod board;
pub mod cells;
pub mod elector;
pub mod errant;
pub mod events;
pub mod explain;
mod input;
pub mod keyspaces;
pub mod ledger;
pub mod observe;
mod others;
pub mod overview;
pub mod path;
pub mod record;
pub mod refusal;
pub mod reparent;
pub mod replication;
pub mod shards;
pub mod states;
pub mod tablets;
pub mod validate;
mod wish;

pub use refusal::Refusal;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use prost_reflect::DescriptorPool;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Parts, Readiness, ServeError,
    events::{EventLog, webhook::Desk},
    reload::InForce,
};
use crate::{
    config::{LimitSettings, Settings},
    ledger::{Commands, Ledger},
    metrics::Metrics,
    pb,
    peers::{GrpcAsk, Observer, Peers},
    recover::{Elector, Live, board::Board},
    reparent::Hands,
    sense::Senses,
    tablet::{Call, TabletManager},
    topo::{Snapshot, Topo},
};

/// Records that one call reads, or tablets that it asks, at the same time.
const AT_ONCE_MAX: usize = 32;

/// Waits for all, a bounded number at the same time; the answers come in the order of the questions.
async fn at_once<F: Future>(questions: impl Iterator<Item = F>) -> Vec<F::Output> {
    stream::iter(questions).buffered(AT_ONCE_MAX).collect().await
}

/// A duration as our messages have it.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How much is done at the same time. What is more is refused with RESOURCE_EXHAUSTED, not queued.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests of any kind.
    pub requests: usize,
    /// Reparents, each of another shard: those of the same shard wait for its lock.
    pub reparents: usize,
    /// Dry runs of reparents. Readers may ask for them, so they take no place of a reparent.
    pub previews: usize,
    /// A reader of the log of events that takes none for so long is cut off.
    pub reader_takes_within: Duration,
    /// Connections to gRPC, and as many to HTTP; more are closed at once.
    pub connections: usize,
    /// Those of one client address.
    pub connections_of_address: usize,
    /// Bytes of one message over gRPC, also of an answer of another elector.
    pub message_bytes: usize,
    /// How long the headers of an HTTP request may take, and how long a connection may be idle.
    pub headers_wait: Duration,
    /// How long the body of an HTTP request may take.
    pub body_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&LimitSettings::default())
    }
}

impl From<&LimitSettings> for Limits {
    fn from(settings: &LimitSettings) -> Self {
        let LimitSettings { message_bytes, connections, connections_of_address } = *settings;
        Self {
            requests: 512,
            reparents: 64,
            previews: 16,
            connections,
            connections_of_address,
            message_bytes,
            headers_wait: Duration::from_secs(30),
            body_wait: Duration::from_secs(10),
            reader_takes_within: Duration::from_secs(30),
        }
    }
}

/// What works beside the elector.
pub struct Beside {
    /// How the other electors are asked.
    pub ask: Arc<GrpcAsk>,
    /// What persons asked for.
    pub commands: Commands,
    /// The log of events.
    pub events: EventLog,
    /// What delivers them.
    pub webhooks: Desk,
    /// The settings in force.
    pub in_force: InForce,
}

/// What every call works with.
pub struct Context {
    /// The topology.
    pub topo: Topo,
    tablets: Arc<dyn TabletManager>,
    hands: Hands,
    senses: Arc<Senses>,
    peers: Peers,
    others: others::Others,
    observer: Arc<Observer>,
    /// Every metric of the process.
    pub metrics: Arc<Metrics>,
    remote_operation_timeout: Duration,
    lock_timeout: Duration,
    /// `--instance-poll-time`.
    pub instance_poll_time: Duration,
    wait_replicas_timeout: Duration,
    /// Requests that are answered at the same time.
    pub requests_max: usize,
    /// The descriptors of every message.
    pub schema: DescriptorPool,
    reparents_max: usize,
    reader_takes_within: Duration,
    reparent_permits: Arc<Semaphore>,
    preview_permits: Arc<Semaphore>,
    /// Cancelled when this process is about to end.
    pub stopping: CancellationToken,
    board: Arc<Board>,
    commands: Commands,
    ledger: Ledger,
    live: watch::Receiver<Arc<Live>>,
    ready: Readiness,
    settings_error: watch::Receiver<Option<String>>,
    effective: watch::Receiver<Arc<BTreeMap<String, String>>>,
    watchers: Arc<Semaphore>,
    /// What happened, of all electors.
    pub events: EventLog,
    /// Receivers of events.
    pub webhooks: Desk,
    /// Owns what feeds readers of events; each ends with its reader, or with `stopping`.
    pub tasks: TaskTracker,
}

impl Context {
    /// No reparent is begun after `stopping`.
    pub fn new(
        settings: &Settings,
        parts: Parts,
        elector: &Elector,
        beside: Beside,
        limits: Limits,
        stopping: CancellationToken,
    ) -> Result<Arc<Self>, ServeError> {
        let schema = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|e| ServeError::Schema(e.to_string()))?;
        Ok(Arc::new(Self {
            schema,
            topo: parts.hands.topo.clone(),
            tablets: parts.hands.tablets.clone(),
            hands: parts.hands,
            senses: elector.senses.clone(),
            peers: elector.peers.clone(),
            others: others::Others::new(beside.ask, elector.peers.clone()),
            observer: parts.observer,
            metrics: parts.metrics,
            remote_operation_timeout: settings.remote_operation_timeout,
            lock_timeout: settings.lock_timeout,
            instance_poll_time: settings.instance_poll_time,
            wait_replicas_timeout: settings.wait_replicas_timeout,
            requests_max: limits.requests,
            reparents_max: limits.reparents,
            reader_takes_within: limits.reader_takes_within,
            reparent_permits: Arc::new(Semaphore::new(limits.reparents)),
            preview_permits: Arc::new(Semaphore::new(limits.previews)),
            stopping,
            board: elector.board.clone(),
            ledger: elector.ledger.clone(),
            live: elector.live.clone(),
            ready: super::readiness(elector),
            settings_error: beside.in_force.error,
            effective: beside.in_force.effective,
            watchers: Arc::new(Semaphore::new(board::WATCHERS_MAX)),
            commands: beside.commands,
            events: beside.events,
            webhooks: beside.webhooks,
            tasks: TaskTracker::new(),
        }))
    }

    /// Why this process is not ready to decide anything by itself; `None` = it is.
    pub fn not_ready(&self) -> Option<String> {
        (self.ready)()
    }

    /// This elector, for a person.
    pub fn who(&self) -> &str {
        &self.hands.settings.who
    }

    /// `--reasonable-replication-lag`, as it is now.
    pub fn reasonable_lag(&self) -> Duration {
        self.live.borrow().rules.reasonable_replication_lag
    }

    /// Everything that the topology declares; `None` before it was read.
    pub fn declared(&self) -> Option<Arc<Snapshot>> {
        self.senses.declared()
    }

    /// The value of every flag that is in force, by name; empty where the settings came from no command line.
    pub fn effective(&self) -> Arc<BTreeMap<String, String>> {
        self.effective.borrow().clone()
    }

    /// The limits of one call to a tablet.
    fn call(&self) -> Call {
        Call::read(self.remote_operation_timeout)
    }
}
