//! The primary: writable, alone, published, let in.

use super::{
    super::{
        super::{DieAt, Edge, Step, planned::planned, run::Run},
        world::publish_shard,
    },
    *,
};
use crate::pb::topodata::TabletType;

/// Leaves what a dead elector leaves that was moving the primary to 101.
async fn die_at(world: &Arc<World>, step: Step, edge: Edge) {
    let mut run = Run::new(world.hands_that_die(Some(DieAt { step, edge })), world.shard.clone(), Default::default());
    let ended = tokio::time::timeout(Duration::from_secs(60), planned(&mut run, to("z1-101"), false)).await;
    assert!(ended.is_err(), "it went on: {ended:?}");
    drop(run);
    assert!(world.lock_is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_read_only_primary_is_writable_again_with_its_semi_sync_settings_put_right_first() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| {
        (server.read_only, server.semi_sync_primary, server.semi_sync_timeout_ms) = (true, false, 10_000)
    });
    done(&world, "z1-100", Repair::MakeWritable).await;
    let changes = world.changes("z1-100");
    assert!(changes[0].contains("rpl_semi_sync_source_timeout = 1000000000000000000"), "{changes:?}");
    assert_eq!(changes[1..], ["UndoDemotePrimary ack"]);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_a_failure_or_two_do_not_keep_it_read_only() {
    for fault in [Fault::AnswerLost, Fault::Error, Fault::Late(Duration::from_millis(1500))] {
        let world = three("semi_sync").await;
        world.change("z1-100", |server| server.read_only = true);
        world.fault("z1-100", "UndoDemotePrimary", fault, 2);
        done(&world, "z1-100", Repair::MakeWritable).await;
        world.check("z1-100").await;
    }
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.read_only = true);
    world.fault("z1-100", "UndoDemotePrimary", Fault::Error, 9);
    let error = failed(&world, "z1-100", Repair::MakeWritable).await;
    assert!(error.contains("ordered failure"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_made_writable_beside_another_writer_or_behind_another_tablet() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.read_only = true);
    world.change("z1-101", |server| server.read_only = false);
    let refusal = refused(&world, "z1-100", Repair::MakeWritable).await;
    assert!(matches!(&refusal, Refusal::WrongPrimary { writer, .. } if *writer == alias("z1-101")), "{refusal}");

    // What a third server has written, a replica has acknowledged.
    world.change("z1-101", |server| {
        (server.read_only, server.executed, server.received) = (true, gtids("A:1-10,F:1"), gtids("A:1-10,F:1"))
    });
    let refusal = refused(&world, "z1-100", Repair::MakeWritable).await;
    assert!(matches!(&refusal, Refusal::Behind { lacks, .. } if *lacks == gtids("F:1")), "{refusal}");
    assert!(world.untouched());

    // What a replica wrote by itself was acknowledged by nobody.
    world.change("z1-101", |server| (server.executed, server.received) = (gtids("A:1-10,B:1"), gtids("A:1-10,B:1")));
    done(&world, "z1-100", Repair::MakeWritable).await;
}

#[tokio::test(start_paused = true)]
async fn a_tablet_that_is_not_the_newest_primary_is_not_made_writable() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.read_only = true);
    assert!(matches!(refused(&world, "z1-101", Repair::MakeWritable).await, Refusal::Role { .. }));
    // The shard record knows a later term of another tablet.
    publish_shard(&world.topo, &world.shard, &alias("z1-101"), Some(5)).await;
    let refusal = refused(&world, "z1-100", Repair::MakeWritable).await;
    assert!(matches!(refusal, Refusal::NoPrimary { .. }), "{refusal}");
    // The same term twice is a contradiction.
    publish_shard(&world.topo, &world.shard, &alias("z1-101"), Some(1)).await;
    let refusal = refused(&world, "z1-100", Repair::MakeWritable).await;
    assert!(refusal.to_string().contains("both recorded with the newest term"), "{refusal}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn whoever_asked_may_call_it_off_under_the_lock() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.read_only = true);
    let gate: Gate = Arc::new(|| async { Err("it is in maintenance".to_owned()) }.boxed());
    let end = world.hands().repair(&world.shard, &alias("z1-100"), Repair::MakeWritable, gate).await.end;
    assert!(matches!(&end, RepairEnd::NotDue(reason) if reason.contains("maintenance")), "{end}");
    assert!(world.untouched() && world.lock_is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_demotion_that_its_elector_did_not_survive_is_undone_and_a_promotion_is_completed() {
    let world = three("semi_sync").await;
    die_at(&world, Step::Demote, Edge::After).await;
    assert!(!world.server("z1-100").writable());
    let outcome = repair(&world, "z1-100", Repair::MakeWritable).await;
    assert!(outcome.end.is_right(), "{}", outcome.end);
    world.check("z1-100").await;

    let world = three("semi_sync").await;
    die_at(&world, Step::Promote, Edge::Before).await;
    let refusal = refused(&world, "z1-100", Repair::MakeWritable).await;
    assert!(matches!(refusal, Refusal::Role { .. }), "{refusal}");
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_writable_without_the_lock() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.read_only = true);
    world.fault("z1-101", "FullStatus", Fault::ThenLockLost, 1);
    let end = world.hands().repair(&world.shard, &alias("z1-100"), Repair::MakeWritable, due()).await.end;
    assert!(matches!(&end, RepairEnd::Failed(_)), "{end}");
    assert!(!world.server("z1-100").writable());
}

#[tokio::test(start_paused = true)]
async fn a_primary_forgets_a_source_that_is_none_after_applying_what_came_from_it() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| {
        (server.source, server.io, server.sql) = (Some(alias("z1-101")), true, true);
    });
    done(&world, "z1-100", Repair::ForgetSource).await;
    world.check("z1-100").await;

    world.change("z1-100", |server| {
        (server.source, server.io, server.sql, server.lazy) = (Some(alias("z1-101")), true, true, true);
        server.received = gtids("A:1-12");
    });
    let refusal = refused(&world, "z1-100", Repair::ForgetSource).await;
    assert!(matches!(refusal, Refusal::Applying { .. }), "{refusal}");
    assert_eq!(world.server("z1-100").received, gtids("A:1-12"));
}

