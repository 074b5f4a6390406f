//! When a server is asked whether it refuses its clients, and what it said. Pure.
//!
//! `FullStatus` does not show `offline_mode`, so it takes a question of its own: seldom while nothing happens, soon and then less and less
//! often after something did, because a fence may take effect long after it was sent.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    shard::{OfflineMode, Seen},
    topo::TabletAlias,
};

/// Between two questions while nothing happens.
const SELDOM: Duration = Duration::from_secs(60);
/// After something happened, and while it refuses clients: with the next status.
const SOON: Duration = Duration::from_millis(500);
/// Within that time every tablet is asked for the first time, each at another moment.
const FIRST_WITHIN: Duration = Duration::from_secs(8);

/// What one server said, and when to ask it again.
#[derive(Debug, Default)]
pub(super) struct Offline {
    next: Option<Instant>,
    pause: Duration,
    /// When it was asked last, and since when it says that it refuses clients.
    said: Option<(Instant, Option<Instant>)>,
}

impl Offline {
    /// Whether it is to be asked now; whoever is told so asks.
    pub fn is_due(&mut self, alias: &TabletAlias, now: Instant) -> bool {
        let next = *self.next.get_or_insert_with(|| now + FIRST_WITHIN.mul_f64(place(alias)));
        let due = now >= next;
        if due {
            self.pause = if self.refuses() { SOON } else { (self.pause * 2).clamp(SOON, SELDOM) };
            self.next = Some(now + self.pause);
        }
        due
    }

    /// Something happened: it came back, or there is another primary.
    pub fn soon(&mut self, now: Instant) {
        (self.pause, self.next) = (SOON, Some(now + SOON));
    }

    /// Whether it said so last.
    pub fn refuses(&self) -> bool {
        matches!(self.said, Some((_, Some(_))))
    }

    /// What it said; whether that is news.
    pub fn said(&mut self, on: bool, sent: Instant) -> bool {
        if self.said.is_some_and(|(known, _)| known > sent) {
            return false;
        }
        let before = self.said.and_then(|(_, since)| since);
        self.said = Some((sent, on.then(|| before.unwrap_or(sent))));
        // How long it lasts decides as well.
        on || before.is_some()
    }

    /// As ages.
    pub fn view(&self, now: Instant) -> Option<Seen<OfflineMode>> {
        let age = |at: Instant| now.saturating_duration_since(at);
        let (asked, since) = self.said?;
        let what = since.map_or(OfflineMode::Off, |since| OfflineMode::On { since: age(since) });
        Some(Seen { what, age: age(asked) })
    }
}

/// From 0 to 1, another for each tablet.
fn place(alias: &TabletAlias) -> f64 {
    let mut hasher = DefaultHasher::new();
    alias.hash(&mut hasher);
    f64::from(u16::try_from(hasher.finish() >> 48).unwrap_or(0)) / f64::from(u16::MAX)
}
