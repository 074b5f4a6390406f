//! Electors that divide a region's shards, over a topology in memory and tokio's paused clock.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::super::{
    Ask, Elector, Observation, Observer, Ownership, PeerSettings, Peers,
    roll::{Keys, Roll},
};
use crate::{
    metrics::Metrics,
    pb::topodata::CellsAlias,
    sense::Watched,
    tablet::{GrpcTabletManager, TabletSettings},
    topo::{KvEntry, ShardId, TabletAlias, Topo},
};

const ROOT: &str = "/vtelector";
/// Far longer than anything here takes, on a clock that does not run while nothing happens.
const LIMIT: Duration = Duration::from_secs(60);

/// Nobody is asked in these stories.
struct Nobody;

#[async_trait]
impl Ask for Nobody {
    async fn observe(&self, _: &Elector, _: &TabletAlias, _: Duration) -> Result<Observation, String> {
        Err("nobody asks".to_owned())
    }
}

fn start(topo: &Topo, address: &str, cell: &str) -> Peers {
    let tablets = Arc::new(GrpcTabletManager::new(TabletSettings::default()).unwrap());
    let settings = PeerSettings {
        ledger_root: ROOT.to_owned(),
        address: address.to_owned(),
        who: address.to_owned(),
        cell: cell.to_owned(),
        watched: Watched::default(),
    };
    let metrics = Metrics::new().unwrap().peers;
    Peers::start(topo, Arc::new(Observer::new(topo, tablets)), Arc::new(Nobody), settings, metrics, &CancellationToken::new())
}

fn shards() -> Vec<ShardId> {
    (0..=255).map(|n| ShardId::new("commerce", &format!("{n:02x}-")).unwrap()).collect()
}

/// Waits until the division among exactly these has settled, and answers when that was.
async fn divided(peers: &Peers, among: &[&str]) -> Instant {
    let me = peers.inner.settings.address.clone();
    let names = || among.iter().map(|name| (*name).to_owned());
    let expected = Ownership::shared(&me, names(), names());
    let mut ownership = peers.ownership();
    let settled = timeout(LIMIT, ownership.wait_for(|ownership| **ownership == expected)).await;
    settled.unwrap_or_else(|_| panic!("{me} never divided among {among:?}: {:?}", peers.ownership().borrow())).unwrap();
    Instant::now()
}

fn owners<'a>(all: &[&'a Peers], shard: &ShardId) -> Vec<&'a str> {
    let owns = |peers: &&&Peers| peers.inner.ownership.borrow().owns(shard);
    all.iter().filter(owns).map(|peers| peers.inner.settings.address.as_str()).collect()
}

async fn entries(topo: &Topo) -> Vec<KvEntry> {
    topo.global().list(&Keys::below(ROOT).all).await.unwrap().entries
}

