//! Every ordered pair of two faults, the second one up to three seconds after the first, in worlds of all shapes.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::{
    faults::Fault,
    scenario::{Verdict, play, report},
    stories::{begin, finish, promotions},
    world::{Shape, World},
};

/// The second fault comes no later.
const APART_MS: u64 = 3000;

impl Fault {
    /// No reason to promote anybody, alone and beside another such fault.
    fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::ManagerFrozen
                | Self::ReplicaKilled
                | Self::ReplicaLagging
                | Self::ReplicaErrant
                | Self::ReplicaSqlStopped
                | Self::ElectorLossy
                | Self::EtcdSlow
                | Self::EtcdDown
                | Self::ElectorKilled
                | Self::ElectorPaused
                | Self::ReplicaWritable
                | Self::StaleRecord
                | Self::ClockOff
        )
    }
}

async fn pair(world: Arc<World>, first: Fault, second: Fault) -> Verdict {
    begin(&world).await?;
    let struck = Instant::now();
    first.strike(&world);
    sleep(Duration::from_millis(world.random(|rng| rng.random_range(0..APART_MS)))).await;
    second.strike(&world);
    finish(&world).await?;
    let (count, at) = promotions(&world, struck);
    match (first.is_harmless() && second.is_harmless(), count) {
        (true, 1..) => Err(format!("{count} needless promotions, the first after {at:?}")),
        (_, 4..) => Err(format!("{count} promotions for two faults")),
        _ => Ok(()),
    }
}

fn with_every_other(first: Fault) {
    let mut failures = Vec::new();
    for second in Fault::ALL {
        for seed in super::seeds(1) {
            if !super::wanted(first, *second) {
                continue;
            }
            let shape = Shape::of((seed * 100 + first as u64) * 100 + *second as u64);
            let reproduce = format!("make sim SEED={seed} PAIR={first:?},{second:?} TESTS=pairs::");
            failures.extend(play(shape, &reproduce, |world| pair(world, first, *second)).err());
        }
    }
    report(failures);
}

macro_rules! first {
    ($($name:ident: $fault:ident,)*) => { $(
        #[test]
        fn $name() {
            with_every_other(Fault::$fault);
        }
    )* };
}

first! {
    primary_killed: PrimaryKilled,
    primary_frozen: PrimaryFrozen,
    primary_silent: PrimarySilent,
    manager_dead: ManagerDead,
    manager_frozen: ManagerFrozen,
    primary_restarted: PrimaryRestarted,
    replica_killed: ReplicaKilled,
    replica_lagging: ReplicaLagging,
    replica_errant: ReplicaErrant,
    replica_sql_stopped: ReplicaSqlStopped,
    elector_primary_cut: ElectorPrimaryCut,
    elector_replicas_cut: ElectorReplicasCut,
    replica_primary_cut: ReplicaPrimaryCut,
    elector_lossy: ElectorLossy,
    etcd_down: EtcdDown,
    etcd_slow: EtcdSlow,
    elector_killed: ElectorKilled,
    elector_paused: ElectorPaused,
    planned_by_person: PlannedByPerson,
    replica_writable: ReplicaWritable,
    primary_read_only: PrimaryReadOnly,
    record_deleted: RecordDeleted,
    stale_record: StaleRecord,
    clock_off: ClockOff,
}
