//! etcd, MySQL servers with agents, and an elector: one shard.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{
    Etcd, Host, Mysqld, Network, Process, REPLICATION, SandboxError, TempFolder, Tools, eventually, fault::Crowd, free_port,
};
use crate::{
    pb::{
        topodata::CellInfo,
        vtctldata::{
            AddCellInfoRequest, CreateKeyspaceRequest, CreateShardRequest, EmergencyReparentShardRequest,
            PlannedReparentShardRequest,
        },
        vtctlservice::vtctld_client::VtctldClient,
    },
    topo::TabletAlias,
};

/// The keyspace of a sandbox.
pub const KEYSPACE: &str = "commerce";
/// Its only shard.
pub const SHARD: &str = "0";
/// Where the global topology is.
pub const GLOBAL_ROOT: &str = "/vitess/global";

/// A process that has not come up by then never will.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A reparent ends or fails within its own limits, which are shorter.
const CALL_LIMIT: Duration = Duration::from_secs(90);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The vtelector program.
    pub vtelector: PathBuf,
    /// mysqld and etcd.
    pub tools: Tools,
    /// The tablets; the first one becomes the first primary.
    pub tablets: Vec<TabletAlias>,
    /// The keyspace's durability policy.
    pub policy: String,
    /// The life of the elector's lock after its death, in seconds.
    pub lease_ttl_s: u32,
    /// More flags for the elector.
    pub elector_flags: Vec<String>,
    /// Whether every tablet, and the elector, is on a host of its own that can be cut off (see [`Network`]).
    pub hosts: bool,
    /// More lines for every server's configuration.
    pub my_cnf: Vec<String>,
}

impl Shape {
    /// Three tablets in two cells under `semi_sync`.
    pub fn new(vtelector: PathBuf, tools: Tools) -> Self {
        let alias = |(cell, uid): (&str, u32)| TabletAlias { cell: cell.to_owned(), uid };
        let tablets = [("zone1", 100), ("zone1", 101), ("zone2", 200)].map(alias).into();
        Self {
            vtelector,
            tools,
            tablets,
            policy: String::from("semi_sync"),
            lease_ttl_s: 5,
            elector_flags: Vec::new(),
            hosts: false,
            my_cnf: Vec::new(),
        }
    }
}

/// A MySQL server and its agent.
#[derive(Debug)]
pub struct Tablet {
    // Ended before the server that it watches.
    pub(super) agent: Option<Process>,
    /// Who takes every connection of the server.
    pub(super) crowd: Option<Crowd>,
    /// The server.
    pub mysqld: Mysqld,
    /// Where both run.
    pub host: Host,
    /// The agent's gRPC port.
    pub grpc_port: u16,
    folder: PathBuf,
}

/// An elector beside the first one.
#[derive(Debug)]
pub struct OtherElector {
    /// Its process.
    pub process: Process,
    /// Its HTTP port.
    pub http_port: u16,
}

/// A whole cluster. What it consists of is ended in the order of the fields.
#[derive(Debug)]
pub struct Cluster {
    elector: Option<Process>,
    /// Electors beside it.
    pub others: Vec<OtherElector>,
    /// The tablets by their aliases.
    pub tablets: BTreeMap<TabletAlias, Tablet>,
    /// The only member of etcd.
    pub etcd: Etcd,
    /// The elector's gRPC port.
    pub grpc_port: u16,
    /// The elector's HTTP port.
    pub http_port: u16,
    /// The elector's host.
    pub host: Host,
    shape: Shape,
    folder: TempFolder,
    /// Removed when nobody is on it any more.
    network: Option<Network>,
}

impl Cluster {
    /// Starts etcd, an elector, servers and agents, and waits until every tablet has registered itself. There is no primary yet.
    pub async fn start(shape: Shape) -> Result<Self, SandboxError> {
        let folder = TempFolder::new()?;
        let mut network = if shape.hosts { Some(Network::new()?) } else { None };
        let (host, etcd_host) = match &mut network {
            Some(network) => (network.host()?, network.gateway()),
            None => (Host::local(), Host::local()),
        };
        let etcd = Etcd::start_on(&etcd_host, &shape.tools, &folder.path().join("etcd")).await?;
        let (grpc_port, http_port) = (free_port()?, free_port()?);
        let (others, tablets) = (Vec::new(), BTreeMap::new());
        let mut cluster = Self { elector: None, others, tablets, etcd, grpc_port, http_port, host, shape, folder, network };
        cluster.start_elector(&[])?;
        cluster.elector_ready().await?;
        cluster.declare().await?;
        cluster.start_servers().await?;
        for alias in cluster.aliases() {
            cluster.start_agent(&alias)?;
        }
        cluster.registered().await?;
        Ok(cluster)
    }

