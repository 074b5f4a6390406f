//! Keyspaces and shards: records of the global topology, and what cells know of them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    ShardId, TabletAlias, Topo, TopoError, Versioned, Watch, key_range, keys,
    names::key_ranges_overlap,
    queue::Place,
    records::{Record, decode},
};
use crate::pb::topodata;

impl Topo {
    /// Names of all keyspaces.
    pub async fn keyspaces(&self) -> Result<Vec<String>, TopoError> {
        self.children_of("keyspaces").await
    }

    /// One keyspace's record.
    pub async fn keyspace(&self, keyspace: &str) -> Result<Versioned<topodata::Keyspace>, TopoError> {
        self.global_store().read(&keyspace_name(keyspace), &keyspace_path(keyspace)?).await
    }

    /// Makes a keyspace.
    pub async fn create_keyspace(&self, keyspace: &str, record: &topodata::Keyspace) -> Result<(), TopoError> {
        self.global_store().create(&keyspace_name(keyspace), &keyspace_path(keyspace)?, record).await.map(drop)
    }

    /// Read-modify-write of a keyspace; takes and frees the keyspace lock with the given action text. `change` answers whether to
    /// write.
    pub async fn update_keyspace(
        &self,
        keyspace: &str,
        action: &str,
        wait: Duration,
        change: &mut (dyn FnMut(&mut topodata::Keyspace) -> bool + Send),
    ) -> Result<topodata::Keyspace, TopoError> {
        let lock = self.lock_keyspace(keyspace, action, wait).await?;
        let updated = self.global_store().update(&keyspace_name(keyspace), &keyspace_path(keyspace)?, change).await;
        free(lock, updated).await.map(|updated| updated.value)
    }

    /// All shards of a keyspace; `NotFound` when the keyspace does not exist.
    pub async fn shards(&self, keyspace: &str) -> Result<BTreeMap<ShardId, topodata::Shard>, TopoError> {
        let store = self.global_store();
        let folder = store.root.folder(&format!("{}/shards", keys::keyspace_folder(keyspace)?));
        let doing = format!("listing the shards of keyspace {keyspace}");
        let listing = store.kv.list(&folder).await.map_err(TopoError::kv(doing))?;
        let mut shards = BTreeMap::new();
        for entry in &listing.entries {
            let name = entry.key.strip_prefix(&folder).and_then(|rest| rest.strip_suffix("/Shard"));
            if let Some(name) = name.filter(|name| !name.contains('/')) {
                // As it is stored, not in lower case: else the record would not be found again.
                shards.insert(ShardId { keyspace: keyspace.to_owned(), shard: name.to_owned() }, decode(entry)?);
            }
        }
        if shards.is_empty() {
            self.keyspace(keyspace).await?;
        }
        Ok(shards)
    }

    /// One shard's record.
    pub async fn shard(&self, shard: &ShardId) -> Result<Versioned<topodata::Shard>, TopoError> {
        self.global_store().read(&shard_name(shard), &shard_path(shard)?).await
    }

    /// Makes a shard with `key_range` and `is_primary_serving` as Vitess does (under the keyspace lock): a key range does not serve
    /// where it overlaps a shard that is there.
    pub async fn create_shard(&self, shard: &ShardId, wait: Duration) -> Result<(), TopoError> {
        let (path, key_range) = (shard_path(shard)?, key_range(&shard.shard)?);
        let lock = self.lock_keyspace(&shard.keyspace, "CreateShard", wait).await?;
        let created = async {
            let others = self.shards(&shard.keyspace).await?;
            let overlaps = key_range.is_some()
                && others.values().any(|other| key_ranges_overlap(other.key_range.as_ref(), key_range.as_ref()));
            let record = topodata::Shard { key_range, is_primary_serving: !overlaps, ..Default::default() };
            self.global_store().create(&shard_name(shard), &path, &record).await
        };
        let created = created.await;
        free(lock, created).await.map(drop)
    }

    /// Read-modify-write of a shard record; unknown fields survive. `change` answers whether to write.
    pub async fn update_shard(
        &self,
        shard: &ShardId,
        change: &mut (dyn FnMut(&mut topodata::Shard) -> bool + Send),
    ) -> Result<Versioned<topodata::Shard>, TopoError> {
        self.global_store().update(&shard_name(shard), &shard_path(shard)?, change).await
    }

