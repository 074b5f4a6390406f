//! What is to be looked at, and against whom: the part of the declared world that sensors need.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    diagnose::errant::{DeclaredPrimary, Unknown},
    pb::{
        topodata::{Tablet, TabletType},
        vttime,
    },
    topo::{Freshness, NameError, ShardId, Snapshot, TabletAlias, check_name, key_range, key_range_contains},
};

/// Which tablets are watched: `--cells-to-watch` and `--clusters-to-watch`. Empty = all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Cells.
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

    fn includes_cell(&self, cell: &str) -> bool {
        self.cells.is_empty() || self.cells.contains(cell)
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

/// Watched tablets and the primaries of their shards, at one moment.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// Every watched tablet with its shard and record, and every primary of such a shard.
    pub tablets: BTreeMap<TabletAlias, (ShardId, Arc<Tablet>)>,
    primaries: BTreeMap<ShardId, DeclaredPrimary>,
    unreadable: Option<String>,
}

impl Declared {
    pub fn of(snapshot: &Snapshot, watched: &Watched) -> Self {
        let unreadable = match snapshot.global() {
            Freshness::Current => None,
            Freshness::Unreadable { reason, .. } => Some(reason.clone()),
        };
        let mut primaries: BTreeMap<ShardId, DeclaredPrimary> = BTreeMap::new();
        for (shard, record) in snapshot.shards.iter().filter(|(shard, _)| watched.includes(shard)) {
            if let Some(Ok(alias)) = record.primary_alias.as_ref().map(TabletAlias::try_from) {
                let term = term(record.primary_term_start_time.as_ref());
                primaries.insert(shard.clone(), DeclaredPrimary { alias, term });
            }
        }
        let (mut tablets, mut elsewhere) = (BTreeMap::new(), BTreeMap::new());
        for (alias, record) in snapshot.cells.values().flat_map(|cell| &cell.tablets) {
            let shard = ShardId { keyspace: record.keyspace.clone(), shard: record.shard.clone() };
            if !watched.includes(&shard) {
                continue;
            }
            if record.r#type() == TabletType::Primary {
                let own = DeclaredPrimary { alias: alias.clone(), term: term(record.primary_term_start_time.as_ref()) };
                // A tablet's own record is written first when it is promoted; the shard record follows.
                if primaries.get(&shard).is_none_or(|known| own.term > known.term) {
                    primaries.insert(shard.clone(), own);
                }
            }
            let place = if watched.includes_cell(&alias.cell) { &mut tablets } else { &mut elsewhere };
            place.insert(alias.clone(), (shard, record.clone()));
        }
        for primary in primaries.values() {
            if let Some(found) = elsewhere.remove(&primary.alias) {
                tablets.insert(primary.alias.clone(), found);
            }
        }
        Self { tablets, primaries, unreadable }
    }

    pub fn primary_of(&self, shard: &ShardId) -> Result<&DeclaredPrimary, Unknown> {
        match &self.unreadable {
            // Somebody else may be primary by now.
            Some(reason) => Err(Unknown::Topology(reason.clone())),
            None => self.primaries.get(shard).ok_or(Unknown::NoPrimary),
        }
    }

    pub fn record(&self, alias: &TabletAlias) -> Option<&Arc<Tablet>> {
        self.tablets.get(alias).map(|(_, record)| record)
    }
}

fn term(time: Option<&vttime::Time>) -> Option<(i64, i32)> {
    time.map(|time| (time.seconds, time.nanoseconds))
}
