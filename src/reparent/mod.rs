//! The hands: a change of primary as typed steps, each with an undo or a way forward.

mod dba;
mod decision;
mod declared;
mod demote;
mod emergency;
mod error;
mod fitness;
mod journal;
mod lead;
mod look;
mod nudge;
mod observed;
mod plan;
mod planned;
mod preview;
mod repair;
mod resume;
mod run;
mod step;
mod testify;
#[cfg(test)]
mod tests;
mod undo;

use std::{
    collections::BTreeMap,
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub use decision::{Decision, ProofLine, TabletDecision};
pub use error::{Aftermath, FailedStep, ReparentError};
pub use repair::{Refusal, RepairEnd, RepairError, RepairOutcome};
pub(crate) use resume::promotion_under_way;
pub use step::{DieAt, DieAtError, Edge, Step};
pub use testify::Verdict;

use run::Run;

use crate::{
    durability::Extra,
    elect::SeenPrimary,
    mysql::{GtidSet, fence::ServerFence},
    tablet::{Call, SetSource, TabletManager},
    topo::{ShardId, TabletAlias, Topo, TopoError},
    traces::{self, Steps},
};

/// Limits and names that every operation shares.
#[derive(Debug, Clone)]
pub struct ReparentSettings {
    /// `--remote-operation-timeout`: limit of one short tablet call.
    pub remote_operation_timeout: Duration,
    /// `--lock-timeout`: how long to wait for the shard lock.
    pub lock_timeout: Duration,
    /// `--ledger-root`: where the journal lives in the global etcd, such as `/vtelector`.
    pub ledger_root: String,
    /// `--durability-extra`: what is demanded of a keyspace beyond its durability policy.
    pub durability_extra: BTreeMap<String, Extra>,
    /// Who we are, for a person who reads the journal: `host:port`.
    pub who: String,
    /// Fault injection for tests (`VTELECTOR_DIE_AT`, see [`DieAt`]); `None` in production.
    pub die_at: Option<DieAt>,
}

/// How the old primary is made read-only (safety rules, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `DemotePrimary`: running transactions may finish.
    #[default]
    Graceful,
    /// super_read_only first: running transactions fail at their next write. Refused where two-phase commit is in use.
    Abrupt,
}

/// Metadata of a `PlannedReparentShard` call in which a caller may ask for a [`Mode`] by its name; vtctld has no field for it.
pub const MODE_KEY: &str = "vtelector-mode";

impl Mode {
    /// Its name in [`MODE_KEY`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Abrupt => "abrupt",
        }
    }

    /// The mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Graceful, Self::Abrupt].into_iter().find(|mode| mode.name() == name)
    }
}

/// What is asked of a planned reparent; the fields are those of `PlannedReparentShardRequest`.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Who shall become primary; elected when absent.
    pub new_primary: Option<TabletAlias>,
    /// Who shall not be primary any more; the recorded primary when both are absent.
    pub avoid_primary: Option<TabletAlias>,
    /// Refuse unless the shard record names this primary.
    pub expected_primary: Option<TabletAlias>,
    /// Limit of catching up and of re-pointing (30 s where a request leaves it unset).
    pub wait_replicas_timeout: Duration,
    /// A candidate that lags more than this is not elected; `None` (0 in a request) = no limit.
    pub tolerable_lag: Option<Duration>,
    /// Whether a tablet in another cell than the primary's may be elected without being named.
    pub allow_cross_cell: bool,
    /// How the old primary is made read-only.
    pub mode: Mode,
}

/// What is asked of an emergency reparent: the fields of `EmergencyReparentShardRequest`, and what Vitess has no field for.
#[derive(Debug, Clone)]
pub struct Emergency {
    /// Who shall become primary; elected when absent.
    pub new_primary: Option<TabletAlias>,
    /// Tablets that are left alone and not waited for; they count as unreached.
    pub ignore_replicas: BTreeSet<TabletAlias>,
    /// Refuse unless the shard record names this primary.
    pub expected_primary: Option<TabletAlias>,
    /// Limit of catching up without progress, and of re-pointing (30 s where a request leaves it unset).
    pub wait_replicas_timeout: Duration,
    /// Only a tablet in the old primary's cell.
    pub prevent_cross_cell: bool,
    /// Wait for the answer of every tablet, for as long as the remote-operation timeout.
    pub wait_for_all_tablets: bool,
    /// A person accepts the loss of exactly this set (`--accept-loss`).
    pub accept_loss: Option<GtidSet>,
    /// A person chose `new_primary`'s side of a divergence.
    pub choose_side: bool,
    /// A person accepts a primary whose commits hang until somebody can acknowledge.
    pub allow_not_established: bool,
    /// Under a policy without ackers: go on although the old primary is neither demoted nor fenced, if it is the only promotable tablet
    /// that was not reached. True for a person's call, as in Vitess.
    pub allow_unfenced: bool,
    /// The highest position that whoever watches the shard has seen on that tablet while it was primary: where it binds, nobody is promoted
    /// without it (safety rules, section 4).
    pub seen: Option<(TabletAlias, SeenPrimary)>,
    /// Whether whoever watches the shard has proven that the declared primary's MySQL is dead or silent to everybody: its demotion and its
    /// fence are sent, and hardly waited for.
    pub is_dead: bool,
}

