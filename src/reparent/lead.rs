//! Making a tablet primary while everybody is pointed at it: the last and irrevocable part of every road.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Aftermath, Edge, FailedStep, ReparentError, Step,
    dba::{Spelling, is_unknown_variable},
    declared::Declared,
    observed::BYSTANDER_GRACE,
    run::{self, RETRY_PAUSE, Run},
};
use crate::{
    pb::topodata::Tablet,
    tablet::{Call, SetSource, TabletError, TabletErrorKind, TabletManager},
    topo::TabletAlias,
};

/// How often a promotion is sent before its failure is believed.
const PROMOTE_ATTEMPTS: u32 = 2;
/// How often a tablet is pointed at its primary before that is reported as failed.
const FOLLOW_ATTEMPTS: u32 = 3;
/// An old primary that the new one needs as acker is re-pointed after this time even if the promotion has not answered: it may be
/// waiting for an acknowledgement.
const OLD_PRIMARY_DELAY: Duration = Duration::from_millis(100);
/// The shortest limit of one try of the reparent-journal row.
const ROW_LIMIT_MIN: Duration = Duration::from_millis(500);
/// The longest pause between two tries of the reparent-journal row.
const ROW_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How the tablet becomes primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// `PromoteReplica`.
    Promote,
    /// `InitPrimary`: the first primary of a shard.
    Init,
    /// It is primary already: writable, with semi-sync first.
    Rewrite,
    /// `UndoDemotePrimary`: it was primary until a moment ago.
    Undo,
}

/// One change of primary.
pub(super) struct Lead<'a> {
    pub declared: &'a Declared,
    pub to: &'a TabletAlias,
    /// Who was primary.
    pub from: Option<&'a TabletAlias>,
    pub how: How,
    /// Limit of the whole.
    pub wait: Duration,
    /// What the reparent journal says was done.
    pub action: &'static str,
    /// Tablets that nobody waits for.
    pub bystanders: BTreeSet<TabletAlias>,
    /// Tablets whose replication is started even where it is stopped.
    pub force: BTreeSet<TabletAlias>,
    /// A statement that may still be under way on that replica.
    pub nudge: Option<(TabletAlias, JoinHandle<()>)>,
    /// Calls that are under way already: tablets pointed here before the promotion.
    pub followers: Followers,
    /// Tablets that follow already.
    pub following: BTreeSet<TabletAlias>,
    /// Tablets that did not answer before: they are told all the same, and nobody waits for what they say.
    pub stragglers: BTreeSet<TabletAlias>,
    /// Those of them that may act as a primary still, each with what is cancelled when its clients are thrown out.
    pub cut_off: BTreeMap<TabletAlias, CancellationToken>,
    /// Tablets that are not touched at all.
    pub left_alone: BTreeSet<TabletAlias>,
    /// Nobody can acknowledge, and a person allowed that: the first write is not waited for.
    pub not_established: bool,
    /// What followers must apply before they are pointed away from where they got it.
    pub apply_first: BTreeMap<TabletAlias, String>,
    /// In an emergency a replica that does not follow is reported and fails nothing, unless no tablet follows at all.
    pub tolerant: bool,
}

impl<'a> Lead<'a> {
    /// A change of primary in which everybody is pointed at it, waits for its row, and is waited for.
    pub fn new(declared: &'a Declared, to: &'a TabletAlias, how: How, wait: Duration, action: &'static str) -> Self {
        Self {
            declared,
            to,
            from: None,
            how,
            wait,
            action,
            bystanders: BTreeSet::new(),
            force: BTreeSet::new(),
            nudge: None,
            followers: Followers::default(),
            following: BTreeSet::new(),
            stragglers: BTreeSet::new(),
            cut_off: BTreeMap::new(),
            left_alone: BTreeSet::new(),
            not_established: false,
            apply_first: BTreeMap::new(),
            tolerant: false,
        }
    }

    /// Everybody who is to follow and does not yet.
    fn others(&self) -> impl Iterator<Item = (&'a TabletAlias, &'a Tablet)> {
        let is_other = |alias: &TabletAlias| {
            alias != self.to
                && !self.left_alone.contains(alias)
                && !self.following.contains(alias)
                && !self.followers.pending.contains(alias)
        };
        self.declared.tablets.iter().filter(move |(alias, _)| is_other(alias))
    }
}

