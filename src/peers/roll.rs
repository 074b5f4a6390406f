//! Who has registered, as etcd has it. Pure.
//!
//! Below `<ledger-root>/electors/` an elector has two keys: `alive/<id>/<lease>`, which dies with it, and `seen/<id>`, which stays and by
//! which it counts as a voter for a day after it was last seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::topo::{KvEntry, LeaseId, WatchEvent};

/// The version that is written. Later ones may add fields, which this release ignores.
const VERSION: u32 = 1;

/// An elector that was seen in this time is a voter, alive or not (safety rules, section 11).
pub(super) const VOTER_FOR: Duration = Duration::from_secs(24 * 3600);

/// One elector, as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elector {
    version: u32,
    /// Its identity: the address that it advertises. One that comes back at the same address is the same voter.
    pub id: String,
    /// Host and port, for a person.
    pub who: String,
    /// Where it answers gRPC, `host:port`.
    pub address: String,
    /// The cell in which it runs; empty when it was not told.
    pub cell: String,
    /// Electors of one region divide the shards among themselves.
    pub region: String,
    /// Its release.
    pub release: String,
    /// When it wrote this, by its own clock: milliseconds since 1970.
    pub seen_at_ms: u64,
}

impl Elector {
    /// An elector of this release, seen at `now_ms`.
    pub fn new(address: &str, who: &str, cell: &str, region: &str, now_ms: u64) -> Self {
        Self {
            version: VERSION,
            id: address.to_owned(),
            who: who.to_owned(),
            address: address.to_owned(),
            cell: cell.to_owned(),
            region: region.to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            seen_at_ms: now_ms,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // A struct of strings and numbers always has a JSON form; its error case is for maps with other keys.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn was_seen_lately(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_at_ms) <= VOTER_FOR.as_millis() as u64
    }
}

/// Where the keys are.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Everything of the electors, with a slash at the end.
    pub all: String,
}

impl Keys {
    pub fn below(ledger_root: &str) -> Self {
        Self { all: format!("{}/electors/", ledger_root.trim_end_matches('/')) }
    }

    pub fn alive(&self, id: &str, lease: LeaseId) -> String {
        format!("{}alive/{id}/{lease}", self.all)
    }

    pub fn seen(&self, id: &str) -> String {
        format!("{}seen/{id}", self.all)
    }
}

/// All registrations.
#[derive(Debug, Clone)]
pub(super) struct Roll {
    keys: Keys,
    alive: BTreeMap<String, Elector>,
    seen: BTreeMap<String, Elector>,
}