    /// Watches one shard's record (and its locks) from its current state on.
    pub async fn watch_shard(&self, shard: &ShardId) -> Result<(Versioned<topodata::Shard>, Watch), TopoError> {
        let (store, folder, path) = (self.global_store(), keys::shard_folder(shard)?, shard_path(shard)?);
        let (prefix, key) = (store.root.folder(&folder), store.root.key(&path));
        let doing = || TopoError::kv(format!("watching {}", shard_name(shard)));
        let listing = store.kv.list(&prefix).await.map_err(doing())?;
        let entry = listing.entries.iter().find(|entry| entry.key == key);
        let entry = entry.ok_or_else(|| TopoError::NotFound { what: shard_name(shard), key: key.clone() })?;
        let shard = Versioned { value: decode(entry)?, version: entry.version };
        let watch = store.kv.watch(&prefix, listing.revision + 1).await.map_err(doing())?;
        Ok((shard, watch))
    }

    /// The shard's tablets of one cell as its replication graph lists them; empty when the cell has none.
    pub async fn shard_replication(&self, cell: &str, shard: &ShardId) -> Result<topodata::ShardReplication, TopoError> {
        let store = self.cell_store(cell).await?;
        match store.read(&graph_name(cell, shard), &graph_path(shard)?).await {
            Ok(graph) => Ok(graph.value),
            Err(error) if error.is_not_found() => Ok(topodata::ShardReplication::default()),
            Err(error) => Err(error),
        }
    }

    /// Adds a tablet to the replication graph of its cell (and drops duplicates).
    pub async fn add_to_shard_replication(&self, shard: &ShardId, alias: &TabletAlias) -> Result<(), TopoError> {
        let store = self.cell_store(&alias.cell).await?;
        let alias_pb = topodata::TabletAlias::from(alias);
        let mut add = |graph: &mut topodata::ShardReplication| {
            let before = graph.nodes.len();
            let mut seen = false;
            graph.nodes.retain(|node| node.tablet_alias.as_ref() != Some(&alias_pb) || !std::mem::replace(&mut seen, true));
            if !seen {
                graph.nodes.push(topodata::shard_replication::Node { tablet_alias: Some(alias_pb.clone()) });
            }
            !seen || graph.nodes.len() != before
        };
        let empty = Some(topodata::ShardReplication::default());
        store.update_or(&graph_name(&alias.cell, shard), &graph_path(shard)?, &mut add, empty).await.map(drop)
    }

    /// Removes a tablet from the replication graph of its cell. A graph or an entry that is not there is no error.
    pub async fn remove_from_shard_replication(&self, shard: &ShardId, alias: &TabletAlias) -> Result<(), TopoError> {
        let store = self.cell_store(&alias.cell).await?;
        let alias_pb = topodata::TabletAlias::from(alias);
        let mut remove = |graph: &mut topodata::ShardReplication| {
            let before = graph.nodes.len();
            graph.nodes.retain(|node| node.tablet_alias.as_ref() != Some(&alias_pb));
            graph.nodes.len() != before
        };
        match store.update(&graph_name(&alias.cell, shard), &graph_path(shard)?, &mut remove).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// What a cell serves of a keyspace.
    pub async fn srv_keyspace(&self, cell: &str, keyspace: &str) -> Result<Versioned<topodata::SrvKeyspace>, TopoError> {
        let path = format!("{}/{}", keys::keyspace_folder(keyspace)?, topodata::SrvKeyspace::KIND);
        self.cell_store(cell).await?.read(&format!("serving keyspace {keyspace} of cell {cell}"), &path).await
    }
}

/// Frees a keyspace lock. A lock that was lost meanwhile does not undo what was written: that was conditioned on the version.
async fn free<T>(lock: Place, result: Result<T, TopoError>) -> Result<T, TopoError> {
    if let Some(reason) = lock.loss() {
        tracing::warn!(lock = lock.what(), reason, "the lock was lost while the record was changed");
    }
    lock.release().await;
    result
}

fn keyspace_name(keyspace: &str) -> String {
    format!("keyspace {keyspace}")
}

fn keyspace_path(keyspace: &str) -> Result<String, TopoError> {
    Ok(format!("{}/{}", keys::keyspace_folder(keyspace)?, topodata::Keyspace::KIND))
}

fn shard_name(shard: &ShardId) -> String {
    format!("shard {shard}")
}

fn shard_path(shard: &ShardId) -> Result<String, TopoError> {
    Ok(format!("{}/{}", keys::shard_folder(shard)?, topodata::Shard::KIND))
}

fn graph_name(cell: &str, shard: &ShardId) -> String {
    format!("replication graph of shard {shard} in cell {cell}")
}

fn graph_path(shard: &ShardId) -> Result<String, TopoError> {
    Ok(format!("{}/{}", keys::shard_folder(shard)?, topodata::ShardReplication::KIND))
}
