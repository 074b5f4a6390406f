//! The tablet-manager client: what a reparent or repair asks of a tablet.

mod cache;
mod dial;
mod error;
mod grpc;
mod health;
mod http2;
mod link;
mod tls;

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

pub use error::{MYSQLD_SILENT, MysqlErrno, OVERTAKEN, TabletError, TabletErrorKind, mysql_failure};
pub use grpc::{GrpcTabletManager, LOCK_REVISION_KEY, TabletSettings};
pub use tls::TabletTls;

pub use crate::tls::TlsError;

use futures_util::stream::BoxStream;

use crate::{
    pb::{
        query::{QueryResult, StreamHealthResponse},
        replicationdata::{FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::{Tablet, TabletType},
    },
    shard::Greeting,
    topo::{TabletAlias, Version},
};

/// Messages of a tablet's health stream; an error is the last one.
pub type HealthStream = BoxStream<'static, Result<StreamHealthResponse, TabletError>>;

/// Limits of one call, and on whose authority it is made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The overall deadline, connecting included.
    pub timeout: Duration,
    /// Create revision of the shard lock that covers this call; our agent refuses a lower one than it has seen
    /// (sent as metadata `vtelector-lock-revision`; a vttablet ignores it).
    pub lock_revision: Option<Version>,
}

impl Call {
    /// A call that only reads.
    pub fn read(timeout: Duration) -> Self {
        Self { timeout, lock_revision: None }
    }
}

/// Arguments of `SetReplicationSource`.
#[derive(Debug, Clone)]
pub struct SetSource<'a> {
    /// Whom to follow; the tablet reads the address from that tablet's record.
    pub parent: &'a TabletAlias,
    /// Wait for the reparent-journal row with this key, in nanoseconds; 0 = do not wait.
    pub time_created_ns: i64,
    /// Start replication even where it was stopped.
    pub force_start: bool,
    /// Wait until this encoded position is applied; empty = do not wait.
    pub wait_position: &'a str,
    /// Whether this tablet acknowledges the parent's transactions.
    pub semi_sync: bool,
    /// Heartbeat period in seconds; 0 = keep. Any other value makes a tablet throw its relay logs away.
    pub heartbeat_interval_s: f64,
}

