//! Why a topology operation failed.

use std::time::Duration;

use super::{KvError, NameError};

/// Why a topology operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopoError {
    /// A record that is not there; `what` names it for a person ("keyspace commerce", "tablet zone1-0000000100").
    #[error("{what} does not exist in the topology ({key})")]
    NotFound {
        /// The thing, for a person.
        what: String,
        /// The key that was read.
        key: String,
    },
    /// A record that is there already.
    #[error("{what} exists already")]
    Exists {
        /// The thing, for a person.
        what: String,
    },
    /// Bytes that are no such record.
    #[error("{key} holds {len} bytes that are no {kind} record: {reason}; repair or delete the key")]
    Garbage {
        /// The key.
        key: String,
        /// The expected type.
        kind: &'static str,
        /// How many bytes there are.
        len: usize,
        /// The decoder's words.
        reason: String,
    },
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The lock could not be had in time.
    #[error("{shard} is locked by {holder}: not free within {waited:?}; retry, or look at {key}")]
    LockTimeout {
        /// The locked shard (or keyspace).
        shard: String,
        /// Who holds it, as its JSON says.
        holder: String,
        /// How long we waited.
        waited: Duration,
        /// The holder's key.
        key: String,
    },
    /// The lock's lease ended while we waited for the lock, or while a record was changed under it.
    #[error("lost topology lock on {what}: {reason}; nothing more is sent")]
    LockLost {
        /// The locked shard or keyspace.
        what: String,
        /// What showed that it is lost.
        reason: String,
    },
    /// The store failed.
    #[error("{doing}: {source}")]
    Kv {
        /// What was attempted.
        doing: String,
        /// The store's error.
        source: KvError,
    },
}

impl TopoError {
    pub(crate) fn kv(doing: impl Into<String>) -> impl FnOnce(KvError) -> Self {
        let doing = doing.into();
        move |source| Self::Kv { doing, source }
    }

    /// Whether the error says that the thing is certainly absent.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
