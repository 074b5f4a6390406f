//! What was written for VTOrc asks us: every path of its API, in its shapes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    http,
    scene::{P, R, Scene},
};

/// Fields of an instance in VTOrc's API: b = boolean, n = number, s = text, l = list, c = coordinates, i = number that may be null.
const INSTANCE: &[(&str, &str)] = &[
    (
        "s",
        "InstanceAlias Hostname Cell ServerUUID Version VersionComment FlavorName BinlogFormat BinlogRowImage SourceHost SourceUUID",
    ),
    ("s", "AncestryUUID GTIDMode LastSQLError LastIOError ExecutedGtidSet GtidPurged GtidErrant LastSeenTimestamp"),
    ("n", "Port TabletType ServerID SourcePort ReplicaNetTimeout HeartbeatInterval ReplicationSQLThreadState SQLDelay"),
    ("n", "ReplicationIOThreadState ReplicationDepth SemiSyncPrimaryTimeout SemiSyncPrimaryWaitForReplicaCount"),
    ("n", "SemiSyncPrimaryClients LastDiscoveryLatency"),
    ("b", "ReadOnly LogBinEnabled LogReplicationUpdatesEnabled ReplicationSQLThreadRuning ReplicationIOThreadRuning IsCoPrimary"),
    ("b", "HasReplicationFilters SupportsOracleGTID UsingOracleGTID IsDetached HasReplicationCredentials SemiSyncEnforced"),
    ("b", "SemiSyncPrimaryEnabled SemiSyncReplicaEnabled SemiSyncPrimaryStatus SemiSyncReplicaStatus SemiSyncBlocked AllowTLS"),
    ("b", "IsLastCheckValid IsUpToDate IsRecentlyChecked StalledDisk"),
    ("c", "SelfBinlogCoordinates ReadBinlogCoordinates ExecBinlogCoordinates RelaylogCoordinates"),
    ("i", "SecondsBehindPrimary ReplicationLagSeconds SecondsSinceLastSeen"),
    ("l", "Problems"),
];

/// Fields of an analysis.
const ANALYSIS: &[(&str, &str)] = &[
    (
        "s",
        "AnalyzedInstanceAlias AnalyzedInstancePrimaryAlias PrimaryTimeStamp AnalyzedKeyspace AnalyzedShard Analysis Description",
    ),
    ("s", "ShardPrimaryTermTimestamp ErrantGTID GTIDMode MinReplicaGTIDMode MaxReplicaGTIDMode MaxReplicaGTIDErrant"),
    ("n", "TabletType CurrentTabletType CountReplicas CountValidReplicas CountValidReplicatingReplicas ReplicaNetTimeout"),
    ("n", "CountValidSemiSyncReplicatingReplicas HeartbeatInterval SemiSyncPrimaryWaitForReplicaCount SemiSyncPrimaryClients"),
    ("n", "CountSemiSyncReplicasEnabled CountLoggingReplicas CountStatementBasedLoggingReplicas CountMixedBasedLoggingReplicas"),
    (
        "n",
        "CountRowBasedLoggingReplicas CountDistinctMajorVersionsLoggingReplicas CountDelayedReplicas CountLaggingReplicas RecoveryId",
    ),
    ("b", "AnalyzedKeyspaceEmergencyReparentDisabled AnalyzedShardEmergencyReparentDisabled IsPrimary IsClusterPrimary"),
    ("b", "LastCheckValid PrimaryHealthUnhealthy LastCheckPartialSuccess ReplicationStopped OracleGTIDImmediateTopology"),
    ("b", "BinlogServerImmediateTopology SemiSyncPrimaryEnabled SemiSyncPrimaryStatus SemiSyncReplicaEnabled SemiSyncBlocked"),
    ("b", "IsActionableRecovery IsReadOnly IsDiskStalled"),
    ("c", "AnalyzedInstanceBinlogCoordinates"),
    ("L", "AnalysisMatchedProblems StructureAnalysis"),
];

#[track_caller]
fn has_shape(value: &Value, shape: &[(&str, &str)]) {
    let fits = |kind: &str, value: &Value| match kind {
        "b" => value.is_boolean(),
        "n" => value.is_number(),
        "s" => value.is_string(),
        "l" => value.is_array(),
        "L" => value.is_array() || value.is_null(),
        "c" => value["LogFile"].is_string() && value["LogPos"].is_u64() && value["Type"].is_u64(),
        _ => value["Int64"].is_i64() && value["Valid"].is_boolean(),
    };
    let mut named = BTreeSet::new();
    for (kind, names) in shape {
        for name in names.split(' ') {
            let found = value.get(name).unwrap_or_else(|| panic!("{name} is missing in {value:#}"));
            assert!(fits(kind, found), "{name} is {found}");
            named.insert(name.to_owned());
        }
    }
    let told: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
    assert_eq!(told, named, "VTOrc has no other fields");
}

