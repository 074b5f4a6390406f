//! The tablets of one shard, and who replicates from whom. Pure.

use std::collections::BTreeMap;

use crate::pb::vtelector::TabletState;

/// The tablets of one shard, by alias.
pub struct Shard<'a> {
    pub tablets: Vec<&'a TabletState>,
}

/// Tablets by keyspace and shard.
pub fn by_shard(tablets: &[TabletState]) -> BTreeMap<(&str, &str), Shard<'_>> {
    let mut shards: BTreeMap<(&str, &str), Shard<'_>> = BTreeMap::new();
    for tablet in tablets {
        let shard = shards.entry((&tablet.keyspace, &tablet.shard)).or_insert_with(|| Shard { tablets: Vec::new() });
        shard.tablets.push(tablet);
    }
    shards
}

/// Whether it answered when it was last asked, and its MySQL too.
pub fn is_valid(tablet: &TabletState) -> bool {
    let works = |name: &str| tablet.channels.iter().any(|channel| channel.name == name && channel.works);
    tablet.status_age_ms.is_some() && works("tablet manager") && works("MySQL")
}

/// Whether both of its threads run.
pub fn is_replicating(tablet: &TabletState) -> bool {
    tablet.replication.as_ref().is_some_and(|replication| replication.io_thread == "running" && replication.sql_running)
}

impl<'a> Shard<'a> {
    /// Whom a tablet replicates from, where that is a tablet of this shard.
    pub fn source(&self, tablet: &TabletState) -> Option<&'a TabletState> {
        let address = &tablet.replication.as_ref()?.source;
        self.tablets.iter().copied().find(|other| other.mysql_address == *address)
    }

    /// Those that say that they replicate from it.
    pub fn replicas(&self, tablet: &TabletState) -> impl Iterator<Item = &'a TabletState> {
        let address = tablet.mysql_address.clone();
        let from_it = move |other: &&TabletState| other.replication.as_ref().is_some_and(|found| found.source == address);
        self.tablets.iter().copied().filter(from_it)
    }

    /// Whether it replicates from a tablet that replicates from it.
    pub fn is_co_primary(&self, tablet: &TabletState) -> bool {
        self.source(tablet).and_then(|source| self.source(source)).is_some_and(|back| back.alias == tablet.alias)
    }

    /// UUIDs of the servers from which it replicates, the first source first, and its own at the end. A circle ends where it closes.
    pub fn ancestry(&self, tablet: &'a TabletState) -> Vec<&'a str> {
        let mut line: Vec<&TabletState> = vec![tablet];
        while let Some(source) = line.last().and_then(|last| self.source(last)) {
            if line.iter().any(|known| known.alias == source.alias) {
                break;
            }
            line.push(source);
        }
        line.iter().rev().map(|tablet| tablet.server_uuid.as_str()).filter(|uuid| !uuid.is_empty()).collect()
    }
}
