//! The few operations that vtelector needs of a key-value store, and what they promise.

use std::time::Duration;

use async_trait::async_trait;

/// The store's revision at which a key was last written; what a conditional write is conditioned on.
pub type Version = i64;

/// Identity of a lease.
pub type LeaseId = i64;

/// One key as it stood when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// Full key, root included.
    pub key: String,
    /// The stored bytes; zero bytes are a valid record.
    pub value: Vec<u8>,
    /// Revision of the last write.
    pub version: Version,
    /// Revision of the write that made the key.
    pub create_revision: Version,
    /// The lease that the key dies with.
    pub lease: Option<LeaseId>,
}

/// Everything below a prefix at one revision of the store.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Sorted by key.
    pub entries: Vec<KvEntry>,
    /// The store's revision when the listing was made: a watch goes on from the next one.
    pub revision: Version,
}

/// Why a key-value operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KvError {
    /// A conditional create found the key present.
    #[error("{key} exists already")]
    Exists {
        /// The key.
        key: String,
    },
    /// A conditional write or delete found another version, or no key.
    #[error("{key} was changed by somebody else meanwhile")]
    BadVersion {
        /// The key.
        key: String,
    },
    /// The lease is gone: it expired or was revoked.
    #[error("lease {lease} has expired or was revoked")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// The store no longer knows that revision.
    #[error("{operation}: revision {revision} was compacted; read again from the current one")]
    Compacted {
        /// What was attempted, on which key.
        operation: String,
        /// The revision that was asked for.
        revision: Version,
    },
    /// No endpoint answered in time. A write may or may not have happened.
    #[error("{operation}: no answer from {endpoints}: {reason}")]
    Unreachable {
        /// What was attempted, on which key.
        operation: String,
        /// The endpoints that were tried.
        endpoints: String,
        /// The last failure.
        reason: String,
        /// Whether a write may have been carried out all the same.
        unknown_outcome: bool,
    },
    /// The store answered with an error of its own.
    #[error("{operation}: {reason}")]
    Refused {
        /// What was attempted, on which key.
        operation: String,
        /// The store's words.
        reason: String,
    },
}

/// One thing a watch has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was written.
    Put(KvEntry),
    /// A key was deleted, or died with its lease.
    Delete {
        /// Full key.
        key: String,
        /// Revision of the deletion.
        version: Version,
    },
    /// The watch is alive and the store has come to this revision. Events up to it may still be on their way: releases of etcd
    /// before 3.4.25 and 3.5.8 answer a progress request before they deliver them.
    Progress(Version),
}

/// A running watch. It ends (`None`) when the store can no longer promise that nothing is missing: list again, watch again.
pub struct Watch {
    /// Events in order of revision. The channel is bounded: a reader that stands still ends the watch.
    pub events: tokio::sync::mpsc::Receiver<WatchEvent>,
    /// Ends the task that feeds the channel when the watch is dropped.
    _owner: tokio_util::sync::DropGuard,
}

impl Watch {
    /// A watch that is fed through this channel by a task that `owner` stops.
    pub fn new(events: tokio::sync::mpsc::Receiver<WatchEvent>, owner: tokio_util::sync::DropGuard) -> Self {
        Self { events, _owner: owner }
    }
}

/// A key-value store with etcd's semantics. Keys are full paths. Every call has its own deadline inside.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// Reads one key (linearizable).
    async fn get(&self, key: &str) -> Result<Option<KvEntry>, KvError>;
    /// Reads one key as it stood at a revision of the store.
    async fn get_at(&self, key: &str, revision: Version) -> Result<Option<KvEntry>, KvError>;
    /// Reads every key that starts with `prefix` (no slash is added).
    async fn list(&self, prefix: &str) -> Result<Listing, KvError>;
    /// Reads the keys (without values) that start with `prefix`.
    async fn list_keys(&self, prefix: &str) -> Result<Listing, KvError>;
    /// Writes a key that must not exist; returns its version.
    async fn create(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Version, KvError>;
    /// Writes a key that must be at `expected`; returns its new version.
    async fn update(&self, key: &str, value: Vec<u8>, expected: Version) -> Result<Version, KvError>;
    /// Writes a key whatever it was.
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Version, KvError>;
    /// Deletes a key; with `expected`, only at that version. Returns whether there was one.
    async fn delete(&self, key: &str, expected: Option<Version>) -> Result<bool, KvError>;
    /// Writes `key` only while `guard` exists with that create revision; `None` when it does not.
    async fn put_guarded(&self, guard: (&str, Version), key: &str, value: Vec<u8>) -> Result<Option<Version>, KvError>;
    /// Makes a lease.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, KvError>;
    /// Extends a lease by its time to live, which is returned; `LeaseGone` when it is too late.
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Duration, KvError>;
    /// Ends a lease and deletes its keys. A lease that is gone is no error.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), KvError>;
    /// Watches every key that starts with `prefix`, from revision `from` on (inclusive, at least 1). Fails with `Compacted` when that
    /// revision is gone; ends when it goes while the watch catches up.
    async fn watch(&self, prefix: &str, from: Version) -> Result<Watch, KvError>;
}
