//! What is declared of each watched shard: the topology's records in the words of a view.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    diagnose::{
        errant::{DeclaredPrimary, Unknown},
        traffic,
    },
    durability::{Enforced, Extra, policy, with_extra},
    pb::topodata::{self, KeyspaceType, Tablet},
    shard::{KeyspaceFacts, ShardFacts, newest_primary, term},
    topo::{Freshness, NameError, ShardId, Snapshot, TabletAlias, check_name, key_range, key_range_contains},
};

/// Which shards are watched: `--cells-to-watch` and `--clusters-to-watch`. Empty = all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Shards with a tablet in one of these cells. All tablets of such a shard are watched, wherever they are: what is done about it
    /// depends on them all.
    pub cells: BTreeSet<String>,
    clusters: Vec<Cluster>,
}

/// A keyspace, a shard, or all shards of a keyspace within a key range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cluster {
    keyspace: String,
    shard: Option<String>,
}

impl Watched {
    /// Adds `KEYSPACE`, `KEYSPACE/SHARD` or `KEYSPACE/KEYRANGE`.
    pub fn add_cluster(&mut self, text: &str) -> Result<(), NameError> {
        let cluster = match text.split_once('/') {
            None => {
                check_name("keyspace name", text)?;
                Cluster { keyspace: text.to_owned(), shard: None }
            }
            Some(_) => {
                let ShardId { keyspace, shard } = text.parse()?;
                key_range(&shard)?;
                Cluster { keyspace, shard: Some(shard) }
            }
        };
        self.clusters.push(cluster);
        Ok(())
    }

    /// The keyspaces, shards and key ranges as they were named; empty = all.
    pub fn clusters(&self) -> BTreeSet<String> {
        let named = |cluster: &Cluster| match &cluster.shard {
            None => cluster.keyspace.clone(),
            Some(shard) => format!("{}/{shard}", cluster.keyspace),
        };
        self.clusters.iter().map(named).collect()
    }

    /// Whether the tablets of a shard are watched.
    pub fn includes(&self, shard: &ShardId) -> bool {
        self.clusters.is_empty() || self.clusters.iter().any(|cluster| cluster.includes(shard))
    }

    fn includes_one_of<'a>(&self, mut tablets: impl Iterator<Item = &'a TabletAlias>) -> bool {
        self.cells.is_empty() || tablets.any(|alias| self.cells.contains(&alias.cell))
    }
}

impl Cluster {
    fn includes(&self, shard: &ShardId) -> bool {
        let Some(wanted) = &self.shard else { return self.keyspace == shard.keyspace };
        let in_range = || match (key_range(wanted), key_range(&shard.shard)) {
            (Ok(Some(wanted)), Ok(Some(range))) => key_range_contains(&wanted, &range),
            _ => false,
        };
        self.keyspace == shard.keyspace && (*wanted == shard.shard || in_range())
    }
}

/// What our settings say about declared things.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    pub watched: Watched,
    /// `--durability-extra`, by keyspace.
    pub extra: BTreeMap<String, Extra>,
    /// The region of each cell.
    pub regions: BTreeMap<String, String>,
}

/// Watched shards at one moment.
#[derive(Default)]
pub(super) struct Declared {
    pub shards: BTreeMap<ShardId, DeclaredShard>,
    /// What could not be read.
    pub gaps: Arc<Gaps>,
}

/// The parts of the topology that are not current.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    pub cells: BTreeMap<String, String>,
    pub global: Option<String>,
}

/// One shard.
pub(super) struct DeclaredShard {
    pub record: Option<ShardFacts>,
    pub keyspace: KeyspaceFacts,
    pub tablets: BTreeMap<TabletAlias, Arc<Tablet>>,
}

impl Declared {
    /// Of these shards, or of all.
    pub fn of(snapshot: &Snapshot, reading: &Reading, only: Option<&BTreeSet<ShardId>>) -> Self {
        let only: Option<BTreeSet<(&str, &str)>> =
            only.map(|only| only.iter().map(|id| (id.keyspace.as_str(), id.shard.as_str())).collect());
        let wanted = |keyspace: &str, shard: &str| only.as_ref().is_none_or(|only| only.contains(&(keyspace, shard)));
        let mut tablets: BTreeMap<(&str, &str), BTreeMap<TabletAlias, Arc<Tablet>>> = BTreeMap::new();
        let all = snapshot.cells.values().flat_map(|cell| &cell.tablets);
        for (alias, record) in all.filter(|(_, record)| wanted(&record.keyspace, &record.shard)) {
            tablets.entry((&record.keyspace, &record.shard)).or_default().insert(alias.clone(), record.clone());
        }
        let mut keyspaces: BTreeMap<&str, KeyspaceFacts> = BTreeMap::new();
        let mut shards = BTreeMap::new();
        let unrecorded: Vec<ShardId> = (tablets.keys())
            .map(|(keyspace, shard)| ShardId { keyspace: (*keyspace).to_owned(), shard: (*shard).to_owned() })
            .filter(|id| !snapshot.shards.contains_key(id))
            .collect();
        let recorded = snapshot.shards.keys().filter(|id| wanted(&id.keyspace, &id.shard));
        for id in recorded.chain(&unrecorded).filter(|id| reading.watched.includes(id)) {
            let tablets = tablets.remove(&(id.keyspace.as_str(), id.shard.as_str())).unwrap_or_default();
            let record = snapshot.shards.get(id).map(|record| shard_facts(record));
            let named = record.iter().filter_map(|record| record.primary.as_ref());
            if !reading.watched.includes_one_of(tablets.keys().chain(named)) {
                continue;
            }
            let facts = || keyspace_facts(&id.keyspace, snapshot.keyspaces.get(&id.keyspace).map(|record| &**record), reading);
            let keyspace = keyspaces.entry(&id.keyspace).or_insert_with(facts).clone();
            shards.insert(id.clone(), DeclaredShard { record, keyspace, tablets });
        }
        Self { shards, gaps: Arc::new(Gaps::of(snapshot)) }
    }
}

