//! The log as this elector has it: followed in etcd, held in memory, read by number.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    head::{Head, Wanted},
    prune,
    scribe::{Alive, Scribe},
    state::{LogState, wanted_of},
    stored::Keys,
};
use crate::{
    ledger::Clock,
    metrics::EventMetrics,
    pb::vtelector::{Event, EventLogState},
    recover::board::Board,
    topo::{Kv, News, Source},
};

/// News that may wait for being taken in; a source with more to tell waits.
const NEWS_MAX: usize = 16;

/// Whoever keeps and reads the log. Cheap to clone; when the last clone is dropped, its tasks end.
#[derive(Clone)]
pub struct EventLog {
    pub(super) inner: Arc<Inner>,
    tasks: TaskTracker,
    _stop_with_us: Arc<DropGuard>,
}

pub(super) struct Inner {
    pub kv: Arc<dyn Kv>,
    pub keys: Keys,
    /// This elector, as others find it in the log.
    pub who: String,
    pub clock: Clock,
    pub metrics: EventMetrics,
    state: Mutex<LogState>,
    /// Counts the changes, for whoever waits for one.
    pub changes: watch::Sender<u64>,
    /// Where the receivers stand that this elector delivers to, so that what goes before they have taken it is counted.
    places: Mutex<BTreeMap<String, Place>>,
    unwritten: AtomicU64,
}

struct Place {
    taken: u64,
    wanted: Wanted,
    lost: u64,
}

/// Where the log is, and whose it is.
pub struct LogSettings {
    /// The global etcd.
    pub kv: Arc<dyn Kv>,
    /// `--ledger-root`.
    pub ledger_root: String,
    /// This elector.
    pub who: String,
    /// Where times come from.
    pub clock: Clock,
}

impl EventLog {
    /// Follows the log until `stop`, and writes into it what the board tells; `alive` says which electors there are.
    pub fn start(settings: LogSettings, board: &Board, alive: Alive, metrics: EventMetrics, stop: &CancellationToken) -> Self {
        let log = Self::follow(settings, metrics, stop);
        let scribe = Scribe::new(log.inner.clone(), board, alive);
        let (writing, pruning, inner) = (stop.clone(), stop.clone(), log.inner.clone());
        // It ends by itself, with a last write.
        log.tasks.spawn(async move { scribe.run(writing).await });
        log.tasks.spawn(async move { pruning.run_until_cancelled(prune::run(&inner)).await });
        log
    }

    /// Follows the log until `stop` and writes nothing.
    pub fn follow(settings: LogSettings, metrics: EventMetrics, stop: &CancellationToken) -> Self {
        let LogSettings { kv, ledger_root, who, clock } = settings;
        let keys = Keys::below(&ledger_root);
        let source = Source { kv: kv.clone(), prefix: keys.all.clone() };
        let inner = Arc::new(Inner {
            kv,
            keys,
            who,
            clock,
            metrics,
            state: Mutex::new(LogState::unread_yet()),
            changes: watch::Sender::new(0),
            places: Mutex::default(),
            unwritten: AtomicU64::new(0),
        });
        let (stop, tasks) = (stop.child_token(), TaskTracker::new());
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let (reading, following, follower) = (stop.clone(), stop.clone(), inner.clone());
        tasks.spawn(async move { reading.run_until_cancelled(source.run(news, ())).await });
        tasks.spawn(async move { following.run_until_cancelled(follower.take_in(inbox)).await });
        Self { inner, tasks, _stop_with_us: Arc::new(stop.drop_guard()) }
    }

    /// Events after that number that are wanted, at most so many, and the number up to which was looked.
    pub fn after(&self, sequence: u64, max: usize, wants: impl Fn(&Head) -> bool) -> (Vec<Event>, u64) {
        self.inner.state().after(sequence, max, wants)
    }

