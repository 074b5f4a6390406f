//! The client: every call that the elector serves, as a command. It speaks to vtctld just as well.

mod args;
mod call;
mod decision;
mod elector;
mod explained;
mod inspect;
mod operate;
mod report;
mod show;

#[cfg(test)]
mod tests;

use std::{error::Error, io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Subcommand;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use tokio::time::Instant;
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    config::{GoDuration, MESSAGE_BYTES_MAX},
    credentials::ClientUser,
    pb,
    text::causes,
    topo::NameError,
};
use args::*;

/// A server that does not accept a connection in this time will not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to call and how.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The elector's gRPC address
    #[arg(long, value_name = "HOST:PORT", env = "VTELECTOR_SERVER", default_value = "localhost:15999")]
    server: String,
    /// How long the whole call may take
    #[arg(long, alias = "action-timeout", value_name = "DURATION", default_value = "1m")]
    timeout: GoDuration,
    /// Authority that signed the server's certificate (PEM); switches TLS on
    #[arg(long, value_name = "FILE")]
    vtctld_grpc_ca: Option<PathBuf>,
    /// Client certificate (PEM); needs the key too
    #[arg(long, value_name = "FILE", requires = "vtctld_grpc_key")]
    vtctld_grpc_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "vtctld_grpc_cert")]
    vtctld_grpc_key: Option<PathBuf>,
    /// Name that the server's certificate bears, where it is not the host's
    #[arg(long, value_name = "NAME")]
    vtctld_grpc_server_name: Option<String>,
    /// Who calls: Vitess's file of client credentials, {"Username": ..., "Password": ...}
    #[arg(long, value_name = "FILE")]
    grpc_auth_static_client_creds: Option<PathBuf>,
    /// File with a bearer token that says who calls
    #[arg(long, value_name = "FILE", env = "VTELECTOR_TOKEN_FILE", conflicts_with = "grpc_auth_static_client_creds")]
    token_file: Option<PathBuf>,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

/// One command: its own arguments and the connection's.
#[derive(Debug, Clone, clap::Args)]
pub struct With<T: clap::Args> {
    #[command(flatten)]
    own: T,
    #[command(flatten)]
    connection: Connection,
}