/// What a reparent or a repair asks of a tablet. Every call names the tablet's record, from which the address is taken.
#[async_trait]
pub trait TabletManager: Send + Sync + 'static {
    /// Is the tablet's process there?
    async fn ping(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError>;
    /// Everything about its MySQL server in one answer.
    async fn full_status(&self, tablet: &Tablet, call: Call) -> Result<FullStatus, TabletError>;
    /// Replication threads and positions; `NotReplica` where no source is configured.
    async fn replication_status(&self, tablet: &Tablet, call: Call) -> Result<Status, TabletError>;
    /// Executed position, file position and server UUID.
    async fn primary_status(&self, tablet: &Tablet, call: Call) -> Result<PrimaryStatus, TabletError>;
    /// Executed position, encoded.
    async fn primary_position(&self, tablet: &Tablet, call: Call) -> Result<String, TabletError>;
    /// Values of global status variables.
    async fn global_status_vars(
        &self,
        tablet: &Tablet,
        variables: &[&str],
        call: Call,
    ) -> Result<BTreeMap<String, String>, TabletError>;
    /// Waits until the encoded position is applied.
    async fn wait_for_position(&self, tablet: &Tablet, position: &str, call: Call) -> Result<(), TabletError>;
    /// Stops the IO thread, or both, where healthy; the status before and after.
    async fn stop_replication_and_get_status(
        &self,
        tablet: &Tablet,
        mode: StopReplicationMode,
        call: Call,
    ) -> Result<StopReplicationStatus, TabletError>;
    /// Stops both replication threads.
    async fn stop_replication(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError>;
    /// Starts both replication threads.
    async fn start_replication(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError>;
    /// Makes it follow another tablet.
    async fn set_replication_source(&self, tablet: &Tablet, set: SetSource<'_>, call: Call) -> Result<(), TabletError>;
    /// Read-only, nothing in flight; the position then.
    async fn demote_primary(&self, tablet: &Tablet, force: bool, call: Call) -> Result<PrimaryStatus, TabletError>;
    /// Writable and serving again.
    async fn undo_demote_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError>;
    /// Makes a replica the primary; its position before the first write. An error does not mean that it was not promoted.
    async fn promote_replica(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError>;
    /// Makes the first primary of an empty shard; its position.
    async fn init_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError>;
    /// Writes a row into the reparent journal. `AlreadyDone` for a `time_created_ns` that is there.
    async fn populate_reparent_journal(
        &self,
        tablet: &Tablet,
        time_created_ns: i64,
        action: &str,
        primary: &TabletAlias,
        position: &str,
        call: Call,
    ) -> Result<(), TabletError>;
    /// Rows in the reparent journal.
    async fn read_reparent_journal_info(&self, tablet: &Tablet, call: Call) -> Result<i32, TabletError>;
    /// `read_only = ON` or both switches off.
    async fn set_read_only(&self, tablet: &Tablet, read_only: bool, call: Call) -> Result<(), TabletError>;
    /// Changes the tablet's type.
    async fn change_type(&self, tablet: &Tablet, to: TabletType, semi_sync: bool, call: Call) -> Result<(), TabletError>;
    /// Re-reads shard and serving records.
    async fn refresh_state(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError>;
    /// Sends a health update.
    async fn run_health_check(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError>;
    /// Stops replication and forgets the source.
    async fn reset_replication_parameters(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError>;
    /// One statement as the administrative user.
    async fn execute_fetch_as_dba(
        &self,
        tablet: &Tablet,
        sql: &str,
        max_rows: u64,
        call: Call,
    ) -> Result<QueryResult, TabletError>;

    /// Stops and starts both replication threads, so that a changed semi-sync setting takes effect. Changes no source.
    async fn restart_replication(&self, tablet: &Tablet, _semi_sync: bool, _call: Call) -> Result<(), TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "RestartReplication"))
    }
    /// Waits at most `wait` for the encoded position (empty = no wait), stops replication, and returns the executed position then.
    async fn stop_replication_minimum(
        &self,
        tablet: &Tablet,
        _position: &str,
        _wait: Duration,
        _call: Call,
    ) -> Result<String, TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "StopReplicationMinimum"))
    }
    /// Addresses of the servers that replicate from this one, as its MySQL sees them.
    async fn get_replicas(&self, tablet: &Tablet, _call: Call) -> Result<Vec<String>, TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "GetReplicas"))
    }
    /// Sets tags (an empty value deletes one), or swaps all of them; returns the tags then.
    async fn change_tags(
        &self,
        tablet: &Tablet,
        _tags: &BTreeMap<String, String>,
        _replace: bool,
        _call: Call,
    ) -> Result<BTreeMap<String, String>, TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "ChangeTags"))
    }
    /// Makes a PRIMARY record REPLICA; MySQL is left as it is.
    async fn replica_was_restarted(&self, tablet: &Tablet, _parent: &TabletAlias, _call: Call) -> Result<(), TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "ReplicaWasRestarted"))
    }
    /// Makes the record PRIMARY with a new term, and serving; MySQL is left as it is.
    async fn replica_was_promoted(&self, tablet: &Tablet, _call: Call) -> Result<(), TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "ReplicaWasPromoted"))
    }
    /// What this tablet's host hears from another tablet's MySQL within `wait`. Only our agent knows the call; it changes nothing.
    async fn hear(&self, tablet: &Tablet, _of: &Tablet, _wait: Duration, _call: Call) -> Result<Greeting, TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "Hear"))
    }
    /// The tablet's health, one message at once and then each change, until it or the caller ends.
    async fn stream_health(&self, tablet: &Tablet, _call: Call) -> Result<HealthStream, TabletError> {
        Err(TabletError::unimplemented(alias_of(tablet), "StreamHealth"))
    }
}

/// How many commits wait for an acknowledgement, in both spellings, of before and after MySQL 8.0.26; a server knows one of them, or none
/// without the plugin.
const WAIT_SESSIONS: [&str; 2] = ["Rpl_semi_sync_source_wait_sessions", "Rpl_semi_sync_master_wait_sessions"];

/// Whether commits wait for an acknowledgement there; `None` when what it says is no number. Without the plugin nothing waits.
pub async fn commits_wait(tablets: &dyn TabletManager, tablet: &Tablet, call: Call) -> Result<Option<bool>, TabletError> {
    let values = tablets.global_status_vars(tablet, &WAIT_SESSIONS, call).await?;
    Ok(values.values().try_fold(false, |any, sessions| Some(any | (sessions.parse::<u64>().ok()? > 0))))
}

/// The alias in a record. A record without one (never written by Vitess) prints as `-0000000000`.
fn alias_of(tablet: &Tablet) -> TabletAlias {
    let alias = tablet.alias.clone().unwrap_or_default();
    TabletAlias { cell: alias.cell, uid: alias.uid }
}
