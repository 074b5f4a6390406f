use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ask::everything,
    declared::{Declared, Watched},
    errant::Rhythm,
};
use crate::{
    diagnose::errant::Unknown,
    pb::{
        replicationdata::{FullStatus, PrimaryStatus, Status},
        topodata::{CellInfo, Keyspace, Shard, Tablet, TabletType},
        vttime,
    },
    topo::{ShardId, Snapshot, TabletAlias, Topo, Watcher},
};

fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap()
}

fn term(seconds: i64) -> Option<vttime::Time> {
    (seconds > 0).then_some(vttime::Time { seconds, nanoseconds: 0 })
}

/// A shard with a tablet in each of these cells; the shard record names the first of them in term 1.
async fn declared(tablets: &[(&str, TabletType, i64)], watched: &Watched) -> Declared {
    let (topo, shard) = (Topo::in_memory(), "commerce/-80".parse::<ShardId>().unwrap());
    for cell in ["z1", "z2"] {
        let info = CellInfo { server_address: "memory".to_owned(), root: format!("/vitess/{cell}") };
        topo.create_cell_info(cell, &info).await.unwrap();
    }
    topo.create_keyspace("commerce", &Keyspace::default()).await.unwrap();
    topo.create_shard(&shard, Duration::from_secs(1)).await.unwrap();
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
        true
    };
    topo.update_shard(&shard, &mut name_first).await.unwrap();
    let watcher = Watcher::start(&topo, &CancellationToken::new());
    let mut snapshots = watcher.snapshots();
    let complete =
        |snapshot: &std::sync::Arc<Snapshot>| !snapshot.is_partial() && snapshot.tablets_of(&shard).count() == tablets.len();
    let snapshot = snapshots.wait_for(complete).await.unwrap();
    Declared::of(&snapshot, watched)
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
    let shard = "commerce/-80".parse().unwrap();
    for (tablets, primary) in [
        ([("z1-100", Primary, 1), ("z1-101", Replica, 0), ("z2-200", Replica, 0)], "z1-100"),
        ([("z1-100", Primary, 1), ("z1-101", Primary, 2), ("z2-200", Replica, 0)], "z1-101"),
        ([("z1-100", Replica, 0), ("z1-101", Replica, 0), ("z2-200", Primary, 2)], "z2-200"),
    ] {
        let declared = declared(&tablets, &Watched::default()).await;
        assert_eq!(declared.primary_of(&shard).unwrap().alias, alias(primary));
        assert_eq!(declared.tablets.len(), 3);
    }
}

#[tokio::test]
async fn only_watched_tablets_are_listed_and_their_primary_wherever_it_is() {
    use TabletType::{Primary, Replica};
    let tablets = [("z1-100", Primary, 1), ("z1-101", Replica, 0), ("z2-200", Replica, 0)];
    for (watched, expected) in [
        (watched(&["z2"], &[]), &["z1-100", "z2-200"][..]),
        (watched(&[], &["commerce"]), &["z1-100", "z1-101", "z2-200"]),
        (watched(&[], &["other", "commerce/-c0"]), &["z1-100", "z1-101", "z2-200"]),
        (watched(&[], &["commerce/80-", "commerce/-40", "other"]), &[]),
    ] {
        let declared = declared(&tablets, &watched).await;
        assert!(declared.tablets.keys().eq(expected.iter().map(|name| alias(name)).collect::<Vec<_>>().iter()), "{watched:?}");
    }
}

#[test]
fn without_the_global_topology_nobody_is_known_to_be_primary() {
    let declared = Declared::of(&Snapshot::new(), &Watched::default());
    assert!(matches!(declared.primary_of(&"commerce/0".parse().unwrap()), Err(Unknown::Topology(_))));
}

#[test]
fn what_was_received_counts_before_it_is_applied() {
    const U: &str = "aaaaaaaa-0000-0000-0000-000000000001";
    let status = |executed: &str, received: &str| FullStatus {
        replication_status: Some(Status { position: executed.into(), relay_log_position: received.into(), ..Status::default() }),
        primary_status: Some(PrimaryStatus { position: executed.into(), ..PrimaryStatus::default() }),
        ..FullStatus::default()
    };
    let all = |executed: &str, received: &str| everything(&status(executed, received)).map(|set| set.to_string());
    assert_eq!(all(&format!("MySQL56/{U}:1-5"), &format!("MySQL56/{U}:4-9")), Ok(format!("{U}:1-9")));
    assert_eq!(all(&format!("MySQL56/{U}:1-5"), ""), Ok(format!("{U}:1-5")));
    assert_eq!(all("MySQL56/", ""), Ok(String::new()));
    assert!(all("", "").unwrap_err().contains("none"));
    assert!(all("FilePos/binlog.000001:4", "").unwrap_err().contains("FilePos"));
    assert!(all("MySQL56/garbage", "").is_err());
}

#[tokio::test(start_paused = true)]
async fn looks_keep_their_rhythm_whatever_was_missed() {
    let (epoch, period) = (Instant::now(), Duration::from_secs(5));
    let (shard, other) = ("commerce/-80".parse().unwrap(), "commerce/80-".parse().unwrap());
    let rhythm = Rhythm::of(&shard, epoch, period);
    let first = rhythm.after(epoch);
    assert!(first - epoch <= period);
    assert_eq!(rhythm.after(first), first + period);
    assert_eq!(rhythm.after(first + Duration::from_secs(12)), first + 3 * period);
    assert_eq!(Rhythm::of(&shard, epoch, period).after(epoch), first, "the same for all tablets of the shard");
    assert_ne!(Rhythm::of(&other, epoch, period).after(epoch), first, "another shard's are at another time");
}