/// Every command that calls an elector. Each is also known by vtctldclient's name, such as `PlannedReparentShard`.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Move the primary of a shard to another tablet, losing nothing
    #[command(alias = "PlannedReparentShard")]
    PlannedReparentShard(With<PlannedReparent>),
    /// Give a shard a primary when the old one is gone, stuck or cut off; proven to lose nothing, or refused with the reason
    #[command(alias = "EmergencyReparentShard")]
    EmergencyReparentShard(With<EmergencyReparent>),
    /// List the transactions that a tablet has and its shard does not
    #[command(alias = "ErrantGtids")]
    ErrantGtids(With<ErrantArg>),
    /// List shards with their primary, redundancy, problems and the age of the evidence. Exit code 1 when one is not well
    #[command(alias = "Shards")]
    Shards(With<operate::ShardsArg>),
    /// Say everything about one shard: declared and seen, wrong, decided, done, and what stands in the way. Exit code 1 when anything is wrong
    #[command(alias = "Explain")]
    Explain(With<inspect::ExplainArg>),
    /// List what is wrong, and what is done about it. Exit code 1 when anything is
    #[command(alias = "Problems")]
    Problems(With<operate::ShardsArg>),
    /// List the last decisions of all electors, those to do nothing included, with their reasons
    #[command(alias = "Decisions")]
    Decisions(With<operate::ShardsArg>),
    /// List what electors have done by themselves
    #[command(alias = "History")]
    History(With<operate::HistoryArg>),
    /// List what persons asked for, the newest first, with who they were and what came of it
    #[command(alias = "Commands")]
    Commands(With<inspect::CommandsArg>),
    /// Let a shard have automatic promotions again that earlier ones have blocked
    #[command(alias = "Acknowledge")]
    Acknowledge(With<operate::AcknowledgeArg>),
    /// Let electors leave something alone for a while
    #[command(subcommand)]
    Maintenance(operate::Maintenance),
    /// Switch everything that electors do by themselves off, or on again
    #[command(subcommand)]
    Recoveries(operate::Recoveries),
    /// Show whether all is well with the elector that is asked and its shards, and what stands in the way of recoveries. Exit code 1 when
    /// anything does
    #[command(alias = "GetStatus")]
    Status(With<Nothing>),
    /// Show what happens as it happens, until Ctrl-C
    #[command(alias = "WatchEvents")]
    Events(With<operate::EventsArg>),
    /// Make a tablet the first primary of a shard that never had one
    #[command(alias = "InitShardPrimary")]
    InitShardPrimary(With<InitPrimary>),
    /// Point a tablet at the primary of its shard
    #[command(alias = "ReparentTablet")]
    ReparentTablet(With<TabletArg>),
    /// List the cells
    #[command(alias = "GetCellInfoNames")]
    GetCellInfoNames(With<Nothing>),
    /// Show where a cell's topology is
    #[command(alias = "GetCellInfo")]
    GetCellInfo(With<CellArg>),
    /// Register a cell
    #[command(alias = "AddCellInfo")]
    AddCellInfo(With<AddCell>),
    /// Make a keyspace
    #[command(alias = "CreateKeyspace")]
    CreateKeyspace(With<CreateKeyspace>),
    /// Make a shard
    #[command(alias = "CreateShard")]
    CreateShard(With<CreateShard>),
    /// List the keyspaces
    #[command(alias = "GetKeyspaces")]
    GetKeyspaces(With<Nothing>),
    /// Show a keyspace
    #[command(alias = "GetKeyspace")]
    GetKeyspace(With<KeyspaceArg>),
    /// List the shards of a keyspace
    #[command(alias = "FindAllShardsInKeyspace")]
    FindAllShardsInKeyspace(With<KeyspaceArg>),
    /// Show a shard: who is primary, and since when
    #[command(alias = "GetShard")]
    GetShard(With<ShardArg>),
    /// List the tablets of a shard as the replication graph of each cell has them
    #[command(alias = "GetShardReplication")]
    GetShardReplication(With<ShardAndCells>),
    /// List tablets
    #[command(alias = "GetTablets")]
    GetTablets(With<GetTablets>),
    /// Show a tablet's record
    #[command(alias = "GetTablet")]
    GetTablet(With<TabletArg>),
    /// Delete tablet records
    #[command(alias = "DeleteTablets")]
    DeleteTablets(With<DeleteTablets>),
    /// Show what a tablet says of its MySQL server
    #[command(alias = "GetFullStatus")]
    GetFullStatus(With<TabletArg>),
    /// Ask whether a tablet's process answers
    #[command(alias = "PingTablet")]
    PingTablet(With<TabletArg>),
    /// Let a tablet read its shard's records again
    #[command(alias = "RefreshState")]
    RefreshState(With<TabletArg>),
    /// Let a tablet check and tell its health
    #[command(alias = "RunHealthCheck")]
    RunHealthCheck(With<TabletArg>),
    /// Show how far each tablet of a shard has come
    #[command(alias = "ShardReplicationPositions")]
    ShardReplicationPositions(With<ShardArg>),
    /// Start replication on a tablet
    #[command(alias = "StartReplication")]
    StartReplication(With<TabletArg>),
    /// Stop replication on a tablet
    #[command(alias = "StopReplication")]
    StopReplication(With<TabletArg>),
    /// Make the MySQL server of a tablet writable or read-only; its role is not looked at
    #[command(alias = "SetWritable")]
    SetWritable(With<SetWritable>),
    /// Change a tablet's type among those that are not primary
    #[command(alias = "ChangeTabletType")]
    ChangeTabletType(With<ChangeType>),
    /// Choose how many must acknowledge a write before it counts
    #[command(alias = "SetKeyspaceDurabilityPolicy")]
    SetKeyspaceDurabilityPolicy(With<SetDurability>),
    /// Allow or forbid automatic emergency reparents of a keyspace or shard
    #[command(alias = "SetVtorcEmergencyReparent")]
    SetVtorcEmergencyReparent(With<SetEmergency>),
    /// Show what stands under a path of the topology
    #[command(alias = "GetTopologyPath")]
    GetTopologyPath(With<TopologyPathArg>),
    /// Compare a shard's records with each other and, if asked, with its tablets
    #[command(alias = "ValidateShard")]
    ValidateShard(With<ValidateShard>),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An argument that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Arguments that do not go together, or a file that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No connection.
    #[error("cannot reach {server}: {reason}; is the elector there (--server)?")]
    Connect {
        /// What was called.
        server: String,
        /// Why not.
        reason: String,
    },
    /// No answer in time. What was asked may be under way or done.
    #[error(
        "no answer from {server} within {timeout:?}; what was asked may still be carried out: look before repeating it (--timeout)"
    )]
    Timeout {
        /// What was called.
        server: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// The connection was there and broke. What was asked may be done.
    #[error("the connection to {server} broke: {reason}; what was asked may have been carried out: look before repeating it")]
    Lost {
        /// What was called.
        server: String,
        /// What the connection said.
        reason: String,
    },
    /// The server is a vtctld, or an older vtelector.
    #[error("the server has no calls of vtelector's own, which this needs ({0}); nothing was done: call a vtelector (--server)")]
    NotOurs(String),
    /// The server refused or failed.
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(#[from] Status),
    /// The answer cannot be printed.
    #[error("cannot print the answer: {0}")]
    Print(String),
}

/// What a command prints: words for a person, and the answer itself for a program.
pub struct Answer {
    words: String,
    name: String,
    bytes: Vec<u8>,
    verdict: Verdict,
}

/// What scripts see of an answer, by the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It was done, or all is well.
    Well,
    /// The answer says that something is wrong.
    Finding,
    /// A dry run: the real one would be refused.
    WouldBeRefused,
}

