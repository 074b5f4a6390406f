//! Workflows that switch a shard's traffic, as the topology and the primary tell of them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use vtelector::{
    pb::{
        query::{QueryResult, Row},
        tabletmanagerdata::{ExecuteFetchAsDbaRequest, ExecuteFetchAsDbaResponse},
        topodata::{
            Shard, ShardTabletControl, SrvKeyspace, Tablet, TabletType, shard::TabletControl, srv_keyspace::KeyspacePartition,
        },
    },
    recover::traffic::{TrafficError, traffic_in_the_way},
    tablet::{GrpcTabletManager, TabletManager, TabletSettings},
};

use crate::{
    fake::FakeTablet,
    world::{World, shard, tablet},
};

const LIMIT: Duration = Duration::from_secs(1);

async fn found(world: &World, primary: &Tablet) -> Result<Option<String>, TrafficError> {
    let tablets: Arc<dyn TabletManager> = Arc::new(GrpcTabletManager::new(TabletSettings::default()).unwrap());
    traffic_in_the_way(&world.topo, &tablets, &shard(), primary, LIMIT).await
}

async fn world() -> (World, FakeTablet, Tablet) {
    let world = World::start().await;
    let fake = world.tablet("zone1-101", TabletType::Primary).await;
    fake.answers("ExecuteFetchAsDba", rows(&[]));
    let record = tablet("zone1-101", TabletType::Primary, fake.port);
    (world, fake, record)
}

fn rows(rows: &[[&str; 4]]) -> ExecuteFetchAsDbaResponse {
    let row = |values: &[&str; 4]| Row {
        lengths: values.iter().map(|value| if value.is_empty() { -1 } else { value.len() as i64 }).collect(),
        values: values.concat().into_bytes(),
    };
    let result = QueryResult { rows: rows.iter().map(row).collect(), ..QueryResult::default() };
    ExecuteFetchAsDbaResponse { result: Some(result) }
}

#[tokio::test]
async fn a_lock_for_a_switch_is_in_the_way_and_another_is_not() {
    let (world, _fake, primary) = world().await;
    assert_eq!(found(&world, &primary).await.unwrap(), None);
    let kv = world.topo.global();
    let put = async |key: &str, action: &str| {
        let json = format!(r#"{{"Action": "{action}", "HostName": "host1", "Time": "2026-01-02T03:04:05Z"}}"#);
        kv.put(&world.topo.global_key(key), json.into_bytes()).await.unwrap();
    };
    put("keyspaces/commerce/locks/7", "RebuildKeyspace").await;
    put("keyspaces/commerce/shards/0/locks/8", "EmergencyReparentShard").await;
    assert_eq!(found(&world, &primary).await.unwrap(), None);
    put("keyspaces/commerce/locks/9", "SwitchWrites").await;
    let text = found(&world, &primary).await.unwrap().unwrap();
    assert_eq!(text, "SwitchWrites on host1 since 2026-01-02T03:04:05Z waits to lock keyspace commerce");
    kv.delete(&world.topo.global_key("keyspaces/commerce/locks/7"), None).await.unwrap();
    let text = found(&world, &primary).await.unwrap().unwrap();
    assert!(text.ends_with("has locked keyspace commerce"), "{text}");
}

#[tokio::test]
async fn denied_tables_and_a_disabled_query_service_are_in_the_way() {
    let (world, _fake, primary) = world().await;
    let control = ShardTabletControl { name: "0".to_owned(), query_service_disabled: true, ..ShardTabletControl::default() };
    let partition = KeyspacePartition {
        served_type: TabletType::Primary.into(),
        shard_tablet_controls: vec![control],
        ..KeyspacePartition::default()
    };
    let serving = SrvKeyspace { partitions: vec![partition], ..SrvKeyspace::default() };
    let key = "/vitess/zone1/keyspaces/commerce/SrvKeyspace";
    world.topo.global().put(key, prost::Message::encode_to_vec(&serving)).await.unwrap();
    let text = found(&world, &primary).await.unwrap().unwrap();
    assert_eq!(text, "the query service of its primary is disabled in cell zone1");

    let mut deny = |record: &mut Shard| {
        let tables = vec!["customer".to_owned()];
        record.tablet_controls.push(TabletControl { tablet_type: 1, denied_tables: tables, ..TabletControl::default() });
        true
    };
    world.topo.update_shard(&shard(), &mut deny).await.unwrap();
    assert_eq!(found(&world, &primary).await.unwrap().unwrap(), "the shard record denies PRIMARY tables customer");
}

#[tokio::test]
async fn the_primarys_streams_are_in_the_way() {
    let (world, fake, primary) = world().await;
    fake.answers("ExecuteFetchAsDba", rows(&[["cust", "1", "Running", ""], ["halves", "4", "Stopped", "FROZEN"]]));
    let text = found(&world, &primary).await.unwrap().unwrap();
    assert_eq!(text, "MoveTables cust is running, Reshard halves has switched its traffic and is not completed");
    let asked: ExecuteFetchAsDbaRequest = fake.last("ExecuteFetchAsDba");
    assert_eq!(asked.max_rows, 5);
    let sql = String::from_utf8(asked.query).unwrap();
    assert!(sql.contains("FROM `_vt`.vreplication"), "{sql}");

    let no_table = "Table '_vt.vreplication' doesn't exist (errno 1146) (sqlstate 42S02) during query: SELECT";
    fake.fails("ExecuteFetchAsDba", tonic::Status::unknown(no_table));
    assert_eq!(found(&world, &primary).await.unwrap(), None, "no stream ever was there");
}

#[tokio::test]
async fn what_cannot_be_told_is_an_error_within_the_limit() {
    let (world, fake, primary) = world().await;
    fake.fails("ExecuteFetchAsDba", tonic::Status::unknown("syntax error (errno 1064) (sqlstate 42000)"));
    let error = found(&world, &primary).await.unwrap_err().to_string();
    assert!(error.contains("commerce/0") && error.contains("does not tell its streams") && error.contains("1064"), "{error}");

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let primary = tablet("zone1-101", TabletType::Primary, silent.local_addr().unwrap().port().into());
    let begun = Instant::now();
    found(&world, &primary).await.unwrap_err();
    assert!(begun.elapsed() < LIMIT + Duration::from_millis(500), "{:?}", begun.elapsed());
}
