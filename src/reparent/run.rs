//! One operation while it runs: its lock, its caller, what it has said.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::{Decision, DieAt, Edge, Gate, Hands, ReparentError, ReparentEvent, Step, journal::Journal};
use crate::{
    tablet::Call,
    topo::{LockLost, LockOr, ShardId, ShardLock, TabletAlias},
    traces::Steps,
};

/// A step that cannot be undone is sent only while the lease is certain to live longer than this.
const LEASE_RESERVE: Duration = Duration::from_secs(1);
/// Lines kept of one operation.
const EVENTS_MAX: usize = 500;
/// How often a write of the journal is tried while the store fails.
const INTENT_ATTEMPTS: u32 = 3;
/// Pause between two tries of the same call.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// One operation on one shard.
pub(super) struct Run {
    pub hands: Hands,
    pub shard: ShardId,
    /// What the lock says is going on.
    pub action: String,
    /// Cancelled when the caller has gone away.
    pub cancel: CancellationToken,
    pub events: Vec<ReparentEvent>,
    pub locked_at: Option<Instant>,
    /// Steps that ended, in order, each with its duration.
    pub steps: Vec<(Step, Duration)>,
    /// What was decided.
    pub decision: Option<Decision>,
    /// The same steps, for whoever collects traces.
    pub trace: Steps,
    /// Asked when the lock is had, before anything is done.
    pub gate: Option<Gate>,
    edge_at: Instant,
    /// When the demotion was sent.
    pub demoted_at: Option<Instant>,
    /// Replicas whose `replica_net_timeout` has to be set back, and to how many seconds; every journal of this run says so.
    pub shortened: BTreeMap<TabletAlias, u32>,
    lock: Option<ShardLock>,
    /// Statements of ours that may still be under way, and take no lock on the tablet's side: what is sent after them must wait for them.
    under_way: BTreeMap<TabletAlias, Vec<CancellationToken>>,
    /// Cancelled when the lock is given back.
    pub unlocked: CancellationToken,
    /// Cancelled when the change of primary is given up: what could not be sent until then is not sent any more.
    pub given_up: CancellationToken,
}

impl Run {
    pub fn new(hands: Hands, shard: ShardId, cancel: CancellationToken) -> Self {
        Self {
            hands,
            shard,
            action: String::new(),
            cancel,
            events: Vec::new(),
            locked_at: None,
            steps: Vec::new(),
            decision: None,
            trace: Steps::default(),
            gate: None,
            edge_at: Instant::now(),
            demoted_at: None,
            shortened: BTreeMap::new(),
            lock: None,
            under_way: BTreeMap::new(),
            unlocked: CancellationToken::new(),
            given_up: CancellationToken::new(),
        }
    }

    /// Notes that something is sent to a tablet; it has ended when the guard is dropped.
    pub fn begin(&mut self, alias: &TabletAlias) -> DropGuard {
        let ended = CancellationToken::new();
        self.under_way.entry(alias.clone()).or_default().push(ended.clone());
        ended.drop_guard()
    }

    /// Resolves when all that was sent to a tablet has ended. Each has its own limit.
    pub fn ended(&self, alias: &TabletAlias) -> impl Future<Output = ()> + Send + use<> {
        let tokens = self.under_way.get(alias).cloned().unwrap_or_default();
        async move {
            for token in tokens {
                token.cancelled().await;
            }
        }
    }

    /// Says a line to the caller and the log.
    pub fn say(&mut self, text: impl Into<String>) {
        self.event(false, text.into());
    }

