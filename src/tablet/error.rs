//! What a failed tablet call means for the caller.

use crate::topo::TabletAlias;

/// A tablet call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} on {alias}: {message}")]
pub struct TabletError {
    /// The tablet that was called.
    pub alias: TabletAlias,
    /// The RPC.
    pub method: &'static str,
    /// What it means.
    pub kind: TabletErrorKind,
    /// The gRPC code that came with it.
    pub code: tonic::Code,
    /// The tablet's words, or ours where it never answered.
    pub message: String,
}

/// What the caller may conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TabletErrorKind {
    /// No connection: nothing was sent, nothing was done.
    Unreachable,
    /// Sent, but the answer did not come (deadline, connection lost): it may have been done, be under way, or never start.
    UnknownOutcome,
    /// MySQL on that tablet does not answer its tablet manager (errno 2002, 2003, 2006, 2013).
    MysqlDown,
    /// No replication source is configured (errno 100).
    NotReplica,
    /// Refused before anything was changed (code 9).
    Precondition,
    /// Refused because of transactions that the source does not have.
    ErrantGtid,
    /// The effect was there already (duplicate journal row).
    AlreadyDone,
    /// The tablet does not know this call.
    Unimplemented,
    /// A newer elector was here: our lock revision is lower than the one seen.
    Overtaken,
    /// It answered that it failed.
    Failed,
}
