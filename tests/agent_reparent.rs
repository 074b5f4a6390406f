//! The agent's part of a reparent, on real MySQL and etcd.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::{LIMIT, World};
use tokio::time::Instant;
use vtelector::{
    pb::{replicationdata::StopReplicationMode, topodata::TabletType},
    tablet::{Call, TabletErrorKind, TabletManager},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switch_moves_the_primary_without_the_second_that_semi_sync_costs() {
    let world = World::with_primary(3).await;
    let call = world.call();
    world.write(0, "CREATE DATABASE app").await.unwrap();
    world.write(0, "CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    world.write(0, "INSERT INTO app.t VALUES (1)").await.unwrap();
    let (old, elect) = (world.record(0).await, world.record(1).await);
    let status = world.tablets.full_status(&old, call).await.unwrap();
    assert!(status.semi_sync_primary_enabled && status.semi_sync_primary_timeout == 1_000_000_000_000_000_000, "{status:?}");
    assert_eq!((status.tablet_type, status.read_only), (TabletType::Primary as i32, false));

    let begun = Instant::now();
    let demoted = world.tablets.demote_primary(&old, false, call).await.unwrap();
    let demotion = begun.elapsed();
    let refused = world.write(0, "INSERT INTO app.t VALUES (2)").await.unwrap_err().to_string();
    assert!(refused.contains("1290"), "{refused}");
    world.tablets.wait_for_position(&elect, &demoted.position, call).await.unwrap();
    let promotion = Instant::now();
    let position = world.tablets.promote_replica(&elect, true, call).await.unwrap();
    let promotion = promotion.elapsed();
    assert_eq!(position, demoted.position);
    let followed = Instant::now();
    let created_ns = 1_700_000_000_000_000_000;
    let journal = async {
        let alias = &world.members[1].alias;
        world.tablets.populate_reparent_journal(&elect, created_ns, "PlannedReparentShard", alias, &position, call).await
    };
    let (a, b, journal) = tokio::join!(world.try_follow(0, 1, created_ns), world.try_follow(2, 1, created_ns), journal);
    a.unwrap();
    b.unwrap();
    journal.unwrap();
    println!("demotion {demotion:?}, promotion {promotion:?}, following {:?}", followed.elapsed());
    // Half of what MySQL needs for switching semi-sync off: that is not on this way.
    assert!(demotion < Duration::from_millis(500), "{demotion:?}");

    world.write(1, "INSERT INTO app.t VALUES (3)").await.unwrap();
    world.wait_shard_primary(1).await;
    let (old, elect) = (world.record(0).await, world.record(1).await);
    assert_eq!((old.r#type(), elect.r#type()), (TabletType::Replica, TabletType::Primary));
    assert!(old.primary_term_start_time.is_none() && elect.primary_term_start_time.is_some());
    let old = world.tablets.full_status(&old, call).await.unwrap();
    assert!(old.super_read_only && old.semi_sync_replica_status, "{old:?}");
    assert_eq!(world.tablets.read_reparent_journal_info(&elect, call).await.unwrap(), 1);
    let again = world.tablets.populate_reparent_journal(&elect, created_ns, "x", &world.members[1].alias, &position, call).await;
    assert_eq!(again.unwrap_err().kind, TabletErrorKind::AlreadyDone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_primary_acknowledges_nothing_before_a_replica_follows_also_when_it_was_primary_before() {
    let world = World::with_primary(2).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    world.write(0, "CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    for (round, (from, to)) in [(0, 1), (1, 0), (0, 1)].into_iter().enumerate() {
        let (old, elect) = (world.record(from).await, world.record(to).await);
        let demoted = world.tablets.demote_primary(&old, false, world.call()).await.unwrap();
        world.tablets.wait_for_position(&elect, &demoted.position, world.call()).await.unwrap();
        world.tablets.promote_replica(&elect, true, world.call()).await.unwrap();
        let sql = format!("INSERT INTO app.t VALUES ({round})");
        let write = world.write(to, &sql);
        tokio::pin!(write);
        let waiting = tokio::time::timeout(Duration::from_millis(200), &mut write).await;
        assert!(waiting.is_err(), "round {round}: acknowledged to nobody's knowledge: {waiting:?}");
        world.follow(from, to).await;
        tokio::time::timeout(LIMIT, write).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demotion_is_undone_and_semi_sync_stays_on() {
    let world = World::with_primary(2).await;
    let primary = world.record(0).await;
    world.tablets.demote_primary(&primary, false, world.call()).await.unwrap();
    world.wait_writable(0, false).await;
    world.tablets.undo_demote_primary(&primary, true, world.call()).await.unwrap();
    world.write(0, "CREATE DATABASE app").await.unwrap();
    let status = world.tablets.full_status(&primary, world.call()).await.unwrap();
    assert!(status.semi_sync_primary_enabled && !status.read_only);
    let replica = world.tablets.undo_demote_primary(&world.record(1).await, true, world.call()).await.unwrap_err();
    assert_eq!(replica.kind, TabletErrorKind::Precondition, "a replica is never made writable: {replica}");
    assert!(!world.mysqld(1).is_writable().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demotion_that_cannot_end_is_taken_back() {
    let world = World::with_primary(2).await;
    let (primary, replica) = (world.record(0).await, world.record(1).await);
    world.write(0, "CREATE DATABASE app").await.unwrap();
    world.write(0, "CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    let io_only = StopReplicationMode::Iothreadonly;
    let stopped = world.tablets.stop_replication_and_get_status(&replica, io_only, world.call()).await.unwrap();
    assert_eq!((stopped.before.unwrap().io_state, stopped.after.unwrap().io_state), (3, 1));
    // This commit hangs: nobody acknowledges it.
    let hung = world.write(0, "INSERT INTO app.t VALUES (1)");
    tokio::pin!(hung);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut hung).await.is_err());
    let short = Call { timeout: Duration::from_millis(800), lock_revision: None };
    world.tablets.demote_primary(&primary, false, short).await.unwrap_err();
    world.tablets.start_replication(&replica, true, world.call()).await.unwrap();
    tokio::time::timeout(LIMIT, hung).await.unwrap().unwrap();
    world.wait_writable(0, true).await;
    world.write(0, "INSERT INTO app.t VALUES (2)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_demotion_never_acknowledges_a_commit_that_hangs() {
    let world = World::with_primary(3).await;
    let primary = world.record(0).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    world.write(0, "CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    for at in [1, 2] {
        let tablet = world.record(at).await;
        world
            .tablets
            .wait_for_position(&tablet, &world.tablets.primary_position(&primary, world.call()).await.unwrap(), world.call())
            .await
            .unwrap();
        world.tablets.stop_replication_and_get_status(&tablet, StopReplicationMode::Iothreadonly, world.call()).await.unwrap();
    }
    let hung = world.write(0, "INSERT INTO app.t VALUES (1)");
    tokio::pin!(hung);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut hung).await.is_err());
    let begun = Instant::now();
    let (demoted, hung) = tokio::join!(world.tablets.demote_primary(&primary, true, world.call()), hung);
    println!("forced demotion {:?}", begun.elapsed());
    demoted.unwrap();
    hung.unwrap_err();

    // The others go on without it; it has a transaction of its own now, and is refused.
    let elect = world.record(1).await;
    world.tablets.promote_replica(&elect, true, world.call()).await.unwrap();
    world.follow(2, 1).await;
    let refused = world.try_follow(0, 1, 0).await.unwrap_err();
    assert_eq!(refused.kind, TabletErrorKind::ErrantGtid, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn received_but_unapplied_transactions_survive_a_change_of_source() {
    let world = World::with_primary(3).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    let position = world.tablets.primary_position(&world.record(0).await, world.call()).await.unwrap();
    for at in [1, 2] {
        world.tablets.wait_for_position(&world.record(at).await, &position, world.call()).await.unwrap();
    }
    world.mysqld(2).execute("STOP REPLICA SQL_THREAD").await.unwrap();
    world.write(0, "CREATE TABLE app.t (id INT PRIMARY KEY)").await.unwrap();
    let old = world.record(0).await;
    let demoted = world.tablets.demote_primary(&old, false, world.call()).await.unwrap();
    let elect = world.record(1).await;
    world.tablets.wait_for_position(&elect, &demoted.position, world.call()).await.unwrap();
    let relay_log = "SELECT CAST(received_transaction_set AS CHAR) FROM performance_schema.replication_connection_status";
    support::eventually("the row in the relay log", LIMIT, async || {
        let status = world.tablets.replication_status(&world.record(2).await, world.call()).await.map_err(|e| e.to_string())?;
        if status.relay_log_position == demoted.position { Ok(()) } else { Err(status.relay_log_position) }
    })
    .await
    .unwrap();
    let before = world.mysqld(2).value(relay_log).await.unwrap();
    // Promoted without semi-sync, so that the new primary sends nothing meanwhile that could be taken for the old relay log.
    world.tablets.promote_replica(&elect, true, world.call()).await.unwrap();
    world.follow(2, 1).await;
    let after = world.mysqld(2).value(relay_log).await.unwrap();
    assert!(after.contains(&before), "the relay log was thrown away: {before:?} became {after:?}");
    world.tablets.wait_for_position(&world.record(2).await, &demoted.position, world.call()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_elector_that_was_overtaken_is_refused_also_after_a_restart_of_the_agent() {
    let mut world = World::with_primary(2).await;
    let by = |revision| Call { timeout: LIMIT, lock_revision: Some(revision) };
    let replica = world.record(1).await;
    world.tablets.start_replication(&replica, true, by(1_000_010)).await.unwrap();
    let refused = world.tablets.stop_replication(&replica, by(1_000_009)).await.unwrap_err();
    assert_eq!(refused.kind, TabletErrorKind::Overtaken, "{refused}");
    world.stop_agent(1).await;
    world.start_agent(1).await;
    let replica = world.record(1).await;
    let refused = world.tablets.promote_replica(&replica, true, by(1_000_009)).await.unwrap_err();
    assert_eq!(refused.kind, TabletErrorKind::Overtaken, "{refused}");
    assert!(!world.mysqld(1).is_writable().await.unwrap());
    world.tablets.stop_replication(&replica, world.call()).await.unwrap();
}
