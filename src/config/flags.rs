//! The flags of `vtelector serve`: VTOrc's and vtctld's names, and a few of our own.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{DoorArgs, ElectorArgs, EventArgs, FenceArgs, FlapArgs, GoDuration, Layers, LimitArgs, PeerArgs};

/// How log lines are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Words for a person.
    Text,
}

/// Where the topology is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Topology")]
pub struct TopoArgs {
    /// Kind of topology server; only etcd2 is spoken
    #[arg(long, value_name = "NAME", default_value = "etcd2")]
    pub topo_implementation: String,
    /// Endpoints of the global etcd: host:port, with commas between
    #[arg(long, value_name = "HOST:PORT,...", default_value = "", hide_default_value = true)]
    pub topo_global_server_address: String,
    /// Root of the global topology in etcd, such as /vitess/global
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub topo_global_root: String,
    /// Life of a lock after its holder died, in whole seconds; ours is kept alive every second while it is held
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = lease_ttl)]
    pub topo_etcd_lease_ttl: GoDuration,
    /// Client certificate towards etcd (PEM); needs the key too
    #[arg(long, value_name = "FILE")]
    pub topo_etcd_tls_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub topo_etcd_tls_key: Option<PathBuf>,
    /// Authority that signed etcd's certificate (PEM); alone it means TLS to an etcd that asks for no client certificate
    #[arg(long, value_name = "FILE")]
    pub topo_etcd_tls_ca: Option<PathBuf>,
    /// Longest wait for a shard or keyspace lock
    #[arg(long, value_name = "DURATION", default_value = "45s")]
    pub lock_timeout: GoDuration,
    /// Limit of one call to a tablet and of most steps in the topology
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub remote_operation_timeout: GoDuration,
}

/// TLS of our gRPC server.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerTlsArgs {
    /// Certificate of the gRPC server (PEM); needs the key too
    #[arg(long, value_name = "FILE", help_heading = "Listening")]
    pub grpc_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Listening")]
    pub grpc_key: Option<PathBuf>,
    /// Authority whose client certificates alone are let in (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Listening")]
    pub grpc_ca: Option<PathBuf>,
}

/// TLS towards tablets.
#[derive(Debug, Clone, clap::Args)]
pub struct TabletTlsArgs {
    /// Client certificate towards tablets (PEM); needs the key too
    #[arg(long, value_name = "FILE", help_heading = "Tablets")]
    pub tablet_manager_grpc_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Tablets")]
    pub tablet_manager_grpc_key: Option<PathBuf>,
    /// Authority that signed the tablets' certificates (PEM); tablets are called over TLS when it is given
    #[arg(long, value_name = "FILE", help_heading = "Tablets")]
    pub tablet_manager_grpc_ca: Option<PathBuf>,
    /// Name that the tablets' certificates bear, where it is not their host name
    #[arg(long, value_name = "NAME", help_heading = "Tablets")]
    pub tablet_manager_grpc_server_name: Option<String>,
}

/// Flags of `vtelector serve`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct ServeArgs {
    /// Where the topology is.
    #[command(flatten)]
    pub topo: TopoArgs,
    /// The cell in which this process runs
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub cell: String,
    /// Address for HTTP (metrics, health); all addresses when empty
    #[arg(long, value_name = "HOST", default_value = "", hide_default_value = true, help_heading = "Listening")]
    pub bind_address: String,
    /// Port for HTTP; 0 takes a free one and logs it
    #[arg(long, value_name = "PORT", default_value = "16000", help_heading = "Listening")]
    pub port: u16,
    /// Address for gRPC; all addresses when empty
    #[arg(long, value_name = "HOST", default_value = "", hide_default_value = true, help_heading = "Listening")]
    pub grpc_bind_address: String,
    /// Port for gRPC; 0 takes a free one and logs it
    #[arg(long, value_name = "PORT", default_value = "15999", help_heading = "Listening")]
    pub grpc_port: u16,
    /// TLS of the gRPC server.
    #[command(flatten)]
    pub server_tls: ServerTlsArgs,
    /// Let in clients without TLS as well
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set, hide = true)]
    pub grpc_enable_optional_tls: bool,
    /// Who may come in.
    #[command(flatten)]
    pub door: DoorArgs,
    /// How much they may ask for at once.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// The other electors.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// TLS towards tablets.
    #[command(flatten)]
    pub tablet_tls: TabletTlsArgs,
    /// What the elector does by itself.
    #[command(flatten)]
    pub elector: ElectorArgs,
    /// Who is told of events.
    #[command(flatten)]
    pub events: EventArgs,
    /// Limits of anti-flapping.
    #[command(flatten)]
    pub flap: FlapArgs,
    /// How long a reparent waits for replicas where the request does not say
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Reparents")]
    pub wait_replicas_timeout: GoDuration,
    /// The account that fences MySQL servers directly.
    #[command(flatten)]
    pub fence: FenceArgs,
    /// How often each tablet is asked everything
    #[arg(long, value_name = "DURATION", default_value = "1s", help_heading = "Watching")]
    pub instance_poll_time: GoDuration,
    /// How often each primary is asked whether it lives; less often where there are more than 4000 for each second of it
    #[arg(long, value_name = "DURATION", default_value = "250ms", help_heading = "Watching")]
    pub primary_liveness_interval: GoDuration,
    /// Only shards with a tablet in these cells are looked at, with all their tablets; all when left out
    #[arg(long, value_name = "CELL,...", value_delimiter = ',', help_heading = "Watching")]
    pub cells_to_watch: Vec<String>,
    /// Only tablets of these keyspaces, shards or key ranges are looked at; all when left out
    #[arg(long, value_name = "KEYSPACE[/SHARD],...", value_delimiter = ',', help_heading = "Watching")]
    pub clusters_to_watch: Vec<String>,
    /// What is demanded of a keyspace's promotions beyond its durability policy; repeatable. acks: so many acknowledgements for a commit;
    /// cells, regions: tablets that may acknowledge in so many cells, or CellsAliases
    #[arg(long, value_name = "KEYSPACE=acks:N,cells:N,regions:N", help_heading = "Reparents")]
    pub durability_extra: Vec<String>,
    /// Where our own journal stands in the global etcd
    #[arg(long, value_name = "PATH", default_value = "/vtelector", help_heading = "Reparents")]
    pub ledger_root: String,
    /// After SIGTERM, how long running reparents may take to end
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Process")]
    pub shutdown_wait_time: GoDuration,
    /// File with settings: TOML, or JSON where its name ends in .json; keys are the names of flags. A flag wins over the environment
    /// (VTELECTOR_LOCK_TIMEOUT and so on), that over the file. What may change without a restart is read again when the file changes
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub config_file: Option<PathBuf>,
    /// Where these settings come from.
    #[arg(skip)]
    pub layers: Option<Layers>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Json, help_heading = "Process")]
    pub log_format: LogFormat,
    /// debug, info, warn or error; or a filter such as info,vtelector::topo=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Process")]
    pub log_level: String,
}

/// Vitess's flag is a number of seconds; a duration of whole seconds is taken too.
fn lease_ttl(text: &str) -> Result<GoDuration, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(GoDuration::from_secs).map_err(|_| format!("{text:?} is too long"));
    }
    let ttl: GoDuration = text.parse().map_err(|_| format!("{text:?} is no number of seconds; write it as 5 or 5s"))?;
    if ttl.0.subsec_nanos() != 0 {
        return Err(format!("{text:?} is no whole number of seconds; etcd counts the life of a lease in those"));
    }
    Ok(ttl)
}

/// The spellings that Go takes.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}
