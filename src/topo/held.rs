//! Who holds Vitess's locks, and for what.

use super::{ShardId, Topo, TopoError, keys};

/// One who holds a lock or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// What is locked, such as `keyspace commerce`.
    pub what: String,
    /// What for, as the lock's contents say; empty when they say nothing.
    pub action: String,
    /// Action, host and time, for a person.
    pub holder: String,
    /// Whether somebody else still has it.
    pub waits: bool,
}

impl Topo {
    /// The locks of a shard and of its keyspace with those who wait for them, in the order of the queues.
    pub async fn locks_around(&self, shard: &ShardId) -> Result<Vec<HeldLock>, TopoError> {
        let store = self.global_store();
        let keyspace = (format!("keyspace {}", shard.keyspace), keys::keyspace_folder(&shard.keyspace)?);
        let mut held = Vec::new();
        for (what, folder) in [keyspace, (format!("shard {shard}"), keys::shard_folder(shard)?)] {
            let doing = TopoError::kv(format!("reading who holds the lock of {what}"));
            let listing = store.kv.list(&store.root.folder(&format!("{folder}/locks"))).await.map_err(doing)?;
            let mut queue = listing.entries;
            queue.sort_by_key(|entry| entry.create_revision);
            held.extend(queue.iter().enumerate().map(|(place, entry)| {
                let contents: serde_json::Value = serde_json::from_slice(&entry.value).unwrap_or_default();
                let action = contents["Action"].as_str().unwrap_or_default().to_owned();
                HeldLock { what: what.clone(), action, holder: super::queue::holder_text(&entry.value), waits: place > 0 }
            }));
        }
        Ok(held)
    }
}
