//! What one agent was told.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::replication::ReplicationAccount;
use crate::{
    config::ServerTls,
    mysql::conn::MysqlSettings,
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// Settings of one agent, checked.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Who it is.
    pub alias: TabletAlias,
    /// Its shard.
    pub shard: ShardId,
    /// REPLICA, RDONLY or SPARE.
    pub start_type: TabletType,
    /// Tags of its record.
    pub tags: BTreeMap<String, String>,
    /// Name under which others reach this host.
    pub hostname: String,
    /// Where gRPC listens; port 0 takes a free one.
    pub grpc: SocketAddr,
    /// TLS of the gRPC server.
    pub grpc_tls: Option<ServerTls>,
    /// The server it manages.
    pub mysql: MysqlSettings,
    /// Port of MySQL for the record; asked of the server when absent.
    pub mysql_port: Option<u16>,
    /// How this server logs in to its source.
    pub replication: ReplicationAccount,
    /// Where electors keep their journals in the global topology.
    pub ledger_root: String,
    /// Where the fence token is kept.
    pub data_dir: PathBuf,
    /// Limit of an action whose caller gave none, and of the agent's own steps.
    pub remote_operation_timeout: Duration,
    /// Longest wait for the shard lock in one attempt.
    pub lock_timeout: Duration,
    /// Between two messages on a health stream.
    pub health_check_interval: Duration,
}
