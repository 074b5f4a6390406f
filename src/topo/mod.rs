//! The declared world: Vitess's topology in etcd, and the shard lock that lives in it.

mod kv;
mod lock;
mod names;
mod records;

pub use kv::{Kv, KvEntry, KvError, LeaseId, Listing, Version, Watch, WatchEvent};
pub use lock::{LockLost, LockOr, ShardLock};
pub use names::{NameError, ShardId, TabletAlias, check_cell, check_name};
pub use records::{ShardTablets, Topo, TopoError, TopoPath, TopoSettings, TopoTls, Versioned};