/// One line for the person who asked: an entry of `events` in the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReparentEvent {
    /// When (wall clock, for the record only).
    pub at: SystemTime,
    /// Whether a person should look at it.
    pub warning: bool,
    /// The line.
    pub text: String,
}

/// Which road a reparent took (facts: Vitess's planned reparenter has the same four).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branch {
    /// Nothing was asked that is not so already.
    Nothing,
    /// The first primary of the shard.
    Initial,
    /// From a healthy primary to another tablet.
    Graceful,
    /// The named tablet is the primary already: made writable, everybody re-pointed.
    Partial,
    /// Nobody is clearly the primary: everybody is made read-only, then the most advanced is promoted.
    Potential,
    /// The old primary is gone, stuck or cut off.
    Emergency,
}

/// A reparent that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The road it took.
    pub branch: Branch,
    /// The primary now.
    pub primary: TabletAlias,
    /// The primary before, where there was one.
    pub old_primary: Option<TabletAlias>,
}

impl Promoted {
    /// What `promoted_primary` of the answer holds: nobody when there was nothing to do.
    pub fn promoted(&self) -> Option<&TabletAlias> {
        (self.branch != Branch::Nothing).then_some(&self.primary)
    }
}

/// Which operation it was, for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A planned one, or the first primary of a shard.
    Planned,
    /// An emergency reparent.
    Emergency,
}

impl Operation {
    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Emergency => "emergency",
        }
    }
}

/// What is to be done.
enum Work {
    Planned(Planned),
    Initial(Planned),
    Emergency(Emergency),
    TakeOver(TabletAlias),
    Testify(testify::Hearing),
    PlannedPreview(Planned),
    EmergencyPreview(Emergency),
}

impl Work {
    fn operation(&self) -> Operation {
        match self {
            Self::Planned(_) | Self::Initial(_) | Self::TakeOver(_) | Self::PlannedPreview(_) => Operation::Planned,
            Self::Emergency(_) | Self::Testify(_) | Self::EmergencyPreview(_) => Operation::Emergency,
        }
    }

    fn is_preview(&self) -> bool {
        matches!(self, Self::PlannedPreview(_) | Self::EmergencyPreview(_))
    }

    async fn run(self, run: &mut Run) -> Result<Promoted, ReparentError> {
        match self {
            Self::Planned(request) => planned::planned(run, request, false).await,
            Self::Initial(request) => planned::planned(run, request, true).await,
            Self::Emergency(request) => emergency::emergency(run, request).await,
            Self::TakeOver(to) => repair::take_over(run, &to).await,
            Self::Testify(hearing) => testify::testify(run, hearing).await,
            Self::PlannedPreview(request) => planned::preview(run, &request).await,
            Self::EmergencyPreview(request) => emergency::preview(run, &request).await,
        }
    }
}

/// The whole answer: what was said on the way, and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What it was.
    pub operation: Operation,
    /// Lines in the order in which they were said.
    pub events: Vec<ReparentEvent>,
    /// How it ended.
    pub result: Result<Promoted, ReparentError>,
    /// From the lock to the end; zero when the lock was not had.
    pub took: Duration,
    /// The steps that ended, each with its duration.
    pub steps: Vec<(Step, Duration)>,
    /// What was decided and why, as far as it came to a decision.
    pub decision: Option<Decision>,
}

/// Asked once under the lock, before anything is done: whether it is still due. The error says why not.
pub type Gate = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Called once at the end of every operation that changes a primary, also when its caller has gone away: for counters.
pub type OnFinished = Arc<dyn Fn(&ShardId, &Outcome) + Send + Sync>;

/// Carries out what was decided. Cheap to clone; every clone shares the tasks.
#[derive(Clone)]
pub struct Hands {
    /// The declared world.
    pub topo: Topo,
    /// How tablets are called.
    pub tablets: Arc<dyn TabletManager>,
    /// Limits and names.
    pub settings: ReparentSettings,
    /// What fences a MySQL server whose tablet does not answer, where an account for that was given.
    pub fence: Option<Arc<dyn ServerFence>>,
    on_finished: Option<OnFinished>,
    tasks: TaskTracker,
}

