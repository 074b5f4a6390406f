//! The agent's part of an emergency reparent: servers that are killed, frozen or hang, on real MySQL and etcd.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable};
use support::{APP, LIMIT, Signal, World, eventually, wait_health};
use tokio::{task::JoinSet, time::Instant};
use vtelector::{
    pb::{replicationdata::StopReplicationMode, topodata::TabletType},
    tablet::{Call, TabletErrorKind, TabletManager},
};

const IO_ONLY: StopReplicationMode = StopReplicationMode::Iothreadonly;

/// As long as an elector waits for a demotion.
const SHORT: Call = Call { timeout: Duration::from_millis(400), lock_revision: None };

const OFFLINE_MODE: &str = "SELECT CAST(@@global.offline_mode AS CHAR)";

/// Three members, the first one primary, and a table.
async fn world() -> World {
    let world = World::with_primary(3).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    world.write(0, "CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    world
}

/// One client's write that is on its way; it is given up when dropped.
struct Write(JoinSet<bool>);

impl Write {
    fn send(mut conn: Conn, id: u32) -> Self {
        let mut task = JoinSet::new();
        task.spawn(async move { conn.query_drop(format!("INSERT INTO app.t VALUES ({id})")).await.is_ok() });
        Self(task)
    }

    /// Whether it was acknowledged.
    async fn acknowledged(mut self) -> bool {
        let ended = tokio::time::timeout(LIMIT, self.0.join_next()).await.expect("the client is neither answered nor cut off");
        ended.unwrap().unwrap()
    }
}

/// An open connection of a client.
async fn client(world: &World, at: usize) -> Conn {
    Conn::new(world.mysqld(at).tcp_opts(APP)).await.unwrap()
}

/// As the elector does with every acker, before it promotes one of them.
async fn stop_ackers(world: &World) {
    for at in [1, 2] {
        let stopped =
            world.tablets.stop_replication_and_get_status(&world.record(at).await, IO_ONLY, world.call()).await.unwrap();
        assert_eq!(stopped.after.unwrap().io_state, 1);
    }
}

/// What happens after the demotion, answered or not.
async fn promote_second(world: &World) {
    let elect = world.record(1).await;
    world.tablets.promote_replica(&elect, true, world.call()).await.unwrap();
    world.follow(2, 1).await;
    world.wait_shard_primary(1).await;
    world.write(1, "INSERT INTO app.t VALUES (1000)").await.unwrap();
}

/// Waits until a commit hangs there.
async fn wait_hung(world: &World, at: usize) {
    let sql =
        "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_wait_sessions'";
    eventually("a commit that waits for an acknowledgement", LIMIT, async || match world.mysqld(at).value(sql).await {
        Ok(count) if count != "0" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

async fn wait_type(world: &World, at: usize, wanted: TabletType) {
    eventually("the record", LIMIT, async || match world.record(at).await.r#type() {
        found if found == wanted => Ok(()),
        found => Err(found.as_str_name()),
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_acknowledges_nothing_after_its_thaw_and_says_that_it_is_errant() {
    let world = world().await;
    stop_ackers(&world).await;
    let hung = Write::send(client(&world, 0).await, 1);
    wait_hung(&world, 0).await;
    let open = client(&world, 0).await;
    world.mysqld(0).signal(Signal::Freeze).unwrap();
    let queued = Write::send(open, 2);

    // Whoever asks a frozen server takes a connection with him; the demotion comes after all of them.
    let old = world.record(0).await;
    let asking: Vec<_> = (0..8).map(|_| world.tablets.full_status(&old, SHORT)).collect();
    for answer in futures_util::future::join_all(asking).await {
        answer.unwrap_err();
    }
    let begun = Instant::now();
    let demoted = world.tablets.demote_primary(&old, true, SHORT).await.unwrap_err();
    assert_eq!(demoted.kind, TabletErrorKind::UnknownOutcome, "{demoted}");
    assert!(demoted.message.contains("mysqld does not answer"), "not told early: {demoted} after {:?}", begun.elapsed());
    promote_second(&world).await;

    world.mysqld(0).signal(Signal::Thaw).unwrap();
    assert!(!hung.acknowledged().await, "acknowledged after the thaw");
    assert!(!queued.acknowledged().await, "acknowledged after the thaw");
    wait_type(&world, 0, TabletType::Replica).await;
    wait_health(&world, 0, "Errant GTID detected").await;
    assert!(!world.mysqld(0).is_writable().await.unwrap());
    // It stays closed to clients, and keeps nobody from the shard's lock.
    assert_eq!(world.mysqld(0).value(OFFLINE_MODE).await.unwrap(), "1");
    world.topo.lock_shard(&world.shard, "somebody reparents", LIMIT).await.unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_without_a_transaction_of_its_own_comes_back_as_a_replica() {
    let world = world().await;
    world.mysqld(0).signal(Signal::Freeze).unwrap();
    world.tablets.demote_primary(&world.record(0).await, true, SHORT).await.unwrap_err();
    stop_ackers(&world).await;
    promote_second(&world).await;
    world.mysqld(0).signal(Signal::Thaw).unwrap();
    world.wait_replicating(0, 1).await;
    wait_type(&world, 0, TabletType::Replica).await;
    assert!(!world.mysqld(0).is_writable().await.unwrap());
    eventually("the fence lifted", LIMIT, async || match world.mysqld(0).value(OFFLINE_MODE).await {
        Ok(off) if off == "0" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_that_nobody_demoted_steps_down_at_its_thaw() {
    let world = world().await;
    stop_ackers(&world).await;
    let hung = Write::send(client(&world, 0).await, 1);
    wait_hung(&world, 0).await;
    world.mysqld(0).signal(Signal::Freeze).unwrap();
    promote_second(&world).await;
    // Its agent has read the shard record, and has said goodbye to its server's answers.
    wait_health(&world, 0, "MySQL").await;
    world.mysqld(0).signal(Signal::Thaw).unwrap();
    assert!(!hung.acknowledged().await, "acknowledged after the thaw");
    wait_health(&world, 0, "Errant GTID detected").await;
    assert!(!world.mysqld(0).is_writable().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_fails_its_demotion_at_once_and_comes_back_as_a_replica() {
    let mut world = world().await;
    world.members[0].mysqld.kill();
    let begun = Instant::now();
    let demoted = world.tablets.demote_primary(&world.record(0).await, true, SHORT).await.unwrap_err();
    assert_eq!(demoted.kind, TabletErrorKind::MysqlDown, "{demoted}");
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    stop_ackers(&world).await;
    promote_second(&world).await;
    // Nothing is to be done on a dead server: the record need not wait for it.
    wait_type(&world, 0, TabletType::Replica).await;
    world.members[0].mysqld.restart().unwrap();
    world.members[0].mysqld.ready().await.unwrap();
    world.wait_replicating(0, 1).await;
    assert!(!world.mysqld(0).is_writable().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_that_comes_back_errant_stays_out_and_says_so() {
    let mut world = world().await;
    stop_ackers(&world).await;
    let hung = Write::send(client(&world, 0).await, 1);
    wait_hung(&world, 0).await;
    world.members[0].mysqld.kill();
    assert!(!hung.acknowledged().await);
    promote_second(&world).await;
    world.members[0].mysqld.restart().unwrap();
    world.members[0].mysqld.ready().await.unwrap();
    wait_health(&world, 0, "Errant GTID detected").await;
    assert!(!world.mysqld(0).is_writable().await.unwrap());
    assert_eq!(world.record(0).await.r#type(), TabletType::Replica);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_demotion_while_commits_flow_leaves_nothing_behind() {
    let world = world().await;
    let mut clients = JoinSet::new();
    for number in 1..=4 {
        let mut conn = client(&world, 0).await;
        clients.spawn(async move {
            let mut acknowledged = 0;
            for id in (number * 10_000).. {
                match conn.query_drop(format!("INSERT INTO app.t VALUES ({id})")).await {
                    Ok(()) => acknowledged += 1,
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    let rows = "SELECT CAST(COUNT(*) AS CHAR) FROM app.t";
    eventually("some rows", LIMIT, async || match world.mysqld(0).value(rows).await {
        Ok(count) if count.parse::<u32>().is_ok_and(|count| count > 50) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    let begun = Instant::now();
    let demoted = world.tablets.demote_primary(&world.record(0).await, true, world.call()).await.unwrap();
    let took = begun.elapsed();
    println!("forced demotion while commits flow: {took:?}");
    // Half of what MySQL needs for switching semi-sync off: that is not on this way.
    assert!(took < Duration::from_millis(500), "{took:?}");
    let acknowledged: i32 = clients.join_all().await.into_iter().sum();
    stop_ackers(&world).await;
    let elect = world.record(1).await;
    world.tablets.wait_for_position(&elect, &demoted.position, world.call()).await.unwrap();
    assert_eq!(world.mysqld(1).value(rows).await.unwrap(), acknowledged.to_string());
    promote_second(&world).await;
    world.follow(0, 1).await;
    world.wait_replicating(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_demotion_that_hangs_keeps_no_forced_one_waiting_and_is_not_taken_back() {
    let world = world().await;
    stop_ackers(&world).await;
    let hung = Write::send(client(&world, 0).await, 1);
    wait_hung(&world, 0).await;
    let by = |revision, timeout| Call { timeout, lock_revision: Some(revision) };
    let old = world.record(0).await;
    let planned = world.tablets.demote_primary(&old, false, by(1_000_001, Duration::from_secs(4)));
    let forced = async {
        // It waits for the commit that hangs.
        let sql = "SELECT CAST(COUNT(*) AS CHAR) FROM performance_schema.threads WHERE processlist_info = 'SET GLOBAL super_read_only = ON'";
        eventually("the planned demotion under way", LIMIT, async || match world.mysqld(0).value(sql).await {
            Ok(count) if count == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
        let refused = world.tablets.demote_primary(&old, true, by(1_000_000, LIMIT)).await.unwrap_err();
        assert_eq!(refused.kind, TabletErrorKind::Overtaken, "{refused}");
        let begun = Instant::now();
        let cut = async {
            assert!(!hung.acknowledged().await, "a commit that hung was acknowledged");
            begun.elapsed()
        };
        tokio::join!(world.tablets.demote_primary(&old, true, by(1_000_002, LIMIT)), cut)
    };
    let (planned, (forced, cut)) = tokio::join!(planned, forced);
    planned.unwrap_err();
    forced.unwrap();
    assert!(cut < Duration::from_secs(1), "the client was cut off after {cut:?}");
    assert!(!world.mysqld(0).is_writable().await.unwrap());
}