#[tokio::test(start_paused = true)]
async fn a_read_only_primary_does_not_forget_a_source_that_cannot_be_asked() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| {
        (server.source, server.io, server.sql, server.read_only) = (Some(alias("z1-101")), true, true, true)
    });
    world.fault("z1-101", "FullStatus", Fault::Hang, 1);
    let refusal = refused(&world, "z1-100", Repair::ForgetSource).await;
    assert!(matches!(refusal, Refusal::WrongPrimary { .. }), "{refusal}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn semi_sync_settings_that_could_lose_writes_are_put_right_on_a_primary_that_works() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| server.semi_sync_timeout_ms = 1000);
    done(&world, "z1-100", Repair::SemiSyncPrimary).await;
    assert_eq!(world.changes("z1-100").len(), 1);
    world.change("z1-100", |server| server.read_only = true);
    assert!(matches!(refused(&world, "z1-100", Repair::SemiSyncPrimary).await, Refusal::Later { .. }));
}

/// Two primaries: 100 of the older term beside 101.
async fn two_primaries(policy: &'static str) -> Arc<World> {
    let newer = Server { term: Some(3), ..Server::primary('B', "A:1-10,B:1-2") };
    let world = of(
        policy,
        [
            ("z1-101", newer),
            ("z1-102", Server::replica('C', "z1-101", "A:1-10,B:1-2")),
            ("z1-103", Server::primary('A', "A:1-10")),
        ],
    )
    .await;
    world.change("z1-103", |server| server.semi_sync_primary = policy != "none");
    world
}