impl Hands {
    /// Hands without any work.
    pub fn new(topo: Topo, tablets: Arc<dyn TabletManager>, settings: ReparentSettings) -> Self {
        Self { topo, tablets, settings, fence: None, on_finished: None, tasks: TaskTracker::new() }
    }

    /// Names what fences servers whose tablets do not answer.
    #[must_use]
    pub fn fence(mut self, fence: Arc<dyn ServerFence>) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Names who is told at the end of every planned or initial reparent.
    #[must_use]
    pub fn on_finished(mut self, call: OnFinished) -> Self {
        self.on_finished = Some(call);
        self
    }

    /// Moves the primary of a shard (`PlannedReparentShard`). The operation runs in a task of its own: dropping this future before the
    /// point of no return cancels and undoes it, later it goes on to its end; [`OnFinished`] is called in every case.
    pub async fn planned(&self, shard: &ShardId, request: Planned) -> Outcome {
        self.own(shard, Work::Planned(request), None).await
    }

    /// [`Hands::planned`], unless `gate` says under the lock that it is not due any more ([`ReparentError::NotDue`]).
    pub async fn planned_if(&self, shard: &ShardId, request: Planned, gate: Gate) -> Outcome {
        self.own(shard, Work::Planned(request), Some(gate)).await
    }

    /// Gives the shard a primary when the old one is gone, stuck or cut off (`EmergencyReparentShard`). Runs in a task of its own, like
    /// [`Hands::planned`].
    pub async fn emergency(&self, shard: &ShardId, request: Emergency) -> Outcome {
        self.own(shard, Work::Emergency(request), None).await
    }

    /// [`Hands::emergency`], unless `gate` says under the lock that it is not due any more ([`ReparentError::NotDue`]).
    pub async fn emergency_if(&self, shard: &ShardId, request: Emergency, gate: Gate) -> Outcome {
        self.own(shard, Work::Emergency(request), Some(gate)).await
    }

    /// Moves the primary from the tablet that works, whoever that is, to `to`, which the topology declares, unless `gate` says under the
    /// lock that it is not due any more. Never two writers: first the topology is told what works, then the primary moves as in
    /// [`Hands::planned`].
    pub async fn take_over_if(&self, shard: &ShardId, to: &TabletAlias, gate: Gate) -> Outcome {
        self.own(shard, Work::TakeOver(to.clone()), Some(gate)).await
    }

    /// Makes the other tablets testify whether the MySQL server of `of` takes connections, under the shard lock and unless `gate` says
    /// that it is not due; then goes on as [`Hands::emergency`] if `verdict` says so. It may be asked for only when that server has
    /// failed on every channel for a second: replicas of vttablets lose their connection for a moment. What is heard costs about a
    /// second; without an emergency reparent everything is put back and the answer is [`ReparentError::NotDue`].
    pub async fn testify(&self, shard: &ShardId, of: &TabletAlias, gate: Gate, verdict: Verdict) -> Outcome {
        self.own(shard, Work::Testify(testify::Hearing { of: of.clone(), verdict }), Some(gate)).await
    }

    /// What [`Hands::planned`] would do now and why: reads only, no lock. The decision is in [`Outcome::decision`].
    pub async fn planned_preview(&self, shard: &ShardId, request: Planned) -> Outcome {
        self.own(shard, Work::PlannedPreview(request), None).await
    }

    /// What [`Hands::emergency`] would do now and why: reads only, no lock.
    pub async fn emergency_preview(&self, shard: &ShardId, request: Emergency) -> Outcome {
        self.own(shard, Work::EmergencyPreview(request), None).await
    }

    /// Makes `primary` the first primary of a shard that never had one (`InitShardPrimary`).
    pub async fn init_shard_primary(&self, shard: &ShardId, primary: &TabletAlias, wait_replicas_timeout: Duration) -> Outcome {
        let request = Planned {
            new_primary: Some(primary.clone()),
            avoid_primary: None,
            expected_primary: None,
            wait_replicas_timeout,
            tolerable_lag: None,
            allow_cross_cell: true,
            mode: Mode::Graceful,
        };
        self.own(shard, Work::Initial(request), None).await
    }

