//! Repairs of one tablet: under the shard lock everything is read and judged again, then done, then read back.
//!
//! No repair throws away what a server has received and not applied, makes a second server writable, attaches an errant one, or takes
//! from a working primary its last acker. Each may die at any place and be begun anew: what it finds then is where it goes on.

mod connect;
mod outcome;
mod replication;
mod retire;
mod scene;
mod semi_sync;
mod server;
mod service;
mod source;
mod takeover;
mod writable;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use outcome::{Refusal, RepairEnd, RepairError, RepairOutcome};

pub(super) use takeover::take_over;

use outcome::{Fixed, Stop};

use super::{Gate, Hands, run::Run};
use crate::{
    diagnose::Repair,
    topo::{ShardId, TabletAlias},
    traces::{self, Steps},
};

impl Repair {
    /// Its name in logs, metrics and the shard lock.
    pub fn name(self) -> &'static str {
        match self {
            Self::MakeWritable => "MakeWritable",
            Self::MakeReadOnly => "MakeReadOnly",
            Self::Connect => "Connect",
            Self::StartReplication => "StartReplication",
            Self::FixHeartbeat => "FixHeartbeat",
            Self::ForgetSource => "ForgetSource",
            Self::SemiSyncPrimary => "SemiSyncPrimary",
            Self::SemiSyncReplica => "SemiSyncReplica",
            Self::RetirePrimary => "RetirePrimary",
            Self::AlignType => "AlignType",
            Self::Drain => "Drain",
            Self::PublishPrimary => "PublishPrimary",
            Self::LiftFence => "LiftFence",
        }
    }
}

impl Hands {
    /// Repairs one tablet. `gate` is asked under the shard lock. Runs in a task of its own: dropping this future before the lock is had
    /// calls it off; later it goes on to its end, every wait of which is short.
    pub async fn repair(&self, shard: &ShardId, tablet: &TabletAlias, repair: Repair, gate: Gate) -> RepairOutcome {
        let cancel = CancellationToken::new();
        let caller = cancel.clone().drop_guard();
        let mut run = Run::new(self.clone(), shard.clone(), cancel);
        run.gate = Some(gate);
        let alias = tablet.clone();
        let span = traces::operation(shard, repair.name());
        run.trace = Steps::of(&span);
        let traced = span.clone();
        let work = async move {
            let end = RepairEnd::from(run.repair(&alias, repair).await);
            let took = run.locked_at.map_or_else(Default::default, |locked| locked.elapsed());
            tracing::info!(shard = %run.shard, tablet = %alias, repair = repair.name(), end = end.name(), ?took, "{end}");
            run.trace.all_ended(None);
            traces::ended(&traced, end.name(), None);
            RepairOutcome { repair, tablet: alias, end, events: run.events, took }
        };
        let outcome = self.tasks.spawn(work.instrument(span)).await;
        caller.disarm();
        outcome.unwrap_or_else(|error| {
            if error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            }
            let end = RepairEnd::Failed(RepairError::Stopping);
            RepairOutcome { repair, tablet: tablet.clone(), end, events: Vec::new(), took: Default::default() }
        })
    }
}

impl Run {
    async fn repair(&mut self, alias: &TabletAlias, repair: Repair) -> Result<Fixed, Stop> {
        let cancel = self.cancel.clone();
        let locked = tokio::select! {
            biased;
            locked = self.lock(format!("{}({alias})", repair.name())) => locked.map_err(Stop::from),
            () = cancel.cancelled() => Err(Stop::NotDue("whoever asked for it has gone away".to_owned())),
        };
        let fixed = match locked {
            Ok(()) => self.repair_locked(alias, repair).await,
            Err(stop) => Err(stop),
        };
        self.unlock().await;
        fixed
    }

    async fn repair_locked(&mut self, alias: &TabletAlias, repair: Repair) -> Result<Fixed, Stop> {
        let scene = self.scene().await?;
        match repair {
            Repair::MakeWritable => self.make_writable(&scene, alias).await,
            Repair::MakeReadOnly => self.make_read_only(&scene, alias).await,
            Repair::Connect => self.connect(&scene, alias).await,
            Repair::StartReplication => self.start(&scene, alias).await,
            Repair::FixHeartbeat => self.fix_heartbeat(&scene, alias).await,
            Repair::ForgetSource => self.forget_source(&scene, alias).await,
            Repair::SemiSyncPrimary => self.semi_sync_primary(&scene, alias).await,
            Repair::SemiSyncReplica => self.semi_sync_replica(&scene, alias).await,
            Repair::RetirePrimary => self.retire(&scene, alias).await,
            Repair::AlignType => self.align_type(&scene, alias).await,
            Repair::Drain => self.drain(&scene, alias).await,
            Repair::PublishPrimary => self.publish(&scene, alias).await,
            Repair::LiftFence => self.lift_fence(&scene, alias).await,
        }
    }
}
