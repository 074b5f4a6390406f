//! FullStatus: everything about the server in one answer.

use tokio::time::Instant;

use super::{Agent, AgentError, replication, semi_sync::SemiSync};
use crate::{
    mysql::conn::{MysqlConn, MysqlError},
    pb::replicationdata::{Configuration, FullStatus},
};

/// The switches that decide who may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Ordinary accounts cannot write.
    pub read_only: bool,
    /// Nobody can. MySQL says ON as soon as the statement is given, also while it waits for commits that hang and keeps nobody out; the
    /// switch counts only when read_only, which comes with it, is on as well.
    pub super_read_only: bool,
    /// Ordinary accounts are thrown out.
    pub offline_mode: bool,
}

impl Switches {
    /// Reads them.
    pub async fn read(conn: &mut MysqlConn, deadline: Instant) -> Result<Self, MysqlError> {
        let sql = "SELECT @@global.read_only, @@global.super_read_only, @@global.offline_mode";
        let row = conn.query_one(sql, deadline).await?;
        let on = |at| row.at(at).as_deref() == Some("1");
        Ok(Self { read_only: on(0), super_read_only: on(0) && on(1), offline_mode: on(2) })
    }
}

impl Agent {
    /// Reads the whole status. No action lock: it must answer while an action hangs.
    pub(super) async fn full_status(&self, deadline: Instant) -> Result<FullStatus, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        let conn = &mut *conn;
        let (major, minor, patch) = conn.version();
        let updates = if (major, minor, patch) >= (8, 0, 26) { "log_replica_updates" } else { "log_slave_updates" };
        let net_timeout = if (major, minor, patch) >= (8, 0, 26) { "replica_net_timeout" } else { "slave_net_timeout" };
        let sql = format!(
            "SELECT @@global.server_id AS server_id, @@global.server_uuid AS server_uuid, @@global.gtid_purged AS gtid_purged, \
             @@global.version_comment AS version_comment, @@global.read_only AS read_only, @@global.gtid_mode AS gtid_mode, \
             @@global.binlog_format AS binlog_format, @@global.binlog_row_image AS binlog_row_image, @@global.log_bin AS log_bin, \
             @@global.{updates} AS log_replica_updates, @@global.super_read_only AS super_read_only, \
             @@global.{net_timeout} AS replica_net_timeout"
        );
        let row = conn.query_one(&sql, deadline).await?;
        let text = |name: &str| row.text(&[name]).unwrap_or_default();
        let on = |name: &str| text(name) == "1";
        let replication = replication::status(conn, deadline).await?;
        let semi_sync = SemiSync::read(conn, deadline).await.unwrap_or_default();
        let configuration = match &replication {
            Some(_) => Some(configuration(conn, text("replica_net_timeout"), deadline).await?),
            None => None,
        };
        Ok(FullStatus {
            server_id: text("server_id").parse().unwrap_or(0),
            server_uuid: text("server_uuid"),
            replication_status: replication.map(|replica| replica.status),
            primary_status: Some(replication::primary_status(conn, deadline).await?),
            gtid_purged: format!("MySQL56/{}", text("gtid_purged").replace('\n', "")),
            version: format!("{major}.{minor}.{patch}"),
            version_comment: text("version_comment"),
            read_only: on("read_only"),
            gtid_mode: text("gtid_mode"),
            binlog_format: text("binlog_format"),
            binlog_row_image: text("binlog_row_image"),
            log_bin_enabled: on("log_bin"),
            log_replica_updates: on("log_replica_updates"),
            semi_sync_primary_enabled: semi_sync.source_enabled,
            semi_sync_replica_enabled: semi_sync.replica_enabled,
            semi_sync_primary_status: semi_sync.source_status,
            semi_sync_replica_status: semi_sync.replica_status,
            semi_sync_primary_clients: semi_sync.clients,
            semi_sync_primary_timeout: semi_sync.timeout_ms,
            semi_sync_wait_for_replica_count: semi_sync.wait_for_replica_count,
            // See [`Switches`].
            super_read_only: on("super_read_only") && on("read_only"),
            replication_configuration: configuration,
            disk_stalled: false,
            // Without a heartbeat writer of our own a blocked commit is not told apart from a slow one.
            semi_sync_blocked: false,
            tablet_type: self.state.borrow().tablet.r#type,
        })
    }
}

async fn configuration(conn: &mut MysqlConn, net_timeout: String, deadline: Instant) -> Result<Configuration, MysqlError> {
    let sql = "SELECT HEARTBEAT_INTERVAL FROM performance_schema.replication_connection_configuration WHERE CHANNEL_NAME = ''";
    let heartbeat = conn.query(sql, deadline).await?.first().and_then(|row| row.at(0));
    Ok(Configuration {
        heartbeat_interval: heartbeat.and_then(|s| s.parse().ok()).unwrap_or(0.0),
        replica_net_timeout: net_timeout.parse().unwrap_or(0),
    })
}
