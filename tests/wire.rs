//! Our messages against the bytes of a running Vitess 24 (`fixtures/vitess24.json`) and against its message tables.

#![allow(clippy::unwrap_used, reason = "helpers of tests stand outside of test functions")]

use std::{collections::BTreeSet, fmt::Write};

use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message;
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, SerializeOptions};
use serde_json::Value;
use tonic::Code;
use vtelector::{
    pb::{self, query, replicationdata, tabletmanagerdata as data, topodata, vtctldata, vtorcdata, vttime},
    tablet::{TabletError, TabletErrorKind},
};

const RECORDED: &str = include_str!("fixtures/vitess24.json");
const MESSAGES: &str = include_str!("fixtures/vitess24-messages.txt");

fn recorded() -> Value {
    serde_json::from_str(RECORDED).unwrap()
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(pb::DESCRIPTORS).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// Decodes with the generated type and encodes again: the same bytes. Its descriptor says what the bytes mean: the recorded JSON.
fn check<M: Message + Default>(name: &str, recorded: &[u8], json: Option<&Value>) {
    let message = M::decode(recorded).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(message.encode_to_vec(), recorded, "{name} is not encoded as it was read");
    let mut dynamic = DynamicMessage::new(pool().get_message_by_name(name).unwrap());
    dynamic.transcode_from(&message).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let shown = dynamic.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    if let Some(json) = json {
        assert_eq!(&shown, json, "{name}");
    }
}

/// The same for request and answer of a recorded call.
fn check_call<Q: Message + Default, A: Message + Default>(call: &Value) {
    let method = call["method"].as_str().unwrap();
    check::<Q>(&format!("tabletmanagerdata.{method}Request"), &bytes(&call["request_base64"]), call.get("request"));
    if let Some(answer) = call.get("response_base64") {
        check::<A>(&format!("tabletmanagerdata.{method}Response"), &bytes(answer), call.get("response"));
    }
}

#[test]
fn every_recorded_call_is_read_and_written_as_it_was() {
    let recorded = recorded();
    let calls = recorded["rpc"].as_array().unwrap();
    for call in calls {
        match call["method"].as_str().unwrap() {
            "Ping" => check_call::<data::PingRequest, data::PingResponse>(call),
            "FullStatus" => check_call::<data::FullStatusRequest, data::FullStatusResponse>(call),
            "ReplicationStatus" => check_call::<data::ReplicationStatusRequest, data::ReplicationStatusResponse>(call),
            "PrimaryStatus" => check_call::<data::PrimaryStatusRequest, data::PrimaryStatusResponse>(call),
            "PrimaryPosition" => check_call::<data::PrimaryPositionRequest, data::PrimaryPositionResponse>(call),
            "ReadReparentJournalInfo" => {
                check_call::<data::ReadReparentJournalInfoRequest, data::ReadReparentJournalInfoResponse>(call);
            }
            "GetGlobalStatusVars" => check_call::<data::GetGlobalStatusVarsRequest, data::GetGlobalStatusVarsResponse>(call),
            "GetReplicas" => check_call::<data::GetReplicasRequest, data::GetReplicasResponse>(call),
            "StopReplicationAndGetStatus" => {
                check_call::<data::StopReplicationAndGetStatusRequest, data::StopReplicationAndGetStatusResponse>(call);
            }
            "StartReplication" => check_call::<data::StartReplicationRequest, data::StartReplicationResponse>(call),
            "WaitForPosition" => check_call::<data::WaitForPositionRequest, data::WaitForPositionResponse>(call),
            "SetReplicationSource" => {
                check_call::<data::SetReplicationSourceRequest, data::SetReplicationSourceResponse>(call);
            }
            "ExecuteFetchAsDba" => check_call::<data::ExecuteFetchAsDbaRequest, data::ExecuteFetchAsDbaResponse>(call),
            "DemotePrimary" => check_call::<data::DemotePrimaryRequest, data::DemotePrimaryResponse>(call),
            other => panic!("{other} is recorded but not checked"),
        }
    }
    assert_eq!(calls.len(), 48);
}

#[test]
fn every_recorded_topology_record_is_read_and_written_as_it_was() {
    let recorded = recorded();
    let mut checked = 0;
    for listing in ["etcd", "etcd_after_two_reparents"] {
        for (key, entry) in recorded[listing].as_object().unwrap() {
            let value = bytes(&entry["value_base64"]);
            match key.rsplit('/').next().unwrap() {
                "CellInfo" => check::<topodata::CellInfo>("topodata.CellInfo", &value, None),
                "Keyspace" => check::<topodata::Keyspace>("topodata.Keyspace", &value, None),
                "Shard" => check::<topodata::Shard>("topodata.Shard", &value, None),
                "ShardReplication" => check::<topodata::ShardReplication>("topodata.ShardReplication", &value, None),
                "SrvKeyspace" => check::<topodata::SrvKeyspace>("topodata.SrvKeyspace", &value, None),
                "Tablet" => check_tablet(&value),
                _ => continue,
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 24);
}

/// Vitess writes the entries of a map in random order, so the bytes may differ in that and in nothing else.
fn check_tablet(recorded: &[u8]) {
    let tablet = topodata::Tablet::decode(recorded).unwrap();
    let encoded = tablet.encode_to_vec();
    let sorted = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(&encoded), sorted(recorded));
    assert_eq!(topodata::Tablet::decode(&encoded[..]).unwrap(), tablet);
}

#[test]
fn every_recorded_error_means_what_it_says() {
    let recorded = recorded();
    let mut meanings = BTreeSet::new();
    for call in recorded["rpc"].as_array().unwrap().iter().filter(|call| call.get("code").is_some()) {
        let (code, text) = (call["code"].as_str().unwrap(), call["message"].as_str().unwrap());
        let code = match code {
            "UNKNOWN" => Code::Unknown,
            "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
            "INTERNAL" => Code::Internal,
            "UNAVAILABLE" => Code::Unavailable,
            other => panic!("code {other} is recorded but not known here"),
        };
        let method = call["method"].as_str().unwrap().to_owned().leak();
        let error = TabletError::answered(call["tablet"].as_str().unwrap().parse().unwrap(), method, code, text);
        assert!(!error.message.contains("TabletManager."), "{error}");
        meanings.insert(format!("{method} ({}): {:?}", call.get("note").map_or("", |note| note.as_str().unwrap()), error.kind));
    }
    use TabletErrorKind::*;
    let expected = [
        format!("DemotePrimary (mysqld killed): {MysqlDown:?}"),
        format!("FullStatus (mysqld killed 0.5 s ago): {MysqlDown:?}"),
        format!("FullStatus (replica whose mysqld is dead): {MysqlDown:?}"),
        format!("ReplicationStatus (): {NotReplica:?}"),
        format!("SetReplicationSource (unknown parent): {Failed:?}"),
        format!("StopReplicationAndGetStatus (on the primary): {NotReplica:?}"),
        format!("StopReplicationAndGetStatus (replica whose mysqld is dead): {MysqlDown:?}"),
        format!("WaitForPosition (bad position): {Failed:?}"),
        format!("WaitForPosition (never reached, 1 s): {UnknownOutcome:?}"),
    ];
    assert_eq!(meanings.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn all_messages_enums_and_calls_are_vitess_s() {
    let mut lines = BTreeSet::new();
    let pool = pool();
    // Our own API is nobody else's business.
    let is_vitess = |name: &str| !name.starts_with("vtelector");
    for message in pool.all_messages().filter(|message| !message.is_map_entry() && is_vitess(message.full_name())) {
        let fields: Vec<_> = message.fields().map(|f| format!(" {} {} {}", f.number(), f.name(), type_of(&f))).collect();
        let mut line = format!("message {}:{}", message.full_name(), fields.join(";"));
        let reserved: Vec<_> = message.reserved_ranges().flatten().map(|number| number.to_string()).collect();
        if !reserved.is_empty() {
            write!(line, " (reserved {})", reserved.join(", ")).unwrap();
        }
        lines.insert(line);
    }
    for kind in pool.all_enums().filter(|kind| is_vitess(kind.full_name())) {
        let mut values: Vec<_> = kind.values().map(|value| (value.number(), value.name().to_owned())).collect();
        values.sort();
        let values: Vec<_> = values.into_iter().map(|(number, name)| format!(" {number} {name}")).collect();
        lines.insert(format!("enum {}:{}", kind.full_name(), values.join(";")));
    }
    for service in pool.services().filter(|service| is_vitess(service.full_name())) {
        for call in service.methods() {
            let stream = if call.is_server_streaming() { "stream " } else { "" };
            let (request, answer) = (call.input(), call.output());
            let path = format!("/{}/{}", service.full_name(), call.name());
            lines.insert(format!("rpc {path}: {} -> {stream}{}", request.full_name(), answer.full_name()));
        }
    }
    let expected: BTreeSet<_> = MESSAGES.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let differing: Vec<_> = lines.symmetric_difference(&expected).collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

fn type_of(field: &FieldDescriptor) -> String {
    let single = match field.kind() {
        Kind::Message(message) if message.is_map_entry() => {
            let (key, value) = (type_of(&message.map_entry_key_field()), type_of(&message.map_entry_value_field()));
            return format!("map<{key}, {value}>");
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    match field.cardinality() {
        Cardinality::Repeated => format!("repeated {single}"),
        _ if field.field_descriptor_proto().proto3_optional() => format!("optional {single}"),
        _ => single,
    }
}

/// Field `number`, a varint of one byte.
fn varint(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

/// Field `number` below 16, with bytes in it.
fn nested(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

#[test]
fn semi_sync_has_its_own_number_in_every_request() {
    assert_eq!(data::ChangeTypeRequest { semi_sync: true, ..Default::default() }.encode_to_vec(), varint(2, 1));
    assert_eq!(data::StartReplicationRequest { semi_sync: true }.encode_to_vec(), varint(1, 1));
    assert_eq!(data::RestartReplicationRequest { semi_sync: true }.encode_to_vec(), varint(1, 1));
    assert_eq!(data::InitPrimaryRequest { semi_sync: true }.encode_to_vec(), varint(1, 1));
    assert_eq!(data::InitReplicaRequest { semi_sync: true, ..Default::default() }.encode_to_vec(), varint(4, 1));
    assert_eq!(data::UndoDemotePrimaryRequest { semi_sync: true }.encode_to_vec(), varint(1, 1));
    assert_eq!(data::SetReplicationSourceRequest { semi_sync: true, ..Default::default() }.encode_to_vec(), varint(5, 1));
    assert_eq!(data::PromoteReplicaRequest { semi_sync: true }.encode_to_vec(), varint(1, 1));
}

#[test]
fn answers_stand_behind_retired_numbers() {
    let primary = replicationdata::PrimaryStatus { position: "p".to_owned(), ..Default::default() };
    let demoted = data::DemotePrimaryResponse { primary_status: Some(primary) };
    assert_eq!(demoted.encode_to_vec(), nested(2, &nested(1, b"p")));
    let before = replicationdata::StopReplicationStatus { before: Some(Default::default()), after: None };
    let stopped = data::StopReplicationAndGetStatusResponse { status: Some(before) };
    assert_eq!(stopped.encode_to_vec(), nested(2, &nested(1, b"")));
    let workflow = data::ReadVReplicationWorkflowResponse { workflow: "w".to_owned(), ..Default::default() };
    assert_eq!(workflow.encode_to_vec(), nested(2, b"w"));
    let alias = topodata::CellsAlias { cells: vec!["zone1".to_owned()] };
    assert_eq!(alias.encode_to_vec(), nested(2, b"zone1"));
    let threads = replicationdata::Status { io_state: 3, sql_state: 2, ..Default::default() };
    assert_eq!(threads.encode_to_vec(), [varint(13, 3), varint(15, 2)].concat());
}

#[test]
fn records_have_gaps_in_their_numbers() {
    let time = |seconds| Some(vttime::Time { seconds, nanoseconds: 0 });
    let tablet = topodata::Tablet {
        mysql_hostname: "h".to_owned(),
        mysql_port: 33,
        primary_term_start_time: time(14),
        default_conn_collation: 45,
        tablet_start_time: time(17),
        tablet_shutdown_time: time(18),
        ..Default::default()
    };
    // Numbers from 16 on take two bytes: 16 = 0x80 0x01 (varint), 17 and 18 = 0x8a 0x01 and 0x92 0x01 (bytes).
    let late = [&[0x80, 0x01, 45][..], &[0x8a, 0x01, 2, 8, 17], &[0x92, 0x01, 2, 8, 18]].concat();
    assert_eq!(tablet.encode_to_vec(), [nested(12, b"h"), varint(13, 33), nested(14, &varint(1, 14)), late].concat());

    let switch = vtorcdata::Shard { disable_emergency_reparent: true };
    let shard = topodata::Shard {
        is_primary_serving: true,
        primary_term_start_time: time(8),
        vtorc_state: Some(switch),
        ..Default::default()
    };
    assert_eq!(shard.encode_to_vec(), [varint(7, 1), nested(8, &varint(1, 8)), nested(9, &varint(1, 1))].concat());

    let switch = vtorcdata::Keyspace { disable_emergency_reparent: true };
    let keyspace = topodata::Keyspace {
        keyspace_type: topodata::KeyspaceType::Snapshot.into(),
        durability_policy: "none".to_owned(),
        vtorc_state: Some(switch),
        ..Default::default()
    };
    assert_eq!(keyspace.encode_to_vec(), [varint(5, 1), nested(8, b"none"), nested(11, &varint(1, 1))].concat());
    assert_eq!(topodata::Keyspace::default().encode_to_vec(), b"", "an empty value is a record");
}

#[test]
fn names_that_differ_among_neighbours_stand_for_the_right_numbers() {
    assert_eq!(vttime::Time { seconds: 1, nanoseconds: 2 }.encode_to_vec(), [varint(1, 1), varint(2, 2)].concat());
    assert_eq!(vttime::Duration { seconds: 1, nanos: 2 }.encode_to_vec(), [varint(1, 1), varint(2, 2)].concat());
    let shard = vtctldata::GetShardRequest { shard_name: "0".to_owned(), ..Default::default() };
    assert_eq!(shard.encode_to_vec(), nested(2, b"0"));
    let switch = vtctldata::SetVtorcEmergencyReparentRequest { disable: true, ..Default::default() };
    assert_eq!(switch.encode_to_vec(), varint(3, 1));
    let tablets = vtctldata::GetTabletsRequest { tablet_type: 1, ..Default::default() };
    assert_eq!(tablets.encode_to_vec(), varint(6, 1));
    let row = query::Row { lengths: vec![1, -1], values: b"x".to_vec() };
    assert_eq!(row.encode_to_vec(), [nested(1, &[2, 1]), nested(2, b"x")].concat(), "lengths are zigzag, -1 is NULL");
}

#[test]
fn old_names_of_tablet_types_are_read() {
    use topodata::TabletType;
    for (name, kind) in [("MASTER", TabletType::Primary), ("PRIMARY", TabletType::Primary), ("REPLICA", TabletType::Replica)] {
        let value = pool().get_enum_by_name("topodata.TabletType").unwrap().get_value_by_name(name).unwrap().number();
        assert_eq!(value, i32::from(kind), "{name}");
    }
    assert_eq!(TabletType::try_from(3), Ok(TabletType::Rdonly), "3 is RDONLY, also under its old name BATCH");
    let unknown = topodata::Tablet::decode(&varint(8, 99)[..]).unwrap();
    assert_eq!(unknown.r#type, 99, "a type of a newer release is kept");
}
