//! What metrics say of a shard beside its problems: since when it is in trouble, what stands in the way, who does not answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{
    Context,
    decide::{Next, ProblemKey},
};
use crate::{
    diagnose::{Priority, Problem, Remedy},
    shard::ShardView,
    topo::ShardId,
};

/// What was last told to metrics, which only hear of changes.
#[derive(Debug, Default)]
pub(super) struct Shown {
    trouble: BTreeMap<Priority, Instant>,
    blocked: BTreeSet<&'static str>,
    silent: i64,
    emergency_disabled: Option<bool>,
}

impl Shown {
    /// Tells what has changed. `open` has every problem since when it is there; `wall` is the wall clock's now.
    pub fn show(
        &mut self,
        context: &Context,
        view: &ShardView,
        (open, wall): (&BTreeMap<ProblemKey, Instant>, SystemTime),
        (problems, next): (&[Problem], &Next),
    ) {
        let (metrics, shard) = (&context.metrics.recover, &view.shard);
        metrics.read(view.tablets.len());
        let mut trouble: BTreeMap<Priority, Instant> = BTreeMap::new();
        for ((code, _), since) in open {
            let oldest = trouble.entry(code.priority()).or_insert(*since);
            *oldest = (*oldest).min(*since);
        }
        for priority in Priority::ALL {
            let (before, now) = (self.trouble.get(&priority), trouble.get(&priority));
            if before != now {
                metrics.trouble(shard, priority, now.map(|since| of_epoch(wall, *since)));
            }
        }
        self.trouble = trouble;
        let blocked = blocked(problems, next);
        blocked.difference(&self.blocked).for_each(|reason| metrics.blocked(shard, reason, true));
        self.blocked.difference(&blocked).for_each(|reason| metrics.blocked(shard, reason, false));
        self.blocked = blocked;
        let silent = view.tablets.values().filter(|tablet| tablet.manager.failing.is_some()).count() as i64;
        metrics.silent(silent - std::mem::replace(&mut self.silent, silent));
        let by_record = view.record.as_ref().is_some_and(|record| record.emergency_disabled);
        let disabled = !context.live().allow_emergency || view.keyspace.emergency_disabled || by_record;
        if self.emergency_disabled.replace(disabled) != Some(disabled) {
            metrics.emergency_disabled(shard, disabled);
        }
    }

    /// The shard is looked after no more.
    pub fn end(&mut self, context: &Context, shard: &ShardId) {
        let before = std::mem::take(self);
        before.blocked.iter().for_each(|reason| context.metrics.recover.blocked(shard, reason, false));
        context.metrics.recover.silent(-before.silent);
        context.metrics.end_of(shard);
    }
}

/// What stands in the way of a new primary.
fn blocked(problems: &[Problem], next: &Next) -> BTreeSet<&'static str> {
    let promotes =
        |place: usize| matches!(problems[place].remedy, Remedy::Emergency(_) | Remedy::Takeover { .. } | Remedy::ElectFirst);
    next.skipped.iter().filter(|(place, skip)| skip.holds_back() && promotes(*place)).map(|(_, skip)| skip.label()).collect()
}

fn of_epoch(wall: SystemTime, since: Instant) -> Duration {
    wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since.elapsed())
}
