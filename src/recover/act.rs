//! One action, from the decision to its record.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::{
    decide::{Action, decide},
    gate::gate,
    publication::verify_publication,
    supervisor::{Supervisor, Suspicion},
};
use crate::{
    diagnose::{Code, Ground, Problem, Remedy, Repair, diagnose, may_bounce},
    ledger::{Kind, Outcome as Ending, Recovery},
    metrics::Phase,
    peers::Claim,
    reparent::{Emergency, Mode, Outcome, Planned, Refusal, RepairEnd, ReparentError, Step, Verdict},
    shard::{FailureClass, ShardView},
    topo::TabletAlias,
    traces,
};

/// Rereading everybody after a failed primary takes the living a few milliseconds; nobody waits longer for the others.
const REREAD_LIMIT: Duration = Duration::from_millis(300);
/// How long a witness listens for a greeting: as long as a proof of silence takes (safety rules, section 9).
const WITNESS_LIMIT: Duration = Duration::from_secs(1);
/// Between two times that replicas lose their connection for a testimony.
const BOUNCE_PAUSE: Duration = Duration::from_secs(10);
/// Reading everybody once more after the testimony: nobody waits for the dead.
const VERDICT_LIMIT: Duration = Duration::from_millis(100);
/// Under a policy without acknowledgements a primary's port has to refuse connections for that long (safety rules, section 2).
const REFUSED_FOR: Duration = Duration::from_millis(200);
/// After a promotion, how long the shard record may take to name the new primary before that is reported.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(5);

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing was changed, something may have been learned.
    Looked,
    /// Done.
    Done,
    /// Under the lock it was not due any more.
    NotDue(String),
    /// It failed, or was refused.
    Failed(String),
}

impl Ended {
    /// Notes it in the trace of the recovery.
    fn show(&self, span: &Span) {
        match self {
            Self::Looked => traces::ended(span, "looked", None),
            Self::Done => traces::ended(span, "done", None),
            Self::NotDue(_) => traces::ended(span, "not_due", None),
            Self::Failed(why) => traces::ended(span, "failed", Some(why)),
        }
    }
}

/// What VTOrc calls the recovery, for metrics.
pub(super) fn vtorc_name(remedy: &Remedy) -> &'static str {
    match remedy {
        Remedy::Report | Remedy::Reread(_) | Remedy::Testify => "CheckAndRecoverGenericProblem",
        Remedy::Emergency(Ground::RecordDeleted) => "RecoverPrimaryTabletDeleted",
        Remedy::Emergency(_) => "RecoverDeadPrimary",
        Remedy::Takeover { then_emergency: true, .. } => "RecoverIncapacitatedPrimary",
        Remedy::Takeover { then_emergency: false, .. } => "GracefulTakeover",
        Remedy::ElectFirst => "ElectNewPrimary",
        Remedy::Fix(repair) => match repair {
            Repair::MakeWritable | Repair::SemiSyncPrimary | Repair::AlignType => "FixPrimary",
            Repair::ForgetSource => "RecoverPrimaryHasPrimary",
            Repair::RetirePrimary => "ReconcileStaleTopoPrimary",
            Repair::Drain => "RecoverErrantGTIDDetected",
            Repair::PublishPrimary => "PublishPrimary",
            Repair::LiftFence => "LiftFence",
            _ => "FixReplica",
        },
    }
}

/// The problem that a silent primary becomes when the testimonies prove it.
fn dead(problem: &Problem) -> Problem {
    Problem { code: Code::DeadPrimary, remedy: Remedy::Emergency(Ground::PrimaryDead), ..problem.clone() }
}

pub(super) fn kind(action: &Action) -> Kind {
    match action {
        Action::Emergency(_) => Kind::Emergency,
        Action::Takeover { .. } => Kind::Takeover,
        Action::ElectFirst => Kind::ElectFirst,
        Action::Reread(_) | Action::Testify | Action::Fix(..) => Kind::Repair,
    }
}

