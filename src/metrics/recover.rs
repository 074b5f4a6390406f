//! Problems and recoveries: VTOrc's names, so that dashboards and alerts keep working, and ours.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{InFlight, Registry, ShardCounters, count, counter, gauge, histogram};
use crate::{
    diagnose::{Code, Priority, Problem},
    topo::{ShardId, TabletAlias},
};

/// Problems that are gone are shown as 0, as VTOrc does, until there are more than so many of them in the process; the oldest end first.
pub const ZEROS_MAX: usize = 4096;

/// How a recovery can end, in metrics.
const OUTCOMES: [&str; 3] = ["done", "already_done", "failed"];

/// Label values of a problem that is gone.
type Gone = [String; 4];

/// What is wrong and what is done about it.
pub struct RecoverMetrics {
    detected: IntGaugeVec,
    open: IntGaugeVec,
    zeros: Mutex<VecDeque<Gone>>,
    changes: IntCounter,
    reads: IntCounter,
    trouble_since: IntGaugeVec,
    blocked: IntGaugeVec,
    silent: IntGauge,
    count: ShardCounters,
    successful: ShardCounters,
    failed: ShardCounters,
    skipped: ShardCounters,
    pending: IntGauge,
    emergency_disabled: IntGaugeVec,
    by_code: IntCounterVec,
    ended: IntCounterVec,
    failovers: IntCounterVec,
    recorded: IntCounter,
    stuck: ShardCounters,
    phases: HistogramVec,
}

/// How far a failover has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The primary came into doubt.
    Suspicion,
    /// An emergency reparent was decided.
    Decision,
    /// The shard lock was had.
    Lock,
    /// The new primary takes writes.
    Writable,
    /// Every tablet that can follows it.
    Repointed,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Suspicion => "suspicion",
            Self::Decision => "decision",
            Self::Lock => "lock",
            Self::Writable => "writable",
            Self::Repointed => "repointed",
        }
    }
}

