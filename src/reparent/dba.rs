//! Statements that go through `ExecuteFetchAsDba`: what no other tablet call offers. No credentials of ours are needed for them.

use super::run::Run;
use crate::{
    pb::{query::QueryResult, topodata::Tablet},
    tablet::TabletError,
};

/// MySQL's error number for a variable that does not exist.
const UNKNOWN_SYSTEM_VARIABLE: u32 = 1193;

pub(super) const STOP_IO: &str = "STOP REPLICA IO_THREAD";
pub(super) const START_IO: &str = "START REPLICA IO_THREAD";
pub(super) const START_REPLICA: &str = "START REPLICA";
pub(super) const START_SQL: &str = "START REPLICA SQL_THREAD";
/// Throws every client out that is no administrator, and lets none in.
pub(super) const SET_OFFLINE: &str = "SET GLOBAL offline_mode = ON";
/// Lifts that fence.
pub(super) const SET_ONLINE: &str = "SET GLOBAL offline_mode = OFF";
pub(super) const IS_OFFLINE: &str = "SELECT @@global.offline_mode";
pub(super) const SET_SUPER_READ_ONLY: &str = "SET GLOBAL super_read_only = ON";
pub(super) const IS_SUPER_READ_ONLY: &str = "SELECT @@global.super_read_only";
pub(super) const CLOCK: &str = "SELECT UTC_TIMESTAMP(6)";

/// The names of the semi-sync variables: since MySQL 8.0.26 the plugin comes in two spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `rpl_semi_sync_source_...`
    Source,
    /// `rpl_semi_sync_master_...`
    Master,
}

impl Spelling {
    pub const ALL: [Self; 2] = [Self::Source, Self::Master];

    fn pick(self, source: &'static str, master: &'static str) -> &'static str {
        match self {
            Self::Source => source,
            Self::Master => master,
        }
    }

    pub fn enabled(self) -> &'static str {
        self.pick("rpl_semi_sync_source_enabled", "rpl_semi_sync_master_enabled")
    }

    pub fn timeout(self) -> &'static str {
        self.pick("rpl_semi_sync_source_timeout", "rpl_semi_sync_master_timeout")
    }

    pub fn wait_no_replica(self) -> &'static str {
        self.pick("rpl_semi_sync_source_wait_no_replica", "rpl_semi_sync_master_wait_no_slave")
    }

    pub fn wait_point(self) -> &'static str {
        self.pick("rpl_semi_sync_source_wait_point", "rpl_semi_sync_master_wait_point")
    }

    pub fn wait_count(self) -> &'static str {
        self.pick("rpl_semi_sync_source_wait_for_replica_count", "rpl_semi_sync_master_wait_for_slave_count")
    }
}

/// Whether MySQL said that it has no such variable.
pub(super) fn is_unknown_variable(error: &TabletError) -> bool {
    error.mysql_errno().is_some_and(|mysql| mysql.errno == UNKNOWN_SYSTEM_VARIABLE)
}

/// The first row, NULL as the empty text.
pub(super) fn first_row(result: &QueryResult) -> Vec<String> {
    let Some(row) = result.rows.first() else { return Vec::new() };
    let mut rest = row.values.as_slice();
    let mut values = Vec::new();
    for length in &row.lengths {
        let (value, after) = rest.split_at((*length).max(0).unsigned_abs().min(rest.len() as u64) as usize);
        values.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    values
}

/// The name of `replica_net_timeout` in a server of that version: it is new since 8.0.26, and the old one is gone since 9.
pub(super) fn net_timeout(version: &str) -> &'static str {
    let mut parts = version
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) >= (8, 0, 26) { "replica_net_timeout" } else { "slave_net_timeout" }
}

impl Run {
    /// One statement; its first row.
    pub async fn dba(&self, tablet: &Tablet, sql: &str) -> Result<Vec<String>, TabletError> {
        let result = self.hands.tablets.execute_fetch_as_dba(tablet, sql, 1, self.short()).await?;
        Ok(first_row(&result))
    }
}
