//! `vtelector agent`: the flags; Vitess's names where it has one.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, AgentSettings, ReplicationAccount},
    config::{self, ConfigError, GoDuration, LogFormat, TabletTlsArgs, TopoArgs},
    mysql::conn::{MysqlAddress, MysqlSettings, Secret},
    pb::topodata::TabletType,
    tablet::{GrpcTabletManager, TabletSettings},
    topo::{ShardId, TabletAlias, Topo, TopoSettings},
};

/// The types that a tablet can start as; nobody starts as primary by a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitType {
    /// May become primary
    Replica,
    /// For batch reads
    Rdonly,
    /// Held back
    Spare,
}

/// Flags of `vtelector agent`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct AgentArgs {
    /// Where the topology is.
    #[command(flatten)]
    pub topo: TopoArgs,
    /// Alias of this tablet, such as zone1-0000000101 or zone1-101
    #[arg(long, value_name = "ALIAS")]
    pub tablet_path: TabletAlias,
    /// Keyspace that the server belongs to; made where it is missing
    #[arg(long, value_name = "KEYSPACE")]
    pub init_keyspace: String,
    /// Shard that the server belongs to; made where it is missing
    #[arg(long, value_name = "SHARD")]
    pub init_shard: String,
    /// Type to start as
    #[arg(long, value_name = "TYPE", value_enum, default_value = "replica", ignore_case = true)]
    pub init_tablet_type: InitType,
    /// Tags of the tablet record: key:value, with commas between
    #[arg(long, value_name = "KEY:VALUE,...", value_delimiter = ',')]
    pub init_tags: Vec<String>,
    /// Name under which others reach this machine
    #[arg(long, value_name = "HOST", default_value = "")]
    pub tablet_hostname: String,
    /// Address for gRPC; all addresses when empty
    #[arg(long, value_name = "HOST", default_value = "", help_heading = "Listening")]
    pub grpc_bind_address: String,
    /// Port for gRPC
    #[arg(long, value_name = "PORT", default_value = "16100", help_heading = "Listening")]
    pub grpc_port: u16,
    /// TLS towards other tablets.
    #[command(flatten)]
    pub tablet_tls: TabletTlsArgs,
    /// Unix socket of the MySQL server
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub db_socket: Option<PathBuf>,
    /// Host of the MySQL server, where no socket is given
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", help_heading = "MySQL")]
    pub db_host: String,
    /// Port of the MySQL server, where no socket is given
    #[arg(long, value_name = "PORT", default_value = "3306", help_heading = "MySQL")]
    pub db_port: u16,
    /// Administrative account; README.md lists the grants it needs
    #[arg(long, value_name = "USER", default_value = "vt_dba", help_heading = "MySQL")]
    pub db_dba_user: String,
    /// File with its password
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub db_dba_password_file: Option<PathBuf>,
    /// Account with which replicas log in to their source; it needs REPLICATION SLAVE
    #[arg(long, value_name = "USER", default_value = "vt_repl", help_heading = "MySQL")]
    pub db_repl_user: String,
    /// File with its password
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub db_repl_password_file: Option<PathBuf>,
    /// Replicas speak TLS with their source
    #[arg(long, help_heading = "MySQL")]
    pub db_repl_use_ssl: bool,
    /// Authority that signed the sources' certificates, as a file on the MySQL server's host
    #[arg(long, value_name = "FILE", requires = "db_repl_use_ssl", help_heading = "MySQL")]
    pub db_repl_ssl_ca: Option<String>,
    /// Certificate of this server towards its source, likewise
    #[arg(long, value_name = "FILE", requires = "db_repl_use_ssl", help_heading = "MySQL")]
    pub db_repl_ssl_cert: Option<String>,
    /// Key of that certificate, likewise
    #[arg(long, value_name = "FILE", requires = "db_repl_use_ssl", help_heading = "MySQL")]
    pub db_repl_ssl_key: Option<String>,
    /// Port under which replicas reach the MySQL server; 0 = ask it
    #[arg(long, value_name = "PORT", default_value = "0", help_heading = "MySQL")]
    pub mycnf_mysql_port: u16,
    /// Folder for the little that must survive a restart of the agent
    #[arg(long, value_name = "FOLDER", help_heading = "Process")]
    pub data_dir: PathBuf,
    /// How often the health stream repeats itself
    #[arg(long, value_name = "DURATION", default_value = "20s", help_heading = "Process")]
    pub health_check_interval: GoDuration,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json, help_heading = "Process")]
    pub log_format: LogFormat,
    /// debug, info, warn or error; or a filter such as info,vtelector::topo=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Process")]
    pub log_level: String,
}

