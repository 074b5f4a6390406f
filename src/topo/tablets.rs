//! Tablet records, and which of them make up a shard.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};

use super::{ShardId, TabletAlias, Topo, TopoError, Versioned, keys, records::decode};
use crate::pb::topodata;

/// Reads in flight at a time, as in Vitess (`--topo-read-concurrency`).
const READS_MAX: usize = 32;

/// The tablets of one shard, over all cells.
#[derive(Debug, Clone, Default)]
pub struct ShardTablets {
    /// Every tablet whose record could be read and belongs to this shard.
    pub tablets: BTreeMap<TabletAlias, topodata::Tablet>,
    /// Cells that could not be read, each with the reason. Tablets there are unknown, not absent.
    pub unreadable_cells: BTreeMap<String, TopoError>,
    /// Aliases that the shard names but whose record is missing or belongs elsewhere, each with the reason.
    pub dangling: BTreeMap<TabletAlias, String>,
}

impl Topo {
    /// One tablet's record.
    pub async fn tablet(&self, alias: &TabletAlias) -> Result<Versioned<topodata::Tablet>, TopoError> {
        let path = keys::tablet(alias)?;
        self.cell_store(&alias.cell).await?.read(&tablet_name(alias), &path).await
    }

    /// Makes a tablet record.
    pub async fn create_tablet(&self, tablet: &topodata::Tablet) -> Result<(), TopoError> {
        let alias = TabletAlias::try_from(&tablet.alias.clone().unwrap_or_default())?;
        let path = keys::tablet(&alias)?;
        self.cell_store(&alias.cell).await?.create(&tablet_name(&alias), &path, tablet).await.map(drop)
    }

    /// Read-modify-write of a tablet record. `change` answers whether to write.
    pub async fn update_tablet(
        &self,
        alias: &TabletAlias,
        change: &mut (dyn FnMut(&mut topodata::Tablet) -> bool + Send),
    ) -> Result<Versioned<topodata::Tablet>, TopoError> {
        let path = keys::tablet(alias)?;
        self.cell_store(&alias.cell).await?.update(&tablet_name(alias), &path, change).await
    }

    /// Deletes a tablet record.
    pub async fn delete_tablet(&self, alias: &TabletAlias) -> Result<(), TopoError> {
        let path = keys::tablet(alias)?;
        let store = self.cell_store(&alias.cell).await?;
        let key = store.root.key(&path);
        match store.kv.delete(&key, None).await.map_err(TopoError::kv(format!("deleting {}", tablet_name(alias))))? {
            true => Ok(()),
            false => Err(TopoError::NotFound { what: tablet_name(alias), key }),
        }
    }

    /// Every tablet record of a cell.
    pub async fn cell_tablets(&self, cell: &str) -> Result<Vec<topodata::Tablet>, TopoError> {
        let store = self.cell_store(cell).await?;
        let doing = format!("listing the tablets of cell {cell}");
        let listing = store.kv.list(&store.root.folder("tablets")).await.map_err(TopoError::kv(doing))?;
        listing.entries.iter().filter(|entry| entry.key.ends_with("/Tablet")).map(decode).collect()
    }

    /// The tablets of a shard: the recorded primary and every replication graph, one read per alias (facts/topo-etcd.md section 9).
    pub async fn shard_tablets(&self, shard: &ShardId) -> Result<ShardTablets, TopoError> {
        let (record, cells) = tokio::try_join!(self.shard(shard), self.cells())?;
        let (record, cells) = (record.value, BTreeSet::from_iter(cells));
        let mut found = ShardTablets::default();
        // Futures of owned names: a closure over borrowed ones makes a future that cannot be proven Send.
        let graphs = cells.into_iter().map(|cell| async move {
            let graph = self.shard_replication(&cell, shard).await;
            (cell, graph)
        });
        let graphs = stream::iter(graphs).buffer_unordered(READS_MAX).collect::<Vec<_>>().await;
        let mut named: Vec<topodata::TabletAlias> = record.primary_alias.into_iter().collect();
        for (cell, graph) in graphs {
            match graph {
                Ok(graph) => named.extend(graph.nodes.into_iter().filter_map(|node| node.tablet_alias)),
                // A cell that was removed between the two reads has no tablets.
                Err(error) if error.is_not_found() => {}
                Err(error) => drop(found.unreadable_cells.insert(cell, error)),
            }
        }
        // A name that is no alias cannot have a record.
        let aliases: BTreeSet<TabletAlias> = named.iter().filter_map(|alias| alias.try_into().ok()).collect();
        // Waiting for a cell that has just failed would only repeat the failure.
        let readable: Vec<TabletAlias> =
            aliases.into_iter().filter(|alias| !found.unreadable_cells.contains_key(&alias.cell)).collect();
        let reads = readable.into_iter().map(|alias| async move {
            let read = self.tablet(&alias).await;
            (alias, read)
        });
        let reads = stream::iter(reads).buffer_unordered(READS_MAX).collect::<Vec<_>>().await;
        for (alias, read) in reads {
            found.sort_in(shard, alias, read.map(|tablet| tablet.value));
        }
        Ok(found)
    }
}

impl ShardTablets {
    fn sort_in(&mut self, shard: &ShardId, alias: TabletAlias, read: Result<topodata::Tablet, TopoError>) {
        match read {
            Ok(tablet) if tablet.keyspace == shard.keyspace && tablet.shard == shard.shard => {
                self.tablets.insert(alias, tablet);
            }
            Ok(tablet) => {
                let reason = format!("its record belongs to shard {}/{}", tablet.keyspace, tablet.shard);
                self.dangling.insert(alias, reason);
            }
            // The record or the whole cell is certainly absent.
            Err(error @ TopoError::NotFound { .. }) => drop(self.dangling.insert(alias, error.to_string())),
            Err(error) => drop(self.unreadable_cells.entry(alias.cell).or_insert(error)),
        }
    }
}

fn tablet_name(alias: &TabletAlias) -> String {
    format!("tablet {alias}")
}