    /// [`Cluster::start`], then makes the first tablet the primary; returns it.
    pub async fn with_primary(shape: Shape) -> Result<(Self, TabletAlias), SandboxError> {
        let first = shape.tablets[0].clone();
        let cluster = Self::start(shape).await?;
        cluster.reparent(&first).await.map_err(|status| refused("making the first primary", &status))?;
        Ok((cluster, first))
    }

    /// Where data and logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves data and logs where they are, for a person.
    pub fn keep_folder(&mut self) {
        self.folder.keep();
    }

    /// Every alias, in the order given in the shape.
    pub fn aliases(&self) -> Vec<TabletAlias> {
        self.shape.tablets.clone()
    }

    /// The next tablet in the round.
    pub fn after(&self, alias: &TabletAlias) -> TabletAlias {
        let all = &self.shape.tablets;
        let place = all.iter().position(|other| other == alias).unwrap_or(0);
        all[(place + 1) % all.len()].clone()
    }

    /// A tablet that is a part of this cluster.
    ///
    /// # Panics
    /// When it is not.
    pub fn tablet(&self, alias: &TabletAlias) -> &Tablet {
        &self.tablets[alias]
    }

    /// [`Cluster::tablet`], to stop and start it.
    ///
    /// # Panics
    /// When it is not a part of this cluster.
    pub fn tablet_mut(&mut self, alias: &TabletAlias) -> &mut Tablet {
        self.tablets.get_mut(alias).unwrap_or_else(|| panic!("{alias} is not in this cluster"))
    }

    /// The elector's process, unless it was killed.
    pub fn elector(&mut self) -> Option<&mut Process> {
        self.elector.as_mut()
    }

    /// Where the elector runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where the elector answers gRPC.
    pub(super) fn elector_address(&self) -> String {
        format!("http://{}:{}", self.host.ip, self.grpc_port)
    }

    /// A client of the elector.
    pub fn client(&self) -> Result<VtctldClient<Channel>, SandboxError> {
        let endpoint = Endpoint::from_shared(self.elector_address())
            .map_err(|error| SandboxError::io("the elector's address")(std::io::Error::other(error)))?;
        Ok(VtctldClient::new(endpoint.connect_timeout(START_LIMIT).timeout(CALL_LIMIT).connect_lazy()))
    }

    /// Makes `to` the primary with `PlannedReparentShard`; the lines that the elector said.
    pub async fn reparent(&self, to: &TabletAlias) -> Result<Vec<String>, Status> {
        let request = PlannedReparentShardRequest {
            keyspace: KEYSPACE.to_owned(),
            shard: SHARD.to_owned(),
            new_primary: Some(to.into()),
            ..PlannedReparentShardRequest::default()
        };
        let mut client = self.client().map_err(|error| Status::internal(error.to_string()))?;
        let answer = timeout(CALL_LIMIT, client.planned_reparent_shard(request)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded(format!("no answer within {CALL_LIMIT:?}")))??;
        Ok(answer.into_inner().events.into_iter().map(|event| event.value).collect())
    }

    /// Gives the shard another primary with `EmergencyReparentShard`, chosen by the elector; who it is.
    pub async fn emergency(&self) -> Result<TabletAlias, Status> {
        let request = EmergencyReparentShardRequest {
            keyspace: KEYSPACE.to_owned(),
            shard: SHARD.to_owned(),
            ..EmergencyReparentShardRequest::default()
        };
        let mut client = self.client().map_err(|error| Status::internal(error.to_string()))?;
        let answer = timeout(CALL_LIMIT, client.emergency_reparent_shard(request)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded(format!("no answer within {CALL_LIMIT:?}")))??.into_inner();
        let promoted = answer.promoted_primary.and_then(|alias| TabletAlias::try_from(&alias).ok());
        promoted.ok_or_else(|| Status::internal("the answer names no primary"))
    }

