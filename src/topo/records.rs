//! Typed records on top of the key-value store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Kv, KvError, NameError, ShardId, ShardLock, TabletAlias, Version, Watch};
use crate::pb::topodata;

/// How to reach the topology; the names of the flags are Vitess's.
#[derive(Debug, Clone)]
pub struct TopoSettings {
    /// `--topo-global-server-address`: endpoints of the global etcd, `host:port` with commas between.
    pub global_server_address: String,
    /// `--topo-global-root`.
    pub global_root: String,
    /// `--topo-etcd-tls-cert`, `-key`, `-ca`; TLS is used when cert and key are given.
    pub tls: Option<TopoTls>,
    /// `--topo-etcd-lease-ttl`: life of the lock after its holder died.
    pub lease_ttl: Duration,
    /// Limit of one request to one endpoint.
    pub request_timeout: Duration,
}

/// Files of the TLS identity towards etcd.
#[derive(Debug, Clone)]
pub struct TopoTls {
    /// Client certificate (PEM).
    pub cert: std::path::PathBuf,
    /// Its key (PEM).
    pub key: std::path::PathBuf,
    /// Authority that signed the server's certificate; the system's when absent.
    pub ca: Option<std::path::PathBuf>,
}

/// A record and the version it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The decoded record.
    pub value: T,
    /// What a conditional write is conditioned on.
    pub version: Version,
}

/// Why a topology operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopoError {
    /// A record that is not there; `what` names it for a person ("keyspace commerce", "tablet zone1-0000000100").
    #[error("{what} does not exist in the topology ({key})")]
    NotFound {
        /// The thing, for a person.
        what: String,
        /// The key that was read.
        key: String,
    },
    /// A record that is there already.
    #[error("{what} exists already")]
    Exists {
        /// The thing, for a person.
        what: String,
    },
    /// Bytes that are no such record.
    #[error("{key} holds {len} bytes that are no {kind} record: {reason}; repair or delete the key")]
    Garbage {
        /// The key.
        key: String,
        /// The expected type.
        kind: &'static str,
        /// How many bytes there are.
        len: usize,
        /// The decoder's words.
        reason: String,
    },
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The lock could not be had in time.
    #[error("{shard} is locked by {holder}: not free within {waited:?}; retry, or look at {key}")]
    LockTimeout {
        /// The locked shard (or keyspace).
        shard: String,
        /// Who holds it, as its JSON says.
        holder: String,
        /// How long we waited.
        waited: Duration,
        /// The holder's key.
        key: String,
    },
    /// The store failed.
    #[error("{doing}: {source}")]
    Kv {
        /// What was attempted.
        doing: String,
        /// The store's error.
        source: KvError,
    },
}

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

/// Typed access to the topology. Cheap to clone.
#[derive(Clone)]
pub struct Topo {
    _inner: Arc<()>,
}

impl Topo {
    /// Connects to etcd; fails when the global topology does not answer.
    pub async fn connect(_settings: &TopoSettings) -> Result<Self, TopoError> {
        todo!()
    }

    /// The global store and root, for keys of our own below `/vtelector`.
    pub fn global(&self) -> Arc<dyn Kv> {
        todo!()
    }

    /// Names of all cells.
    pub async fn cells(&self) -> Result<Vec<String>, TopoError> {
        todo!()
    }

    /// One cell's record.
    pub async fn cell_info(&self, _cell: &str) -> Result<topodata::CellInfo, TopoError> {
        todo!()
    }

    /// Registers a cell.
    pub async fn create_cell_info(&self, _cell: &str, _info: &topodata::CellInfo) -> Result<(), TopoError> {
        todo!()
    }

    /// Names of all keyspaces.
    pub async fn keyspaces(&self) -> Result<Vec<String>, TopoError> {
        todo!()
    }

    /// One keyspace's record.
    pub async fn keyspace(&self, _keyspace: &str) -> Result<Versioned<topodata::Keyspace>, TopoError> {
        todo!()
    }

    /// Makes a keyspace.
    pub async fn create_keyspace(&self, _keyspace: &str, _record: &topodata::Keyspace) -> Result<(), TopoError> {
        todo!()
    }

