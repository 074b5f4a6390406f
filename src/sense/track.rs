//! What one way of asking has brought, by the times at which the questions were sent. Pure.

use tokio::time::Instant;

use crate::shard::{Channel, Failing, FailureClass};

/// The answers and failures of one way of asking. Questions overlap; what counts is the latest sent one that has ended.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// When the last answered question was sent.
    good: Option<Instant>,
    failing: Option<Row>,
}

/// An unbroken row of failures.
#[derive(Debug)]
struct Row {
    began: Instant,
    last: Instant,
    /// When the last failed question was sent.
    sent: Instant,
    class: FailureClass,
    words: String,
    count: u32,
}

impl Track {
    /// A question was answered. Says whether that ends a row of failures, or begins the first good time.
    pub fn good(&mut self, sent: Instant) -> bool {
        let first = self.good.is_none();
        self.good = self.good.max(Some(sent));
        let ends = self.failing.as_ref().is_some_and(|row| row.sent <= sent);
        if ends {
            self.failing = None;
        }
        first || ends
    }

    /// A question failed. Says whether that is news: a row begins, or it fails in another way now.
    pub fn failed(&mut self, sent: Instant, now: Instant, class: FailureClass, words: &str) -> bool {
        // A later question was answered already.
        if self.good.is_some_and(|good| good > sent) {
            return false;
        }
        let Some(row) = &mut self.failing else {
            self.failing = Some(Row { began: now, last: now, sent, class, words: words.to_owned(), count: 1 });
            return true;
        };
        row.count = row.count.saturating_add(1);
        row.last = now;
        if sent < row.sent {
            return false;
        }
        let other = row.class != class;
        (row.sent, row.class) = (sent, class);
        if row.words != words {
            words.clone_into(&mut row.words);
        }
        other
    }

    /// When the last answered question was sent.
    pub fn last_good(&self) -> Option<Instant> {
        self.good
    }

    /// Since when it fails, if it does.
    pub fn failing_since(&self) -> Option<Instant> {
        self.failing.as_ref().map(|row| row.began)
    }

    /// As ages.
    pub fn view(&self, now: Instant) -> Channel {
        let age = |at: Instant| now.saturating_duration_since(at);
        Channel {
            last_good: self.good.map(age),
            failing: self.failing.as_ref().map(|row| Failing {
                since: age(row.began),
                last: age(row.last),
                class: row.class,
                words: row.words.clone(),
                count: row.count,
            }),
        }
    }
}
