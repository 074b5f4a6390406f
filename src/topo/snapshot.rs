//! What the watcher knows of all topologies at one moment. No IO here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    KvEntry, ShardId, TabletAlias, TopoError, WatchEvent,
    records::{Record, decode},
    source::News,
};
use crate::pb::topodata;

/// Whether records are as the store has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// Every change is seen as it comes. A store that falls silent is noticed within five seconds.
    Current,
    /// The records are those that were last read, or none.
    Unreadable {
        /// Since when.
        since: Instant,
        /// Why.
        reason: String,
    },
}

/// The declared world, as far as it could be read. What could not be read keeps its last known records.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every keyspace's record.
    pub keyspaces: BTreeMap<String, Arc<topodata::Keyspace>>,
    /// Every shard's record.
    pub shards: BTreeMap<ShardId, Arc<topodata::Shard>>,
    /// Every cell that the global topology names.
    pub cells: BTreeMap<String, Arc<CellView>>,
    /// Keys whose bytes are no record, each with the reason. The record's last good version stays where it was.
    pub garbage: BTreeMap<String, String>,
    keyspaces_read: Freshness,
    cells_read: Freshness,
    /// Counts the places that cells were found at.
    places: u64,
}

/// What is known of one cell.
#[derive(Debug, Clone)]
pub struct CellView {
    /// Where the cell's topology is.
    pub info: topodata::CellInfo,
    /// The cell's tablets.
    pub tablets: BTreeMap<TabletAlias, Arc<topodata::Tablet>>,
    /// The replication graphs: which tablets of this cell a shard names.
    pub shard_replication: BTreeMap<ShardId, Arc<topodata::ShardReplication>>,
    tablets_read: Freshness,
    graphs_read: Freshness,
    /// Which place this is, of all that were ever followed: a cell that is removed and named again is another one.
    pub(crate) place: u64,
}

/// Which records a source brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Cells,
    Keyspaces,
    Tablets { cell: String },
    Graphs { cell: String },
}

fn worse<'a>(one: &'a Freshness, other: &'a Freshness) -> &'a Freshness {
    if *one == Freshness::Current { other } else { one }
}

fn unread(reason: &str) -> Freshness {
    Freshness::Unreadable { since: Instant::now(), reason: reason.to_owned() }
}

impl CellView {
    /// Whether everything here is as the cell's store has it.
    pub fn freshness(&self) -> &Freshness {
        worse(&self.tablets_read, &self.graphs_read)
    }
}

impl Snapshot {
    pub(crate) fn new() -> Self {
        let (keyspaces_read, cells_read) = (unread("not read yet"), unread("not read yet"));
        let (keyspaces, shards, cells, garbage) = Default::default();
        Self { keyspaces, shards, cells, garbage, keyspaces_read, cells_read, places: 0 }
    }

    /// Whether cells, keyspaces and shards are as the global store has them.
    pub fn global(&self) -> &Freshness {
        worse(&self.cells_read, &self.keyspaces_read)
    }

    /// Whether anything could not be read.
    pub fn is_partial(&self) -> bool {
        *self.global() != Freshness::Current || self.cells.values().any(|cell| *cell.freshness() != Freshness::Current)
    }

