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
