//! The ledger in memory, and what follows from it. Pure: entries and moments go in, answers come out.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Block, FlapRules, Recovery, Rule, Switch, Window,
    stored::{self, Key, Keys, StoredError},
};
use crate::{
    config::GoDuration,
    topo::{KvEntry, ShardId, TabletAlias, Version, WatchEvent},
};

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock: may jump, and differs from elector to elector.
    pub wall: SystemTime,
    /// Our own steady clock, from when this ledger was opened.
    pub steady: Duration,
}

/// A recovery as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What was recorded.
    pub recovery: Recovery,
    /// When we first saw it, by our steady clock.
    first_seen: Duration,
    /// Whether it came while we watched, and therefore ended at that moment whatever any wall clock says.
    came_live: bool,
    /// Revision at which it was written; `None` while it is only in our memory.
    written: Option<Version>,
}

/// A person has looked at the promotions of a shard and lets it go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// When (wall clock).
    pub at: SystemTime,
}

/// Everything in the ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LedgerState {
    /// By shard and key.
    recoveries: BTreeMap<ShardId, Arc<BTreeMap<String, Kept>>>,
    /// The last one of each shard; it covers what was written before it.
    acknowledged: BTreeMap<ShardId, (Version, Acknowledgement)>,
    windows: BTreeMap<String, (Version, Window)>,
    disabled: Option<(Version, Switch)>,
    dropped: (Version, u64),
    garbage: BTreeMap<String, String>,
    unread: Option<String>,
    read_once: bool,
}

impl Default for LedgerState {
    fn default() -> Self {
        Self {
            recoveries: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            windows: BTreeMap::new(),
            disabled: None,
            dropped: (0, 0),
            garbage: BTreeMap::new(),
            unread: Some("it was not read yet".to_owned()),
            read_once: false,
        }
    }
}

impl Kept {
    /// How long ago it ended. By our steady clock when we saw it come; else by the wall clock, but for no less than we have known it:
    /// an entry from the future does not stay young.
    pub(super) fn age(&self, now: Now) -> Duration {
        let known_for = now.steady.saturating_sub(self.first_seen);
        match self.came_live {
            true => known_for,
            false => now.wall.duration_since(self.recovery.at).unwrap_or_default().max(known_for),
        }
    }

    pub(super) fn written(&self) -> Option<Version> {
        self.written
    }
}

impl LedgerState {
    /// Why the shard may not have another automatic promotion now. Only those are ever asked for: a resume, a repair and a person's call
    /// are not.
    pub fn block(&self, shard: &ShardId, now: Now, rules: &FlapRules) -> Option<Block> {
        if !self.read_once {
            let reason = format!("the ledger below --ledger-root cannot be read: {}", self.unread().unwrap_or_default());
            return Some(Block { rule: Rule::LedgerUnread, until: None, reason });
        }
        let mut counted: Vec<(Duration, &Kept)> = self.counted(shard).map(|kept| (kept.age(now), kept)).collect();
        counted.sort_by_key(|(age, _)| *age);
        let ages: Vec<Duration> = counted.iter().map(|(age, _)| *age).collect();
        let (rule, left) = rules.blocking(&ages)?;
        let (age, last) = counted.first()?;
        let name = |alias: &Option<TabletAlias>| alias.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let reason = format!(
            "the last automatic promotion was {} ago ({} after {}, by {}): {}; acknowledging lifts it",
            GoDuration(Duration::from_millis(age.as_millis() as u64)),
            name(&last.recovery.promoted),
            name(&last.recovery.old),
            last.recovery.who,
            rules.words(rule),
        );
        Some(Block { rule, until: now.wall.checked_add(left), reason })
    }

    /// The promotions that count for anti-flapping: those that nobody acknowledged.
    fn counted(&self, shard: &ShardId) -> impl Iterator<Item = &Kept> {
        let acknowledged = self.acknowledged.get(shard).map(|(version, _)| *version);
        let is_open = move |kept: &Kept| match (kept.written, acknowledged) {
            (Some(written), Some(acknowledged)) => written > acknowledged,
            (None, _) | (_, None) => true,
        };
        let all = self.recoveries.get(shard).into_iter().flat_map(|kept| kept.values());
        all.filter(move |kept| kept.recovery.is_promotion() && is_open(kept))
    }

    /// The shards with promotions of the last hour that nobody has acknowledged: those that can be blocked.
    pub fn unacknowledged(&self, now: Now) -> impl Iterator<Item = &ShardId> {
        let is_young = move |kept: &Kept| kept.age(now) < Duration::from_secs(3600);
        self.recoveries.keys().filter(move |shard| self.counted(shard).any(is_young))
    }

