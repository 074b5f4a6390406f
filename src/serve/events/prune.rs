//! What is old, or too much, goes from the log: by one elector at a time.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{
    log::Inner,
    state::LogState,
    stored::{self, Dropped},
};
use crate::topo::{KvError, Version};

/// How long an event is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many are kept; of more, the oldest go first and are counted.
pub const EVENTS_MAX: usize = 20_000;
/// Their bytes in etcd; of more, the same.
pub const BYTES_MAX: usize = 16 << 20;
/// How often it is looked whether there is anything to delete: in between, every elector writes a few hundred events at most each second.
const EVERY: Duration = Duration::from_secs(15);
/// Keys that one look deletes at most; the rest waits for the next.
const DELETED_MAX: usize = 2000;
/// Whoever prunes and dies is out of the way after this.
const LEASE: Duration = Duration::from_secs(60);

/// What is to be deleted, and what is to be noted of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names of batches, the oldest first.
    pub batches: Vec<String>,
    /// The note.
    pub dropped: Dropped,
    /// Cursors of receivers that are gone, as they were seen.
    pub cursors: Vec<(String, Version)>,
}

/// What is to be deleted now.
pub fn plan(state: &LogState, now: SystemTime, events_max: usize, bytes_max: usize) -> Plan {
    let since_1970_s = stored::ms_of(now) / 1000;
    let now_s = i64::try_from(since_1970_s).unwrap_or(i64::MAX);
    let (mut events, mut bytes) = state.size();
    // Nothing that such a receiver has yet to take is in the log any more.
    let cursors = state.left_since(since_1970_s.saturating_sub(KEPT_FOR.as_secs())).take(DELETED_MAX);
    let cursors = cursors.map(|(name, version)| (name.to_owned(), version)).collect();
    let mut plan = Plan { dropped: state.dropped().1, cursors, ..Plan::default() };
    for (name, last, count, at_s, size) in state.oldest().take(DELETED_MAX) {
        let too_many = events > events_max || bytes > bytes_max;
        let too_old = now_s.saturating_sub(at_s) > KEPT_FOR.as_secs() as i64;
        if !too_many && !too_old {
            break;
        }
        // What an elector that died while it pruned had noted already is not counted twice.
        if last > plan.dropped.floor {
            plan.dropped.floor = last;
            plan.dropped.count += if too_old { 0 } else { count as u64 };
        }
        (events, bytes) = (events - count, bytes - size);
        plan.batches.push(name.to_owned());
    }
    plan
}

/// Looks now and then until it is dropped.
pub async fn run(log: &Inner) {
    let mut looks = interval_at(Instant::now() + EVERY, EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (plan, version) = {
            let state = log.state();
            if state.unread().is_some() {
                continue;
            }
            (plan(&state, log.clock.now().wall, EVENTS_MAX, BYTES_MAX), state.dropped().0)
        };
        if plan.batches.is_empty() && plan.cursors.is_empty() {
            continue;
        }
        match prune(log, &plan, version).await {
            Ok(true) => {
                let gone: Vec<&str> = plan.cursors.iter().map(|(name, _)| name.as_str()).collect();
                let (keys, dropped, receivers) = (plan.batches.len(), plan.dropped.count, gone.join(" "));
                tracing::info!(keys, dropped, receivers, "pruned the log of events, and what receivers had taken that are gone");
            }
            Ok(false) => {}
            // The next look tries again; nothing depends on it.
            Err(error) => tracing::info!(%error, "the log of events was not pruned"),
        }
    }
}

/// Deletes what the plan names, unless another elector does so; answers whether it did.
async fn prune(log: &Inner, plan: &Plan, dropped_version: i64) -> Result<bool, KvError> {
    let lease = log.kv.lease_grant(LEASE).await?;
    let begun = log.kv.create(&log.keys.pruner(), log.who.clone().into_bytes(), Some(lease)).await;
    let done = match begun {
        Ok(_) => delete(log, plan, dropped_version).await.map(|()| true),
        Err(KvError::Exists { .. }) => Ok(false),
        Err(error) => Err(error),
    };
    log.kv.lease_revoke(lease).await?;
    done
}

async fn delete(log: &Inner, plan: &Plan, dropped_version: i64) -> Result<(), KvError> {
    for (receiver, version) in &plan.cursors {
        match log.kv.delete(&log.keys.cursor(receiver), Some(*version)).await {
            // It is back.
            Err(KvError::BadVersion { .. }) => {}
            other => _ = other?,
        }
    }
    if plan.batches.is_empty() {
        return Ok(());
    }
    // The note comes first: whoever reads from an old number learns of the gap before it is there.
    let (key, value) = (log.keys.dropped(), stored::encode(&plan.dropped));
    let noted = match dropped_version {
        0 => log.kv.create(&key, value, None).await,
        version => log.kv.update(&key, value, version).await,
    };
    match noted {
        // Another elector was faster, and our plan is out of date.
        Err(KvError::Exists { .. } | KvError::BadVersion { .. }) => return Ok(()),
        other => other?,
    };
    for name in &plan.batches {
        log.kv.delete(&log.keys.batch_of(name), None).await?;
    }
    Ok(())
}
