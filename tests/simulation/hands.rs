//! Emergency reparents by a person, with a fault at some moment of it: whatever comes of the call, no acknowledged write is lost, nobody
//! writes beside the primary, and a person who tries again gets a shard that is well.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::sleep;

use super::{
    faults::Fault,
    manager::Flavour,
    net::Node,
    person::{emergency, hands, planned, say},
    scenario::{Verdict, nothing_lost, play, report, well},
    world::{Shape, World},
};

/// How often a person tries.
const TRIES: usize = 6;

/// A person repairs what is left: makes a primary where there is none that works, and points everybody at it.
async fn repair(world: &Arc<World>) -> Result<usize, String> {
    let hands = hands(world, Node::Person);
    for _ in 0..TRIES {
        if let Ok(primary) = well(world, Duration::from_secs(3)).await {
            return Ok(primary);
        }
        let primary = world.primary();
        let works = world.lock().hosts[primary].mysqld.runs();
        let outcome = if works {
            let mut request = planned();
            request.new_primary = Some(world.alias(primary));
            hands.planned(&world.shard, request).await
        } else {
            hands.emergency(&world.shard, emergency()).await
        };
        say(world, &outcome);
        for host in 0..world.shape.tablets {
            if let Err(error) = hands.reparent_tablet(&world.alias(host)).await {
                world.note(format!("ReparentTablet {}: {error}", world.alias(host)));
            }
        }
        // A tablet that was left with its replication stopped is started by a person who looks.
        super::person::start_all(world).await;
    }
    well(world, Duration::from_secs(20)).await
}

/// The first fault makes an emergency reparent necessary; the second strikes while it runs.
async fn story(world: Arc<World>, first: Fault, second: Fault) -> Verdict {
    sleep(Duration::from_millis(500)).await;
    first.strike(&world);
    sleep(Duration::from_millis(world.random(|rng| rng.random_range(50..600)))).await;
    let hands = hands(&world, Node::Person);
    let (shard, calling) = (world.shard.clone(), hands.clone());
    let call = tokio::spawn(async move { calling.emergency(&shard, emergency()).await });
    sleep(Duration::from_micros(world.random(|rng| rng.random_range(0..700_000)))).await;
    second.strike(&world);
    say(&world, &call.await.unwrap());
    sleep(super::faults::OVER).await;
    let primary = repair(&world).await?;
    world.lock().writing = false;
    sleep(Duration::from_secs(1)).await;
    nothing_lost(&world, primary)
}

fn all_seconds(first: Fault, flavour: Flavour) {
    let seeds = super::seeds(1);
    let mut failures = Vec::new();
    for second in Fault::ALL {
        // A person's second reparent waits for the lock, and elects at random.
        for seed in seeds.clone() {
            let mut shape = Shape::of(seed * 1000 + *second as u64);
            shape.flavour = flavour;
            if shape.policy == "none" {
                shape.policy = "semi_sync";
            }
            let name = if flavour == Flavour::Agent { "agents" } else { "vttablets" };
            let reproduce =
                format!("SEED={seed} PAIR={first:?},{second:?} cargo test --test simulation hands::{name} -- --nocapture");
            if super::wanted(first, *second) {
                failures.extend(play(shape, &reproduce, |world| story(world, first, *second)).err());
            }
        }
    }
    report(failures);
}

#[test]
fn agents_whose_primary_is_killed() {
    all_seconds(Fault::PrimaryKilled, Flavour::Agent);
}

#[test]
fn agents_whose_primary_is_frozen() {
    all_seconds(Fault::PrimaryFrozen, Flavour::Agent);
}

#[test]
fn agents_whose_primary_is_silent() {
    all_seconds(Fault::PrimarySilent, Flavour::Agent);
}

#[test]
fn vttablets_whose_primary_is_killed() {
    all_seconds(Fault::PrimaryKilled, Flavour::Vttablet);
}

#[test]
fn vttablets_whose_primary_is_frozen() {
    all_seconds(Fault::PrimaryFrozen, Flavour::Vttablet);
}

#[test]
fn vttablets_whose_primary_is_silent() {
    all_seconds(Fault::PrimarySilent, Flavour::Vttablet);
}
