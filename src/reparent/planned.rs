//! The planned reparent: its roads, each a list of steps.

use std::{collections::BTreeSet, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    Aftermath, Branch, Edge, FailedStep, Mode, Planned, Promoted, ReparentError, Step,
    declared::Declared,
    demote::{Pair, Undo},
    journal::{Journal, Stage},
    lead::{Failed, How, Lead},
    look::{Look, decode},
    observed::{Observed, gather},
    plan, preview,
    resume::term_ns,
    run::Run,
};
use crate::{
    elect::{Elected, Rejection, Status},
    mysql::Position,
    pb::topodata::Tablet,
    tablet::{Call, SetSource, TabletError, TabletErrorKind, TabletManager},
    topo::TabletAlias,
};

/// What the reparent journal says was done; Vitess writes the same word.
const ACTION: &str = "PlannedReparentShard";
/// How long the shard record is waited for, which a vttablet writes a moment after its promotion.
const SHARD_RECORD_WAIT: Duration = Duration::from_secs(1);

/// How long the elect's renewed connection is waited for at most, and how often it is looked at.
const HEARD_WAIT: Duration = Duration::from_secs(1);
const HEARD_PAUSE: Duration = Duration::from_millis(10);

/// The whole operation, from the lock to the lock.
pub(super) async fn planned(run: &mut Run, request: Planned, initial_only: bool) -> Result<Promoted, ReparentError> {
    let name = |alias: &Option<TabletAlias>| alias.as_ref().map_or_else(|| "<nil>".to_owned(), ToString::to_string);
    run.lock(format!("{ACTION}({}, AvoidPrimary = {})", name(&request.new_primary), name(&request.avoid_primary))).await?;
    let result = run.planned_under_lock(&request, initial_only).await;
    run.unlock().await;
    result
}

/// What would be done, and why; nothing but reads.
pub(super) async fn preview(run: &mut Run, request: &Planned) -> Result<Promoted, ReparentError> {
    let declared = Declared::read(run).await?;
    plan::check_request(&declared, request)?;
    let old_primary = declared.current_primary().or(declared.primary.as_ref()).cloned();
    if let Some(primary) = plan::satisfied_by(&declared, request) {
        run.decision = Some(preview::nothing(&declared, &primary));
        return Ok(Promoted { branch: Branch::Nothing, primary, old_primary });
    }
    let observed = Observed::ask(run, &declared, declared.current_primary().is_none()).await;
    let elected = observed.and_then(|observed| {
        let elected = plan::elect(&declared, &observed, request)?;
        let branch = plan::branch(&declared, &elected.elect)?;
        Ok((observed, elected, branch))
    });
    run.decision = Some(preview::decision(&declared, request, elected.as_ref()));
    let (_, Elected { elect, .. }, branch) = elected?;
    Ok(Promoted { branch, primary: elect, old_primary })
}

/// One decided reparent.
struct Decided<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
    request: &'a Planned,
    elect: &'a TabletAlias,
}

impl Decided<'_> {
    /// Tablets that nobody waits for: occupied, or silent already.
    fn bystanders(&self) -> BTreeSet<TabletAlias> {
        let is = |alias: &&TabletAlias| self.declared.is_occupied(alias) || !self.observed.is_reached(alias);
        self.declared.tablets.keys().filter(is).cloned().collect()
    }

    fn lead(&self, how: How) -> Lead<'_> {
        Lead {
            bystanders: self.bystanders(),
            ..Lead::new(self.declared, self.elect, how, self.request.wait_replicas_timeout, ACTION)
        }
    }
}

