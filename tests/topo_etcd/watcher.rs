//! The snapshot on a real etcd that restarts and that stands still.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use vtelector::{
    pb::topodata,
    topo::{Freshness, Snapshot, Watcher},
};

use crate::server::Etcd;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_snapshot_survives_an_etcd_that_restarts_and_one_that_stands_still() {
    let mut global = Etcd::start().await;
    let zone1 = Etcd::start().await;
    let topo = global.topo().await;
    let info = topodata::CellInfo { server_address: zone1.address.clone(), root: "/vitess/zone1".to_owned() };
    topo.create_cell_info("zone1", &info).await.unwrap();
    let tablet =
        |uid| topodata::Tablet { alias: Some(topodata::TabletAlias { cell: "zone1".to_owned(), uid }), ..Default::default() };
    topo.create_tablet(&tablet(100)).await.unwrap();
    let watcher = Watcher::start(&topo, &CancellationToken::new());
    let mut snapshots = watcher.snapshots();
    let mut when = async |what: &str, holds: fn(&Snapshot) -> bool| {
        let found = timeout(SOON, snapshots.wait_for(|snapshot: &Arc<Snapshot>| holds(snapshot))).await;
        found.map(|snapshot| snapshot.unwrap().clone()).unwrap_or_else(|_| panic!("never came: {what}"))
    };
    when("a first look", |snapshot| !snapshot.is_partial() && snapshot.cells["zone1"].tablets.len() == 1).await;

    global.kill().await;
    let dark = when("global unreadable", |snapshot| *snapshot.global() != Freshness::Current).await;
    assert_eq!(*dark.cells["zone1"].freshness(), Freshness::Current);
    global.restart().await;
    when("global back", |snapshot| !snapshot.is_partial()).await;
    topo.create_keyspace("commerce", &topodata::Keyspace::default()).await.unwrap();
    when("a keyspace", |snapshot| snapshot.keyspaces.contains_key("commerce")).await;

    zone1.signal("STOP").await;
    let stopped = Instant::now();
    when("zone1 unreadable", |snapshot| *snapshot.cells["zone1"].freshness() != Freshness::Current).await;
    // Silence is noticed within five seconds; then the listing has its two attempts.
    assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    zone1.signal("CONT").await;
    when("zone1 back", |snapshot| !snapshot.is_partial()).await;
    topo.create_tablet(&tablet(101)).await.unwrap();
    when("a tablet", |snapshot| snapshot.cells["zone1"].tablets.len() == 2).await;
    watcher.stop(SOON).await;
}