impl Verdict {
    fn exit_code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Finding => 1,
            Self::WouldBeRefused => 3,
        }
    }
}

impl Answer {
    fn new<M: Message + Name>(message: &M, words: impl Into<String>) -> Self {
        Self { words: words.into(), name: M::full_name(), bytes: message.encode_to_vec(), verdict: Verdict::Well }
    }

    fn json(&self) -> Result<String, ClientError> {
        serde_json::to_string_pretty(&self.value()?).map_err(|e| ClientError::Print(e.to_string()))
    }

    fn json_line(&self) -> Result<String, ClientError> {
        Ok(self.value()?.to_string())
    }

    fn value(&self) -> Result<serde_json::Value, ClientError> {
        let print = |e: String| ClientError::Print(e);
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|e| print(e.to_string()))?;
        let kind = pool.get_message_by_name(&self.name).ok_or_else(|| print(format!("{} is not described", self.name)))?;
        let message = DynamicMessage::decode(kind, self.bytes.as_slice()).map_err(|e| print(e.to_string()))?;
        // As vtctldclient prints it: the proto's names, and what is false, zero or empty as well: a script finds the field.
        let names = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        message.serialize_with_options(serde_json::value::Serializer, &names).map_err(|e| print(e.to_string()))
    }
}

/// Runs one command and prints its answer. Exit code 0, 1 (it failed, or found something wrong), 2 (the arguments cannot be), or 3 (a dry run
/// of what would be refused).
pub async fn run(command: ClientCommand) -> ExitCode {
    let connection = call::connection(&command).clone();
    if let ClientCommand::Events(with) = command {
        let told = operate::events(&connection, with.own, |line| writeln!(std::io::stdout(), "{line}")).await;
        return told.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    }
    let printed = answer(&connection, command).await.and_then(|answer| {
        let text = if connection.json { answer.json()? } else { answer.words.trim_end().to_owned() };
        Ok((text, answer.verdict))
    });
    match printed {
        Ok((text, verdict)) => {
            if !text.is_empty() {
                // A reader that has gone away, as `head` does, is no failure of the call.
                let _ = writeln!(std::io::stdout(), "{text}");
            }
            ExitCode::from(verdict.exit_code())
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &ClientError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(if matches!(error, ClientError::Name(_) | ClientError::Usage(_)) { 2 } else { 1 })
}

async fn answer(connection: &Connection, command: ClientCommand) -> Result<Answer, ClientError> {
    let request = call::prepare(command)?;
    let timeout = connection.timeout.0;
    let begun = Instant::now();
    let late = || ClientError::Timeout { server: connection.server.clone(), timeout };
    let work = async {
        let channel = connect(connection).await?;
        call::send(channel, request, timeout.saturating_sub(begun.elapsed())).await
    };
    match tokio::time::timeout(timeout, work).await.map_err(|_| late())? {
        Err(ClientError::Refused(status)) => Err(told(connection, status)),
        result => result,
    }
}

/// A status with a cause is the transport's, not the server's.
fn told(connection: &Connection, status: Status) -> ClientError {
    let server = connection.server.clone();
    match status.source() {
        None => ClientError::Refused(status),
        Some(cause) if causes(cause).any(|cause| cause.is::<tonic::TimeoutExpired>()) => {
            ClientError::Timeout { server, timeout: connection.timeout.0 }
        }
        Some(cause) => ClientError::Lost { server, reason: whole(cause) },
    }
}

/// A channel on which every call says who calls.
pub type Line = InterceptedService<Channel, Signature>;

/// Writes into a call who calls.
#[derive(Clone)]
pub struct Signature(Option<Arc<ClientUser>>);

impl Interceptor for Signature {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(user) = &self.0 {
            user.sign(request.metadata_mut());
        }
        Ok(request)
    }
}

fn signature(connection: &Connection) -> Result<Signature, ClientError> {
    let user = match (&connection.grpc_auth_static_client_creds, &connection.token_file) {
        (Some(file), _) => ClientUser::read(file),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| error.to_string())
            .and_then(|token| ClientUser::of_token(&token))
            .map_err(|problem| format!("{}: {problem}", file.display())),
        (None, None) => return Ok(Signature(None)),
    };
    user.map(|user| Signature(Some(Arc::new(user)))).map_err(ClientError::Usage)
}