impl Run {
    pub(super) async fn planned_under_lock(&mut self, request: &Planned, initial_only: bool) -> Result<Promoted, ReparentError> {
        self.edge(Step::Survey, Edge::Before).await;
        let mut declared = Declared::read(self).await?;
        plan::check_request(&declared, request)?;
        let avoid = plan::avoid(&declared, request);
        if let Some(primary) = self.resume(&declared, request.wait_replicas_timeout).await? {
            let satisfied = match &request.new_primary {
                Some(named) => *named == primary,
                None => avoid.as_ref() != Some(&primary),
            };
            if satisfied {
                return Ok(Promoted { branch: Branch::Partial, primary, old_primary: declared.primary });
            }
            declared = Declared::read(self).await?;
        }
        self.see_to_the_rest(&declared, None).await?;
        if initial_only && (declared.term.is_some() || declared.primary.is_some() || declared.current_primary().is_some()) {
            let primary = declared.current_primary().or(declared.primary.as_ref()).cloned();
            return Err(ReparentError::AlreadyInitialised { shard: self.shard.clone(), primary });
        }
        if let Some(primary) = plan::satisfied_by(&declared, request) {
            self.say(format!("nothing to do: {primary} is primary, and it is not the one to avoid"));
            return Ok(Promoted { branch: Branch::Nothing, primary, old_primary: declared.primary });
        }
        let observed = Observed::ask(self, &declared, declared.current_primary().is_none()).await?;
        let Elected { elect, established, rejected } = plan::elect(&declared, &observed, request)?;
        for (alias, why) in rejected.iter().filter(|(_, why)| **why != Rejection::NotNamed) {
            self.say(format!("{alias} was not elected: {why}"));
        }
        let branch = plan::branch(&declared, &elect)?;
        let ackers = established.ackers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let ackers = if established.acks_needed == 0 { "needs no ackers".to_owned() } else { format!("ackers: {ackers}") };
        self.say(format!("elected {elect} ({branch:?} reparent, policy {}, {ackers})", declared.policy.name()));
        self.edge(Step::Survey, Edge::After).await;
        let decided = Decided { declared: &declared, observed: &observed, request, elect: &elect };
        match branch {
            Branch::Graceful => self.graceful(&decided).await?,
            Branch::Partial => self.partial(&decided).await?,
            Branch::Initial => self.initial(&decided).await?,
            Branch::Potential => self.potential(&decided).await?,
            Branch::Nothing | Branch::Emergency => {}
        }
        let old_primary = declared.current_primary().or(declared.primary.as_ref()).cloned();
        Ok(Promoted { branch, primary: elect, old_primary })
    }

    /// The journal of a run that is about to begin something.
    pub(super) fn journal(&self, stage: Stage, elect: &TabletAlias, old: Option<(&TabletAlias, Option<i64>)>) -> Journal {
        let who = &self.hands.settings.who;
        let mut journal = Journal::new(who, &self.action, stage, elect, self.remote() * 2);
        journal.old_primary = old.map(|(alias, _)| alias.to_string());
        journal.old_term_ns = old.and_then(|(_, term_ns)| term_ns);
        journal
    }

    /// From a healthy primary to the elect.
    async fn graceful(&mut self, decided: &Decided<'_>) -> Result<(), ReparentError> {
        let &Decided { declared, observed, request, elect } = decided;
        let Some(old) = declared.current_primary() else { return Ok(()) };
        let pair = Pair { declared, old, elect };
        if request.mode == Mode::Abrupt {
            self.check_abrupt(declared, old).await?;
        }
        self.edge(Step::CatchUp, Edge::Before).await;
        self.catch_up(&pair, request.wait_replicas_timeout).await?;
        self.demote_stale(declared, old, elect).await?;
        self.edge(Step::CatchUp, Edge::After).await;

        let nudged = plan::nudged(declared, observed, old, elect).filter(|_| request.mode == Mode::Graceful);
        let mut journal = self.journal(Stage::Demoting, elect, Some((old, term_ns(declared, old))));
        journal.stopped_io.extend(nudged.iter().map(ToString::to_string));
        self.intend(Step::Demote, &journal).await?;
        self.edge(Step::Demote, Edge::Before).await;
        self.demoted_at = Some(Instant::now());
        let mut undo = Undo::default();
        if let Err(error) = self.change_over(&pair, request, nudged.as_ref(), &journal, &mut undo).await {
            return Err(self.give_up(declared, undo, &journal, error).await);
        }
        // From here on there is only forward.
        let lead = Lead { from: Some(old), nudge: undo.nudge.take(), ..decided.lead(How::Promote) };
        match self.lead(lead).await {
            Err(Failed::NotPromoted { error, old_touched }) => Err(self.go_back(decided, old, error, old_touched).await),
            other => self.end(decided, &journal, other).await,
        }
    }