    /// Starts an elector, in place of one that runs; `env` is added to its environment.
    pub fn start_elector(&mut self, env: &[(&str, &str)]) -> Result<(), SandboxError> {
        self.elector = None;
        let args = self.elector_args(&self.shape.tablets[0].cell, self.http_port, self.grpc_port);
        let log = self.folder().join("elector.log");
        self.elector = Some(Process::start_on(&self.host, "elector", &self.shape.vtelector, &args, env, &log)?);
        Ok(())
    }

    /// Starts one more elector, in that cell.
    pub fn start_another_elector(&mut self, cell: &str) -> Result<(), SandboxError> {
        let http_port = free_port()?;
        let args = self.elector_args(cell, http_port, free_port()?);
        let name = format!("elector-{}", self.others.len() + 2);
        let log = self.folder().join(format!("{name}.log"));
        let process = Process::start_on(&self.host, &name, &self.shape.vtelector, &args, &[], &log)?;
        self.others.push(OtherElector { process, http_port });
        Ok(())
    }

    fn elector_args(&self, cell: &str, http_port: u16, grpc_port: u16) -> Vec<String> {
        let mut args = vec![String::from("serve")];
        args.extend(self.topo_flags());
        for (flag, value) in [
            ("--cell", cell.to_owned()),
            ("--topo-etcd-lease-ttl", self.shape.lease_ttl_s.to_string()),
            ("--bind-address", self.host.ip.clone()),
            ("--port", http_port.to_string()),
            ("--grpc-bind-address", self.host.ip.clone()),
            ("--grpc-port", grpc_port.to_string()),
            ("--log-format", String::from("text")),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        args.extend(self.shape.elector_flags.clone());
        args
    }

    /// kill -9 of the elector.
    pub fn kill_elector(&mut self) {
        self.elector = None;
    }

    /// Waits until the elector answers.
    pub async fn elector_ready(&mut self) -> Result<(), SandboxError> {
        let mut client = self.client()?;
        let elector = &mut self.elector;
        eventually("the elector answering", START_LIMIT, async || {
            let elector = elector.as_mut().ok_or_else(|| String::from("it is not running"))?;
            elector.check_running().map_err(|error| error.to_string())?;
            let answer = client.get_cell_info_names(crate::pb::vtctldata::GetCellInfoNamesRequest {}).await;
            answer.map(drop).map_err(|status| status.message().to_owned())
        })
        .await
    }

    /// Starts the agent of a tablet, in place of one that runs.
    pub fn start_agent(&mut self, alias: &TabletAlias) -> Result<(), SandboxError> {
        let topo_flags = self.topo_flags();
        let vtelector = self.shape.vtelector.clone();
        let tablet = self.tablet_mut(alias);
        tablet.agent = None;
        let password = tablet.folder.join("replication-password");
        fs::write(&password, REPLICATION).map_err(SandboxError::io("writing the replication password"))?;
        let mut args = vec![String::from("agent")];
        args.extend(topo_flags);
        for (flag, value) in [
            ("--tablet-path", alias.to_string()),
            ("--init-keyspace", KEYSPACE.to_owned()),
            ("--init-shard", SHARD.to_owned()),
            ("--tablet-hostname", tablet.host.ip.clone()),
            ("--data-dir", tablet.folder.display().to_string()),
            ("--grpc-bind-address", tablet.host.ip.clone()),
            ("--grpc-port", tablet.grpc_port.to_string()),
            ("--mysql-socket", tablet.mysqld.socket().display().to_string()),
            ("--mysql-port", tablet.mysqld.port().to_string()),
            ("--replication-user", REPLICATION.to_owned()),
            ("--replication-password-file", password.display().to_string()),
            ("--log-format", String::from("text")),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        let log = tablet.folder.join("agent.log");
        tablet.agent = Some(Process::start_on(&tablet.host, &format!("agent {alias}"), &vtelector, &args, &[], &log)?);
        Ok(())
    }

    /// Waits until every tablet has registered itself and its agent answers.
    pub async fn registered(&mut self) -> Result<(), SandboxError> {
        let tablets = &mut self.tablets;
        eventually("every agent listening", START_LIMIT, async || {
            for tablet in tablets.values_mut() {
                let agent = tablet.agent.as_mut().ok_or_else(|| String::from("an agent is not running"))?;
                agent.check_running().map_err(|error| error.to_string())?;
                let address = (tablet.host.ip.as_str(), tablet.grpc_port);
                tokio::net::TcpStream::connect(address).await.map_err(|error| format!("{}: {error}", agent.name()))?;
            }
            Ok::<_, String>(())
        })
        .await?;
        eventually("every tablet's record", START_LIMIT, async || self.check_registered().await).await
    }

    /// Lines of level WARN or ERROR that electors and agents have logged, each with the name of its file.
    pub fn complaints(&self) -> Vec<String> {
        let agents = self.tablets.values().map(|tablet| tablet.folder.join("agent.log"));
        let mut found = Vec::new();
        let others = self.others.iter().map(|other| other.process.log().to_owned());
        for log in agents.chain([self.folder().join("elector.log")]).chain(others) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let name = log.strip_prefix(self.folder()).unwrap_or(&log).display();
            // The level is the second word of a line; what has none, such as a panic's words, is a complaint, too.
            let levels = ["INFO", "DEBUG", "TRACE"];
            let is_complaint = |line: &&str| !line.split_whitespace().nth(1).is_some_and(|word| levels.contains(&word));
            found.extend(text.lines().filter(is_complaint).map(|line| format!("{name}: {line}")));
        }
        found
    }

    pub(super) fn tools(&self) -> &Tools {
        &self.shape.tools
    }

    /// Whether the policy wants acknowledgements.
    pub(super) fn has_ackers(&self) -> bool {
        self.shape.policy != "none"
    }

    fn topo_flags(&self) -> Vec<String> {
        let address = self.etcd.address();
        ["--topo-implementation", "etcd2", "--topo-global-server-address", &address, "--topo-global-root", GLOBAL_ROOT]
            .map(str::to_owned)
            .into()
    }

    /// Registers cells, keyspace and shard, as an operator does.
    async fn declare(&self) -> Result<(), SandboxError> {
        let mut client = self.client()?;
        let cells: std::collections::BTreeSet<_> = self.shape.tablets.iter().map(|alias| alias.cell.clone()).collect();
        for cell in cells {
            let info = CellInfo { server_address: self.etcd.address(), root: format!("/vitess/{cell}") };
            let request = AddCellInfoRequest { name: cell, cell_info: Some(info) };
            client.add_cell_info(request).await.map_err(|status| refused("adding a cell", &status))?;
        }
        let keyspace = CreateKeyspaceRequest {
            name: KEYSPACE.to_owned(),
            durability_policy: self.shape.policy.clone(),
            ..CreateKeyspaceRequest::default()
        };
        client.create_keyspace(keyspace).await.map_err(|status| refused("creating the keyspace", &status))?;
        let shard =
            CreateShardRequest { keyspace: KEYSPACE.to_owned(), shard_name: SHARD.to_owned(), ..CreateShardRequest::default() };
        client.create_shard(shard).await.map_err(|status| refused("creating the shard", &status))?;
        Ok(())
    }

    async fn start_servers(&mut self) -> Result<(), SandboxError> {
        for alias in self.aliases() {
            let folder = self.folder().join(format!("{}-{}", alias.cell, alias.uid));
            let host = self.network.as_mut().map_or_else(|| Ok(Host::local()), Network::host)?;
            let mysqld = Mysqld::start_on(&host, &self.shape.tools, &folder, alias.uid, &self.shape.my_cnf).await?;
            self.tablets.insert(alias, Tablet { mysqld, host, grpc_port: free_port()?, agent: None, crowd: None, folder });
        }
        for tablet in self.tablets.values_mut() {
            tablet.mysqld.ready().await?;
        }
        Ok(())
    }
}

/// An elector's refusal as an error of ours.
pub(super) fn refused(doing: &str, status: &Status) -> SandboxError {
    SandboxError::Wrong(vec![format!("{doing}: {:?}: {}", status.code(), status.message())])
}
