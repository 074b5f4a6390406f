//! Reparents as their caller sees them; what they do to tablets has tests of its own.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Code;
use vtelector::{
    pb::{topodata::TabletType, vtctldata::*, vttime},
    topo::Topo,
};

use crate::world::{World, alias, refused, shard, tablet};

fn planned() -> PlannedReparentShardRequest {
    PlannedReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() }
}

async fn counted(world: &World) -> Vec<String> {
    let page = world.metrics().await;
    page.lines().filter(|line| line.starts_with("vtorc_planned_reparent_counts")).map(str::to_owned).collect()
}

/// A shard lock held by another elector.
async fn held(world: &World) -> (Topo, vtelector::topo::ShardLock) {
    let other = world.etcd.topo().await;
    let lock = other.lock_shard(&shard(), "another elector is at work", Duration::from_secs(1)).await.unwrap();
    (other, lock)
}

#[tokio::test]
async fn nothing_is_done_where_the_tablet_to_avoid_is_not_the_primary() {
    let mut world = World::start().await;
    let primary = world.tablet("zone1-100", TabletType::Primary).await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    let answer =
        world.client.planned_reparent_shard(PlannedReparentShardRequest { avoid_primary: Some(alias("zone1-101")), ..planned() });
    let answer = answer.await.unwrap().into_inner();
    assert_eq!((answer.keyspace.as_str(), answer.shard.as_str(), answer.promoted_primary), ("commerce", "0", None));
    assert!(!answer.events.is_empty() && answer.events.iter().all(|event| event.time.is_some() && !event.value.is_empty()));
    for fake in [primary, replica] {
        let changed: Vec<String> = fake.called().into_iter().filter(|method| !method.ends_with("Status")).collect();
        assert!(changed.is_empty(), "{changed:?}");
    }
    assert_eq!(counted(&world).await, [r#"vtorc_planned_reparent_counts{keyspace="commerce",result="success",shard="0"} 1"#]);
    assert!(
        world.metrics().await.contains(r#"vtelector_reparent_duration_seconds_count{operation="planned",result="success"} 1"#)
    );
}

#[tokio::test]
async fn what_the_caller_got_wrong_is_refused_and_counted_once() {
    let mut world = World::start().await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    let (none, some) = (vttime::Duration::default(), |seconds| Some(vttime::Duration { seconds, nanos: 0 }));
    let mistakes = [
        (
            PlannedReparentShardRequest { expected_primary: Some(alias("zone1-101")), ..planned() },
            Code::FailedPrecondition,
            "zone1-0000000101",
        ),
        (
            PlannedReparentShardRequest {
                new_primary: Some(alias("zone1-100")),
                avoid_primary: Some(alias("zone1-100")),
                ..planned()
            },
            Code::FailedPrecondition,
            "zone1-0000000100",
        ),
        (
            PlannedReparentShardRequest { wait_replicas_timeout: some(-1), ..planned() },
            Code::InvalidArgument,
            "wait_replicas_timeout",
        ),
        (
            PlannedReparentShardRequest { wait_replicas_timeout: Some(none), ..planned() },
            Code::InvalidArgument,
            "wait_replicas_timeout",
        ),
        (
            PlannedReparentShardRequest { tolerable_replication_lag: some(-1), ..planned() },
            Code::InvalidArgument,
            "tolerable_replication_lag",
        ),
    ];
    for (i, (request, code, word)) in mistakes.into_iter().enumerate() {
        refused(world.client.planned_reparent_shard(request).await, code, &[word]);
        let line = format!(r#"vtorc_planned_reparent_counts{{keyspace="commerce",result="failure",shard="0"}} {}"#, i + 1);
        assert_eq!(counted(&world).await, [line]);
    }
}

#[tokio::test]
async fn a_shard_that_has_a_primary_is_not_initialised_again_forced_or_not() {
    let mut world = World::start().await;
    let primary = world.tablet("zone1-100", TabletType::Primary).await;
    for force in [false, true] {
        let request = InitShardPrimaryRequest {
            keyspace: "commerce".to_owned(),
            shard: "0".to_owned(),
            primary_elect_tablet_alias: Some(alias("zone1-100")),
            force,
            wait_replicas_timeout: None,
        };
        refused(
            world.client.init_shard_primary(request).await,
            Code::FailedPrecondition,
            &["commerce/0", "PlannedReparentShard"],
        );
    }
    assert!(!primary.called().iter().any(|method| method == "InitPrimary" || method == "ResetReplication"));
    refused(
        world.client.init_shard_primary(InitShardPrimaryRequest::default()).await,
        Code::InvalidArgument,
        &["keyspace is required"],
    );
    refused(world.client.reparent_tablet(ReparentTabletRequest::default()).await, Code::InvalidArgument, &["tablet is required"]);
    let onto_itself = ReparentTabletRequest { tablet: Some(alias("zone1-100")) };
    refused(world.client.reparent_tablet(onto_itself).await, Code::FailedPrecondition, &["zone1-0000000100"]);
}

#[tokio::test]
async fn a_shard_that_another_elector_works_on_is_waited_for_and_its_holder_named() {
    let mut world = World::start().await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    let (_other, lock) = held(&world).await;
    let started = Instant::now();
    let answer = world.client.planned_reparent_shard(planned()).await;
    refused(answer, Code::Unavailable, &["commerce/0", "another elector is at work"]);
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    lock.unlock().await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_lets_running_reparents_end_and_begins_no_other() {
    let world = World::start().await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    let (_other, lock) = held(&world).await;
    let World { mut client, server, etcd, topo: _topo } = world;
    let mut late = crate::world::client(&server).await;
    let mut waiting = client.clone();
    let running = waiting.planned_reparent_shard(planned());
    let mut running = std::pin::pin!(running);
    // It waits for the lock when its own key stands behind the holder's.
    let queued = async {
        let kv = etcd.kv();
        loop {
            let keys = vtelector::topo::Kv::list_keys(&kv, "/vitess/global/keyspaces/commerce/shards/0/locks/").await.unwrap();
            if keys.entries.len() > 1 {
                break;
            }
        }
    };
    tokio::select! {
        answer = &mut running => panic!("it should wait: {answer:?}"),
        () = queued => {}
    }
    let stop = server.stop(Duration::from_secs(10));
    let refusal = async {
        loop {
            match late.planned_reparent_shard(planned()).await {
                Err(status) if status.message().contains("stopping") => break status,
                // The other one still waits for the lock, or this one does.
                _ => {}
            }
        }
    };
    let (ended, answer, refusal) =
        timeout(Duration::from_secs(20), async { tokio::join!(stop, &mut running, refusal) }).await.unwrap();
    assert!(ended, "nothing was left running");
    refused(answer, Code::Unavailable, &["another elector is at work"]);
    assert_eq!(refusal.code(), Code::Unavailable);
    lock.unlock().await.unwrap();
    client.get_keyspaces(GetKeyspacesRequest {}).await.expect_err("it is gone");
}
