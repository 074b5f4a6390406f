//! Watching tablets: VTOrc's names where they mean the same, and ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, core::Collector};

use super::{InFlight, Registry, gauge};
use crate::topo::ShardId;

/// Bounds of ages, in seconds: from a liveness interval to what is as good as blind.
const AGES_S: [f64; 10] = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 15.0];

/// What sensing costs, and how good its evidence is.
pub struct SenseMetrics {
    attempts: IntCounter,
    failures: IntCounter,
    read: IntCounter,
    slow: IntCounter,
    queue: IntGauge,
    recent: IntGauge,
    workers: IntGauge,
    active: IntGauge,
    instance: Histogram,
    by_cell: IntGaugeVec,
    by_shard: IntGaugeVec,
    evidence_age: Histogram,
    liveness: IntCounter,
    liveness_put_off: IntCounter,
    late: IntCounter,
    emergencies: IntCounterVec,
    cells: Mutex<BTreeSet<String>>,
    shards: Mutex<BTreeSet<ShardId>>,
}

impl SenseMetrics {
    /// Makes and registers them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let timings = super::histogram(
            registry,
            "vtorc_discovery_instance_timings",
            "Asking a tablet everything, under VTOrc's name; what VTOrc calls Backend does not exist here",
            &["action"],
        )?;
        let gauges =
            |name: &str, help: &str, labels: &[&str]| register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let count = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let age = HistogramOpts::new(
            "vtelector_evidence_age_seconds",
            "How old the last full answer of a tablet was when the next one came: how long it had to be relied on",
        );
        Ok(Self {
            attempts: count("vtorc_discoveries_attempt", "Tablets asked everything, under VTOrc's name")?,
            failures: count("vtorc_discoveries_fail", "The same without an answer, under VTOrc's name")?,
            read: count("vtorc_instance_read_topology", "The same with an answer, under VTOrc's name")?,
            slow: count(
                "vtorc_discoveries_instance_poll_seconds_exceeded",
                "Tablets that took longer to answer than --instance-poll-time, under VTOrc's name",
            )?,
            queue: gauge(
                registry,
                "vtorc_discoveries_queue_length",
                "Tablets that do not answer and wait to be asked again, under VTOrc's name; those that answer never wait",
            )?,
            recent: gauge(registry, "vtorc_discoveries_recent_count", "Tablets that are asked regularly, under VTOrc's name")?,
            workers: gauge(registry, "vtorc_discovery_workers", "Tasks that ask tablets, one each, under VTOrc's name")?,
            active: gauge(registry, "vtorc_discovery_workers_active", "Tablets that are being asked now, under VTOrc's name")?,
            instance: timings.with_label_values(&["Instance"]),
            by_cell: gauges("vtorc_tablets_watched_by_cell", "Watched tablets, under VTOrc's name", &["cell"])?,
            by_shard: gauges("vtorc_tablets_watched_by_shard", "Watched tablets, under VTOrc's name", &["keyspace", "shard"])?,
            evidence_age: register(registry, Histogram::with_opts(age.buckets(AGES_S.to_vec()))?)?,
            liveness: count("vtelector_liveness_questions_total", "Questions to primaries whether they live")?,
            liveness_put_off: count(
                "vtelector_liveness_questions_put_off_total",
                "The same that were put off because the fleet may be asked only so many a second",
            )?,
            late: count(
                "vtelector_limits_noticed_late_total",
                "Limits of questions that were noticed so late that this process cannot have run: it needs more processor time",
            )?,
            emergencies: super::counter(
                registry,
                "vtelector_emergency_rereads_total",
                "Times that everybody in a shard was asked at once; refused: too many at a time in the fleet, the regular questions had to do",
                &["result"],
            )?,
            cells: Mutex::default(),
            shards: Mutex::default(),
        })
    }

    /// A tablet was asked everything.
    pub fn asked(&self, took: Duration, answered: bool) {
        self.attempts.inc();
        if answered {
            self.read.inc()
        } else {
            self.failures.inc()
        }
        self.instance.observe(took.as_secs_f64());
    }

    /// A tablet is being asked until the answer is dropped.
    pub fn asking(&self) -> InFlight {
        InFlight::enter(&self.active)
    }

    /// A tablet that does not answer waits to be asked again until the answer is dropped.
    pub fn queued(&self) -> InFlight {
        InFlight::enter(&self.queue)
    }

    /// An answer took longer than the time between two questions.
    pub fn slow(&self) {
        self.slow.inc();
    }

    /// An answer took the place of one that was so old.
    pub fn replaced(&self, age: Duration) {
        self.evidence_age.observe(age.as_secs_f64());
    }

    /// A primary was asked whether it lives, or that was put off.
    pub fn liveness_question(&self, put_off: bool) {
        if put_off { self.liveness_put_off.inc() } else { self.liveness.inc() }
    }

    /// The limit of a question was noticed long after it had passed.
    pub fn noticed_late(&self) {
        self.late.inc();
    }

    /// Everybody in a shard was asked at once, or was not because too many are.
    pub fn emergency(&self, asked: bool) {
        self.emergencies.with_label_values(&[if asked { "asked" } else { "refused" }]).inc();
    }

    /// Which tablets are watched, by shard and cell; what was watched before and is no more loses its series.
    pub fn watched(&self, by_shard: &BTreeMap<ShardId, usize>, by_cell: &BTreeMap<String, usize>) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in cells.iter().filter(|cell| !by_cell.contains_key(*cell)) {
            let _ = self.by_cell.remove_label_values(&[gone]);
        }
        *cells = by_cell.keys().cloned().collect();
        by_cell.iter().for_each(|(cell, count)| self.by_cell.with_label_values(&[cell]).set(number(*count)));
        let tablets = number(by_shard.values().sum());
        self.recent.set(tablets);
        self.workers.set(tablets);
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shards.iter().filter(|shard| !by_shard.contains_key(*shard)) {
            let _ = self.by_shard.remove_label_values(&[&gone.keyspace, &gone.shard]);
        }
        *shards = by_shard.keys().cloned().collect();
        for (shard, count) in by_shard {
            self.by_shard.with_label_values(&[&shard.keyspace, &shard.shard]).set(number(*count));
        }
    }
}

fn register<T: Collector + Clone + 'static>(registry: &Registry, metric: T) -> Result<T, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    #[test]
    fn what_is_watched_no_more_loses_its_series() {
        let metrics = Metrics::new().unwrap();
        let (one, other) = ("commerce/-80".parse().unwrap(), "commerce/80-".parse().unwrap());
        metrics.sense.watched(&[(one, 3), (other, 2)].into(), &[("zone1".to_owned(), 4), ("zone2".to_owned(), 1)].into());
        let page = metrics.page().unwrap();
        assert!(page.contains(r#"vtorc_tablets_watched_by_shard{keyspace="commerce",shard="80-"} 2"#), "{page}");
        assert!(page.contains(r#"vtorc_tablets_watched_by_cell{cell="zone1"} 4"#), "{page}");
        metrics.sense.watched(&[("commerce/-80".parse().unwrap(), 3)].into(), &[("zone1".to_owned(), 3)].into());
        let page = metrics.page().unwrap();
        assert!(!page.contains("80-\"") && !page.contains("zone2"), "{page}");
        assert!(page.contains(r#"vtorc_tablets_watched_by_cell{cell="zone1"} 3"#), "{page}");
    }
}
