//! Wiring: from settings to a running agent, and its end.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Mutex, Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;

use super::{
    Action, Agent, AgentError, AgentSettings, LocalState,
    door::Door,
    fence::Fence,
    health::HealthService,
    hear::{Ear, WitnessService},
    pulse, register,
    rpc::TabletManagerService,
    settle, shard_sync, supervise,
};
use crate::{
    mysql::conn::{Mysql, MysqlConn, MysqlError},
    pb::{
        self, queryservice::query_server::QueryServer, tabletmanagerservice::tablet_manager_server::TabletManagerServer,
        vtelectoragent::witness_server::WitnessServer,
    },
    serve::{
        door::Entrance,
        listen::{self, Crowd, Gate, Stream},
    },
    tablet::TabletManager,
    topo::{Topo, TopoError},
};

/// Largest message either way; Vitess's default.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Requests of one connection that run at the same time.
const REQUESTS_PER_CONNECTION_MAX: usize = 64;

/// Connections at the same time: electors, vtctlds, and the other tablets of the shard.
const CONNECTIONS_MAX: usize = 1024;

/// Between two attempts to write our record.
const PUBLISH_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Limit of signing off and of ending what runs.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Oldest server whose statements we speak: CHANGE REPLICATION SOURCE came with it.
const OLDEST: (u16, u16, u16) = (8, 0, 23);

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its port is taken.
    #[error("cannot listen on {address} (--grpc-port): {source}; is another process there?")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// The server cannot be managed.
    #[error("mysqld at {address} cannot be managed: {reason}")]
    Server {
        /// Where it listens.
        address: String,
        /// What is wrong and what to change.
        reason: String,
    },
    /// MySQL does not answer.
    #[error("{0}")]
    Mysql(#[from] MysqlError),
    /// The topology refused or does not answer.
    #[error("{0}")]
    Topo(#[from] TopoError),
    /// Registering failed.
    #[error("{0}")]
    Register(#[from] AgentError),
    /// A certificate, key or authority cannot be used.
    #[error("{0}; see --grpc-cert, --grpc-key, --grpc-ca")]
    Tls(String),
    /// The descriptors for reflection cannot be read.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// It was told to stop before it had started.
    #[error("stopped before it had started")]
    Stopped,
}

/// A running agent.
pub struct Running {
    agent: Arc<Agent>,
    /// Where it answers.
    pub grpc: SocketAddr,
}

impl Running {
    /// Waits for `shutdown`, signs off in the topology, and ends what runs. MySQL is left as it is, as by a vttablet.
    pub async fn stopped(self) {
        self.agent.shutdown.cancelled().await;
        self.agent.change(|state| state.lame_duck = true);
        match timeout(STOP_TIMEOUT, self.agent.sign_off()).await {
            Ok(Ok(())) => tracing::info!(alias = %self.agent.settings.alias, "signed off"),
            Ok(Err(error)) => tracing::warn!(%error, "the record could not be signed off"),
            Err(_) => tracing::warn!("the record could not be signed off in time"),
        }
        self.agent.tasks.close();
        let _ = timeout(STOP_TIMEOUT, self.agent.tasks.wait()).await;
    }
}

/// Finds the server, registers it, and serves it until `shutdown`. Waits for a mysqld that is not there yet.
pub async fn start(
    settings: AgentSettings,
    topo: Topo,
    tablets: Arc<dyn TabletManager>,
    shutdown: CancellationToken,
) -> Result<Running, RunError> {
    let listener = TcpListener::bind(settings.grpc).await.and_then(|l| l.local_addr().map(|at| (l, at)));
    let (listener, grpc) = listener.map_err(|source| RunError::Listen { address: settings.grpc, source })?;
    let mysql = Mysql::new(settings.mysql.clone());
    let fence = Fence::open(&settings.data_dir, &settings.alias.to_string()).await?;
    let (conn, mysql_port) = tokio::select! {
        () = shutdown.cancelled() => return Err(RunError::Stopped),
        found = find_server(&mysql, &settings) => found?,
    };
    let sidecar = register::keyspace_and_shard(&topo, &settings).await?;
    let tablet = register::tablet(&topo, &settings, grpc.port(), mysql_port).await?;
    tracing::info!(
        alias = %settings.alias, shard = %settings.shard, %grpc, mysql = %settings.mysql.address,
        kind = tablet.r#type().as_str_name(), "registered"
    );
    let (silence, mysql_down, unsettled, replication_problem) = (None, None, None, None);
    let state = LocalState {
        tablet,
        writable: false,
        silence,
        crowded: None,
        mysql_down,
        unsettled,
        replication_problem,
        lag_s: 0,
        lame_duck: false,
    };
    let agent = Arc::new(Agent {
        settings,
        topo,
        tablets,
        mysql,
        sidecar,
        state: watch::channel(state).0,
        action: Mutex::new(Action::default()),
        fence: Mutex::new(fence),
        door: Door::default(),
        ear: Ear::default(),
        unpublished: Notify::new(),
        unsettled: Notify::new(),
        closed_at_start: AtomicBool::new(false),
        health_wanted: Notify::new(),
        tasks: TaskTracker::new(),
        shutdown,
    });
    // Before the first call is served: a call that makes this server writable is not to be overtaken by this.
    if let Err(error) = agent.close_after_start().await {
        tracing::warn!(%error, "this server cannot be made read-only yet; trying again");
    }
    serve(&agent, listener)?;
    agent.tasks.spawn(supervise::run(agent.clone(), conn));
    agent.tasks.spawn(pulse::run(agent.clone()));
    agent.tasks.spawn(settle::run(agent.clone()));
    agent.tasks.spawn(shard_sync::run(agent.clone()));
    agent.tasks.spawn(publisher(agent.clone()));
    Ok(Running { agent, grpc })
}

/// Waits for the server and checks that it can be managed at all.
async fn find_server(mysql: &Mysql, settings: &AgentSettings) -> Result<(MysqlConn, u16), RunError> {
    let mut told = false;
    let mut conn = loop {
        match mysql.connect(Instant::now() + settings.remote_operation_timeout).await {
            Ok(conn) => break conn,
            Err(error @ MysqlError::Unreachable { .. }) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "waiting for mysqld");
                }
                sleep(PUBLISH_RETRY_DELAY).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let deadline = Instant::now() + settings.remote_operation_timeout;
    let sql = "SELECT @@global.gtid_mode, @@global.enforce_gtid_consistency, @@global.log_bin, @@global.port, @@global.version, \
               @@global.server_id";
    let row = conn.query_one(sql, deadline).await?;
    let text = |at| row.at(at).unwrap_or_default();
    let refused = |reason: String| RunError::Server { address: mysql.address().to_string(), reason };
    let version = conn.version();
    if text(4).contains("MariaDB") || version < OLDEST {
        let (major, minor, patch) = OLDEST;
        return Err(refused(format!("it is version {}; MySQL {major}.{minor}.{patch} or later is needed", text(4))));
    }
    if text(0) != "ON" || text(1) != "ON" {
        return Err(refused("set gtid_mode = ON and enforce_gtid_consistency = ON in its configuration".to_owned()));
    }
    if text(2) != "1" || text(5) == "0" {
        return Err(refused("set log_bin and a server_id of its own in its configuration".to_owned()));
    }
    let port = settings.mysql_port.or_else(|| text(3).parse().ok()).unwrap_or(0);
    Ok((conn, port))
}

fn serve(agent: &Arc<Agent>, listener: TcpListener) -> Result<(), RunError> {
    let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS);
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let (reporter, health) = tonic_health::server::health_reporter();
    let manager = TabletManagerServer::new(TabletManagerService(agent.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let tls = listen::tls(Entrance::Grpc, agent.settings.grpc_tls.as_ref()).map_err(|error| RunError::Tls(error.to_string()))?;
    let crowd = Crowd::new(CONNECTIONS_MAX, CONNECTIONS_MAX);
    let gate = Gate { entrance: Entrance::Grpc, listener, tls, crowd, metrics: None };
    let router = Server::builder()
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION_MAX)
        .add_service(manager)
        .add_service(QueryServer::new(HealthService(agent.clone())))
        .add_service(WitnessServer::new(WitnessService(agent.clone())))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha);
    let shutdown = agent.shutdown.clone();
    let (arrivals, taking) = gate.open(agent.shutdown.clone());
    let incoming = ReceiverStream::new(arrivals).map(Ok::<Stream, Infallible>);
    agent.tasks.spawn(taking);
    agent.tasks.spawn(async move {
        reporter.set_serving::<TabletManagerServer<TabletManagerService>>().await;
        reporter.set_serving::<QueryServer<HealthService>>().await;
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned()).await {
            tracing::error!(%error, "the gRPC server ended");
            shutdown.cancel();
        }
    });
    Ok(())
}

/// Writes our record again where that failed.
async fn publisher(agent: Arc<Agent>) {
    loop {
        tokio::select! {
            () = agent.shutdown.cancelled() => return,
            () = agent.unpublished.notified() => {}
        }
        while agent.write_record().await.is_err() {
            tokio::select! {
                () = agent.shutdown.cancelled() => return,
                () = sleep(PUBLISH_RETRY_DELAY) => {}
            }
        }
    }
}