/// How a lead failed.
pub(super) enum Failed {
    /// The tablet did not become primary, as far as its answers tell.
    NotPromoted {
        error: ReparentError,
        /// Whether the old primary may have been pointed at it already.
        old_touched: bool,
    },
    /// It is primary, and something after that failed.
    Standing(ReparentError),
}

/// The calls that point tablets at the new primary.
#[derive(Default)]
pub(super) struct Followers {
    calls: JoinSet<(TabletAlias, Result<(), TabletError>)>,
    /// Those who have not answered yet.
    pending: BTreeSet<TabletAlias>,
    /// Opened when the new primary is primary.
    promoted: CancellationToken,
    old_touched: Arc<AtomicBool>,
}

impl Followers {
    /// Sends a tablet on its way.
    pub fn start(&mut self, tasks: &TaskTracker, alias: TabletAlias, follower: Follower) {
        self.pending.insert(alias.clone());
        self.calls.spawn(tasks.track_future(async move { (alias, follower.run().await) }));
    }

    /// The next answer.
    pub async fn next(&mut self) -> Option<(TabletAlias, Result<(), TabletError>)> {
        let (alias, answer) = self.calls.join_next().await?.ok()?;
        self.pending.remove(&alias);
        Some((alias, answer))
    }
}

impl Run {
    /// Makes the tablet primary and everybody follow it. The error of a promotion that stands says so.
    pub async fn lead(&mut self, mut lead: Lead<'_>) -> Result<(), Failed> {
        let untouched = |error| Failed::NotPromoted { error, old_touched: false };
        let Some(record) = lead.declared.tablet(lead.to).cloned() else {
            let reason = "its record is gone".to_owned();
            return Err(untouched(ReparentError::NotAReplica { alias: lead.to.clone(), reason }));
        };
        let time_ns = i64::try_from(run::now().as_nanos()).unwrap_or(i64::MAX);
        let deadline = Instant::now() + lead.wait;
        self.edge(Step::Promote, Edge::Before).await;
        let mut followers = self.point_everybody(&mut lead, time_ns, deadline);
        let position = match self.make_primary(&lead, &record).await {
            Ok(position) => position,
            Err(error) => {
                followers.calls.shutdown().await;
                let old_touched = followers.old_touched.load(Ordering::SeqCst);
                return Err(Failed::NotPromoted { error, old_touched });
            }
        };
        followers.promoted.cancel();
        self.say(format!("{} is primary and writable", lead.to));
        self.edge(Step::Promote, Edge::After).await;
        self.say_pause();
        self.edge(Step::Follow, Edge::Before).await;
        let followed = self.follow(&lead, &record, &position, time_ns, deadline, &mut followers).await;
        followed.map_err(Failed::Standing)
    }

    /// Writes the reparent-journal row, and waits for everybody to see it.
    async fn follow(
        &mut self,
        lead: &Lead<'_>,
        record: &Tablet,
        position: &str,
        time_ns: i64,
        deadline: Instant,
        followers: &mut Followers,
    ) -> Result<(), ReparentError> {
        let promoted = || Aftermath::Promoted { primary: lead.to.clone() };
        let began = Instant::now();
        let deadline = if lead.not_established { began + ROW_LIMIT_MIN } else { deadline };
        let row = async {
            let wrote = self.write_row(lead, record, position, time_ns, deadline).await;
            (wrote, began.elapsed())
        };
        let both = async { tokio::join!(row, answers(lead, followers)) };
        let ((row, row_took), failures) = tokio::select! {
            biased;
            both = both => both,
            lost = self.lost() => return Err(ReparentError::LockLost(lost).after(promoted())),
        };
        self.say(format!("the first write on {} took {} ms", lead.to, row_took.as_millis()));
        // Whoever has not answered yet may do so later; its task has its own limit and its owner.
        followers.calls.detach_all();
        for (alias, reason) in &failures.unimportant {
            self.warn(format!("{alias} does not follow {}: {reason}", lead.to));
        }
        if let (Err(error), true) = (&row, lead.not_established) {
            self.warn(format!(
                "{} is primary and not established: its writes hang until somebody can acknowledge them ({error})",
                lead.to
            ));
            return Ok(());
        }
        if let Err(source) = row {
            let remedy = "see why that tablet cannot write, or why nobody acknowledges";
            return Err(ReparentError::Step { step: FailedStep::JournalRow, source, remedy }.after(promoted()));
        }
        let nobody = lead.tolerant && failures.followed == 0 && lead.declared.tablets.len() > 2;
        let failures = if nobody { failures.unimportant } else { failures.important };
        if failures.is_empty() {
            return Ok(());
        }
        let failures = failures.iter().map(|(alias, reason)| format!("{alias} ({reason})"));
        Err(ReparentError::ReplicasFailed { primary: lead.to.clone(), failures: failures.collect::<Vec<_>>().join(", ") })
    }

