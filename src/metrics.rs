//! Every metric in one place: its name, its labels, and what an operator reads from it.

mod errant;
mod events;
mod ledger;
mod locks;
mod peers;
mod recover;
mod registry;
mod security;
mod sense;
mod shards;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub use errant::ErrantMetrics;
pub use events::EventMetrics;
pub use ledger::LedgerMetrics;
pub use locks::LockMetrics;
pub use peers::PeerMetrics;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};
pub use recover::{Phase, RecoverMetrics, ZEROS_MAX};
pub use registry::{Family, Registry};
pub use security::SecurityMetrics;
pub use sense::SenseMetrics;
use shards::ShardCounters;

use crate::{
    log_lines,
    reparent::{Operation, Step},
    topo::ShardId,
};

/// Bounds of histograms, in seconds: from one etcd round trip to the longest reparent.
const BUCKETS_S: [f64; 16] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The metrics of one server, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    planned: ShardCounters,
    emergency: ShardCounters,
    reparent_failures: IntCounterVec,
    reparent_seconds: HistogramVec,
    vtorc_reparent_seconds: HistogramVec,
    reparent_step_seconds: HistogramVec,
    reparents_running: IntGauge,
    tablet_calls: IntCounterVec,
    tablet_call_seconds: HistogramVec,
    topology_calls: IntCounterVec,
    topology_call_seconds: HistogramVec,
    grpc_requests: IntCounterVec,
    grpc_request_seconds: HistogramVec,
    grpc_in_flight: IntGauge,
    settings_error: IntGauge,
    /// Errant GTIDs.
    pub errant: ErrantMetrics,
    /// The log of events and its receivers.
    pub events: EventMetrics,
    /// Shard locks.
    pub locks: LockMetrics,
    /// What all electors remember.
    pub ledger: LedgerMetrics,
    /// Several electors.
    pub peers: PeerMetrics,
    /// Watching tablets.
    pub sense: SenseMetrics,
    /// Problems and recoveries.
    pub recover: RecoverMetrics,
    /// Who comes in.
    pub security: SecurityMetrics,
}

