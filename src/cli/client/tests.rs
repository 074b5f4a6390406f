//! Every command against a server: what it sends, what it prints.

mod elector;
mod inspect;
mod operate;

use std::time::Duration;

use clap::Parser;
use prost::Message;
use prost_reflect::DescriptorPool;
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};

use super::*;
use crate::tablet::tests::fake::{Answer as Fake, FakeTablet};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: ClientCommand,
}

async fn ask(server: &str, line: &str) -> Result<Answer, ClientError> {
    let words = ["vtelector"].into_iter().chain(line.split_whitespace());
    let command = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).command;
    let connection = Connection { server: server.to_owned(), ..call::connection(&command).clone() };
    answer(&connection, command).await
}

fn refused_by_parser(line: &str) -> String {
    match Line::try_parse_from(["vtelector"].into_iter().chain(line.split_whitespace())) {
        Ok(_) => panic!("{line} was accepted"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{line}");
            error.to_string()
        }
    }
}

/// A message of vtctld's calls from JSON.
fn message(name: &str, json: &str) -> Vec<u8> {
    message_of("vtctldata", name, json)
}

fn message_of(package: &str, name: &str, json: &str) -> Vec<u8> {
    let kind = DescriptorPool::decode(pb::DESCRIPTORS).unwrap().get_message_by_name(&format!("{package}.{name}")).unwrap();
    let mut reader = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(kind, &mut reader).unwrap_or_else(|error| panic!("{name} {json}: {error}")).encode_to_vec()
}

/// Command line, call, request, answer, what is printed.
type Story = (&'static str, &'static str, &'static str, &'static str, &'static str);

const ALIAS: &str = r#"{"tablet_alias": {"cell": "zone1", "uid": 101}}"#;
const SHARD: &str = r#"{"keyspace": "ks", "shard": "0"}"#;

const REPARENTS: [Story; 7] = [
    (
        "planned-reparent-shard ks/0 --new-primary zone1-102 --avoid-primary zone1-101 --expected-primary zone1-101 \
         --wait-replicas-timeout 1m30s --tolerable-replication-lag 1500ms --allow-cross-cell-promotion",
        "PlannedReparentShard",
        r#"{"keyspace": "ks", "shard": "0", "new_primary": {"cell": "zone1", "uid": 102},
            "avoid_primary": {"cell": "zone1", "uid": 101}, "expected_primary": {"cell": "zone1", "uid": 101},
            "wait_replicas_timeout": {"seconds": "90"}, "tolerable_replication_lag": {"seconds": "1", "nanos": 500000000},
            "allow_cross_cell_promotion": true}"#,
        r#"{"keyspace": "ks", "shard": "0", "promoted_primary": {"cell": "zone1", "uid": 102},
            "events": [{"time": {"seconds": "1760000000"}, "value": "demoted zone1-0000000101"}]}"#,
        "2025-10-09T08:53:20.000Z  demoted zone1-0000000101\nks/0: zone1-0000000102 is primary",
    ),
    (
        "PlannedReparentShard ks/-8A",
        "PlannedReparentShard",
        r#"{"keyspace": "ks", "shard": "-8a", "wait_replicas_timeout": {"seconds": "15"}, "tolerable_replication_lag": {}}"#,
        r#"{"keyspace": "ks", "shard": "-8a"}"#,
        "ks/-8a: nothing to do",
    ),
    (
        "emergency-reparent-shard ks/0 --new-primary zone1-102 --ignore-replicas zone1-103,zone1-104 -i zone2-7 \
         --expected-primary zone1-101 --wait-replicas-timeout 1m30s --prevent-cross-cell-promotion --wait-for-all-tablets",
        "EmergencyReparentShard",
        r#"{"keyspace": "ks", "shard": "0", "new_primary": {"cell": "zone1", "uid": 102}, "ignore_replicas":
            [{"cell": "zone1", "uid": 103}, {"cell": "zone1", "uid": 104}, {"cell": "zone2", "uid": 7}],
            "wait_replicas_timeout": {"seconds": "90"}, "prevent_cross_cell_promotion": true, "wait_for_all_tablets": true,
            "expected_primary": {"cell": "zone1", "uid": 101}}"#,
        r#"{"keyspace": "ks", "shard": "0", "promoted_primary": {"cell": "zone1", "uid": 102}, "events":
            [{"time": {"seconds": "1760000000"}, "level": "WARNING", "value": "zone1-0000000101 is not fenced"}]}"#,
        "2025-10-09T08:53:20.000Z  WARNING: zone1-0000000101 is not fenced\nks/0: zone1-0000000102 is primary",
    ),
    (
        "EmergencyReparentShard ks/0",
        "EmergencyReparentShard",
        r#"{"keyspace": "ks", "shard": "0", "wait_replicas_timeout": {"seconds": "15"}}"#,
        r#"{"keyspace": "ks", "shard": "0", "promoted_primary": {"cell": "zone1", "uid": 102}}"#,
        "ks/0: zone1-0000000102 is primary",
    ),
    (
        "init-shard-primary ks/0 zone1-101 --force",
        "InitShardPrimary",
        r#"{"keyspace": "ks", "shard": "0", "primary_elect_tablet_alias": {"cell": "zone1", "uid": 101}, "force": true,
            "wait_replicas_timeout": {"seconds": "30"}}"#,
        r#"{"events": [{"value": "done"}]}"#,
        "-  done\n",
    ),
    (
        "reparent-tablet zone1-101",
        "ReparentTablet",
        r#"{"tablet": {"cell": "zone1", "uid": 101}}"#,
        r#"{"keyspace": "ks", "shard": "0", "primary": {"cell": "zone1", "uid": 102}}"#,
        "ks/0: follows zone1-0000000102",
    ),
    (
        "set-vtorc-emergency-reparent ks 0 --disable",
        "SetVtorcEmergencyReparent",
        r#"{"keyspace": "ks", "shard": "0", "disable": true}"#,
        "{}",
        "ks/0: automatic emergency reparents are forbidden",
    ),
];

