//! The faces: gRPC in vtctld's words, and HTTP for metrics and health. Handlers read and ask; they decide nothing.

mod calls;
pub mod door;
pub mod events;
mod grpc;
mod guarding;
mod http;
pub(crate) mod listen;
mod measured;
mod reload;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prost_reflect::DescriptorPool;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use door::{Door, Entrance};
use events::{Alive, EventLog, LogSettings, Printer, webhook::Desk};
use listen::{Crowd, Gate};
use reload::Reload;

pub use calls::Limits;
pub use http::api::document as openapi;
pub use measured::{MeasuredStores, MeasuredTablets};

use crate::{
    config::Settings,
    ledger::{Clock, Commands},
    metrics::{Metrics, SecurityMetrics},
    mysql::{
        probe::{DirectMysql, DirectProbe},
        tls::MysqlTls,
    },
    pb,
    peers::{GrpcAsk, Observer, PeerDoor, PeerSettings},
    recover::{Elector, ElectorSettings, Live},
    reparent::{Hands, Outcome, ReparentError, ReparentSettings},
    rotating::Rotating,
    sense::SenseSettings,
    tablet::TabletManager,
    tls::{ServerSide, TlsError},
    topo::{ShardId, Topo},
};

/// After the last answer, how long open connections may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Questions to primaries whether they live, in the whole fleet: each costs some 30 us of a core.
const LIVENESS_PER_SECOND_MAX: u32 = 4000;

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (--{flag}): {source}; is another process there?")]
    Listen {
        /// The flag that the port came from.
        flag: &'static str,
        /// What was asked for.
        address: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// A certificate, key or authority cannot be used.
    #[error("TLS of a server (--{flags}-cert, --{flags}-key, --{flags}-ca): {problem}")]
    Tls {
        /// How the flags begin.
        flags: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// What proves who somebody is cannot be used.
    #[error("who may come in: {0}")]
    Door(String),
    /// Files of a connection that we make cannot be used.
    #[error("calling others: {0}")]
    Client(#[from] TlsError),
    /// The descriptors of our own messages cannot be read.
    #[error("the message descriptors in this program: {0}")]
    Schema(String),
    /// The descriptors for reflection cannot be read.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What the faces speak for.
#[derive(Clone)]
pub struct Parts {
    /// What reparents, with the topology and the tablets that it works on.
    pub hands: Hands,
    /// What looks at a tablet when another elector asks.
    pub observer: Arc<Observer>,
    /// Every metric of the process.
    pub metrics: Arc<Metrics>,
}

/// Asks why this process is not ready to decide anything by itself; `None` = it is.
type Readiness = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Ready is whoever has read the ledger and the topology, and has looked at every tablet of its shards.
fn readiness(elector: &Elector) -> Readiness {
    let (ledger, senses) = (elector.ledger.clone(), elector.senses.clone());
    Arc::new(move || match ledger.state().unread() {
        Some(reason) => Some(format!("the ledger cannot be read: {reason}")),
        None => senses.unseen(),
    })
}

impl Parts {
    /// Builds the hands, and counts what they do.
    pub fn new(topo: Topo, tablets: Arc<dyn TabletManager>, settings: ReparentSettings, metrics: Arc<Metrics>) -> Self {
        let counted = metrics.clone();
        let on_finished = move |shard: &ShardId, outcome: &Outcome| {
            if matches!(outcome.result, Err(ReparentError::NotDue { .. })) {
                return;
            }
            let operation = outcome.operation;
            counted.reparent(operation, shard, outcome.result.as_ref().err().map(ReparentError::reason), outcome.took);
            for (step, took) in &outcome.steps {
                counted.reparent_step(operation, *step, *took);
            }
        };
        let locks = metrics.locks.clone();
        topo.listen_to_locks(Arc::new(move |event| locks.event(event)));
        let observer = Arc::new(Observer::new(&topo, tablets.clone()));
        Self { hands: Hands::new(topo, tablets, settings).on_finished(Arc::new(on_finished)), observer, metrics }
    }
}

/// A server that answers until it is stopped. Dropping it ends it at once.
pub struct Server {
    /// Where gRPC is answered.
    pub grpc: SocketAddr,
    /// Where HTTP is answered.
    pub http: SocketAddr,
    stopping: CancellationToken,
    closing: CancellationToken,
    hands: Hands,
    /// What watches and acts by itself.
    pub elector: Elector,
    commands: Commands,
    /// What happened, as all electors have it.
    pub events: EventLog,
    /// Receivers of events.
    pub webhooks: Desk,
    faces: JoinSet<()>,
}

impl Server {
    /// Listens on both addresses and answers from then on.
    pub async fn start(settings: &Settings, parts: Parts, limits: Limits) -> Result<Self, ServeError> {
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let tls = (
            listen::tls(Entrance::Grpc, settings.grpc_tls.as_ref())?,
            listen::tls(Entrance::Http, settings.door.http_tls.as_ref())?,
        );
        let door = Arc::new(Door::new(&settings.door).map_err(ServeError::Door)?);
        let mysql_tls = settings.mysql_tls.as_ref().map(MysqlTls::load).transpose()?;
        let peers = PeerDoor::load(settings.peer_tls.as_ref(), settings.door.client_creds.as_deref())?;
        let grpc_listener = listen::bind("grpc-port", &settings.grpc).await?;
        let http_listener = listen::bind("port", &settings.http).await?;
        let (grpc, http) = (listen::address("grpc-port", &grpc_listener)?, listen::address("port", &http_listener)?);
        let (mut faces, hands) = (JoinSet::new(), parts.hands.clone());
        let (in_force, reload) = Reload::new(settings, parts.metrics.clone());
        let ask = Arc::new(GrpcAsk::new(peers, limits.message_bytes));
        let told = elector(settings, &parts, grpc, in_force.live.clone(), ask.clone(), mysql_tls);
        let who = told.peers.who.clone();
        let elector = Elector::start(hands.clone(), parts.metrics.clone(), told, &stopping);
        let security = parts.metrics.security.clone();
        let global = parts.hands.topo.global();
        let commands = Commands::start(global, &settings.ledger_root, &who, security.clone(), &stopping);
        let (events, webhooks) = event_log(settings, &parts, &elector, who, &stopping)?;
        let beside =
            calls::Beside { ask, commands: commands.clone(), events: events.clone(), webhooks: webhooks.clone(), in_force };
        let context = calls::Context::new(settings, parts, &elector, beside, limits, stopping.clone())?;
        guarding::announce(&door, &security);
        let servers = [tls.0.clone(), tls.1.clone()];
        faces.spawn(guarding::run(settings, door.clone(), security.clone(), servers, closing.clone()));
        let grpc_gate = gate(Entrance::Grpc, grpc_listener, tls.0, limits, security.clone());
        let http_gate = gate(Entrance::Http, http_listener, tls.1, limits, security);
        faces.spawn(grpc::serve(grpc_gate, door.clone(), context.clone(), limits.message_bytes, closing.clone())?);
        if let Some(reload) = reload {
            let ending = closing.clone();
            faces.spawn(async move { _ = ending.run_until_cancelled(reload.run()).await });
        }
        faces.spawn(http::serve(http_gate, door, context, limits, closing.clone()));
        Ok(Self { grpc, http, stopping, closing, hands, elector, commands, events, webhooks, faces })
    }

    /// Resolves when one of the faces has ended by itself, which only happens when its listener fails.
    pub async fn ended(&mut self) {
        self.faces.join_next().await;
    }

    /// Refuses new work, lets running reparents end within `wait`, closes. Returns whether all of them ended.
    pub async fn stop(mut self, wait: Duration) -> bool {
        self.stopping.cancel();
        let ended = tokio::time::timeout(wait, self.hands.drain()).await.is_ok();
        self.elector.stopped(CLOSE_WAIT).await;
        self.commands.stopped(CLOSE_WAIT).await;
        self.webhooks.stopped(CLOSE_WAIT).await;
        self.events.stopped(CLOSE_WAIT).await;
        self.hands.topo.shutdown(CLOSE_WAIT).await;
        self.closing.cancel();
        // A client that keeps its connection open must not keep the process.
        let _ = tokio::time::timeout(CLOSE_WAIT, async { while self.faces.join_next().await.is_some() {} }).await;
        ended
    }
}

/// Starts the log of events and what delivers it. They work beside the elector, and nothing of it waits for them.
fn event_log(
    settings: &Settings,
    parts: &Parts,
    elector: &Elector,
    who: String,
    stop: &CancellationToken,
) -> Result<(EventLog, Desk), ServeError> {
    let peers = elector.peers.clone();
    let alive: Alive = Arc::new(move |who| peers.electors().iter().any(|elector| elector.who == who));
    let place = LogSettings {
        kv: parts.hands.topo.global(),
        ledger_root: settings.ledger_root.clone(),
        who,
        clock: Clock::of_this_machine(),
    };
    let log = EventLog::start(place, &elector.board, alive, parts.metrics.events.clone(), stop);
    let schema = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|error| ServeError::Schema(error.to_string()))?;
    let webhooks = Desk::start(settings.events.webhook_file.clone(), log.clone(), Printer::new(schema), stop);
    Ok((log, webhooks))
}

/// Where clients come in at one of the faces.
fn gate(
    entrance: Entrance,
    listener: TcpListener,
    tls: Option<Rotating<ServerSide>>,
    limits: Limits,
    metrics: SecurityMetrics,
) -> Gate {
    let crowd = Crowd::new(limits.connections, limits.connections_of_address);
    Gate { entrance, listener, tls, crowd, metrics: Some(metrics) }
}

/// What the elector is told.
fn elector(
    settings: &Settings,
    parts: &Parts,
    grpc: SocketAddr,
    live: watch::Receiver<Arc<Live>>,
    ask: Arc<GrpcAsk>,
    mysql_tls: Option<MysqlTls>,
) -> ElectorSettings {
    let hostname = parts.hands.topo.hostname();
    let sense = SenseSettings {
        status_interval: settings.instance_poll_time,
        primary_liveness_interval: settings.primary_liveness_interval,
        liveness_per_second_max: LIVENESS_PER_SECOND_MAX,
        remote_operation_timeout: settings.remote_operation_timeout,
        watched: settings.watched.clone(),
        durability_extra: settings.durability_extra.clone(),
    };
    let peers = PeerSettings {
        ledger_root: settings.ledger_root.clone(),
        address: settings.advertised(grpc, hostname),
        who: format!("{hostname}:{}", grpc.port()),
        cell: settings.cell.clone(),
        watched: settings.watched.clone(),
    };
    ElectorSettings {
        sense,
        peers,
        ask,
        observer: parts.observer.clone(),
        direct: settings.fence.clone().map(|account| Arc::new(DirectProbe::new(account).tls(mysql_tls)) as Arc<dyn DirectMysql>),
        live,
        clock: Clock::of_this_machine(),
    }
}
