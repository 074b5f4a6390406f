//! One fault at a time, and exactly what comes of it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use vtelector::ledger::{Burst, FlapRules};

use super::{
    electors,
    faults::{self, Fault},
    manager::Flavour,
    net::Node,
    scenario::{Verdict, nothing_lost, play, report, well},
    world::{Shape, World},
};

/// By then the electors have had their first look and know each other.
pub const WARM: Duration = Duration::from_secs(6);
/// After the last fault is over everything is well within that time.
pub const WELL: Duration = Duration::from_secs(60);

/// Starts the world's electors and lets them look around; nothing may happen in a healthy shard.
pub async fn begin(world: &Arc<World>) -> Verdict {
    for number in 0..world.shape.electors {
        electors::start(world, Node::Elector(number));
    }
    sleep(WARM).await;
    let promotions = world.lock().promotions.len();
    if promotions > 0 { Err("a promotion in a healthy shard".to_owned()) } else { Ok(()) }
}

/// After the faults: well, nothing lost; the diary says who was promoted when.
pub async fn finish(world: &Arc<World>) -> Verdict {
    world.mended().await;
    let primary = well(world, WELL).await?;
    world.lock().writing = false;
    sleep(Duration::from_secs(1)).await;
    nothing_lost(world, primary)
}

/// How often somebody was promoted since, and when the first time.
pub fn promotions(world: &World, since: Instant) -> (usize, Duration) {
    let state = world.lock();
    let first = state.promotions.first().map_or(Duration::ZERO, |(at, _)| at.saturating_duration_since(since));
    (state.promotions.len(), first)
}

/// One fault; so many promotions are its due, the first within so long.
async fn single(world: Arc<World>, fault: Fault, due: Option<Duration>) -> Verdict {
    begin(&world).await?;
    let struck = Instant::now();
    fault.strike(&world);
    finish(&world).await?;
    let (count, first) = promotions(&world, struck);
    match due {
        None if count > 0 => Err(format!("{count} needless promotions, the first after {first:?}")),
        Some(_) if count != 1 => Err(format!("{count} promotions where one is due")),
        Some(due) if first > due => Err(format!("promoted only after {first:?}, which may take {due:?}")),
        _ => Ok(()),
    }
}

fn tell(fault: Fault, flavour: Flavour, due: Option<u64>) {
    let mut failures = Vec::new();
    if !super::wanted(fault, flavour) {
        return;
    }
    for seed in super::seeds(1) {
        let electors = if fault == Fault::ManagerDead { 3 } else { 1 + (seed as usize + fault as usize) % 3 };
        let shape = Shape { seed, electors, ..Shape::plain(flavour) };
        let reproduce = format!("make sim SEED={seed} PAIR={fault:?},{flavour:?} TESTS=stories::");
        failures.extend(play(shape, &reproduce, |world| single(world, fault, due.map(Duration::from_millis))).err());
    }
    report(failures);
}

macro_rules! stories {
    ($($name:ident: $fault:ident, $agents:expr, $vttablets:expr;)*) => { $(
        mod $name {
            use super::*;
            #[test]
            fn agents() {
                tell(Fault::$fault, Flavour::Agent, $agents);
            }
            #[test]
            fn vttablets() {
                tell(Fault::$fault, Flavour::Vttablet, $vttablets);
            }
        }
    )* };
}

stories! {
    a_killed_primary_is_replaced_at_once: PrimaryKilled, Some(1000), Some(2000);
    a_frozen_primary_is_replaced_within_4_s: PrimaryFrozen, Some(4000), Some(8000);
    a_silent_host_is_replaced_within_4_s: PrimarySilent, Some(4000), Some(8000);
    a_primary_without_its_manager_is_replaced_by_a_quorum: ManagerDead, Some(8000), Some(16_000);
    a_manager_frozen_for_3_s_costs_nothing: ManagerFrozen, None, None;
    a_dead_replica_costs_nothing: ReplicaKilled, None, None;
    a_lagging_replica_costs_nothing: ReplicaLagging, None, None;
    an_errant_replica_costs_nothing: ReplicaErrant, None, None;
    a_stopped_sql_thread_is_started: ReplicaSqlStopped, None, None;
    a_cut_from_the_primary_alone_costs_nothing: ElectorPrimaryCut, None, None;
    a_cut_from_the_replicas_costs_nothing: ElectorReplicasCut, None, None;
    a_replica_cut_from_its_primary_costs_nothing: ReplicaPrimaryCut, None, None;
    etcd_down_for_30_s_costs_nothing: EtcdDown, None, None;
    a_slow_etcd_costs_nothing: EtcdSlow, None, None;
    a_dead_elector_costs_nothing: ElectorKilled, None, None;
    an_elector_paused_for_10_s_costs_nothing: ElectorPaused, None, None;
    a_persons_reparent_is_left_alone: PlannedByPerson, Some(1000), Some(2500);
    a_writable_replica_is_closed: ReplicaWritable, None, None;
    a_read_only_primary_is_opened: PrimaryReadOnly, None, None;
    a_deleted_record_costs_nothing: RecordDeleted, None, None;
    a_stale_record_is_put_right: StaleRecord, None, None;
    a_clock_that_is_wrong_costs_nothing: ClockOff, None, None;
    a_restarted_primary_is_replaced_at_once: PrimaryRestarted, Some(1000), Some(2000);
    a_lossy_elector_costs_nothing: ElectorLossy, None, None;
}

