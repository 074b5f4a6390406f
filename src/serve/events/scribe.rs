//! What of the board comes into the log, and how: off every recovery's path, and never more than a few writes a second.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    log::Inner,
    state::{ProblemKey, problem_key},
    stored::{self, BATCH_BYTES_MAX, BATCH_EVENTS_MAX},
};
use crate::{
    ledger::Outcome,
    pb::vtelector::{self as pb, EventBatch, event::What},
    recover::board::{Board, DecisionRecord, Event, Happened},
    serve::calls::board::tell,
    topo::{KvError, ShardId},
};

/// Asks whether an elector of that name is alive.
pub type Alive = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Events that wait for being written; of more, the oldest are not told.
pub const QUEUE_MAX: usize = 4096;
/// Pause between two writes: what comes meanwhile is written together. Bounds what a storm costs etcd, to 4 writes a second and elector.
pub const WRITE_EVERY: Duration = Duration::from_millis(250);
/// Pause before a write that failed is tried again; it doubles ...
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// ... up to this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(15);
/// How often log and board are compared: what was not told, or told by an elector that is gone, is told then.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// For so long our own word counts, until the log has it.
const SAID_FOR: Duration = Duration::from_secs(20);
/// The same decision about a shard is not told again for so long: some come and go with every look.
const DECISION_QUIET: Duration = Duration::from_secs(600);
/// At the end, how long the last write may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// By what a decision is known again.
type DecisionKey = (String, Option<&'static str>, Option<String>);

/// Writes into the log what the board tells.
pub struct Scribe {
    log: Arc<Inner>,
    board: Board,
    told: Receiver<Arc<Event>>,
    alive: Alive,
    queue: VecDeque<pb::Event>,
    /// The batch whose write is not confirmed: it is written under the same key until it is, so that it never stands there twice.
    batch: Option<(String, Vec<u8>, usize)>,
    /// Our last word about each problem, while the log may not have it: whether it is open.
    said: BTreeMap<(ShardId, ProblemKey), (bool, Instant)>,
    decided: BTreeMap<ShardId, BTreeMap<DecisionKey, Instant>>,
    failures: u32,
    write_at: Instant,
    /// Whether it was said that events are missing, since a write last went well.
    is_loss_said: bool,
}

impl Scribe {
    pub fn new(log: Arc<Inner>, board: &Board, alive: Alive) -> Self {
        Self {
            log,
            told: board.events(),
            board: board.clone(),
            alive,
            queue: VecDeque::new(),
            batch: None,
            said: BTreeMap::new(),
            decided: BTreeMap::new(),
            failures: 0,
            write_at: Instant::now(),
            is_loss_said: false,
        }
    }

    /// Writes until `stop`, and once more then.
    pub async fn run(mut self, stop: CancellationToken) {
        // What is open can only be known from the log. Meanwhile the board's channel keeps what happens.
        let mut changes = self.log_changes();
        while self.log.state().unread().is_some() {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
        let mut comparisons = interval_at(Instant::now() + COMPARE_EVERY, COMPARE_EVERY);
        comparisons.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            let has_work = self.batch.is_some() || !self.queue.is_empty();
            tokio::select! {
                () = stop.cancelled() => {}
                told = self.told.recv() => match told {
                    Ok(event) => self.take(&event),
                    Err(RecvError::Lagged(missed)) => self.lost(missed, "too many at once"),
                    Err(RecvError::Closed) => break,
                },
                _ = comparisons.tick() => self.compare(),
                () = sleep_until(self.write_at), if has_work => self.write().await,
            }
            self.log.unwritten(self.queue.len() + self.batch.as_ref().map_or(0, |batch| batch.2));
        }
        while let Ok(event) = self.told.try_recv() {
            self.take(&event);
        }
        let last = async {
            while self.failures == 0 && (self.batch.is_some() || !self.queue.is_empty()) {
                self.write().await;
            }
        };
        _ = timeout(FAREWELL, last).await;
        let left = self.queue.len() + self.batch.as_ref().map_or(0, |batch| batch.2);
        self.log.metrics.unwritten(left as u64);
    }

    fn log_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.log.changes.subscribe()
    }

    /// Takes what somebody may want to be told.
    fn take(&mut self, event: &Event) {
        match &event.what {
            Happened::Opened(_) | Happened::Closed(_) => {
                let told = tell(event);
                let (Some(What::Opened(problem) | What::Closed(problem)), is_open) =
                    (&told.what, matches!(event.what, Happened::Opened(_)))
                else {
                    return;
                };
                let key = problem_key(problem);
                let due = if is_open { !self.is_open(&event.shard, &key) } else { self.may_close(&event.shard, &key) };
                if due {
                    self.say(event.shard.clone(), key, is_open, told);
                }
            }
            Happened::Decided(decision) => {
                if self.is_worth_telling(&event.shard, decision) {
                    self.push(tell(event));
                }
            }
            // Somebody else was faster: that one tells.
            Happened::Recovered(recovery) if recovery.outcome == Outcome::AlreadyDone => {}
            Happened::Recovered(_) => self.push(tell(event)),
            Happened::LeftAlone => {
                self.decided.remove(&event.shard);
                self.said.retain(|(shard, _), _| *shard != event.shard);
                let ours = self.log.state().open_of(&event.shard).any(|(_, opener)| opener == self.log.who);
                if ours {
                    self.push(tell(event));
                }
            }
        }
    }

    fn say(&mut self, shard: ShardId, key: ProblemKey, is_open: bool, told: pb::Event) {
        self.said.insert((shard, key), (is_open, Instant::now()));
        self.push(told);
    }

    fn push(&mut self, event: pb::Event) {
        if self.queue.len() >= QUEUE_MAX {
            self.queue.pop_front();
            self.lost(1, "etcd takes none");
        }
        self.queue.push_back(stored::shortened(event));
    }

    fn lost(&mut self, count: u64, why: &str) {
        self.log.metrics.unwritten(count);
        if !std::mem::replace(&mut self.is_loss_said, true) {
            tracing::warn!(why, "events are missing in the log; problems that stay are told later");
        }
    }

    fn said(&self, shard: &ShardId, key: &ProblemKey) -> Option<bool> {
        let (is_open, at) = self.said.get(&(shard.clone(), key.clone()))?;
        (at.elapsed() < SAID_FOR || !self.queue.is_empty() || self.batch.is_some()).then_some(*is_open)
    }

    /// Whether the log says that the problem is there, or will.
    fn is_open(&self, shard: &ShardId, key: &ProblemKey) -> bool {
        self.said(shard, key).unwrap_or_else(|| self.log.state().opener(shard, key).is_some())
    }

    /// Whoever opened a problem closes it; where that elector is gone, whoever sees that it is over.
    fn may_close(&self, shard: &ShardId, key: &ProblemKey) -> bool {
        let may = |opener: &str| opener == self.log.who || opener.is_empty() || !(self.alive)(opener);
        self.said(shard, key).unwrap_or_else(|| self.log.state().opener(shard, key).is_some_and(may))
    }

    /// Looks and waits that a rule does not demand change with every look: they are for those who watch this elector.
    fn is_worth_telling(&mut self, shard: &ShardId, decision: &DecisionRecord) -> bool {
        let by = decision.blocked.as_ref().map(|blocked| blocked.by.clone());
        let is_told = match decision.action.as_str() {
            "nothing" | "reread" | "ask the witnesses" => false,
            "wait" => by.as_deref().is_some_and(|by| by != "BackingOff"),
            _ => true,
        };
        if !is_told {
            return false;
        }
        let key = (decision.action.clone(), decision.code.map(|code| code.name()), by);
        let of_shard = self.decided.entry(shard.clone()).or_default();
        of_shard.retain(|_, at| at.elapsed() < DECISION_QUIET);
        let is_new = !of_shard.contains_key(&key);
        if is_new {
            of_shard.insert(key, Instant::now());
        }
        is_new
    }

    /// Tells what log and board do not agree upon: after a restart, after events were lost, after another elector died.
    fn compare(&mut self) {
        self.said.retain(|_, (_, at)| at.elapsed() < SAID_FOR);
        if !self.queue.is_empty() || self.batch.is_some() || self.log.state().unread().is_some() {
            return;
        }
        let now = self.log.clock.now().wall;
        for (shard, problems) in self.board.problems() {
            let is_old = |since: SystemTime| now.duration_since(since).unwrap_or_default() >= COMPARE_EVERY;
            let mut there = Vec::new();
            for open in problems {
                let is_old = is_old(open.since);
                let told = tell(&Event { at: open.since, shard: shard.clone(), what: Happened::Opened(open.problem) });
                let Some(What::Opened(problem)) = &told.what else { continue };
                let key = problem_key(problem);
                there.push(key.clone());
                if is_old && !self.is_open(&shard, &key) {
                    self.say(shard.clone(), key, true, told);
                }
            }
            let logged: Vec<ProblemKey> = self.log.state().open_of(&shard).map(|(key, _)| key.clone()).collect();
            for key in logged.into_iter().filter(|key| !there.contains(key)) {
                if self.may_close(&shard, &key) {
                    let told = gone(&shard, &key, now);
                    self.say(shard.clone(), key, false, told);
                }
            }
        }
    }

    async fn write(&mut self) {
        let (key, bytes, count) = match self.batch.take() {
            Some(batch) => batch,
            None => self.next_batch(),
        };
        match self.log.kv.create(&key, bytes.clone(), None).await {
            // An earlier try was carried out and its answer lost.
            Ok(_) | Err(KvError::Exists { .. }) => {
                self.log.metrics.written(count as u64);
                (self.failures, self.is_loss_said) = (0, false);
                self.write_at = Instant::now() + WRITE_EVERY;
            }
            Err(error) => {
                if self.failures == 0 {
                    tracing::info!(%error, "events wait for being written into the log");
                }
                let pause = AGAIN_AFTER.saturating_mul(1 << self.failures.min(10)).min(AGAIN_AFTER_MAX);
                self.failures += 1;
                self.write_at = Instant::now() + pause;
                self.batch = Some((key, bytes, count));
            }
        }
    }

    fn next_batch(&mut self) -> (String, Vec<u8>, usize) {
        let (mut events, mut size) = (Vec::new(), 0);
        while let Some(next) = self.queue.front() {
            size += next.encoded_len();
            if events.len() >= BATCH_EVENTS_MAX || (!events.is_empty() && size > BATCH_BYTES_MAX) {
                break;
            }
            events.extend(self.queue.pop_front());
        }
        let key = self.log.keys.batch(self.log.clock.now().wall, rand::random());
        let count = events.len();
        (key, EventBatch { who: self.log.who.clone(), events }.encode_to_vec(), count)
    }
}

/// A problem that is over, of which no more is known than that.
fn gone(shard: &ShardId, key: &ProblemKey, now: SystemTime) -> pb::Event {
    let code = crate::diagnose::Code::ALL.iter().find(|code| code.name() == key.0);
    let problem = pb::Problem {
        keyspace: shard.keyspace.clone(),
        shard: shard.shard.clone(),
        code: key.0.clone(),
        priority: code.map(|code| super::head::priority_name(code.priority()).to_owned()).unwrap_or_default(),
        tablet_alias: key.1.as_ref().map(Into::into),
        why: "it is not there any more; when it went nobody saw".to_owned(),
        ..pb::Problem::default()
    };
    pb::Event {
        at: Some(crate::serve::calls::board::time(now)),
        keyspace: shard.keyspace.clone(),
        shard: shard.shard.clone(),
        what: Some(What::Closed(problem)),
        ..pb::Event::default()
    }
}
