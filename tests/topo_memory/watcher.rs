//! The snapshot of all topologies follows every change.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use vtelector::{pb::topodata, topo::*};

use crate::faulty::{Mode, World, cell_at, commerce, register, tablet};

const SOON: Duration = Duration::from_secs(20);

type Snapshots = watch::Receiver<Arc<Snapshot>>;

async fn when(snapshots: &mut Snapshots, what: &str, holds: impl FnMut(&Arc<Snapshot>) -> bool) -> Arc<Snapshot> {
    let found = timeout(SOON, snapshots.wait_for(holds)).await.ok().map(|snapshot| snapshot.unwrap().clone());
    found.unwrap_or_else(|| panic!("never came: {what}; last: {:#?}", snapshots.borrow()))
}

async fn watched(world: &World) -> (Topo, Watcher, Snapshots) {
    let topo = world.topo().await;
    register(&topo, "zone1-100").await;
    register(&topo, "zone2-200").await;
    let watcher = Watcher::start(&topo, &CancellationToken::new());
    let mut snapshots = watcher.snapshots();
    when(&mut snapshots, "a complete first look", |snapshot| !snapshot.is_partial()).await;
    (topo, watcher, snapshots)
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.tablets_of(&commerce()).map(|(alias, _)| alias.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_snapshot_is_empty_and_says_so_and_the_next_ones_are_whole() {
    let world = World::default();
    let topo = world.topo().await;
    let watcher = Watcher::start(&topo, &CancellationToken::new());
    let first = watcher.snapshots().borrow().clone();
    assert!(first.is_partial() && first.cells.is_empty());
    assert!(matches!(first.global(), Freshness::Unreadable { reason, .. } if reason == "not read yet"));

    let (_topo, _watcher, snapshots) = watched(&World::default()).await;
    let snapshot = snapshots.borrow().clone();
    assert_eq!(snapshot.keyspaces.keys().collect::<Vec<_>>(), ["commerce"]);
    assert!(snapshot.shards[&commerce()].is_primary_serving);
    assert_eq!(names(&snapshot), ["zone1-0000000100", "zone2-0000000200"]);
    assert_eq!(snapshot.cells["zone2"].info, cell_at("zone2", "zone2"));
    assert_eq!(snapshot.cells["zone1"].shard_replication[&commerce()].nodes.len(), 1);
    assert!(snapshot.garbage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_change_is_followed() {
    let (topo, _watcher, mut snapshots) = watched(&World::default()).await;
    let alias = register(&topo, "zone1-101").await;
    when(&mut snapshots, "a new tablet", |s| {
        names(s).len() == 3 && s.cells["zone1"].shard_replication[&commerce()].nodes.len() == 2
    })
    .await;
    topo.update_tablet(&alias, &mut |tablet| {
        tablet.mysql_port = 3306;
        true
    })
    .await
    .unwrap();
    when(&mut snapshots, "a changed tablet", |s| s.cells["zone1"].tablets[&alias].mysql_port == 3306).await;
    topo.delete_tablet(&alias).await.unwrap();
    when(&mut snapshots, "a tablet less", |s| names(s).len() == 2).await;
    topo.update_shard(&commerce(), &mut |shard| {
        shard.primary_alias = Some((&alias).into());
        true
    })
    .await
    .unwrap();
    when(&mut snapshots, "a primary", |s| s.shards[&commerce()].primary_alias.is_some()).await;
    topo.create_keyspace("sales", &topodata::Keyspace::default()).await.unwrap();
    topo.create_shard(&"sales/-80".parse().unwrap(), SOON).await.unwrap();
    when(&mut snapshots, "a new shard", |s| s.keyspaces.len() == 2 && s.shards.len() == 2).await;
    assert!(!snapshots.borrow().is_partial());
}

#[tokio::test(start_paused = true)]
async fn cells_are_followed_as_they_come_move_and_go() {
    let world = World::default();
    let (topo, _watcher, mut snapshots) = watched(&world).await;
    topo.create_cell_info("zone3", &cell_at("zone3", "zone3")).await.unwrap();
    register(&topo, "zone3-300").await;
    when(&mut snapshots, "a new cell", |s| names(s).len() == 3 && !s.is_partial()).await;

    // It moves: what was known stays, marked as old, until the new place is read.
    world.set("elsewhere", Mode::Down);
    let key = topo.global_key("cells/zone3/CellInfo");
    topo.global().put(&key, cell_at("zone3", "elsewhere").encode_to_vec()).await.unwrap();
    let moving = when(&mut snapshots, "the move", |s| s.cells["zone3"].info.server_address == "elsewhere").await;
    assert!(moving.is_partial() && names(&moving).len() == 3);
    world.set("elsewhere", Mode::Up);
    when(&mut snapshots, "the new place, which is empty", |s| !s.is_partial() && names(s).len() == 2).await;
    register(&topo, "zone3-301").await;
    when(&mut snapshots, "a tablet at the new place", |s| names(s).len() == 3).await;

    // Removed and named again at once, then removed for good.
    topo.global().delete(&key, None).await.unwrap();
    topo.create_cell_info("zone3", &cell_at("zone3", "elsewhere")).await.unwrap();
    when(&mut snapshots, "the same cell again", |s| !s.is_partial() && names(s).len() == 3).await;
    topo.global().delete(&key, None).await.unwrap();
    when(&mut snapshots, "a cell less", |s| !s.cells.contains_key("zone3") && names(s).len() == 2 && !s.is_partial()).await;
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_is_down_makes_only_its_own_part_old() {
    let world = World::default();
    let (topo, _watcher, mut snapshots) = watched(&world).await;
    world.set("zone2", Mode::Down);
    let is_down = |s: &Arc<Snapshot>| *s.cells["zone2"].freshness() != Freshness::Current;
    let down = when(&mut snapshots, "zone2 unreadable", is_down).await;
    let Freshness::Unreadable { since, reason } = down.cells["zone2"].freshness() else { panic!() };
    assert!(reason.contains("switched off"), "{reason}");
    assert!(down.is_partial() && *down.global() == Freshness::Current && *down.cells["zone1"].freshness() == Freshness::Current);
    assert_eq!(names(&down).len(), 2, "what was known of the cell is kept");

    // The others go on; what happens in the dark is seen afterwards.
    register(&topo, "zone1-101").await;
    let others = when(&mut snapshots, "a tablet of zone1", |s| names(s).len() == 3).await;
    assert!(matches!(others.cells["zone2"].freshness(), Freshness::Unreadable { since: still, .. } if still == since));
    let zone2 = world.store("zone2");
    zone2.inner.delete("/vitess/zone2/tablets/zone2-0000000200/Tablet", None).await.unwrap();
    zone2.inner.put("/vitess/zone2/tablets/zone2-0000000201/Tablet", tablet("zone2-201").encode_to_vec()).await.unwrap();
    world.set("zone2", Mode::Up);
    let back = when(&mut snapshots, "zone2 back", |s| !s.is_partial()).await;
    assert_eq!(names(&back), ["zone1-0000000100", "zone1-0000000101", "zone2-0000000201"]);
}

#[tokio::test(start_paused = true)]
async fn without_the_global_topology_the_cells_are_still_followed() {
    let world = World::default();
    let (_topo, _watcher, mut snapshots) = watched(&world).await;
    world.set("global", Mode::Down);
    let down = when(&mut snapshots, "global unreadable", |s| *s.global() != Freshness::Current).await;
    assert_eq!((down.shards.len(), down.cells.len()), (1, 2), "what was known stays");
    let zone1 = world.store("zone1");
    zone1.inner.put("/vitess/zone1/tablets/zone1-0000000101/Tablet", tablet("zone1-101").encode_to_vec()).await.unwrap();
    when(&mut snapshots, "a tablet", |s| names(s).len() == 3).await;
    world.set("global", Mode::Up);
    when(&mut snapshots, "global back", |s| !s.is_partial()).await;
}

#[tokio::test(start_paused = true)]
async fn garbage_is_named_and_the_last_good_record_kept() {
    let world = World::default();
    let (topo, _watcher, mut snapshots) = watched(&world).await;
    let key = topo.global_key("keyspaces/commerce/shards/0/Shard");
    let good = topo.global().get(&key).await.unwrap().unwrap().value;
    topo.global().put(&key, b"\xff".to_vec()).await.unwrap();
    let snapshot = when(&mut snapshots, "garbage", |s| s.garbage.contains_key(&key)).await;
    assert!(snapshot.garbage[&key].contains("no Shard record"), "{:?}", snapshot.garbage);
    assert!(snapshot.shards[&commerce()].is_primary_serving);
    topo.global().put(&key, good).await.unwrap();
    when(&mut snapshots, "mended", |s| s.garbage.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn locks_and_other_keys_make_no_new_snapshot() {
    let (topo, _watcher, mut snapshots) = watched(&World::default()).await;
    snapshots.mark_unchanged();
    let lock = topo.lock_shard(&commerce(), "ours", SOON).await.unwrap();
    lock.unlock().await.unwrap();
    assert!(timeout(SOON, snapshots.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn it_stops_with_its_token_or_when_it_is_told_to() {
    let world = World::default();
    let topo = world.topo().await;
    let stop = CancellationToken::new();
    let watcher = Watcher::start(&topo, &stop);
    let mut snapshots = watcher.snapshots();
    when(&mut snapshots, "a complete first look", |snapshot| !snapshot.is_partial()).await;
    stop.cancel();
    watcher.stop(SOON).await;
    assert!(timeout(SOON, snapshots.changed()).await.unwrap().is_err(), "nobody publishes any more");
}
