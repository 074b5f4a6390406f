//! Which shards are watched, and who is declared to be primary.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fake::{alias, shard};
use crate::{
    pb::{
        topodata::{CellInfo, Keyspace, Shard, Tablet, TabletType, shard::TabletControl},
        vtorcdata, vttime,
    },
    sense::{
        Watched,
        declared::{Declared, Reading, touched},
    },
    topo::{Snapshot, Topo, Watcher},
};

fn term(seconds: i64) -> Option<vttime::Time> {
    (seconds > 0).then_some(vttime::Time { seconds, nanoseconds: 0 })
}

/// A shard with these tablets; the shard record names the first of them in term 1.
async fn declared(tablets: &[(&str, TabletType, i64)], watched: Watched) -> Declared {
    let topo = Topo::in_memory();
    for cell in ["z1", "z2"] {
        let info = CellInfo { server_address: "memory".to_owned(), root: format!("/vitess/{cell}") };
        topo.create_cell_info(cell, &info).await.unwrap();
    }
    topo.create_keyspace("commerce", &Keyspace { durability_policy: "nonsense".into(), ..Keyspace::default() }).await.unwrap();
    topo.create_shard(&shard(), Duration::from_secs(1)).await.unwrap();
    for (name, kind, primary_term) in tablets {
        let record = Tablet {
            alias: Some((&alias(name)).into()),
            keyspace: "commerce".to_owned(),
            shard: "-80".to_owned(),
            r#type: *kind as i32,
            primary_term_start_time: term(*primary_term),
            ..Tablet::default()
        };
        topo.create_tablet(&record).await.unwrap();
    }
    let mut name_first = |record: &mut Shard| {
        record.primary_alias = tablets.first().map(|(name, ..)| (&alias(name)).into());
        record.primary_term_start_time = term(1);
        record.vtorc_state = Some(vtorcdata::Shard { disable_emergency_reparent: true });
        record.tablet_controls = vec![TabletControl { denied_tables: vec!["t".into()], ..TabletControl::default() }];
        true
    };
    topo.update_shard(&shard(), &mut name_first).await.unwrap();
    let watcher = Watcher::start(&topo, &CancellationToken::new());
    let mut snapshots = watcher.snapshots();
    let complete =
        |snapshot: &std::sync::Arc<Snapshot>| !snapshot.is_partial() && snapshot.tablets_of(&shard()).count() == tablets.len();
    let snapshot = snapshots.wait_for(complete).await.unwrap();
    Declared::of(&snapshot, &Reading { watched, ..Reading::default() }, None)
}

fn watched(cells: &[&str], clusters: &[&str]) -> Watched {
    let mut watched = Watched::default();
    watched.cells.extend(cells.iter().map(|cell| (*cell).to_owned()));
    for cluster in clusters {
        watched.add_cluster(cluster).unwrap();
    }
    watched
}

#[tokio::test]
async fn the_newest_term_names_the_primary_also_while_the_shard_record_lags() {
    use TabletType::{Primary, Replica};
    for (tablets, primary) in [
        ([("z1-100", Primary, 1), ("z1-101", Replica, 0), ("z2-200", Replica, 0)], Some("z1-100")),
        ([("z1-100", Primary, 1), ("z1-101", Primary, 2), ("z2-200", Replica, 0)], Some("z1-101")),
        ([("z1-100", Replica, 0), ("z1-101", Replica, 0), ("z2-200", Primary, 2)], Some("z2-200")),
        ([("z1-100", Primary, 3), ("z1-101", Primary, 3), ("z2-200", Replica, 0)], None),
    ] {
        let declared = declared(&tablets, Watched::default()).await;
        assert_eq!(declared.shards[&shard()].primary().ok().map(|primary| primary.alias), primary.map(alias));
        assert_eq!(declared.shards[&shard()].tablets.len(), 3);
    }
}

