//! The declared world: Vitess's topology in etcd, and the shard lock that lives in it.

mod cells;
mod error;
mod etcd;
mod held;
mod keys;
mod keyspaces;
mod kv;
mod lock;
mod memory;
mod names;
mod queue;
mod records;
mod snapshot;
mod source;
mod stores;
mod tablets;
mod unknown;
mod watcher;

pub use error::TopoError;
pub use etcd::EtcdKv;
pub use held::HeldLock;
pub use kv::{Kv, KvEntry, KvError, LeaseId, Listing, Version, Watch, WatchEvent};
pub use lock::{LockEvent, LockListener, LockLost, LockOr, ShardLock};
pub use memory::MemoryKv;
pub use names::{NameError, ShardId, TabletAlias, check_cell, check_name, key_range, key_range_contains};
pub use records::Versioned;
pub use snapshot::{CellView, Freshness, Snapshot};
pub(crate) use source::{News, Source};
pub use stores::{Stores, Topo, TopoPath, TopoSettings, TopoTls};
pub use tablets::ShardTablets;
pub use watcher::Watcher;

#[cfg(test)]
mod tests;
