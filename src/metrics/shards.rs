//! Series that end with their shard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::IntCounterVec;

use super::{Registry, counter};
use crate::topo::ShardId;

/// The label values of one series.
type Values = Vec<String>;

/// Counters with labels for keyspace and shard. Without an end a process that has looked after many shards would export them for ever.
pub struct ShardCounters {
    counters: IntCounterVec,
    of: Mutex<BTreeMap<ShardId, BTreeSet<Values>>>,
}

impl ShardCounters {
    /// Makes and registers them.
    pub(super) fn new(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<Self, prometheus::Error> {
        Ok(Self { counters: counter(registry, name, help, labels)?, of: Mutex::default() })
    }

    /// Counts one; `values` are those of all labels.
    pub fn inc(&self, shard: &ShardId, values: &[&str]) {
        self.lock().entry(shard.clone()).or_default().insert(values.iter().map(|value| (*value).to_owned()).collect());
        self.counters.with_label_values(values).inc();
    }

    /// Ends the shard's series.
    pub fn end(&self, shard: &ShardId) {
        for values in self.lock().remove(shard).unwrap_or_default() {
            // There is one: it was counted.
            let _ = self.counters.remove_label_values(&values.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, BTreeSet<Values>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
