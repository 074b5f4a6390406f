//! What was tried on a shard and did not help: each further attempt waits longer.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::decide::{ProblemKey, Tried};
use crate::diagnose::Problem;

/// Wait after a first attempt that did not help; it doubles with each further one ...
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// ... up to this.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Attempts after which a person should look.
pub(super) const RAISED_AFTER: u32 = 3;
/// A problem that stays away so long is a new one when it comes back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// Attempts at problems, by problem.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<ProblemKey, Attempts>);

#[derive(Debug)]
struct Attempts {
    times: u32,
    next: Instant,
    outcome: String,
    seen: Instant,
}

impl Memory {
    /// Notes an attempt that has ended and after which the problem may still be there; answers how many it were.
    pub fn tried(&mut self, key: ProblemKey, outcome: String, now: Instant, longest: Duration) -> u32 {
        let attempts = self.0.entry(key).or_insert(Attempts { times: 0, next: now, outcome: String::new(), seen: now });
        attempts.times += 1;
        attempts.next = now + BACKOFF_MIN.saturating_mul(1 << (attempts.times - 1).min(16)).min(longest);
        attempts.outcome = outcome;
        attempts.seen = now;
        attempts.times
    }

    /// Notes that an attempt has to wait for something else: it does not count.
    pub fn later(&mut self, key: ProblemKey, reason: String, now: Instant) {
        let attempts = self.0.entry(key).or_insert(Attempts { times: 0, next: now, outcome: String::new(), seen: now });
        (attempts.next, attempts.outcome, attempts.seen) = (now + BACKOFF_MIN, reason, now);
    }

    /// Notes that another tablet is primary now. What befell this one is over: it is a new event when it is primary once more, and too many
    /// of them are the ledger's business.
    pub fn moved(&mut self, key: ProblemKey, now: Instant) {
        self.0.retain(|(_, tablet), _| *tablet != key.1);
        self.later(key, "done".to_owned(), now);
    }

    /// Forgets what is mended: the problems of now keep their history, the others lose it after a while.
    pub fn keep(&mut self, problems: &[Problem], now: Instant) {
        for problem in problems {
            if let Some(attempts) = self.0.get_mut(&(problem.code, problem.tablet.clone())) {
                attempts.seen = now;
            }
        }
        self.0.retain(|_, attempts| now.saturating_duration_since(attempts.seen) < FORGOTTEN_AFTER);
    }

    /// For the decision.
    pub fn standing(&self, now: Instant) -> BTreeMap<ProblemKey, Tried> {
        let tried = |attempts: &Attempts| Tried {
            times: attempts.times,
            again_in: attempts.next.saturating_duration_since(now),
            outcome: attempts.outcome.clone(),
        };
        self.0.iter().map(|(key, attempts)| (key.clone(), tried(attempts))).collect()
    }
}
