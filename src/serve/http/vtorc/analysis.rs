//! Problems in the words of VTOrc's `DetectionAnalysis`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    instance::{Coordinates, Limits, type_number},
    shard::{Shard, is_replicating, is_valid},
};
use crate::{
    diagnose::Code,
    pb::{
        topodata::TabletType,
        vtelector::{Problem, TabletState},
        vttime::Time,
    },
    topo::{Snapshot, TabletAlias},
};

/// Go's zero time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// A problem that a tablet has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Matched {
    analysis: String,
    description: String,
    priority: u8,
}

/// What VTOrc's API says of one tablet that has problems.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Analysis {
    pub analyzed_instance_alias: String,
    analyzed_instance_primary_alias: String,
    tablet_type: i32,
    current_tablet_type: i32,
    primary_time_stamp: String,
    analyzed_keyspace: String,
    analyzed_shard: String,
    analyzed_keyspace_emergency_reparent_disabled: bool,
    analyzed_shard_emergency_reparent_disabled: bool,
    shard_primary_term_timestamp: String,
    analyzed_instance_binlog_coordinates: Coordinates,
    is_primary: bool,
    is_cluster_primary: bool,
    last_check_valid: bool,
    primary_health_unhealthy: bool,
    last_check_partial_success: bool,
    count_replicas: usize,
    count_valid_replicas: usize,
    count_valid_replicating_replicas: usize,
    count_valid_semi_sync_replicating_replicas: usize,
    replication_stopped: bool,
    #[serde(rename = "ErrantGTID")]
    errant_gtid: String,
    replica_net_timeout: u32,
    heartbeat_interval: f64,
    pub analysis: String,
    /// Empty lists are `null`, as Go prints them.
    analysis_matched_problems: Option<Vec<Matched>>,
    description: String,
    structure_analysis: Option<Vec<&'static str>>,
    #[serde(rename = "OracleGTIDImmediateTopology")]
    gtid_immediate_topology: bool,
    binlog_server_immediate_topology: bool,
    semi_sync_primary_enabled: bool,
    semi_sync_primary_status: bool,
    semi_sync_primary_wait_for_replica_count: u32,
    semi_sync_primary_clients: u32,
    semi_sync_replica_enabled: bool,
    semi_sync_blocked: bool,
    count_semi_sync_replicas_enabled: usize,
    count_logging_replicas: usize,
    count_statement_based_logging_replicas: usize,
    count_mixed_based_logging_replicas: usize,
    count_row_based_logging_replicas: usize,
    count_distinct_major_versions_logging_replicas: usize,
    count_delayed_replicas: usize,
    count_lagging_replicas: usize,
    is_actionable_recovery: bool,
    recovery_id: i64,
    #[serde(rename = "GTIDMode")]
    gtid_mode: String,
    #[serde(rename = "MinReplicaGTIDMode")]
    min_replica_gtid_mode: String,
    #[serde(rename = "MaxReplicaGTIDMode")]
    max_replica_gtid_mode: String,
    #[serde(rename = "MaxReplicaGTIDErrant")]
    max_replica_gtid_errant: String,
    is_read_only: bool,
    is_disk_stalled: bool,
}

/// One entry for each tablet that has a problem, or whose replicas have a warning of VTOrc's.
pub fn analyses(
    shards: &BTreeMap<(&str, &str), Shard<'_>>,
    problems: &[Problem],
    declared: Option<&Snapshot>,
    limits: Limits,
) -> Vec<Analysis> {
    let mut by_shard: BTreeMap<(&str, &str), Vec<&Problem>> = BTreeMap::new();
    for problem in problems {
        by_shard.entry((&problem.keyspace, &problem.shard)).or_default().push(problem);
    }
    let mut all = Vec::new();
    for (name, shard) in shards {
        let problems = by_shard.get(name).map(Vec::as_slice).unwrap_or_default();
        all.extend(shard.tablets.iter().filter_map(|tablet| {
            let own: Vec<&Problem> = problems.iter().copied().filter(|problem| concerns(problem, shard, tablet)).collect();
            let analysis = analysis(tablet, shard, &own, declared, limits);
            (!own.is_empty() || analysis.structure_analysis.is_some()).then_some(analysis)
        }));
    }
    // As VTOrc does: primaries before the others.
    all.sort_by_key(|analysis| analysis.tablet_type);
    all
}

/// A problem of a shard without a primary is told of the first tablet that could be one, as VTOrc tells it of a replica.
fn concerns(problem: &Problem, shard: &Shard<'_>, tablet: &TabletState) -> bool {
    let present = |tablet: &&&TabletState| tablet.alias == problem.tablet_alias;
    match shard.tablets.iter().find(present).filter(|_| problem.tablet_alias.is_some()) {
        Some(found) => found.alias == tablet.alias,
        None => {
            let could_be = |tablet: &&&TabletState| matches!(tablet.declared_type.as_str(), "PRIMARY" | "REPLICA");
            shard.tablets.iter().find(could_be).or(shard.tablets.first()).is_some_and(|first| first.alias == tablet.alias)
        }
    }
}

