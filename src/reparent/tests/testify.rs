//! Replicas are asked about a silent primary, and what they say is acted upon.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

use super::{
    super::{
        Gate, Verdict,
        journal::{Journal, Stage},
    },
    emergency::now,
    server::Server,
    *,
};
use crate::shard::Greeting;

type Said = Arc<Mutex<BTreeMap<TabletAlias, Greeting>>>;

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

fn due() -> Gate {
    Arc::new(|| Box::pin(async { Ok(()) }))
}

/// Acts if nobody was greeted, and keeps what was said.
fn verdict() -> (Said, Verdict) {
    let said = Said::default();
    let kept = said.clone();
    let verdict: Verdict = Arc::new(move |greetings| {
        kept.lock().unwrap().clone_from(&greetings);
        Box::pin(async move {
            match greetings.values().any(|greeting| *greeting == Greeting::Greeted) {
                true => Err("it answers".to_owned()),
                false => Ok(now()),
            }
        })
    });
    (said, verdict)
}

fn timeouts(world: &World) -> Vec<i32> {
    world.lock().servers.values().map(|server| server.net_timeout_s).collect()
}

async fn journal(world: &World) -> Journal {
    let key = Journal::key("/vtelector", &world.shard);
    Journal::decode(&world.topo.global().get(&key).await.unwrap().unwrap().value).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_is_replaced_within_the_lock_under_which_its_replicas_testified() {
    let world = three().await;
    world.change("z1-100", |server| server.frozen = true);
    for name in ["z1-101", "z1-102"] {
        world.change(name, |server| server.content = true);
    }
    let begun = Instant::now();
    let (said, verdict) = verdict();
    let outcome = world.hands().testify(&world.shard, &alias("z1-100"), due(), verdict).await;
    assert_eq!(promoted(&outcome).old_primary, Some(alias("z1-100")));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(said.lock().unwrap().values().all(|greeting| *greeting == Greeting::Silent) && said.lock().unwrap().len() == 2);
    let primary = promoted(&outcome).primary.to_string();
    world.check(&primary).await;
    assert_eq!(timeouts(&world), [60; 3]);
    assert!(journal(&world).await.net_timeouts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_living_primary_keeps_its_last_acknowledger_and_everybody_is_connected_again() {
    let world = three().await;
    let (said, verdict) = verdict();
    let outcome = world.hands().testify(&world.shard, &alias("z1-100"), due(), verdict).await;
    assert!(matches!(error(outcome), ReparentError::NotDue { .. }));
    assert_eq!(said.lock().unwrap()[&alias("z1-101")], Greeting::Greeted);
    assert!(matches!(said.lock().unwrap()[&alias("z1-102")], Greeting::CannotTell(_)));
    assert!(!world.changes("z1-102").iter().any(|call| call.contains("STOP REPLICA")), "{:?}", world.changes("z1-102"));
    world.check("z1-100").await;
    assert_eq!(timeouts(&world), [60; 3]);
    assert!(journal(&world).await.net_timeouts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_touched_when_it_is_not_due_under_the_lock() {
    let world = three().await;
    let gate: Gate = Arc::new(|| Box::pin(async { Err("it answers again".to_owned()) }));
    let outcome = world.hands().testify(&world.shard, &alias("z1-100"), gate, verdict().1).await;
    assert!(matches!(error(outcome), ReparentError::NotDue { .. }));
    assert!(world.untouched());
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_elector_left_short_is_set_back_by_whoever_comes_next() {
    let world = three().await;
    let mut left = Journal::new("dead", "EmergencyReparentShard", Stage::Finished, &alias("z1-100"), Duration::ZERO);
    left.net_timeouts = [("z1-0000000101".to_owned(), 60), ("z1-0000000102".to_owned(), 60)].into();
    world.topo.global().put(&Journal::key("/vtelector", &world.shard), left.encode()).await.unwrap();
    world.change("z1-101", |server| (server.net_timeout_s, server.io) = (1, false));
    world.change("z1-102", |server| server.net_timeout_s = 1);
    world.fault("z1-102", "ExecuteFetchAsDba", Fault::Error, 6);
    let gate: Gate = Arc::new(|| Box::pin(async { Err("nothing is to be done".to_owned()) }));
    let again = async || world.hands().planned_if(&world.shard, to("z1-101"), gate.clone()).await;
    assert!(matches!(error(again().await), ReparentError::NotDue { .. }));
    assert_eq!(timeouts(&world), [60, 60, 1]);
    assert!(world.server("z1-101").io);
    assert_eq!(journal(&world).await.net_timeouts, [("z1-0000000102".to_owned(), 60)].into(), "a duty is not forgotten");
    assert!(matches!(error(again().await), ReparentError::NotDue { .. }));
    assert_eq!(timeouts(&world), [60; 3]);
    assert!(journal(&world).await.net_timeouts.is_empty());
    world.check("z1-100").await;
}

#[tokio::test(start_paused = true)]
async fn no_thread_is_started_towards_a_primary_that_is_being_replaced() {
    let world = three().await;
    let mut left = Journal::new("dead", "EmergencyReparentShard", Stage::Promoting, &alias("z1-101"), Duration::ZERO);
    left.old_primary = Some("z1-0000000100".to_owned());
    world.topo.global().put(&Journal::key("/vtelector", &world.shard), left.encode()).await.unwrap();
    world.change("z1-102", |server| server.io = false);
    let (said, _) = verdict();
    let kept = said.clone();
    let verdict: Verdict = Arc::new(move |greetings| {
        kept.lock().unwrap().clone_from(&greetings);
        Box::pin(async { Err("nothing is proven".to_owned()) })
    });
    let outcome = world.hands().testify(&world.shard, &alias("z1-100"), due(), verdict).await;
    assert!(matches!(error(outcome), ReparentError::NotDue { .. }));
    assert!(said.lock().unwrap().values().all(|greeting| matches!(greeting, Greeting::CannotTell(_))));
    assert!(world.untouched());

    // Nor where a timeout is set back on the way.
    left.net_timeouts = [("z1-0000000102".to_owned(), 60)].into();
    world.topo.global().put(&Journal::key("/vtelector", &world.shard), left.encode()).await.unwrap();
    world.change("z1-102", |server| server.net_timeout_s = 1);
    let gate: Gate = Arc::new(|| Box::pin(async { Err("nothing is to be done".to_owned()) }));
    error(world.hands().planned_if(&world.shard, to("z1-101"), gate).await);
    assert_eq!(timeouts(&world), [60; 3]);
    assert!(!world.server("z1-102").io);
}
