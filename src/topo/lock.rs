//! The shard lock: Vitess's keys, queue and JSON, with the lease kept alive while the lock is held.

use std::time::Duration;

use super::{KvError, ShardId, Version};

/// The lock is no longer ours: what was observed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lost topology lock on {shard}: {reason}; nothing more is sent")]
pub struct LockLost {
    /// The shard whose lock it was.
    pub shard: ShardId,
    /// What showed that it is lost.
    pub reason: String,
}

/// A held shard lock. Dropping it without [`ShardLock::unlock`] revokes the lease from an owned task.
pub struct ShardLock {}

impl ShardLock {
    /// The shard that is locked.
    pub fn shard(&self) -> &ShardId {
        todo!()
    }

    /// Create revision of our lock key: grows with every holder, so a tablet can refuse an elector that was overtaken.
    pub fn revision(&self) -> Version {
        todo!()
    }

    /// How long the lease is certain to live, counted from the sending of the last answered keepalive.
    pub fn valid_for(&self) -> Duration {
        todo!()
    }

    /// Resolves when the lock is lost.
    pub async fn lost(&self) -> LockLost {
        todo!()
    }

    /// Asks etcd whether our key is still there under our lease and create revision.
    pub async fn verify(&self) -> Result<(), LockLost> {
        todo!()
    }

    /// Writes `key` in one transaction that holds only while our lock key exists with our create revision
    /// (safety rule 1: the intent of a step that cannot be undone).
    pub async fn put_guarded(&self, _key: &str, _value: Vec<u8>) -> Result<(), LockOr> {
        todo!()
    }

    /// Gives the lock back.
    pub async fn unlock(self) -> Result<(), LockLost> {
        todo!()
    }
}

/// A guarded write failed: because the lock is lost, or because the store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LockOr {
    /// The lock is lost; nothing was written.
    #[error(transparent)]
    Lost(#[from] LockLost),
    /// The store failed; the lock may still be ours.
    #[error(transparent)]
    Kv(#[from] KvError),
}
