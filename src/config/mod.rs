//! Settings of a server: flags in VTOrc's and vtctld's names, checked once and together, into one typed struct.

mod argv;
mod door;
mod duration;
mod elector;
mod events;
mod flags;
mod flap;
mod foreign;
mod layers;
mod limits;
mod mysql;
mod peers;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

pub use argv::{Normalized, normalize};
pub use door::{DoorArgs, DoorSettings, Subjects};
pub use duration::{DurationError, GoDuration};
pub use elector::ElectorArgs;
pub use events::EventArgs;
pub use flags::{LogFormat, ServeArgs, ServerTlsArgs, TabletTlsArgs, TopoArgs};
pub use flap::FlapArgs;
pub use layers::{LIVE, Layers};
pub use limits::{LimitArgs, LimitSettings, MESSAGE_BYTES_MAX};
pub use mysql::{FenceArgs, PASSWORD_VARIABLE};
pub use peers::PeerArgs;

use crate::{
    diagnose::Rules,
    durability::{Extra, ExtraError},
    ledger::FlapRules,
    mysql::{fence::FenceAccount, tls::MysqlTlsFiles},
    peers::PeerTls,
    sense::Watched,
    tablet::{TabletSettings, TabletTls},
    topo::{NameError, ShardId, TopoSettings, TopoTls, check_cell},
};

/// How often a held lock's lease is kept alive; a lease must outlive three of these, so that two lost answers do not lose the lock.
pub const LOCK_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Limit of one request to one etcd endpoint, where the remote-operation timeout is not shorter.
const ETCD_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest life of a lock after its holder died that makes sense: everybody waits for it.
const LEASE_TTL_MAX: Duration = Duration::from_secs(600);

/// A setting that cannot be: the flag, what was given, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}{}: {problem}; {remedy}", shown(value))]
pub struct ConfigError {
    flag: String,
    value: String,
    problem: String,
    remedy: String,
}

fn shown(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(" {value}") }
}

