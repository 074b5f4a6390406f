//! Repairs as stories: what each does, what it refuses, and what a lost answer, a dying tablet or a lost lock leaves.

mod primaries;
mod replicas;
mod takeover;

use std::sync::Arc;

use futures_util::FutureExt;

use super::{
    super::{Gate, Refusal, RepairEnd, RepairOutcome},
    server::{Server, gtids},
    world::{Fault, World},
    *,
};
use crate::diagnose::Repair;

/// A shard in which whatever throws a relay log away breaks a rule.
async fn three(policy: &'static str) -> Arc<World> {
    of(
        policy,
        [
            ("z1-100", Server::primary('A', "A:1-10")),
            ("z1-101", Server::replica('B', "z1-100", "A:1-10")),
            ("z1-102", Server::replica('C', "z1-100", "A:1-10")),
        ],
    )
    .await
}

async fn of<const N: usize>(policy: &'static str, servers: [(&str, Server); N]) -> Arc<World> {
    let world = World::new(policy, servers).await;
    world.lock().careful = true;
    world
}

fn due() -> Gate {
    Arc::new(|| async { Ok(()) }.boxed())
}

async fn repair(world: &Arc<World>, name: &str, repair: Repair) -> RepairOutcome {
    let outcome = world.hands().repair(&world.shard, &alias(name), repair, due()).await;
    assert!(world.lock_is_free().await, "{:?}", outcome.end);
    assert_eq!(world.lock().violations, Vec::<String>::new(), "{:?}", outcome.end);
    outcome
}

/// It is done, and doing it again finds nothing to do.
async fn done(world: &Arc<World>, name: &str, what: Repair) -> RepairOutcome {
    let outcome = repair(world, name, what).await;
    assert!(matches!(outcome.end, RepairEnd::Done(_)), "{} {:#?}", outcome.end, outcome.events);
    let calls = world.lock().calls.len();
    let again = repair(world, name, what).await;
    assert!(matches!(again.end, RepairEnd::AlreadyFixed(_)), "{}", again.end);
    let calls = world.lock().calls.split_off(calls);
    let changes: Vec<_> = calls.iter().filter(|(_, method, arguments)| world::is_change(method, arguments)).collect();
    assert!(changes.is_empty(), "{changes:?}");
    outcome
}

async fn refused(world: &Arc<World>, name: &str, what: Repair) -> Refusal {
    match repair(world, name, what).await.end {
        RepairEnd::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

async fn failed(world: &Arc<World>, name: &str, what: Repair) -> String {
    match repair(world, name, what).await.end {
        RepairEnd::Failed(error) => error.to_string(),
        other => panic!("{other}"),
    }
}
