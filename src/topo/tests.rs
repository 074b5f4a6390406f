//! Bytes of real clusters, decoded and written back.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;

use super::{KvEntry, ShardId, Topo, TopoError, queue::Identity, records::*, unknown::keep_unknown};
use crate::pb::{topodata, vttime};

const RECORDED: &str = include_str!("../../tests/fixtures/vitess24.json");

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = text.bytes().filter(|byte| *byte != b'=').map(|byte| alphabet.iter().position(|a| *a == byte).unwrap());
    let (mut bytes, mut bits, mut len) = (Vec::new(), 0usize, 0);
    for sextet in sextets {
        (bits, len) = (bits << 6 | sextet, len + 6);
        if len >= 8 {
            len -= 8;
            bytes.push((bits >> len & 0xff) as u8);
        }
    }
    bytes
}

/// The top-level fields of a message, in an order that does not depend on that of its maps.
fn sorted_fields(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = super::unknown::split(bytes).unwrap().iter().map(|field| field.whole.to_vec()).collect();
    fields.sort();
    fields
}

/// Decodes, encodes, compares with the original; then the same with fields that nobody knows.
fn there_and_back<T: Record>(key: &str, bytes: &[u8]) -> T {
    let record = T::decode(bytes).unwrap_or_else(|error| panic!("{key}: {error}"));
    assert_eq!(sorted_fields(&record.encode_to_vec()), sorted_fields(bytes), "{key}");
    let later = [bytes, &hex("fa3f03787878"), &hex("f83f01")].concat();
    let kept = keep_unknown(T::MESSAGE, &later, &record.encode_to_vec()).unwrap();
    assert_eq!(sorted_fields(&kept), sorted_fields(&later), "{key}");
    record
}

fn any_record(key: &str, bytes: &[u8]) {
    match key.rsplit('/').next().unwrap() {
        "CellInfo" => drop(there_and_back::<topodata::CellInfo>(key, bytes)),
        "Keyspace" => drop(there_and_back::<topodata::Keyspace>(key, bytes)),
        "Shard" => drop(there_and_back::<topodata::Shard>(key, bytes)),
        "ShardReplication" => drop(there_and_back::<topodata::ShardReplication>(key, bytes)),
        "SrvKeyspace" => drop(there_and_back::<topodata::SrvKeyspace>(key, bytes)),
        "Tablet" => drop(there_and_back::<topodata::Tablet>(key, bytes)),
        // Routing is not ours: these are never decoded nor written.
        "VSchema" | "SrvVSchema" => {}
        other => panic!("{key}: what is a {other}?"),
    }
}

fn recorded(section: &str) -> BTreeMap<String, Vec<u8>> {
    let json: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
    let entries = json[section].as_object().unwrap().iter();
    entries.map(|(key, entry)| (key.clone(), base64(entry["value_base64"].as_str().unwrap()))).collect()
}

#[test]
fn every_recorded_value_is_decoded_and_encoded_to_the_same_bytes() {
    for section in ["etcd", "etcd_after_two_reparents"] {
        let entries = recorded(section);
        assert_eq!(entries.len(), 15);
        entries.iter().for_each(|(key, bytes)| any_record(key, bytes));
    }
}

