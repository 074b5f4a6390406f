//! `vtelector agent`: checks the flags, connects to the topology, runs the agent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, AgentSettings, ReplicationAccount, RunError},
    config::{self, ConfigError, GoDuration, LogFormat, ServerTlsArgs, TabletTlsArgs, TopoArgs},
    mysql::conn::{MysqlAddress, MysqlSettings, Secret},
    pb::topodata::TabletType,
    tablet::{GrpcTabletManager, TabletSettings, TlsError},
    topo::{ShardId, TabletAlias, Topo, TopoError, TopoSettings},
};

/// After shutdown, how long the topology's own tasks may take to end.
const TOPO_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Flags of `vtelector agent`: vttablet's names where they exist.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct AgentArgs {
    /// Where the topology is.
    #[command(flatten)]
    pub topo: TopoArgs,
    /// Alias of this tablet: CELL-UID, such as zone1-0000000100
    #[arg(long, value_name = "CELL-UID", help_heading = "Tablet")]
    pub tablet_path: String,
    /// Keyspace of this tablet; made when it does not exist
    #[arg(long, value_name = "NAME", help_heading = "Tablet")]
    pub init_keyspace: String,
    /// Shard of this tablet; made when it does not exist
    #[arg(long, value_name = "NAME", help_heading = "Tablet")]
    pub init_shard: String,
    /// Type at start: replica, rdonly or spare
    #[arg(long, value_name = "TYPE", default_value = "replica", help_heading = "Tablet")]
    pub init_tablet_type: String,
    /// Tags of the tablet's record: key:value, with commas between
    #[arg(long, value_name = "KEY:VALUE,...", value_delimiter = ',', help_heading = "Tablet")]
    pub init_tags: Vec<String>,
    /// Name under which other hosts reach this one, for gRPC and for MySQL
    #[arg(long, value_name = "HOST", help_heading = "Tablet")]
    pub tablet_hostname: String,
    /// Folder for the file that keeps the highest shard-lock revision seen
    #[arg(long, value_name = "DIR", help_heading = "Tablet")]
    pub data_dir: PathBuf,
    /// Address for gRPC
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", help_heading = "Listening")]
    pub grpc_bind_address: IpAddr,
    /// Port for gRPC; 0 takes a free one and registers it
    #[arg(long, value_name = "PORT", default_value = "15991", help_heading = "Listening")]
    pub grpc_port: u16,
    /// Unix socket of mysqld
    #[arg(long, visible_alias = "db-socket", value_name = "FILE", help_heading = "MySQL")]
    pub mysql_socket: Option<PathBuf>,
    /// Host of mysqld, where it is not reached by socket
    #[arg(long, visible_alias = "db-host", value_name = "HOST", default_value = "127.0.0.1", help_heading = "MySQL")]
    pub mysql_host: String,
    /// Port of mysqld, for connecting without a socket and for the tablet's record; asked of mysqld when it is left out
    #[arg(long, visible_aliases = ["db-port", "mycnf-mysql-port"], value_name = "PORT", help_heading = "MySQL")]
    pub mysql_port: Option<u16>,
    /// Administrative account; it needs SUPER-like privileges, CONNECTION_ADMIN among them
    #[arg(long, visible_alias = "db-dba-user", value_name = "NAME", default_value = "vt_dba", help_heading = "MySQL")]
    pub mysql_user: String,
    /// File with its password; none when left out
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub mysql_password_file: Option<PathBuf>,
    /// Limit of a login to mysqld
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "MySQL")]
    pub mysql_connect_timeout: GoDuration,
    /// Account with which replicas log in to their source
    #[arg(long, visible_alias = "db-repl-user", value_name = "NAME", default_value = "vt_repl", help_heading = "MySQL")]
    pub replication_user: String,
    /// File with its password; none when left out
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub replication_password_file: Option<PathBuf>,
    /// Replicate over TLS
    #[arg(long, help_heading = "MySQL")]
    pub replication_ssl: bool,
    /// Authority of the source's certificate, a file for mysqld to read
    #[arg(long, value_name = "FILE", requires = "replication_ssl", help_heading = "MySQL")]
    pub replication_ssl_ca: Option<String>,
    /// Client certificate, a file for mysqld to read
    #[arg(long, value_name = "FILE", requires = "replication_ssl", help_heading = "MySQL")]
    pub replication_ssl_cert: Option<String>,
    /// Its key, a file for mysqld to read
    #[arg(long, value_name = "FILE", requires = "replication_ssl", help_heading = "MySQL")]
    pub replication_ssl_key: Option<String>,
    /// TLS of our own server.
    #[command(flatten)]
    pub server_tls: ServerTlsArgs,
    /// TLS towards other tablets.
    #[command(flatten)]
    pub tablet_tls: TabletTlsArgs,
    /// Where the electors' journal stands in the global etcd; as at vtelector serve
    #[arg(long, value_name = "PATH", default_value = "/vtelector", help_heading = "Topology")]
    pub ledger_root: String,
    /// Between two messages of a health stream, and two looks at replication
    #[arg(long, value_name = "DURATION", default_value = "20s", help_heading = "Process")]
    pub health_check_interval: GoDuration,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json, help_heading = "Process")]
    pub log_format: LogFormat,
    /// debug, info, warn or error; or a filter such as info,vtelector::agent=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Process")]
    pub log_level: String,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentCommandError {
    /// A flag cannot be.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The topology does not answer.
    #[error("{0}")]
    Topo(#[from] TopoError),
    /// TLS towards tablets.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The agent did not start.
    #[error("{0}")]
    Run(#[from] RunError),
}

/// Runs an agent until SIGTERM or SIGINT.
pub fn main(args: AgentArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = CancellationToken::new();
        let agent = run(args, shutdown.clone());
        tokio::pin!(agent);
        tokio::select! {
            ended = &mut agent => return Ok(ended),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
        Ok::<_, std::io::Error>(agent.await)
    });
    runtime.shutdown_background();
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&format!("signals cannot be waited for: {error}")),
    }
}

