//! A tablet in the words of VTOrc's `Instance`. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::shard::{Shard, is_valid};
use crate::{
    pb::{topodata::TabletType, vtelector::TabletState},
    topo::TabletAlias,
};

/// When and by what limits tablets are judged.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Now.
    pub now: Timestamp,
    /// `--instance-poll-time`.
    pub poll: Duration,
    /// `--reasonable-replication-lag`.
    pub lag: Duration,
}

/// Go's `sql.NullInt64`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NullInt64 {
    int64: i64,
    valid: bool,
}

impl From<Option<u64>> for NullInt64 {
    fn from(number: Option<u64>) -> Self {
        Self { int64: number.and_then(|number| i64::try_from(number).ok()).unwrap_or_default(), valid: number.is_some() }
    }
}

/// A position in a log file; type 0 is a binary log, 1 a relay log. Positions here are GTID sets: the file's name stays empty.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Coordinates {
    log_file: &'static str,
    log_pos: u64,
    r#type: u8,
}

/// What VTOrc's API says of one tablet.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Instance {
    pub instance_alias: String,
    hostname: String,
    port: u16,
    tablet_type: i32,
    cell: String,
    #[serde(rename = "ServerID")]
    server_id: u32,
    #[serde(rename = "ServerUUID")]
    server_uuid: String,
    version: String,
    version_comment: String,
    flavor_name: &'static str,
    read_only: bool,
    binlog_format: String,
    binlog_row_image: String,
    log_bin_enabled: bool,
    log_replication_updates_enabled: bool,
    self_binlog_coordinates: Coordinates,
    source_host: String,
    source_port: u16,
    #[serde(rename = "SourceUUID")]
    source_uuid: String,
    #[serde(rename = "AncestryUUID")]
    ancestry_uuid: String,
    replica_net_timeout: u32,
    heartbeat_interval: f64,
    // VTOrc's spelling.
    #[serde(rename = "ReplicationSQLThreadRuning")]
    sql_running: bool,
    #[serde(rename = "ReplicationIOThreadRuning")]
    io_running: bool,
    #[serde(rename = "ReplicationSQLThreadState")]
    sql_state: i8,
    #[serde(rename = "ReplicationIOThreadState")]
    io_state: i8,
    has_replication_filters: bool,
    #[serde(rename = "GTIDMode")]
    gtid_mode: String,
    #[serde(rename = "SupportsOracleGTID")]
    supports_gtid: bool,
    #[serde(rename = "UsingOracleGTID")]
    using_gtid: bool,
    read_binlog_coordinates: Coordinates,
    exec_binlog_coordinates: Coordinates,
    is_detached: bool,
    relaylog_coordinates: Coordinates,
    #[serde(rename = "LastSQLError")]
    last_sql_error: String,
    #[serde(rename = "LastIOError")]
    last_io_error: String,
    seconds_behind_primary: NullInt64,
    #[serde(rename = "SQLDelay")]
    sql_delay: u32,
    executed_gtid_set: String,
    gtid_purged: String,
    pub gtid_errant: String,
    replication_lag_seconds: NullInt64,
    replication_depth: usize,
    is_co_primary: bool,
    has_replication_credentials: bool,
    semi_sync_enforced: bool,
    semi_sync_primary_enabled: bool,
    semi_sync_replica_enabled: bool,
    semi_sync_primary_timeout: u64,
    semi_sync_primary_wait_for_replica_count: u32,
    semi_sync_primary_status: bool,
    semi_sync_primary_clients: u32,
    semi_sync_replica_status: bool,
    semi_sync_blocked: bool,
    last_seen_timestamp: String,
    is_last_check_valid: bool,
    is_up_to_date: bool,
    is_recently_checked: bool,
    seconds_since_last_seen: NullInt64,
    stalled_disk: bool,
    #[serde(rename = "AllowTLS")]
    allow_tls: bool,
    /// In VTOrc's words; empty = nothing is wrong.
    pub problems: Vec<&'static str>,
    /// Nanoseconds: the median of its answers in the last minute.
    last_discovery_latency: u64,
}

