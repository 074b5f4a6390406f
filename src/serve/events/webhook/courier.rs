//! Brings the log to one receiver, event by event in order: each until it was taken, by one elector at a time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        json::Printer,
        log::EventLog,
        stored::{self, Cursor, PLACES},
    },
    file::Receiver,
    post::{Failure, Message, Post},
    sign, template,
};
use crate::{
    pb::vtelector::Event,
    serve::events::webhook::template::Template,
    topo::{KvError, LeaseId, Version},
};

/// An elector that delivers and dies is out of the way after this.
pub const LEASE: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(4);
/// So much earlier than etcd we take a lease for over that was not kept alive.
const LEASE_RESERVE: Duration = Duration::from_secs(3);
/// How often an elector that does not deliver tries to, and one whose etcd fails.
const APPLY_EVERY: Duration = Duration::from_secs(5);
/// Events that are read from the log at once.
const PAGE_MAX: usize = 16;
/// What was taken is written down that often at most: so much is delivered again after a death.
const WRITE_DOWN_EVERY: Duration = Duration::from_secs(1);
/// The same for a failure that goes on.
const WRITE_FAILURE_EVERY: Duration = Duration::from_secs(60);
/// How often where it stands is written down anew while nothing happens: what nobody renews for days is pruned.
const RENEW_EVERY: Duration = Duration::from_secs(3600);
/// How often metrics are brought up to date while nothing happens.
const MEASURE_EVERY: Duration = Duration::from_secs(15);
/// At the end, how long it may take to write down what was taken.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pauses after failures that pass: the first, and the longest.
const PASSING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Pauses after failures that a person has to mend.
const LASTING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// Brings the log to one receiver.
pub struct Courier {
    /// To whom.
    pub receiver: Arc<Receiver>,
    /// What is brought.
    pub log: EventLog,
    /// How.
    pub post: Arc<dyn Post>,
    /// In what words.
    pub printer: Printer,
}

/// The right to deliver.
struct Term {
    lease: LeaseId,
    version: Version,
    ends: Instant,
}

/// Where a term stands.
struct Round {
    version: Version,
    cursor: Cursor,
    /// Whether etcd does not know it yet.
    is_dirty: bool,
    written_at: Option<Instant>,
}

/// The term is over: somebody else may deliver.
struct Lost;