fn failed(error: &str) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

/// Runs an agent until `shutdown`, then signs off.
pub async fn run(args: AgentArgs, shutdown: CancellationToken) -> Result<(), AgentCommandError> {
    let settings = AgentSettings::try_from(&args)?;
    let tls = config::tablet_tls(&args.tablet_tls)?;
    let tablets = Arc::new(GrpcTabletManager::new(TabletSettings { tls, ..TabletSettings::default() })?);
    let topo = Topo::connect(&TopoSettings::try_from(&args.topo)?).await?;
    match agent::start(settings, topo.clone(), tablets, shutdown).await {
        Ok(running) => running.stopped().await,
        Err(RunError::Stopped) => {}
        Err(error) => return Err(error.into()),
    }
    topo.shutdown(TOPO_STOP_TIMEOUT).await;
    Ok(())
}

impl TryFrom<&AgentArgs> for AgentSettings {
    type Error = ConfigError;

    fn try_from(args: &AgentArgs) -> Result<Self, ConfigError> {
        let alias = args.tablet_path.parse::<TabletAlias>().map_err(|error| {
            ConfigError::new("tablet-path", &args.tablet_path, error.to_string(), "give the alias of this tablet")
        })?;
        let shard = ShardId::new(&args.init_keyspace, &args.init_shard.to_ascii_lowercase()).map_err(|error| {
            let given = format!("{}/{}", args.init_keyspace, args.init_shard);
            ConfigError::new("init-shard", given, error.to_string(), "give --init-keyspace and --init-shard")
        })?;
        if args.tablet_hostname.is_empty() {
            let remedy = "give the name under which the other tablets and the elector reach this host";
            return Err(ConfigError::new("tablet-hostname", "", "it is empty", remedy));
        }
        let address = match &args.mysql_socket {
            Some(socket) => MysqlAddress::Socket(socket.clone()),
            None => {
                let problem = "neither a socket nor a port of mysqld was given";
                let missing = || ConfigError::new("mysql-socket", "", problem, "give --mysql-socket or --mysql-port");
                MysqlAddress::Tcp { host: args.mysql_host.clone(), port: args.mysql_port.ok_or_else(missing)? }
            }
        };
        Ok(Self {
            alias,
            shard,
            start_type: start_type(&args.init_tablet_type)?,
            tags: tags(&args.init_tags)?,
            hostname: args.tablet_hostname.clone(),
            grpc: SocketAddr::new(args.grpc_bind_address, args.grpc_port),
            grpc_tls: config::server_tls(&args.server_tls)?,
            mysql: MysqlSettings {
                address,
                user: args.mysql_user.clone(),
                password: password("mysql-password-file", args.mysql_password_file.as_deref())?,
                connect_timeout: positive("mysql-connect-timeout", args.mysql_connect_timeout)?,
            },
            mysql_port: args.mysql_port,
            replication: ReplicationAccount {
                user: args.replication_user.clone(),
                password: password("replication-password-file", args.replication_password_file.as_deref())?,
                ssl: args.replication_ssl,
                ssl_ca: args.replication_ssl_ca.clone(),
                ssl_cert: args.replication_ssl_cert.clone(),
                ssl_key: args.replication_ssl_key.clone(),
            },
            ledger_root: config::absolute("ledger-root", &args.ledger_root, "/vtelector")?,
            data_dir: args.data_dir.clone(),
            remote_operation_timeout: positive("remote-operation-timeout", args.topo.remote_operation_timeout)?,
            lock_timeout: positive("lock-timeout", args.topo.lock_timeout)?,
            health_check_interval: positive("health-check-interval", args.health_check_interval)?,
        })
    }
}