/// The shards whose records, or whose tablets' records, are others in the newer snapshot; `None` = perhaps all: what concerns them all has
/// changed. A fleet has thousands of shards and changes in a few.
pub(super) fn touched(older: &Snapshot, newer: &Snapshot) -> Option<BTreeSet<ShardId>> {
    let same_keyspaces = older.keyspaces.len() == newer.keyspaces.len()
        && older.keyspaces.iter().zip(&newer.keyspaces).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1));
    if !same_keyspaces || !older.cells.keys().eq(newer.cells.keys()) || Gaps::of(older) != Gaps::of(newer) {
        return None;
    }
    let mut touched = BTreeSet::new();
    differing(&older.shards, &newer.shards, |id, _| {
        touched.insert(id.clone());
    });
    for (older, newer) in older.cells.values().zip(newer.cells.values()).filter(|(a, b)| !Arc::ptr_eq(a, b)) {
        differing(&older.tablets, &newer.tablets, |_, tablet| {
            touched.insert(ShardId { keyspace: tablet.keyspace.clone(), shard: tablet.shard.clone() });
        });
    }
    Some(touched)
}

/// Every record that only one of two lists has.
fn differing<K: Ord, V>(older: &BTreeMap<K, Arc<V>>, newer: &BTreeMap<K, Arc<V>>, mut found: impl FnMut(&K, &V)) {
    let (mut older, mut newer) = (older.iter().peekable(), newer.iter().peekable());
    loop {
        match (older.peek().copied(), newer.peek().copied()) {
            (None, None) => return,
            (Some(a), Some(b)) if a.0 == b.0 => {
                if !Arc::ptr_eq(a.1, b.1) {
                    found(a.0, a.1);
                    found(b.0, b.1);
                }
                (older.next(), newer.next());
            }
            (Some(a), b) if b.is_none_or(|b| a.0 < b.0) => {
                found(a.0, a.1);
                older.next();
            }
            (_, Some(b)) => {
                found(b.0, b.1);
                newer.next();
            }
            (Some(_), None) => return,
        }
    }
}

impl Gaps {
    fn of(snapshot: &Snapshot) -> Self {
        let reason = |freshness: &Freshness| match freshness {
            Freshness::Current => None,
            Freshness::Unreadable { reason, .. } => Some(reason.clone()),
        };
        let cells = snapshot.cells.iter().filter_map(|(cell, view)| Some((cell.clone(), reason(view.freshness())?)));
        Self { cells: cells.collect(), global: reason(snapshot.global()) }
    }
}

impl DeclaredShard {
    /// Whom the records name: the newest term.
    pub fn primary(&self) -> Result<DeclaredPrimary, Unknown> {
        let tablets = self.tablets.iter().map(|(alias, record)| (alias, &**record));
        let newest = newest_primary(self.record.as_ref(), tablets);
        newest.map(|(term, alias)| DeclaredPrimary { alias: alias.clone(), term }).ok_or(Unknown::NoPrimary)
    }
}

fn shard_facts(record: &topodata::Shard) -> ShardFacts {
    let primary = record.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
    ShardFacts {
        primary,
        term: term(record.primary_term_start_time.as_ref()),
        emergency_disabled: record.vtorc_state.as_ref().is_some_and(|state| state.disable_emergency_reparent),
        traffic_switch: traffic::in_record(record),
    }
}

fn keyspace_facts(name: &str, record: Option<&topodata::Keyspace>, reading: &Reading) -> KeyspaceFacts {
    let Some(record) = record else {
        let policy = Err(format!("there is no record of keyspace {name}"));
        return KeyspaceFacts { policy, policy_unset: true, is_snapshot: false, emergency_disabled: false };
    };
    let extra = reading.extra.get(name).copied().unwrap_or_default();
    let named = policy(&record.durability_policy).map_err(|error| error.to_string());
    KeyspaceFacts {
        policy: named
            .and_then(|base| with_extra(base, extra, reading.regions.clone(), Enforced::No).map_err(|error| error.to_string())),
        policy_unset: record.durability_policy.is_empty(),
        is_snapshot: record.keyspace_type() == KeyspaceType::Snapshot,
        emergency_disabled: record.vtorc_state.as_ref().is_some_and(|state| state.disable_emergency_reparent),
    }
}