    /// Starts one call for every other tablet. Except in an emergency each waits on its side for the reparent-journal row.
    fn point_everybody(&self, lead: &mut Lead<'_>, time_ns: i64, deadline: Instant) -> Followers {
        let mut followers = std::mem::take(&mut lead.followers);
        lead.followers.pending = followers.pending.clone();
        let others: Vec<_> = lead.others().collect();
        let ackers = others.iter().filter(|(alias, _)| {
            Some(*alias) != lead.from && !lead.bystanders.contains(*alias) && lead.declared.semi_sync_replica(lead.to, alias)
        });
        let old_is_needed = ackers.count() < lead.declared.policy.acks_needed(&lead.declared.member(lead.to));
        for (alias, _) in others {
            let force = lead.force.contains(alias);
            let Some(mut follower) = self.follower(lead.declared, lead.to, alias, force, deadline) else { continue };
            follower.time_ns = if lead.tolerant { 0 } else { time_ns };
            follower.apply_first = lead.apply_first.get(alias).cloned();
            let alias = alias.clone();
            if let Some(cut_off) = lead.cut_off.get(&alias).filter(|_| lead.stragglers.contains(&alias)) {
                // Following would end its commits that hang, and tell whoever waits for them that they are committed.
                let (hands, shard, cut_off, ended) =
                    (self.hands.clone(), self.shard.clone(), cut_off.clone(), self.ended(&alias));
                self.hands.tasks.spawn(async move {
                    ended.await;
                    if cut_off.is_cancelled() {
                        hands.see_to_stragglers(&shard, &alias).await;
                    }
                });
            } else if lead.stragglers.contains(&alias) {
                follower.deadline = Instant::now() + self.remote();
                // What it says is in its own record and in the next look at it.
                let (hands, shard) = (self.hands.clone(), self.shard.clone());
                self.hands.tasks.spawn(async move {
                    if follower.run().await.is_ok() {
                        hands.see_to_stragglers(&shard, &alias).await;
                    }
                });
            } else if Some(&alias) == lead.from {
                let (promoted, touched) = (followers.promoted.clone(), followers.old_touched.clone());
                followers.calls.spawn(async move {
                    // As long as it is not touched, it can be made writable again just as it was.
                    if old_is_needed {
                        let _either = timeout(OLD_PRIMARY_DELAY, promoted.cancelled()).await;
                    } else {
                        promoted.cancelled().await;
                    }
                    touched.store(true, Ordering::SeqCst);
                    (alias, follower.run().await)
                });
            } else if let Some((_, statement)) = lead.nudge.take_if(|(nudged, _)| *nudged == alias) {
                followers.calls.spawn(async move {
                    // A stop that is still under way must not come after our start.
                    let _ended = statement.await;
                    (alias, follower.run().await)
                });
            } else {
                followers.start(&self.hands.tasks, alias, follower);
            }
        }
        followers
    }

    /// Points a tablet at another one and starts it; nothing is waited for.
    pub async fn point(
        &self,
        declared: &Declared,
        tablet: &Tablet,
        alias: &TabletAlias,
        parent: &TabletAlias,
        call: Call,
    ) -> Result<(), TabletError> {
        let set = SetSource {
            parent,
            time_created_ns: 0,
            force_start: true,
            wait_position: "",
            semi_sync: declared.semi_sync_replica(parent, alias),
            heartbeat_interval_s: 0.0,
        };
        self.hands.tablets.set_replication_source(tablet, set, call).await
    }

    /// One tablet's way to another one; `None` for a tablet without a record.
    pub fn follower(
        &self,
        declared: &Declared,
        parent: &TabletAlias,
        alias: &TabletAlias,
        force_start: bool,
        deadline: Instant,
    ) -> Option<Follower> {
        Some(Follower {
            tablets: self.hands.tablets.clone(),
            tablet: declared.tablet(alias)?.clone(),
            parent: parent.clone(),
            time_ns: 0,
            force_start,
            semi_sync: declared.semi_sync_replica(parent, alias),
            call: self.short(),
            deadline,
            after: self.ended(alias).boxed(),
            apply_first: None,
        })
    }

