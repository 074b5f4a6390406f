//! A store in memory with etcd's semantics: revisions, leases on tokio's clock, watches. The simulation and tests run on it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Kv, KvEntry, KvError, LeaseId, Listing, Version, Watch, WatchEvent};

/// Changes that are remembered at least; at twice as many the older ones are compacted away.
const HISTORY_MAX: usize = 10_000;
/// Events that may wait for their reader beyond those replayed at the start; one more ends the watch.
const QUEUE_MAX: usize = 1024;

/// A store in memory. Made within a tokio runtime, on whose clock its leases run.
pub struct MemoryKv {
    state: Arc<Mutex<State>>,
    /// Owns the tasks that end leases.
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_with_us: DropGuard,
}

#[derive(Default)]
struct State {
    revision: Version,
    compacted: Version,
    /// The remembered changes of each key, oldest first.
    keys: BTreeMap<String, VecDeque<Change>>,
    /// The remembered changes of all keys, oldest first.
    log: VecDeque<(Version, WatchEvent)>,
    leases: BTreeMap<LeaseId, Lease>,
    leases_granted: LeaseId,
    watchers: Vec<(String, mpsc::Sender<WatchEvent>)>,
}

struct Change {
    version: Version,
    entry: Option<KvEntry>,
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<String>,
}

impl Default for MemoryKv {
    fn default() -> Self {
        let stop = CancellationToken::new();
        let state = State { revision: 1, ..State::default() };
        let _stop_with_us = stop.clone().drop_guard();
        Self { state: Arc::new(Mutex::new(state)), tasks: TaskTracker::new(), stop, _stop_with_us }
    }
}

impl MemoryKv {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    // The task that ends a lease may run a moment late; nobody must see the lease in between.
    let now = Instant::now();
    let over: Vec<LeaseId> = state.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect();
    for lease in over {
        state.end_lease(lease);
    }
    state
}

impl State {
    fn current(&self, key: &str) -> Option<&KvEntry> {
        self.keys.get(key)?.back()?.entry.as_ref()
    }

    /// Carries out a change as a revision of its own.
    fn write(&mut self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Version {
        self.revision += 1;
        let version = self.revision;
        let before = self.current(key).map(|entry| (entry.create_revision, entry.lease));
        if let Some(old) = before.and_then(|(_, lease)| lease).and_then(|lease| self.leases.get_mut(&lease)) {
            old.keys.remove(key);
        }
        if let Some(new) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            new.keys.insert(key.to_owned());
        }
        let create_revision = before.map_or(version, |(create_revision, _)| create_revision);
        let entry = KvEntry { key: key.to_owned(), value, version, create_revision, lease };
        self.keys.entry(key.to_owned()).or_default().push_back(Change { version, entry: Some(entry.clone()) });
        self.publish(version, WatchEvent::Put(entry));
        version
    }

    /// Deletes keys in one revision; answers how many there were.
    fn remove(&mut self, keys: &[String]) -> usize {
        let present: Vec<&String> = keys.iter().filter(|key| self.current(key).is_some()).collect();
        if present.is_empty() {
            return 0;
        }
        self.revision += 1;
        let version = self.revision;
        for key in &present {
            if let Some(lease) = self.current(key).and_then(|entry| entry.lease)
                && let Some(lease) = self.leases.get_mut(&lease)
            {
                lease.keys.remove(*key);
            }
            self.keys.entry((*key).clone()).or_default().push_back(Change { version, entry: None });
            self.publish(version, WatchEvent::Delete { key: (*key).clone(), version });
        }
        present.len()
    }

    fn end_lease(&mut self, lease: LeaseId) {
        if let Some(lease) = self.leases.remove(&lease) {
            self.remove(&lease.keys.into_iter().collect::<Vec<_>>());
        }
    }

    fn publish(&mut self, version: Version, event: WatchEvent) {
        let key = match &event {
            WatchEvent::Put(entry) => &entry.key,
            WatchEvent::Delete { key, .. } => key,
            WatchEvent::Progress(_) => return,
        };
        // A reader that is gone or too slow loses its watch.
        self.watchers.retain(|(prefix, sender)| !key.starts_with(prefix.as_str()) || sender.try_send(event.clone()).is_ok());
        self.log.push_back((version, event));
        if self.log.len() > 2 * HISTORY_MAX {
            self.compact();
        }
    }

    /// Forgets the older half of the history.
    fn compact(&mut self) {
        let oldest = self.log[self.log.len() - HISTORY_MAX].0;
        self.compacted = oldest;
        while self.log.front().is_some_and(|(version, _)| *version <= oldest) {
            self.log.pop_front();
        }
        // What stood at the compacted revision stays; what was overwritten by then goes, and so does a deleted key.
        self.keys.retain(|_, changes| {
            while changes.get(1).is_some_and(|next| next.version <= oldest) {
                changes.pop_front();
            }
            while changes.front().is_some_and(|first| first.version <= oldest && first.entry.is_none()) {
                changes.pop_front();
            }
            !changes.is_empty()
        });
    }