const TOPOLOGY: [Story; 15] = [
    ("get-cell-info-names", "GetCellInfoNames", "{}", r#"{"names": ["zone1", "zone2"]}"#, "zone1\nzone2"),
    (
        "get-cell-info zone1",
        "GetCellInfo",
        r#"{"cell": "zone1"}"#,
        r#"{"cell_info": {"server_address": "h:2379", "root": "/vitess/zone1"}}"#,
        "server address  h:2379\nroot            /vitess/zone1",
    ),
    (
        "add-cell-info zone2 -a h:2379 --root /vitess/zone2",
        "AddCellInfo",
        r#"{"name": "zone2", "cell_info": {"server_address": "h:2379", "root": "/vitess/zone2"}}"#,
        "{}",
        "cell zone2 is registered",
    ),
    (
        "create-keyspace ks --durability-policy semi_sync -f",
        "CreateKeyspace",
        r#"{"name": "ks", "force": true, "durability_policy": "semi_sync", "sidecar_db_name": "_vt"}"#,
        "{}",
        "keyspace ks is there",
    ),
    (
        "CreateKeyspace old --type SNAPSHOT --base-keyspace ks --snapshot-timestamp 2025-10-09T08:53:20Z -e",
        "CreateKeyspace",
        r#"{"name": "old", "durability_policy": "none", "sidecar_db_name": "_vt", "allow_empty_v_schema": true,
            "type": "SNAPSHOT", "base_keyspace": "ks", "snapshot_time": {"seconds": "1760000000"}}"#,
        "{}",
        "keyspace old is there",
    ),
    (
        "create-shard ks/-80 -p",
        "CreateShard",
        r#"{"keyspace": "ks", "shard_name": "-80", "include_parent": true}"#,
        "{}",
        "shard ks/-80 is there",
    ),
    (
        "get-keyspaces",
        "GetKeyspaces",
        "{}",
        r#"{"keyspaces": [{"name": "ks", "keyspace": {"durability_policy": "semi_sync", "vtorc_state":
            {"disable_emergency_reparent": true}}}]}"#,
        "KEYSPACE  DURABILITY  KIND    SIDECAR  EMERGENCY REPARENTS\nks        semi_sync   normal  -        forbidden",
    ),
    (
        "get-keyspace ks",
        "GetKeyspace",
        r#"{"keyspace": "ks"}"#,
        r#"{"keyspace": {"name": "ks", "keyspace": {}}}"#,
        "KEYSPACE  DURABILITY  KIND    SIDECAR  EMERGENCY REPARENTS\nks        -           normal  -        allowed",
    ),
    (
        "find-all-shards-in-keyspace ks",
        "FindAllShardsInKeyspace",
        r#"{"keyspace": "ks"}"#,
        r#"{"shards": {"0": {"keyspace": "ks", "name": "0", "shard": {"primary_alias": {"cell": "zone1", "uid": 101},
            "primary_term_start_time": {"seconds": "1760000000"}, "is_primary_serving": true}}}}"#,
        "SHARD  PRIMARY           SINCE                     SERVING  EMERGENCY REPARENTS\n\
         ks/0   zone1-0000000101  2025-10-09T08:53:20.000Z  yes      allowed",
    ),
    (
        "get-shard ks/0",
        "GetShard",
        r#"{"keyspace": "ks", "shard_name": "0"}"#,
        r#"{"shard": {"keyspace": "ks", "name": "0", "shard": {}}}"#,
        "SHARD  PRIMARY  SINCE  SERVING  EMERGENCY REPARENTS\nks/0   -        -      no       allowed",
    ),
    (
        "get-shard-replication ks/0 zone1 zone2",
        "GetShardReplication",
        r#"{"keyspace": "ks", "shard": "0", "cells": ["zone1", "zone2"]}"#,
        r#"{"shard_replication_by_cell": {"zone1": {"nodes": [{"tablet_alias": {"cell": "zone1", "uid": 101}}]}}}"#,
        "CELL   TABLETS\nzone1  zone1-0000000101",
    ),
    (
        "set-keyspace-durability-policy ks --durability-policy=cross_cell",
        "SetKeyspaceDurabilityPolicy",
        r#"{"keyspace": "ks", "durability_policy": "cross_cell"}"#,
        "{}",
        "keyspace ks: durability policy cross_cell",
    ),
    (
        "get-topology-path /global --version 7 --data-as-json",
        "GetTopologyPath",
        r#"{"path": "/global", "version": "7", "as_json": true}"#,
        r#"{"cell": {"path": "/global", "children": ["cells", "keyspaces"]}}"#,
        "cells\nkeyspaces",
    ),
    (
        "GetTopologyPath /global/cells/zone1/CellInfo",
        "GetTopologyPath",
        r#"{"path": "/global/cells/zone1/CellInfo"}"#,
        r#"{"cell": {"data": "root: \"/v\""}}"#,
        "root: \"/v\"",
    ),
    (
        "validate-shard ks/0 --ping-tablets",
        "ValidateShard",
        r#"{"keyspace": "ks", "shard": "0", "ping_tablets": true}"#,
        "{}",
        "nothing wrong",
    ),
];

