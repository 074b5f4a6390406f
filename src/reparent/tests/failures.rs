//! What goes wrong, and what is left then.

use std::sync::Arc;

use super::{
    super::{FailedStep, error::ReparentError},
    server::Server,
    *,
};

async fn three() -> Arc<World> {
    World::new(
        "semi_sync",
        [
            ("z1-100", Server::primary('A', "A:1-10")),
            ("z1-101", Server::replica('B', "z1-100", "A:1-10")),
            ("z1-102", Server::replica('C', "z1-100", "A:1-10")),
        ],
    )
    .await
}

async fn two() -> Arc<World> {
    World::new("semi_sync", [("z1-100", Server::primary('A', "A:1-10")), ("z1-101", Server::replica('B', "z1-100", "A:1-10"))])
        .await
}

fn is_undone(error: &ReparentError) -> bool {
    matches!(error, ReparentError::After { aftermath: Aftermath::Undone { primary }, .. } if *primary == alias("z1-100"))
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_demotion_leaves_the_primary_alone() {
    for (tablet, method) in [
        ("z1-100", "PrimaryPosition"),
        ("z1-101", "SetReplicationSource"),
        ("z1-101", "ReplicationStatus"),
        ("z1-101", "GetGlobalStatusVars"),
    ] {
        for fault in [Fault::Error, Fault::Hang] {
            let world = three().await;
            world.fault(tablet, method, fault, 1);
            let failed = error(world.planned(to("z1-101")).await);
            assert!(failed.to_string().contains(&alias(tablet).to_string()), "{failed}");
            assert_eq!(world.changes("z1-100"), [""; 0], "{method} {fault:?}");
            world.check("z1-100").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_demotion_is_undone() {
    for (tablet, method) in [("z1-100", "DemotePrimary"), ("z1-101", "WaitForPosition")] {
        for fault in [Fault::Error, Fault::Hang, Fault::AnswerLost] {
            let world = three().await;
            world.fault(tablet, method, fault, 1);
            let failed = error(world.planned(to("z1-101")).await);
            assert!(is_undone(&failed), "{method} {fault:?}: {failed}");
            assert_eq!(world.changes("z1-100").last().unwrap(), "UndoDemotePrimary ack");
            world.check("z1-100").await;
            promoted(&world.planned(to("z1-101")).await);
            world.check("z1-101").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_demotion_that_comes_late_is_undone_after_it_and_never_beside_it() {
    let world = three().await;
    world.fault("z1-100", "DemotePrimary", Fault::Late(Duration::from_secs(3)), 1);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(is_undone(&failed), "{failed}");
    world.check("z1-100").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_once_is_tried_again_and_one_that_always_fails_says_what_to_do() {
    let world = three().await;
    world.fault("z1-101", "WaitForPosition", Fault::Error, 1);
    world.fault("z1-100", "UndoDemotePrimary", Fault::Error, 1);
    assert!(is_undone(&error(world.planned(to("z1-101")).await)));
    world.check("z1-100").await;
    let world = three().await;
    world.fault("z1-101", "WaitForPosition", Fault::Error, 1);
    world.fault("z1-100", "UndoDemotePrimary", Fault::Error, 9);
    let failed = error(world.planned(to("z1-101")).await).to_string();
    assert!(failed.contains("run PlannedReparentShard with z1-0000000100 as the new primary"), "{failed}");
    assert!(
        failed.contains("ordered failure of UndoDemotePrimary") && failed.contains("ordered failure of WaitForPosition"),
        "{failed}"
    );
    world.fault("z1-100", "UndoDemotePrimary", Fault::Error, 0);
    promoted(&world.planned(to("z1-100")).await);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_promotion_whose_answer_is_lost_is_looked_at() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::AnswerLost, 1);
    let outcome = world.planned(to("z1-101")).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    let sent = world.changes("z1-101").iter().filter(|call| call.starts_with("PromoteReplica")).count();
    assert_eq!(sent, 1, "a promotion that stands is not sent again");
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_fails_once_is_tried_again() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::Error, 1);
    promoted(&world.planned(to("z1-101")).await);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn after_a_promotion_that_certainly_failed_the_old_primary_is_primary_again() {
    for fault in [Fault::Error, Fault::Hang] {
        let world = three().await;
        world.fault("z1-101", "PromoteReplica", fault, 9);
        let failed = error(world.planned(to("z1-101")).await);
        assert!(is_undone(&failed), "{fault:?}: {failed}");
        assert!(matches!(failed.cause(), ReparentError::Step { step: FailedStep::Promote, .. }));
        world.check("z1-100").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_primary_with_the_older_term_is_promoted_back_too() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::RecordOnly, 9);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(is_undone(&failed), "{failed}");
    assert!(world.server("z1-100").term > Some(11), "its term is the newest");
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn where_the_old_primary_was_needed_as_acker_it_is_promoted_back() {
    let world = two().await;
    world.fault("z1-101", "PromoteReplica", Fault::Hang, 9);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(is_undone(&failed), "{failed}");
    assert!(world.changes("z1-100").iter().any(|call| call == "PromoteReplica ack"));
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_promoted_back_beside_a_promotion_that_is_merely_late() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::Late(Duration::from_secs(3)), 1);
    promoted(&world.planned(to("z1-101")).await);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn an_elect_that_cannot_be_looked_at_leaves_the_old_primary_read_only_and_the_next_run_decides() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::Hang, 2);
    world.fault("z1-101", "SetReadOnly", Fault::Hang, 1);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(matches!(&failed, ReparentError::After { aftermath: Aftermath::Unknown { .. }, .. }), "{failed}");
    assert!(world.server("z1-100").read_only && world.server("z1-101").read_only);
    promoted(&world.planned(to("z1-101")).await);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn the_journal_row_is_tried_again_and_a_row_whose_answer_was_lost_counts() {
    for fault in [Fault::Error, Fault::AnswerLost] {
        let world = three().await;
        world.fault("z1-101", "PopulateReparentJournal", fault, if fault == Fault::Error { 3 } else { 1 });
        promoted(&world.planned(to("z1-101")).await);
        world.check("z1-101").await;
    }
    let world = three().await;
    world.fault("z1-101", "PopulateReparentJournal", Fault::Error, 1000);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(matches!(failed.cause(), ReparentError::Step { step: FailedStep::JournalRow, .. }), "{failed}");
    assert!(failed.to_string().contains("z1-0000000101 is already primary"), "{failed}");
    assert!(world.server("z1-102").replicates_from(&alias("z1-101")), "replicas are pointed at it all the same");
    world.fault("z1-101", "PopulateReparentJournal", Fault::Error, 0);
    promoted(&world.planned(to("z1-101")).await);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_follow_is_reported_and_the_same_command_repairs_it() {
    let world = three().await;
    world.fault("z1-102", "SetReplicationSource", Fault::Error, 3);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(matches!(failed, ReparentError::ReplicasFailed { .. }) && failed.to_string().contains("z1-0000000102"), "{failed}");
    let outcome = world.planned(to("z1-101")).await;
    assert_eq!(promoted(&outcome).branch, Branch::Partial);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_lost_before_the_demotion_stops_everything() {
    for (tablet, method) in [("z1-100", "PrimaryPosition"), ("z1-101", "SetReplicationSource")] {
        let world = three().await;
        world.fault(tablet, method, Fault::ThenLockLost, 1);
        let failed = error(world.planned(to("z1-101")).await);
        assert!(matches!(failed, ReparentError::LockLost(_)), "{failed}");
        assert_eq!(world.changes("z1-100"), [""; 0]);
        world.check("z1-100").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_lost_after_the_demotion_is_taken_again_for_the_undo() {
    for (tablet, method) in [("z1-100", "DemotePrimary"), ("z1-101", "WaitForPosition")] {
        let world = three().await;
        world.fault(tablet, method, Fault::ThenLockLost, 1);
        let failed = error(world.planned(to("z1-101")).await);
        assert!(matches!(failed.cause(), ReparentError::LockLost(_)) && is_undone(&failed), "{failed}");
        world.check("z1-100").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_somebody_else_holds_by_then_leaves_the_rest_to_them() {
    let world = three().await;
    world.fault("z1-101", "WaitForPosition", Fault::ThenLockLost, 1);
    let theirs = world.clone();
    let other = world.tasks.spawn(async move {
        let held = theirs.topo.lock_shard(&theirs.shard, "EmergencyReparentShard", Duration::from_secs(60)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        held.unlock().await.unwrap();
    });
    // Ours stands first in the queue only if it asks first.
    let ours = world.planned(to("z1-101"));
    let (outcome, joined) = tokio::join!(ours, other);
    joined.unwrap();
    if let Err(failed) = outcome.result {
        assert!(world.changes("z1-100").iter().all(|call| !call.starts_with("Undo")), "{failed}");
    }
    promoted(&world.planned(to("z1-100")).await);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_lost_after_the_promotion_is_an_error_that_names_the_primary() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::ThenLockLost, 1);
    world.fault("z1-101", "PopulateReparentJournal", Fault::Hang, 1);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(failed.to_string().contains("z1-0000000101 is already primary"), "{failed}");
    promoted(&world.planned(to("z1-101")).await);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_before_the_point_of_no_return_gets_it_undone() {
    let world = three().await;
    world.fault("z1-101", "WaitForPosition", Fault::Hang, 1);
    let hands = world.hands();
    let gone = tokio::time::timeout(Duration::from_secs(1), hands.planned(&world.shard, to("z1-101"))).await;
    assert!(gone.is_err());
    hands.drain().await;
    assert_eq!(world.changes("z1-100").last().unwrap(), "UndoDemotePrimary ack");
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_later_cuts_nothing_off() {
    let world = three().await;
    world.fault("z1-101", "PromoteReplica", Fault::Late(Duration::from_millis(1500)), 1);
    let hands = world.hands();
    let gone = tokio::time::timeout(Duration::from_secs(1), hands.planned(&world.shard, to("z1-101"))).await;
    assert!(gone.is_err());
    hands.drain().await;
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_io_thread_runs_again_after_an_undo() {
    let world = three().await;
    world.fault("z1-100", "DemotePrimary", Fault::AnswerLost, 1);
    let failed = error(world.planned(to("z1-101")).await);
    assert!(is_undone(&failed), "{failed}");
    assert!(world.changes("z1-102").iter().any(|call| call.contains("STOP")));
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_held_by_somebody_else_is_an_error_that_names_them() {
    let world = three().await;
    let held = world.topo.lock_shard(&world.shard, "EmergencyReparentShard", Duration::from_secs(1)).await.unwrap();
    let failed = error(world.planned(to("z1-101")).await);
    assert!(failed.to_string().contains("EmergencyReparentShard"), "{failed}");
    assert!(world.untouched());
    held.unlock().await.unwrap();
}