    /// A way to wait for a change of the log.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The number of the newest event, of those that went too; 0 = there never was one.
    pub fn newest(&self) -> u64 {
        self.inner.newest()
    }

    /// The number of the last event that is no longer there; 0 = all are.
    pub fn floor(&self) -> u64 {
        self.inner.state().dropped().1.floor
    }

    /// Waits until the log can be read, at most `limit`; otherwise why it cannot.
    pub async fn readable(&self, limit: Duration) -> Result<(), String> {
        let mut changes = self.changes();
        let read = async { while self.unread().is_some() && changes.changed().await.is_ok() {} };
        _ = tokio::time::timeout(limit, read).await;
        self.unread().map_or(Ok(()), Err)
    }

    /// Why the log cannot be read; `None` = it can.
    pub fn unread(&self) -> Option<String> {
        self.inner.state().unread().map(str::to_owned)
    }

    /// The log, for a person.
    pub fn status(&self) -> EventLogState {
        let state = self.inner.state();
        let (oldest_sequence, newest_sequence) = state.range();
        EventLogState {
            events: state.size().0 as u64,
            oldest_sequence,
            newest_sequence,
            dropped: state.dropped().1.count,
            unread: state.unread().unwrap_or_default().to_owned(),
            unwritten: self.inner.unwritten.load(Ordering::Relaxed),
        }
    }

    /// Waits until its tasks have ended after `stop` was cancelled, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "the log of events did not stop in time");
        }
    }
}

impl Inner {
    pub fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn newest(&self) -> u64 {
        let state = self.state();
        state.range().1.max(state.dropped().1.floor)
    }

    pub fn unwritten(&self, count: usize) {
        self.unwritten.store(count as u64, Ordering::Relaxed);
    }

    /// A receiver that we deliver to has taken everything up to that number.
    pub fn stands_at(&self, receiver: &str, taken: u64, wanted: &Wanted) {
        let mut places = self.places();
        let place = places.entry(receiver.to_owned()).or_insert_with(|| Place { taken, wanted: wanted.clone(), lost: 0 });
        place.taken = taken;
    }

    /// How many events went, or are about to go, that the receiver has not taken, since this was last asked; and the last number that went,
    /// up to which it stands from now on.
    pub fn overtaken(&self, receiver: &str, taken: u64) -> (u64, u64) {
        let state = self.state();
        let floor = state.dropped().1.floor;
        let mut places = self.places();
        let Some(place) = places.get_mut(receiver) else { return (0, floor) };
        let mut lost = std::mem::take(&mut place.lost);
        if floor > taken {
            let pending = |from: u64| state.pending(from, &place.wanted).count;
            lost += pending(taken) - pending(floor);
            place.taken = floor;
        }
        (lost, floor)
    }

    /// We deliver to that receiver no more.
    pub fn stands_nowhere(&self, receiver: &str) {
        self.places().remove(receiver);
    }

    async fn take_in(&self, mut inbox: mpsc::Receiver<((), News)>) {
        while let Some(((), news)) = inbox.recv().await {
            {
                let mut state = self.state();
                let garbage = state.garbage();
                let gone = match news {
                    News::All(entries) => state.begin_anew(&self.keys, &entries),
                    News::Changes(events) => state.follow(&self.keys, &events),
                    News::Broken { reason } => {
                        state.broken(reason);
                        Vec::new()
                    }
                };
                if state.garbage() > garbage && garbage == 0 {
                    tracing::warn!(prefix = self.keys.all, "a value in the log of events means nothing here and is not told");
                }
                let (events, bytes) = state.size();
                self.metrics.log_size(events, bytes, state.dropped().1.count);
                // While the state is held: whoever counts what is about to go must not count it twice.
                for place in self.places().values_mut() {
                    let missed =
                        gone.iter().map(|(version, batch)| wanted_of(*version, batch, place.taken, &place.wanted).count());
                    place.lost += missed.sum::<usize>() as u64;
                }
            }
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}
