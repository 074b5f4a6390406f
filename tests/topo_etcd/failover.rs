//! Endpoints that refuse, hang, drop packets, lose answers, or come back.

use std::time::Duration;

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use vtelector::topo::{EtcdKv, Kv, KvError, Topo, TopoSettings, WatchEvent};

use crate::{
    proxy::Proxy,
    server::{Etcd, free_port},
};

const LIMIT: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

fn kv(endpoints: &[&str]) -> EtcdKv {
    EtcdKv::new(&endpoints.join(","), None, LIMIT).unwrap()
}

fn nobody() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Accepts connections and says nothing.
async fn hung() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().to_string(), listener)
}

/// Drops every SYN: its queue is full and nobody takes from it.
async fn dropping() -> (String, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
        assert!(queued.len() < 100, "the queue never fills up");
    }
    (address.to_string(), listener, queued)
}

/// The error, its text, and how long it took.
async fn failure<T: std::fmt::Debug>(call: impl Future<Output = Result<T, KvError>>) -> (KvError, String, Duration) {
    let began = Instant::now();
    let error = call.await.unwrap_err();
    let text = error.to_string();
    (error, text, began.elapsed())
}

fn is_unknown(error: &KvError) -> bool {
    matches!(error, KvError::Unreachable { unknown_outcome: true, .. })
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named_at_once() {
    let (one, two) = (nobody(), nobody());
    let kv = kv(&[&one, &two]);
    let (error, text, took) = failure(kv.put("/a", b"1".to_vec())).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert!(!is_unknown(&error), "nothing was sent: {text}");
    for part in ["writing /a", one.as_str(), two.as_str(), "refused"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let settings = TopoSettings {
        global_server_address: one.clone(),
        global_root: "/vitess/global".to_owned(),
        tls: None,
        lease_ttl: Duration::from_secs(5),
        request_timeout: LIMIT,
    };
    let error = Topo::connect(&settings).await.err().unwrap().to_string();
    assert!(error.contains("/vitess/global") && error.contains(&one) && error.contains("refused"), "{error}");
    let nowhere = Topo::connect(&TopoSettings { global_server_address: " ,".to_owned(), ..settings.clone() }).await;
    assert!(nowhere.err().unwrap().to_string().contains("host:port"));
    let nonsense = Topo::connect(&TopoSettings { global_server_address: "a b:1".to_owned(), ..settings }).await;
    assert!(nonsense.err().unwrap().to_string().contains("a b:1"));
}

#[tokio::test]
async fn an_etcd_that_hangs_ends_every_call_within_its_bound() {
    let (silent, _listener) = hung().await;
    let kv = kv(&[&silent]);
    let bound = 2 * LIMIT + Duration::from_millis(300);
    let (error, text, took) = failure(kv.create("/a", b"1".to_vec(), None)).await;
    assert!(took < bound && is_unknown(&error), "{took:?}: {text}");
    assert!(text.contains("creating /a") && text.contains(&silent) && text.contains("silent for 1s"), "{text}");
    let (_, text, took) = failure(kv.get("/a")).await;
    assert!(took < bound, "{took:?}: {text}");
    let (_, text, took) = failure(kv.lease_keepalive(7)).await;
    assert!(took < bound && text.contains("lease 7"), "{took:?}: {text}");
    let began = Instant::now();
    assert!(kv.watch("/a", 1).await.is_err() && began.elapsed() < bound);
}

#[tokio::test]
async fn a_bad_endpoint_costs_one_limit_once_and_then_nothing() {
    let etcd = Etcd::start().await;
    let (silent, _listener) = hung().await;
    let (black, _queue, _queued) = dropping().await;
    for (bad, limit) in [(vec![nobody(), nobody()], Duration::ZERO), (vec![silent], LIMIT), (vec![black], LIMIT)] {
        let endpoints: Vec<&str> = bad.iter().map(String::as_str).chain([etcd.address.as_str()]).collect();
        let kv = kv(&endpoints);
        let began = Instant::now();
        kv.put("/a", b"1".to_vec()).await.unwrap();
        assert!(began.elapsed() < limit + Duration::from_millis(400), "{endpoints:?}: {:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..20 {
            kv.get("/a").await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_millis(400), "{endpoints:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_at_another_endpoint() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(&etcd.address).await;
    let other = etcd.kv();
    // Each time by a store of its own, whose first choice is the proxy.
    let through = async || {
        proxy.heal();
        let kv = kv(&[&proxy.address, &etcd.address]);
        kv.get("/warm").await.unwrap();
        kv
    };

    let kv = through().await;
    let lease = kv.lease_grant(Duration::from_secs(60)).await.unwrap();
    proxy.go_deaf();
    let created = kv.create("/leased", b"1".to_vec(), Some(lease)).await.unwrap();
    let entry = other.get("/leased").await.unwrap().unwrap();
    assert_eq!((entry.version, entry.create_revision, entry.lease), (created, created, Some(lease)), "made once, by us");

    let kv = through().await;
    proxy.go_deaf();
    let updated = kv.update("/leased", b"2".to_vec(), created).await.unwrap();
    assert_eq!(other.get("/leased").await.unwrap().unwrap().version, updated);
    assert_eq!(updated, created + 1, "written once");

    let kv = through().await;
    proxy.go_deaf();
    assert!(kv.delete("/leased", Some(updated)).await.unwrap());
    assert_eq!(other.get("/leased").await.unwrap(), None);

    // What somebody else has made is not taken for ours.
    let kv = through().await;
    other.create("/theirs", b"1".to_vec(), None).await.unwrap();
    proxy.go_deaf();
    assert!(matches!(kv.create("/theirs", b"2".to_vec(), None).await, Err(KvError::Exists { .. })));
}

#[tokio::test]
async fn a_write_that_was_overtaken_while_its_answer_was_lost_stays_unknown() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(&etcd.address).await;
    let other = etcd.kv();
    let version = other.put("/a", b"0".to_vec()).await.unwrap();
    let kv = kv(&[&proxy.address, &etcd.address]);
    kv.get("/a").await.unwrap();
    proxy.go_deaf();
    let overtakes = async {
        let mut watch = other.watch("/a", version + 1).await.unwrap();
        while !matches!(watch.events.recv().await.unwrap(), WatchEvent::Put(entry) if entry.value == b"1") {}
        other.put("/a", b"2".to_vec()).await.unwrap();
    };
    let (updated, ()) = tokio::join!(kv.update("/a", b"1".to_vec(), version), overtakes);
    assert!(is_unknown(updated.as_ref().unwrap_err()), "{updated:?}");
    assert_eq!(other.get("/a").await.unwrap().unwrap().value, b"2", "and is not repeated over what came later");
}

#[tokio::test]
async fn a_connection_that_failed_twice_is_replaced() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(&etcd.address).await;
    let kv = kv(&[&proxy.address]);
    kv.get("/a").await.unwrap();
    assert_eq!(proxy.accepted(), 1);
    proxy.go_deaf();
    // Two attempts on the same connection.
    kv.get("/a").await.unwrap_err();
    proxy.heal();
    let began = Instant::now();
    kv.get("/a").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(proxy.accepted(), 2);

    // Callers who give up early count as well: the third of them finds a fresh connection.
    proxy.go_deaf();
    for _ in 0..2 {
        assert!(timeout(Duration::from_millis(600), kv.get("/a")).await.is_err());
    }
    proxy.heal();
    timeout(Duration::from_millis(600), kv.get("/a")).await.unwrap().unwrap();
    assert_eq!(proxy.accepted(), 3);
}

#[tokio::test]
async fn a_lock_survives_the_endpoint_that_it_was_taken_at() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(&etcd.address).await;
    let settings = TopoSettings { global_server_address: format!("{},{}", proxy.address, etcd.address), ..etcd.settings() };
    let topo = Topo::connect(&settings).await.unwrap();
    topo.create_keyspace("commerce", &Default::default()).await.unwrap();
    let shard = "commerce/0".parse().unwrap();
    topo.create_shard(&shard, SOON).await.unwrap();
    let lock = topo.lock_shard(&shard, "ours", SOON).await.unwrap();
    proxy.go_deaf();
    assert!(timeout(Duration::from_secs(5), lock.lost()).await.is_err(), "the lease is 2 s");
    lock.verify().await.unwrap();
    lock.unlock().await.unwrap();
}

#[tokio::test]
async fn a_watch_that_can_promise_nothing_more_ends() {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::to(&etcd.address).await;
    let kv = kv(&[&proxy.address]);
    let version = kv.put("/a", b"1".to_vec()).await.unwrap();
    let end_of = async |watch: &mut vtelector::topo::Watch| {
        let began = Instant::now();
        while timeout(SOON, watch.events.recv()).await.unwrap().is_some() {}
        began.elapsed()
    };

    // Quiet, but alive: signs of life come.
    let mut watch = kv.watch("/a", version + 1).await.unwrap();
    let event = timeout(SOON, watch.events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Progress(revision) if revision >= version), "{event:?}");
    proxy.go_deaf();
    let took = end_of(&mut watch).await;
    assert!(took < Duration::from_secs(6), "{took:?}");

    // The server goes away.
    proxy.heal();
    kv.get("/a").await.unwrap_err();
    let mut watch = kv.watch("/a", version + 1).await.unwrap();
    etcd.kill().await;
    assert!(end_of(&mut watch).await < Duration::from_secs(2));
    etcd.restart().await;
    let kv = etcd.kv();
    let mut watch = kv.watch("/a", version).await.unwrap();
    let event = timeout(SOON, watch.events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Put(entry) if entry.version == version));
}

