//! What is wrong with the shards of this elector, and what was decided about it: fed by the supervisors, read by the faces.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::broadcast;

use crate::{
    diagnose::{Code, Problem},
    ledger::Recovery,
    topo::{ShardId, TabletAlias},
};

/// Decisions of one shard that are remembered; the oldest goes first.
pub const DECISIONS_MAX: usize = 32;
/// Events that a reader may lag behind before it is cut off: some seconds of a whole region's outage.
const EVENTS_MAX: usize = 4096;

/// What a supervisor found and decided, each time it looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardId,
    /// Everything that is wrong, the most urgent first.
    pub problems: Vec<Problem>,
    /// What is done about it.
    pub decision: DecisionRecord,
}

/// One decision: to do something, to wait, or to do nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRecord {
    /// When it was taken.
    pub at: SystemTime,
    /// What is done, in a word or two: `nothing`, `wait`, `emergency reparent`, `connect`. No numbers: it tells one decision from another.
    pub action: String,
    /// The tablet that it is done to, or the primary that it is about.
    pub tablet: Option<TabletAlias>,
    /// The problem that it is about.
    pub code: Option<Code>,
    /// The rule that led to it and the facts, for a person.
    pub why: String,
    /// What else could have been done, and why it is not.
    pub rejected: Vec<Rejected>,
    /// What stands in the way of the action that would be right.
    pub blocked: Option<Blocked>,
}

/// An alternative that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// What would have been done.
    pub action: String,
    /// Why it is not.
    pub why: String,
}

/// Something that forbids an action for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The rule, in a word or two and without numbers: `failover floor`, `maintenance`, `recoveries disabled`.
    pub by: String,
    /// Whose it is and why, for a person.
    pub reason: String,
    /// When it ends by itself; `None` = only a person ends it.
    pub until: Option<SystemTime>,
}

/// One shard as it stands on the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEntry {
    /// What is wrong now, the most urgent first, and since when.
    pub problems: Vec<OpenProblem>,
    /// The decision that holds now, with its newest reasons, and since when.
    pub decision: Held,
    /// Decisions, the oldest first; each differs from the one before it. The last is the one that holds.
    pub decisions: VecDeque<Held>,
}

/// A problem that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenProblem {
    /// When it was first seen.
    pub since: SystemTime,
    /// What it is, with the newest facts.
    pub problem: Problem,
}

/// A decision and how long it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// When it was first taken.
    pub since: SystemTime,
    /// As it was last taken.
    pub decision: DecisionRecord,
}

/// Which shards; empty names = all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this keyspace.
    pub keyspace: String,
    /// Only this shard of it.
    pub shard: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// To which shard.
    pub shard: ShardId,
    /// What.
    pub what: Happened,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// A problem is there that was not.
    Opened(Problem),
    /// A problem is gone.
    Closed(Problem),
    /// Another decision than before.
    Decided(DecisionRecord),
    /// A recovery has ended.
    Recovered(Box<Recovery>),
    /// The shard is no longer this elector's: what was told of it is void.
    LeftAlone,
}

/// An entry is shared with whoever has looked at it: looking at thousands of shards copies none.
type Shards = BTreeMap<ShardId, Arc<ShardEntry>>;

/// Everything on the board. Cheap to clone; all clones are the same board.
#[derive(Debug, Clone)]
pub struct Board {
    shards: Arc<Mutex<Shards>>,
    events: broadcast::Sender<Arc<Event>>,
}

impl Default for Board {
    fn default() -> Self {
        Self { shards: Arc::default(), events: broadcast::Sender::new(EVENTS_MAX) }
    }
}

impl Board {
    /// Takes in what a supervisor found and decided; tells what is new.
    pub fn publish(&self, report: ShardReport) {
        let (shard, at) = (report.shard.clone(), report.decision.at);
        let mut shards = self.lock();
        let before = shards.remove(&shard).map(Arc::unwrap_or_clone);
        let (entry, news) = merge(before, report);
        shards.insert(shard.clone(), Arc::new(entry));
        // Under the lock, so that events come in the order in which the board changed.
        for what in news {
            self.tell(at, &shard, what);
        }
    }

