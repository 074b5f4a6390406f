//! What is old, or too much, is deleted: by one elector at a time.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{
    LedgerState, Now,
    book::Inner,
    stored::{self, Key, Keys},
};
use crate::topo::{KvError, Version};

/// How long a finished recovery is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many are kept; of more, those that were written first are dropped and counted.
pub const RECOVERIES_MAX: usize = 10_000;
/// How long an expired maintenance window is kept, for clocks that are behind.
const WINDOW_KEPT_FOR: Duration = Duration::from_secs(3600);
/// How often it is looked whether there is anything to delete.
const EVERY: Duration = Duration::from_secs(600);
/// After the start, before the first look: an elector that restarts again and again prunes nothing.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Keys that one look deletes at most; the rest waits for the next.
const DELETED_MAX: usize = 1000;
/// Whoever prunes and dies is out of the way after this.
const LEASE: Duration = Duration::from_secs(60);

/// What is to be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keys whose time is over.
    pub expired: Vec<String>,
    /// Keys of recoveries that are dropped before their time.
    pub overflow: Vec<String>,
}

/// What is to be deleted now, at most `deleted_max` keys.
pub fn plan(state: &LedgerState, keys: &Keys, now: Now, recoveries_max: usize, deleted_max: usize) -> Plan {
    let since = |at: SystemTime| now.wall.duration_since(at).unwrap_or_default();
    let old_windows = state.all_windows().filter(|window| since(window.until) > WINDOW_KEPT_FOR);
    let mut expired: Vec<String> = old_windows.map(|window| keys.of(&Key::Window(window.id.clone()))).collect();
    let old = state.acknowledgements().filter(|(_, acknowledgement)| since(acknowledgement.at) > KEPT_FOR);
    expired.extend(old.map(|(shard, _)| keys.of(&Key::Acknowledged(shard.clone()))));
    let mut kept: Vec<(Version, &String)> = Vec::new();
    for (key, recovery) in state.recoveries() {
        match recovery.written() {
            Some(_) if recovery.age(now) > KEPT_FOR => expired.push(key.clone()),
            Some(version) => kept.push((version, key)),
            // Not in etcd yet: nothing to delete.
            None => {}
        }
    }
    kept.sort();
    let too_many = kept.len().saturating_sub(recoveries_max);
    let mut overflow: Vec<String> = kept.into_iter().take(too_many).map(|(_, key)| key.clone()).collect();
    expired.truncate(deleted_max);
    overflow.truncate(deleted_max - expired.len());
    Plan { expired, overflow }
}

/// Looks now and then until it is dropped.
pub async fn run(ledger: &Inner) {
    let mut looks = interval_at(Instant::now() + FIRST_AFTER, EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let state = ledger.state.borrow().clone();
        if state.unread().is_some() {
            continue;
        }
        let plan = plan(&state, &ledger.keys, ledger.clock.now(), RECOVERIES_MAX, DELETED_MAX);
        if plan == Plan::default() {
            continue;
        }
        match prune(ledger, &plan, state.dropped(), state.dropped_version()).await {
            Ok(true) => tracing::info!(expired = plan.expired.len(), overflow = plan.overflow.len(), "pruned the ledger"),
            Ok(false) => {}
            // The next look tries again; nothing depends on it.
            Err(error) => tracing::info!(%error, "the ledger was not pruned"),
        }
    }
}

/// Deletes what the plan names, unless another elector does so; answers whether it did.
async fn prune(ledger: &Inner, plan: &Plan, dropped: u64, dropped_version: Version) -> Result<bool, KvError> {
    let kv = &ledger.kv;
    let lease = kv.lease_grant(LEASE).await?;
    let begun = kv.create(&ledger.keys.pruner(), ledger.who.clone().into_bytes(), Some(lease)).await;
    let done = match begun {
        Ok(_) => delete(ledger, plan, dropped, dropped_version).await.map(|()| true),
        Err(KvError::Exists { .. }) => Ok(false),
        Err(error) => Err(error),
    };
    kv.lease_revoke(lease).await?;
    done
}

async fn delete(ledger: &Inner, plan: &Plan, dropped: u64, dropped_version: Version) -> Result<(), KvError> {
    for key in &plan.expired {
        ledger.kv.delete(key, None).await?;
    }
    let mut count = 0;
    for key in &plan.overflow {
        count += u64::from(ledger.kv.delete(key, None).await?);
    }
    if count > 0 {
        let (key, value) = (ledger.keys.of(&Key::Dropped), stored::encode_dropped(dropped + count));
        match dropped_version {
            0 => ledger.kv.create(&key, value, None).await?,
            version => ledger.kv.update(&key, value, version).await?,
        };
    }
    Ok(())
}
