//! docs/metrics.md lists what a running elector exports, all of it and nothing else.

use std::{collections::BTreeSet, time::Duration};

use vtelector::{
    metrics::{Family, Metrics},
    reparent::{Operation, Step},
};

use super::documents::{generated, table};

/// Everything that is exported.
pub fn families() -> Vec<Family> {
    Metrics::new().unwrap().families()
}

fn rows(wanted: impl Fn(&Family) -> bool) -> String {
    let row = |family: Family| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        vec![format!("`{}`", family.name), family.kind.to_owned(), labels.join(", "), family.help]
    };
    table(&["metric", "type", "labels", "meaning"], families().into_iter().filter(wanted).map(row))
}

#[test]
fn the_generated_tables_list_what_is_exported() {
    let of = |head: &'static str| move |family: &Family| family.name.starts_with(head);
    generated("docs/metrics.md", "ours", &rows(of("vtelector_")));
    generated("docs/metrics.md", "vtorc", &rows(of("vtorc_")));
    generated("docs/metrics.md", "process", &rows(of("process_")));
    let all = |family: &Family| ["vtelector_", "vtorc_", "process_"].iter().any(|head| family.name.starts_with(head));
    let strange: Vec<Family> = families().into_iter().filter(|family| !all(family)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn what_is_listed_is_what_is_gathered() {
    let metrics = Metrics::new().unwrap();
    metrics.tablet_call("FullStatus", "ok", Duration::from_millis(3));
    metrics.topology_call("get", "ok", Duration::from_millis(3));
    metrics.grpc_request("GetShard", "OK", Duration::from_millis(3));
    metrics.reparent_step(Operation::Emergency, Step::Demote, Duration::from_millis(3));
    let listed: BTreeSet<(String, String)> =
        metrics.families().into_iter().map(|family| (family.name, family.kind.to_owned())).collect();
    let page = metrics.page().unwrap();
    let typed = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let gathered: BTreeSet<(String, String)> = typed.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    let unlisted: Vec<_> = gathered.difference(&listed).collect();
    assert!(unlisted.is_empty() && gathered.len() > 20, "{unlisted:?}");
}

const OF_SHARD: &[&str] = &["keyspace", "recovery_type", "shard"];

/// What VTOrc 24 exports: name, type, labels.
pub const OF_VTORC: &[(&str, &str, &[&str])] = &[
    ("vtorc_analysis_change_write", "counter", &[]),
    ("vtorc_audit_write", "counter", &[]),
    ("vtorc_discoveries_attempt", "counter", &[]),
    ("vtorc_discoveries_fail", "counter", &[]),
    ("vtorc_discoveries_instance_poll_seconds_exceeded", "counter", &[]),
    ("vtorc_instance_read", "counter", &[]),
    ("vtorc_instance_read_topology", "counter", &[]),
    ("vtorc_recoveries_count", "counter", OF_SHARD),
    ("vtorc_successful_recoveries", "counter", OF_SHARD),
    ("vtorc_failed_recoveries", "counter", OF_SHARD),
    ("vtorc_skipped_recoveries", "counter", &["keyspace", "reason", "recovery_type", "shard"]),
    ("vtorc_planned_reparent_counts", "counter", &["keyspace", "result", "shard"]),
    ("vtorc_emergency_reparent_counts", "counter", &["keyspace", "result", "shard"]),
    ("vtorc_discoveries_queue_length", "gauge", &[]),
    ("vtorc_discoveries_recent_count", "gauge", &[]),
    ("vtorc_discovery_workers", "gauge", &[]),
    ("vtorc_discovery_workers_active", "gauge", &[]),
    ("vtorc_pending_recoveries", "gauge", &[]),
    ("vtorc_detected_problems", "gauge", &["analysis", "keyspace", "shard", "tablet_alias"]),
    ("vtorc_current_errant_gtid_count", "gauge", &["tablet_alias"]),
    ("vtorc_errant_gtid_tablet_count", "gauge", &[]),
    ("vtorc_shard_locks_active", "gauge", &[]),
    ("vtorc_tablets_watched_by_cell", "gauge", &["cell"]),
    ("vtorc_tablets_watched_by_shard", "gauge", &["keyspace", "shard"]),
    ("vtorc_emergency_reparent_shard_disabled", "gauge", &["keyspace", "shard"]),
    ("vtorc_discovery_instance_timings", "histogram", &["action"]),
    ("vtorc_shard_lock_timings", "histogram", &["action"]),
    ("vtorc_reparent_shard_operation_timings", "histogram", &["operation"]),
];

/// A Prometheus, a rule or a dashboard that was made for VTOrc finds every name with its labels here.
#[test]
fn every_metric_of_vtorc_is_there_with_its_labels() {
    let families = families();
    for (name, kind, labels) in OF_VTORC {
        let family = families.iter().find(|family| family.name == *name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(
            (family.kind, family.labels.iter().map(String::as_str).collect::<Vec<_>>()),
            (*kind, labels.to_vec()),
            "{name}"
        );
    }
}