    /// Tells that a recovery has ended; the ledger keeps it.
    pub fn recovered(&self, recovery: &Recovery) {
        self.tell(recovery.at, &recovery.shard, Happened::Recovered(Box::new(recovery.clone())));
    }

    /// Forgets a shard that is no longer this elector's.
    pub fn forget(&self, shard: &ShardId, at: SystemTime) {
        let mut shards = self.lock();
        if shards.remove(shard).is_some() {
            self.tell(at, shard, Happened::LeftAlone);
        }
    }

    /// The shards as they stand now.
    pub fn snapshot(&self, filter: &Filter) -> BTreeMap<ShardId, Arc<ShardEntry>> {
        let shards = self.lock();
        shards.iter().filter(|(shard, _)| filter.wants(shard)).map(|(shard, entry)| (shard.clone(), entry.clone())).collect()
    }

    /// What is wrong now, of every shard, also of those in which nothing is.
    pub fn problems(&self) -> BTreeMap<ShardId, Vec<OpenProblem>> {
        self.lock().iter().map(|(shard, entry)| (shard.clone(), entry.problems.clone())).collect()
    }

    /// Everything that happens from now on. A reader that falls too far behind is told so ([`broadcast::error::RecvError::Lagged`]).
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    fn tell(&self, at: SystemTime, shard: &ShardId, what: Happened) {
        // Nobody listens: nothing is lost, the board still shows it.
        let _ = self.events.send(Arc::new(Event { at, shard: shard.clone(), what }));
    }

    fn lock(&self) -> MutexGuard<'_, Shards> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter {
    /// Whether that shard is wanted.
    pub fn wants(&self, shard: &ShardId) -> bool {
        (self.keyspace.is_empty() || self.keyspace == shard.keyspace) && (self.shard.is_empty() || self.shard == shard.shard)
    }
}

impl DecisionRecord {
    /// Whether it is the same decision, perhaps with newer facts.
    fn is_same(&self, other: &Self) -> bool {
        let by = |decision: &Self| decision.blocked.as_ref().map(|blocked| blocked.by.clone());
        (&self.action, &self.tablet, self.code, by(self)) == (&other.action, &other.tablet, other.code, by(other))
    }
}

fn is_same_problem(one: &Problem, other: &Problem) -> bool {
    (one.code, &one.tablet) == (other.code, &other.tablet)
}