impl Metrics {
    /// Makes and registers all of them. Fails only where two have the same name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::default();
        let (grpc_requests, grpc_request_seconds, grpc_in_flight) = grpc(&registry)?;
        let metrics = Self {
            // No second name of ours: whoever sums what matches would count twice.
            planned: ShardCounters::new(
                &registry,
                "vtorc_planned_reparent_counts",
                "Planned reparents of shards that exist, by result, under VTOrc's name; a run that had nothing to do is a success",
                &["keyspace", "shard", "result"],
            )?,
            emergency: ShardCounters::new(
                &registry,
                "vtorc_emergency_reparent_counts",
                "Emergency reparents of shards that exist, by result, under VTOrc's name",
                &["keyspace", "shard", "result"],
            )?,
            reparent_failures: counter(
                &registry,
                "vtelector_reparent_failures_total",
                "Reparents that failed or were refused, by operation and reason: not_revoked, not_complete, lock_lost and others",
                &["operation", "reason"],
            )?,
            reparent_seconds: histogram(
                &registry,
                "vtelector_reparent_duration_seconds",
                "From the lock until the answer, by operation and result; a run that did not get the lock took nothing",
                &["operation", "result"],
            )?,
            vtorc_reparent_seconds: histogram(
                &registry,
                "vtorc_reparent_shard_operation_timings",
                "The same for all results together, under VTOrc's name",
                &["operation"],
            )?,
            reparent_step_seconds: histogram(
                &registry,
                "vtelector_reparent_step_seconds",
                "One step of a reparent that ended well, by operation and step: shows which one makes reparents slow",
                &["operation", "step"],
            )?,
            reparents_running: gauge(&registry, "vtelector_reparents_running", "Reparents that are under way in this process")?,
            tablet_calls: counter(
                &registry,
                "vtelector_tablet_calls_total",
                "Calls to tablets, by method and result; a growing result other than ok shows tablets in trouble",
                &["method", "result"],
            )?,
            tablet_call_seconds: histogram(
                &registry,
                "vtelector_tablet_call_seconds",
                "Duration of calls to tablets, connecting included, by method",
                &["method"],
            )?,
            topology_calls: counter(
                &registry,
                "vtelector_topology_calls_total",
                "Operations on etcd, by operation and result (conflict: somebody else was faster, which is normal)",
                &["operation", "result"],
            )?,
            topology_call_seconds: histogram(
                &registry,
                "vtelector_topology_call_seconds",
                "Duration of operations on etcd, by operation",
                &["operation"],
            )?,
            grpc_requests,
            grpc_request_seconds,
            settings_error: gauge(
                &registry,
                "vtelector_settings_file_error",
                "1 while the settings' file cannot be taken and the old settings stay in force",
            )?,
            grpc_in_flight,
            errant: ErrantMetrics::new(&registry)?,
            events: EventMetrics::new(&registry)?,
            ledger: LedgerMetrics::new(&registry)?,
            locks: LockMetrics::new(&registry)?,
            peers: PeerMetrics::new(&registry)?,
            sense: SenseMetrics::new(&registry)?,
            recover: RecoverMetrics::new(&registry)?,
            security: SecurityMetrics::new(&registry)?,
            registry,
        };
        about_this_process(&metrics.registry)?;
        Ok(metrics)
    }

    /// Whether the settings' file cannot be taken.
    pub fn settings_error(&self, is: bool) {
        self.settings_error.set(i64::from(is));
    }

    /// Counts one reparent of a shard that exists; `failed` is the reason of a failure, from a bounded set.
    pub fn reparent(&self, operation: Operation, shard: &ShardId, failed: Option<&str>, took: Duration) {
        let name = operation.name();
        let counter = match operation {
            Operation::Planned => &self.planned,
            Operation::Emergency => &self.emergency,
        };
        let result = if failed.is_none() { "success" } else { "failure" };
        counter.inc(shard, &[&shard.keyspace, &shard.shard, result]);
        let vtorc = match operation {
            Operation::Planned => "PlannedReparentShard",
            Operation::Emergency => "EmergencyReparentShard",
        };
        self.vtorc_reparent_seconds.with_label_values(&[vtorc]).observe(took.as_secs_f64());
        self.reparent_seconds.with_label_values(&[name, result]).observe(took.as_secs_f64());
        if let Some(reason) = failed {
            self.reparent_failures.with_label_values(&[name, reason]).inc();
        }
    }

    /// Records how long one step of a reparent took.
    pub fn reparent_step(&self, operation: Operation, step: Step, took: Duration) {
        self.reparent_step_seconds.with_label_values(&[operation.name(), step.name()]).observe(took.as_secs_f64());
    }

    /// Counts a reparent as running until the answer is dropped.
    pub fn reparent_running(&self) -> InFlight {
        InFlight::enter(&self.reparents_running)
    }

    /// Records one call to a tablet; `result` is a short word, `ok` for success.
    pub fn tablet_call(&self, method: &str, result: &str, took: Duration) {
        self.tablet_calls.with_label_values(&[method, result]).inc();
        self.tablet_call_seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    }

    /// Records one operation on etcd; `result` is a short word, `ok` for success.
    pub fn topology_call(&self, operation: &str, result: &str, took: Duration) {
        self.topology_calls.with_label_values(&[operation, result]).inc();
        self.topology_call_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// Records one gRPC request that was answered. `method` must come from a bounded set.
    pub fn grpc_request(&self, method: &str, code: &str, took: Duration) {
        self.grpc_requests.with_label_values(&[method, code]).inc();
        self.grpc_request_seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    }

    /// Counts a gRPC request as being answered until the value is dropped.
    pub fn grpc_in_flight(&self) -> InFlight {
        InFlight::enter(&self.grpc_in_flight)
    }

    /// Everything as it stands now.
    pub fn gathered(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// A shard is looked after no more: its series end.
    pub fn end_of(&self, shard: &ShardId) {
        self.planned.end(shard);
        self.emergency.end(shard);
        self.recover.end_of(shard);
    }

    /// Everything that is exported, by name, also what has no sample yet.
    pub fn families(&self) -> Vec<Family> {
        self.registry.families()
    }

    /// The page that Prometheus reads. VTOrc's names stand there also before they have a value, for whoever looks for them.
    pub fn page(&self) -> Result<String, prometheus::Error> {
        let (mut page, gathered) = (Vec::new(), self.registry.gather());
        TextEncoder::new().encode(&gathered, &mut page)?;
        let mut page = String::from_utf8_lossy(&page).into_owned();
        let valued: BTreeSet<&str> = gathered.iter().map(|family| family.name()).collect();
        let silent = |family: &Family| family.name.starts_with("vtorc_") && !valued.contains(family.name.as_str());
        for Family { name, help, kind, .. } in self.registry.families().into_iter().filter(silent) {
            page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        }
        Ok(page)
    }
}

/// Something under way; it leaves the gauge when dropped.
pub struct InFlight(IntGauge);

impl InFlight {
    fn enter(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Log lines that were lost: counted by the log, which begins before all metrics.
struct LinesLost {
    counter: IntCounter,
    /// Scrapes at the same time bring the counter up to date one after the other.
    scrape: Mutex<()>,
}

impl LinesLost {
    fn new() -> Result<Self, prometheus::Error> {
        let help = "Log lines that were lost, as standard error did not take them: a full disk, or a reader that stands still";
        Ok(Self { counter: IntCounter::new("vtelector_log_lines_lost_total", help)?, scrape: Mutex::default() })
    }
}

impl Collector for LinesLost {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.counter.reset();
        self.counter.inc_by(log_lines::lost());
        self.counter.collect()
    }
}

/// The process itself, and which release it is.
fn about_this_process(registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
    registry.register(Box::new(LinesLost::new()?))?;
    let build = IntGaugeVec::new(Opts::new("vtelector_build_info", "Always 1; the label says which release runs"), &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))
}

/// What is asked of us over gRPC: how often, how long it took, and how much at the same time.
fn grpc(registry: &Registry) -> Result<(IntCounterVec, HistogramVec, IntGauge), prometheus::Error> {
    let requests =
        counter(registry, "vtelector_grpc_requests_total", "gRPC requests answered, by method and code", &["method", "code"])?;
    let seconds = histogram(registry, "vtelector_grpc_request_seconds", "Duration of gRPC requests, by method", &["method"])?;
    let in_flight = gauge(registry, "vtelector_grpc_requests_in_flight", "gRPC requests that are being answered")?;
    Ok((requests, seconds, in_flight))
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
    let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS_S.to_vec()), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn count(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reparent_moves_one_counter_of_its_operation_by_one() {
        let metrics = Metrics::new().unwrap();
        let (whole, half) = (ShardId::new("commerce", "0").unwrap(), ShardId::new("commerce", "-80").unwrap());
        for (operation, name) in [(Operation::Planned, "planned"), (Operation::Emergency, "emergency")] {
            assert!(!metrics.page().unwrap().contains(&format!("vtorc_{name}_reparent_counts{{")));
            metrics.reparent(operation, &whole, None, Duration::from_millis(80));
            metrics.reparent(operation, &half, Some("lock_lost"), Duration::from_millis(80));
            let page = metrics.page().unwrap();
            let start = format!("vtorc_{name}_reparent_counts");
            let counted: Vec<&str> = page.lines().filter(|line| line.starts_with(&start)).collect();
            assert_eq!(
                counted,
                [
                    format!(r#"vtorc_{name}_reparent_counts{{keyspace="commerce",result="failure",shard="-80"}} 1"#),
                    format!(r#"vtorc_{name}_reparent_counts{{keyspace="commerce",result="success",shard="0"}} 1"#),
                ]
            );
            // One metric alone may match what sums `planned.*(counts|total)`, or the same of emergencies.
            let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            let summed = |line: &&str| line.contains(name) && (line.contains("counts") || line.contains("total"));
            assert_eq!(names.filter(summed).count(), 1);
            let failed = format!(r#"vtelector_reparent_failures_total{{operation="{name}",reason="lock_lost"}} 1"#);
            assert!(page.contains(&failed), "{page}");
        }
    }

    #[test]
    fn what_is_under_way_is_counted_until_dropped() {
        let metrics = Metrics::new().unwrap();
        let running = metrics.reparent_running();
        assert!(metrics.page().unwrap().contains("vtelector_reparents_running 1"));
        drop(running);
        assert!(metrics.page().unwrap().contains("vtelector_reparents_running 0"));
    }

    #[test]
    fn every_metric_has_help_and_the_process_is_measured() {
        let metrics = Metrics::new().unwrap();
        metrics.tablet_call("FullStatus", "ok", Duration::from_millis(3));
        metrics.topology_call("get", "ok", Duration::from_millis(3));
        metrics.grpc_request("GetShard", "OK", Duration::from_millis(3));
        metrics.reparent_step(Operation::Emergency, Step::Demote, Duration::from_millis(3));
        let page = metrics.page().unwrap();
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap();
            assert!(page.contains(&format!("# HELP {name} ")), "{name}");
        }
        assert!(page.contains("process_resident_memory_bytes") && page.contains("vtelector_build_info{version="));
    }
}
