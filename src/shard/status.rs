//! What a tablet's `FullStatus` says, as far as decisions rest on it.

use std::{sync::Arc, time::Duration};

use super::{IoError, Link};
use crate::{
    mysql::{GtidSet, ServerUuid},
    pb::topodata::TabletType,
};

/// One answer to `FullStatus`.
#[derive(Debug, Clone, PartialEq)]
pub struct TabletStatus {
    /// The server's UUID.
    pub server_uuid: Option<ServerUuid>,
    /// The type that the tablet believes it has; `Unknown` where it does not say.
    pub tablet_type: TabletType,
    /// `server_id`.
    pub server_id: u32,
    /// `version`, such as `8.0.36`.
    pub version: String,
    /// `version_comment`.
    pub version_comment: String,
    /// `read_only` or `super_read_only`.
    pub read_only: bool,
    /// `super_read_only`.
    pub super_read_only: bool,
    /// Binary logging.
    pub log_bin: bool,
    /// `log_replica_updates`.
    pub log_replica_updates: bool,
    /// `binlog_format`.
    pub binlog_format: String,
    /// `binlog_row_image`.
    pub binlog_row_image: String,
    /// `gtid_mode`, such as `ON`.
    pub gtid_mode: String,
    /// Executed transactions; `None` when the position is no GTID set.
    pub executed: Option<Arc<GtidSet>>,
    /// Executed and received transactions.
    pub received: Option<Arc<GtidSet>>,
    /// `gtid_purged`.
    pub purged: Option<Arc<GtidSet>>,
    /// Its replication; `None` without a source.
    pub replication: Option<Replication>,
    /// `replica_net_timeout`.
    pub replica_net_timeout: Duration,
    /// Heartbeat period of its source's channel.
    pub heartbeat: Duration,
    /// Semi-sync as a source: enabled, active, waited-for count, connected ackers, timeout in milliseconds.
    pub semi_sync_primary_enabled: bool,
    /// `Rpl_semi_sync_source_status`.
    pub semi_sync_primary_active: bool,
    /// `rpl_semi_sync_source_wait_for_replica_count`.
    pub semi_sync_wait_count: u32,
    /// `Rpl_semi_sync_source_clients`.
    pub semi_sync_clients: u32,
    /// `rpl_semi_sync_source_timeout`, milliseconds.
    pub semi_sync_timeout_ms: u64,
    /// Semi-sync as a replica: enabled.
    pub semi_sync_replica_enabled: bool,
    /// `Rpl_semi_sync_replica_status`.
    pub semi_sync_replica_active: bool,
    /// The tablet's own semi-sync monitor says that commits hang.
    pub semi_sync_blocked: bool,
    /// The tablet's own disk monitor says that writes to its disk hang.
    pub disk_stalled: bool,
}

impl TabletStatus {
    /// Whether it differs from an earlier one in more than what always moves: positions, and how far a replica lags.
    pub fn tells_more_than(&self, earlier: &Self) -> bool {
        let Self {
            server_uuid,
            tablet_type,
            server_id,
            version,
            version_comment,
            read_only,
            super_read_only,
            log_bin,
            log_replica_updates,
            binlog_format,
            binlog_row_image,
            gtid_mode,
            executed: _,
            received: _,
            purged: _,
            replication,
            replica_net_timeout,
            heartbeat,
            semi_sync_primary_enabled,
            semi_sync_primary_active,
            semi_sync_wait_count,
            semi_sync_clients,
            semi_sync_timeout_ms,
            semi_sync_replica_enabled,
            semi_sync_replica_active,
            semi_sync_blocked,
            disk_stalled,
        } = earlier;
        let same = self.server_uuid == *server_uuid
            && self.tablet_type == *tablet_type
            && self.server_id == *server_id
            && self.version == *version
            && self.version_comment == *version_comment
            && self.read_only == *read_only
            && self.super_read_only == *super_read_only
            && self.log_bin == *log_bin
            && self.log_replica_updates == *log_replica_updates
            && self.binlog_format == *binlog_format
            && self.binlog_row_image == *binlog_row_image
            && self.gtid_mode == *gtid_mode
            && self.replica_net_timeout == *replica_net_timeout
            && self.heartbeat == *heartbeat
            && self.semi_sync_primary_enabled == *semi_sync_primary_enabled
            && self.semi_sync_primary_active == *semi_sync_primary_active
            && self.semi_sync_wait_count == *semi_sync_wait_count
            && self.semi_sync_clients == *semi_sync_clients
            && self.semi_sync_timeout_ms == *semi_sync_timeout_ms
            && self.semi_sync_replica_enabled == *semi_sync_replica_enabled
            && self.semi_sync_replica_active == *semi_sync_replica_active
            && self.semi_sync_blocked == *semi_sync_blocked
            && self.disk_stalled == *disk_stalled;
        !same
            || match (&self.replication, replication) {
                (None, None) => false,
                (Some(now), Some(before)) => now.tells_more_than(before),
                (Some(_), None) | (None, Some(_)) => true,
            }
    }
}

impl Replication {
    fn tells_more_than(&self, earlier: &Self) -> bool {
        let Self {
            source_host,
            source_port,
            source_uuid,
            io,
            io_error,
            sql_running,
            sql_error,
            lag,
            delay,
            auto_position,
            has_filters,
            backup_running,
            has_credentials,
            tls,
        } = earlier;
        self.source_host != *source_host
            || self.source_port != *source_port
            || self.source_uuid != *source_uuid
            || self.io != *io
            || self.io_error != *io_error
            || self.sql_running != *sql_running
            || self.sql_error != *sql_error
            || self.lag.is_some() != lag.is_some()
            || self.delay != *delay
            || self.auto_position != *auto_position
            || self.has_filters != *has_filters
            || self.backup_running != *backup_running
            || self.has_credentials != *has_credentials
            || self.tls != *tls
    }
}

/// Replication of a server that has a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Replication {
    /// `Source_Host`.
    pub source_host: String,
    /// `Source_Port`.
    pub source_port: u16,
    /// `Source_UUID`; `None` when it never connected.
    pub source_uuid: Option<ServerUuid>,
    /// The IO thread.
    pub io: IoState,
    /// `Last_IO_Error`, its number in front as MySQL prints it; empty without one.
    pub io_error: String,
    /// Whether the SQL thread runs.
    pub sql_running: bool,
    /// `Last_SQL_Error`.
    pub sql_error: String,
    /// `Seconds_Behind_Source`; `None` when it is not known.
    pub lag: Option<Duration>,
    /// `SQL_Delay`.
    pub delay: Duration,
    /// Whether it replicates by GTID positions.
    pub auto_position: bool,
    /// Whether filters leave something out.
    pub has_filters: bool,
    /// Whether it takes a backup now.
    pub backup_running: bool,
    /// Whether an account for the source is set.
    pub has_credentials: bool,
    /// `Source_SSL_Allowed`.
    pub tls: bool,
}

impl Replication {
    /// Whether it has its source, whoever that is. Only an error of connecting shows that the source is lost.
    pub fn link(&self) -> Link {
        match self.io {
            IoState::Running => Link::Up,
            _ if !self.io_error.is_empty() && IoError::of(&self.io_error) == IoError::NoConnection => Link::Lost,
            _ if !self.io_error.is_empty() => Link::Broken,
            IoState::Connecting => Link::Searching,
            IoState::Stopped => Link::Stopped,
        }
    }
}

/// State of an IO thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoState {
    /// It has its source.
    Running,
    /// It looks for its source.
    Connecting,
    /// It was stopped, or has given up.
    Stopped,
}