/// The shard after the report, and what is new in it.
fn merge(before: Option<ShardEntry>, report: ShardReport) -> (ShardEntry, Vec<Happened>) {
    let at = report.decision.at;
    let mut news = Vec::new();
    let (old, mut decisions) = before.map(|entry| (entry.problems, entry.decisions)).unwrap_or_default();
    let problems: Vec<OpenProblem> = (report.problems.into_iter())
        .map(|problem| {
            let known = old.iter().find(|open| is_same_problem(&open.problem, &problem));
            if known.is_none() {
                news.push(Happened::Opened(problem.clone()));
            }
            OpenProblem { since: known.map_or(at, |open| open.since), problem }
        })
        .collect();
    let gone = old.into_iter().filter(|open| !problems.iter().any(|now| is_same_problem(&now.problem, &open.problem)));
    news.extend(gone.map(|open| Happened::Closed(open.problem)));
    let decision = match decisions.back_mut() {
        Some(last) if last.decision.is_same(&report.decision) => {
            last.decision = report.decision;
            last.clone()
        }
        _ => {
            news.push(Happened::Decided(report.decision.clone()));
            let held = Held { since: at, decision: report.decision };
            decisions.push_back(held.clone());
            if decisions.len() > DECISIONS_MAX {
                decisions.pop_front();
            }
            held
        }
    };
    (ShardEntry { problems, decision, decisions }, news)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;
    use crate::diagnose::Remedy;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn shard() -> ShardId {
        "commerce/0".parse().unwrap()
    }

    fn problem(code: Code, uid: u32) -> Problem {
        let tablet = Some(TabletAlias { cell: "zone1".into(), uid });
        Problem { code, tablet, why: format!("seen by {uid}"), remedy: Remedy::Report }
    }

    fn report(second: u64, action: &str, why: &str, problems: Vec<Problem>) -> ShardReport {
        let decision = DecisionRecord {
            at: at(second),
            action: action.to_owned(),
            tablet: None,
            code: None,
            why: why.to_owned(),
            rejected: Vec::new(),
            blocked: None,
        };
        ShardReport { shard: shard(), problems, decision }
    }

    fn entry(board: &Board) -> Arc<ShardEntry> {
        board.snapshot(&Filter::default()).remove(&shard()).unwrap()
    }

    #[test]
    fn a_decision_that_is_taken_again_keeps_its_beginning_and_shows_its_newest_reasons() {
        let board = Board::default();
        let mut events = board.events();
        board.publish(report(1, "nothing", "all is well", Vec::new()));
        board.publish(report(2, "wait", "0.2 s", Vec::new()));
        board.publish(report(3, "wait", "1.2 s", Vec::new()));
        let entry = entry(&board);
        assert_eq!(entry.decisions.len(), 2);
        assert_eq!((entry.decision.since, entry.decision.decision.why.as_str()), (at(2), "1.2 s"));
        assert_eq!(entry.decisions.back(), Some(&entry.decision));
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.at).collect();
        assert_eq!(told, [at(1), at(2)]);
    }

    #[test]
    fn a_problem_opens_once_keeps_its_beginning_and_closes_once() {
        let board = Board::default();
        let (disk, dead) = (problem(Code::PrimaryDiskStalled, 100), problem(Code::DeadPrimary, 100));
        board.publish(report(1, "nothing", "", vec![disk.clone()]));
        let mut events = board.events();
        board.publish(report(2, "nothing", "", vec![disk.clone(), dead.clone()]));
        assert_eq!(events.try_recv().unwrap().what, Happened::Opened(dead.clone()));
        let since: Vec<_> = entry(&board).problems.iter().map(|open| open.since).collect();
        assert_eq!(since, [at(1), at(2)]);
        board.publish(report(3, "nothing", "", vec![dead]));
        assert_eq!(events.try_recv().unwrap().what, Happened::Closed(disk));
        board.forget(&shard(), at(4));
        assert_eq!(events.try_recv().unwrap().what, Happened::LeftAlone);
        assert!(board.snapshot(&Filter::default()).is_empty());
    }

    #[test]
    fn the_board_is_bounded_and_a_reader_that_sleeps_is_told_what_it_missed() {
        let board = Board::default();
        let mut events = board.events();
        for second in 0..EVENTS_MAX as u64 + 2 {
            board.publish(report(second, if second % 2 == 0 { "wait" } else { "nothing" }, "", Vec::new()));
        }
        assert_eq!(entry(&board).decisions.len(), DECISIONS_MAX);
        assert_eq!(events.try_recv(), Err(TryRecvError::Lagged(2)));
    }

    #[test]
    fn a_filter_takes_a_keyspace_or_one_shard_of_it() {
        let board = Board::default();
        for name in ["commerce/-80", "commerce/80-", "customer/0"] {
            board.publish(ShardReport { shard: name.parse().unwrap(), ..report(1, "nothing", "", Vec::new()) });
        }
        let count = |keyspace: &str, shard: &str| {
            board.snapshot(&Filter { keyspace: keyspace.to_owned(), shard: shard.to_owned() }).len()
        };
        assert_eq!((count("", ""), count("commerce", ""), count("commerce", "-80"), count("nowhere", "")), (3, 2, 1, 0));
    }
}
