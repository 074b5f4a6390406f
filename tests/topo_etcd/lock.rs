//! The shard lock beside other clients of etcd.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use vtelector::{
    pb::topodata,
    topo::{LockOr, ShardId, Topo, TopoError},
};

use crate::server::Etcd;

const SOON: Duration = Duration::from_secs(10);
const LOCKS: &str = "/vitess/global/keyspaces/commerce/shards/0/locks/";

fn shard() -> ShardId {
    "commerce/0".parse().unwrap()
}

async fn commerce(etcd: &Etcd) -> Topo {
    let topo = etcd.topo().await;
    topo.create_keyspace("commerce", &topodata::Keyspace::default()).await.unwrap();
    topo.create_shard(&shard(), SOON).await.unwrap();
    topo
}

/// The keys in the queue, the holder first.
async fn queue(client: &mut Client) -> Vec<(String, i64)> {
    let listing = client.get(LOCKS, Some(GetOptions::new().with_prefix())).await.unwrap();
    let mut keys: Vec<_> =
        listing.kvs().iter().map(|kv| (kv.create_revision(), kv.key_str().unwrap().to_owned(), kv.lease())).collect();
    keys.sort();
    keys.into_iter().map(|(_, key, lease)| (key, lease)).collect()
}

/// Waits until so many stand in the queue.
async fn queue_of(client: &mut Client, len: usize) -> Vec<(String, i64)> {
    let deadline = Instant::now() + SOON;
    loop {
        let keys = queue(client).await;
        if keys.len() == len {
            return keys;
        }
        assert!(Instant::now() < deadline, "{keys:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A lock taken by the rules of Vitess with a client of its own.
struct OtherClient {
    client: Client,
    lease: i64,
    revision: i64,
}

impl OtherClient {
    async fn enter(etcd: &Etcd, ttl_s: i64, contents: &str) -> Self {
        let mut client = etcd.client().await;
        let lease = client.lease_grant(ttl_s, None).await.unwrap().id();
        let key = format!("{LOCKS}{lease}");
        let put = TxnOp::put(key.clone(), contents, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when([Compare::version(key, CompareOp::Equal, 0)]).and_then([put]);
        let done = client.txn(txn).await.unwrap();
        assert!(done.succeeded());
        Self { client, lease, revision: done.header().unwrap().revision() }
    }

    async fn is_first(&mut self) -> bool {
        let older = GetOptions::new().with_prefix().with_max_mod_revision(self.revision - 1).with_limit(1);
        self.client.get(LOCKS, Some(older)).await.unwrap().kvs().is_empty()
    }

    async fn unlock(mut self) {
        self.client.lease_revoke(self.lease).await.unwrap();
    }
}

const FOREIGN: &str = "{\n  \"Action\": \"EmergencyReparentShard\",\n  \"HostName\": \"vtctld-1\",\n  \"UserName\": \"vitess\",\n  \"Time\": \"2026-01-02T03:04:05Z\",\n  \"Options\": {},\n  \"Status\": \"Running\"\n}";

#[tokio::test]
async fn our_key_looks_like_one_of_vitess() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let mut client = etcd.client().await;
    let action = "PlannedReparentShard(zone1-0000000101, AvoidPrimary = <nil>)";
    let lock = topo.lock_shard(&shard(), action, SOON).await.unwrap();

    let keys = queue(&mut client).await;
    let [(key, lease)] = keys.as_slice() else { panic!("{keys:?}") };
    assert_eq!(key, &format!("{LOCKS}{lease}"), "the key's name is its lease, as a decimal number");
    let read = client.get(key.as_str(), None).await.unwrap();
    assert_eq!(read.kvs()[0].create_revision(), lock.revision());
    let text = read.kvs()[0].value_str().unwrap();
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(json["Action"], action);
    assert!(
        text.starts_with("{\n  \"Action\": \"PlannedReparentShard(zone1-0000000101, AvoidPrimary = \\u003cnil\\u003e)\",\n"),
        "{text}"
    );
    assert!(text.ends_with(",\n  \"Options\": {},\n  \"Status\": \"Running\"\n}"), "{text}");

    lock.verify().await.unwrap();
    assert!(lock.valid_for() > Duration::from_secs(1) && lock.valid_for() <= Duration::from_secs(2));
    lock.put_guarded("/vtelector/intent", b"promote".to_vec()).await.unwrap();
    lock.unlock().await.unwrap();
    assert_eq!(queue(&mut client).await, []);
    assert_eq!(client.get("/vtelector/intent", None).await.unwrap().kvs()[0].value(), b"promote");
}

#[tokio::test]
async fn a_lock_of_another_client_makes_us_wait_and_ours_makes_it_wait() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let mut client = etcd.client().await;
    let first = OtherClient::enter(&etcd, 60, FOREIGN).await;

    let mut waiting = JoinSet::new();
    waiting.spawn({
        let topo = topo.clone();
        async move { topo.lock_shard(&shard(), "ours", SOON).await }
    });
    queue_of(&mut client, 2).await;
    let mut last = OtherClient::enter(&etcd, 60, FOREIGN).await;
    assert!(waiting.try_join_next().is_none() && !last.is_first().await);

    first.unlock().await;
    let ours = timeout(SOON, waiting.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(queue(&mut client).await[0].0, ours.key(), "we come before the one that came after us");
    assert!(!last.is_first().await);

    ours.unlock().await.unwrap();
    assert!(last.is_first().await);
    last.unlock().await;
}

#[tokio::test]
async fn a_wait_that_is_too_long_names_the_holder_and_leaves_no_key() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let mut client = etcd.client().await;
    let holder = OtherClient::enter(&etcd, 60, FOREIGN).await;
    let held = format!("{LOCKS}{}", holder.lease);

    let began = Instant::now();
    let error = topo.lock_shard(&shard(), "ours", Duration::from_millis(300)).await.err().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let text = error.to_string();
    assert!(matches!(error, TopoError::LockTimeout { .. }), "{text}");
    for part in ["commerce/0", "EmergencyReparentShard on vtctld-1 since 2026-01-02T03:04:05Z", held.as_str(), "300ms"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert_eq!(queue(&mut client).await.len(), 1, "only the holder's key is left");

    let error = topo.try_lock_shard(&shard(), "ours").await.err().unwrap();
    assert!(matches!(error, TopoError::LockTimeout { .. }) && error.to_string().contains("vtctld-1"), "{error}");
    assert_eq!(queue(&mut client).await.len(), 1);
    holder.unlock().await;
    topo.try_lock_shard(&shard(), "ours").await.unwrap().unlock().await.unwrap();
}

#[tokio::test]
async fn a_killed_holder_frees_the_lock_after_its_lease() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    // Nobody keeps this lease alive.
    let _killed = OtherClient::enter(&etcd, 2, FOREIGN).await;
    let began = Instant::now();
    let lock = topo.lock_shard(&shard(), "ours", SOON).await.unwrap();
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(1000) && waited < Duration::from_secs(5), "{waited:?}");
    lock.unlock().await.unwrap();
}

#[tokio::test]
async fn two_of_ours_take_turns_and_the_lease_outlives_its_ttl() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let first = topo.lock_shard(&shard(), "first", SOON).await.unwrap();
    let mut second = JoinSet::new();
    second.spawn({
        let topo = etcd.topo().await;
        async move { topo.lock_shard(&shard(), "second", SOON).await }
    });
    queue_of(&mut etcd.client().await, 2).await;
    // Longer than the lease of either.
    assert!(timeout(Duration::from_secs(4), first.lost()).await.is_err(), "it is kept alive");
    assert!(second.try_join_next().is_none());
    first.verify().await.unwrap();
    assert!(first.valid_for() > Duration::from_millis(500));
    let revision = first.revision();
    first.unlock().await.unwrap();
    let second = timeout(SOON, second.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    assert!(second.revision() > revision);
}

#[tokio::test]
async fn a_dropped_lock_and_a_dropped_wait_leave_the_queue() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let mut client = etcd.client().await;
    let lock = topo.lock_shard(&shard(), "dropped", SOON).await.unwrap();
    let waiting = async { topo.lock_shard(&shard(), "gives up", SOON).await };
    assert!(timeout(Duration::from_millis(500), waiting).await.is_err());
    queue_of(&mut client, 1).await;
    drop(lock);
    queue_of(&mut client, 0).await;
    let lock = topo.lock_shard(&shard(), "next", SOON).await.unwrap();
    topo.shutdown(SOON).await;
    assert_eq!(queue(&mut client).await, [], "a shutdown gives back what is still held");
    assert!(lock.verify().await.is_err());
}