impl Instance {
    /// One tablet of a shard.
    pub fn of(tablet: &TabletState, shard: &Shard<'_>, limits: Limits) -> Self {
        let (host, port) = address(&tablet.mysql_address);
        let alias = tablet.alias.clone().unwrap_or_default();
        let semi_sync = tablet.semi_sync.unwrap_or_default();
        let age = tablet.status_age_ms.map(Duration::from_millis);
        let within = |limit: Duration| age.is_some_and(|age| age <= limit);
        let mut instance = Self {
            instance_alias: TabletAlias { cell: alias.cell.clone(), uid: alias.uid }.to_string(),
            hostname: host,
            port,
            tablet_type: type_number(&tablet.observed_type),
            cell: alias.cell,
            server_id: tablet.server_id,
            server_uuid: tablet.server_uuid.clone(),
            version: tablet.version.clone(),
            version_comment: tablet.version_comment.clone(),
            flavor_name: flavor(&tablet.version_comment),
            read_only: tablet.read_only.unwrap_or_default(),
            binlog_format: tablet.binlog_format.clone(),
            binlog_row_image: tablet.binlog_row_image.clone(),
            log_bin_enabled: tablet.log_bin,
            log_replication_updates_enabled: tablet.log_replica_updates,
            ancestry_uuid: shard.ancestry(tablet).join(","),
            replica_net_timeout: tablet.replica_net_timeout_s,
            heartbeat_interval: tablet.heartbeat_interval_s,
            supports_gtid: !matches!(tablet.gtid_mode.as_str(), "" | "OFF"),
            gtid_mode: tablet.gtid_mode.clone(),
            relaylog_coordinates: Coordinates { r#type: 1, ..Coordinates::default() },
            executed_gtid_set: tablet.executed.clone(),
            gtid_purged: tablet.purged.clone(),
            gtid_errant: tablet.errant.clone().unwrap_or_default(),
            replication_depth: shard.ancestry(tablet).len().saturating_sub(1),
            is_co_primary: shard.is_co_primary(tablet),
            semi_sync_primary_enabled: semi_sync.source_enabled,
            semi_sync_replica_enabled: semi_sync.replica_enabled,
            semi_sync_primary_timeout: semi_sync.timeout_ms,
            semi_sync_primary_wait_for_replica_count: semi_sync.wait_for,
            semi_sync_primary_status: semi_sync.source_active,
            semi_sync_primary_clients: semi_sync.clients,
            semi_sync_replica_status: semi_sync.replica_active,
            semi_sync_blocked: semi_sync.blocked,
            last_seen_timestamp: age.map(|age| seconds_ago(limits.now, age)).unwrap_or_default(),
            is_last_check_valid: is_valid(tablet),
            is_up_to_date: within(limits.poll),
            is_recently_checked: within(5 * limits.poll),
            seconds_since_last_seen: age.map(|age| age.as_secs()).into(),
            stalled_disk: tablet.disk_stalled,
            last_discovery_latency: tablet.pace_ms.unwrap_or_default().saturating_mul(1_000_000),
            sql_state: -1,
            io_state: -1,
            ..Self::default()
        };
        instance.replicates(tablet);
        instance.problems = problems(&instance, tablet, limits);
        instance
    }

    fn replicates(&mut self, tablet: &TabletState) {
        let Some(replication) = &tablet.replication else { return };
        (self.source_host, self.source_port) = address(&replication.source);
        self.source_uuid.clone_from(&replication.source_uuid);
        self.io_state = match replication.io_thread.as_str() {
            "running" => 1,
            "connecting" => 2,
            _ => 0,
        };
        self.sql_state = replication.sql_running.into();
        (self.io_running, self.sql_running) = (self.io_state == 1, replication.sql_running);
        self.has_replication_filters = replication.has_filters;
        self.using_gtid = replication.auto_position;
        self.last_io_error.clone_from(&replication.io_error);
        self.last_sql_error.clone_from(&replication.sql_error);
        self.seconds_behind_primary = replication.lag_ms.map(|lag| lag / 1000).into();
        self.replication_lag_seconds = self.seconds_behind_primary;
        self.sql_delay = replication.delay_s;
        self.has_replication_credentials = replication.has_credentials;
        self.allow_tls = replication.tls;
    }
}

fn problems(instance: &Instance, tablet: &TabletState, limits: Limits) -> Vec<&'static str> {
    let mut problems = Vec::new();
    let lag = |lag: u64| Duration::from_millis(lag).abs_diff(Duration::from_secs(instance.sql_delay.into())) > limits.lag;
    if !instance.is_last_check_valid {
        problems.push("last_check_invalid");
    } else if !instance.is_recently_checked {
        problems.push("not_recently_checked");
    } else if tablet.replication.is_some() && !(instance.io_running && instance.sql_running) {
        problems.push("not_replicating");
    } else if tablet.replication.as_ref().and_then(|replication| replication.lag_ms).is_some_and(lag) {
        problems.push("replication_lag");
    }
    if !instance.gtid_errant.is_empty() {
        problems.push("errant_gtid");
    }
    problems
}

/// The number of a tablet type; 0 where it is not known.
pub fn type_number(name: &str) -> i32 {
    TabletType::from_str_name(name).unwrap_or(TabletType::Unknown) as i32
}

fn flavor(version_comment: &str) -> &'static str {
    let comment = version_comment.to_ascii_lowercase();
    match () {
        () if comment.contains("percona") => "Percona",
        () if comment.contains("mysql") || comment.contains("source distribution") => "MySQL",
        () => "unknown",
    }
}

/// `host:port`; an address that is none has no host and port 0.
fn address(text: &str) -> (String, u16) {
    let parted = text.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.parse().unwrap_or_default()));
    parted.unwrap_or_default()
}

fn seconds_ago(now: Timestamp, age: Duration) -> String {
    let at = now.checked_sub(age).ok().and_then(|at| Timestamp::from_second(at.as_second()).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}
