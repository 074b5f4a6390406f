//! One shard: look, diagnose, decide, do one thing, look again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    act::{Ended, kind, vtorc_name},
    board::{Blocked, DecisionRecord, Rejected, ShardReport},
    decide::{Action, Next, ProblemKey, Skip, Standing, decide},
    memory::{BACKOFF_MAX, Memory, RAISED_AFTER},
    shown::Shown,
    traffic::traffic_in_the_way,
};
use crate::{
    diagnose::{Priority, Problem, diagnose},
    ledger::{Kind, Window},
    shard::ShardView,
    topo::{ShardId, TabletAlias},
};

/// A shard in which nothing is wrong is diagnosed that often, though nothing new was heard: for what only grows old.
const PAUSE_QUIET: Duration = Duration::from_secs(5);
/// The same while something is wrong.
const PAUSE_TROUBLED: Duration = Duration::from_secs(1);
/// The same while the primary does not answer by some way: silence has no event.
const PAUSE_SILENT: Duration = Duration::from_millis(50);
/// How soon a ledger that was never read is asked for again.
const UNTIL_ETCD_ANSWERS: Duration = Duration::from_secs(1);
/// Longest wait between two rereads of the same problem.
const REREAD_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Limit of the look at locks, records and streams before a move that can wait.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(2);

/// Watches over one shard.
pub(super) struct Supervisor {
    pub(super) context: Arc<Context>,
    pub(super) shard: ShardId,
    memory: Memory,
    open: BTreeMap<ProblemKey, Instant>,
    /// The tablets that were there last.
    tablets: BTreeSet<TabletAlias>,
    /// Whether something stands in the way of an action that would be right.
    is_held_back: bool,
    skips_counted: BTreeSet<(ProblemKey, &'static str)>,
    /// What metrics say of it.
    shown: Shown,
    /// Asks the witnesses while we go on.
    pub(super) asking: JoinSet<bool>,
    /// Whether some of them can only testify by their replication.
    pub(super) must_bounce: bool,
    /// When they last did.
    pub(super) bounced: Option<Instant>,
    /// Since when the primary is under suspicion, and when it was last seen well.
    pub(super) suspected: Option<Suspicion>,
    /// The primary whose loss the other electors did not confirm.
    pub(super) quorum_refused: Option<TabletAlias>,
}

/// When a primary was last seen well, and when that came into doubt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspicion {
    pub last_good: Instant,
    pub since: Instant,
}

impl Supervisor {
    pub fn new(context: Arc<Context>, shard: ShardId) -> Self {
        Self {
            context,
            shard,
            memory: Memory::default(),
            open: BTreeMap::new(),
            tablets: BTreeSet::new(),
            is_held_back: false,
            skips_counted: BTreeSet::new(),
            shown: Shown::default(),
            asking: JoinSet::new(),
            must_bounce: false,
            bounced: None,
            suspected: None,
            quorum_refused: None,
        }
    }

