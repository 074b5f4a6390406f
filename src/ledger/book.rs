//! The ledger as electors use it: what they write, and the watch that keeps their memory of it new.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    LedgerError, LedgerState, Now, Recovery, Scope, Window, prune,
    stored::{self, Key, Keys},
};
use crate::topo::{Kv, KvEntry, KvError, News, ShardId, Source, Topo};

/// News that may wait for being taken in; a source with more to tell waits.
const NEWS_MAX: usize = 16;
/// How often what could not be written is tried again.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Recoveries that may wait for etcd; one more is not kept.
const UNWRITTEN_MAX: usize = 1024;
/// Maintenance windows that are kept at most.
const WINDOWS_MAX: usize = 1000;

/// Where the ledger takes the time from. The steady clock is tokio's.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    opened: Instant,
}

impl Clock {
    /// A clock whose wall time is what this says.
    pub fn new(wall: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Self {
        Self { wall, opened: Instant::now() }
    }

    /// The clock of this machine.
    pub fn of_this_machine() -> Self {
        Self::new(Arc::new(SystemTime::now))
    }

    /// Now.
    pub fn now(&self) -> Now {
        Now { wall: (self.wall)(), steady: self.opened.elapsed() }
    }
}

/// The ledger. Cheap to clone; when the last clone is dropped, it is closed.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    _stop_with_us: Arc<DropGuard>,
}

pub(super) struct Inner {
    pub kv: Arc<dyn Kv>,
    pub keys: Keys,
    pub who: String,
    pub clock: Clock,
    pub state: watch::Sender<Arc<LedgerState>>,
}

impl Ledger {
    /// Opens the ledger below `root` in the global etcd and follows it until `stop`; `who` is this elector, for whoever looks into etcd.
    pub fn start(topo: &Topo, root: &str, who: &str, clock: Clock, stop: &CancellationToken) -> Self {
        let (kv, keys) = (topo.global(), Keys::new(root));
        let (state, _) = watch::channel(Arc::default());
        let inner = Arc::new(Inner { kv: kv.clone(), keys: keys.clone(), who: who.to_owned(), clock, state });
        let (stop, tasks) = (stop.child_token(), TaskTracker::new());
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let source = Source { kv, prefix: keys.prefix() };
        let (reading, following, pruning) = (stop.clone(), stop.clone(), stop.clone());
        tasks.spawn(async move { reading.run_until_cancelled(source.run(news, ())).await });
        let follower = inner.clone();
        tasks.spawn(async move { following.run_until_cancelled(follower.follow(inbox)).await });
        let pruner = inner.clone();
        tasks.spawn(async move { pruning.run_until_cancelled(prune::run(&pruner)).await });
        tasks.close();
        Self { inner, tasks, _stop_with_us: Arc::new(stop.drop_guard()) }
    }

    /// What the ledger holds, as far as it is known.
    pub fn state(&self) -> Arc<LedgerState> {
        self.inner.state.borrow().clone()
    }

    /// The same, and a way to wait for a change.
    pub fn changes(&self) -> watch::Receiver<Arc<LedgerState>> {
        self.inner.state.subscribe()
    }

    /// The moment by which [`LedgerState::block`] and [`LedgerState::history`] count.
    pub fn now(&self) -> Now {
        self.inner.clock.now()
    }

    /// Keeps a finished recovery: one write. It counts from now on, even where the write fails: then that is said, and it is tried again
    /// until etcd has it.
    pub async fn record(&self, recovery: Recovery) -> Result<(), LedgerError> {
        let inner = &*self.inner;
        let key = inner.keys.of_recovery(&recovery, rand::random());
        inner.change(|state, now| state.remember(key.clone(), recovery.clone(), now));
        inner.write_recovery(&key, &recovery).await
    }

    /// A person lets the shard have automatic promotions again: what was recorded before does not count any more.
    pub async fn acknowledge(&self, shard: &ShardId, who: &str, why: &str) -> Result<(), LedgerError> {
        let value = stored::encode_acknowledgement(who, why, self.now().wall);
        let doing = format!("acknowledging the promotions of {shard}");
        self.inner.put(&Key::Acknowledged(shard.clone()), value, doing).await
    }

    /// Begins maintenance that ends by itself after `lasting`, which is at most [`super::WINDOW_MAX`].
    pub async fn begin_maintenance(
        &self,
        scope: Scope,
        owner: &str,
        reason: &str,
        lasting: Duration,
    ) -> Result<Window, LedgerError> {
        let from = self.now().wall;
        let count = self.state().all_windows().count();
        if count >= WINDOWS_MAX {
            return Err(LedgerError::TooManyWindows { count });
        }
        let until = from + lasting.min(super::WINDOW_MAX);
        let id = format!("{:06x}", rand::random::<u32>() >> 8);
        let window = Window { id: id.clone(), scope, owner: owner.to_owned(), reason: reason.to_owned(), from, until };
        let doing = format!("beginning maintenance of {}", window.scope);
        let (key, value) = (self.inner.keys.of(&Key::Window(id)), stored::encode_window(&window));
        let version = self.inner.kv.create(&key, value.clone(), None).await.map_err(LedgerError::kv(doing))?;
        self.inner.written(key, value, version);
        Ok(window)
    }

