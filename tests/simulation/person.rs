//! What people do, well and badly.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::sleep;
use vtelector::{
    pb::{
        topodata::{self, TabletType},
        vttime,
    },
    reparent::{Emergency, Hands, Mode, Outcome, Planned, ReparentSettings},
};

use super::{net::Node, remote::Remote, world::World};

pub fn hands(world: &Arc<World>, node: Node) -> Hands {
    let settings = ReparentSettings {
        remote_operation_timeout: Duration::from_secs(15),
        lock_timeout: Duration::from_secs(45),
        ledger_root: "/vtelector".to_owned(),
        durability_extra: Default::default(),
        who: format!("{node:?}"),
        die_at: None,
    };
    Hands::new(world.topo(node), Arc::new(Remote { world: world.clone(), node }), settings)
}

pub fn emergency() -> Emergency {
    Emergency {
        new_primary: None,
        ignore_replicas: BTreeSet::new(),
        expected_primary: None,
        wait_replicas_timeout: Duration::from_secs(30),
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

pub fn planned() -> Planned {
    Planned {
        new_primary: None,
        avoid_primary: None,
        expected_primary: None,
        wait_replicas_timeout: Duration::from_secs(15),
        tolerable_lag: None,
        allow_cross_cell: true,
        mode: Mode::Graceful,
    }
}

pub fn say(world: &World, outcome: &Outcome) {
    let took = outcome.took.as_millis();
    match &outcome.result {
        Ok(done) => world.note(format!("{:?}: {} is primary, {took} ms", done.branch, done.primary)),
        Err(error) => world.note(format!("{:?} failed after {took} ms: {error}", outcome.operation)),
    }
}

/// PlannedReparentShard, once.
pub fn plan(world: &Arc<World>) {
    let (weak, hands) = (Arc::downgrade(world), hands(world, Node::Person));
    world.goes_on(async move {
        let Some(world) = weak.upgrade() else { return };
        say(&world, &hands.planned(&world.shard, planned()).await);
    });
}

/// Deletes a tablet's record; a tablet writes it again soon after, as it does when it is restarted.
pub fn delete_record(world: &Arc<World>, host: usize) {
    world.lasts(Duration::from_secs(11));
    let topo = world.topo(Node::Person);
    let (weak, record, alias) = (Arc::downgrade(world), world.record(host), world.alias(host));
    world.goes_on(async move {
        let key = format!("/vitess/{}/tablets/{alias}/Tablet", alias.cell);
        while topo.global().delete(&key, None).await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(10)).await;
        let Some(world) = weak.upgrade() else { return };
        world.note(format!("{alias} registers again"));
        let now = world.record(host);
        let record = topodata::Tablet { r#type: now.r#type, primary_term_start_time: now.primary_term_start_time, ..record };
        while let Err(error) = topo.create_tablet(&record).await {
            if error.to_string().contains("exists") {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
}

/// A replica's record says PRIMARY with the term of an hour before everything.
pub fn stale_record(world: &Arc<World>, host: usize) {
    let (topo, alias) = (world.topo(Node::Person), world.alias(host));
    let term = vttime::Time { seconds: world.clock(host, -90_000_000).seconds, nanoseconds: 0 };
    world.goes_on(async move {
        let mut change = |record: &mut topodata::Tablet| {
            if record.r#type() == TabletType::Primary {
                return false;
            }
            (record.r#type, record.primary_term_start_time) = (TabletType::Primary as i32, Some(term));
            true
        };
        for _ in 0..40 {
            if topo.update_tablet(&alias, &mut change).await.is_ok() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
}