    /// The elect follows the current primary and has applied all that it has now: what is left after the demotion is little.
    async fn catch_up(&mut self, pair: &Pair<'_>, wait: Duration) -> Result<(), ReparentError> {
        let &Pair { declared, old, elect } = pair;
        let (Some(old_record), Some(record)) = (declared.tablet(old), declared.tablet(elect)) else { return Ok(()) };
        let snapshot = self.position_of(old_record, FailedStep::PrimaryPosition).await?;
        decode(old, &snapshot)?;
        self.check_fitness(declared, elect).await?;
        self.verify().await?;
        let set = SetSource {
            parent: old,
            time_created_ns: 0,
            force_start: true,
            wait_position: &snapshot,
            semi_sync: declared.semi_sync_replica(old, elect),
            heartbeat_interval_s: 0.0,
        };
        let sent = self.interruptible(elect, self.hands.tablets.set_replication_source(record, set, self.call(wait))).await?;
        let remedy = "see why it does not replicate; nothing was changed on the primary";
        sent.map_err(|source| ReparentError::Step { step: FailedStep::CatchUp, source, remedy })?;
        if declared.semi_sync_replica(old, elect) {
            let heard = self.until_heard(old_record, record);
            // Whether or not it was heard, nothing has been changed that would have to be undone.
            let _in_time = self.interruptible(elect, timeout(HEARD_WAIT, heard)).await?;
        }
        Ok(())
    }

    /// Waits until the elect, whose connection was just renewed, has received what the primary has now. Before that the primary may not
    /// count it among its ackers, and stopping another one would hold up commits for as long as MySQL's poll sleeps, which is a second.
    async fn until_heard(&self, old: &Tablet, elect: &Tablet) {
        let read = Call::read(self.remote());
        let Ok(target) = self.hands.tablets.primary_position(old, read).await else { return };
        let Ok(target) = Position::decode(&target) else { return };
        loop {
            let status = self.hands.tablets.replication_status(elect, read).await;
            let received = status.ok().and_then(|status| Position::decode(&status.relay_log_position).ok());
            if received.is_none_or(|received| received.at_least(&target)) {
                return;
            }
            sleep(HEARD_PAUSE).await;
        }
    }

    /// Demotion, catching up, and the intent to promote: all that can still be undone.
    async fn change_over(
        &mut self,
        pair: &Pair<'_>,
        request: &Planned,
        nudged: Option<&TabletAlias>,
        journal: &Journal,
        undo: &mut Undo,
    ) -> Result<(), ReparentError> {
        let position = self.demote(pair, request.mode, nudged, undo).await?;
        self.edge(Step::Demote, Edge::After).await;
        self.edge(Step::Apply, Edge::Before).await;
        if let Some(record) = pair.declared.tablet(pair.elect) {
            let call = Call::read(request.wait_replicas_timeout);
            let wait = self.hands.tablets.wait_for_position(record, &position, call);
            let remedy = "see why it applies so slowly, then try again";
            let failed = |source| ReparentError::Step { step: FailedStep::CatchUpAfterDemotion, source, remedy };
            self.interruptible(pair.elect, wait).await?.map_err(failed)?;
        }
        self.edge(Step::Apply, Edge::After).await;
        if self.cancel.is_cancelled() {
            return Err(ReparentError::Cancelled { elect: pair.elect.clone() });
        }
        self.intend(Step::Promote, &journal.at(Stage::Promoting)).await
    }

    /// Tablets that still call themselves primary of an older term may be writable: they are made read-only before anybody is promoted.
    async fn demote_stale(
        &mut self,
        declared: &Declared,
        current: &TabletAlias,
        elect: &TabletAlias,
    ) -> Result<(), ReparentError> {
        for stale in &declared.stale_primaries(current) {
            let Some(record) = declared.tablet(stale).filter(|_| stale != elect) else { continue };
            self.verify().await?;
            self.warn(format!("{stale} is recorded as primary of an older term; making it read-only"));
            let sent = self.hands.tablets.demote_primary(record, false, self.short()).await;
            sent.map_err(|source| ReparentError::Step { step: FailedStep::Demote, source, remedy: "look at that tablet" })?;
        }
        Ok(())
    }