/// Somebody else's registration, kept alive by nobody.
async fn register_by_hand(topo: &Topo, address: &str, region: &str) {
    let (kv, elector) = (topo.global(), Elector::new(address, address, "z1", region, 0));
    let lease = kv.lease_grant(Duration::from_secs(3)).await.unwrap();
    kv.create(&Keys::below(ROOT).alive(address, lease), elector.encode(), Some(lease)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn three_electors_of_a_cell_look_after_each_shard_once() {
    let topo = Topo::in_memory();
    let [a, b, c] = ["a:1", "b:1", "c:1"].map(|address| start(&topo, address, "z1"));
    for peers in [&a, &b, &c] {
        divided(peers, &["a:1", "b:1", "c:1"]).await;
    }
    let mut parts = BTreeSet::new();
    for shard in shards() {
        let owners = owners(&[&a, &b, &c], &shard);
        assert_eq!(owners.len(), 1, "{shard}: {owners:?}");
        parts.insert(owners[0]);
    }
    assert_eq!(parts.len(), 3);
    assert_eq!(a.inner.metrics.members.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_elector_alone_looks_after_everything_and_one_of_another_cell_as_well() {
    let topo = Topo::in_memory();
    let (a, b) = (start(&topo, "a:1", "z1"), start(&topo, "b:1", "z2"));
    divided(&a, &["a:1"]).await;
    divided(&b, &["b:1"]).await;
    assert!(
        shards().iter().all(|shard| owners(&[&a, &b], shard).len() == 2),
        "cells without a CellsAlias are regions of their own"
    );
    assert_eq!(a.electors().len(), 2, "they know of each other all the same");
}

#[tokio::test(start_paused = true)]
async fn a_dead_electors_shards_are_handed_over_when_its_lease_ends() {
    let topo = Topo::in_memory();
    register_by_hand(&topo, "dead:1", "cell z1").await;
    let begun = Instant::now();
    let a = start(&topo, "a:1", "z1");
    divided(&a, &["a:1", "dead:1"]).await;
    assert!(shards().iter().any(|shard| !a.inner.ownership.borrow().owns(shard)));
    let took = divided(&a, &["a:1"]).await - begun;
    assert!(took <= Duration::from_millis(3100), "{took:?}");
    assert!(shards().iter().all(|shard| a.inner.ownership.borrow().owns(shard)));
}

#[tokio::test(start_paused = true)]
async fn an_elector_that_is_stopped_hands_over_at_once() {
    let topo = Topo::in_memory();
    let (a, b) = (start(&topo, "a:1", "z1"), start(&topo, "b:1", "z1"));
    divided(&a, &["a:1", "b:1"]).await;
    let stopped = Instant::now();
    b.stopped(LIMIT).await;
    assert!(divided(&a, &["a:1"]).await - stopped < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_a_newcomer_takes_over_is_looked_after_until_it_has_settled() {
    let topo = Topo::in_memory();
    let a = start(&topo, "a:1", "z1");
    divided(&a, &["a:1"]).await;
    let b = start(&topo, "b:1", "z1");
    let came = divided(&b, &["a:1", "b:1"]).await;
    let (shared, alone) = (shards(), |shard: &ShardId| owners(&[&a], shard).len() == 1);
    assert!(shared.iter().all(alone), "a goes on with everything");
    assert!(shared.iter().any(|shard| owners(&[&b], shard).len() == 1), "while b begins");
    let took = divided(&a, &["a:1", "b:1"]).await - came;
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert!(shared.iter().all(|shard| owners(&[&a, &b], shard).len() == 1));
}

#[tokio::test(start_paused = true)]
async fn an_elector_whose_lease_is_lost_registers_anew() {
    let topo = Topo::in_memory();
    let (a, b) = (start(&topo, "a:1", "z1"), start(&topo, "b:1", "z1"));
    divided(&b, &["a:1", "b:1"]).await;
    let is_as = |entry: &&KvEntry| entry.key.contains("/alive/a:1/");
    let lease = entries(&topo).await.iter().find(is_as).unwrap().lease.unwrap();
    topo.global().lease_revoke(lease).await.unwrap();
    divided(&b, &["b:1"]).await;
    assert!(a.inner.ownership.borrow().members().eq(["a:1", "b:1"]), "for itself it is a member all the time");
    divided(&b, &["a:1", "b:1"]).await;
    assert_ne!(entries(&topo).await.iter().find(is_as).unwrap().lease, Some(lease));
}

#[tokio::test(start_paused = true)]
async fn cells_that_become_one_region_divide_their_shards() {
    let topo = Topo::in_memory();
    let (a, b) = (start(&topo, "a:1", "z1"), start(&topo, "b:1", "z2"));
    divided(&a, &["a:1"]).await;
    divided(&b, &["b:1"]).await;
    let alias = CellsAlias { cells: vec!["z1".to_owned(), "z2".to_owned()] };
    let key = topo.global_key("cells_aliases/east/CellsAlias");
    topo.global().put(&key, prost::Message::encode_to_vec(&alias)).await.unwrap();
    divided(&a, &["a:1", "b:1"]).await;
    divided(&b, &["a:1", "b:1"]).await;
    topo.global().delete(&key, None).await.unwrap();
    divided(&a, &["a:1"]).await;
    divided(&b, &["b:1"]).await;
    let live: Vec<String> =
        entries(&topo).await.into_iter().filter(|entry| entry.lease.is_some()).map(|entry| entry.key).collect();
    assert_eq!(live.len(), 2, "one registration each: {live:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_elector_stays_a_voter_and_is_forgotten_after_a_week() {
    let (topo, keys) = (Topo::in_memory(), Keys::below(ROOT));
    let now_ms = super::super::now_ms();
    for (name, days) in [("lately:1", 0), ("forgotten:1", 8)] {
        let elector = Elector::new(name, name, "z1", "cell z1", now_ms - days * 24 * 3_600_000);
        topo.global().put(&keys.seen(name), elector.encode()).await.unwrap();
    }
    let a = start(&topo, "a:1", "z1");
    divided(&a, &["a:1"]).await;
    let forgotten = keys.seen("forgotten:1");
    timeout(LIMIT, async {
        while entries(&topo).await.iter().any(|entry| entry.key == forgotten) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    a.stopped(LIMIT).await;
    let roll = Roll::listed(keys, &entries(&topo).await);
    assert!(roll.alive().is_empty());
    assert!(roll.voters(now_ms).keys().eq(["a:1", "lately:1"]), "also after it took its leave");
}