    fn matching(&self, prefix: &str) -> impl Iterator<Item = &KvEntry> {
        let range = self.keys.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix));
        range.filter_map(|(_, changes)| changes.back()?.entry.as_ref())
    }

    fn lease(&self, lease: LeaseId) -> Result<(), KvError> {
        if self.leases.contains_key(&lease) { Ok(()) } else { Err(KvError::LeaseGone { lease }) }
    }
}

/// Ends a lease when its time is over, as often as that time is moved.
async fn expire(state: Weak<Mutex<State>>, lease: LeaseId) {
    loop {
        let deadline = {
            let Some(state) = state.upgrade() else { return };
            let state = lock(&state);
            let Some(lease) = state.leases.get(&lease) else { return };
            lease.deadline
        };
        sleep_until(deadline).await;
    }
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        Ok(self.state().current(key).cloned())
    }

    async fn get_at(&self, key: &str, revision: Version) -> Result<Option<KvEntry>, KvError> {
        let state = self.state();
        let operation = format!("reading an older version of {key}");
        if revision > state.revision {
            return Err(KvError::Refused { operation, reason: "required revision is a future revision".to_owned() });
        }
        if revision < state.compacted {
            return Err(KvError::Compacted { operation, revision });
        }
        let changes = state.keys.get(key);
        Ok(changes.and_then(|changes| changes.iter().rev().find(|change| change.version <= revision)?.entry.clone()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, KvError> {
        let state = self.state();
        Ok(Listing { entries: state.matching(prefix).cloned().collect(), revision: state.revision })
    }

    async fn list_keys(&self, prefix: &str) -> Result<Listing, KvError> {
        let mut listing = self.list(prefix).await?;
        listing.entries.iter_mut().for_each(|entry| entry.value.clear());
        Ok(listing)
    }

    async fn create(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Version, KvError> {
        let mut state = self.state();
        if state.current(key).is_some() {
            return Err(KvError::Exists { key: key.to_owned() });
        }
        lease.map_or(Ok(()), |lease| state.lease(lease))?;
        Ok(state.write(key, value, lease))
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Version) -> Result<Version, KvError> {
        let mut state = self.state();
        match state.current(key) {
            Some(entry) if entry.version == expected => Ok(state.write(key, value, None)),
            _ => Err(KvError::BadVersion { key: key.to_owned() }),
        }
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Version, KvError> {
        Ok(self.state().write(key, value, None))
    }

    async fn delete(&self, key: &str, expected: Option<Version>) -> Result<bool, KvError> {
        let mut state = self.state();
        match (state.current(key), expected) {
            (Some(entry), Some(expected)) if entry.version != expected => Err(KvError::BadVersion { key: key.to_owned() }),
            _ => Ok(state.remove(&[key.to_owned()]) > 0),
        }
    }

    async fn put_guarded(&self, guard: (&str, Version), key: &str, value: Vec<u8>) -> Result<Option<Version>, KvError> {
        let mut state = self.state();
        let (guard, create_revision) = guard;
        let held = state.current(guard).is_some_and(|entry| entry.create_revision == create_revision);
        Ok(held.then(|| state.write(key, value, None)))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        // Whole seconds, as etcd counts them.
        let ttl = Duration::from_secs(ttl.as_secs_f64().ceil().max(1.0) as u64);
        let mut state = self.state();
        state.leases_granted += 1;
        let id = state.leases_granted;
        state.leases.insert(id, Lease { ttl, deadline: Instant::now() + ttl, keys: BTreeSet::new() });
        drop(state);
        let (state, stop) = (Arc::downgrade(&self.state), self.stop.clone());
        self.tasks.spawn(async move { stop.run_until_cancelled(expire(state, id)).await });
        Ok(id)
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        let mut state = self.state();
        let found = state.leases.get_mut(&lease).ok_or(KvError::LeaseGone { lease })?;
        found.deadline = Instant::now() + found.ttl;
        Ok(found.ttl)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        self.state().end_lease(lease);
        Ok(())
    }

    async fn watch(&self, prefix: &str, from: Version) -> Result<Watch, KvError> {
        let mut state = self.state();
        if from <= state.compacted {
            return Err(KvError::Compacted { operation: format!("watching {prefix}"), revision: from });
        }
        let ours = |event: &WatchEvent| match event {
            WatchEvent::Put(entry) => entry.key.starts_with(prefix),
            WatchEvent::Delete { key, .. } => key.starts_with(prefix),
            WatchEvent::Progress(_) => false,
        };
        let missed: Vec<WatchEvent> =
            state.log.iter().filter(|(version, event)| *version >= from && ours(event)).map(|(_, event)| event.clone()).collect();
        let (sender, events) = mpsc::channel(missed.len() + QUEUE_MAX);
        let fits = missed.into_iter().all(|event| sender.try_send(event).is_ok());
        if fits {
            state.watchers.push((prefix.to_owned(), sender));
        }
        Ok(Watch::new(events, self.stop.child_token().drop_guard()))
    }
}
