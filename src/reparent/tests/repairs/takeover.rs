//! The topology declares one tablet, and another one works.

use super::*;
use crate::pb::topodata::TabletType;

/// 101 works: writable, the others follow it. The topology declares 100 with the newest term.
async fn wrong_primary(policy: &'static str) -> Arc<World> {
    let world = three(policy).await;
    for name in ["z1-100", "z1-102"] {
        world.change(name, |server| {
            (server.source, server.io, server.sql) = (Some(alias("z1-101")), true, true);
            (server.read_only, server.semi_sync_primary, server.semi_sync_replica) = (true, false, policy != "none");
        });
    }
    world.change("z1-101", |server| {
        (server.source, server.io, server.sql) = (None, false, false);
        (server.read_only, server.semi_sync_primary) = (false, policy != "none");
    });
    assert!(world.lock().write(&alias("z1-101")), "it works");
    world
}

async fn take_over(world: &Arc<World>) -> Outcome {
    let outcome = world.hands().take_over_if(&world.shard, &alias("z1-100"), due()).await;
    assert!(world.lock_is_free().await);
    outcome
}

#[tokio::test(start_paused = true)]
async fn the_declared_tablet_takes_over_and_nothing_is_lost_and_there_is_never_a_second_writer() {
    for policy in ["semi_sync", "none"] {
        let world = wrong_primary(policy).await;
        let writer = world.clone();
        let writing = world.tasks.spawn(async move {
            let aliases: Vec<_> = writer.lock().servers.keys().cloned().collect();
            while !writer.tasks.is_closed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                aliases.iter().for_each(|alias| drop(writer.lock().write(alias)));
            }
        });
        let outcome = take_over(&world).await;
        assert_eq!(promoted(&outcome).primary, alias("z1-100"));
        assert_eq!(promoted(&outcome).branch, Branch::Graceful);
        world.tasks.close();
        writing.await.unwrap();
        world.check("z1-100").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_take_over_that_fails_leaves_the_tablet_that_works_declared_and_working() {
    let world = wrong_primary("semi_sync").await;
    world.fault("z1-100", "SetReplicationSource", Fault::Error, 1);
    let error = error(take_over(&world).await);
    assert!(error.to_string().contains("nothing was changed on the primary"), "{error}");
    assert!(world.server("z1-101").writable());
    assert_eq!(world.server("z1-101").tablet_type, TabletType::Primary);
    // The next look finds an ordinary shard with a stale record.
    done(&world, "z1-100", Repair::RetirePrimary).await;
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_over_where_both_write_or_the_declared_one_has_more() {
    let world = wrong_primary("semi_sync").await;
    world.change("z1-100", |server| server.read_only = false);
    assert!(matches!(error(take_over(&world).await), ReparentError::NotDue { .. }));
    world.change("z1-100", |server| {
        server.read_only = true;
        (server.executed, server.received) = (server.executed.union(&gtids("F:1")), server.received.union(&gtids("F:1")));
    });
    assert!(matches!(error(take_over(&world).await), ReparentError::CandidateBehind { .. }));
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn a_planned_reparent_to_the_declared_tablet_never_makes_a_second_writer() {
    let world = wrong_primary("semi_sync").await;
    let error = error(world.planned(to("z1-100")).await);
    assert!(error.to_string().contains("z1-0000000101 is writable"), "{error}");
    assert!(world.untouched());
    assert_eq!(world.lock().violations, Vec::<String>::new());
}