#[tokio::test]
async fn a_watched_shard_is_watched_with_all_its_tablets() {
    use TabletType::{Primary, Replica};
    let tablets = [("z1-100", Primary, 1), ("z1-101", Replica, 0), ("z2-200", Replica, 0)];
    for (watched, is_watched) in [
        (watched(&["z2"], &[]), true),
        (watched(&["z3"], &[]), false),
        (watched(&[], &["commerce"]), true),
        (watched(&[], &["other", "commerce/-c0"]), true),
        (watched(&[], &["commerce/80-", "commerce/-40", "other"]), false),
    ] {
        let declared = declared(&tablets, watched.clone()).await;
        let found = declared.shards.get(&shard()).map(|shard| shard.tablets.len());
        assert_eq!(found, is_watched.then_some(3), "{watched:?}");
    }
}

#[tokio::test]
async fn records_are_read_for_what_they_forbid() {
    let declared = declared(&[("z1-100", TabletType::Primary, 1)], Watched::default()).await;
    let shard = &declared.shards[&shard()];
    let record = shard.record.as_ref().unwrap();
    assert!(record.emergency_disabled && record.traffic_switch.as_ref().unwrap().contains("denies"), "{record:?}");
    assert!(shard.keyspace.policy.as_ref().err().unwrap().contains("nonsense"));
    assert!(!shard.keyspace.emergency_disabled && !shard.keyspace.policy_unset);
}

#[test]
fn without_the_global_topology_nothing_is_declared_and_the_gap_is_named() {
    let declared = Declared::of(&Snapshot::new(), &Reading::default(), None);
    assert!(declared.shards.is_empty() && declared.gaps.global.is_some());
}

#[tokio::test]
async fn a_change_touches_the_shards_that_it_concerns() {
    let topo = Topo::in_memory();
    let info = CellInfo { server_address: "memory".to_owned(), root: "/vitess/z1".to_owned() };
    topo.create_cell_info("z1", &info).await.unwrap();
    topo.create_keyspace("commerce", &Keyspace::default()).await.unwrap();
    topo.create_shard(&shard(), Duration::from_secs(1)).await.unwrap();
    topo.create_shard(&"commerce/80-".parse().unwrap(), Duration::from_secs(1)).await.unwrap();
    let watcher = Watcher::start(&topo, &CancellationToken::new());
    let mut snapshots = watcher.snapshots();
    let all = |snapshot: &std::sync::Arc<Snapshot>| !snapshot.is_partial() && snapshot.shards.len() == 2;
    let before = snapshots.wait_for(all).await.unwrap().clone();
    assert_eq!(touched(&Snapshot::new(), &before), None, "everything was read");
    assert_eq!(touched(&before, &before), Some([].into()));
    let record = |shard: &str| Tablet {
        alias: Some((&alias("z1-100")).into()),
        keyspace: "commerce".to_owned(),
        shard: shard.to_owned(),
        ..Tablet::default()
    };
    topo.create_tablet(&record("-80")).await.unwrap();
    let added = snapshots.wait_for(|snapshot| snapshot.tablets_of(&shard()).count() == 1).await.unwrap().clone();
    assert_eq!(touched(&before, &added), Some([shard()].into()));
    let mut moved = |tablet: &mut Tablet| {
        *tablet = record("80-");
        true
    };
    topo.update_tablet(&alias("z1-100"), &mut moved).await.unwrap();
    let moved = snapshots.wait_for(|snapshot| snapshot.tablets_of(&shard()).count() == 0).await.unwrap().clone();
    assert_eq!(touched(&added, &moved), Some([shard(), "commerce/80-".parse().unwrap()].into()), "both are concerned");
    let mut named = |record: &mut Shard| {
        record.is_primary_serving = !record.is_primary_serving;
        true
    };
    topo.update_shard(&shard(), &mut named).await.unwrap();
    let renamed = |snapshot: &std::sync::Arc<Snapshot>| snapshot.shards[&shard()] != moved.shards[&shard()];
    let named = snapshots.wait_for(renamed).await.unwrap().clone();
    assert_eq!(touched(&moved, &named), Some([shard()].into()));
}