async fn connect(connection: &Connection) -> Result<Line, ClientError> {
    let (tls, signature) = (tls(connection)?, signature(connection)?);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let failed = |reason: String| ClientError::Connect { server: connection.server.clone(), reason };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", connection.server))
        .map_err(|_| ClientError::Usage(format!("--server {:?} is no address; write HOST:PORT", connection.server)))?
        .connect_timeout(CONNECT_TIMEOUT);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(|e| failed(whole(&e)))?;
    }
    let channel = endpoint.connect().await.map_err(|e| failed(whole(&e)))?;
    Ok(InterceptedService::new(channel, signature))
}

fn tls(connection: &Connection) -> Result<Option<ClientTlsConfig>, ClientError> {
    if connection.vtctld_grpc_ca.is_none() && connection.vtctld_grpc_cert.is_none() {
        return Ok(None);
    }
    let read = |file: &PathBuf| std::fs::read(file).map_err(|e| ClientError::Usage(format!("{}: {e}", file.display())));
    let mut tls = ClientTlsConfig::new();
    tls = match &connection.vtctld_grpc_ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => tls.with_enabled_roots(),
    };
    if let (Some(cert), Some(key)) = (&connection.vtctld_grpc_cert, &connection.vtctld_grpc_key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = &connection.vtctld_grpc_server_name {
        tls = tls.domain_name(name);
    }
    Ok(Some(tls))
}

/// An error with all its causes: the transport's own words name none.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}