impl RecoverMetrics {
    /// Makes and registers them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let of_shard = ["recovery_type", "keyspace", "shard"];
        let vector = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let vtorc = |name: &str, help: &str, labels: &[&str]| ShardCounters::new(registry, name, help, labels);
        let of_outcome = |name: &str, help: &str| {
            let counters = counter(registry, name, help, &["outcome"])?;
            // From the start, so that the first one is an increase.
            OUTCOMES.iter().for_each(|outcome| drop(counters.with_label_values(&[outcome])));
            Ok::<_, prometheus::Error>(counters)
        };
        Ok(Self {
            detected: vector(
                "vtorc_detected_problems",
                "1 while a tablet has that problem, 0 when it is gone, under VTOrc's name; zeros end when there are many",
                &["analysis", "tablet_alias", "keyspace", "shard"],
            )?,
            open: vector("vtelector_problems_open", "Problems that are there now, by code", &["code"])?,
            zeros: Mutex::default(),
            changes: count(registry, "vtorc_analysis_change_write", "Problems that came or went, under VTOrc's name")?,
            reads: count(
                registry,
                "vtorc_instance_read",
                "Tablets whose evidence was read for a diagnosis, under VTOrc's name; nobody is asked for it",
            )?,
            trouble_since: vector(
                "vtelector_trouble_since_timestamp_seconds",
                "Since when (seconds of the epoch) a shard has had problems of that priority; the series ends with them",
                &["keyspace", "shard", "priority"],
            )?,
            blocked: vector(
                "vtelector_failover_blocked",
                "1 while a shard needs another primary and something stands in the way; the series ends with it",
                &["keyspace", "shard", "reason"],
            )?,
            silent: gauge(
                registry,
                "vtelector_tablets_silent",
                "Watched tablets whose tablet manager does not answer this elector",
            )?,
            count: vtorc("vtorc_recoveries_count", "Recoveries begun, under VTOrc's name", &of_shard)?,
            successful: vtorc("vtorc_successful_recoveries", "Recoveries that ended well, under VTOrc's name", &of_shard)?,
            failed: vtorc("vtorc_failed_recoveries", "Recoveries that failed, under VTOrc's name", &of_shard)?,
            skipped: vtorc(
                "vtorc_skipped_recoveries",
                "Problems that were not acted upon, once for each reason while the problem lasts, under VTOrc's name",
                &["recovery_type", "keyspace", "shard", "reason"],
            )?,
            pending: gauge(registry, "vtorc_pending_recoveries", "Recoveries that are under way, under VTOrc's name")?,
            emergency_disabled: vector(
                "vtorc_emergency_reparent_shard_disabled",
                "1 where SetVtorcEmergencyReparent or a flag forbids emergency reparents, under VTOrc's name",
                &["keyspace", "shard"],
            )?,
            by_code: counter(
                registry,
                "vtelector_recoveries_total",
                "Recoveries that ended, by the problem, what was done, and the outcome",
                &["code", "kind", "outcome"],
            )?,
            ended: of_outcome("vtelector_recoveries_ended_total", "Recoveries that ended, all together, by outcome")?,
            failovers: of_outcome(
                "vtelector_failovers_total",
                "Automatic emergency reparents and takeovers that ended, by outcome",
            )?,
            recorded: count(registry, "vtorc_audit_write", "Recoveries written into the ledger, under VTOrc's name")?,
            stuck: vtorc(
                "vtelector_recoveries_stuck_total",
                "Problems that came back after several attempts to mend them: a person should look",
                &["keyspace", "shard", "code"],
            )?,
            phases: histogram(
                registry,
                "vtelector_failover_seconds",
                "Automatic failovers: from the last good evidence of the old primary to each phase",
                &["phase"],
            )?,
        })
    }

    /// A problem is there.
    pub fn opened(&self, shard: &ShardId, problem: &Problem) {
        self.detected(shard, problem.code, problem.tablet.as_ref()).set(1);
        self.open.with_label_values(&[problem.code.name()]).inc();
        self.changes.inc();
    }

    /// A problem is gone.
    pub fn closed(&self, shard: &ShardId, (code, tablet): &(Code, Option<TabletAlias>)) {
        self.detected(shard, *code, tablet.as_ref()).set(0);
        self.open.with_label_values(&[code.name()]).dec();
        self.changes.inc();
        let mut zeros = self.zeros.lock().unwrap_or_else(PoisonError::into_inner);
        zeros.push_back([code.name().to_owned(), alias(tablet.as_ref()), shard.keyspace.clone(), shard.shard.clone()]);
        if zeros.len() > ZEROS_MAX
            && let Some(oldest) = zeros.pop_front()
        {
            let labels = oldest.each_ref().map(String::as_str);
            // It may have come back since. An error says that its tablet is gone.
            if self.detected.get_metric_with_label_values(&labels).is_ok_and(|gauge| gauge.get() == 0) {
                let _ = self.detected.remove_label_values(&labels);
            }
        }
    }

    /// What is known of so many tablets was read for a diagnosis.
    pub fn read(&self, tablets: usize) {
        self.reads.inc_by(tablets as u64);
    }

    /// Since when a shard has had problems of that priority; `None` = it has none.
    pub fn trouble(&self, shard: &ShardId, priority: Priority, since: Option<Duration>) {
        let labels = [&shard.keyspace, &shard.shard, priority.name()];
        match since {
            Some(since) => self.trouble_since.with_label_values(&labels).set(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            None => drop(self.trouble_since.remove_label_values(&labels)),
        }
    }

    /// Whether that reason stands in the way of a new primary.
    pub fn blocked(&self, shard: &ShardId, reason: &str, is: bool) {
        let labels = [&shard.keyspace, &shard.shard, reason];
        if is { self.blocked.with_label_values(&labels).set(1) } else { drop(self.blocked.remove_label_values(&labels)) }
    }

    /// So many more, or fewer, tablets do not answer.
    pub fn silent(&self, more: i64) {
        self.silent.add(more);
    }

    /// A shard is looked after no more.
    pub(super) fn end_of(&self, shard: &ShardId) {
        for counters in [&self.count, &self.successful, &self.failed, &self.skipped, &self.stuck] {
            counters.end(shard);
        }
        Priority::ALL.iter().for_each(|priority| self.trouble(shard, *priority, None));
        let _ = self.emergency_disabled.remove_label_values(&[&shard.keyspace, &shard.shard]);
    }

    /// A tablet, or with `None` the shard as a whole, is watched no more: its series end.
    pub fn forget(&self, shard: &ShardId, tablet: Option<&TabletAlias>) {
        let alias = alias(tablet);
        for code in Code::ALL {
            // An error says that there was no such series.
            let _ = self.detected.remove_label_values(&[code.name(), &alias, &shard.keyspace, &shard.shard]);
        }
    }

    fn detected(&self, shard: &ShardId, code: Code, tablet: Option<&TabletAlias>) -> IntGauge {
        self.detected.with_label_values(&[code.name(), &alias(tablet), &shard.keyspace, &shard.shard])
    }

    /// A recovery begins; it is pending until the answer is dropped. `kind` is VTOrc's name for it.
    pub fn begun(&self, shard: &ShardId, kind: &str) -> InFlight {
        self.count.inc(shard, &[kind, &shard.keyspace, &shard.shard]);
        InFlight::enter(&self.pending)
    }

    /// A recovery ended: `done`, `already_done` or `failed`.
    pub fn ended(&self, shard: &ShardId, code: Code, kind: &str, (outcome, moves): (&str, bool)) {
        self.by_code.with_label_values(&[code.name(), kind, outcome]).inc();
        self.ended.with_label_values(&[outcome]).inc();
        if moves {
            self.failovers.with_label_values(&[outcome]).inc();
        }
        let counter = if outcome == "failed" { &self.failed } else { &self.successful };
        if outcome != "already_done" {
            counter.inc(shard, &[kind, &shard.keyspace, &shard.shard]);
        }
    }

    /// A recovery is in the ledger.
    pub fn recorded(&self) {
        self.recorded.inc();
    }

    /// A problem is not acted upon.
    pub fn skipped(&self, shard: &ShardId, kind: &str, reason: &str) {
        self.skipped.inc(shard, &[kind, &shard.keyspace, &shard.shard, reason]);
    }

    /// A problem comes back after every attempt.
    pub fn stuck(&self, shard: &ShardId, code: Code) {
        self.stuck.inc(shard, &[&shard.keyspace, &shard.shard, code.name()]);
    }

    /// Whether emergency reparents of a shard are forbidden.
    pub fn emergency_disabled(&self, shard: &ShardId, disabled: bool) {
        self.emergency_disabled.with_label_values(&[&shard.keyspace, &shard.shard]).set(disabled.into());
    }

    /// A failover reached a phase, so long after the last good evidence of the old primary.
    pub fn phase(&self, phase: Phase, after: Duration) {
        self.phases.with_label_values(&[phase.name()]).observe(after.as_secs_f64());
    }
}

fn alias(tablet: Option<&TabletAlias>) -> String {
    tablet.map(ToString::to_string).unwrap_or_default()
}