    /// Runs an operation in a task that nobody cuts off. Dropping the returned future only tells it that the caller is gone.
    async fn own(&self, shard: &ShardId, work: Work, gate: Option<Gate>) -> Outcome {
        let operation = work.operation();
        let cancel = CancellationToken::new();
        let caller = cancel.clone().drop_guard();
        let mut run = Run::new(self.clone(), shard.clone(), cancel);
        run.gate = gate;
        let span = traces::operation(shard, operation.name());
        run.trace = Steps::of(&span);
        let on_finished = self.on_finished.clone();
        let traced = span.clone();
        let work = async move {
            let preview = work.is_preview();
            let result = work.run(&mut run).await;
            let took = run.locked_at.map_or(Duration::ZERO, |locked| locked.elapsed());
            match &result {
                _ if preview => {}
                Ok(done) => {
                    tracing::info!(shard = %run.shard, primary = %done.primary, branch = ?done.branch, ?took, "reparent done")
                }
                Err(ReparentError::NotDue { reason, .. }) => {
                    tracing::info!(shard = %run.shard, reason, "no reparent: it is not due any more");
                }
                Err(error) => tracing::warn!(shard = %run.shard, %error, ?took, "reparent failed"),
            }
            let failure = result.as_ref().err().map(|error| error as &dyn std::fmt::Display);
            run.trace.all_ended(failure);
            traces::ended(&traced, result.as_ref().map_or_else(ReparentError::reason, |_| "done"), failure);
            let Run { events, steps, decision, shard, .. } = run;
            let outcome = Outcome { operation, events, result, took, steps, decision };
            if let Some(call) = on_finished.filter(|_| !preview) {
                call(&shard, &outcome);
            }
            outcome
        };
        let outcome = self.tasks.spawn(work.instrument(span)).await;
        caller.disarm();
        outcome.unwrap_or_else(|error| {
            // A panic is a fault of ours, which the caller's server turns into an answer; nothing else but the end of the process stops a task.
            if error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            }
            let result = Err(ReparentError::Stopping { shard: shard.clone() });
            Outcome { operation, events: Vec::new(), result, took: Duration::ZERO, steps: Vec::new(), decision: None }
        })
    }

    /// Points a tablet at the primary of its shard (`ReparentTablet`); answers the shard and that primary.
    pub async fn reparent_tablet(&self, alias: &TabletAlias) -> Result<(ShardId, TabletAlias), ReparentError> {
        let record = self.topo.tablet(alias).await?.value;
        let shard = ShardId::new(&record.keyspace, &record.shard).map_err(TopoError::from)?;
        let mut run = Run::new(self.clone(), shard.clone(), CancellationToken::new());
        run.lock(format!("ReparentTablet({alias})")).await?;
        let pointed = run.point_at_primary(alias).await;
        let pointed = match pointed {
            Ok(primary) => run.see_to_the_rest_of(alias).await.map(|()| primary),
            Err(error) => Err(error),
        };
        run.unlock().await;
        pointed.map(|primary| (shard, primary))
    }

    /// Waits until no operation is under way, after which none can start; call it on shutdown, with a deadline around it.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Run {
    async fn point_at_primary(&mut self, alias: &TabletAlias) -> Result<TabletAlias, ReparentError> {
        let declared = declared::Declared::read(self).await?;
        let no = |reason: String| ReparentError::NotAReplica { alias: alias.clone(), reason };
        let Some(record) = declared.tablet(alias) else {
            return Err(no(format!("the topology does not list it for {}", self.shard)));
        };
        let Some(primary) = declared.primary.clone() else {
            return Err(no(format!("{} has no primary; run PlannedReparentShard", self.shard)));
        };
        if primary == *alias {
            return Err(no(format!("it is the primary of {}", self.shard)));
        }
        self.verify().await?;
        let set = SetSource {
            parent: &primary,
            time_created_ns: 0,
            force_start: false,
            wait_position: "",
            semi_sync: declared.semi_sync_replica(&primary, alias),
            heartbeat_interval_s: 0.0,
        };
        let step = |source| ReparentError::Step { step: FailedStep::Repoint, source, remedy: "see why on that tablet" };
        let status = self.hands.tablets.full_status(record, Call::read(self.remote())).await.map_err(step)?;
        // MySQL shows super_read_only as ON while the statement still waits for commits that hang; read_only comes last.
        let writable = !status.read_only;
        if writable {
            // Following ends commits that hang, and nobody may be there to be told that they are committed.
            self.dba(record, dba::SET_OFFLINE).await.map_err(step)?;
        }
        self.hands.tablets.set_replication_source(record, set, self.short()).await.map_err(step)?;
        if writable {
            self.lift(alias, record)
                .await
                .map_err(|reason| no(format!("its clients are still cut off (offline_mode): {reason}")))?;
        }
        Ok(primary)
    }
}
