//! The log in memory, as etcd has it. Pure.

use std::collections::BTreeMap;

use super::{
    head::{Head, Wanted},
    stored::{self, Cursor, Dropped, Key, Keys, PLACES},
};
use crate::{
    pb::vtelector::{Event, event::What},
    topo::{KvEntry, ShardId, TabletAlias, Version, WatchEvent},
};

/// One key of the log.
#[derive(Debug)]
pub struct Batch {
    name: String,
    bytes: Vec<u8>,
    heads: Vec<Head>,
}

/// A problem of a shard, as the log names it.
pub type ProblemKey = (String, Option<TabletAlias>);

/// Everything below the events' prefix.
#[derive(Debug, Default)]
pub struct LogState {
    /// By the revision under which they were written.
    batches: BTreeMap<Version, Batch>,
    keys: BTreeMap<String, Version>,
    events: usize,
    bytes: usize,
    /// Problems that were opened and not closed, with whoever opened them; nobody, where that elector has left the shard.
    open: BTreeMap<ShardId, BTreeMap<ProblemKey, String>>,
    cursors: BTreeMap<String, (Version, Cursor)>,
    deliverers: BTreeMap<String, String>,
    dropped: (Version, Dropped),
    newest: u64,
    unread: Option<String>,
    /// Keys of the log whose value means nothing here.
    garbage: usize,
}

/// What a receiver has yet to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many events.
    pub count: u64,
    /// When the oldest happened, in seconds since 1970.
    pub oldest_s: Option<i64>,
}

impl LogState {
    /// Before anything is read.
    pub fn unread_yet() -> Self {
        Self { unread: Some("it was not read yet".to_owned()), ..Self::default() }
    }

    /// What is there is all there is; answers what went, as batches with their revision.
    pub fn begin_anew(&mut self, keys: &Keys, entries: &[KvEntry]) -> Vec<(Version, Batch)> {
        let mut old = std::mem::take(self);
        let mut sorted: Vec<&KvEntry> = entries.iter().collect();
        sorted.sort_by_key(|entry| entry.version);
        sorted.into_iter().for_each(|entry| self.put(keys, entry));
        old.batches.retain(|version, _| !self.batches.contains_key(version));
        old.batches.into_iter().collect()
    }

    /// Takes in what changed; answers what went.
    pub fn follow(&mut self, keys: &Keys, events: &[WatchEvent]) -> Vec<(Version, Batch)> {
        let mut gone = Vec::new();
        for event in events {
            match event {
                WatchEvent::Put(entry) => self.put(keys, entry),
                WatchEvent::Delete { key, .. } => gone.extend(self.delete(keys, key)),
                WatchEvent::Progress(_) => {}
            }
        }
        gone
    }

    /// What is known may be out of date.
    pub fn broken(&mut self, reason: String) {
        self.unread = Some(reason);
    }

    fn put(&mut self, keys: &Keys, entry: &KvEntry) {
        match keys.parse(&entry.key) {
            Key::Batch(name) => self.put_batch(name, entry),
            Key::Cursor(name) => {
                // One that means nothing is as if it was not there: it is begun anew.
                if let Ok(cursor) = serde_json::from_slice(&entry.value) {
                    self.cursors.insert(name.to_owned(), (entry.version, cursor));
                }
            }
            Key::Deliverer(name) => {
                _ = self.deliverers.insert(name.to_owned(), String::from_utf8_lossy(&entry.value).into_owned());
            }
            Key::Dropped => self.dropped = (entry.version, serde_json::from_slice(&entry.value).unwrap_or_default()),
            Key::Other => {}
        }
    }

    fn put_batch(&mut self, name: &str, entry: &KvEntry) {
        if self.keys.contains_key(&entry.key) {
            return;
        }
        let Ok(events) = stored::decode_batch(name, entry.version, &entry.value) else {
            self.garbage += 1;
            return;
        };
        self.newest = self.newest.max(events.last().map_or(0, |event| event.sequence));
        events.iter().for_each(|event| self.fold(event));
        self.events += events.len();
        self.bytes += entry.value.len();
        self.keys.insert(entry.key.clone(), entry.version);
        let batch = Batch { name: name.to_owned(), bytes: entry.value.clone(), heads: events.iter().map(Head::of).collect() };
        self.batches.insert(entry.version, batch);
    }

    fn fold(&mut self, event: &Event) {
        let Ok(shard) = ShardId::new(&event.keyspace, &event.shard) else { return };
        let of_shard = self.open.entry(shard.clone()).or_default();
        match &event.what {
            Some(What::Opened(problem)) => _ = of_shard.insert(problem_key(problem), event.who.clone()),
            Some(What::Closed(problem)) => _ = of_shard.remove(&problem_key(problem)),
            Some(What::LeftAlone(_)) => {
                of_shard.values_mut().filter(|opener| **opener == event.who).for_each(String::clear);
            }
            _ => {}
        }
        if of_shard.is_empty() {
            self.open.remove(&shard);
        }
    }