impl Roll {
    pub fn empty(keys: Keys) -> Self {
        Self { keys, alive: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// What a listing of all keys says. What cannot be read is nobody: it is left to those who wrote it.
    pub fn listed(keys: Keys, entries: &[KvEntry]) -> Self {
        let mut roll = Self::empty(keys);
        entries.iter().for_each(|entry| roll.put(entry));
        roll
    }

    pub fn change(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Put(entry) => self.put(entry),
            WatchEvent::Delete { key, .. } => {
                self.alive.remove(key);
                self.seen.remove(key);
            }
            WatchEvent::Progress(_) => {}
        }
    }

    fn put(&mut self, entry: &KvEntry) {
        let kind = entry.key.strip_prefix(&self.keys.all).and_then(|path| path.split('/').next());
        let of_kind = match kind {
            Some("alive") => &mut self.alive,
            Some("seen") => &mut self.seen,
            _ => return,
        };
        match serde_json::from_slice::<Elector>(&entry.value) {
            Ok(elector) => of_kind.insert(entry.key.clone(), elector),
            Err(_) => of_kind.remove(&entry.key),
        };
    }

    /// Everybody who is alive, by id.
    pub fn alive(&self) -> BTreeMap<&str, &Elector> {
        self.alive.values().map(|elector| (elector.id.as_str(), elector)).collect()
    }

    /// Ids of those who are alive in a region.
    pub fn members(&self, region: &str) -> BTreeSet<String> {
        self.alive.values().filter(|elector| elector.region == region).map(|elector| elector.id.clone()).collect()
    }

    /// How many live registrations stand under this id. More than one for long are two processes with one address.
    pub fn registrations(&self, id: &str) -> usize {
        self.alive.values().filter(|elector| elector.id == id).count()
    }

    /// Everybody who is alive or was seen in the last day, by id: the voters.
    pub fn voters(&self, now_ms: u64) -> BTreeMap<String, Elector> {
        let seen = self.seen.values().filter(|elector| elector.was_seen_lately(now_ms));
        // What a live one says now goes before what it said an hour ago.
        seen.chain(self.alive.values()).map(|elector| (elector.id.clone(), elector.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn elector(id: &str, region: &str, seen_at_ms: u64) -> Elector {
        Elector::new(id, id, "z1", region, seen_at_ms)
    }

    fn entry(key: String, value: Vec<u8>) -> KvEntry {
        KvEntry { key, value, version: 1, create_revision: 1, lease: None }
    }

    fn keys() -> Keys {
        Keys::below("/vtelector/")
    }

    #[test]
    fn who_is_alive_divides_the_region_and_who_was_seen_in_a_day_votes() {
        let keys = keys();
        assert_eq!(keys.alive("a:1", 7), "/vtelector/electors/alive/a:1/7");
        let entries = [
            entry(keys.alive("a:1", 7), elector("a:1", "east", NOW_MS).encode()),
            entry(keys.alive("b:1", 8), elector("b:1", "west", NOW_MS).encode()),
            entry(keys.seen("a:1"), elector("a:1", "east", NOW_MS - HOUR_MS).encode()),
            entry(keys.seen("dead:1"), elector("dead:1", "east", NOW_MS - 23 * HOUR_MS).encode()),
            entry(keys.seen("gone:1"), elector("gone:1", "east", NOW_MS - 25 * HOUR_MS).encode()),
            entry(keys.seen("ahead:1"), elector("ahead:1", "east", NOW_MS + HOUR_MS).encode()),
        ];
        let mut roll = Roll::listed(keys.clone(), &entries);
        assert!(roll.members("east").iter().eq(["a:1"]));
        assert!(roll.voters(NOW_MS).keys().eq(["a:1", "ahead:1", "b:1", "dead:1"]), "b:1 votes by being alive");
        assert_eq!(roll.voters(NOW_MS)["a:1"].seen_at_ms, NOW_MS);
        roll.change(&WatchEvent::Delete { key: keys.alive("a:1", 7), version: 9 });
        assert!(roll.members("east").is_empty());
        assert!(roll.voters(NOW_MS).contains_key("a:1"), "dead, and a voter all the same");
    }

    #[test]
    fn what_is_no_registration_is_nobody() {
        let keys = keys();
        let entries = [
            entry(keys.alive("a:1", 7), b"{".to_vec()),
            entry(keys.seen("b:1"), b"[]".to_vec()),
            entry(format!("{}other/c:1", keys.all), elector("c:1", "east", NOW_MS).encode()),
        ];
        let roll = Roll::listed(keys.clone(), &entries);
        assert!(roll.alive().is_empty() && roll.voters(NOW_MS).is_empty());
    }

    #[test]
    fn a_later_releases_registration_is_understood() {
        let keys = keys();
        let mut json: serde_json::Value = serde_json::from_slice(&elector("a:1", "east", NOW_MS).encode()).unwrap();
        json["version"] = 2.into();
        json["more"] = "words".into();
        let roll = Roll::listed(keys.clone(), &[entry(keys.alive("a:1", 7), json.to_string().into_bytes())]);
        assert!(roll.members("east").contains("a:1"));
    }

    #[test]
    fn one_address_twice_is_seen_and_is_one_voter() {
        let keys = keys();
        let mut roll = Roll::empty(keys.clone());
        for lease in [7, 8] {
            roll.change(&WatchEvent::Put(entry(keys.alive("a:1", lease), elector("a:1", "east", NOW_MS).encode())));
        }
        assert_eq!((roll.registrations("a:1"), roll.members("east").len(), roll.voters(NOW_MS).len()), (2, 1, 1));
    }
}