/// Ten minutes of 20 % packet loss and 300 ms jitter between the elector and everything.
async fn loss(world: Arc<World>) -> Verdict {
    begin(&world).await?;
    faults::disturb(&world, Duration::from_secs(600));
    finish(&world).await?;
    match promotions(&world, world.start) {
        (0, _) => Ok(()),
        (count, first) => Err(format!("{count} needless promotions, the first at {first:?}")),
    }
}

#[test]
fn ten_minutes_of_loss_and_jitter_cost_nothing() {
    let lossy = |flavour| play(Shape::plain(flavour), "make sim TESTS=stories::ten", loss).err();
    report([Flavour::Agent, Flavour::Vttablet].into_iter().filter_map(lossy).collect());
}

/// Every new primary is killed three seconds after its promotion, when the one before has come back.
async fn flapping(world: Arc<World>) -> Verdict {
    begin(&world).await?;
    let killed = Instant::now();
    for count in 1..=3 {
        let victim = world.lose_primary();
        let limit = Duration::from_secs(if count < 3 { 20 } else { 120 });
        let promoted = world.until(|state| state.promotions.len() >= count);
        timeout(limit, promoted).await.map_err(|_| format!("promotion {count} did not come"))?;
        world.lock().hosts[victim].mysqld.start();
        sleep(Duration::from_secs(3)).await;
    }
    let at: Vec<Duration> = world.lock().promotions.iter().map(|(at, _)| *at - killed).collect();
    match (at[1] - at[0], at[2] - at[0]) {
        (second, _) if second < Duration::from_secs(5) => Err(format!("the second promotion came {second:?} after the first")),
        (_, third) if third < Duration::from_secs(60) => Err(format!("three promotions within a minute: {at:?}")),
        _ => Ok(()),
    }
}

#[test]
fn a_shard_that_loses_every_new_primary_is_not_moved_a_third_time_within_a_minute() {
    let burst = Some(Burst { count: 2, within: Duration::from_secs(60) });
    let flap = FlapRules { floor: Duration::from_secs(5), burst, cap_per_hour: 6 };
    let shape = Shape { tablets: 5, flap, ..Shape::plain(Flavour::Agent) };
    report(play(shape, "make sim TESTS=stories::a_shard_that", flapping).err().into_iter().collect());
}

/// A silent primary of vttablets: how often a replica's IO thread is stopped.
async fn io_stops(world: Arc<World>) -> Verdict {
    begin(&world).await?;
    let before = world.lock().io_stops;
    Fault::PrimarySilent.strike(&world);
    finish(&world).await?;
    let (stops, promotions) = {
        let state = world.lock();
        (state.io_stops - before, state.promotions.len())
    };
    match world.shape.allow_recovery {
        true if stops < 2 => Err(format!("{stops} IO threads were stopped, where two have to testify")),
        false if stops + promotions > 0 => {
            Err(format!("{stops} IO threads were stopped, {promotions} promotions, and nothing is allowed"))
        }
        _ => Ok(()),
    }
}

#[test]
fn nobody_loses_a_connection_for_a_failover_that_is_not_allowed() {
    let told = |allow_recovery| {
        let shape = Shape { allow_recovery, ..Shape::plain(Flavour::Vttablet) };
        play(shape, "make sim TESTS=stories::nobody", io_stops).err()
    };
    report([true, false].into_iter().filter_map(told).collect());
}
