//! Emergency reparents by a person, with a fault at some moment of it: whatever comes of the call, no acknowledged write is lost, nobody
//! writes beside the primary, and an elector that is started afterwards makes the shard well.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::sleep;

use super::{
    electors,
    faults::Fault,
    manager::Flavour,
    net::Node,
    person::{emergency, hands, say},
    scenario::{Verdict, play, report},
    stories::finish,
    world::{Shape, World},
};

/// What makes an emergency reparent necessary.
const FIRST: [Fault; 3] = [Fault::PrimaryKilled, Fault::PrimaryFrozen, Fault::PrimarySilent];

/// The first fault makes an emergency reparent necessary; the second strikes while it runs.
async fn story(world: Arc<World>, first: Fault, second: Fault) -> Verdict {
    sleep(Duration::from_millis(500)).await;
    first.strike(&world);
    sleep(Duration::from_millis(world.random(|rng| rng.random_range(50..600)))).await;
    let (shard, hands) = (world.shard.clone(), hands(&world, Node::Person));
    let call = tokio::spawn(async move { hands.emergency(&shard, emergency()).await });
    sleep(Duration::from_micros(world.random(|rng| rng.random_range(0..700_000)))).await;
    second.strike(&world);
    say(&world, &call.await.unwrap());
    world.mended().await;
    electors::start(&world, Node::Elector(0));
    finish(&world).await
}

fn with_every_second(flavour: Flavour) {
    let mut failures = Vec::new();
    for second in Fault::ALL {
        for seed in super::seeds(1) {
            let first = FIRST[(seed as usize + *second as usize) % FIRST.len()];
            if !super::wanted(first, *second) {
                continue;
            }
            let mut shape = Shape { flavour, ..Shape::of(seed * 1000 + *second as u64) };
            if shape.policy == "none" {
                shape.policy = "semi_sync";
            }
            let reproduce = format!("make sim SEED={seed} PAIR={first:?},{second:?} TESTS=hands::");
            failures.extend(play(shape, &reproduce, |world| story(world, first, *second)).err());
        }
    }
    report(failures);
}

#[test]
fn agents() {
    with_every_second(Flavour::Agent);
}

#[test]
fn vttablets() {
    with_every_second(Flavour::Vttablet);
}