impl TryFrom<&AgentArgs> for AgentSettings {
    type Error = ConfigError;

    fn try_from(args: &AgentArgs) -> Result<Self, ConfigError> {
        let shard = ShardId::new(&args.init_keyspace, &args.init_shard).map_err(|e| {
            ConfigError::new("init-keyspace, --init-shard", "", e.to_string(), "name the shard that this server belongs to")
        })?;
        let hostname = match args.tablet_hostname.as_str() {
            "" => this_host()?,
            given => given.to_owned(),
        };
        let mysql_port = match (args.mycnf_mysql_port, &args.db_socket) {
            (0, Some(_)) => None,
            (0, None) => Some(args.db_port),
            (port, _) => Some(port),
        };
        let address = match &args.db_socket {
            Some(socket) => MysqlAddress::Socket(socket.clone()),
            None => MysqlAddress::Tcp { host: args.db_host.clone(), port: args.db_port },
        };
        Ok(Self {
            alias: args.tablet_path.clone(),
            shard,
            start_type: match args.init_tablet_type {
                InitType::Replica => TabletType::Replica,
                InitType::Rdonly => TabletType::Rdonly,
                InitType::Spare => TabletType::Spare,
            },
            tags: tags(&args.init_tags)?,
            hostname,
            mysql_port,
            grpc: listen(&args.grpc_bind_address, args.grpc_port)?,
            mysql: MysqlSettings {
                address,
                user: args.db_dba_user.clone(),
                password: password("db-dba-password-file", args.db_dba_password_file.as_ref())?,
                connect_timeout: args.topo.remote_operation_timeout.0,
            },
            replication: ReplicationAccount {
                user: args.db_repl_user.clone(),
                password: password("db-repl-password-file", args.db_repl_password_file.as_ref())?,
                ssl: args.db_repl_use_ssl,
                ssl_ca: args.db_repl_ssl_ca.clone(),
                ssl_cert: args.db_repl_ssl_cert.clone(),
                ssl_key: args.db_repl_ssl_key.clone(),
            },
            data_dir: args.data_dir.clone(),
            remote_operation_timeout: args.topo.remote_operation_timeout.0,
            lock_timeout: args.topo.lock_timeout.0,
            health_check_interval: args.health_check_interval.0,
        })
    }
}

/// Runs until SIGTERM or SIGINT, then signs off in the topology. MySQL is left as it is.
pub fn run(args: &AgentArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(serve(args)).map_or_else(|error| failed(&*error), |()| ExitCode::SUCCESS);
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    code
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

async fn serve(args: &AgentArgs) -> Result<(), Box<dyn std::error::Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let work = async {
        let topo = Topo::connect(&TopoSettings::try_from(&args.topo)?).await?;
        let tls = config::tablet_tls(&args.tablet_tls)?;
        let tablets = Arc::new(GrpcTabletManager::new(TabletSettings { tls, ..TabletSettings::default() })?);
        let running = agent::start(AgentSettings::try_from(args)?, topo, tablets, shutdown.clone()).await?;
        running.stopped().await;
        Ok(())
    };
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    match work.await {
        // Told to stop before it had begun: that is no failure.
        Err(error) if matches!(error.downcast_ref(), Some(agent::RunError::Stopped)) => Ok(()),
        ended => ended,
    }
}

fn listen(host: &str, port: u16) -> Result<SocketAddr, ConfigError> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let wrong = |reason: String| ConfigError::new("grpc-bind-address", host, reason, "give an address of this machine");
    let mut found = (host, port).to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    found.next().ok_or_else(|| wrong("no address has that name".to_owned()))
}

fn this_host() -> Result<String, ConfigError> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    match name.as_str() {
        "" => Err(ConfigError::new(
            "tablet-hostname",
            "",
            "this machine does not tell its name",
            "give the name by which others reach it",
        )),
        _ => Ok(name),
    }
}

fn tags(list: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    let pair = |text: &String| match text.split_once(':') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(ConfigError::new("init-tags", text, "is no tag", "write key:value, with commas between")),
    };
    list.iter().filter(|text| !text.is_empty()).map(pair).collect()
}

/// The first line of a file; the rest of what an editor leaves is no part of a password.
fn password(flag: &str, file: Option<&PathBuf>) -> Result<Secret, ConfigError> {
    let Some(file) = file else { return Ok(Secret::default()) };
    let text = fs::read_to_string(file).map_err(|e| {
        ConfigError::new(flag, file.display(), format!("cannot be read: {e}"), "name a file that this process may read")
    })?;
    Ok(Secret(text.lines().next().unwrap_or_default().to_owned()))
}