#[tokio::test]
async fn problems_and_errant_gtids_are_lists_of_vtorcs_instances() {
    let scene = Scene::start().await;
    let answer = scene.get("/api/problems").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json; charset=utf-8"));
    assert!(answer.body.starts_with("[\n {\n  \""), "one space for each level: {:.40}", answer.body);
    assert!(answer.body.contains(r"duplicate \u003ckey\u003e"), "no markup in an answer");
    let list = answer.json();
    let [replica, silent] = list.as_array().unwrap().as_slice() else { panic!("{list:#}") };
    has_shape(replica, INSTANCE);
    has_shape(silent, INSTANCE);
    assert_eq!((&replica["InstanceAlias"], &silent["InstanceAlias"]), (&"zone1-0000000101".into(), &"zone2-0000000200".into()));
    assert_eq!(replica["Problems"], serde_json::json!(["not_replicating", "errant_gtid"]));
    assert_eq!(silent["Problems"], serde_json::json!(["last_check_invalid"]));
    assert_eq!((&replica["GtidErrant"], &replica["SourceUUID"]), (&format!("{R}:1-3").into(), &P.into()));
    assert_eq!((&replica["TabletType"], &replica["ReplicationSQLThreadState"]), (&2.into(), &0.into()));
    assert_eq!(replica["SecondsBehindPrimary"], serde_json::json!({"Int64": 42, "Valid": true}));
    assert_eq!((&replica["ReplicationDepth"], &replica["AncestryUUID"]), (&1.into(), &format!("{P},{R}").into()));
    assert_eq!((&replica["FlavorName"], &replica["HasReplicationCredentials"]), (&"MySQL".into(), &true.into()));

    let errant = scene.get("/api/errant-gtids").await.json();
    assert_eq!(errant.as_array().unwrap().len(), 1);
    assert_eq!(errant[0]["InstanceAlias"], "zone1-0000000101");
}

#[tokio::test]
async fn filters_are_vtorcs() {
    let scene = Scene::start().await;
    for path in ["/api/problems", "/api/errant-gtids", "/api/detection-analysis"] {
        for query in ["?keyspace=commerce", "?keyspace=commerce&shard=0", "?keyspace=commerce&shard=0&unknown=1", "?"] {
            let answer = scene.get(&format!("{path}{query}")).await;
            assert!(answer.status == 200 && answer.json().is_array(), "{path}{query}: {answer:?}");
        }
        for query in ["?keyspace=nowhere", "?keyspace=commerce&shard=80-"] {
            let answer = scene.get(&format!("{path}{query}")).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "null"), "an empty list is null: {path}{query}");
        }
        let answer = scene.get(&format!("{path}?shard=0")).await;
        assert!(answer.status == 400 && answer.body.contains("keyspace"), "{answer:?}");
        let answer = scene.get(&format!("{path}?keyspace=a%2Fb")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(http::post(scene.world.server.http, path, "{}").await.status, 405);
    }
}

#[tokio::test]
async fn an_analysis_tells_of_each_tablet_with_a_problem() {
    let scene = Scene::start().await;
    let answer = scene
        .until("/api/detection-analysis", "the replica's problem", |answer| answer.body.contains("ErrantGTIDDetected"))
        .await;
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    let list = answer.json();
    let list = list.as_array().unwrap();
    list.iter().for_each(|analysis| has_shape(analysis, ANALYSIS));
    let of = |alias: &str| {
        list.iter().find(|analysis| analysis["AnalyzedInstanceAlias"] == alias).unwrap_or_else(|| panic!("{list:#?}"))
    };
    let replica = of("zone1-0000000101");
    let codes: BTreeSet<&str> =
        replica["AnalysisMatchedProblems"].as_array().unwrap().iter().filter_map(|found| found["Analysis"].as_str()).collect();
    assert!(codes.contains("ReplicationStopped") && codes.contains("ErrantGTIDDetected"), "{codes:?}");
    assert_eq!((&replica["ReplicationStopped"], &replica["ErrantGTID"]), (&true.into(), &format!("{R}:1-3").into()));
    assert_eq!((&replica["AnalyzedKeyspace"], &replica["AnalyzedShard"]), (&"commerce".into(), &"0".into()));
    let chosen = &replica["AnalysisMatchedProblems"][0];
    assert_eq!((&replica["Analysis"], &replica["Description"]), (&chosen["Analysis"], &chosen["Description"]));
    let primary = of("zone1-0000000100");
    assert_eq!(
        (&primary["IsClusterPrimary"], &primary["CountReplicas"], &primary["TabletType"]),
        (&true.into(), &1.into(), &1.into())
    );
    assert!(primary["StructureAnalysis"].as_array().unwrap().iter().any(|found| found == "ErrantGTIDStructureWarning"));
    assert_eq!(of("zone2-0000000200")["LastCheckValid"], false);
}

