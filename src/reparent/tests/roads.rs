//! The four roads, and who may walk them.

use super::{super::journal::Journal, server::Server, *};
use crate::pb::topodata::TabletType;

async fn three(policy: &'static str) -> std::sync::Arc<World> {
    World::new(
        policy,
        [
            ("z1-100", Server::primary('A', "A:1-10")),
            ("z1-101", Server::replica('B', "z1-100", "A:1-10")),
            ("z1-102", Server::replica('C', "z1-100", "A:1-10")),
        ],
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn a_graceful_reparent_moves_the_primary_and_everybody_follows() {
    let world = three("semi_sync").await;
    let outcome = world.planned(to("z1-101")).await;
    assert_eq!(promoted(&outcome).branch, Branch::Graceful);
    assert_eq!(promoted(&outcome).old_primary, Some(alias("z1-100")));
    assert_eq!(world.changes("z1-100"), ["DemotePrimary", "SetReplicationSource z1-0000000101 ack"]);
    assert_eq!(
        world.changes("z1-101"),
        ["SetReplicationSource z1-0000000100 ack force", "PromoteReplica ack", "PopulateReparentJournal PlannedReparentShard"]
    );
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn without_a_name_the_primary_moves_away_and_with_one_to_avoid_that_is_not_primary_nothing_happens() {
    let world = three("none").await;
    assert_eq!(promoted(&world.planned(away()).await).primary, alias("z1-101"));
    world.check("z1-101").await;
    let world = three("none").await;
    let outcome = world.planned(Planned { avoid_primary: Some(alias("z1-102")), ..away() }).await;
    assert_eq!((promoted(&outcome).branch, promoted(&outcome).promoted()), (Branch::Nothing, None));
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn a_round_trip_under_writes_loses_nothing() {
    let world = three("semi_sync").await;
    let writer = world.clone();
    let writing = world.tasks.spawn(async move {
        let aliases: Vec<_> = writer.lock().servers.keys().cloned().collect();
        let mut count = 0;
        while !writer.tasks.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            count += aliases.iter().filter(|alias| writer.lock().write(alias)).count();
        }
        count
    });
    for name in ["z1-101", "z1-102", "z1-100", "z1-102"] {
        promoted(&world.planned(to(name)).await);
        world.check(name).await;
    }
    world.tasks.close();
    assert!(writing.await.unwrap() > 100, "the writer wrote");
    world.check("z1-102").await;
}

#[tokio::test(start_paused = true)]
async fn naming_the_primary_makes_it_writable_with_semi_sync_first() {
    let world = three("semi_sync").await;
    world.change("z1-100", |server| (server.read_only, server.semi_sync_primary) = (true, false));
    let outcome = world.planned(to("z1-100")).await;
    assert_eq!(promoted(&outcome).branch, Branch::Partial);
    let changes = world.changes("z1-100");
    let order = ["ExecuteFetchAsDba SET GLOBAL rpl_semi_sync_source_enabled = ON", "SetReadWrite", "UndoDemotePrimary ack"];
    assert_eq!(changes[..3], order);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_fresh_shard_gets_its_first_primary() {
    let world =
        World::new("semi_sync", [("z1-100", Server::fresh('A')), ("z1-101", Server::fresh('B')), ("z2-200", Server::fresh('C'))])
            .await;
    let outcome = world.hands().init_shard_primary(&world.shard, &alias("z1-101"), Duration::from_secs(10)).await;
    assert_eq!(promoted(&outcome).branch, Branch::Initial);
    world.check("z1-101").await;
    let again = error(world.hands().init_shard_primary(&world.shard, &alias("z1-100"), Duration::from_secs(10)).await);
    assert!(matches!(&again, ReparentError::AlreadyInitialised { primary: Some(p), .. } if *p == alias("z1-101")), "{again}");
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn the_first_primary_must_hold_what_anybody_holds() {
    let mut ahead = Server::fresh('A');
    ahead.commit();
    let world = World::new("none", [("z1-100", ahead), ("z1-101", Server::fresh('B'))]).await;
    let refused = error(world.planned(to("z1-101")).await);
    assert!(
        refused.to_string().contains("z1-0000000101 lacks aaaaaaaa-0000-4000-8000-00000000000a:1, which z1-0000000100 has"),
        "{refused}"
    );
    assert!(world.untouched());
    promoted(&world.planned(to("z1-100")).await);
    world.check("z1-100").await;
}

/// A shard that has had a primary, of which no record tells any more.
async fn headless(first: &str, second: &str) -> std::sync::Arc<World> {
    let mut shard = [
        ("z1-100", Server::replica('B', "z1-109", first)),
        ("z1-101", Server::replica('C', "z1-109", second)),
        ("z1-109", Server::primary('A', "A:1-10")),
    ];
    shard[2].1 = shard[2].1.clone().of_type(TabletType::Drained).down();
    World::new("none", shard).await
}

#[tokio::test(start_paused = true)]
async fn where_nobody_is_clearly_primary_everybody_is_demoted_and_the_most_advanced_is_promoted() {
    let world = headless("A:1-9", "A:1-10").await;
    let outcome = world.planned(Planned { allow_cross_cell: true, ..away() }).await;
    assert_eq!((promoted(&outcome).branch, &promoted(&outcome).primary), (Branch::Potential, &alias("z1-101")));
    world.check("z1-101").await;
    let world = headless("A:1-9", "A:1-10").await;
    let refused = error(world.planned(to("z1-100")).await);
    assert!(matches!(refused.cause(), ReparentError::CandidateBehind { .. }), "{refused}");
    assert!(matches!(refused, ReparentError::After { aftermath: Aftermath::AllReadOnly, .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn what_was_received_and_not_applied_counts_where_nobody_is_primary() {
    let world = headless("A:1-9", "A:1-10").await;
    world.change("z1-101", |server| {
        server.executed = super::server::gtids("A:1-8");
        server.sql = false;
    });
    let refused = error(world.planned(to("z1-100")).await);
    assert!(matches!(refused.cause(), ReparentError::CandidateBehind { ahead, .. } if *ahead == alias("z1-101")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn occupied_or_dead_bystanders_do_not_stop_it_and_a_dead_replica_does() {
    let shard = |last: Server| {
        [("z1-100", Server::primary('A', "A:1-10")), ("z1-101", Server::replica('B', "z1-100", "A:1-10")), ("z1-102", last)]
    };
    let replica = || Server::replica('C', "z1-100", "A:1-10");
    for last in [replica().of_type(TabletType::Rdonly).down(), replica().of_type(TabletType::Restore).down()] {
        let world = World::new("semi_sync", shard(last)).await;
        let outcome = world.planned(to("z1-101")).await;
        promoted(&outcome);
        assert!(
            outcome.events.iter().any(|event| event.warning && event.text.contains("z1-0000000102")),
            "{:#?}",
            outcome.events
        );
        world.check("z1-101").await;
    }
    let world = World::new("semi_sync", shard(replica().of_type(TabletType::Backup))).await;
    world.fault("z1-102", "SetReplicationSource", Fault::Hang, 9);
    let began = tokio::time::Instant::now();
    promoted(&world.planned(to("z1-101")).await);
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for a backup");
    let world = World::new("semi_sync", shard(replica().down())).await;
    let refused = error(world.planned(to("z1-101")).await);
    assert!(matches!(&refused, ReparentError::TabletUnreachable { source } if source.alias == alias("z1-102")), "{refused}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_before_anything_is_changed() {
    let world = three("semi_sync").await;
    world.change("z1-102", |server| server.backup = true);
    let refused = [
        (Planned { avoid_primary: Some(alias("z1-101")), ..to("z1-101") }, tonic::Code::FailedPrecondition),
        (Planned { expected_primary: Some(alias("z1-101")), ..to("z1-101") }, tonic::Code::FailedPrecondition),
        (to("z1-102"), tonic::Code::FailedPrecondition),
        (to("z1-999"), tonic::Code::NotFound),
    ];
    for (request, code) in refused {
        let error = error(world.planned(request.clone()).await);
        assert_eq!(error.code(), code, "{request:?}: {error}");
    }
    assert!(world.untouched());
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn unsafe_semi_sync_settings_of_the_elect_are_repaired_before_the_demotion() {
    let world = three("semi_sync").await;
    world.change("z1-101", |server| server.semi_sync_timeout_ms = 10_000);
    promoted(&world.planned(to("z1-101")).await);
    assert!(
        world.changes("z1-101")[0].starts_with("ExecuteFetchAsDba SET GLOBAL rpl_semi_sync_source_timeout = 1000000000000000000")
    );
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn an_elect_whose_clock_is_behind_is_waited_for_or_refused() {
    // The model's clocks show 1000 s after the first term's second.
    let world = three("none").await;
    world.change("z1-101", |server| server.clock_behind_s = 1003);
    promoted(&world.planned(to("z1-101")).await);
    let world = three("none").await;
    world.change("z1-101", |server| server.clock_behind_s = 1030);
    let refused = error(world.planned(to("z1-101")).await);
    assert!(refused.to_string().contains("clock") && matches!(refused, ReparentError::Unfit { .. }), "{refused}");
    world.check("z1-100").await;
}

fn statements(world: &World, name: &str) -> Vec<String> {
    let statements =
        world.changes(name).into_iter().filter_map(|call| call.strip_prefix("ExecuteFetchAsDba ").map(str::to_owned));
    statements.collect()
}

const STOP: &str = "STOP REPLICA IO_THREAD";
const START: &str = "START REPLICA IO_THREAD";

/// How long nobody could write, as the answer says.
fn pause_ms(outcome: &Outcome) -> u64 {
    let line = outcome.events.iter().find_map(|event| event.text.strip_prefix("no writes for about ")).unwrap();
    line.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_demotion_that_sleeps_in_its_poll_is_woken_by_a_replica_that_is_not_needed() {
    let world = three("semi_sync").await;
    world.fault("z1-100", "DemotePrimary", Fault::AckPoll { drain: Duration::from_millis(5) }, 1);
    let outcome = world.planned(to("z1-101")).await;
    assert!(pause_ms(&outcome) < 60, "{:#?}", outcome.events);
    assert_eq!(statements(&world, "z1-102"), [STOP], "it is left stopped until it is re-pointed");
    assert_eq!(statements(&world, "z1-101"), [""; 0]);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_nudge_that_comes_too_early_is_taken_back_and_given_again_when_transactions_have_ended() {
    let world = three("semi_sync").await;
    world.fault("z1-100", "DemotePrimary", Fault::AckPoll { drain: Duration::from_millis(700) }, 1);
    let outcome = world.planned(to("z1-101")).await;
    assert!(pause_ms(&outcome) < 900, "{:#?}", outcome.events);
    assert_eq!(statements(&world, "z1-102"), [STOP, START, STOP]);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_nudge_that_had_no_effect_costs_a_second_and_never_the_elects_acknowledgements() {
    let world = three("semi_sync").await;
    // The spare replica has disconnected just before the poll began: its stop wakes nobody.
    world.fault("z1-100", "DemotePrimary", Fault::AckPoll { drain: Duration::from_millis(40) }, 1);
    let outcome = world.planned(to("z1-101")).await;
    assert!(pause_ms(&outcome) < 1200, "{:#?}", outcome.events);
    assert_eq!((statements(&world, "z1-102"), statements(&world, "z1-101")), (vec![STOP.to_owned()], vec![]));
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn in_a_shard_of_two_the_only_acker_is_never_stopped() {
    for drain in [5, 300] {
        let shard = [("z1-100", Server::primary('A', "A:1-10")), ("z1-101", Server::replica('B', "z1-100", "A:1-10"))];
        let world = World::new("semi_sync", shard).await;
        world.fault("z1-100", "DemotePrimary", Fault::AckPoll { drain: Duration::from_millis(drain) }, 1);
        let outcome = world.planned(to("z1-101")).await;
        assert!(pause_ms(&outcome) < drain + 1200, "{:#?}", outcome.events);
        assert_eq!(statements(&world, "z1-101"), [""; 0]);
        world.check("z1-101").await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_semi_sync_nobody_is_nudged() {
    let world = three("none").await;
    world.fault("z1-100", "DemotePrimary", Fault::Late(Duration::from_millis(400)), 1);
    promoted(&world.planned(to("z1-101")).await);
    assert_eq!(statements(&world, "z1-102"), [""; 0]);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn the_abrupt_mode_promotes_without_waiting_for_the_demotion() {
    let world = three("semi_sync").await;
    world.fault("z1-100", "DemotePrimary", Fault::Late(Duration::from_millis(900)), 1);
    let abrupt = Planned { mode: super::super::Mode::Abrupt, ..to("z1-101") };
    promoted(&world.planned(abrupt).await);
    assert_eq!(world.changes("z1-100")[..2], ["ExecuteFetchAsDba SET GLOBAL super_read_only = ON", "DemotePrimary"]);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_tablet_is_pointed_at_the_primary_and_the_primary_is_not() {
    let world = three("semi_sync").await;
    let answer = world.hands().reparent_tablet(&alias("z1-102")).await.unwrap();
    assert_eq!(answer, (world.shard.clone(), alias("z1-100")));
    assert_eq!(world.changes("z1-102"), ["SetReplicationSource z1-0000000100 ack"]);
    let refused = world.hands().reparent_tablet(&alias("z1-100")).await.unwrap_err();
    assert!(refused.to_string().contains("it is the primary of commerce/0"), "{refused}");
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_nudged_is_not_asked_after_by_the_next_reparent() {
    let world = three("semi_sync").await;
    world.fault("z1-100", "DemotePrimary", Fault::AckPoll { drain: Duration::from_millis(5) }, 1);
    promoted(&world.planned(to("z1-101")).await);
    assert!(world.changes("z1-102").iter().any(|change| change.contains("STOP REPLICA IO_THREAD")), "it was nudged");
    let key = Journal::key("/vtelector", &world.shard);
    let journal = world.topo.global().get(&key).await.unwrap().unwrap();
    assert_eq!(
        Journal::decode(&journal.value).unwrap().stopped_io().unwrap().len(),
        0,
        "it follows, and nothing is left to do there"
    );
}