    /// The maintenance window that something about a shard, and about one of its tablets where one is named, falls under; of several
    /// the one that ends last.
    pub fn maintenance(&self, shard: &ShardId, tablet: Option<&TabletAlias>, now: SystemTime) -> Option<&Window> {
        self.windows(now).filter(|window| window.scope.covers(shard, tablet)).max_by_key(|window| window.until)
    }

    /// Every maintenance window that is open.
    pub fn windows(&self, now: SystemTime) -> impl Iterator<Item = &Window> {
        self.windows.values().map(|(_, window)| window).filter(move |window| window.until > now)
    }

    /// Every maintenance window that is kept, also one that has expired.
    pub(super) fn all_windows(&self) -> impl Iterator<Item = &Window> {
        self.windows.values().map(|(_, window)| window)
    }

    /// Who switched recoveries off everywhere; `None` = they are on.
    pub fn recoveries_disabled(&self) -> Option<&Switch> {
        self.disabled.as_ref().map(|(_, switch)| switch)
    }

    /// The shard's last acknowledgement.
    pub fn acknowledgement(&self, shard: &ShardId) -> Option<&Acknowledgement> {
        self.acknowledged.get(shard).map(|(_, acknowledgement)| acknowledgement)
    }

    /// Finished recoveries of the shards that are wanted, the newest first, with how long ago each ended.
    pub fn history(&self, now: Now, wants: impl Fn(&ShardId) -> bool) -> Vec<(Duration, &Recovery)> {
        let wanted = self.recoveries.iter().filter(|(shard, _)| wants(shard)).flat_map(|(_, kept)| kept.values());
        let mut found: Vec<&Kept> = wanted.collect();
        // In the order in which they were written, which no clock disturbs; what is not written yet is the newest.
        found.sort_by_key(|kept| std::cmp::Reverse((kept.written.unwrap_or(Version::MAX), kept.first_seen)));
        found.into_iter().map(|kept| (kept.age(now), &kept.recovery)).collect()
    }

    /// How many recoveries were forgotten before their time because there were too many.
    pub fn dropped(&self) -> u64 {
        self.dropped.1
    }

    /// Why this may not be what etcd has; `None` while it is.
    pub fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// Keys whose values mean nothing here, with the reasons.
    pub fn garbage(&self) -> &BTreeMap<String, String> {
        &self.garbage
    }

    pub(super) fn recoveries(&self) -> impl Iterator<Item = (&String, &Kept)> {
        self.recoveries.values().flat_map(|kept| kept.iter())
    }

    pub(super) fn acknowledgements(&self) -> impl Iterator<Item = (&ShardId, &Acknowledgement)> {
        self.acknowledged.iter().map(|(shard, (_, acknowledgement))| (shard, acknowledgement))
    }

    /// Takes in a finished recovery of our own before it is written: it counts at once, whatever etcd does.
    pub(super) fn remember(&mut self, key: String, recovery: Recovery, now: Now) {
        let shard = recovery.shard.clone();
        let kept = Kept { recovery, first_seen: now.steady, came_live: true, written: None };
        Arc::make_mut(self.recoveries.entry(shard).or_default()).insert(key, kept);
    }

    /// What of our own is not in etcd yet.
    /// How many recoveries etcd has not taken yet.
    pub fn unwritten_count(&self) -> usize {
        self.recoveries().filter(|(_, kept)| kept.written.is_none()).count()
    }

    pub(super) fn unwritten(&self) -> Vec<(String, Recovery)> {
        let all = self.recoveries().filter(|(_, kept)| kept.written.is_none());
        all.map(|(key, kept)| (key.clone(), kept.recovery.clone())).collect()
    }

    /// Forgets the oldest of what is not in etcd yet, all but `kept` of them.
    pub(super) fn forget_unwritten(&mut self, keys: &Keys, kept: usize) {
        let mut unwritten: Vec<(Duration, String)> = (self.recoveries().filter(|(_, kept)| kept.written.is_none()))
            .map(|(key, kept)| (kept.first_seen, key.clone()))
            .collect();
        unwritten.sort();
        for (_, key) in unwritten.iter().rev().skip(kept) {
            self.delete(keys, key);
        }
    }

