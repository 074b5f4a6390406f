//! The shard lock: Vitess's keys, queue and JSON, with the lease kept alive while the lock is held.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

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

/// What happens with shard locks, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockEvent {
    /// One was asked for and is held now.
    Taken {
        /// From the question on, the wait in the queue included.
        waited: Duration,
    },
    /// One was asked for in vain.
    NotTaken {
        /// How long it was tried.
        waited: Duration,
    },
    /// One was given back.
    GivenBack {
        /// Until etcd had answered.
        waited: Duration,
    },
    /// One turned out to be lost when it was given back.
    Lost,
    /// One is held no more, in whatever way it ended.
    Ended,
}

/// Hears of every shard lock of this process.
pub type LockListener = Arc<dyn Fn(LockEvent) + Send + Sync>;

/// Tells the listener when it goes, in whatever way.
struct Active(Topo);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.tell(LockEvent::Ended);
    }
}

/// A held shard lock. Dropping it without [`ShardLock::unlock`] revokes the lease from an owned task.
pub struct ShardLock {
    shard: ShardId,
    place: Place,
    active: Active,
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
        let began = Instant::now();
        let verified = self.verify().await;
        let topo = self.active.0.clone();
        self.place.release().await;
        topo.tell(LockEvent::GivenBack { waited: began.elapsed() });
        if verified.is_err() {
            topo.tell(LockEvent::Lost);
        }
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
        let (began, what, folder) = (Instant::now(), shard_name(shard), keys::shard_folder(shard)?);
        self.taken(shard, began, Place::first_in_queue(self, &what, &folder, action, wait).await)
    }

    /// Takes the shard lock if nobody holds it or waits for it; else fails at once with `LockTimeout`.
    pub async fn try_lock_shard(&self, shard: &ShardId, action: &str) -> Result<ShardLock, TopoError> {
        let (began, what, folder) = (Instant::now(), shard_name(shard), keys::shard_folder(shard)?);
        self.taken(shard, began, Place::try_first_in_queue(self, &what, &folder, action).await)
    }

    fn taken(&self, shard: &ShardId, began: Instant, place: Result<Place, TopoError>) -> Result<ShardLock, TopoError> {
        let waited = began.elapsed();
        self.tell(if place.is_ok() { LockEvent::Taken { waited } } else { LockEvent::NotTaken { waited } });
        place.map(|place| ShardLock { shard: shard.clone(), place, active: Active(self.clone()) })
    }

    /// Lets somebody hear of every shard lock from now on. The first one stays.
    pub fn listen_to_locks(&self, listener: LockListener) {
        // A second listener would be a mistake of whoever puts the parts together; the first one counts on.
        let _ = self.lock_listener().set(listener);
    }

    fn tell(&self, event: LockEvent) {
        if let Some(listener) = self.lock_listener().get() {
            listener(event);
        }
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
