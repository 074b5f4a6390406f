//! Converges every watched shard to what is declared: one supervisor per shard, one action at a time.

mod act;
pub mod board;
pub mod decide;
mod elector;
mod gate;
mod memory;
pub mod publication;
mod shown;
mod supervisor;
#[cfg(test)]
mod tests;
pub mod traffic;

pub use elector::{Elector, ElectorSettings};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{board::Board, supervisor::Supervisor};
use crate::{
    config::Settings,
    diagnose::Rules,
    ledger::{FlapRules, Ledger},
    metrics::Metrics,
    peers::Peers,
    reparent::Hands,
    sense::Senses,
    topo::ShardId,
};

/// What may be changed without a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// Limits of the diagnosis.
    pub rules: Rules,
    /// Anti-flapping.
    pub flap: FlapRules,
    /// `--allow-recovery`: without it everything is watched and reported, and nothing done.
    pub allow_recovery: bool,
    /// `--allow-emergency-reparent`.
    pub allow_emergency: bool,
    /// `--prevent-cross-cell-failover`.
    pub prevent_cross_cell: bool,
    /// `--allow-unfenced-failover`: under a policy without acknowledgements, fail over although the old primary may still take writes.
    pub allow_unfenced: bool,
    /// `--tolerable-replication-lag`; `None` = no limit.
    pub tolerable_lag: Option<Duration>,
    /// `--wait-replicas-timeout`.
    pub wait_replicas_timeout: Duration,
}

impl From<&Settings> for Live {
    fn from(settings: &Settings) -> Self {
        let elector = &settings.elector;
        Self {
            rules: settings.rules.clone(),
            flap: settings.flap,
            allow_recovery: elector.allow_recovery,
            allow_emergency: elector.allow_emergency_reparent,
            prevent_cross_cell: elector.prevent_cross_cell_failover,
            allow_unfenced: elector.allow_unfenced_failover,
            tolerable_lag: Some(elector.tolerable_replication_lag.0).filter(|lag| !lag.is_zero()),
            wait_replicas_timeout: settings.wait_replicas_timeout,
        }
    }
}

/// What supervisors work with.
pub struct Context {
    /// Carries out.
    pub hands: Hands,
    /// Sees.
    pub senses: Arc<Senses>,
    /// Remembers, for all electors.
    pub ledger: Ledger,
    /// The other electors.
    pub peers: Peers,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Shows.
    pub board: Arc<Board>,
    /// Settings of now.
    pub live: watch::Receiver<Arc<Live>>,
}

impl Context {
    fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }
}

/// Runs the supervisors. Dropping it stops them; what they have begun ends by itself, as every operation does.
pub struct Recoverer {
    tasks: TaskTracker,
    _stop_with_us: DropGuard,
}

impl Recoverer {
    /// Starts a supervisor for every shard that is sensed, and stops it when that ends.
    pub fn start(context: Arc<Context>, stop: &CancellationToken) -> Self {
        let (tasks, stop) = (TaskTracker::new(), stop.child_token());
        let curating = stop.clone();
        let of_supervisors = tasks.clone();
        tasks.spawn(async move { curating.clone().run_until_cancelled(curate(context, of_supervisors, curating)).await });
        Self { tasks, _stop_with_us: stop.drop_guard() }
    }

    /// Waits until every task has ended after the stop, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "the supervisors of shards did not stop in time");
        }
    }
}

async fn curate(context: Arc<Context>, tasks: TaskTracker, stop: CancellationToken) {
    let (mut shards, mut ledger) = (context.senses.shards(), context.ledger.changes());
    let mut running: BTreeMap<ShardId, DropGuard> = BTreeMap::new();
    loop {
        context.metrics.ledger.follow(&ledger.borrow_and_update());
        let wanted = shards.borrow_and_update().clone();
        context.metrics.peers.shards_owned.set(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
        running.retain(|shard, _| wanted.contains(shard));
        for shard in wanted.iter() {
            if !running.contains_key(shard) {
                let stop = stop.child_token();
                running.insert(shard.clone(), stop.clone().drop_guard());
                let supervisor = Supervisor::new(context.clone(), shard.clone());
                tasks.spawn(async move { supervisor.run(stop).await });
            }
        }
        tokio::select! {
            changed = shards.changed() => if changed.is_err() { return },
            // It never ends before we do.
            Ok(()) = ledger.changed() => {}
        }
    }
}