    /// Goes on until stopped. An action that has begun is ended first.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut news = self.context.senses.news(&self.shard);
        let (mut ledger, mut live) = (self.context.ledger.changes(), self.context.live.clone());
        while !stop.is_cancelled() {
            news.borrow_and_update();
            ledger.borrow_and_update();
            live.borrow_and_update();
            let pause = self.turn().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = changed(&mut news) => {}
                // Whatever is written there can only free what it held back.
                () = changed(&mut ledger), if self.is_held_back => {}
                () = changed(&mut live) => {}
                Some(unable) = self.asking.join_next() => self.must_bounce = unable.unwrap_or(false),
                () = sleep(pause) => {}
            }
        }
        self.close_all();
    }

    /// Looks, decides, does one thing at most. Answers how long nothing has to be done, unless something happens.
    async fn turn(&mut self) -> Duration {
        let Some(view) = self.context.senses.view(&self.shard) else { return PAUSE_TROUBLED };
        let live = self.context.live();
        let problems = diagnose(&view, &live.rules);
        self.note(&view, &problems);
        let mut standing = self.standing(&view, &problems);
        let mut next = decide(&problems, &standing);
        if next.is_planned_move(&problems) {
            let leaves_anyway = matches!(next.act, Some((_, Action::Takeover { then_emergency: true, .. })));
            standing.traffic = self.traffic(&view, leaves_anyway).await;
            next = decide(&problems, &standing);
        }
        self.is_held_back = next.skipped.iter().any(|(_, skip)| skip.holds_back());
        self.count_skips(&problems, &next);
        let since = self.context.ledger.now().wall;
        self.shown.show(&self.context, &view, (&self.open, since), (&problems, &next));
        self.context.board.publish(report(&self.shard, &problems, &next));
        if let Some((place, action)) = next.act {
            self.carry_out(&view, &problems[place], action).await;
            return Duration::ZERO;
        }
        let pause = if self.suspected.is_some() {
            PAUSE_SILENT
        } else if problems.is_empty() {
            PAUSE_QUIET
        } else {
            PAUSE_TROUBLED
        };
        next.again_in.map_or(pause, |again| again.clamp(Duration::from_millis(10), pause))
    }

    async fn carry_out(&mut self, view: &ShardView, problem: &Problem, action: Action) {
        let key = (problem.code, problem.tablet.clone());
        let is_look = matches!(action, Action::Reread(_) | Action::Testify);
        let moves = kind(&action) != Kind::Repair;
        let ended = self.act(view, problem, action).await;
        let (now, longest) = (Instant::now(), if is_look { REREAD_PAUSE_MAX } else { BACKOFF_MAX });
        let outcome = match ended {
            Ended::Looked => "looked again".to_owned(),
            Ended::Done if moves => return self.memory.moved(key, now),
            Ended::Done => "done".to_owned(),
            Ended::NotDue(why) => return self.memory.later(key, why, now),
            Ended::Failed(why) => why,
        };
        let times = self.memory.tried(key, outcome.clone(), now, longest);
        if !is_look && times == RAISED_AFTER {
            tracing::warn!(
                shard = %self.shard, problem = %problem.code, tablet = problem.tablet.as_ref().map(display), times, outcome,
                "this problem comes back after every attempt to mend it: a person should look"
            );
            self.context.metrics.recover.stuck(&self.shard, problem.code);
        }
    }

    /// Keeps count of what is open, and of how long the primary is in doubt.
    fn note(&mut self, view: &ShardView, problems: &[Problem]) {
        let now = Instant::now();
        self.memory.keep(problems, now);
        let keys: BTreeSet<ProblemKey> = problems.iter().map(|problem| (problem.code, problem.tablet.clone())).collect();
        for problem in problems {
            let key = (problem.code, problem.tablet.clone());
            if self.open.contains_key(&key) {
                continue;
            }
            self.context.metrics.recover.opened(&self.shard, problem);
            tracing::info!(
                shard = %self.shard, problem = %problem.code, tablet = problem.tablet.as_ref().map(display), why = problem.why,
                "problem"
            );
            self.open.insert(key, now);
        }
        let gone: Vec<ProblemKey> = self.open.keys().filter(|key| !keys.contains(*key)).cloned().collect();
        for key in gone {
            let since = self.open.remove(&key).unwrap_or(now);
            self.context.metrics.recover.closed(&self.shard, &key);
            self.skips_counted.retain(|(of, _)| *of != key);
            tracing::info!(
                shard = %self.shard, problem = %key.0, tablet = key.1.as_ref().map(display), after = ?(now - since), "problem is gone"
            );
        }
        self.suspect(view, problems, now);
        let there: BTreeSet<TabletAlias> = view.tablets.keys().cloned().collect();
        for alias in self.tablets.difference(&there) {
            self.context.metrics.recover.forget(&self.shard, Some(alias));
        }
        self.tablets = there;
    }

    fn suspect(&mut self, view: &ShardView, problems: &[Problem], now: Instant) {
        let primary = view.primary().and_then(|alias| view.tablets.get(alias));
        let fails = primary.is_some_and(|primary| primary.mysql.failing.is_some() || primary.manager.failing.is_some());
        let doubted = fails || problems.iter().any(|problem| problem.code.priority() == Priority::Shard);
        if !doubted {
            self.suspected = None;
            self.quorum_refused = None;
        } else if self.suspected.is_none() {
            let age = primary.and_then(|primary| primary.mysql.last_good).unwrap_or_default();
            self.suspected = Some(Suspicion { last_good: now.checked_sub(age).unwrap_or(now), since: now });
        }
    }

    fn close_all(&mut self) {
        for key in std::mem::take(&mut self.open).keys() {
            self.context.metrics.recover.closed(&self.shard, key);
        }
        for alias in self.tablets.iter().map(Some).chain([None]) {
            self.context.metrics.recover.forget(&self.shard, alias);
        }
        self.shown.end(&self.context, &self.shard);
        self.context.board.forget(&self.shard, SystemTime::now());
    }

    fn count_skips(&mut self, problems: &[Problem], next: &Next) {
        for (place, skip) in &next.skipped {
            let problem = &problems[*place];
            let key = (problem.code, problem.tablet.clone());
            if !matches!(skip, Skip::LessUrgent(_) | Skip::Witnesses) && self.skips_counted.insert((key, skip.label())) {
                self.context.metrics.recover.skipped(&self.shard, vtorc_name(&problem.remedy), skip.label());
                if !matches!(skip, Skip::NoRecoveryAction | Skip::BackingOff(_)) {
                    tracing::info!(shard = %self.shard, problem = %problem.code, reason = %skip, "not acted upon");
                }
            }
        }
    }

    /// The workflow that switches traffic of this shard now. What cannot be told is a reason to wait as well, but for a primary that
    /// should be left at any price.
    async fn traffic(&self, view: &ShardView, leaves_anyway: bool) -> Option<String> {
        let primary = view.primary().and_then(|alias| view.tablets.get(alias))?;
        let (topo, tablets) = (&self.context.hands.topo, &self.context.hands.tablets);
        match traffic_in_the_way(topo, tablets, &self.shard, &primary.record, TRAFFIC_LIMIT).await {
            Ok(found) => found,
            Err(_) if leaves_anyway => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// What stands in the way here and now.
    pub(super) fn standing(&self, view: &ShardView, problems: &[Problem]) -> Standing {
        let (live, ledger, now) = (self.context.live(), self.context.ledger.state(), self.context.ledger.now());
        let disabled = if live.allow_recovery {
            ledger.recoveries_disabled().map(|switch| format!("{} disabled recoveries everywhere: {}", switch.who, switch.why))
        } else {
            Some("recoveries are switched off here (--allow-recovery)".to_owned())
        };
        let by_record = view.record.as_ref().is_some_and(|record| record.emergency_disabled);
        let emergency_disabled = if !live.allow_emergency {
            Some("emergency reparents are switched off here (--allow-emergency-reparent)".to_owned())
        } else if view.keyspace.emergency_disabled {
            Some("emergency reparents of the keyspace are disabled (SetVtorcEmergencyReparent)".to_owned())
        } else if by_record {
            Some("emergency reparents of the shard are disabled (SetVtorcEmergencyReparent)".to_owned())
        } else {
            None
        };
        let concerned = problems.iter().filter_map(|problem| problem.tablet.as_ref());
        let in_maintenance = |alias: &TabletAlias| {
            let window = ledger.maintenance(&self.shard, Some(alias), now.wall)?;
            Some((alias.clone(), maintenance(window)))
        };
        Standing {
            disabled,
            emergency_disabled,
            block: ledger.block(&self.shard, now, &live.flap).map(|block| {
                let left = block.until.map_or(UNTIL_ETCD_ANSWERS, |until| until.duration_since(now.wall).unwrap_or_default());
                (block.reason, left)
            }),
            maintenance: ledger.maintenance(&self.shard, None, now.wall).map(maintenance),
            tablets_in_maintenance: concerned.filter_map(in_maintenance).collect(),
            traffic: view.record.as_ref().and_then(|record| record.traffic_switch.clone()),
            tried: self.memory.standing(Instant::now()),
            may_testify: self.asking.is_empty(),
        }
    }
}

/// Resolves when there is something new; never when nothing can come any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn maintenance(window: &Window) -> String {
    format!("{} of {} ({}), by {}", window.scope, window.id, window.reason, window.owner)
}