    /// The tablets whose records name this shard, over all cells.
    pub fn tablets_of<'a>(&'a self, shard: &'a ShardId) -> impl Iterator<Item = (&'a TabletAlias, &'a Arc<topodata::Tablet>)> {
        let tablets = self.cells.values().flat_map(|cell| &cell.tablets);
        tablets.filter(|(_, tablet)| tablet.keyspace == shard.keyspace && tablet.shard == shard.shard)
    }

    /// Names a cell, or follows it to another place. What was known of it stays until the new place has been read.
    fn follow_cell(&mut self, cell: &str, info: topodata::CellInfo) {
        let moved = unread(&format!("not read yet at {}", info.server_address));
        let (tablets, shard_replication) = match self.cells.get(cell) {
            Some(known) => (known.tablets.clone(), known.shard_replication.clone()),
            None => Default::default(),
        };
        self.places += 1;
        let (tablets_read, graphs_read, place) = (moved.clone(), moved, self.places);
        let view = CellView { info, tablets, shard_replication, tablets_read, graphs_read, place };
        self.cells.insert(cell.to_owned(), Arc::new(view));
    }

    /// Takes in what a source of records below `prefix` has found. Answers whether anything changed.
    pub(crate) fn take_in(&mut self, part: &Part, prefix: &str, news: News) -> bool {
        match news {
            News::All(entries) => {
                self.begin_anew(part, prefix, &entries);
                for entry in &entries {
                    self.put(part, prefix, entry);
                }
                true
            }
            News::Changes(events) => {
                let mut changed = false;
                for event in &events {
                    changed |= match event {
                        WatchEvent::Put(entry) => self.put(part, prefix, entry),
                        WatchEvent::Delete { key, .. } => self.remove(part, prefix, key),
                        WatchEvent::Progress(_) => false,
                    };
                }
                changed
            }
            News::Broken { reason } => self.mark(part, |known| match known {
                Freshness::Current => Freshness::Unreadable { since: Instant::now(), reason: reason.clone() },
                Freshness::Unreadable { since, .. } => Freshness::Unreadable { since: *since, reason: reason.clone() },
            }),
        }
    }

    /// A listing replaces what was known: what it does not hold is gone.
    fn begin_anew(&mut self, part: &Part, prefix: &str, entries: &[KvEntry]) {
        let keys: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let listed = |path: String| keys.contains(format!("{prefix}{path}").as_str());
        self.garbage.retain(|key, _| !key.starts_with(prefix));
        match part {
            Part::Cells => self.cells.retain(|cell, _| listed(format!("{cell}/CellInfo"))),
            Part::Keyspaces => {
                self.keyspaces.retain(|keyspace, _| listed(format!("{keyspace}/Keyspace")));
                self.shards.retain(|shard, _| listed(shard_path(shard, "Shard")));
            }
            Part::Tablets { cell } => {
                if let Some(view) = self.cells.get_mut(cell) {
                    Arc::make_mut(view).tablets.retain(|alias, _| listed(format!("{alias}/Tablet")));
                }
            }
            Part::Graphs { cell } => {
                if let Some(view) = self.cells.get_mut(cell) {
                    Arc::make_mut(view).shard_replication.retain(|shard, _| listed(shard_path(shard, "ShardReplication")));
                }
            }
        }
        self.mark(part, |_| Freshness::Current);
    }

    /// Whether that part is as its store has it.
    pub(crate) fn is_current(&self, part: &Part) -> bool {
        let read = match part {
            Part::Cells => Some(&self.cells_read),
            Part::Keyspaces => Some(&self.keyspaces_read),
            Part::Tablets { cell } => self.cells.get(cell).map(|view| &view.tablets_read),
            Part::Graphs { cell } => self.cells.get(cell).map(|view| &view.graphs_read),
        };
        read == Some(&Freshness::Current)
    }

    fn mark(&mut self, part: &Part, new: impl FnOnce(&Freshness) -> Freshness) -> bool {
        let known = match part {
            Part::Cells => &mut self.cells_read,
            Part::Keyspaces => &mut self.keyspaces_read,
            Part::Tablets { cell } => match self.cells.get_mut(cell) {
                Some(view) => &mut Arc::make_mut(view).tablets_read,
                None => return false,
            },
            Part::Graphs { cell } => match self.cells.get_mut(cell) {
                Some(view) => &mut Arc::make_mut(view).graphs_read,
                None => return false,
            },
        };
        let new = new(known);
        let changed = *known != new;
        *known = new;
        changed
    }

    fn put(&mut self, part: &Part, prefix: &str, entry: &KvEntry) -> bool {
        let Some(place) = entry.key.strip_prefix(prefix).and_then(|path| Place::of(part, path)) else { return false };
        let taken = match place {
            Place::Cell(cell) => decode(entry).map(|info| {
                if self.cells.get(cell).is_none_or(|known| known.info != info) {
                    self.follow_cell(cell, info);
                }
            }),
            Place::Keyspace(keyspace) => store(&mut self.keyspaces, keyspace.to_owned(), entry),
            Place::Shard(shard) => store(&mut self.shards, shard, entry),
            Place::Tablet { cell, alias } => self.view(cell).map_or(Ok(()), |view| store(&mut view.tablets, alias, entry)),
            Place::Graph { cell, shard } => {
                self.view(cell).map_or(Ok(()), |view| store(&mut view.shard_replication, shard, entry))
            }
        };
        match taken {
            Ok(()) => drop(self.garbage.remove(&entry.key)),
            Err(error) => drop(self.garbage.insert(entry.key.clone(), error.to_string())),
        }
        true
    }

    fn remove(&mut self, part: &Part, prefix: &str, key: &str) -> bool {
        self.garbage.remove(key);
        let Some(place) = key.strip_prefix(prefix).and_then(|path| Place::of(part, path)) else { return false };
        match place {
            Place::Cell(cell) => drop(self.cells.remove(cell)),
            Place::Keyspace(keyspace) => drop(self.keyspaces.remove(keyspace)),
            Place::Shard(shard) => drop(self.shards.remove(&shard)),
            Place::Tablet { cell, alias } => drop(self.view(cell).map(|view| view.tablets.remove(&alias))),
            Place::Graph { cell, shard } => drop(self.view(cell).map(|view| view.shard_replication.remove(&shard))),
        }
        true
    }

    fn view(&mut self, cell: &str) -> Option<&mut CellView> {
        self.cells.get_mut(cell).map(Arc::make_mut)
    }
}

