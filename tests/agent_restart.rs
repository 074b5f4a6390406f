//! What the agent does when it, or its mysqld, comes and goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::{LIMIT, World, eventually, wait_health};
use vtelector::{
    pb::{
        replicationdata::StopReplicationMode,
        topodata::{Shard, TabletType},
        vttime::Time,
    },
    tablet::{Call, TabletErrorKind, TabletManager},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_signs_off_and_a_start_signs_on_again() {
    let mut world = World::with_primary(2).await;
    let before = world.record(0).await;
    assert_eq!(before.tags["rack"], "r1");
    assert!(before.tablet_start_time.is_some() && before.port_map["grpc"] > 0);
    world.stop_agent(0).await;
    let stopped = world.record(0).await;
    assert!(stopped.hostname.is_empty() && stopped.mysql_hostname.is_empty() && stopped.port_map.is_empty());
    assert!(stopped.tablet_start_time.is_none() && stopped.tablet_shutdown_time.is_some());
    assert_eq!((stopped.r#type(), stopped.mysql_port), (TabletType::Primary, before.mysql_port));
    assert_eq!(stopped.primary_term_start_time, before.primary_term_start_time);

    world.start_agent(0).await;
    let started = world.record(0).await;
    assert_eq!((started.r#type(), started.primary_term_start_time), (TabletType::Primary, before.primary_term_start_time));
    assert!(started.tablet_shutdown_time.is_none());
    world.wait_writable(0, true).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_waits_for_the_shard_lock_before_it_is_writable() {
    let mut world = World::with_primary(2).await;
    let lock = world.topo.lock_shard(&world.shard, "somebody reparents", LIMIT).await.unwrap();
    world.members[0].mysqld.kill();
    let record = world.record(0).await;
    eventually("the agent's word that mysqld is gone", LIMIT, async || {
        match world.tablets.full_status(&record, world.call()).await {
            Err(error) if error.kind == TabletErrorKind::MysqlDown => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    world.members[0].mysqld.restart().unwrap();
    world.members[0].mysqld.ready().await.unwrap();
    // It queues for the lock, which it wants only once it has found the server and closed it.
    eventually("the agent in the lock's queue", LIMIT, async || {
        let waiting = world.topo.global().list_keys(&world.topo.global_key("keyspaces/ks/shards/0/locks/")).await;
        let waiting = waiting.map_err(|error| error.to_string())?.entries.len();
        if waiting == 2 { Ok(()) } else { Err(format!("{waiting} in the queue")) }
    })
    .await
    .unwrap();
    assert!(!world.mysqld(0).is_writable().await.unwrap());
    lock.unlock().await.unwrap();
    world.wait_writable(0, true).await;
    world.wait_replicating(1, 0).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    let status = world.tablets.full_status(&record, world.call()).await.unwrap();
    assert!(status.semi_sync_primary_enabled && status.semi_sync_primary_timeout == 1_000_000_000_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_replaced_while_it_was_down_comes_back_as_a_replica() {
    let mut world = World::with_primary(3).await;
    world.stop_agent(0).await;
    world.members[0].mysqld.kill();
    let elect = world.record(1).await;
    world.tablets.promote_replica(&elect, true, world.call()).await.unwrap();
    world.follow(2, 1).await;
    world.wait_shard_primary(1).await;
    world.members[0].mysqld.restart().unwrap();
    world.members[0].mysqld.ready().await.unwrap();
    world.start_agent(0).await;
    world.wait_replicating(0, 1).await;
    let back = world.record(0).await;
    assert_eq!((back.r#type(), back.primary_term_start_time), (TabletType::Replica, None));
    assert!(!world.mysqld(0).is_writable().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_replicates_again_after_its_mysqld_was_restarted() {
    let mut world = World::with_primary(2).await;
    world.members[1].mysqld.kill();
    world.members[1].mysqld.restart().unwrap();
    world.members[1].mysqld.ready().await.unwrap();
    world.wait_replicating(1, 0).await;
    tokio::time::timeout(LIMIT, world.write(0, "CREATE DATABASE app")).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_agent_loses_its_connection_stays_writable() {
    let world = World::with_primary(2).await;
    let watcher = "SELECT CAST(processlist_id AS CHAR) FROM performance_schema.threads WHERE processlist_info LIKE 'DO SLEEP%'";
    let find = async |but: String| {
        eventually("the agent's connection", LIMIT, async || match world.mysqld(0).value(watcher).await {
            Ok(id) if !id.is_empty() && id != but => Ok(id),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap()
    };
    let id = find(String::new()).await;
    world.mysqld(0).execute(&format!("KILL {id}")).await.unwrap();
    find(id).await;
    assert!(world.mysqld(0).is_writable().await.unwrap());
    world.write(0, "CREATE DATABASE app").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_io_thread_that_tries_to_connect_is_stopped_too() {
    let mut world = World::with_primary(2).await;
    let replica = world.record(1).await;
    world.members[0].mysqld.kill();
    eventually("an IO thread that connects", LIMIT, async || {
        let now = world.tablets.replication_status(&replica, world.call()).await.map_err(|e| e.to_string())?;
        if now.io_state == 2 { Ok(()) } else { Err(format!("state {}", now.io_state)) }
    })
    .await
    .unwrap();
    let mode = StopReplicationMode::Iothreadonly;
    let stopped = world.tablets.stop_replication_and_get_status(&replica, mode, world.call()).await.unwrap();
    assert_eq!((stopped.before.unwrap().io_state, stopped.after.unwrap().io_state), (2, 1));
    world.members[0].mysqld.restart().unwrap();
    world.members[0].mysqld.ready().await.unwrap();
    let now = world.tablets.replication_status(&replica, world.call()).await.unwrap();
    assert_eq!((now.io_state, now.sql_state), (1, 3), "it cannot come back and acknowledge");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_steps_down_when_the_shard_record_knows_a_later_term() {
    let world = World::with_primary(2).await;
    let own = world.record(0).await.primary_term_start_time.unwrap();
    let later = Time { seconds: own.seconds + 10, nanoseconds: 0 };
    let other = vtelector::pb::topodata::TabletAlias::from(&world.members[1].alias);
    let elsewhere = &mut |shard: &mut Shard| {
        shard.primary_alias = Some(other.clone());
        shard.primary_term_start_time = Some(later);
        true
    };
    world.topo.update_shard(&world.shard, elsewhere).await.unwrap();
    world.wait_writable(0, false).await;
    eventually("the record of a replica", LIMIT, async || {
        let record = world.record(0).await;
        if record.r#type() == TabletType::Replica { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await
    .unwrap();
    let shard = world.topo.shard(&world.shard).await.unwrap().value;
    assert_eq!(shard.primary_term_start_time, Some(later), "nobody but a later primary writes the record");
    let refused = world.tablets.undo_demote_primary(&world.record(0).await, true, world.call()).await.unwrap_err();
    assert_eq!(refused.kind, TabletErrorKind::Precondition, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_does_not_serve_and_what_makes_no_sense_is_said_clearly() {
    let world = World::with_primary(2).await;
    let (primary, replica) = (world.record(0).await, world.record(1).await);
    let error = world.tablets.replication_status(&primary, world.call()).await.unwrap_err();
    assert_eq!(error.kind, TabletErrorKind::NotReplica);
    assert!(error.message.contains("no replication status (errno 100) (sqlstate HY000)"), "{error}");
    let error = world.try_follow(1, 1, 0).await.unwrap_err();
    assert_eq!(error.kind, TabletErrorKind::Precondition);
    let error = world.tablets.wait_for_position(&replica, "garbage", world.call()).await.unwrap_err();
    assert!(error.message.contains("flavor"), "{error}");
    let error = world.tablets.set_read_only(&replica, false, world.call()).await.unwrap_err();
    assert_eq!(error.kind, TabletErrorKind::Precondition, "a replica is never made writable: {error}");
    let error = world.tablets.execute_fetch_as_dba(&primary, "SELECT 1; SELECT 2", 10, world.call()).await.unwrap_err();
    assert_eq!(error.code, tonic::Code::InvalidArgument);
    let answer = world.tablets.execute_fetch_as_dba(&primary, "SELECT 1 AS one, NULL, 'x'", 10, world.call()).await.unwrap();
    assert_eq!((answer.rows[0].lengths.as_slice(), answer.rows[0].values.as_slice()), ([1, -1, 1].as_slice(), b"1x".as_slice()));
    let never = "MySQL56/00000000-0000-0000-0000-000000000001:1-5";
    let short = Call { timeout: Duration::from_millis(500), lock_revision: None };
    let error = world.tablets.wait_for_position(&replica, never, short).await.unwrap_err();
    assert_eq!(error.code, tonic::Code::DeadlineExceeded, "{error}");
    let vars = world.tablets.global_status_vars(&replica, &["Innodb_buffer_pool_pages_data"], world.call()).await.unwrap();
    assert!(vars["Innodb_buffer_pool_pages_data"].parse::<u64>().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_while_a_promotion_is_unfinished_waits_read_only() {
    let mut world = World::with_primary(2).await;
    let write = async |world: &World, stage: &str| {
        let text = format!(
            r#"{{"version":1,"who":"somebody","action":"EmergencyReparentShard","stage":"{stage}","elect":"zone1-0000000102",
                "old_primary":null,"old_term_ns":null,"stopped_io":[],"time_created_ns":0,"written_at_ms":0,"longest_call_ms":0}}"#
        );
        world.topo.global().put("/vtelector/journal/ks/0", text.into_bytes()).await.unwrap();
    };
    write(&world, "promoting").await;
    world.members[0].mysqld.kill();
    world.members[0].mysqld.restart().unwrap();
    world.members[0].mysqld.ready().await.unwrap();
    wait_health(&world, 0, "left a promotion unfinished").await;
    assert!(!world.mysqld(0).is_writable().await.unwrap());

    write(&world, "finished").await;
    world.wait_writable(0, true).await;
}