    /// Ends maintenance before it ends by itself; answers what it was about, where that was known.
    pub async fn end_maintenance(&self, id: &str) -> Result<Option<Window>, LedgerError> {
        let window = self.state().all_windows().find(|window| window.id == id).cloned();
        let key = self.inner.keys.of(&Key::Window(id.to_owned()));
        let doing = format!("ending maintenance {id}");
        let there_was_one = self.inner.kv.delete(&key, None).await.map_err(LedgerError::kv(doing))?;
        self.inner.change(|state, _| state.delete(&self.inner.keys, &key));
        if there_was_one { Ok(window) } else { Err(LedgerError::NoWindow { id: id.to_owned() }) }
    }

    /// Switches recoveries off everywhere, or on again.
    pub async fn set_recoveries(&self, enabled: bool, who: &str, why: &str) -> Result<(), LedgerError> {
        if !enabled {
            let value = stored::encode_switch(who, why, self.now().wall);
            return self.inner.put(&Key::Switch, value, "switching recoveries off".to_owned()).await;
        }
        let key = self.inner.keys.of(&Key::Switch);
        self.inner.kv.delete(&key, None).await.map_err(LedgerError::kv("switching recoveries on"))?;
        self.inner.change(|state, _| state.delete(&self.inner.keys, &key));
        Ok(())
    }

    /// Waits until every task has ended after `stop` was cancelled, at most `limit`; answers whether they have.
    pub async fn stopped(&self, limit: Duration) -> bool {
        let ended = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        if !ended {
            tracing::warn!(?limit, "the ledger did not stop in time");
        }
        ended
    }
}

impl Inner {
    /// Changes the state and tells whoever waits for that.
    fn change(&self, change: impl FnOnce(&mut LedgerState, Now)) {
        let now = self.clock.now();
        let before = self.state.borrow().clone();
        self.state.send_modify(|state| change(Arc::make_mut(state), now));
        say(&before, &self.state.borrow());
    }

    async fn put(&self, key: &Key, value: Vec<u8>, doing: String) -> Result<(), LedgerError> {
        let key = self.keys.of(key);
        let version = self.kv.put(&key, value.clone()).await.map_err(LedgerError::kv(doing))?;
        self.written(key, value, version);
        Ok(())
    }

    /// What we wrote is known at once, without waiting for the watch.
    fn written(&self, key: String, value: Vec<u8>, version: i64) {
        let entry = KvEntry { key, value, version, create_revision: version, lease: None };
        self.change(|state, now| state.put(&self.keys, &entry, now, true));
    }

    async fn write_recovery(&self, key: &str, recovery: &Recovery) -> Result<(), LedgerError> {
        let value = stored::encode_recovery(recovery);
        match self.kv.create(key, value.clone(), None).await {
            Ok(version) => {
                self.written(key.to_owned(), value, version);
                Ok(())
            }
            // An earlier try was carried out and its answer lost: the watch brings it.
            Err(KvError::Exists { .. }) => Ok(()),
            Err(error) => Err(LedgerError::kv(format!("recording the recovery of {}", recovery.shard))(error)),
        }
    }

    async fn follow(&self, mut inbox: mpsc::Receiver<((), News)>) {
        let mut write_again = tokio::time::interval(WRITE_AGAIN_AFTER);
        write_again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = inbox.recv() => match news {
                    Some(((), news)) => self.take_in(news),
                    None => return,
                },
                _ = write_again.tick() => self.write_again().await,
            }
        }
    }

    fn take_in(&self, news: News) {
        self.change(|state, now| match news {
            News::All(entries) => state.begin_anew(&self.keys, &entries, now),
            News::Changes(events) => state.follow(&self.keys, &events, now),
            News::Broken { reason } => state.broken(reason),
        });
    }

    /// What etcd did not take when it happened.
    async fn write_again(&self) {
        let unwritten = self.state.borrow().unwritten();
        for (key, recovery) in &unwritten {
            if self.write_recovery(key, recovery).await.is_err() {
                break;
            }
        }
        if unwritten.len() > UNWRITTEN_MAX {
            self.change(|state, _| state.forget_unwritten(&self.keys, UNWRITTEN_MAX));
        }
    }
}

/// What a person would want to find in the log.
fn say(before: &LedgerState, after: &LedgerState) {
    match (before.unread(), after.unread()) {
        // The topology's watcher, whose etcd it is as well, has warned of that already.
        (None, Some(reason)) => tracing::info!(reason, "ledger unreadable: what was last read holds"),
        (Some(_), None) => tracing::info!("ledger read"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    match (before.recoveries_disabled(), after.recoveries_disabled()) {
        (None, Some(switch)) => tracing::info!(who = switch.who, why = switch.why, "recoveries are switched off everywhere"),
        (Some(_), None) => tracing::info!("recoveries are switched on again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    for (key, reason) in after.garbage().iter().filter(|(key, _)| !before.garbage().contains_key(*key)) {
        tracing::warn!(key, reason, "a value in the ledger means nothing here and is not used: repair or delete the key");
    }
}