/// The worked example of the facts: commerce/0 with tablets 100 to 102 in zone1.
#[test]
fn the_worked_example_has_these_values() {
    let alias = |uid| Some(topodata::TabletAlias { cell: "zone1".into(), uid });
    let term = vttime::Time { seconds: 1_760_000_000, nanoseconds: 123_456_789 };

    let cell: topodata::CellInfo =
        there_and_back("CellInfo", &hex("0a0e6c6f63616c686f73743a32333739120d2f7669746573732f7a6f6e6531"));
    assert_eq!((cell.server_address.as_str(), cell.root.as_str()), ("localhost:2379", "/vitess/zone1"));

    let keyspace: topodata::Keyspace = there_and_back("Keyspace", &hex("420973656d695f73796e6352035f7674"));
    assert_eq!((keyspace.durability_policy.as_str(), keyspace.sidecar_db_name.as_str()), ("semi_sync", "_vt"));
    let keyspace: topodata::Keyspace = there_and_back("Keyspace", &hex("52035f7674"));
    assert_eq!((keyspace.durability_policy.as_str(), keyspace.sidecar_db_name.as_str()), ("", "_vt"));
    let keyspace: topodata::Keyspace = there_and_back("Keyspace", &hex("420973656d695f73796e6352035f76745a020801"));
    assert!(keyspace.vtorc_state.unwrap().disable_emergency_reparent);

    let shard: topodata::Shard = there_and_back("Shard", &hex("3801"));
    assert_eq!(shard, topodata::Shard { is_primary_serving: true, ..Default::default() });
    let shard: topodata::Shard = there_and_back("Shard", &hex("0a090a057a6f6e653110643801420b0880f09dc70610959aef3a"));
    assert_eq!((shard.primary_alias, shard.primary_term_start_time), (alias(100), Some(term)));

    let primary = "0a090a057a6f6e653110641205686f73743122090a046772706310e47d22070a02767410fc752a08636f6d6d6572636532013040016205686f73743168cc8501720b0880f09dc70610959aef3a8001ff018a01060898e89dc706";
    let tablet: topodata::Tablet = there_and_back("Tablet", &hex(primary));
    let ports = BTreeMap::from([("grpc".to_owned(), 16100), ("vt".to_owned(), 15100)]);
    let expected = topodata::Tablet {
        alias: alias(100),
        hostname: "host1".into(),
        port_map: ports,
        keyspace: "commerce".into(),
        shard: "0".into(),
        r#type: topodata::TabletType::Primary.into(),
        mysql_hostname: "host1".into(),
        mysql_port: 17100,
        primary_term_start_time: Some(term),
        default_conn_collation: 255,
        tablet_start_time: Some(vttime::Time { seconds: 1_759_999_000, nanoseconds: 0 }),
        ..Default::default()
    };
    assert_eq!(tablet, expected);
    assert_eq!(tablet.encode_to_vec(), hex(primary), "our maps are sorted, as in the example");
    for (bytes, uid, kind) in [
        (
            "0a090a057a6f6e653110651205686f73743122090a046772706310e57d22070a02767410fd752a08636f6d6d6572636532013040026205686f73743168cd85018001ff018a01060898e89dc706",
            101,
            topodata::TabletType::Replica,
        ),
        (
            "0a090a057a6f6e653110661205686f73743122090a046772706310e67d22070a02767410fe752a08636f6d6d6572636532013040036205686f73743168ce85018001ff018a01060898e89dc706",
            102,
            topodata::TabletType::Rdonly,
        ),
    ] {
        let tablet: topodata::Tablet = there_and_back("Tablet", &hex(bytes));
        assert_eq!((tablet.alias.clone(), tablet.r#type(), tablet.primary_term_start_time), (alias(uid), kind, None));
    }

    let graph: topodata::ShardReplication = there_and_back(
        "ShardReplication",
        &hex("0a0b0a090a057a6f6e653110640a0b0a090a057a6f6e653110650a0b0a090a057a6f6e65311066"),
    );
    assert_eq!(graph.nodes.iter().map(|node| node.tablet_alias.clone().unwrap().uid).collect::<Vec<_>>(), [100, 101, 102]);
    let serving: topodata::SrvKeyspace =
        there_and_back("SrvKeyspace", &hex("0a07080112030a01300a07080212030a01300a07080312030a0130"));
    assert_eq!(serving.partitions.len(), 3);
    assert_eq!(topodata::TabletAlias { cell: "zone1".into(), uid: 100 }.encode_to_vec(), hex("0a057a6f6e65311064"));
}

#[test]
fn a_recorded_lock_is_what_we_would_write() {
    let json: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
    let locks = json["locks"].as_array().unwrap();
    assert_eq!(locks.len(), 2);
    for lock in locks {
        let bytes = base64(lock["value_base64"].as_str().unwrap());
        let contents: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let text = |key: &str| contents[key].as_str().unwrap().to_owned();
        let time: jiff::Timestamp = text("Time").parse().unwrap();
        let ours = Identity { host: text("HostName"), user: text("UserName") };
        let written = ours.lock_contents(&text("Action"), &time.to_zoned(jiff::tz::TimeZone::UTC));
        assert_eq!(written.as_bytes(), bytes, "{written}");
    }
}

#[test]
fn a_lock_escapes_as_go_does_and_tells_the_local_time() {
    let me = Identity { host: "h\"<&>\u{2028}".into(), user: "ü\t\u{1}".into() };
    let time: jiff::Zoned = "2026-01-02T03:04:05.678+05:30[+05:30]".parse().unwrap();
    assert_eq!(
        me.lock_contents("a\nb", &time),
        "{\n  \"Action\": \"a\\nb\",\n  \"HostName\": \"h\\\"\\u003c\\u0026\\u003e\\u2028\",\n  \"UserName\": \"ü\\t\\u0001\",\n  \
         \"Time\": \"2026-01-02T03:04:05+05:30\",\n  \"Options\": {},\n  \"Status\": \"Running\"\n}"
    );
}

/// A future that is not `Send` is noticed here and not by whoever spawns it.
#[tokio::test]
async fn every_operation_may_move_between_threads() {
    fn send(_: impl Send) {}
    let (topo, shard, wait) = (Topo::in_memory(), "ks/0".parse::<ShardId>().unwrap(), Duration::ZERO);
    send(topo.shard_tablets(&shard));
    send(topo.cell_tablets("zone1"));
    send(topo.cells_aliases());
    send(topo.lock_shard(&shard, "", wait));
    send(topo.try_lock_shard(&shard, ""));
    send(topo.create_shard(&shard, wait));
    send(topo.watch_shard(&shard));
    send(topo.path("/", 0));
    send(topo.update_keyspace("ks", "", wait, &mut |_| true));
    send(topo.update_shard(&shard, &mut |_| true));
    send(topo.shutdown(wait));
}

/// Puts the recorded keys where a cluster has them: all in one etcd, as the recorded cell records say.
async fn recorded_cluster() -> Topo {
    let topo = Topo::in_memory();
    for (key, bytes) in recorded("etcd_after_two_reparents") {
        if key.starts_with("/vitess/global") {
            topo.global().put(&key, bytes).await.unwrap();
        } else {
            let cell = key.split('/').nth(2).unwrap();
            topo.cell_store(cell).await.unwrap().kv.put(&key, bytes).await.unwrap();
        }
    }
    topo
}

#[tokio::test]
async fn a_recorded_cluster_is_read_through_the_typed_operations() {
    let topo = recorded_cluster().await;
    assert_eq!(topo.cells().await.unwrap(), ["zone1", "zone2"]);
    assert_eq!(topo.keyspaces().await.unwrap(), ["ks"]);
    assert_eq!(topo.keyspace("ks").await.unwrap().value.durability_policy, "semi_sync");
    let shard: ShardId = "ks/0".parse().unwrap();
    assert_eq!(topo.shards("ks").await.unwrap().keys().collect::<Vec<_>>(), [&shard]);
    let found = topo.shard_tablets(&shard).await.unwrap();
    let aliases: Vec<String> = found.tablets.keys().map(ToString::to_string).collect();
    assert_eq!(aliases, ["zone1-0000000101", "zone1-0000000102", "zone1-0000000104", "zone2-0000000103"]);
    assert!(found.unreadable_cells.is_empty() && found.dangling.is_empty());
    let primary = found.tablets.values().find(|tablet| tablet.r#type() == topodata::TabletType::Primary).unwrap();
    let record = topo.shard(&shard).await.unwrap().value;
    assert_eq!((&record.primary_alias, record.primary_term_start_time), (&primary.alias, primary.primary_term_start_time));
    assert_eq!(topo.cell_tablets("zone1").await.unwrap().len(), 3);
    assert_eq!(topo.srv_keyspace("zone2", "ks").await.unwrap().value.partitions.len(), 3);
}

#[tokio::test]
async fn new_shards_have_the_bytes_that_vitess_writes() {
    let topo = Topo::in_memory();
    topo.create_keyspace("ks", &topodata::Keyspace::default()).await.unwrap();
    let wait = Duration::from_secs(1);
    topo.create_keyspace("full", &topodata::Keyspace::default()).await.unwrap();
    topo.create_shard(&"full/-".parse().unwrap(), wait).await.unwrap();
    let key = topo.global_key("keyspaces/full/shards/-/Shard");
    assert_eq!(topo.global().get(&key).await.unwrap().unwrap().value, hex("12003801"));
    for (shard, bytes) in [("ks/-80", "12031201803801"), ("ks/80-", "12030a01803801"), ("ks/0", "3801"), ("ks/-", "1200")] {
        topo.create_shard(&shard.parse().unwrap(), wait).await.unwrap();
        let key = topo.global_key(&format!("keyspaces/{}/Shard", shard.replace("ks/", "ks/shards/")));
        assert_eq!(topo.global().get(&key).await.unwrap().unwrap().value, hex(bytes), "{shard}");
    }
    let error = topo.create_shard(&"ks/0".parse().unwrap(), wait).await.unwrap_err();
    assert!(matches!(&error, TopoError::Exists { what } if what == "shard ks/0"), "{error}");
    let error = topo.create_shard(&"ks/8-".parse().unwrap(), wait).await.unwrap_err();
    assert!(error.to_string().contains("hex"), "{error}");
    assert_eq!(topo.global().list("/vitess/global/keyspaces/ks/locks/").await.unwrap().entries, Vec::<KvEntry>::new());
}