#[tokio::test]
async fn a_lease_revoked_behind_our_back_is_noticed() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let mut client = etcd.client().await;
    let lock = topo.lock_shard(&shard(), "ours", SOON).await.unwrap();
    let lease = queue(&mut client).await[0].1;
    client.lease_revoke(lease).await.unwrap();

    let error = lock.put_guarded("/vtelector/intent", b"promote".to_vec()).await.unwrap_err();
    assert!(matches!(error, LockOr::Lost(_)) && error.to_string().contains("lost topology lock on commerce/0"), "{error}");
    assert_eq!(client.get("/vtelector/intent", None).await.unwrap().kvs().len(), 0, "nothing was written");
    let lost = timeout(SOON, lock.lost()).await.unwrap();
    assert_eq!(lost.shard, shard());
    assert_eq!(lock.verify().await.unwrap_err().shard, shard());
    assert_eq!(lock.valid_for(), Duration::ZERO);
    assert!(lock.unlock().await.is_err());

    // The same, seen first by the keepalive.
    let lock = topo.lock_shard(&shard(), "ours", SOON).await.unwrap();
    let lease = queue(&mut client).await[0].1;
    client.lease_revoke(lease).await.unwrap();
    let lost = timeout(Duration::from_millis(1500), lock.lost()).await.unwrap();
    assert!(lost.reason.contains("expired or was revoked"), "{lost}");
}

#[tokio::test]
async fn a_stopped_etcd_costs_the_lock_by_the_end_of_its_lease() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let lock = topo.lock_shard(&shard(), "ours", SOON).await.unwrap();
    etcd.signal("STOP").await;
    let valid_for = lock.valid_for();
    assert!(valid_for > Duration::ZERO);
    let stopped = Instant::now();
    let lost = timeout(SOON, lock.lost()).await.unwrap();
    let until_lost = stopped.elapsed();
    assert!(
        until_lost >= valid_for && until_lost < valid_for + Duration::from_millis(1200),
        "{until_lost:?}, {valid_for:?}: {lost}"
    );
    assert_eq!(lock.valid_for(), Duration::ZERO);
    assert!(lock.verify().await.is_err());
    etcd.signal("CONT").await;
}

#[tokio::test]
async fn a_shard_that_was_never_made_cannot_be_locked() {
    let etcd = Etcd::start().await;
    let topo = commerce(&etcd).await;
    let error = topo.lock_shard(&"commerce/80-".parse().unwrap(), "ours", SOON).await.err().unwrap();
    assert!(error.is_not_found() && error.to_string().contains("shard commerce/80-"), "{error}");
}