    /// The elect is primary already: writable, with semi-sync, and everybody follows.
    async fn partial(&mut self, decided: &Decided<'_>) -> Result<(), ReparentError> {
        let &Decided { declared, elect, .. } = decided;
        if let Some(record) = declared.tablet(elect) {
            decode(elect, &self.position_of(record, FailedStep::PrimaryPosition).await?)?;
        }
        self.demote_stale(declared, elect, elect).await?;
        self.no_second_writer(declared, elect).await?;
        let journal = self.journal(Stage::Promoting, elect, None);
        self.intend(Step::Promote, &journal).await?;
        let led = self.lead(decided.lead(How::Rewrite)).await;
        self.end(decided, &journal, led).await
    }

    /// The first primary of a shard. Nobody may hold anything that it lacks.
    async fn initial(&mut self, decided: &Decided<'_>) -> Result<(), ReparentError> {
        let &Decided { declared, observed, elect, .. } = decided;
        let positions = observed.candidates(declared).into_iter().filter_map(|(alias, candidate)| match candidate.status {
            Status::Replica(replication) => Some((alias, replication.received)),
            Status::NotReplica(executed) => Some((alias, executed)),
            Status::Unknown(_) => None,
        });
        check_complete(elect, &positions.collect::<Vec<_>>())?;
        self.check_fitness(declared, elect).await?;
        let journal = self.journal(Stage::Promoting, elect, None);
        self.intend(Step::Promote, &journal).await?;
        if let Some(record) = declared.tablet(elect).filter(|_| observed.replicates(elect)) {
            // InitPrimary leaves replication as it is, and a primary that copies from somebody is none.
            let reset = self.hands.tablets.reset_replication_parameters(record, self.short()).await;
            reset.map_err(|source| ReparentError::Step {
                step: FailedStep::Promote,
                source,
                remedy: "see why on that tablet",
            })?;
        }
        let led = self.lead(decided.lead(How::Init)).await;
        self.end(decided, &journal, led).await?;
        if let Some(record) = declared.tablet(elect)
            && let Err(error) = self.hands.tablets.refresh_state(record, self.short()).await
        {
            self.warn(format!("{elect} did not re-read the shard record: {error}"));
        }
        Ok(())
    }

    /// Nobody is clearly the primary: everybody is made read-only, and the elect is promoted if it holds all that anybody has received.
    async fn potential(&mut self, decided: &Decided<'_>) -> Result<(), ReparentError> {
        let &Decided { declared, elect, request, .. } = decided;
        self.check_fitness(declared, elect).await?;
        self.verify().await?;
        self.say("nobody is clearly the primary: making every tablet read-only");
        let ready = self.demote_everybody(declared, elect, request.wait_replicas_timeout).await;
        let all_read_only = |error: ReparentError| error.after(Aftermath::AllReadOnly);
        ready.map_err(all_read_only)?;
        let journal = self.journal(Stage::Promoting, elect, None);
        self.intend(Step::Promote, &journal).await.map_err(all_read_only)?;
        let led = self.lead(decided.lead(How::Promote)).await;
        self.end(decided, &journal, led).await
    }

