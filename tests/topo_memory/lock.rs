//! The lock's lease, with a clock that only moves when all wait.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vtelector::topo::{Kv, KvError, TopoError};

use crate::faulty::{Mode, World, commerce};

const WAIT: Duration = Duration::from_secs(45);

#[tokio::test(start_paused = true)]
async fn a_held_lock_lives_on_and_its_validity_is_counted_from_the_sending() {
    let world = World::default();
    let topo = world.topo().await;
    let lock = topo.lock_shard(&commerce(), "long", WAIT).await.unwrap();
    for _ in 0..100 {
        sleep(Duration::from_millis(700)).await;
        let valid_for = lock.valid_for();
        assert!(valid_for >= Duration::from_secs(4) && valid_for <= Duration::from_secs(5), "{valid_for:?}");
    }
    lock.verify().await.unwrap();
    lock.unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_falls_silent_costs_the_lock_exactly_when_its_lease_may_end() {
    for mode in [Mode::Down, Mode::Silent] {
        let world = World::default();
        let topo = world.topo().await;
        let lock = topo.lock_shard(&commerce(), "ours", WAIT).await.unwrap();
        sleep(Duration::from_millis(1500)).await;
        world.set("global", mode);
        let (valid_for, began) = (lock.valid_for(), Instant::now());
        assert_eq!(valid_for, Duration::from_millis(4500), "the last keepalive was sent half a second ago");
        let lost = lock.lost().await;
        let late = began.elapsed() - valid_for;
        assert!(late < Duration::from_millis(5), "{mode:?}: {late:?} too late");
        assert!(lost.to_string().contains("commerce/0") && lost.reason.contains("keepalive"), "{lost}");
        assert!(lock.verify().await.is_err() && lock.valid_for().is_zero());
        let began = Instant::now();
        assert!(lock.unlock().await.is_err());
        assert!(began.elapsed() <= Duration::from_secs(5), "giving back a lost lock ends as well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_nothing() {
    let world = World::default();
    let topo = world.topo().await;
    let lock = topo.lock_shard(&commerce(), "ours", WAIT).await.unwrap();
    for _ in 0..5 {
        world.set("global", Mode::Down);
        sleep(Duration::from_millis(3500)).await;
        world.set("global", Mode::Up);
        sleep(Duration::from_millis(1000)).await;
        assert!(lock.valid_for() > Duration::from_millis(3900), "{:?}", lock.valid_for());
    }
    lock.verify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_vanished_is_waited_for_as_long_as_its_lease() {
    let world = World::default();
    let (dead, alive) = (world.topo().await, world.clone());
    let lock = dead.lock_shard(&commerce(), "vanishes", WAIT).await.unwrap();
    let key = lock.key().to_owned();
    // Nothing of its process is left: neither keepalive nor revocation.
    let store = alive.store("global");
    let lease = store.inner.lease_grant(Duration::from_secs(5)).await.unwrap();
    let orphan = format!("{}{lease}", &key[..key.rfind('/').unwrap() + 1]);
    store.inner.create(&orphan, b"{}".to_vec(), Some(lease)).await.unwrap();
    lock.unlock().await.unwrap();

    let began = Instant::now();
    let next = dead.lock_shard(&commerce(), "next", WAIT).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
    next.unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_first_come_first_served() {
    let world = World::default();
    let topo = world.topo().await;
    let mut waiting = tokio::task::JoinSet::new();
    let first = topo.lock_shard(&commerce(), "0", WAIT).await.unwrap();
    for number in 1..=5 {
        let topo = topo.clone();
        waiting.spawn(async move {
            let lock = topo.lock_shard(&commerce(), &number.to_string(), WAIT).await.unwrap();
            sleep(Duration::from_secs(6)).await;
            let revision = lock.revision();
            lock.unlock().await.unwrap();
            (number, revision)
        });
        sleep(Duration::from_millis(10)).await;
    }
    first.unlock().await.unwrap();
    let order: Vec<(i32, i64)> = waiting.join_all().await;
    let mut by_revision = order.clone();
    by_revision.sort_by_key(|(_, revision)| *revision);
    assert_eq!(order, by_revision);
    assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_rides_out_an_outage_of_its_store_but_not_one_longer_than_its_lease() {
    let world = World::default();
    let topo = world.topo().await;
    let lock = topo.lock_shard(&commerce(), "holder", WAIT).await.unwrap();
    let waits = async {
        let began = Instant::now();
        let lock = topo.lock_shard(&commerce(), "waiter", WAIT).await.unwrap();
        lock.unlock().await.unwrap();
        began.elapsed()
    };
    let outage = async {
        sleep(Duration::from_secs(1)).await;
        world.set("global", Mode::Down);
        sleep(Duration::from_secs(3)).await;
        world.set("global", Mode::Up);
        sleep(Duration::from_secs(1)).await;
        lock.unlock().await.unwrap();
    };
    let (waited, ()) = tokio::join!(waits, outage);
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(6), "{waited:?}");

    let lock = topo.lock_shard(&commerce(), "holder", WAIT).await.unwrap();
    let waits = async {
        let began = Instant::now();
        (topo.lock_shard(&commerce(), "waiter", WAIT).await.err().unwrap(), began.elapsed())
    };
    let outage = async {
        sleep(Duration::from_secs(1)).await;
        world.set("global", Mode::Down);
    };
    let ((error, waited), ()) = tokio::join!(waits, outage);
    assert!(matches!(error, TopoError::LockLost { .. } | TopoError::Kv { .. }), "{error}");
    assert!(waited < Duration::from_secs(12), "{waited:?}: {error}");
    drop(lock);
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_making_is_not_answered_is_given_up() {
    let world = World::default();
    let topo = world.topo().await;
    world.set("global", Mode::DeafToWrites);
    let error = topo.lock_shard(&commerce(), "deaf", WAIT).await.err().unwrap();
    assert!(matches!(&error, TopoError::Kv { source: KvError::Unreachable { unknown_outcome: true, .. }, .. }), "{error:?}");
    world.set("global", Mode::Up);
    // Its key, which was made after all, does not stay.
    let lock = timeout(Duration::from_secs(1), topo.lock_shard(&commerce(), "next", WAIT)).await.unwrap().unwrap();
    lock.unlock().await.unwrap();
}