impl ConfigError {
    /// An error about one flag, named without the dashes in front.
    pub fn new(flag: &str, value: impl fmt::Display, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { flag: flag.to_owned(), value: value.to_string(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Address or host name; empty = every address.
    pub host: String,
    /// Port; 0 = a free one.
    pub port: u16,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_str() {
            host if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Files of a TLS identity (PEM), found readable when the settings were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// TLS of our gRPC server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Our identity.
    pub identity: TlsFiles,
    /// When given, clients without a certificate signed by it are refused.
    pub client_ca: Option<PathBuf>,
}

/// Everything that `vtelector serve` was told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to reach the topology.
    pub topo: TopoSettings,
    /// The cell in which we run; empty when not told.
    pub cell: String,
    /// HTTP: metrics and health.
    pub http: Listen,
    /// gRPC.
    pub grpc: Listen,
    /// TLS of the gRPC server.
    pub grpc_tls: Option<ServerTls>,
    /// Who may come in.
    pub door: DoorSettings,
    /// How much clients may ask for at once.
    pub limits: LimitSettings,
    /// Where the other electors reach us, when told: the host, and the port where it is another one than the server's.
    pub advertise: Option<(String, Option<u16>)>,
    /// TLS towards the other electors.
    pub peer_tls: Option<PeerTls>,
    /// TLS towards tablets; none when the certificates' authority is not given.
    pub tablet_tls: Option<TabletTls>,
    /// Limit of one call to a tablet.
    pub remote_operation_timeout: Duration,
    /// Longest wait for a lock.
    pub lock_timeout: Duration,
    /// How long a reparent waits for replicas where the request does not say.
    pub wait_replicas_timeout: Duration,
    /// What is demanded of a keyspace beyond its durability policy.
    pub durability_extra: BTreeMap<String, Extra>,
    /// What the elector does by itself.
    pub elector: ElectorArgs,
    /// Who is told of events, and where traces go.
    pub events: EventArgs,
    /// Limits of the diagnosis.
    pub rules: Rules,
    /// Root of our journal in the global etcd.
    pub ledger_root: String,
    /// How often a shard may have an automatic promotion.
    pub flap: FlapRules,
    /// The account that fences MySQL servers directly; without one that is off.
    pub fence: Option<FenceAccount>,
    /// TLS towards MySQL servers that are verified; `None` = whatever they offer, unverified.
    pub mysql_tls: Option<MysqlTlsFiles>,
    /// How often each tablet is asked everything.
    pub instance_poll_time: Duration,
    /// How often each primary is asked whether it lives.
    pub primary_liveness_interval: Duration,
    /// Which tablets are looked at.
    pub watched: Watched,
    /// After SIGTERM, how long running reparents may take to end.
    pub shutdown_wait: Duration,
    /// Where these settings come from, to be read again; `None` where only a command line was read.
    pub layers: Option<Layers>,
    /// What a person should know about these settings: they work, but perhaps not as meant.
    pub warnings: Vec<String>,
}

impl Settings {
    /// How tablets are called.
    pub fn tablets(&self) -> TabletSettings {
        TabletSettings { tls: self.tablet_tls.clone(), user: self.door.client_creds.clone(), ..TabletSettings::default() }
    }
}

impl TryFrom<&ServeArgs> for Settings {
    type Error = ConfigError;

    fn try_from(args: &ServeArgs) -> Result<Self, ConfigError> {
        let topo = TopoSettings::try_from(&args.topo)?;
        if !args.cell.is_empty() {
            check_cell(&args.cell)
                .map_err(|e| ConfigError::new("cell", &args.cell, e.to_string(), "give the cell in which this process runs"))?;
        }
        let http = listen("bind-address", &args.bind_address, args.port)?;
        let grpc = listen("grpc-bind-address", &args.grpc_bind_address, args.grpc_port)?;
        if http.port != 0 && http.port == grpc.port && (http.host == grpc.host || http.host.is_empty() || grpc.host.is_empty()) {
            let (flag, port) = ("grpc-port", grpc.port);
            return Err(ConfigError::new(flag, port, "HTTP listens on that port (--port)", "give each its own port"));
        }
        if args.grpc_enable_optional_tls {
            let remedy = "leave it out, and let every client use TLS";
            return Err(ConfigError::new("grpc-enable-optional-tls", true, "a port with TLS takes nothing else here", remedy));
        }
        let lock_timeout = at_least("lock-timeout", args.topo.lock_timeout, Duration::from_millis(100))?;
        let grpc_tls = server_tls(&args.server_tls)?;
        let door = args.door.settings(grpc_tls.as_ref())?;
        Ok(Self {
            cell: args.cell.clone(),
            http,
            grpc,
            limits: args.limits.settings()?,
            advertise: args.peers.address()?,
            peer_tls: args.peers.tls(grpc_tls.as_ref())?,
            grpc_tls,
            tablet_tls: tablet_tls(&args.tablet_tls)?,
            remote_operation_timeout: args.topo.remote_operation_timeout.0,
            lock_timeout,
            wait_replicas_timeout: at_least("wait-replicas-timeout", args.wait_replicas_timeout, Duration::from_millis(100))?,
            flap: args.flap.rules()?,
            fence: args.fence.account(std::env::var(PASSWORD_VARIABLE).ok())?,
            mysql_tls: args.fence.tls()?,
            instance_poll_time: at_least("instance-poll-time", args.instance_poll_time, Duration::from_millis(100))?,
            primary_liveness_interval: at_least(
                "primary-liveness-interval",
                args.primary_liveness_interval,
                Duration::from_millis(50),
            )?,
            watched: watched(args)?,
            rules: args.elector.rules()?,
            elector: args.elector.clone(),
            events: events(&args.events)?,
            durability_extra: durability_extra(&args.durability_extra)?,
            ledger_root: absolute("ledger-root", &args.ledger_root, "/vtelector")?,
            shutdown_wait: args.shutdown_wait_time.0,
            layers: args.layers.clone(),
            warnings: [warnings(&topo, lock_timeout), door.warnings()].concat(),
            door,
            topo,
        })
    }
}

impl TryFrom<&TopoArgs> for TopoSettings {
    type Error = ConfigError;

    fn try_from(args: &TopoArgs) -> Result<Self, ConfigError> {
        if args.topo_implementation != "etcd2" {
            let (flag, value) = ("topo-implementation", &args.topo_implementation);
            return Err(ConfigError::new(flag, value, "only etcd is spoken", "use etcd2"));
        }
        let remote = at_least("remote-operation-timeout", args.remote_operation_timeout, Duration::from_millis(100))?;
        let cert = pair("topo-etcd-tls", &args.topo_etcd_tls_cert, &args.topo_etcd_tls_key)?;
        let ca = readable("topo-etcd-tls-ca", &args.topo_etcd_tls_ca)?;
        // An authority alone, which Vitess does not look at, means TLS to an etcd that asks for no certificate.
        let tls = (cert.is_some() || ca.is_some()).then(|| TopoTls { ca, identity: cert.map(|files| (files.cert, files.key)) });
        Ok(Self {
            global_server_address: endpoints(&args.topo_global_server_address)?,
            global_root: global_root(&args.topo_global_root)?,
            tls,
            lease_ttl: lease_ttl(args.topo_etcd_lease_ttl)?,
            request_timeout: remote.min(ETCD_REQUEST_TIMEOUT),
        })
    }
}

/// A collector that this binary cannot talk to is a mistake: traces that nobody makes are missed only when they are needed.
fn events(args: &EventArgs) -> Result<EventArgs, ConfigError> {
    let named = args.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
    if let Some(endpoint) = named {
        let wrong = |problem: &str, remedy: &str| ConfigError::new("otlp-endpoint", endpoint, problem, remedy);
        if !cfg!(feature = "otlp") {
            return Err(wrong("this binary was built without traces", "build it with --features otlp, or leave the flag out"));
        }
        let uri = endpoint.parse::<http::Uri>().ok();
        let is_url = uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        if !is_url {
            return Err(wrong("no address of a collector", "write http://HOST:4317"));
        }
    }
    let webhook_file = args.webhook_file.clone().filter(|file| *file != Path::new(""));
    Ok(EventArgs { webhook_file, otlp_endpoint: named.map(str::to_owned) })
}

/// `KEYSPACE=acks:2,cells:2`, each keyspace once.
fn durability_extra(demands: &[String]) -> Result<BTreeMap<String, Extra>, ConfigError> {
    let flag = "durability-extra";
    let remedy = "write KEYSPACE=acks:2,cells:2, and each keyspace once";
    let mut extras = BTreeMap::new();
    for demand in demands {
        let error = |problem: String| ConfigError::new(flag, demand, problem, remedy);
        let (keyspace, extra) = demand.split_once('=').ok_or_else(|| error("it names no keyspace".to_owned()))?;
        ShardId::new(keyspace, "0").map_err(|bad| error(bad.to_string()))?;
        let extra = extra.parse().map_err(|bad: ExtraError| error(bad.to_string()))?;
        if extras.insert(keyspace.to_owned(), extra).is_some() {
            return Err(error(format!("{keyspace} stands there twice")));
        }
    }
    Ok(extras)
}

fn lease_ttl(ttl: GoDuration) -> Result<Duration, ConfigError> {
    let flag = "topo-etcd-lease-ttl";
    if ttl.0 <= 3 * LOCK_KEEPALIVE_INTERVAL {
        let keepalive = GoDuration(LOCK_KEEPALIVE_INTERVAL);
        let problem = format!("the lease is kept alive every {keepalive} and has to outlive three of these");
        return Err(ConfigError::new(flag, ttl, problem, "use 4 or more; 5 is the default"));
    }
    if ttl.0 > LEASE_TTL_MAX {
        let remedy = format!("use {} or less; 5 is the default", LEASE_TTL_MAX.as_secs());
        return Err(ConfigError::new(flag, ttl, "everybody would wait that long for the lock of an elector that died", remedy));
    }
    Ok(ttl.0)
}

fn watched(args: &ServeArgs) -> Result<Watched, ConfigError> {
    let mut watched = Watched::default();
    for cell in args.cells_to_watch.iter().map(|cell| cell.trim()).filter(|cell| !cell.is_empty()) {
        let wrong =
            |error: NameError| ConfigError::new("cells-to-watch", cell, error.to_string(), "name cells, with commas between");
        check_cell(cell).map_err(wrong)?;
        watched.cells.insert(cell.to_owned());
    }
    for cluster in args.clusters_to_watch.iter().map(|cluster| cluster.trim()).filter(|cluster| !cluster.is_empty()) {
        let remedy = "write KEYSPACE, KEYSPACE/SHARD or KEYSPACE/KEYRANGE, with commas between";
        let wrong = |error: NameError| ConfigError::new("clusters-to-watch", cluster, error.to_string(), remedy);
        watched.add_cluster(cluster).map_err(wrong)?;
    }
    Ok(watched)
}

fn warnings(topo: &TopoSettings, lock_timeout: Duration) -> Vec<String> {
    if lock_timeout >= topo.lease_ttl {
        return Vec::new();
    }
    let (wait, ttl) = (GoDuration(lock_timeout), GoDuration(topo.lease_ttl));
    vec![format!(
        "--lock-timeout {wait} is shorter than --topo-etcd-lease-ttl {ttl}: a call gives up before the lock of a dead elector is free"
    )]
}

fn at_least(flag: &str, duration: GoDuration, min: Duration) -> Result<Duration, ConfigError> {
    if duration.0 < min {
        return Err(ConfigError::new(flag, duration, "too short to do anything in", format!("use {} or more", GoDuration(min))));
    }
    Ok(duration.0)
}

/// `host:port` with commas between; a scheme is Vitess's to add, not the operator's.
fn endpoints(addresses: &str) -> Result<String, ConfigError> {
    let flag = "topo-global-server-address";
    let remedy = "write host:port, with commas between several, such as etcd1:2379,etcd2:2379";
    if addresses.is_empty() {
        return Err(ConfigError::new(flag, "", "the address of the global etcd is missing", remedy));
    }
    for address in addresses.split(',') {
        let bare = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://")).unwrap_or(address);
        let fits = bare.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
        if !fits {
            return Err(ConfigError::new(flag, addresses, format!("{address:?} is no address"), remedy));
        }
    }
    Ok(addresses.to_owned())
}

/// Vitess takes any root that is not empty, also one without a slash in front, which stays without.
fn global_root(root: &str) -> Result<String, ConfigError> {
    match root {
        "" => Err(ConfigError::new("topo-global-root", "", "the root of the global topology is missing", "use /vitess/global")),
        "/" => Ok(root.to_owned()),
        _ => Ok(root.trim_end_matches('/').to_owned()),
    }
}

/// A path in etcd.
pub fn absolute(flag: &str, path: &str, example: &str) -> Result<String, ConfigError> {
    if !path.starts_with('/') || path.trim_matches('/').is_empty() {
        return Err(ConfigError::new(flag, path, "a path from the root of etcd is needed", format!("use {example}")));
    }
    Ok(path.trim_end_matches('/').to_owned())
}

fn listen(flag: &str, host: &str, port: u16) -> Result<Listen, ConfigError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let is_address = bare.parse::<std::net::IpAddr>().is_ok();
    let is_name = bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !(is_address || is_name) {
        let remedy = "give an IP address or a host name; the port has a flag of its own";
        return Err(ConfigError::new(flag, host, "not an address", remedy));
    }
    Ok(Listen { host: bare.to_owned(), port })
}

/// TLS of our gRPC server, when a certificate is given.
pub fn server_tls(args: &ServerTlsArgs) -> Result<Option<ServerTls>, ConfigError> {
    let identity = pair("grpc", &args.grpc_cert, &args.grpc_key)?;
    let client_ca = readable("grpc-ca", &args.grpc_ca)?;
    if let (None, Some(ca)) = (&identity, &client_ca) {
        let problem = "without a certificate of its own the server speaks no TLS and would let everybody in";
        return Err(ConfigError::new("grpc-ca", ca.display(), problem, "give --grpc-cert and --grpc-key as well"));
    }
    Ok(identity.map(|identity| ServerTls { identity, client_ca }))
}

/// TLS towards tablets, when an authority is given.
pub fn tablet_tls(args: &TabletTlsArgs) -> Result<Option<TabletTls>, ConfigError> {
    let identity = pair("tablet-manager-grpc", &args.tablet_manager_grpc_cert, &args.tablet_manager_grpc_key)?;
    let server_name = args.tablet_manager_grpc_server_name.clone().filter(|name| !name.is_empty());
    match (readable("tablet-manager-grpc-ca", &args.tablet_manager_grpc_ca)?, identity) {
        (Some(ca), identity) => Ok(Some(TabletTls { ca, identity: identity.map(|files| (files.cert, files.key)), server_name })),
        (None, None) => Ok(None),
        (None, Some(files)) => {
            let problem = "without an authority it cannot be told whether a tablet is one";
            let remedy = "give --tablet-manager-grpc-ca as well";
            Err(ConfigError::new("tablet-manager-grpc-cert", files.cert.display(), problem, remedy))
        }
    }
}

/// A certificate without its key, or the other way round, is a mistake: half of TLS is none.
fn pair(prefix: &str, cert: &Option<PathBuf>, key: &Option<PathBuf>) -> Result<Option<TlsFiles>, ConfigError> {
    let (cert_flag, key_flag) = (format!("{prefix}-cert"), format!("{prefix}-key"));
    match (readable(&cert_flag, cert)?, readable(&key_flag, key)?) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(cert), None) => {
            Err(ConfigError::new(&cert_flag, cert.display(), "its key is missing", format!("give --{key_flag}")))
        }
        (None, Some(key)) => {
            Err(ConfigError::new(&key_flag, key.display(), "its certificate is missing", format!("give --{cert_flag}")))
        }
    }
}

fn readable(flag: &str, file: &Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    let Some(file) = file.as_deref().filter(|file| *file != Path::new("")) else { return Ok(None) };
    match std::fs::read(file) {
        Ok(pem) if !String::from_utf8_lossy(&pem).contains("-----BEGIN ") => {
            Err(ConfigError::new(flag, file.display(), "no PEM file", "give a file with -----BEGIN ...----- lines"))
        }
        Ok(_) => Ok(Some(file.to_owned())),
        Err(error) => Err(ConfigError::new(flag, file.display(), error.to_string(), "give a file that this process can read")),
    }
}

#[cfg(test)]
mod tests;