    async fn demote_everybody(&mut self, declared: &Declared, elect: &TabletAlias, wait: Duration) -> Result<(), ReparentError> {
        let (tablets, call, read) = (self.hands.tablets.clone(), self.short(), Call::read(self.remote()));
        let mut demotions = Vec::new();
        for (alias, record) in &declared.tablets {
            let demotion = demote_and_read(&*tablets, record, call, read).boxed();
            demotions.push((alias.clone(), declared.is_essential(alias), demotion));
        }
        let mut positions = Vec::new();
        for (alias, answer) in gather(demotions).await {
            match answer {
                Ok(text) => positions.push((alias.clone(), decode(&alias, &text)?)),
                Err(source) if declared.is_essential(&alias) => {
                    return Err(ReparentError::Step {
                        step: FailedStep::Demote,
                        source,
                        remedy: "look at that tablet, then try again",
                    });
                }
                Err(error) => self.warn(format!("going on without {alias}: {error}")),
            }
        }
        self.verify().await?;
        check_complete(elect, &positions)?;
        let received = positions.iter().find(|(alias, _)| alias == elect).map(|(_, position)| position.encode());
        let (Some(received), Some(record)) = (received, declared.tablet(elect)) else { return Ok(()) };
        let applied = self.hands.tablets.wait_for_position(record, &received, Call::read(wait)).await;
        let remedy = "see why it does not apply what it has received";
        applied.map_err(|source| ReparentError::Step { step: FailedStep::CatchUpAfterDemotion, source, remedy })
    }

    /// The last step: records are right, the journal is closed.
    async fn end(&mut self, decided: &Decided<'_>, journal: &Journal, led: Result<(), Failed>) -> Result<(), ReparentError> {
        let result = match led {
            Ok(()) => Ok(()),
            Err(Failed::Standing(error @ ReparentError::ReplicasFailed { .. })) => Err(error),
            Err(Failed::Standing(error)) => return Err(error),
            Err(Failed::NotPromoted { error, .. }) => return Err(self.say_what_is(decided.elect, error).await),
        };
        self.edge(Step::Follow, Edge::After).await;
        self.wait_for_shard_record(decided.elect).await;
        self.edge(Step::Finish, Edge::Before).await;
        self.close(&journal.leaving_nothing()).await;
        self.edge(Step::Finish, Edge::After).await;
        result
    }

    /// A promotion without an old primary to go back to failed.
    pub(super) async fn say_what_is(&mut self, elect: &TabletAlias, error: ReparentError) -> ReparentError {
        match self.look(elect).await {
            Ok(look) if look.is_primary() => error.after(Aftermath::Promoted { primary: elect.clone() }),
            Ok(_) => error,
            Err(reason) => error.after(Aftermath::Unknown { primary: elect.clone(), reason: reason.to_string() }),
        }
    }

    /// The new primary's own tablet manager writes the shard record, a moment later.
    pub(super) async fn wait_for_shard_record(&mut self, primary: &TabletAlias) {
        let topo = self.hands.topo.clone();
        let end = Instant::now() + SHARD_RECORD_WAIT;
        let named = |record: &crate::pb::topodata::Shard| {
            record.primary_alias.as_ref().is_some_and(|alias| TabletAlias::try_from(alias).as_ref() == Ok(primary))
        };
        let wait = async {
            let (record, mut watch) = topo.watch_shard(&self.shard).await?;
            if named(&record.value) {
                return Ok(true);
            }
            while watch.events.recv().await.is_some() {
                if named(&topo.shard(&self.shard).await?.value) {
                    return Ok(true);
                }
            }
            Ok::<_, crate::topo::TopoError>(false)
        };
        match timeout_at(end, wait).await {
            Ok(Ok(true)) => {}
            Ok(Err(error)) => self.warn(format!("the shard record cannot be watched: {error}")),
            Ok(Ok(false)) | Err(_) => {
                self.warn(format!(
                    "the shard record does not name {primary} yet; its tablet manager writes it, and tries again every 30 s"
                ));
            }
        }
    }
}

/// Makes a tablet read-only; all that it has received then.
async fn demote_and_read(tablets: &dyn TabletManager, record: &Tablet, call: Call, read: Call) -> Result<String, TabletError> {
    let executed = tablets.demote_primary(record, false, call).await?.position;
    match tablets.replication_status(record, read).await {
        Ok(status) if !status.relay_log_position.is_empty() => Ok(status.relay_log_position),
        Ok(_) => Ok(executed),
        Err(error) if error.kind == TabletErrorKind::NotReplica => Ok(executed),
        Err(error) => Err(error),
    }
}