impl Supervisor {
    pub(super) async fn act(&mut self, view: &ShardView, problem: &Problem, action: Action) -> Ended {
        match &action {
            Action::Reread(tablets) => {
                // A greeting that is asked for changes nothing, and takes as long as silence has to last: it is not waited for.
                let of_primary = problem.tablet.as_ref() == view.primary();
                if of_primary && self.asking.is_empty() {
                    self.ask_witnesses(problem);
                }
                self.context.senses.reread_some(&self.shard, tablets, REREAD_LIMIT).await;
                return Ended::Looked;
            }
            Action::Testify if self.may_bounce(view, problem) => return self.bounce(view, problem).await,
            Action::Testify => {
                self.ask_witnesses(problem);
                return Ended::Looked;
            }
            _ => {}
        }
        let began = Instant::now();
        let _pending = self.context.metrics.recover.begun(&self.shard, vtorc_name(&problem.remedy));
        let _recovering = self.context.senses.recovering();
        let span = traces::recovery(&self.shard, problem.code.name(), &action.to_string(), problem.tablet.as_ref());
        let work = async {
            match &action {
                Action::Emergency(ground) => self.emergency(view, problem, *ground).await,
                Action::Takeover { to, then_emergency } => self.takeover(view, problem, to.clone(), *then_emergency).await,
                Action::ElectFirst => self.elect_first(problem).await,
                Action::Fix(tablet, repair) => (self.fix(problem, tablet, *repair).await, None),
                Action::Reread(_) | Action::Testify => (Ended::Looked, None),
            }
        };
        let (ended, outcome) = work.instrument(span.clone()).await;
        ended.show(&span);
        self.record(problem, &action, &ended, outcome.as_ref(), began.elapsed()).await;
        ended
    }

    /// Asks without waiting: what the witnesses say comes as news.
    fn ask_witnesses(&mut self, problem: &Problem) {
        let Some(of) = problem.tablet.clone() else { return };
        let (senses, shard) = (self.context.senses.clone(), self.shard.clone());
        self.asking.spawn(async move { senses.ask_witnesses(&shard, &of, WITNESS_LIMIT).await });
    }

    /// Whether replicas have to be made to testify by their replication: nobody else can, and the primary failed on every channel for long
    /// enough (safety rules, section 8). It is an action: where the failover that it is for would not be made, nobody loses a connection.
    fn may_bounce(&self, view: &ShardView, problem: &Problem) -> bool {
        let silent = may_bounce(view, &self.context.live().rules);
        let is_time = self.bounced.is_none_or(|at| at.elapsed() >= BOUNCE_PAUSE);
        let standing = || self.standing(view, std::slice::from_ref(problem));
        self.must_bounce && silent && is_time && decide(&[dead(problem)], &standing()).act.is_some()
    }

    /// Lets replicas testify by their replication, and goes on to the emergency reparent under the same lock if they prove the primary dead.
    async fn bounce(&mut self, view: &ShardView, problem: &Problem) -> Ended {
        let Some(primary) = problem.tablet.clone() else { return Ended::Looked };
        self.bounced = Some(Instant::now());
        tracing::info!(shard = %self.shard, %primary, why = problem.why, "the replicas are made to testify by their replication");
        let (suspicion, decided) = (self.suspected, Instant::now());
        let verdict = self.verdict(view, problem, &primary);
        let span = traces::recovery(&self.shard, problem.code.name(), &Action::Testify.to_string(), Some(&primary));
        let heard = self.context.hands.testify(&self.shard, &primary, gate(&self.context, &self.shard, problem), verdict);
        let outcome = heard.instrument(span.clone()).await;
        if let Err(ReparentError::NotDue { reason, .. }) = &outcome.result {
            tracing::info!(shard = %self.shard, %primary, reason, "no failover after the testimony");
            return Ended::Looked;
        }
        if let (Some(suspicion), Ok(_)) = (suspicion, &outcome.result) {
            self.measure(suspicion, decided, &outcome);
        }
        let (ended, outcome) = self.after_promotion(outcome).await;
        ended.show(&span);
        self.record(&dead(problem), &Action::Emergency(Ground::PrimaryDead), &ended, outcome.as_ref(), decided.elapsed()).await;
        ended
    }

    /// What the testimonies prove, judged as everything else is: on a view that has them.
    fn verdict(&self, view: &ShardView, problem: &Problem, primary: &TabletAlias) -> Verdict {
        let (context, shard, primary) = (self.context.clone(), self.shard.clone(), primary.clone());
        let standing = self.standing(view, std::slice::from_ref(problem));
        let wish = self.wish(view, &primary, Ground::PrimaryDead);
        Arc::new(move |heard| {
            let (context, shard, primary) = (context.clone(), shard.clone(), primary.clone());
            let (wish, standing) = (wish.clone(), standing.clone());
            Box::pin(async move {
                context.senses.testified(&shard, &primary, Instant::now(), heard);
                context.senses.reread(&shard, VERDICT_LIMIT).await;
                let view = context.senses.view(&shard).ok_or("the shard is not watched any more")?;
                let found = diagnose(&view, &context.live().rules);
                let next = decide(&found, &standing);
                match next.act {
                    Some((_, Action::Emergency(Ground::PrimaryDead))) => Ok(wish),
                    _ => Err(found
                        .first()
                        .map_or_else(|| "nothing is wrong".to_owned(), |first| format!("{}: {}", first.code, first.why))),
                }
            })
        })
    }