const TABLETS: [Story; 13] = [
    (
        "get-tablets -k ks -s 0 --cell zone1,zone2 -c zone3 --tablet-type PRIMARY --strict",
        "GetTablets",
        r#"{"keyspace": "ks", "shard": "0", "cells": ["zone1", "zone2", "zone3"], "strict": true, "tablet_type": "PRIMARY"}"#,
        r#"{"tablets": [{"alias": {"cell": "zone1", "uid": 101}, "hostname": "h1", "port_map": {"grpc": 15001},
            "mysql_hostname": "m1", "mysql_port": 3306, "keyspace": "ks", "shard": "0", "type": "PRIMARY"}]}"#,
        "TABLET            SHARD  TYPE     ADDRESS   MYSQL    PRIMARY SINCE\n\
         zone1-0000000101  ks/0   primary  h1:15001  m1:3306  -",
    ),
    (
        "get-tablets -t zone1-101,zone1-102 --tablet_alias zone2-7",
        "GetTablets",
        r#"{"tablet_aliases": [{"cell": "zone1", "uid": 101}, {"cell": "zone1", "uid": 102}, {"cell": "zone2", "uid": 7}]}"#,
        "{}",
        "TABLET  SHARD  TYPE  ADDRESS  MYSQL  PRIMARY SINCE",
    ),
    (
        "get-tablet zone1-101",
        "GetTablet",
        ALIAS,
        r#"{"tablet": {"alias": {"cell": "zone1", "uid": 101}, "keyspace": "ks", "shard": "0", "type": "REPLICA",
            "tags": {"pool": "a"}}}"#,
        "tablet         zone1-0000000101\nshard          ks/0\ntype           replica\naddress        -\nmysql          -\n\
         primary since  -\nstarted        -\nshut down      -\ntags           pool=a",
    ),
    (
        "delete-tablets zone1-101 zone1-102 --allow-primary",
        "DeleteTablets",
        r#"{"tablet_aliases": [{"cell": "zone1", "uid": 101}, {"cell": "zone1", "uid": 102}], "allow_primary": true}"#,
        "{}",
        "deleted: zone1-0000000101, zone1-0000000102",
    ),
    ("ping-tablet zone1-101", "PingTablet", ALIAS, "{}", "zone1-0000000101 answers"),
    ("refresh-state zone1-101", "RefreshState", ALIAS, "{}", "zone1-0000000101 has read its records"),
    ("run-health-check zone1-101", "RunHealthCheck", ALIAS, "{}", "zone1-0000000101 tells its health"),
    ("start-replication zone1-101", "StartReplication", ALIAS, "{}", "zone1-0000000101 replicates"),
    ("stop-replication zone1-101", "StopReplication", ALIAS, "{}", "replication is stopped on zone1-0000000101"),
    (
        "set-writable zone1-101 true",
        "SetWritable",
        r#"{"tablet_alias": {"cell": "zone1", "uid": 101}, "writable": true}"#,
        "{}",
        "zone1-0000000101 is writable",
    ),
    ("SetWritable zone1-101 false", "SetWritable", ALIAS, "{}", "zone1-0000000101 is read-only"),
    (
        "change-tablet-type zone1-101 DRAINED --dry-run",
        "ChangeTabletType",
        r#"{"tablet_alias": {"cell": "zone1", "uid": 101}, "db_type": "DRAINED", "dry_run": true}"#,
        r#"{"before_tablet": {"alias": {"cell": "zone1", "uid": 101}, "type": "REPLICA"}, "after_tablet":
            {"alias": {"cell": "zone1", "uid": 101}, "type": "DRAINED"}, "was_dry_run": true}"#,
        "zone1-0000000101: replica -> drained (nothing was changed)",
    ),
    (
        "shard-replication-positions ks/0",
        "ShardReplicationPositions",
        SHARD,
        r#"{"replication_statuses": {"zone1-0000000101": {"position": "MySQL56/a:1", "io_state": 3, "sql_state": 1}},
            "tablet_map": {"zone1-0000000101": {"type": "REPLICA"}}}"#,
        "TABLET            TYPE     IO       SQL      LAG  POSITION\n\
         zone1-0000000101  replica  running  stopped  0 s  MySQL56/a:1",
    ),
];