    /// Makes the tablet primary; its position before the first write.
    async fn make_primary(&mut self, lead: &Lead<'_>, record: &Tablet) -> Result<String, ReparentError> {
        match lead.how {
            How::Promote | How::Init => self.promote(lead, record).await,
            How::Rewrite => self.rewrite(lead, record).await,
            How::Undo => {
                let step = |reason| ReparentError::Unfit { elect: lead.to.clone(), reason };
                self.make_writable_again(lead.declared, lead.to).await.map_err(step)?;
                self.position_of(record, FailedStep::PrimaryPosition).await
            }
        }
    }

    /// `PromoteReplica` or `InitPrimary`. A failure is not believed before the tablet has been looked at, and is tried once more.
    async fn promote(&mut self, lead: &Lead<'_>, record: &Tablet) -> Result<String, ReparentError> {
        let semi_sync = lead.declared.semi_sync_primary(lead.to);
        let before = lead.declared.newest_term();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let call = self.call_within_lease().await?;
            let tablets = self.hands.tablets.clone();
            let sent = match lead.how {
                How::Init => tablets.init_primary(record, semi_sync, call).await,
                _ => tablets.promote_replica(record, semi_sync, call).await,
            };
            let source = match sent {
                Ok(position) => return Ok(position),
                Err(source) => source,
            };
            match self.look(lead.to).await {
                Ok(look) if look.is_primary() && look.term > before => {
                    self.warn(format!("{source}; but {} is primary and writable", lead.to));
                    return self.position_of(record, FailedStep::Promote).await;
                }
                _ => {}
            }
            let refused = matches!(
                source.kind,
                TabletErrorKind::Precondition | TabletErrorKind::Unimplemented | TabletErrorKind::Overtaken
            );
            if refused || attempt >= PROMOTE_ATTEMPTS {
                return Err(ReparentError::Step { step: FailedStep::Promote, source, remedy: "see why on that tablet" });
            }
            self.warn(format!("{source}; trying once more"));
            self.verify().await?;
        }
    }

    /// Semi-sync on, then writable, then serving. A vttablet is told by `UndoDemotePrimary` only where it was read-only.
    async fn rewrite(&mut self, lead: &Lead<'_>, record: &Tablet) -> Result<String, ReparentError> {
        let failed = |source| ReparentError::Step { step: FailedStep::SetReadWrite, source, remedy: "see why on that tablet" };
        let position = self.position_of(record, FailedStep::PrimaryPosition).await?;
        let look = self.look(lead.to).await;
        let semi_sync = lead.declared.semi_sync_primary(lead.to);
        if semi_sync && !look.as_ref().is_ok_and(|look| look.semi_sync_primary) {
            self.switch_semi_sync_on(record).await.map_err(failed)?;
        }
        let tablets = self.hands.tablets.clone();
        let call = self.call_within_lease().await?;
        tablets.set_read_only(record, false, call).await.map_err(failed)?;
        if !look.is_ok_and(|look| look.writable) {
            let call = self.call_within_lease().await?;
            tablets.undo_demote_primary(record, semi_sync, call).await.map_err(failed)?;
        }
        Ok(position)
    }

    async fn switch_semi_sync_on(&self, record: &Tablet) -> Result<(), TabletError> {
        let set = |spelling: Spelling| format!("SET GLOBAL {} = ON", spelling.enabled());
        match self.dba(record, &set(Spelling::Source)).await {
            Err(error) if is_unknown_variable(&error) => self.dba(record, &set(Spelling::Master)).await.map(drop),
            other => other.map(drop),
        }
    }

    /// The executed position of a tablet that is healthy.
    pub async fn position_of(&self, record: &Tablet, step: FailedStep) -> Result<String, ReparentError> {
        let answer = self.hands.tablets.primary_position(record, Call::read(self.remote())).await;
        answer.map_err(|source| ReparentError::Step {
            step,
            source,
            remedy: "bring that tablet back, or use EmergencyReparentShard",
        })
    }

    /// Writes the reparent-journal row; with semi-sync that waits for the first acker. Tried until the time is over; a row that is
    /// there already is ours.
    async fn write_row(
        &self,
        lead: &Lead<'_>,
        record: &Tablet,
        position: &str,
        time_ns: i64,
        deadline: Instant,
    ) -> Result<(), TabletError> {
        let mut pause = RETRY_PAUSE;
        loop {
            // Half of what is left: an answer that is lost must leave time to find the row there.
            let limit = (deadline.saturating_duration_since(Instant::now()) / 2).max(ROW_LIMIT_MIN);
            let tablets = &self.hands.tablets;
            let wrote =
                tablets.populate_reparent_journal(record, time_ns, lead.action, lead.to, position, self.call(limit)).await;
            match wrote {
                Err(error) if error.kind == TabletErrorKind::AlreadyDone => return Ok(()),
                Err(error) if Instant::now() + pause >= deadline => return Err(error),
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(ROW_PAUSE_MAX);
        }
    }
}