#[tokio::test]
async fn a_compacted_revision_is_an_error_and_not_a_silent_gap() {
    let etcd = Etcd::start().await;
    let kv = etcd.kv();
    let first = kv.put("/a", b"1".to_vec()).await.unwrap();
    kv.put("/a", b"2".to_vec()).await.unwrap();
    let last = kv.put("/a", b"3".to_vec()).await.unwrap();
    etcd.client().await.compact(last, None).await.unwrap();
    let error = kv.watch("/a", first).await.err().unwrap();
    assert!(matches!(&error, KvError::Compacted { revision, .. } if *revision == first), "{error}");
    let error = kv.get_at("/a", first).await.unwrap_err();
    assert!(matches!(error, KvError::Compacted { .. }) && error.to_string().contains("/a"), "{error}");
}

#[tokio::test]
async fn an_etcd_that_was_stopped_answers_again_after_it_goes_on() {
    let etcd = Etcd::start().await;
    let kv = EtcdKv::new(&etcd.address, None, LIMIT).unwrap();
    let version = kv.put("/a", b"1".to_vec()).await.unwrap();
    etcd.signal("STOP").await;
    let (error, text, took) = failure(kv.update("/a", b"2".to_vec(), version)).await;
    assert!(is_unknown(&error) && took < 2 * LIMIT + Duration::from_millis(300), "{took:?}: {text}");
    etcd.signal("CONT").await;
    let began = Instant::now();
    kv.put("/a", b"3".to_vec()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