/// Nobody may hold what the elect lacks.
fn check_complete(elect: &TabletAlias, positions: &[(TabletAlias, Position)]) -> Result<(), ReparentError> {
    let none = Position::None;
    let own = positions.iter().find(|(alias, _)| alias == elect).map_or(&none, |(_, position)| position);
    let Some((ahead, position)) = positions.iter().find(|(_, position)| !own.contains(position)) else { return Ok(()) };
    let missing = match (position.gtid(), own.gtid()) {
        (Some(theirs), Some(ours)) => theirs.subtract(ours).to_string(),
        _ => position.to_string(),
    };
    Err(ReparentError::CandidateBehind { elect: elect.clone(), ahead: ahead.clone(), missing })
}

impl Run {
    /// The elect was not promoted. Once it is certain that it is not and will not be primary, the old primary is, again: by a promotion
    /// of its own where it had been re-pointed. Else nothing more is done, and the error says so.
    async fn go_back(
        &mut self,
        decided: &Decided<'_>,
        old: &TabletAlias,
        cause: ReparentError,
        old_touched: bool,
    ) -> ReparentError {
        let elect = decided.elect;
        self.warn(format!("{cause}; looking whether {old} can be primary again"));
        if self.look(elect).await.is_ok_and(|look| look.is_primary()) {
            return cause.after(Aftermath::Promoted { primary: elect.clone() });
        }
        let not_undone = |cause: ReparentError, reason| cause.after(Aftermath::NotUndone { primary: old.clone(), reason });
        if let Err(reason) = self.may_still_act(decided.declared, old, old_touched).await {
            return not_undone(cause, reason);
        }
        let look = match self.is_certainly_not_primary(decided.declared, elect, old).await {
            Ok(look) => look,
            Err(reason) => return cause.after(Aftermath::Unknown { primary: elect.clone(), reason }),
        };
        // A promotion in the other direction, with its own intent: whoever finds it goes forward to the old primary.
        let journal = self.journal(Stage::Promoting, old, None);
        if let Err(error) = self.intend(Step::Promote, &journal).await {
            return not_undone(cause, error.to_string());
        }
        // An elect that got as far as its record has the newer term: the old primary needs one that is newer still.
        let how = if old_touched || look.recorded_primary { How::Promote } else { How::Undo };
        let lead = Lead { to: old, force: BTreeSet::from([elect.clone()]), ..decided.lead(how) };
        match self.lead(lead).await {
            Ok(()) => {
                self.close(&journal.leaving_nothing()).await;
                cause.after(Aftermath::Undone { primary: old.clone() })
            }
            Err(Failed::Standing(error)) => {
                self.warn(error.to_string());
                cause.after(Aftermath::Undone { primary: old.clone() })
            }
            Err(Failed::NotPromoted { error, .. }) => not_undone(cause, error.to_string()),
        }
    }

    /// Whether the elect is read-only and no promotion of it is under way. A call that needs the tablet's action lock is answered only
    /// after the promotion that may hold it; then record and server tell. And it must hold nothing that the old primary lacks.
    async fn is_certainly_not_primary(
        &mut self,
        declared: &Declared,
        elect: &TabletAlias,
        old: &TabletAlias,
    ) -> Result<Look, String> {
        let (Some(record), Some(old_record)) = (declared.tablet(elect), declared.tablet(old)) else {
            return Err("its record is gone".to_owned());
        };
        let tablets = self.hands.tablets.clone();
        tablets.set_read_only(record, true, self.short()).await.map_err(|error| error.to_string())?;
        let look = self.look(elect).await.map_err(|error| error.to_string())?;
        if look.writable {
            return Err("it is writable".to_owned());
        }
        let read = Call::read(self.remote());
        let (theirs, ours) = tokio::join!(tablets.primary_position(record, read), tablets.primary_position(old_record, read));
        let (theirs, ours) = (theirs.map_err(|error| error.to_string())?, ours.map_err(|error| error.to_string())?);
        let (theirs, ours) = (decode(elect, &theirs), decode(old, &ours));
        let (theirs, ours) = (theirs.map_err(|error| error.to_string())?, ours.map_err(|error| error.to_string())?);
        if ours.contains(&theirs) { Ok(look) } else { Err(format!("it holds transactions that {old} lacks")) }
    }
}