/// Who does not follow, and why.
#[derive(Default)]
struct Failures {
    /// How many do follow.
    followed: usize,
    important: BTreeMap<TabletAlias, String>,
    unimportant: BTreeMap<TabletAlias, String>,
}

/// Waits for everybody who matters, and then a moment for the bystanders.
async fn answers(lead: &Lead<'_>, followers: &mut Followers) -> Failures {
    let waited = |alias: &&TabletAlias| {
        *alias != lead.to
            && !lead.left_alone.contains(*alias)
            && !lead.following.contains(*alias)
            && !lead.stragglers.contains(*alias)
    };
    let mut waiting: BTreeSet<_> = lead.declared.tablets.keys().filter(waited).cloned().collect();
    let mut failures = Failures { followed: lead.following.len(), ..Failures::default() };
    let mut grace = None;
    loop {
        if waiting.is_subset(&lead.bystanders) {
            grace.get_or_insert_with(|| Instant::now() + BYSTANDER_GRACE);
        }
        let next = match grace {
            None => followers.calls.join_next().await,
            Some(end) => tokio::time::timeout_at(end, followers.calls.join_next()).await.unwrap_or(None),
        };
        let Some(Ok((alias, answer))) = next else { break };
        waiting.remove(&alias);
        match answer {
            Ok(()) => failures.followed += 1,
            Err(error) => {
                let into = if lead.bystanders.contains(&alias) { &mut failures.unimportant } else { &mut failures.important };
                into.insert(alias, error.to_string());
            }
        }
    }
    for alias in waiting {
        let into = if lead.bystanders.contains(&alias) { &mut failures.unimportant } else { &mut failures.important };
        into.insert(alias, "no answer in time".to_owned());
    }
    failures
}

/// One tablet's way to the new primary.
pub(super) struct Follower {
    tablets: Arc<dyn TabletManager>,
    tablet: Tablet,
    parent: TabletAlias,
    time_ns: i64,
    force_start: bool,
    semi_sync: bool,
    call: Call,
    deadline: Instant,
    /// What was sent to it before has ended: a stop must not come after our start.
    after: BoxFuture<'static, ()>,
    /// What it must apply before its relay log may be thrown away, encoded.
    pub apply_first: Option<String>,
}

impl Follower {
    async fn run(self) -> Result<(), TabletError> {
        self.after.await;
        if let Some(position) = &self.apply_first {
            let left = self.deadline.saturating_duration_since(Instant::now()).max(RETRY_PAUSE);
            self.tablets.wait_for_position(&self.tablet, position, Call { timeout: left, ..self.call }).await?;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let left = self.deadline.saturating_duration_since(Instant::now()).max(RETRY_PAUSE);
            let set = SetSource {
                parent: &self.parent,
                time_created_ns: self.time_ns,
                force_start: self.force_start,
                wait_position: "",
                semi_sync: self.semi_sync,
                heartbeat_interval_s: 0.0,
            };
            let sent = self.tablets.set_replication_source(&self.tablet, set, Call { timeout: left, ..self.call }).await;
            let Err(error) = sent else { return Ok(()) };
            let final_word =
                matches!(error.kind, TabletErrorKind::ErrantGtid | TabletErrorKind::Unimplemented | TabletErrorKind::Overtaken);
            if final_word || attempt >= FOLLOW_ATTEMPTS || Instant::now() + RETRY_PAUSE >= self.deadline {
                return Err(error);
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}