#[tokio::test]
async fn recoveries_are_switched_by_a_get_as_in_vtorc_and_by_operators_only() {
    let scene = Scene::start().await;
    let answer = scene.get("/api/disable-global-recoveries").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; charset=utf-8"));
    assert!(answer.body.starts_with("Global recoveries disabled") && answer.body.contains("all electors"), "{answer:?}");
    let ledger = scene.world.server.elector.ledger.clone();
    assert!(ledger.state().recoveries_disabled().is_some_and(|off| off.why.contains("/api/disable-global-recoveries")));
    assert!(scene.get("/api/enable-global-recoveries").await.body.starts_with("Global recoveries enabled"));
    assert!(ledger.state().recoveries_disabled().is_none());
    for header in [("Sec-Fetch-Site", "cross-site"), ("X-Forwarded-For", "10.0.0.1")] {
        let answer = http::ask(scene.world.server.http, "GET", "/api/disable-global-recoveries", &[header], "").await;
        assert_eq!(answer.status, 403, "{header:?}: {answer:?}");
    }
    assert!(ledger.state().recoveries_disabled().is_none(), "who is refused changes nothing");
}

#[tokio::test]
async fn the_other_paths_answer_as_in_vtorc_and_what_is_gone_says_so() {
    let scene = Scene::start().await;
    let health = scene.get("/debug/health").await;
    assert_eq!((health.status, &health.json()["Healthy"]), (200, &true.into()));
    assert!(health.json()["LastReported"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!(scene.get("/debug/liveness").await.status, 200);

    let status = scene.get("/debug/status").await;
    assert_eq!((status.status, status.header("content-type")), (200, "text/html; charset=utf-8"));
    for words in ["Recent Recoveries", "Recovery ID", "Failure Type", "Tablet Alias", "Timestamp"] {
        assert!(status.body.contains(words), "{words}");
    }
    let vars = scene.get("/debug/vars").await.json();
    assert!(
        vars["DiscoveriesAttempt"].as_u64().unwrap() > 0 && vars["DiscoveryInstanceTimings"]["TotalCount"].is_u64(),
        "{vars:#}"
    );
    assert_eq!(vars["CurrentErrantGTIDCount"]["zone1-0000000101"], 3);
    assert_eq!(vars["TabletsWatchedByShard"]["commerce.0"], 3);

    let config = scene.get("/api/config").await;
    assert_eq!((config.status, config.header("content-type")), (200, "text/plain; charset=utf-8"));
    assert!(config.json().is_object());

    for (path, words) in [("/api/database-state", "no SQLite"), ("/debug/pprof/", "pprof"), ("/debug/pprof/profile", "pprof")] {
        let answer = scene.get(path).await;
        assert!(answer.status == 404 && answer.body.contains(words), "{path}: {answer:?}");
    }
    for path in ["/api/replication-analysis", "/api/aggregated-discovery-metrics", "/api/nothing"] {
        assert_eq!(scene.get(path).await.status, 404, "{path}");
    }
}

/// Every name of VTOrc that Prometheus may be told to look for.
const METRICS: &str = "analysis_change_write audit_write discoveries_attempt discoveries_fail \
    discoveries_instance_poll_seconds_exceeded instance_read instance_read_topology recoveries_count successful_recoveries \
    failed_recoveries skipped_recoveries planned_reparent_counts emergency_reparent_counts discoveries_queue_length \
    discoveries_recent_count discovery_workers discovery_workers_active pending_recoveries detected_problems \
    current_errant_gtid_count errant_gtid_tablet_count shard_locks_active tablets_watched_by_cell tablets_watched_by_shard \
    emergency_reparent_shard_disabled discovery_instance_timings shard_lock_timings reparent_shard_operation_timings";

#[tokio::test]
async fn prometheus_finds_every_name_of_vtorc() {
    let scene = Scene::start().await;
    let page = scene
        .until("/metrics", "a page", |answer| answer.body.contains(r#"vtorc_detected_problems{analysis="ErrantGTIDDetected"#))
        .await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let missing: Vec<&str> =
        METRICS.split_whitespace().filter(|name| !page.body.contains(&format!("# TYPE vtorc_{name} "))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for line in [
        r#"vtorc_detected_problems{analysis="ErrantGTIDDetected",keyspace="commerce",shard="0",tablet_alias="zone1-0000000101"} 1"#,
        r#"vtorc_current_errant_gtid_count{tablet_alias="zone1-0000000101"} 3"#,
        r#"vtorc_tablets_watched_by_cell{cell="zone1"} 2"#,
        r#"vtorc_tablets_watched_by_shard{keyspace="commerce",shard="0"} 3"#,
    ] {
        assert!(page.body.lines().any(|found| found == line), "{line}");
    }
}