fn analysis(
    tablet: &TabletState,
    shard: &Shard<'_>,
    problems: &[&Problem],
    declared: Option<&Snapshot>,
    limits: Limits,
) -> Analysis {
    let keyspace = declared.and_then(|declared| declared.keyspaces.get(&tablet.keyspace));
    let id = crate::topo::ShardId { keyspace: tablet.keyspace.clone(), shard: tablet.shard.clone() };
    let record = declared.and_then(|declared| declared.shards.get(&id));
    let source = shard.source(tablet).and_then(|source| source.alias.clone());
    let semi_sync = tablet.semi_sync.unwrap_or_default();
    let mut analysis = Analysis {
        analyzed_instance_alias: alias(tablet.alias.as_ref()),
        analyzed_instance_primary_alias: alias(source.as_ref()),
        tablet_type: type_number(&tablet.declared_type),
        current_tablet_type: type_number(&tablet.observed_type),
        primary_time_stamp: time(tablet.primary_since.as_ref()),
        analyzed_keyspace: tablet.keyspace.clone(),
        analyzed_shard: tablet.shard.clone(),
        analyzed_keyspace_emergency_reparent_disabled: keyspace
            .and_then(|found| found.vtorc_state)
            .is_some_and(|state| state.disable_emergency_reparent),
        analyzed_shard_emergency_reparent_disabled: record
            .and_then(|found| found.vtorc_state)
            .is_some_and(|state| state.disable_emergency_reparent),
        shard_primary_term_timestamp: time(record.and_then(|found| found.primary_term_start_time.as_ref())),
        is_primary: tablet.replication.is_none(),
        is_cluster_primary: is_newest_primary(tablet, shard),
        last_check_valid: is_valid(tablet),
        primary_health_unhealthy: problems.iter().any(|problem| problem.code == Code::IncapacitatedPrimary.name()),
        last_check_partial_success: is_valid(tablet),
        replication_stopped: tablet.replication.is_some() && !is_replicating(tablet),
        errant_gtid: tablet.errant.clone().unwrap_or_default(),
        replica_net_timeout: tablet.replica_net_timeout_s,
        heartbeat_interval: tablet.heartbeat_interval_s,
        semi_sync_primary_enabled: semi_sync.source_enabled,
        semi_sync_primary_status: semi_sync.source_active,
        semi_sync_primary_wait_for_replica_count: semi_sync.wait_for,
        semi_sync_primary_clients: semi_sync.clients,
        semi_sync_replica_enabled: semi_sync.replica_enabled,
        semi_sync_blocked: semi_sync.blocked,
        gtid_mode: tablet.gtid_mode.clone(),
        is_read_only: tablet.read_only.unwrap_or_default(),
        is_disk_stalled: tablet.disk_stalled,
        ..Analysis::default()
    };
    count(&mut analysis, tablet, shard, limits);
    let warnings = warnings(&analysis);
    analysis.structure_analysis = (!warnings.is_empty()).then_some(warnings);
    let first = problems.first();
    analysis.analysis = first.map_or_else(|| "NoProblem".to_owned(), |problem| problem.code.clone());
    analysis.description = first.map(|problem| meaning(problem)).unwrap_or_default();
    let matched = problems.iter().map(|problem| Matched {
        analysis: problem.code.clone(),
        description: meaning(problem),
        priority: priority(&problem.priority),
    });
    analysis.analysis_matched_problems = first.is_some().then(|| matched.collect());
    analysis
}