fn start_type(name: &str) -> Result<TabletType, ConfigError> {
    match name.to_ascii_lowercase().as_str() {
        "replica" => Ok(TabletType::Replica),
        "rdonly" => Ok(TabletType::Rdonly),
        "spare" => Ok(TabletType::Spare),
        _ => Err(ConfigError::new("init-tablet-type", name, "no tablet starts as that", "use replica, rdonly or spare")),
    }
}

fn tags(tags: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    let pair = |tag: &String| {
        let (key, value) = tag.split_once(':').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    let pairs = tags.iter().filter(|tag| !tag.is_empty()).map(|tag| {
        pair(tag).ok_or_else(|| ConfigError::new("init-tags", tag, "no tag", "write key:value, with commas between several"))
    });
    pairs.collect()
}

fn positive(flag: &str, duration: GoDuration) -> Result<Duration, ConfigError> {
    if duration.0 < Duration::from_millis(100) {
        return Err(ConfigError::new(flag, duration, "too short to do anything in", "use 100ms or more"));
    }
    Ok(duration.0)
}

fn password(flag: &str, file: Option<&Path>) -> Result<Secret, ConfigError> {
    let Some(file) = file else { return Ok(Secret::default()) };
    let text = std::fs::read_to_string(file).map_err(|error| {
        ConfigError::new(flag, file.display(), error.to_string(), "give a file that holds the password alone")
    })?;
    Ok(Secret(text.trim_end_matches(['\n', '\r']).to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn settings(more: &[&str]) -> Result<AgentSettings, String> {
        let base = ["agent", "--tablet-path", "zone1-100", "--init-keyspace", "ks", "--init-shard", "0", "--data-dir", "d"];
        let cli = Cli::try_parse_from(base.iter().chain(more)).map_err(|error| error.to_string())?;
        AgentSettings::try_from(&cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flags_of_an_agent_become_settings() {
        let more = ["--tablet-hostname", "h", "--db-socket", "/s", "--init-tablet-type", "rdonly", "--init-tags", "a:b,c:d"];
        let settings = settings(&more).unwrap();
        assert_eq!(settings.alias.to_string(), "zone1-0000000100");
        assert_eq!(settings.start_type, TabletType::Rdonly);
        assert_eq!(settings.tags.len(), 2);
        assert_eq!(settings.mysql.address, MysqlAddress::Socket("/s".into()));
    }

    #[test]
    fn what_cannot_be_names_its_flag() {
        let host = ["--tablet-hostname", "h", "--db-socket", "/s"];
        for (flag, value) in [
            ("--init-tablet-type", "primary"),
            ("--init-tags", "nocolon"),
            ("--health-check-interval", "1ms"),
            ("--mysql-password-file", "/does/not/exist"),
            ("--init-shard", "a/b"),
        ] {
            let error = settings(&[&host[..], &[flag, value]].concat()).unwrap_err();
            assert!(error.starts_with(flag), "{error}");
        }
        assert!(settings(&["--tablet-hostname", "h"]).unwrap_err().contains("--mysql-port"));
    }
}
