//! Problems and recoveries: VTOrc's names, so that dashboards and alerts keep working, and ours.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{InFlight, counter, gauge, histogram};
use crate::{
    diagnose::{Code, Problem},
    topo::{ShardId, TabletAlias},
};

/// What is wrong and what is done about it.
pub struct RecoverMetrics {
    detected: IntGaugeVec,
    open: IntGaugeVec,
    count: IntCounterVec,
    successful: IntCounterVec,
    failed: IntCounterVec,
    skipped: IntCounterVec,
    pending: IntGauge,
    emergency_disabled: IntGaugeVec,
    by_code: IntCounterVec,
    stuck: IntCounterVec,
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
        let vtorc = |name: &str, help: &str, labels: &[&str]| counter(registry, name, help, labels);
        Ok(Self {
            detected: vector(
                "vtorc_detected_problems",
                "1 while a tablet has that problem, 0 when it is gone, under VTOrc's name",
                &["analysis", "tablet_alias", "keyspace", "shard"],
            )?,
            open: vector("vtelector_problems_open", "Problems that are there now, by code", &["code"])?,
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
            stuck: counter(
                registry,
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
    }

    /// A problem is gone.
    pub fn closed(&self, shard: &ShardId, (code, tablet): &(Code, Option<TabletAlias>)) {
        self.detected(shard, *code, tablet.as_ref()).set(0);
        self.open.with_label_values(&[code.name()]).dec();
    }

    /// A tablet, or with `None` the shard as a whole, is watched no more: its series end.
    pub fn forget(&self, shard: &ShardId, tablet: Option<&TabletAlias>) {
        let alias = tablet.map(ToString::to_string).unwrap_or_default();
        for code in Code::ALL {
            // An error says that there was no such series.
            let _ = self.detected.remove_label_values(&[code.name(), &alias, &shard.keyspace, &shard.shard]);
        }
    }

    fn detected(&self, shard: &ShardId, code: Code, tablet: Option<&TabletAlias>) -> IntGauge {
        let alias = tablet.map(ToString::to_string).unwrap_or_default();
        self.detected.with_label_values(&[code.name(), &alias, &shard.keyspace, &shard.shard])
    }

    /// A recovery begins; it is pending until the answer is dropped. `kind` is VTOrc's name for it.
    pub fn begun(&self, shard: &ShardId, kind: &str) -> InFlight {
        self.count.with_label_values(&[kind, &shard.keyspace, &shard.shard]).inc();
        InFlight::enter(&self.pending)
    }

    /// A recovery ended: `done`, `already_done` or `failed`.
    pub fn ended(&self, shard: &ShardId, code: Code, kind: &str, outcome: &str) {
        self.by_code.with_label_values(&[code.name(), kind, outcome]).inc();
        let counter = if outcome == "failed" { &self.failed } else { &self.successful };
        if outcome != "already_done" {
            counter.with_label_values(&[kind, &shard.keyspace, &shard.shard]).inc();
        }
    }

    /// A problem is not acted upon.
    pub fn skipped(&self, shard: &ShardId, kind: &str, reason: &str) {
        self.skipped.with_label_values(&[kind, &shard.keyspace, &shard.shard, reason]).inc();
    }

    /// A problem comes back after every attempt.
    pub fn stuck(&self, shard: &ShardId, code: Code) {
        self.stuck.with_label_values(&[&shard.keyspace, &shard.shard, code.name()]).inc();
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