/// Which record a path below a source's prefix is.
enum Place<'a> {
    Cell(&'a str),
    Keyspace(&'a str),
    Shard(ShardId),
    Tablet { cell: &'a str, alias: TabletAlias },
    Graph { cell: &'a str, shard: ShardId },
}

impl<'a> Place<'a> {
    /// `None` for what is no record of ours, such as a lock.
    fn of(part: &'a Part, path: &'a str) -> Option<Self> {
        let elements: Vec<&str> = path.split('/').collect();
        let shard_of = |keyspace: &str, shard: &str| ShardId { keyspace: keyspace.to_owned(), shard: shard.to_owned() };
        match (part, elements.as_slice()) {
            (Part::Cells, [cell, "CellInfo"]) => Some(Self::Cell(cell)),
            (Part::Keyspaces, [keyspace, "Keyspace"]) => Some(Self::Keyspace(keyspace)),
            (Part::Keyspaces, [keyspace, "shards", shard, "Shard"]) => Some(Self::Shard(shard_of(keyspace, shard))),
            (Part::Tablets { cell }, [alias, "Tablet"]) => Some(Self::Tablet { cell, alias: alias.parse().ok()? }),
            (Part::Graphs { cell }, [keyspace, "shards", shard, "ShardReplication"]) => {
                Some(Self::Graph { cell, shard: shard_of(keyspace, shard) })
            }
            (Part::Cells | Part::Keyspaces | Part::Tablets { .. } | Part::Graphs { .. }, _) => None,
        }
    }
}

fn shard_path(shard: &ShardId, kind: &str) -> String {
    format!("{}/shards/{}/{kind}", shard.keyspace, shard.shard)
}

fn store<K: Ord, T: Record>(records: &mut BTreeMap<K, Arc<T>>, name: K, entry: &KvEntry) -> Result<(), TopoError> {
    let record = decode(entry)?;
    records.insert(name, Arc::new(record));
    Ok(())
}