    /// The emergency reparent that would be made now.
    fn wish(&self, view: &ShardView, primary: &TabletAlias, ground: Ground) -> Emergency {
        let live = self.context.live();
        Emergency {
            new_primary: None,
            ignore_replicas: Default::default(),
            expected_primary: view.record.as_ref().and_then(|record| record.primary.clone()),
            wait_replicas_timeout: live.wait_replicas_timeout,
            prevent_cross_cell: live.prevent_cross_cell,
            wait_for_all_tablets: ground == Ground::RecordDeleted,
            accept_loss: None,
            choose_side: false,
            allow_not_established: false,
            allow_unfenced: live.allow_unfenced || is_refused(view, primary),
            seen: self.context.senses.seen_primary(&self.shard),
            is_dead: ground == Ground::PrimaryDead && is_silent(view, primary),
        }
    }

    async fn emergency(&mut self, view: &ShardView, problem: &Problem, ground: Ground) -> (Ended, Option<Outcome>) {
        let Some(primary) = problem.tablet.clone() else {
            return (Ended::Failed("the problem names no primary".to_owned()), None);
        };
        if ground == Ground::ManagerDead
            && let verdict = self.context.peers.quorum(Claim::ManagerDead, &primary).await
            && !verdict.holds()
        {
            let why = verdict.to_string();
            // Asked again and again while it lasts: a person has to hear it once.
            if self.quorum_refused.replace(primary.clone()).as_ref() == Some(&primary) {
                tracing::info!(shard = %self.shard, %primary, why, "the electors still do not agree");
            } else {
                tracing::warn!(shard = %self.shard, %primary, why, "no failover: the electors do not agree that this primary is lost");
            }
            return (Ended::Failed(why), None);
        }
        let suspicion = self.suspected;
        tracing::warn!(shard = %self.shard, %primary, problem = %problem.code, why = problem.why, "emergency reparent");
        let decided = Instant::now();
        let wish = self.wish(view, &primary, ground);
        let outcome = self.context.hands.emergency_if(&self.shard, wish, gate(&self.context, &self.shard, problem)).await;
        if let (Some(suspicion), Ok(_)) = (suspicion, &outcome.result) {
            self.measure(suspicion, decided, &outcome);
        }
        self.after_promotion(outcome).await
    }

    async fn takeover(
        &mut self,
        view: &ShardView,
        problem: &Problem,
        to: Option<TabletAlias>,
        then_emergency: bool,
    ) -> (Ended, Option<Outcome>) {
        if let Some(declared) = &to {
            let gate = gate(&self.context, &self.shard, problem);
            return self.after_promotion(self.context.hands.take_over_if(&self.shard, declared, gate).await).await;
        }
        let live = self.context.live();
        let wish = Planned {
            avoid_primary: view.primary().cloned(),
            new_primary: None,
            expected_primary: view.record.as_ref().and_then(|record| record.primary.clone()),
            wait_replicas_timeout: live.wait_replicas_timeout,
            tolerable_lag: live.tolerable_lag,
            allow_cross_cell: !live.prevent_cross_cell,
            mode: Mode::Graceful,
        };
        let outcome = self.context.hands.planned_if(&self.shard, wish, gate(&self.context, &self.shard, problem)).await;
        let may_go_on = then_emergency && live.allow_emergency;
        match &outcome.result {
            Err(error) if may_go_on && !matches!(error, ReparentError::NotDue { .. }) => {
                tracing::warn!(shard = %self.shard, %error, "the planned reparent failed: an emergency reparent follows");
                self.emergency(view, problem, Ground::PrimaryIncapable).await
            }
            _ => self.after_promotion(outcome).await,
        }
    }

    async fn elect_first(&mut self, problem: &Problem) -> (Ended, Option<Outcome>) {
        let live = self.context.live();
        let wish = Planned {
            new_primary: None,
            avoid_primary: None,
            expected_primary: None,
            wait_replicas_timeout: live.wait_replicas_timeout,
            tolerable_lag: live.tolerable_lag,
            allow_cross_cell: true,
            mode: Mode::Graceful,
        };
        let outcome = self.context.hands.planned_if(&self.shard, wish, gate(&self.context, &self.shard, problem)).await;
        self.after_promotion(outcome).await
    }