/// What its replicas are.
fn count(analysis: &mut Analysis, tablet: &TabletState, shard: &Shard<'_>, limits: Limits) {
    let replicas: Vec<&TabletState> = shard.replicas(tablet).collect();
    let number = |wanted: &dyn Fn(&TabletState) -> bool| replicas.iter().filter(|replica| wanted(replica)).count();
    let acks = |replica: &TabletState| replica.semi_sync.is_some_and(|state| state.replica_enabled);
    let logging = |replica: &TabletState| is_valid(replica) && replica.log_bin && replica.log_replica_updates;
    let format = |format: &str| number(&|replica| logging(replica) && replica.binlog_format == format);
    let lags = |replica: &TabletState| {
        let lag = replica.replication.as_ref().and_then(|replication| replication.lag_ms);
        lag.is_some_and(|lag| u128::from(lag) > limits.lag.as_millis())
    };
    let auto = |replica: &TabletState| replica.replication.as_ref().is_some_and(|replication| replication.auto_position);
    analysis.count_replicas = replicas.len();
    analysis.count_valid_replicas = number(&is_valid);
    analysis.count_valid_replicating_replicas = number(&|replica| is_valid(replica) && is_replicating(replica));
    analysis.count_valid_semi_sync_replicating_replicas =
        number(&|replica| is_valid(replica) && is_replicating(replica) && acks(replica));
    analysis.count_semi_sync_replicas_enabled = number(&acks);
    analysis.count_logging_replicas = number(&logging);
    analysis.count_statement_based_logging_replicas = format("STATEMENT");
    analysis.count_mixed_based_logging_replicas = format("MIXED");
    analysis.count_row_based_logging_replicas = format("ROW");
    analysis.count_delayed_replicas =
        number(&|replica| replica.replication.as_ref().is_some_and(|replication| replication.delay_s > 0));
    analysis.count_lagging_replicas = number(&lags);
    analysis.gtid_immediate_topology = analysis.count_valid_replicas > 0
        && number(&|replica| is_valid(replica) && auto(replica)) == analysis.count_valid_replicas;
    let series = |replica: &&&TabletState| replica.version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let versions: BTreeSet<String> = replicas.iter().filter(|replica| logging(replica)).map(|replica| series(&replica)).collect();
    analysis.count_distinct_major_versions_logging_replicas = versions.len();
    let modes = || replicas.iter().map(|replica| replica.gtid_mode.as_str());
    analysis.min_replica_gtid_mode = modes().min().unwrap_or_default().to_owned();
    analysis.max_replica_gtid_mode = modes().max().unwrap_or_default().to_owned();
    analysis.max_replica_gtid_errant = replicas.iter().filter_map(|replica| replica.errant.clone()).max().unwrap_or_default();
}

/// VTOrc's warnings about what a promotion would meet.
fn warnings(a: &Analysis) -> Vec<&'static str> {
    let mixed = |one: usize, other: usize| a.is_primary && one > 0 && other > 0;
    let (statement, row) = (a.count_statement_based_logging_replicas, a.count_row_based_logging_replicas);
    let both = a.count_mixed_based_logging_replicas;
    let other_modes = a.gtid_mode != a.min_replica_gtid_mode || a.gtid_mode != a.max_replica_gtid_mode;
    let too_few = a.semi_sync_primary_clients < a.semi_sync_primary_wait_for_replica_count;
    let found = [
        (a.is_primary && a.count_logging_replicas == 0 && a.count_replicas > 1, "NoLoggingReplicasStructureWarning"),
        (a.is_primary && a.count_replicas > 1 && !a.gtid_immediate_topology, "NoFailoverSupportStructureWarning"),
        (mixed(statement, both), "StatementAndMixedLoggingReplicasStructureWarning"),
        (mixed(statement, row), "StatementAndRowLoggingReplicasStructureWarning"),
        (mixed(both, row), "MixedAndRowLoggingReplicasStructureWarning"),
        (
            a.is_primary && a.count_distinct_major_versions_logging_replicas > 1,
            "MultipleMajorVersionsLoggingReplicasStructureWarning",
        ),
        (a.count_replicas > 0 && other_modes, "DifferentGTIDModesStructureWarning"),
        (!a.max_replica_gtid_errant.is_empty(), "ErrantGTIDStructureWarning"),
        (a.is_primary && a.is_read_only, "NoWriteablePrimaryStructureWarning"),
        (
            a.is_primary && a.semi_sync_primary_enabled && !a.semi_sync_primary_status && too_few,
            "NotEnoughValidSemiSyncReplicasStructureWarning",
        ),
    ];
    found.into_iter().filter_map(|(is, name)| is.then_some(name)).collect()
}

/// The PRIMARY record with the newest term.
fn is_newest_primary(tablet: &TabletState, shard: &Shard<'_>) -> bool {
    let term = |tablet: &TabletState| tablet.primary_since.map(|since| (since.seconds, since.nanoseconds));
    let is_primary = |tablet: &&&TabletState| type_number(&tablet.declared_type) == TabletType::Primary as i32;
    let newest = shard.tablets.iter().filter(is_primary).max_by_key(|tablet| term(tablet));
    newest.is_some_and(|newest| newest.alias == tablet.alias)
}

fn meaning(problem: &Problem) -> String {
    Code::named(&problem.code).map_or_else(|| problem.why.clone(), |code| code.meaning().to_owned())
}

fn priority(name: &str) -> u8 {
    ["shard", "critical", "high", "medium", "low"].iter().zip(0..).find(|(known, _)| **known == name).map_or(4, |(_, rank)| rank)
}

fn alias(alias: Option<&crate::pb::topodata::TabletAlias>) -> String {
    alias.map(|alias| TabletAlias { cell: alias.cell.clone(), uid: alias.uid }.to_string()).unwrap_or_default()
}

fn time(time: Option<&Time>) -> String {
    let stamp = time.and_then(|time| Timestamp::new(time.seconds, time.nanoseconds).ok());
    stamp.map_or_else(|| NO_TIME.to_owned(), |stamp| stamp.to_string())
}
