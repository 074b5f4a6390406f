//! The old primary is gone, stuck or cut off.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::{DieAt, Edge, Emergency, Step, emergency::emergency, run::Run},
    server::Server,
    *,
};
use crate::{
    elect::SeenPrimary,
    mysql::{
        Position,
        fence::{FenceError, Fenced, ServerFence},
    },
    pb::topodata::{Tablet, TabletType},
};

pub fn now() -> Emergency {
    Emergency {
        new_primary: None,
        ignore_replicas: Default::default(),
        expected_primary: None,
        wait_replicas_timeout: Duration::from_secs(10),
        prevent_cross_cell: false,
        wait_for_all_tablets: false,
        accept_loss: None,
        choose_side: false,
        allow_not_established: false,
        allow_unfenced: true,
        seen: None,
        is_dead: false,
    }
}

/// A primary with three replicas; the first of them has the most.
async fn four(policy: &'static str) -> Arc<World> {
    World::new(
        policy,
        [
            ("z1-100", Server::primary('A', "A:1-10")),
            ("z1-101", Server::replica('B', "z1-100", "A:1-10")),
            ("z1-102", Server::replica('C', "z1-100", "A:1-9")),
            ("z1-103", Server::replica('D', "z1-100", "A:1-9")),
        ],
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn the_most_advanced_replica_takes_over_from_a_dead_mysqld() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    let outcome = world.emergency(now()).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert_eq!(promoted(&outcome).old_primary, Some(alias("z1-100")));
    world.check("z1-101").await;
    let decision = outcome.decision.unwrap();
    assert!(decision.proofs.iter().all(|proof| proof.holds) && decision.proofs.len() == 4, "{decision:#?}");
    // The thread was connecting with an error: the stop alone would have left it so.
    assert_eq!(
        world.changes("z1-102"),
        [
            "StopReplicationAndGetStatus",
            "ExecuteFetchAsDba STOP REPLICA IO_THREAD",
            "SetReplicationSource z1-0000000101 ack force"
        ]
    );
    assert_eq!(world.changes("z1-101").last().map(String::as_str), Some("PopulateReparentJournal EmergencyReparentShard"));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_answers_is_demoted_before_anybody_is_stopped() {
    let world = four("semi_sync").await;
    world.lock().replicate();
    let outcome = world.emergency(Emergency { new_primary: Some(alias("z1-102")), ..now() }).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-102"));
    let calls = world.lock().calls.clone();
    let first = |method: &str| calls.iter().position(|(_, called, _)| *called == method).unwrap();
    assert!(first("DemotePrimary") < first("StopReplicationAndGetStatus"));
    world.check("z1-102").await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_primary_costs_less_than_half_a_second_and_acknowledges_nothing_when_it_thaws() {
    frozen(now(), Duration::from_millis(600)).await;
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_was_proven_dead_is_fenced_all_the_same_and_hardly_waited_for() {
    frozen(Emergency { is_dead: true, ..now() }, Duration::from_millis(330)).await;
}

async fn frozen(request: Emergency, limit: Duration) {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.frozen = true);
    let outcome = world.emergency(request).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert!(outcome.took < limit, "{:?}", outcome.took);
    world.check("z1-101").await;
    world.change("z1-100", |server| server.frozen = false);
    let acked = world.lock().write(&alias("z1-100"));
    assert!(!acked, "a thawed primary acknowledged a write");
    // What was queued there is done as soon as it thaws: demoted, fenced, following.
    world.comes_true(|inner| inner.servers[&alias("z1-100")].replicates_from(&alias("z1-101"))).await;
    world.comes_true(|inner| !inner.servers[&alias("z1-100")].offline).await;
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn whoever_listens_where_nobody_did_is_told_nothing_once_the_operation_is_over() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.down = true);
    let outcome = world.emergency(Emergency { is_dead: true, ..now() }).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    // It may be another tablet, which was given the address of the one that is gone.
    world.change("z1-100", |server| server.down = false);
    sleep(Duration::from_secs(20)).await;
    let told: Vec<_> = world.lock().calls.iter().filter(|(on, ..)| *on == alias("z1-100")).cloned().collect();
    assert!(!told.iter().any(|(.., statement)| statement.starts_with("SET GLOBAL")), "{told:?}");
}

/// Its commits hang there, and its clients have waited with them. Whatever it is told first when it is back would let these commits end.
#[tokio::test(start_paused = true)]
async fn a_primary_that_was_cut_off_tells_its_clients_nothing_when_it_is_back() {
    for is_dead in [true, false] {
        for back_ms in [50, 150, 390, 420, 600, 1200, 1900, 2600, 3600] {
            back_after(Duration::from_millis(back_ms), Emergency { is_dead, ..now() }).await;
        }
    }
}

async fn back_after(absence: Duration, request: Emergency) {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| (server.silent, server.commits_wait) = (true, true));
    let back = async {
        sleep(absence).await;
        world.change("z1-100", |server| server.silent = false);
    };
    let (outcome, ()) = tokio::join!(world.emergency(request), back);
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    // Whoever repairs the shard afterwards finds it, should all that was sent have been in vain.
    sleep(Duration::from_secs(5)).await;
    if !world.server("z1-100").replicates_from(&alias("z1-101")) {
        world.hands().reparent_tablet(&alias("z1-100")).await.unwrap();
    }
    world.comes_true(|inner| !inner.servers[&alias("z1-100")].offline).await;
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_commits_hang_in_its_demotion_tells_its_clients_nothing_when_a_person_has_it_follow() {
    let old = Server { closing: true, commits_wait: true, term: None, ..Server::primary('A', "B:1-9") };
    let world = World::new(
        "semi_sync",
        [
            ("z1-100", old.of_type(TabletType::Replica)),
            ("z1-101", Server::primary('B', "B:1-9")),
            ("z1-102", Server::replica('C', "z1-101", "B:1-9")),
        ],
    )
    .await;
    world.hands().reparent_tablet(&alias("z1-100")).await.unwrap();
    assert!(!world.server("z1-100").offline && world.server("z1-100").read_only);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn an_acker_that_does_not_answer_may_still_acknowledge_and_so_nothing_is_touched() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.down = true);
    world.change("z1-103", |server| server.down = true);
    let error = error(world.emergency(now()).await);
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert!(error.to_string().contains("z1-0000000103"), "{error}");
    assert!(world.untouched(), "{:?}", world.lock().calls);
    assert!(world.lock_is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_person_may_go_on_without_a_fence_where_no_policy_asks_for_ackers() {
    let world = four("none").await;
    world.change("z1-100", |server| server.down = true);
    let outcome = world.emergency(now()).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert!(outcome.events.iter().any(|event| event.warning && event.text.contains("z1-0000000100")), "{:#?}", outcome.events);
    world.check("z1-101").await;
    let world = four("none").await;
    world.change("z1-100", |server| server.down = true);
    let error = error(world.emergency(Emergency { allow_unfenced: false, ..now() }).await);
    assert!(error.to_string().contains("z1-0000000100"), "{error}");
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn a_relay_log_is_applied_before_its_server_is_promoted() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    world.change("z1-101", |server| {
        server.sql = false;
        server.executed = super::server::gtids("A:1-7");
    });
    let later = world.clone();
    world.tasks.spawn(async move {
        tokio::time::sleep(Duration::from_secs(40)).await;
        later.change("z1-101", |server| server.sql = true);
        later.lock().replicate();
    });
    let error = error(world.emergency(now()).await);
    assert!(error.to_string().contains("z1-0000000101"), "it alone has A:10, and it does not apply: {error}");
    assert!(world.server("z1-102").io && world.server("z1-103").io, "replication runs again");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(promoted(&world.emergency(now()).await).primary, alias("z1-101"));
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_never_promoted_hands_on_what_it_alone_has() {
    let world = World::new(
        "semi_sync_with_rdonly_ack",
        [
            ("z1-100", Server::primary('A', "A:1-10").down()),
            ("z1-101", Server::replica('B', "z1-100", "A:1-9")),
            ("z1-102", Server::replica('C', "z1-100", "A:1-10").of_type(TabletType::Rdonly)),
        ],
    )
    .await;
    let outcome = world.emergency(now()).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    world.check("z1-101").await;
    assert!(world.changes("z1-101")[2].starts_with("SetReplicationSource z1-0000000102"), "{:?}", world.changes("z1-101"));
}

#[tokio::test(start_paused = true)]
async fn without_anybody_to_acknowledge_nobody_is_promoted_unless_a_person_allows_it() {
    let shard = || async {
        let world = four("semi_sync").await;
        world.change("z1-100", |server| server.mysqld_down = true);
        for name in ["z1-102", "z1-103"] {
            world.change(name, |server| server.executed = super::server::gtids(&format!("A:1-9,{}:1", server.letter)));
            world.change(name, |server| server.received = server.executed.clone());
        }
        world
    };
    let world = shard().await;
    let error = error(world.emergency(now()).await);
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert!(world.untouched());
    let world = shard().await;
    let outcome = world.emergency(Emergency { allow_not_established: true, ..now() }).await;
    // Its first write waits for an acknowledgement that nobody gives: that is said, and nobody waits for it.
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert!(outcome.events.iter().any(|event| event.warning && event.text.contains("not established")), "{:#?}", outcome.events);
    assert!(world.server("z1-101").writable());
}

#[tokio::test(start_paused = true)]
async fn what_a_watcher_saw_acknowledged_on_the_old_primary_is_not_left_behind() {
    let seen = |binding| {
        let position = Position::Gtid(super::server::gtids("A:1-12"));
        Some((alias("z1-100"), SeenPrimary { position, binding }))
    };
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    let outcome = world.emergency(Emergency { seen: seen(true), ..now() }).await;
    let refused = error(outcome).to_string();
    assert!(refused.contains("11-12"), "{refused}");
    // Where its settings let commits go unacknowledged, it is reported and binds nobody.
    let outcome = world.emergency(Emergency { seen: seen(false), ..now() }).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert!(outcome.decision.unwrap().caveats.iter().any(|caveat| caveat.contains("11-12")));
}

#[tokio::test(start_paused = true)]
async fn an_acker_that_cannot_be_pointed_at_the_elect_does_not_count() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    world.fault("z1-102", "SetReplicationSource", Fault::Error, 100);
    let outcome = world.emergency(now()).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"), "the other one acknowledges");
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    for name in ["z1-102", "z1-103"] {
        world.fault(name, "SetReplicationSource", Fault::Error, 100);
    }
    let error = error(world.emergency(now()).await);
    assert!(error.to_string().contains("z1-0000000101"), "{error}");
    assert!(!world.server("z1-101").writable(), "nothing was promoted");
    assert!(["z1-101", "z1-102", "z1-103"].iter().all(|name| world.server(name).io), "replication runs again");
    assert!(world.lock_is_free().await);
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_refused_before_anything_is_asked() {
    let world = four("semi_sync").await;
    let unknown = alias("z9-999");
    for (request, code) in [
        (Emergency { new_primary: Some(unknown.clone()), ..now() }, tonic::Code::NotFound),
        (Emergency { ignore_replicas: [unknown].into(), ..now() }, tonic::Code::NotFound),
        (
            Emergency { new_primary: Some(alias("z1-101")), ignore_replicas: [alias("z1-101")].into(), ..now() },
            tonic::Code::InvalidArgument,
        ),
        (Emergency { choose_side: true, ..now() }, tonic::Code::InvalidArgument),
        (Emergency { expected_primary: Some(alias("z1-101")), ..now() }, tonic::Code::FailedPrecondition),
    ] {
        let error = error(world.emergency(request).await);
        assert_eq!(error.code(), code, "{error}");
    }
    assert!(world.lock().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_preview_reads_and_takes_no_lock() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    let outcome = world.hands().emergency_preview(&world.shard, now()).await;
    assert_eq!(outcome.decision.unwrap().elect, Some(alias("z1-101")));
    let outcome = world.hands().planned_preview(&world.shard, to("z1-101")).await;
    assert!(outcome.decision.unwrap().refusal.unwrap().contains("z1-0000000100"));
    assert!(world.untouched() && world.lock_is_free().await);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_after_an_elector_that_died_at_any_step_finishes_its_work() {
    for step in Step::EMERGENCY {
        for edge in [Edge::Before, Edge::After] {
            let world = four("semi_sync").await;
            world.change("z1-100", |server| server.mysqld_down = true);
            let died = DieAt { step, edge };
            let mut run = Run::new(world.hands_that_die(Some(died)), world.shard.clone(), CancellationToken::new());
            let ended = tokio::time::timeout(Duration::from_secs(60), emergency(&mut run, now())).await;
            assert!(ended.is_err(), "{died:?} was never reached: {ended:?}");
            drop(run);
            assert!(world.lock_is_free().await);
            let outcome = world.emergency(now()).await;
            assert!(outcome.result.is_ok(), "{step} {edge:?}: {:?}\n{:#?}", outcome.result, outcome.events);
            let primary = promoted(&outcome).primary.to_string();
            world.check(&primary).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_does_not_answer_proves_nothing() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.frozen = true);
    world.fault("z1-102", "StopReplicationAndGetStatus", Fault::Hang, 9);
    let error = error(world.emergency(now()).await);
    assert!(error.to_string().contains("z1-0000000102"), "it was never stopped, and z1-100 never demoted: {error}");
    assert!(!world.server("z1-101").writable());
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_comes_late_does_not_outlive_the_undo() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    world.fault("z1-102", "StopReplicationAndGetStatus", Fault::Late(Duration::from_millis(2500)), 9);
    assert!(world.emergency(now()).await.result.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(["z1-101", "z1-102", "z1-103"].iter().all(|name| world.server(name).io), "replication runs again");
}

#[tokio::test(start_paused = true)]
async fn it_leaves_nothing_that_a_planned_reparent_would_stumble_over() {
    let world = four("semi_sync").await;
    let outcome = world.emergency(Emergency { new_primary: Some(alias("z1-102")), ..now() }).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-102"));
    promoted(&world.planned(to("z1-100")).await);
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_could_not_be_told_is_told_by_whoever_comes_next() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.down = true);
    assert_eq!(promoted(&world.emergency(now()).await).primary, alias("z1-101"));
    world.change("z1-100", |server| {
        (server.down, server.read_only, server.offline) = (false, true, true);
    });
    assert_eq!(world.hands().reparent_tablet(&alias("z1-100")).await.unwrap().1, alias("z1-101"));
    assert!(world.server("z1-100").replicates_from(&alias("z1-101")));
}

/// Fences whatever it is asked to.
struct Fences(Arc<World>);

#[async_trait::async_trait]
impl ServerFence for Fences {
    async fn fence(&self, tablet: &Tablet, _deadline: Instant) -> Result<Fenced, FenceError> {
        self.0.change(&name_of(tablet), |server| server.offline = true);
        Ok(Fenced { executed: super::server::gtids("A:1-10") })
    }

    async fn lift(&self, tablet: &Tablet, _deadline: Instant) -> Result<(), FenceError> {
        self.0.change(&name_of(tablet), |server| server.offline = false);
        Ok(())
    }
}

fn name_of(tablet: &Tablet) -> String {
    TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_tablet_is_dead_is_fenced_through_mysql_itself() {
    let world = four("none").await;
    world.change("z1-100", |server| server.down = true);
    let unfenced = Emergency { allow_unfenced: false, ..now() };
    let hands = world.hands().fence(Arc::new(Fences(world.clone())));
    let outcome = hands.emergency(&world.shard, unfenced).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert!(world.server("z1-100").offline);
    // Its tablet is back: whoever points it at the new primary lets its clients in again.
    world.change("z1-100", |server| server.down = false);
    hands.reparent_tablet(&alias("z1-100")).await.unwrap();
    assert!(!world.server("z1-100").offline && world.server("z1-100").read_only);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_log_is_waited_for_as_long_as_it_gets_on() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    world.change("z1-101", |server| {
        server.sql = false;
        server.executed = super::server::gtids("A:1-2");
    });
    let slow = world.clone();
    world.tasks.spawn(async move {
        // One transaction every 6 s, where 10 s without any would be the end.
        for done in 3..=10 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            slow.change("z1-101", |server| server.executed = super::server::gtids(&format!("A:1-{done}")));
        }
        slow.change("z1-101", |server| server.sql = true);
    });
    let outcome = world.emergency(now()).await;
    assert_eq!(promoted(&outcome).primary, alias("z1-101"));
    assert!(outcome.took > Duration::from_secs(40), "{:?}", outcome.took);
}

#[tokio::test(start_paused = true)]
async fn a_promotion_whose_answer_was_lost_is_looked_at() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    world.fault("z1-101", "PromoteReplica", Fault::AnswerLost, 1);
    assert_eq!(promoted(&world.emergency(now()).await).primary, alias("z1-101"));
    assert_eq!(world.changes("z1-101").iter().filter(|change| change.starts_with("PromoteReplica")).count(), 1);
    world.check("z1-101").await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_lost_before_the_promotion_promotes_nobody() {
    let world = four("semi_sync").await;
    world.change("z1-100", |server| server.mysqld_down = true);
    world.fault("z1-103", "SetReplicationSource", Fault::ThenLockLost, 1);
    let error = error(world.emergency(now()).await);
    assert!(error.to_string().contains("lost topology lock"), "{error}");
    assert!(!world.server("z1-101").writable());
}