    async fn fix(&self, problem: &Problem, tablet: &TabletAlias, repair: Repair) -> Ended {
        let gate = gate(&self.context, &self.shard, problem);
        match self.context.hands.repair(&self.shard, tablet, repair, gate).await.end {
            RepairEnd::Done(_) => Ended::Done,
            end @ (RepairEnd::AlreadyFixed(_) | RepairEnd::NotDue(_)) => Ended::NotDue(end.to_string()),
            // Something else comes first; it is no failure of this repair.
            RepairEnd::Refused(
                refusal @ (Refusal::Later { .. }
                | Refusal::Applying { .. }
                | Refusal::TooFewAckers { .. }
                | Refusal::WrongPrimary { .. }),
            ) => Ended::NotDue(refusal.to_string()),
            end @ (RepairEnd::Refused(_) | RepairEnd::Failed(_)) => Ended::Failed(end.to_string()),
        }
    }

    async fn after_promotion(&self, outcome: Outcome) -> (Ended, Option<Outcome>) {
        let ended = match &outcome.result {
            Ok(promoted) if promoted.promoted().is_some() => {
                self.see_published(&promoted.primary).await;
                Ended::Done
            }
            Ok(_) => Ended::NotDue("there was nothing to do".to_owned()),
            Err(ReparentError::NotDue { reason, .. }) => Ended::NotDue(reason.clone()),
            Err(error) => Ended::Failed(error.to_string()),
        };
        (ended, Some(outcome))
    }

    /// vtgate finds the primary by the shard record: until it names the new one, the failover is not over.
    async fn see_published(&self, primary: &TabletAlias) {
        if let Err(error) = verify_publication(&self.context.hands.topo, &self.shard, primary, PUBLISHED_WITHIN).await {
            tracing::warn!(shard = %self.shard, %error, "the new primary is not published");
        }
    }

    fn measure(&self, suspicion: Suspicion, decided: Instant, outcome: &Outcome) {
        let metrics = &self.context.metrics.recover;
        let after = |at: Instant| at.saturating_duration_since(suspicion.last_good);
        let locked = Instant::now().checked_sub(outcome.took).unwrap_or(decided);
        let until =
            |last: Step| -> Duration { outcome.steps.iter().take_while(|(step, _)| *step <= last).map(|(_, took)| *took).sum() };
        metrics.phase(Phase::Suspicion, after(suspicion.since));
        metrics.phase(Phase::Decision, after(decided));
        metrics.phase(Phase::Lock, after(locked));
        metrics.phase(Phase::Writable, after(locked) + until(Step::Promote));
        metrics.phase(Phase::Repointed, after(locked) + until(Step::Follow));
    }

    /// One line in the ledger for everything that was changed, or should have been; the other electors count by it.
    async fn record(&self, problem: &Problem, action: &Action, ended: &Ended, outcome: Option<&Outcome>, took: Duration) {
        let ending = match ended {
            Ended::Looked => return,
            Ended::Done => Ending::Done,
            Ended::NotDue(_) => Ending::AlreadyDone,
            Ended::Failed(why) => Ending::Failed(why.clone()),
        };
        self.context.metrics.recover.ended(
            &self.shard,
            problem.code,
            vtorc_name(&problem.remedy),
            (ending.name(), kind(action) != Kind::Repair),
        );
        let promoted = outcome.and_then(|outcome| outcome.result.as_ref().ok()?.promoted().cloned());
        let recovery = Recovery {
            shard: self.shard.clone(),
            code: problem.code.name().to_owned(),
            kind: kind(action),
            promoted,
            old: problem.tablet.clone(),
            who: self.context.hands.settings.who.clone(),
            at: self.context.ledger.now().wall,
            took,
            outcome: ending,
            evidence: problem.why.clone(),
        };
        self.context.board.recovered(&recovery);
        if matches!(ended, Ended::NotDue(_)) {
            return;
        }
        match self.context.ledger.record(recovery).await {
            Ok(()) => self.context.metrics.recover.recorded(),
            Err(error) => {
                tracing::warn!(shard = %self.shard, %error, "this recovery is not in the ledger: the others do not count it");
            }
        }
    }
}

/// Whether the primary's MySQL says nothing at all: one that is full may well do what its tablet manager asks of it.
fn is_silent(view: &ShardView, primary: &TabletAlias) -> bool {
    let failing = view.tablets.get(primary).and_then(|primary| primary.mysql.failing.as_ref());
    failing.is_some_and(|failing| failing.class.shows_no_life())
}

/// Whether nobody listens on the primary's port, seen at least twice (safety rules, section 2).
fn is_refused(view: &ShardView, primary: &TabletAlias) -> bool {
    let failing = view.tablets.get(primary).and_then(|primary| primary.mysql.failing.as_ref());
    failing.is_some_and(|failing| failing.class == FailureClass::Refused && failing.count >= 2 && failing.since >= REFUSED_FOR)
}
