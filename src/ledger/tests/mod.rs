//! The ledger on a store in memory, and its rules as stories.

mod book;
mod rules;
mod values;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::topo::ShardId;

/// A wall-clock time, in seconds after some day in 2025.
fn wall(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_760_000_000 + second)
}

fn shard() -> ShardId {
    "commerce/0".parse().unwrap()
}

/// A completed promotion of `commerce/0`.
fn promotion(at: SystemTime) -> Recovery {
    Recovery {
        shard: shard(),
        code: "DeadPrimary".to_owned(),
        kind: Kind::Emergency,
        promoted: Some("zone1-101".parse().unwrap()),
        old: Some("zone1-100".parse().unwrap()),
        who: "elector1:15999".to_owned(),
        at,
        took: Duration::from_millis(350),
        outcome: Outcome::Done,
        evidence: "its port refuses connections, and both replicas lost it".to_owned(),
    }
}