impl Courier {
    /// Delivers whenever nobody else does, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let Some(Some(term)) = stop.run_until_cancelled(self.apply()).await else { break };
            tracing::info!(receiver = self.receiver.name, target = self.receiver.target, "this elector delivers events");
            let lease = term.lease;
            self.serve(term, &stop).await;
            self.log.inner.stands_nowhere(&self.receiver.name);
            self.log.inner.metrics.forget(&self.receiver.name);
            // Where etcd is away, it ends by itself.
            _ = timeout(FAREWELL, self.log.inner.kv.lease_revoke(lease)).await;
            // Whoever lost it lets the others go first.
            _ = stop.run_until_cancelled(sleep(APPLY_EVERY)).await;
        }
    }

    /// Waits until nobody delivers, and takes it over.
    async fn apply(&self) -> Option<Term> {
        let (inner, name) = (&self.log.inner, &self.receiver.name);
        let mut changes = self.log.changes();
        let mut tried: Option<Instant> = None;
        loop {
            changes.borrow_and_update();
            let is_free = {
                let state = inner.state();
                state.unread().is_none() && state.deliverer(name).is_none()
            };
            let may = tried.is_none_or(|at| at.elapsed() >= Duration::from_millis(500));
            if is_free && may {
                tried = Some(Instant::now());
                match self.take().await {
                    Ok(Some(term)) => return Some(term),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(receiver = name, %error, "events cannot be delivered now"),
                }
            }
            tokio::select! {
                changed = changes.changed() => changed.ok()?,
                () = sleep(APPLY_EVERY) => {}
            }
        }
    }

    async fn take(&self) -> Result<Option<Term>, KvError> {
        let inner = &self.log.inner;
        let asked = Instant::now();
        let lease = inner.kv.lease_grant(LEASE).await?;
        let key = inner.keys.deliverer(&self.receiver.name);
        match inner.kv.create(&key, inner.who.clone().into_bytes(), Some(lease)).await {
            Ok(version) => Ok(Some(Term { lease, version, ends: asked + LEASE })),
            Err(error) => {
                inner.kv.lease_revoke(lease).await?;
                match error {
                    KvError::Exists { .. } => Ok(None),
                    error => Err(error),
                }
            }
        }
    }

    async fn serve(&self, term: Term, stop: &CancellationToken) {
        let Term { lease, version, ends } = term;
        let mut round = Round { version, cursor: Cursor::default(), is_dirty: false, written_at: None };
        let is_over = tokio::select! {
            () = self.keep(lease, ends) => true,
            () = self.deposed() => true,
            Lost = self.deliver(&mut round) => true,
            () = stop.cancelled() => false,
        };
        if is_over {
            tracing::info!(receiver = self.receiver.name, "this elector delivers no more: its lease is over");
        } else if round.is_dirty {
            _ = timeout(FAREWELL, self.write_down(&mut round)).await;
        }
    }

    /// Keeps the term alive; returns when it is over.
    async fn keep(&self, lease: LeaseId, mut ends: Instant) {
        loop {
            sleep(KEEPALIVE_EVERY).await;
            let asked = Instant::now();
            let late = ends - LEASE_RESERVE;
            match tokio::time::timeout_at(late, self.log.inner.kv.lease_keepalive(lease)).await {
                Ok(Ok(life)) => ends = asked + life,
                Err(_) | Ok(Err(KvError::LeaseGone { .. })) => return,
                Ok(Err(_)) if Instant::now() >= late => return,
                Ok(Err(_)) => {}
            }
        }
    }

    /// Resolves when the log shows that the term, which it has shown, is over: sooner than the next keepalive would.
    async fn deposed(&self) {
        let mut changes = self.log.changes();
        let mut was_ours = false;
        loop {
            changes.borrow_and_update();
            let is_ours = self.log.inner.state().deliverer(&self.receiver.name) == Some(self.log.inner.who.as_str());
            if was_ours && !is_ours {
                return;
            }
            was_ours |= is_ours;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn deliver(&self, round: &mut Round) -> Lost {
        let (inner, receiver) = (&self.log.inner, &self.receiver);
        round.cursor = self.beginning().await;
        inner.stands_at(&receiver.name, round.cursor.sequence, &receiver.wanted);
        let mut changes = self.log.changes();
        loop {
            changes.borrow_and_update();
            self.count_lost(round);
            let (events, looked) = self.log.after(round.cursor.sequence, PAGE_MAX, |head| receiver.wanted.wants(head));
            for event in &events {
                self.until_taken(event, round).await;
                self.taken(round, event.sequence);
                let is_due = round.written_at.is_none_or(|at| at.elapsed() >= WRITE_DOWN_EVERY);
                if is_due && let Err(lost) = self.write_down(round).await {
                    return lost;
                }
            }
            if looked > round.cursor.sequence {
                self.taken(round, looked);
            }
            self.measure(round);
            if !events.is_empty() {
                continue;
            }
            round.is_dirty |= self.now_s().saturating_sub(round.cursor.at_s) >= RENEW_EVERY.as_secs();
            let write_at = round.written_at.map_or_else(Instant::now, |at| at + WRITE_DOWN_EVERY);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Lost },
                () = tokio::time::sleep_until(write_at), if round.is_dirty => {
                    if let Err(lost) = self.write_down(round).await {
                        return lost;
                    }
                }
                () = sleep(MEASURE_EVERY) => {}
            }
        }
    }

    /// Where the last deliverer stood. A receiver that is new is told what happens from now on.
    async fn beginning(&self) -> Cursor {
        let (inner, name) = (&self.log.inner, &self.receiver.name);
        let key = inner.keys.cursor(name);
        let listing = loop {
            match inner.kv.list(&key).await {
                Ok(listing) => break listing,
                Err(error) => tracing::debug!(receiver = name, %error, "where its delivery stands cannot be read"),
            }
            sleep(APPLY_EVERY).await;
        };
        let entry = listing.entries.iter().find(|entry| entry.key == key);
        let Some(mut cursor) = entry.and_then(|entry| serde_json::from_slice::<Cursor>(&entry.value).ok()) else {
            return Cursor { sequence: inner.newest(), ..Cursor::default() };
        };
        // etcd was put back to an older state: its revisions, and our numbers with them, begin again further back.
        if cursor.sequence / PLACES > u64::try_from(listing.revision).unwrap_or_default() {
            tracing::warn!(
                receiver = name,
                "etcd is older than what was delivered: everything in the log of events is delivered again"
            );
            cursor = Cursor::default();
        }
        let floor = self.log.floor();
        if cursor.sequence > 0 && floor > cursor.sequence {
            // How many is not to be known any more: nobody delivered when they went.
            inner.metrics.lost(name, 1);
            tracing::warn!(receiver = name, "events left the log before this receiver had taken them");
            cursor.sequence = floor;
        }
        cursor
    }

    fn count_lost(&self, round: &mut Round) {
        let (lost, floor) = self.log.inner.overtaken(&self.receiver.name, round.cursor.sequence);
        if lost > 0 {
            self.log.inner.metrics.lost(&self.receiver.name, lost);
            tracing::warn!(receiver = self.receiver.name, lost, "events left the log before this receiver had taken them");
        }
        if floor > round.cursor.sequence {
            self.taken(round, floor);
        }
    }

    fn taken(&self, round: &mut Round, sequence: u64) {
        round.cursor = Cursor { sequence, at_s: round.cursor.at_s, ..Cursor::default() };
        round.is_dirty = true;
        self.log.inner.stands_at(&self.receiver.name, sequence, &self.receiver.wanted);
    }

    /// Tries until the receiver has taken it, or it has left the log.
    async fn until_taken(&self, event: &Event, round: &mut Round) {
        let name = &self.receiver.name;
        let Some(body) = self.body(event) else { return };
        let mut failures = 0;
        let mut said_at: Option<Instant> = None;
        while self.log.floor() < event.sequence {
            let failure = match self.post.post(&self.message(event, &body)).await {
                Ok(()) => {
                    self.log.inner.metrics.delivered(name);
                    if failures > 0 {
                        tracing::info!(receiver = name, failures, "it takes events again");
                    }
                    return;
                }
                Err(failure) => failure,
            };
            self.log.inner.metrics.failed(name, failure.reason);
            if failures == 0 {
                tracing::info!(receiver = name, error = %failure, sequence = event.sequence, "an event was not taken: it is tried again");
            }
            failures += 1;
            (round.cursor.failures, round.cursor.error) = (failures, failure.text.clone());
            if said_at.is_none_or(|at| at.elapsed() >= WRITE_FAILURE_EVERY) {
                said_at = Some(Instant::now());
                // Only for those who look: whether the term is still ours comes out at the next thing that was taken.
                _ = self.write_down(round).await;
            }
            self.rest(pause(&failure, failures, rand::random()), round).await;
        }
    }

    async fn rest(&self, pause: Duration, round: &Round) {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.measure(round);
            tokio::time::sleep_until(end.min(Instant::now() + MEASURE_EVERY)).await;
        }
    }

    fn body(&self, event: &Event) -> Option<Vec<u8>> {
        let value = match self.receiver.template {
            Template::Slack => Ok(template::slack(event)),
            Template::PagerDuty => {
                let key = self.receiver.secret.as_ref().map_or("", |secret| secret.0.as_str());
                Ok(template::pagerduty(event, key)?)
            }
            Template::Json => self.printer.value(event),
        };
        match value {
            Ok(value) => Some(value.to_string().into_bytes()),
            Err(error) => {
                tracing::warn!(receiver = self.receiver.name, %error, "an event is left out");
                None
            }
        }
    }

    fn message(&self, event: &Event, body: &[u8]) -> Message {
        let at_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // PagerDuty's key stands in the body, and Slack knows no signature.
        let secret = self.receiver.secret.as_ref().filter(|_| self.receiver.template == Template::Json);
        Message {
            body: body.to_vec().into(),
            sequence: event.sequence,
            id: event.id.clone(),
            signature: secret.map(|secret| sign::signature(secret, at_s, body)),
        }
    }

    /// Writes down where we stand, while the term is ours.
    async fn write_down(&self, round: &mut Round) -> Result<(), Lost> {
        let (inner, name) = (&self.log.inner, &self.receiver.name);
        let (guard, key) = (inner.keys.deliverer(name), inner.keys.cursor(name));
        round.written_at = Some(Instant::now());
        let cursor = Cursor { at_s: self.now_s(), ..round.cursor.clone() };
        match inner.kv.put_guarded((&guard, round.version), &key, stored::encode(&cursor)).await {
            Ok(Some(_)) => {
                (round.is_dirty, round.cursor.at_s) = (false, cursor.at_s);
                Ok(())
            }
            Ok(None) => Err(Lost),
            // Delivery goes on while the lease does; the next write tries again.
            Err(error) => {
                tracing::debug!(receiver = name, %error, "what was delivered was not written down");
                Ok(())
            }
        }
    }

    fn now_s(&self) -> u64 {
        stored::ms_of(self.log.inner.clock.now().wall) / 1000
    }

    fn measure(&self, round: &Round) {
        let (inner, name) = (&self.log.inner, &self.receiver.name);
        let pending = inner.state().pending(round.cursor.sequence, &self.receiver.wanted);
        let now_s = stored::ms_of(inner.clock.now().wall) as f64 / 1000.0;
        let lag_s = pending.oldest_s.map_or(0.0, |oldest_s| (now_s - oldest_s as f64).max(0.0));
        inner.metrics.pending(name, pending.count, lag_s);
    }
}

/// How long to wait after that many failures in a row; `chance` spreads those who failed together.
fn pause(failure: &Failure, failures: u64, chance: u8) -> Duration {
    let (first, longest) = if failure.is_passing { PASSING } else { LASTING };
    let doubled = first.saturating_mul(1 << (failures - 1).min(16)).min(longest);
    let spread = doubled.mul_f64(0.5 + f64::from(chance) / 512.0);
    spread.max(failure.retry_after.unwrap_or_default())
}