async fn play(stories: &[Story]) {
    let server = FakeTablet::start().await;
    let address = server.address.to_string();
    for &(line, call, request, reply, printed) in stories {
        server.answer(Fake::Message(message(&format!("{call}Response"), reply)));
        // The program puts underscores into dashes before the parser sees them.
        let answer =
            ask(&address, &line.replace("--tablet_", "--tablet-")).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        let sent = server.received().pop().unwrap();
        assert_eq!(sent.path, format!("/vtctlservice.Vtctld/{call}"), "{line}");
        assert_eq!(sent.message, message(&format!("{call}Request"), request), "{line}");
        assert_eq!(answer.words, printed, "{line}");
        assert_eq!(answer.verdict, Verdict::Well, "{line}");
    }
}

#[tokio::test]
async fn reparents_are_asked_for_and_told() {
    play(&REPARENTS).await;
}

#[tokio::test]
async fn the_topology_is_asked_for_and_told() {
    play(&TOPOLOGY).await;
}

#[tokio::test]
async fn tablets_are_asked_for_and_told() {
    play(&TABLETS).await;
}

#[tokio::test]
async fn a_full_status_shows_what_a_reparent_hangs_on() {
    let server = FakeTablet::start().await;
    let reply = r#"{"status": {"server_uuid": "u", "tablet_type": "REPLICA", "super_read_only": true, "read_only": true,
        "replication_status": {"source_host": "h", "source_port": 3306, "io_state": 2, "sql_state": 3,
        "replication_lag_unknown": true, "last_io_error": "refused"}}}"#;
    server.answer(Fake::Message(message("GetFullStatusResponse", reply)));
    let words = ask(&server.address.to_string(), "get-full-status zone1-101").await.unwrap().words;
    for line in [
        "read_only             yes, super yes",
        "source                h:3306",
        "threads               io connecting, sql running",
        "lag                   unknown",
        "last errors           refused",
    ] {
        assert!(words.lines().any(|shown| shown == line), "{line} is missing:\n{words}");
    }
}