    /// Says a line that a person should look at.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.event(true, text.into());
    }

    fn event(&mut self, warning: bool, text: String) {
        if warning {
            tracing::warn!(shard = %self.shard, "{text}");
        } else {
            tracing::info!(shard = %self.shard, "{text}");
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push(ReparentEvent { at: SystemTime::now(), warning, text });
        }
    }

    /// Says for how long nobody could write, and where that time went.
    pub fn say_pause(&mut self) {
        let Some(since) = self.demoted_at.take() else { return };
        let during = |step: &Step| matches!(step, Step::Demote | Step::Stop | Step::Apply | Step::Promote);
        let parts = self.steps.iter().filter(|(step, _)| during(step));
        let parts = parts.map(|(step, took)| format!("{step} {} ms", took.as_millis())).collect::<Vec<_>>().join(", ");
        self.say(format!("no writes for about {} ms ({parts})", since.elapsed().as_millis()));
    }

    /// Takes the shard lock.
    pub async fn lock(&mut self, action: String) -> Result<(), ReparentError> {
        let waiting = self.trace.lock();
        let locked = self.hands.topo.lock_shard(&self.shard, &action, self.hands.settings.lock_timeout);
        let lock = locked.instrument(waiting).await?;
        self.trace.begin();
        self.action = action;
        self.locked_at.get_or_insert_with(Instant::now);
        self.lock = Some(lock);
        self.take_over_timeouts().await;
        let Some(gate) = self.gate.take() else { return Ok(()) };
        if let Err(reason) = gate().await {
            self.unlock().await;
            return Err(ReparentError::NotDue { shard: self.shard.clone(), reason });
        }
        Ok(())
    }

    /// Gives the lock back; a lock that was lost at the very end is worth a line, not an error.
    pub async fn unlock(&mut self) {
        self.unlocked.cancel();
        if let Some(lock) = self.lock.take()
            && let Err(lost) = lock.unlock().await
        {
            self.warn(format!("{lost}, though it was needed no more"));
        }
    }

    fn held(&self) -> Result<&ShardLock, LockLost> {
        let lost = || LockLost { shard: self.shard.clone(), reason: "it is not held".to_owned() };
        self.lock.as_ref().ok_or_else(lost)
    }

    /// Asks etcd whether the lock is still ours.
    pub async fn verify(&self) -> Result<(), ReparentError> {
        Ok(self.held()?.verify().await?)
    }

    /// Whether the lock is certain to be ours still.
    pub fn is_locked(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| !lock.valid_for().is_zero())
    }

    /// Resolves when the lock is lost.
    pub async fn lost(&self) -> LockLost {
        match self.held() {
            Ok(lock) => lock.lost().await,
            Err(lost) => lost,
        }
    }

    /// Takes the lock again after it was lost.
    pub async fn lock_again(&mut self) -> Result<(), ReparentError> {
        self.lock = None;
        self.lock(self.action.clone()).await
    }

    /// Writes down what is about to be done, in one transaction with the proof that the lock is ours.
    pub async fn intend(&self, step: Step, journal: &Journal) -> Result<(), ReparentError> {
        let lock = self.held()?;
        let journal = journal.with_timeouts(&self.shortened);
        let (key, value) = (Journal::key(&self.hands.settings.ledger_root, &self.shard), journal.encode());
        let mut attempt = 1;
        loop {
            match lock.put_guarded(&key, value.clone()).await {
                Ok(()) => return Ok(()),
                Err(LockOr::Lost(lost)) => return Err(lost.into()),
                Err(source) if attempt == INTENT_ATTEMPTS => return Err(ReparentError::Intent { step: step.name(), source }),
                Err(_) => attempt += 1,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A call under this lock with that limit.
    pub fn call(&self, timeout: Duration) -> Call {
        Call { timeout, lock_revision: self.lock.as_ref().map(ShardLock::revision) }
    }

    /// A call under this lock with the remote-operation timeout.
    pub fn short(&self) -> Call {
        self.call(self.remote())
    }

    /// The remote-operation timeout.
    pub fn remote(&self) -> Duration {
        self.hands.settings.remote_operation_timeout
    }

    /// A call that cannot be undone: it ends while the lease is certain to live.
    pub async fn call_within_lease(&self) -> Result<Call, ReparentError> {
        let lock = self.held()?;
        if lock.valid_for() <= LEASE_RESERVE {
            lock.verify().await?;
        }
        let left = lock.valid_for();
        if left <= LEASE_RESERVE {
            let reason = format!("its lease is certain for {} ms more, too short for the next step", left.as_millis());
            return Err(LockLost { shard: self.shard.clone(), reason }.into());
        }
        Ok(self.call(self.remote().min(left)))
    }

    /// Waits for something that may be given up: when the caller goes away, or the lock is lost.
    pub async fn interruptible<T>(&self, elect: &TabletAlias, work: impl Future<Output = T>) -> Result<T, ReparentError> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            lost = self.lost() => Err(lost.into()),
            () = self.cancel.cancelled() => Err(ReparentError::Cancelled { elect: elect.clone() }),
        }
    }

    /// An edge of a step: where a test may let the process die.
    pub async fn edge(&mut self, step: Step, edge: Edge) {
        let now = Instant::now();
        let since = now - std::mem::replace(&mut self.edge_at, now);
        if edge == Edge::After {
            self.steps.push((step, since));
            self.trace.ended(step);
        }
        if self.hands.settings.die_at == Some(DieAt { step, edge }) {
            tracing::error!(shard = %self.shard, %step, ?edge, "dying here as VTELECTOR_DIE_AT demands");
            die().await;
        }
    }
}

/// Ends the process as a crash would. A unit test goes on without this run instead.
async fn die() {
    if cfg!(test) {
        std::future::pending::<()>().await;
    }
    std::process::abort();
}

/// The wall clock, for records only.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