    /// Read-modify-write of a keyspace; takes and frees the keyspace lock with the given action text. `change` answers whether to write.
    pub async fn update_keyspace(
        &self,
        _keyspace: &str,
        _action: &str,
        _wait: Duration,
        _change: &mut (dyn FnMut(&mut topodata::Keyspace) -> bool + Send),
    ) -> Result<topodata::Keyspace, TopoError> {
        todo!()
    }

    /// All shards of a keyspace; `NotFound` when the keyspace does not exist.
    pub async fn shards(&self, _keyspace: &str) -> Result<BTreeMap<ShardId, topodata::Shard>, TopoError> {
        todo!()
    }

    /// One shard's record.
    pub async fn shard(&self, _shard: &ShardId) -> Result<Versioned<topodata::Shard>, TopoError> {
        todo!()
    }

    /// Makes a shard with `key_range` and `is_primary_serving` as Vitess does (under the keyspace lock).
    pub async fn create_shard(&self, _shard: &ShardId, _wait: Duration) -> Result<(), TopoError> {
        todo!()
    }

    /// Read-modify-write of a shard record; unknown fields survive. `change` answers whether to write.
    pub async fn update_shard(
        &self,
        _shard: &ShardId,
        _change: &mut (dyn FnMut(&mut topodata::Shard) -> bool + Send),
    ) -> Result<Versioned<topodata::Shard>, TopoError> {
        todo!()
    }

    /// The shard's tablets of one cell as its replication graph lists them; empty when the cell has none.
    pub async fn shard_replication(&self, _cell: &str, _shard: &ShardId) -> Result<topodata::ShardReplication, TopoError> {
        todo!()
    }

    /// Adds a tablet to the replication graph of its cell (and drops duplicates).
    pub async fn add_to_shard_replication(&self, _shard: &ShardId, _alias: &TabletAlias) -> Result<(), TopoError> {
        todo!()
    }

    /// Removes a tablet from the replication graph of its cell.
    pub async fn remove_from_shard_replication(&self, _shard: &ShardId, _alias: &TabletAlias) -> Result<(), TopoError> {
        todo!()
    }

    /// One tablet's record.
    pub async fn tablet(&self, _alias: &TabletAlias) -> Result<Versioned<topodata::Tablet>, TopoError> {
        todo!()
    }

    /// Makes a tablet record.
    pub async fn create_tablet(&self, _tablet: &topodata::Tablet) -> Result<(), TopoError> {
        todo!()
    }

    /// Read-modify-write of a tablet record. `change` answers whether to write.
    pub async fn update_tablet(
        &self,
        _alias: &TabletAlias,
        _change: &mut (dyn FnMut(&mut topodata::Tablet) -> bool + Send),
    ) -> Result<Versioned<topodata::Tablet>, TopoError> {
        todo!()
    }

    /// Deletes a tablet record.
    pub async fn delete_tablet(&self, _alias: &TabletAlias) -> Result<(), TopoError> {
        todo!()
    }

    /// Every tablet record of a cell.
    pub async fn cell_tablets(&self, _cell: &str) -> Result<Vec<topodata::Tablet>, TopoError> {
        todo!()
    }

    /// The tablets of a shard: the recorded primary and every replication graph, one read per alias (facts/topo-etcd.md section 9).
    pub async fn shard_tablets(&self, _shard: &ShardId) -> Result<ShardTablets, TopoError> {
        todo!()
    }

    /// Takes the shard lock, waiting in Vitess's queue for at most `wait`. `action` is what the lock's JSON says.
    pub async fn lock_shard(&self, _shard: &ShardId, _action: &str, _wait: Duration) -> Result<ShardLock, TopoError> {
        todo!()
    }

    /// Watches one shard's record (and its locks) from its current state on.
    pub async fn watch_shard(&self, _shard: &ShardId) -> Result<(Versioned<topodata::Shard>, Watch), TopoError> {
        todo!()
    }

    /// What stands under a path such as `/global/keyspaces` or `/zone1/tablets/zone1-0000000100/Tablet`, at a store revision (0 = now):
    /// the children of a folder, or the bytes of a file.
    pub async fn path(&self, _path: &str, _revision: Version) -> Result<TopoPath, TopoError> {
        todo!()
    }
}

/// What stands under a topology path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopoPath {
    /// Names of what is below.
    Folder(Vec<String>),
    /// A record's bytes and version.
    File {
        /// The stored bytes.
        value: Vec<u8>,
        /// Revision of the last write.
        version: Version,
    },
}
