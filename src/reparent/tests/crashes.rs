//! The process dies at every edge of every step; the next planned reparent converges.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    super::{DieAt, Edge, Step, planned::planned, run::Run},
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

/// Runs until the edge is reached and the process is dead. Its calls to tablets have ended by then, its lease too.
async fn die(world: &Arc<World>, request: Planned, die_at: DieAt) {
    let mut run = Run::new(world.hands_that_die(Some(die_at)), world.shard.clone(), CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_secs(60), planned(&mut run, request, false)).await;
    assert!(ended.is_err(), "{die_at:?} was never reached: {ended:?}");
    drop(run);
    assert!(world.lock_is_free().await);
}

fn edges() -> impl Iterator<Item = DieAt> {
    // Applying and following begin where the step before them ends, finishing is the last.
    let both = Step::PLANNED.into_iter().flat_map(|step| [Edge::Before, Edge::After].map(|edge| DieAt { step, edge }));
    both.filter(|at| !matches!((at.step, at.edge), (Step::Apply | Step::Follow, Edge::Before)))
}

#[tokio::test(start_paused = true)]
async fn the_same_command_again_completes_what_a_dead_run_began() {
    for at in edges() {
        let world = three().await;
        // A slow demotion, so that a replica's IO thread is stopped as well.
        world.fault("z1-100", "DemotePrimary", Fault::Late(Duration::from_millis(30)), 1);
        die(&world, to("z1-101"), at).await;
        let outcome = world.planned(to("z1-101")).await;
        assert_eq!(promoted(&outcome).primary, alias("z1-101"), "{at:?}");
        world.check("z1-101").await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_wish_is_granted_after_a_dead_run_as_well() {
    for at in edges() {
        for name in ["z1-100", "z1-102"] {
            let world = three().await;
            die(&world, to("z1-101"), at).await;
            let outcome = world.planned(to(name)).await;
            assert_eq!(promoted(&outcome).primary, alias(name), "{at:?}");
            world.check(name).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_name_a_dead_run_is_completed_and_not_doubled() {
    for at in edges() {
        let world = three().await;
        die(&world, away(), at).await;
        promoted(&world.planned(away()).await);
        let primary = world.topo.shard(&world.shard).await.unwrap().value.primary_alias.unwrap();
        world.check(&TabletAlias::try_from(&primary).unwrap().to_string()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_dies_again_while_it_converges_is_converged_by_the_next() {
    for first in edges() {
        for second in [DieAt { step: Step::Promote, edge: Edge::Before }, DieAt { step: Step::Promote, edge: Edge::After }] {
            let world = three().await;
            die(&world, to("z1-101"), first).await;
            die(&world, to("z1-102"), second).await;
            promoted(&world.planned(to("z1-102")).await);
            world.check("z1-102").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_somebody_else_repaired_is_left_as_it_is() {
    let world = three().await;
    die(&world, to("z1-101"), DieAt { step: Step::Demote, edge: Edge::After }).await;
    // vtctld knows nothing of our journal.
    let other = world.hands();
    let key = super::super::journal::Journal::key("/vtelector", &world.shard);
    let journal = world.topo.global().get(&key).await.unwrap().unwrap();
    world.topo.global().delete(&key, None).await.unwrap();
    promoted(&other.planned(&world.shard, to("z1-102")).await);
    world.topo.global().put(&key, journal.value).await.unwrap();
    let outcome = world.planned(Planned { avoid_primary: Some(alias("z1-100")), ..away() }).await;
    assert_eq!(promoted(&outcome).branch, Branch::Nothing);
    world.check("z1-102").await;
}

#[tokio::test(start_paused = true)]
async fn a_journal_of_a_newer_version_stops_the_run_with_its_key() {
    let world = three().await;
    let key = super::super::journal::Journal::key("/vtelector", &world.shard);
    world.topo.global().put(&key, b"{\"version\": 7}".to_vec()).await.unwrap();
    let failed = error(world.planned(to("z1-101")).await);
    assert!(failed.to_string().contains(&key) && failed.to_string().contains("version 7"), "{failed}");
    assert!(world.untouched());
}
