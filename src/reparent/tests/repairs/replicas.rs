//! Replicas: connected, started, read-only, acknowledging.

use super::*;
use crate::pb::topodata::TabletType;

const LAGGING: &str = "A:1-7";

/// A replica that has received what the others have, and applied only a part of it.
fn unapplied(server: &mut Server) {
    (server.executed, server.received) = (gtids(LAGGING), gtids("A:1-10"));
}

#[tokio::test(start_paused = true)]
async fn a_standalone_tablet_follows_the_primary_again() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| (server.source, server.io, server.sql) = (None, false, false));
    done(&world, "z1-102", Repair::Connect).await;
    assert_eq!(world.changes("z1-102"), ["SetReplicationSource z1-0000000100 ack force"]);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_of_a_replica_keeps_what_it_received_while_its_source_is_changed() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        server.source = Some(alias("z1-101"));
        // It applies nothing before somebody waits for that, such as one with SOURCE_DELAY.
        server.lazy = true;
        unapplied(server);
    });
    done(&world, "z1-102", Repair::Connect).await;
    let changes = world.changes("z1-102");
    assert_eq!(changes[0], "ExecuteFetchAsDba STOP REPLICA IO_THREAD");
    assert!(changes[1].contains("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 100"), "{changes:?}");
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_log_that_cannot_be_applied_is_kept_and_everything_left_as_it_was() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        server.source = Some(alias("z1-101"));
        unapplied(server);
        (server.sql, server.sql_error) = (false, "Could not execute Write_rows (errno 1062)".to_owned());
    });
    let refusal = refused(&world, "z1-102", Repair::Connect).await;
    let Refusal::Unapplied { unapplied, reason, .. } = refusal else { panic!("{refusal}") };
    assert_eq!(unapplied, gtids("A:8-10"));
    assert!(reason.contains("1062"));
    let server = world.server("z1-102");
    assert!(server.io && server.source == Some(alias("z1-101")) && server.received == gtids("A:1-10"));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_gtid_positions_is_given_time_to_apply_and_then_configured_anew() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        (server.auto_position, server.io, server.sql) = (false, false, false);
        unapplied(server);
        server.lazy = true;
    });
    let refusal = refused(&world, "z1-102", Repair::Connect).await;
    assert!(matches!(refusal, Refusal::Applying { .. }), "{refusal}");
    assert_eq!(world.server("z1-102").received, gtids("A:1-10"));
    // It applied everything meanwhile.
    world.change("z1-102", |server| server.lazy = false);
    done(&world, "z1-102", Repair::Connect).await;
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_may_not_log_in_is_configured_anew() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| (server.io, server.io_error) = (false, "Access denied for user 'x' (errno 1045)".to_owned()));
    done(&world, "z1-102", Repair::Connect).await;
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn an_errant_tablet_is_never_attached_and_its_extra_transactions_are_named() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        (server.source, server.io, server.sql) = (None, false, false);
        server.commit();
    });
    for what in [Repair::Connect, Repair::StartReplication] {
        if what == Repair::StartReplication {
            world.change("z1-102", |server| server.source = Some(alias("z1-100")));
        }
        let refusal = refused(&world, "z1-102", what).await;
        let Refusal::Errant { errant, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!(*errant, gtids("C:1"));
        assert!(world.untouched());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_primary_has_sent_and_not_committed_is_not_errant() {
    let world = three("semi_sync").await;
    // The only acker was stopped before it could acknowledge: the commit waits for exactly this tablet.
    world.change("z1-100", |server| server.commits_wait = true);
    world.change("z1-102", |server| (server.io, server.received, server.executed) = (false, gtids("A:1-11"), gtids("A:1-11")));
    let outcome = repair(&world, "z1-102", Repair::StartReplication).await;
    assert!(outcome.end.is_right(), "{}", outcome.end);
    // When nothing waits there, the primary has lost it.
    world.change("z1-100", |server| server.commits_wait = false);
    world.change("z1-102", |server| server.io = false);
    assert!(matches!(refused(&world, "z1-102", Repair::StartReplication).await, Refusal::Errant { .. }));
}

#[tokio::test(start_paused = true)]
async fn one_that_lacks_what_is_purged_needs_a_rebuild_and_is_not_pointed_again_and_again() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.purged = gtids("A:1-8"));
    world.change("z1-102", |server| {
        (server.source, server.io, server.sql) = (None, false, false);
        (server.executed, server.received) = (gtids("A:1-5"), gtids("A:1-5"));
    });
    let refusal = refused(&world, "z1-102", Repair::Connect).await;
    let Refusal::NeedsRebuild { lacks, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!(*lacks, gtids("A:6-8"));
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn an_acker_of_another_writable_server_is_not_taken_away_from_it() {
    let world = three("semi_sync").await;
    world.change("z1-101", |server| (server.source, server.io, server.read_only) = (None, false, false));
    world.change("z1-102", |server| server.source = Some(alias("z1-101")));
    let refusal = refused(&world, "z1-102", Repair::Connect).await;
    assert!(matches!(&refusal, Refusal::WrongPrimary { writer, .. } if *writer == alias("z1-101")), "{refusal}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn a_returned_primary_that_is_writable_is_closed_before_it_is_judged() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| (server.source, server.io, server.sql, server.read_only) = (None, false, false, false));
    done(&world, "z1-102", Repair::Connect).await;
    let changes = world.changes("z1-102");
    assert_eq!(changes[..2], ["SetReadOnly", "ExecuteFetchAsDba SET GLOBAL super_read_only = ON"]);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_backup_a_drained_tablet_the_primary_and_a_stranger_are_left_alone() {
    let world = three("semi_sync").await;
    for (name, tablet_type) in [("z1-101", TabletType::Backup), ("z1-102", TabletType::Drained)] {
        world
            .topo
            .update_tablet(&alias(name), &mut |record| {
                record.set_type(tablet_type);
                true
            })
            .await
            .unwrap();
        assert!(matches!(refused(&world, name, Repair::Connect).await, Refusal::LeftAlone { .. }));
    }
    assert!(matches!(refused(&world, "z1-100", Repair::Connect).await, Refusal::Role { .. }));
    assert!(matches!(refused(&world, "z1-999", Repair::Connect).await, Refusal::LeftAlone { .. }));
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_made_up_for_by_looking_and_a_dead_tablet_is_an_error() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| (server.source, server.io, server.sql) = (None, false, false));
    world.fault("z1-102", "SetReplicationSource", Fault::AnswerLost, 1);
    done(&world, "z1-102", Repair::Connect).await;
    world.check("z1-100").await;

    world.change("z1-102", |server| (server.io, server.sql) = (false, false));
    world.fault("z1-102", "StartReplication", Fault::AnswerLost, 1);
    done(&world, "z1-102", Repair::StartReplication).await;

    world.change("z1-102", |server| server.io = false);
    world.fault("z1-102", "StartReplication", Fault::Error, 1);
    let error = failed(&world, "z1-102", Repair::StartReplication).await;
    assert!(error.contains("its IO thread is stopped"), "{error}");

    world.change("z1-102", |server| server.down = true);
    let error = failed(&world, "z1-102", Repair::StartReplication).await;
    assert!(error.contains("connection refused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_tablet_that_dies_in_the_middle_is_connected_by_the_next_repair() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        (server.source, server.lazy) = (Some(alias("z1-101")), true);
        unapplied(server);
    });
    world.fault("z1-102", "SetReplicationSource", Fault::Error, 1);
    let error = failed(&world, "z1-102", Repair::Connect).await;
    assert!(error.contains("ordered failure"), "{error}");
    assert_eq!(world.server("z1-102").received, gtids("A:1-10"), "what it received is still there");
    done(&world, "z1-102", Repair::Connect).await;
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_lock_was_lost() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| server.source = Some(alias("z1-101")));
    world.fault("z1-102", "ExecuteFetchAsDba", Fault::ThenLockLost, 1);
    let error = world.hands().repair(&world.shard, &alias("z1-102"), Repair::Connect, due()).await.end;
    assert!(matches!(&error, RepairEnd::Failed(crate::reparent::RepairError::LockLost(_))), "{error}");
    assert_eq!(world.changes("z1-102"), ["ExecuteFetchAsDba STOP REPLICA IO_THREAD"]);
}

#[tokio::test(start_paused = true)]
async fn stopped_threads_run_again_with_the_same_source_and_the_same_relay_log() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        (server.io, server.sql) = (false, false);
        unapplied(server);
    });
    done(&world, "z1-102", Repair::StartReplication).await;
    assert_eq!(world.changes("z1-102"), ["StartReplication ack"]);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn an_error_that_a_start_does_not_cure_is_told_in_mysqls_words() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| (server.sql, server.sql_error) = (false, "Duplicate entry (errno 1062)".to_owned()));
    let error = failed(&world, "z1-102", Repair::StartReplication).await;
    assert!(error.contains("its SQL thread: Duplicate entry"), "{error}");
    world.change("z1-102", |server| server.source = Some(alias("z1-101")));
    assert!(matches!(refused(&world, "z1-102", Repair::StartReplication).await, Refusal::Later { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_mended_while_the_relay_log_is_applied() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        (server.net_timeout_s, server.lazy) = (8, true);
        unapplied(server);
    });
    done(&world, "z1-102", Repair::FixHeartbeat).await;
    let server = world.server("z1-102");
    assert!(server.heartbeat_s == 4.0 && server.received == gtids("A:1-10") && server.io && server.sql);
    // A change that fails leaves a replica that replicates.
    world.change("z1-102", |server| server.net_timeout_s = 60);
    world.fault("z1-102", "ExecuteFetchAsDba", Fault::Error, 1);
    failed(&world, "z1-102", Repair::FixHeartbeat).await;
    assert!(world.server("z1-102").io);
}