    /// Everything there is. What is not in it is gone, but for what of our own is not written yet.
    pub(super) fn begin_anew(&mut self, keys: &Keys, entries: &[KvEntry], now: Now) {
        let listed = |key: &str| entries.binary_search_by(|entry| entry.key.as_str().cmp(key)).is_ok();
        for kept in self.recoveries.values_mut() {
            Arc::make_mut(kept).retain(|key, kept| kept.written.is_none() || listed(key));
        }
        self.recoveries.retain(|_, kept| !kept.is_empty());
        self.acknowledged.retain(|shard, _| listed(&keys.of(&Key::Acknowledged(shard.clone()))));
        self.windows.retain(|id, _| listed(&keys.of(&Key::Window(id.clone()))));
        // A store that was restored counts its revisions anew: what is listed is newer than what is known, whatever its number.
        self.acknowledged.values_mut().for_each(|(version, _)| *version = 0);
        self.windows.values_mut().for_each(|(version, _)| *version = 0);
        (self.disabled, self.dropped) = (None, (0, 0));
        self.garbage.clear();
        for entry in entries {
            self.put(keys, entry, now, false);
        }
        (self.unread, self.read_once) = (None, true);
    }

    /// What has changed since.
    pub(super) fn follow(&mut self, keys: &Keys, events: &[WatchEvent], now: Now) {
        for event in events {
            match event {
                WatchEvent::Put(entry) => self.put(keys, entry, now, true),
                WatchEvent::Delete { key, .. } => self.delete(keys, key),
                WatchEvent::Progress(_) => {}
            }
        }
    }

    /// It may be out of date from now on.
    pub(super) fn broken(&mut self, reason: String) {
        self.unread = Some(reason);
    }

    /// One value as it stands in etcd. Bytes that mean nothing are reported, and what was known of the key stays.
    pub(super) fn put(&mut self, keys: &Keys, entry: &KvEntry, now: Now, came_live: bool) {
        match self.try_put(keys, entry, now, came_live) {
            Ok(()) => _ = self.garbage.remove(&entry.key),
            Err(wrong) => _ = self.garbage.insert(entry.key.clone(), wrong.to_string()),
        }
    }

    fn try_put(&mut self, keys: &Keys, entry: &KvEntry, now: Now, came_live: bool) -> Result<(), StoredError> {
        let (version, bytes) = (entry.version, entry.value.as_slice());
        match keys.parse(&entry.key)? {
            Key::Recovery(shard) => {
                // The key says whose it is, whatever was copied into the value.
                let recovery = Recovery { shard: shard.clone(), ..stored::decode_recovery(bytes)? };
                let of_shard = Arc::make_mut(self.recoveries.entry(shard).or_default());
                let seen = of_shard.get(&entry.key).map(|kept| (kept.first_seen, kept.came_live));
                let (first_seen, came_live) = seen.unwrap_or((now.steady, came_live));
                of_shard.insert(entry.key.clone(), Kept { recovery, first_seen, came_live, written: Some(version) });
            }
            Key::Acknowledged(shard) => {
                let acknowledgement = stored::decode_acknowledgement(bytes)?;
                if self.acknowledged.get(&shard).is_none_or(|(known, _)| *known < version) {
                    self.acknowledged.insert(shard, (version, acknowledgement));
                }
            }
            Key::Window(id) => {
                let window = stored::decode_window(&id, bytes)?;
                if self.windows.get(&id).is_none_or(|(known, _)| *known < version) {
                    self.windows.insert(id, (version, window));
                }
            }
            Key::Switch if self.disabled.as_ref().is_none_or(|(known, _)| *known < version) => {
                let read = stored::decode_switch(bytes);
                // Whoever wrote the key meant to switch recoveries off: its value only says who and why.
                let unreadable = |wrong: &StoredError| Switch {
                    who: "unknown".to_owned(),
                    why: format!("{}: {wrong}", entry.key),
                    since: None,
                };
                self.disabled = Some((version, read.as_ref().cloned().unwrap_or_else(unreadable)));
                read?;
            }
            Key::Switch => {}
            Key::Dropped => self.dropped = (version, stored::decode_dropped(bytes)?),
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, keys: &Keys, key: &str) {
        self.garbage.remove(key);
        match keys.parse(key) {
            Ok(Key::Recovery(shard)) => {
                if let Some(kept) = self.recoveries.get_mut(&shard) {
                    Arc::make_mut(kept).remove(key);
                    if kept.is_empty() {
                        self.recoveries.remove(&shard);
                    }
                }
            }
            Ok(Key::Acknowledged(shard)) => _ = self.acknowledged.remove(&shard),
            Ok(Key::Window(id)) => _ = self.windows.remove(&id),
            Ok(Key::Switch) => self.disabled = None,
            Ok(Key::Dropped) => self.dropped = (0, 0),
            Err(_) => {}
        }
    }

    /// The revision of the count of dropped recoveries; 0 = there is none.
    pub(super) fn dropped_version(&self) -> Version {
        self.dropped.0
    }
}