#[tokio::test]
async fn json_has_the_protos_names_and_shows_what_is_false() {
    let server = FakeTablet::start().await;
    server.answer(Fake::Message(message("GetShardResponse", r#"{"shard": {"keyspace": "ks", "name": "0", "shard": {}}}"#)));
    let json = ask(&server.address.to_string(), "get-shard ks/0 --json").await.unwrap().json().unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let shard = &json["shard"];
    assert_eq!((&shard["keyspace"], &shard["shard"]["is_primary_serving"]), (&"ks".into(), &false.into()));
}

#[tokio::test]
async fn findings_are_seen_by_the_exit_code() {
    let server = FakeTablet::start().await;
    server.answer(Fake::Message(message("ValidateShardResponse", r#"{"results": ["two primaries"]}"#)));
    let answer = ask(&server.address.to_string(), "validate-shard ks/0").await.unwrap();
    assert_eq!(answer.verdict, Verdict::Finding);
    assert_eq!(answer.words, "two primaries");
}

#[tokio::test]
async fn the_server_learns_how_long_we_wait() {
    let server = FakeTablet::start().await;
    ask(&server.address.to_string(), "get-keyspaces --timeout 1m").await.unwrap();
    let sent = server.received().pop().unwrap().headers["grpc-timeout"].to_str().unwrap().to_owned();
    let (number, unit) = sent.split_at(sent.len() - 1);
    let per_second = match unit {
        "n" => 1e9,
        "u" => 1e6,
        "m" => 1e3,
        _ => 1.0,
    };
    let seconds = number.parse::<f64>().unwrap() / per_second;
    assert!((50.0..=60.0).contains(&seconds), "{sent}");
}

#[tokio::test]
async fn a_failure_says_what_happened_and_what_to_do() {
    let server = FakeTablet::start().await;
    let address = server.address.to_string();
    server.answer(Fake::Status(Status::failed_precondition("zone1-0000000102 lags 25s")));
    let error = ask(&address, "planned-reparent-shard ks/0").await.err().unwrap();
    assert_eq!(error.to_string(), "FailedPrecondition: zone1-0000000102 lags 25s");

    server.answer(Fake::Silence);
    let error = ask(&address, "planned-reparent-shard ks/0 --timeout 300ms").await.err().unwrap().to_string();
    assert!(
        error.starts_with(&format!("no answer from {address} within 300ms; what was asked may still be carried out")),
        "{error}"
    );
    server.stop().await;

    let error = ask(&address, "get-keyspaces").await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("cannot reach {address}: ")) && error.contains("refused"), "{error}");
    let error = ask("not an address", "get-keyspaces").await.err().unwrap();
    assert!(matches!(error, ClientError::Usage(_)), "{error}");
}

#[tokio::test]
async fn a_server_killed_in_mid_call_leaves_the_outcome_open() {
    let server = FakeTablet::start().await;
    let address = server.address.to_string();
    server.answer(Fake::Silence);
    let kill = async {
        server.has_received(1).await;
        server.stop().await;
    };
    let (result, ()) = tokio::join!(ask(&address, "planned-reparent-shard ks/0 --timeout 20s"), kill);
    let error = result.err().unwrap();
    assert!(matches!(error, ClientError::Lost { .. }) && error.to_string().contains("look before repeating it"), "{error}");
}

#[tokio::test]
async fn what_is_no_grpc_server_does_not_hang_us() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let limit = Duration::from_secs(10);
    let result = tokio::time::timeout(limit, ask(&address, "get-keyspaces --timeout 8s")).await;
    let error = result.expect("it hangs").err().unwrap();
    assert!(matches!(error, ClientError::Lost { .. } | ClientError::Connect { .. }), "{error}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    for (line, words) in [
        ("get-tablet zone1", "CELL-UID"),
        ("get-shard commerce", "KEYSPACE/SHARD"),
        ("planned-reparent-shard ks/0 --wait-replicas-timeout 15", "duration"),
        ("change-tablet-type zone1-101 main", "possible values"),
        ("get-tablets --shard 0", "--keyspace"),
        ("set-vtorc-emergency-reparent ks", "--enable"),
        ("set-vtorc-emergency-reparent ks -e -d", "cannot be used with"),
        ("delete-tablets", "ALIAS"),
        ("add-cell-info zone1", "--root"),
        ("create-keyspace ks --type snapshot", "--base-keyspace"),
        ("set-writable zone1-101 maybe", "true, false"),
        ("emergency-reparent-shard ks/0 --ignore-replicas zone1-101,zone1", "CELL-UID"),
        ("emergency-reparent-shard ks/0 --choose-side", "--new-primary"),
        ("emergency-reparent-shard ks/0 --accept-loss=", "--accept-loss"),
        ("emergency-reparent-shard ks", "KEYSPACE/SHARD"),
        ("errant-gtids ks/", "shard"),
        ("errant-gtids a:b", "keyspace name"),
    ] {
        let error = refused_by_parser(line);
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn every_command_is_played_and_is_known_by_vtctldclients_name() {
    let command = <ClientCommand as Subcommand>::augment_subcommands(clap::Command::new("vtelector"));
    let played: Vec<&str> =
        REPARENTS.iter().chain(&TOPOLOGY).chain(&TABLETS).map(|story| story.1).chain(["GetFullStatus", "ErrantGtids"]).collect();
    // What vtctldclient has no command for is played in `operate`.
    let own = [
        "shards",
        "explain",
        "commands",
        "problems",
        "decisions",
        "history",
        "acknowledge",
        "maintenance",
        "recoveries",
        "status",
        "events",
    ];
    for subcommand in command.get_subcommands().filter(|subcommand| !own.contains(&subcommand.get_name())) {
        let camel: Vec<&str> = subcommand.get_all_aliases().collect();
        assert!(camel.iter().any(|name| played.contains(name)), "{} ({camel:?}) is not played", subcommand.get_name());
    }
    assert_eq!(command.get_subcommands().count(), 31 + own.len());
}