/// What the faces show of it.
fn report(shard: &ShardId, problems: &[Problem], next: &Next) -> ShardReport {
    let at = SystemTime::now();
    let acted = next.act.as_ref().map(|(place, action)| (&problems[*place], action.to_string()));
    let held_back = next.skipped.iter().find(|(_, skip)| skip.holds_back());
    let (about, action, why) = match (&acted, held_back) {
        (Some((problem, action)), _) => (Some(*problem), action.clone(), format!("{}: {}", problem.code, problem.why)),
        (None, Some((place, skip))) => {
            let problem = &problems[*place];
            (Some(problem), "wait".to_owned(), format!("{}: {}; {skip}", problem.code, problem.why))
        }
        (None, None) if problems.is_empty() => (None, "nothing".to_owned(), "nothing is wrong".to_owned()),
        (None, None) => (problems.first(), "nothing".to_owned(), format!("{}: {}", problems[0].code, problems[0].why)),
    };
    let rejected = next.skipped.iter().map(|(place, skip)| {
        let problem = &problems[*place];
        Rejected { action: format!("{} of {}", problem.remedy, problem.code), why: skip.to_string() }
    });
    let blocked = held_back.map(|(_, skip)| Blocked {
        by: skip.label().to_owned(),
        reason: skip.to_string(),
        until: skip.again_in().map(|left| at + left),
    });
    let decision = DecisionRecord {
        at,
        action,
        tablet: about.and_then(|problem| problem.tablet.clone()),
        code: about.map(|problem| problem.code),
        why,
        rejected: rejected.collect(),
        blocked: if acted.is_some() { None } else { blocked },
    };
    ShardReport { shard: shard.clone(), problems: problems.to_vec(), decision }
}