#[tokio::test(start_paused = true)]
async fn a_primary_of_an_older_term_is_closed_recorded_as_replica_and_follows() {
    let world = two_primaries("semi_sync").await;
    done(&world, "z1-103", Repair::RetirePrimary).await;
    let changes = world.changes("z1-103");
    assert!(changes.iter().any(|change| change.starts_with("DemotePrimary")), "{changes:?}");
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn one_that_has_more_than_the_primary_is_closed_and_not_attached() {
    let world = two_primaries("none").await;
    world.change("z1-103", |server| drop(server.commit()));
    let outcome = repair(&world, "z1-103", Repair::RetirePrimary).await;
    assert!(matches!(&outcome.end, RepairEnd::Done(what) if what.contains("does not follow")), "{}", outcome.end);
    let server = world.server("z1-103");
    assert!(server.read_only && server.source.is_none() && server.tablet_type == TabletType::Replica);
    assert!(matches!(refused(&world, "z1-103", Repair::Connect).await, Refusal::Errant { .. }));
}

#[tokio::test(start_paused = true)]
async fn hung_commits_of_an_older_primary_end_without_a_client_to_tell() {
    let world = two_primaries("semi_sync").await;
    world.change("z1-103", |server| server.commits_wait = true);
    done(&world, "z1-103", Repair::RetirePrimary).await;
    assert!(world.changes("z1-103")[0].ends_with("SET GLOBAL offline_mode = ON"));
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_dead_primary_is_corrected_and_nobody_is_touched_while_the_declared_one_is_silent() {
    let world = two_primaries("semi_sync").await;
    world.change("z1-101", |server| server.down = true);
    assert!(matches!(refused(&world, "z1-103", Repair::RetirePrimary).await, Refusal::Later { .. }));
    assert!(world.untouched());
    world.change("z1-101", |server| server.down = false);
    world.change("z1-103", |server| server.down = true);
    let outcome = repair(&world, "z1-103", Repair::RetirePrimary).await;
    assert!(matches!(outcome.end, RepairEnd::Done(_)), "{}", outcome.end);
    let record = world.topo.tablet(&alias("z1-103")).await.unwrap().value;
    assert_eq!((record.r#type(), record.primary_term_start_time), (TabletType::Replica, None));
}

#[tokio::test(start_paused = true)]
async fn an_older_primary_whom_the_others_follow_is_not_retired_while_the_newer_takes_no_writes() {
    let world = two_primaries("semi_sync").await;
    world.change("z1-101", |server| server.read_only = true);
    world.change("z1-102", |server| server.source = Some(alias("z1-103")));
    let refusal = refused(&world, "z1-103", Repair::RetirePrimary).await;
    assert!(matches!(&refusal, Refusal::WrongPrimary { writer, .. } if *writer == alias("z1-103")), "{refusal}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn a_tablet_and_its_record_name_the_same_type_again() {
    let world = three("semi_sync").await;
    // The declared primary believes to be a replica: it adopts the record's term.
    world.change("z1-100", |server| (server.own_type, server.read_only) = (Some(TabletType::Replica), true));
    done(&world, "z1-100", Repair::AlignType).await;
    world.check("z1-100").await;
    // A replica believes to be primary, and is writable.
    world.change("z1-101", |server| (server.own_type, server.read_only) = (Some(TabletType::Primary), false));
    done(&world, "z1-101", Repair::AlignType).await;
    assert!(world.server("z1-101").read_only);
    // A harmless difference.
    world.change("z1-102", |server| server.own_type = Some(TabletType::Spare));
    done(&world, "z1-102", Repair::AlignType).await;
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_record_rewritten_under_its_primary_is_restored_by_its_tablet() {
    let world = three("semi_sync").await;
    world
        .topo
        .update_tablet(&alias("z1-100"), &mut |record| {
            record.set_type(TabletType::Replica);
            record.primary_term_start_time = None;
            true
        })
        .await
        .unwrap();
    let outcome = repair(&world, "z1-100", Repair::AlignType).await;
    assert!(matches!(outcome.end, RepairEnd::Done(_)), "{}", outcome.end);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn the_shard_record_names_the_primary_that_its_tablet_did_not_publish() {
    let world = three("semi_sync").await;
    let term = world.server("z1-100").term.map(|term| term - 1);
    publish_shard(&world.topo, &world.shard, &alias("z1-101"), term).await;
    done(&world, "z1-100", Repair::PublishPrimary).await;
    world.check("z1-100").await;
    assert!(matches!(refused(&world, "z1-101", Repair::PublishPrimary).await, Refusal::Role { .. }));
    // A later term than any tablet's is not overwritten.
    publish_shard(&world.topo, &world.shard, &alias("z1-101"), Some(9)).await;
    assert!(matches!(refused(&world, "z1-100", Repair::PublishPrimary).await, Refusal::NoPrimary { .. }));
}

#[tokio::test(start_paused = true)]
async fn clients_are_let_in_where_a_server_follows_and_not_before() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| (server.offline, server.io) = (true, false));
    assert!(matches!(refused(&world, "z1-102", Repair::LiftFence).await, Refusal::Later { .. }));
    assert!(world.server("z1-102").offline);
    world.change("z1-102", |server| server.io = true);
    done(&world, "z1-102", Repair::LiftFence).await;
    world.change("z1-100", |server| server.offline = true);
    done(&world, "z1-100", Repair::LiftFence).await;
    world.check("z1-100").await;
}