    fn delete(&mut self, keys: &Keys, key: &str) -> Option<(Version, Batch)> {
        match keys.parse(key) {
            Key::Batch(_) => {
                let version = self.keys.remove(key)?;
                let batch = self.batches.remove(&version)?;
                self.events -= batch.heads.len();
                self.bytes -= batch.bytes.len();
                Some((version, batch))
            }
            Key::Cursor(name) => {
                self.cursors.remove(name);
                None
            }
            Key::Deliverer(name) => {
                self.deliverers.remove(name);
                None
            }
            Key::Dropped | Key::Other => None,
        }
    }

    /// Events after that number, at most so many, and only those whose head is wanted; with them the number up to which was looked.
    pub fn after(&self, sequence: u64, max: usize, wants: impl Fn(&Head) -> bool) -> (Vec<Event>, u64) {
        let (mut found, mut looked) = (Vec::new(), sequence);
        let from = Version::try_from(sequence / PLACES).unwrap_or(Version::MAX);
        for (version, batch) in self.batches.range(from..) {
            let last = stored::sequence(*version, batch.heads.len().saturating_sub(1));
            if last <= sequence {
                continue;
            }
            if batch.heads.iter().any(&wants) {
                let events = stored::decode_batch(&batch.name, *version, &batch.bytes).unwrap_or_default();
                for (event, head) in events.into_iter().zip(&batch.heads) {
                    if event.sequence > sequence && wants(head) {
                        looked = event.sequence;
                        found.push(event);
                    }
                    if found.len() >= max {
                        return (found, looked);
                    }
                }
            }
            looked = last;
        }
        (found, looked)
    }

    /// What of the log a receiver that has taken everything up to that number has yet to take.
    pub fn pending(&self, sequence: u64, wanted: &Wanted) -> Pending {
        let mut pending = Pending::default();
        let from = Version::try_from(sequence / PLACES).unwrap_or(Version::MAX);
        for (version, batch) in self.batches.range(from..) {
            for head in wanted_of(*version, batch, sequence, wanted) {
                pending.count += 1;
                pending.oldest_s.get_or_insert(head.at_s);
            }
        }
        pending
    }

    /// Whoever opened a problem that the log does not say to be gone; empty = that elector has left the shard.
    pub fn opener(&self, shard: &ShardId, problem: &ProblemKey) -> Option<&str> {
        self.open.get(shard)?.get(problem).map(String::as_str)
    }

    /// Problems that the log does not say to be gone, each with whoever opened it.
    pub fn open_of<'a>(&'a self, shard: &ShardId) -> impl Iterator<Item = (&'a ProblemKey, &'a str)> + use<'a> {
        self.open.get(shard).into_iter().flatten().map(|(problem, opener)| (problem, opener.as_str()))
    }

    /// Keys of batches, the oldest first, each with its last number and how many events it has.
    pub fn oldest(&self) -> impl Iterator<Item = (&str, u64, usize, i64, usize)> {
        self.batches.iter().map(|(version, batch)| {
            let at_s = batch.heads.last().map_or(0, |head| head.at_s);
            let last = stored::sequence(*version, batch.heads.len().saturating_sub(1));
            (batch.name.as_str(), last, batch.heads.len(), at_s, batch.bytes.len())
        })
    }

    /// How many events there are, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.events, self.bytes)
    }

    /// The numbers of the oldest and the newest event; 0 = there is none.
    pub fn range(&self) -> (u64, u64) {
        let oldest = self.batches.first_key_value().map_or(0, |(version, _)| stored::sequence(*version, 0));
        (oldest, self.newest)
    }

    /// What went, and the revision of that note; 0 = there is none.
    pub fn dropped(&self) -> (Version, Dropped) {
        self.dropped
    }

    /// What a receiver has taken, as last written down.
    pub fn cursor(&self, receiver: &str) -> Option<&Cursor> {
        self.cursors.get(receiver).map(|(_, cursor)| cursor)
    }

    /// Receivers to whom nobody delivers, and whose cursor was last written before that second: each with its version.
    pub fn left_since(&self, at_s: u64) -> impl Iterator<Item = (&str, Version)> {
        let left = self.cursors.iter().filter(move |(name, (_, cursor))| {
            // A cursor without a time is of a release that wrote none.
            (1..at_s).contains(&cursor.at_s) && !self.deliverers.contains_key(*name)
        });
        left.map(|(name, (version, _))| (name.as_str(), *version))
    }

    /// Who delivers to a receiver.
    pub fn deliverer(&self, receiver: &str) -> Option<&str> {
        self.deliverers.get(receiver).map(String::as_str)
    }

    /// Why the log is not, or no longer, known; `None` = it is.
    pub fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// Values that mean nothing here.
    pub fn garbage(&self) -> usize {
        self.garbage
    }
}

/// Events of a batch after that number that are wanted.
pub fn wanted_of<'a>(version: Version, batch: &'a Batch, sequence: u64, wanted: &'a Wanted) -> impl Iterator<Item = &'a Head> {
    let heads = batch.heads.iter().enumerate();
    heads.filter(move |(place, head)| stored::sequence(version, *place) > sequence && wanted.wants(head)).map(|(_, head)| head)
}

/// By what the log knows a problem of a shard again.
pub fn problem_key(problem: &crate::pb::vtelector::Problem) -> ProblemKey {
    let alias = problem.tablet_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
    (problem.code.clone(), alias)
}
