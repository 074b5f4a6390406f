//! The shard lock: Vitess's keys, queue and JSON, with the lease kept alive while the lock is held.

use std::time::Duration;

use super::{KvError, ShardId, Topo, TopoError, Version, keys, queue::Place};

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
pub struct ShardLock {
    shard: ShardId,
    place: Place,
}

impl ShardLock {
    /// The shard that is locked.
    pub fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// Create revision of our lock key: grows with every holder, so a tablet can refuse an elector that was overtaken.
    pub fn revision(&self) -> Version {
        self.place.revision()
    }

    /// Our key in the queue, for logs.
    pub fn key(&self) -> &str {
        self.place.key()
    }

    /// How long the lease is certain to live, counted from the sending of the last answered keepalive.
    pub fn valid_for(&self) -> Duration {
        self.place.valid_for()
    }

    /// Resolves when the lock is lost: etcd says that the lease is gone, or its life passed without an answered keepalive.
    pub async fn lost(&self) -> LockLost {
        self.lost_by(self.place.lost().await)
    }

    /// Asks etcd whether our key is still there under our lease and create revision. An etcd that does not answer before the lease
    /// ends counts as no.
    pub async fn verify(&self) -> Result<(), LockLost> {
        self.place.verify().await.map_err(|reason| self.lost_by(reason))
    }

    /// Writes `key` in one transaction that holds only while our lock key exists with our create revision
    /// (safety rule 1: the intent of a step that cannot be undone).
    pub async fn put_guarded(&self, key: &str, value: Vec<u8>) -> Result<(), LockOr> {
        if let Some(reason) = self.place.loss() {
            return Err(self.lost_by(reason).into());
        }
        match self.place.kv().put_guarded((self.place.key(), self.revision()), key, value).await? {
            Some(_) => Ok(()),
            None => {
                let reason = format!("{} is gone or not ours any more", self.place.key());
                self.place.lose(reason.clone());
                Err(self.lost_by(reason).into())
            }
        }
    }

    /// Gives the lock back. An error says that it was lost before; what was done under it may have been done beside another holder.
    pub async fn unlock(self) -> Result<(), LockLost> {
        let verified = self.verify().await;
        self.place.release().await;
        verified
    }

    fn lost_by(&self, reason: String) -> LockLost {
        LockLost { shard: self.shard.clone(), reason }
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

impl Topo {
    /// Takes the shard lock, waiting in Vitess's queue for at most `wait`. `action` is what the lock's JSON says.
    pub async fn lock_shard(&self, shard: &ShardId, action: &str, wait: Duration) -> Result<ShardLock, TopoError> {
        let place = Place::first_in_queue(self, &shard_name(shard), &keys::shard_folder(shard)?, action, wait).await?;
        Ok(ShardLock { shard: shard.clone(), place })
    }

    /// Takes the shard lock if nobody holds it or waits for it; else fails at once with `LockTimeout`.
    pub async fn try_lock_shard(&self, shard: &ShardId, action: &str) -> Result<ShardLock, TopoError> {
        let place = Place::try_first_in_queue(self, &shard_name(shard), &keys::shard_folder(shard)?, action).await?;
        Ok(ShardLock { shard: shard.clone(), place })
    }

    /// The keyspace lock, from the same kind of queue.
    pub(crate) async fn lock_keyspace(&self, keyspace: &str, action: &str, wait: Duration) -> Result<Place, TopoError> {
        let what = format!("keyspace {keyspace}");
        Place::first_in_queue(self, &what, &keys::keyspace_folder(keyspace)?, action, wait).await
    }
}

fn shard_name(shard: &ShardId) -> String {
    format!("shard {shard}")
}