#[tokio::test(start_paused = true)]
async fn a_writable_replica_refuses_writes_of_administrators_too() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| server.read_only = false);
    done(&world, "z1-102", Repair::MakeReadOnly).await;
    assert_eq!(world.changes("z1-102"), ["SetReadOnly", "ExecuteFetchAsDba SET GLOBAL super_read_only = ON"]);
    world.check("z1-100").await;
    assert!(matches!(refused(&world, "z1-100", Repair::MakeReadOnly).await, Refusal::Role { .. }));
}

#[tokio::test(start_paused = true)]
async fn clients_whose_commits_hang_are_thrown_out_first_and_let_in_again() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| {
        (server.read_only, server.semi_sync_primary, server.commits_wait) = (false, true, true);
    });
    done(&world, "z1-102", Repair::MakeReadOnly).await;
    let changes = world.changes("z1-102");
    let order =
        ["SET GLOBAL offline_mode = ON", "SET GLOBAL rpl_semi_sync_source_enabled = OFF", "SET GLOBAL super_read_only = ON"];
    for (change, statement) in changes.iter().zip(order) {
        assert!(change.ends_with(statement), "{changes:?}");
    }
    assert!(!world.server("z1-102").offline);
}

#[tokio::test(start_paused = true)]
async fn the_server_that_works_is_not_closed_because_another_one_is_declared() {
    let world = three("semi_sync").await;
    // 101 works: writable, the others follow it. The topology declares 100.
    world.change("z1-101", |server| (server.source, server.io, server.read_only) = (None, false, false));
    for name in ["z1-100", "z1-102"] {
        world.change(name, |server| {
            (server.source, server.io, server.sql, server.read_only) = (Some(alias("z1-101")), true, true, true)
        });
    }
    for (name, what) in [
        ("z1-101", Repair::MakeReadOnly),
        ("z1-101", Repair::Connect),
        ("z1-102", Repair::Connect),
        ("z1-100", Repair::ForgetSource),
    ] {
        let refusal = refused(&world, name, what).await;
        assert!(matches!(&refusal, Refusal::WrongPrimary { writer, .. } if *writer == alias("z1-101")), "{what:?}: {refusal}");
    }
    let refusal = refused(&world, "z1-100", Repair::MakeWritable).await;
    assert!(matches!(refusal, Refusal::PrimaryReplicates { .. }), "{refusal}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn an_acker_is_switched_on_before_the_primary_and_off_after_it() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.semi_sync_primary = false);
    world.change("z1-101", |server| server.semi_sync_replica = false);
    world.change("z1-102", |server| server.semi_sync_replica = false);
    let refusal = refused(&world, "z1-100", Repair::SemiSyncPrimary).await;
    assert!(matches!(refusal, Refusal::TooFewAckers { acking: 0, needed: 1, .. }), "{refusal}");
    done(&world, "z1-101", Repair::SemiSyncReplica).await;
    done(&world, "z1-100", Repair::SemiSyncPrimary).await;
    done(&world, "z1-102", Repair::SemiSyncReplica).await;
    world.check("z1-100").await;

    let world = three("none").await;
    world.change("z1-100", |server| server.semi_sync_primary = true);
    world.change("z1-101", |server| server.semi_sync_replica = true);
    let refusal = refused(&world, "z1-101", Repair::SemiSyncReplica).await;
    assert!(matches!(refusal, Refusal::TooFewAckers { acking: 0, needed: 1, .. }), "{refusal}");
    done(&world, "z1-100", Repair::SemiSyncPrimary).await;
    done(&world, "z1-101", Repair::SemiSyncReplica).await;
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn an_errant_replica_is_drained_unless_the_primary_needs_it() {
    let world = three("semi_sync").await;
    let already = repair(&world, "z1-102", Repair::Drain).await;
    assert!(matches!(already.end, RepairEnd::AlreadyFixed(_)), "{}", already.end);
    world.change("z1-102", |server| drop(server.commit()));
    world.change("z1-101", |server| server.io = false);
    let refusal = refused(&world, "z1-102", Repair::Drain).await;
    assert!(matches!(refusal, Refusal::TooFewAckers { acking: 0, .. }), "{refusal}");
    world.change("z1-101", |server| server.io = true);
    done(&world, "z1-102", Repair::Drain).await;
    assert_eq!(world.server("z1-102").tablet_type, TabletType::Drained);
    assert!(matches!(refused(&world, "z1-100", Repair::Drain).await, Refusal::Role { .. }));
}
