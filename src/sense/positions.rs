//! Whether what a server has executed only ever grows. Pure.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    mysql::{GtidSet, ServerUuid},
    shard::TabletStatus,
};

/// What one server had, and has no more: its binary logs were reset, or its data was replaced by older one.
#[derive(Debug, Default)]
pub(super) struct Positions {
    last: Option<Last>,
    vanished: Arc<GtidSet>,
}

#[derive(Debug)]
struct Last {
    server: Option<ServerUuid>,
    executed: Arc<GtidSet>,
    /// Questions overlap: what was asked before this was answered may have been read earlier.
    answered: Instant,
}

impl Positions {
    /// Takes in the next answer. Says whether something vanished, or what had vanished is back.
    pub fn told(&mut self, sent: Instant, now: Instant, status: &TabletStatus) -> bool {
        let Some(executed) = &status.executed else { return false };
        let server = status.server_uuid;
        let before = match self.last.take() {
            // Another server never had what the one before it had.
            Some(last) if last.server != server => {
                self.vanished = Arc::default();
                None
            }
            Some(last) if sent < last.answered => {
                self.last = Some(last);
                return false;
            }
            last => last,
        };
        let was_empty = self.vanished.is_empty();
        if let Some(last) = before.filter(|last| !Arc::ptr_eq(&last.executed, executed)) {
            if !executed.contains(&last.executed) {
                self.vanished = Arc::new(self.vanished.union(&last.executed.subtract(executed)));
            } else if !was_empty {
                self.vanished = Arc::new(self.vanished.subtract(executed));
            }
        }
        self.last = Some(Last { server, executed: executed.clone(), answered: now });
        was_empty != self.vanished.is_empty()
    }

    /// What its server had, and has not got back.
    pub fn vanished(&self) -> Arc<GtidSet> {
        self.vanished.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        pb::replicationdata::{FullStatus, PrimaryStatus},
        sense::decode::Decoder,
    };

    const A: &str = "aaaaaaaa-0000-0000-0000-000000000001";
    const B: &str = "bbbbbbbb-0000-0000-0000-000000000002";

    /// A server's answers, each asked a second after the other and answered at once.
    struct Told {
        positions: Positions,
        at: Instant,
    }

    impl Told {
        fn next(&mut self, server: &str, executed: &str) -> String {
            self.at += Duration::from_secs(1);
            self.asked(self.at, server, executed)
        }

        fn asked(&mut self, sent: Instant, server: &str, executed: &str) -> String {
            let position = if executed.is_empty() { "MySQL56/".to_owned() } else { format!("MySQL56/{A}:{executed}") };
            let primary_status = Some(PrimaryStatus { position, ..PrimaryStatus::default() });
            let answer = FullStatus { server_uuid: server.to_owned(), primary_status, ..FullStatus::default() };
            let news = self.positions.told(sent, self.at, &Decoder::default().next(answer).status);
            let vanished = self.positions.vanished().to_string();
            let vanished = vanished.rsplit(':').next().unwrap_or_default();
            format!("{vanished}{}", if news { " news" } else { "" })
        }
    }

    #[test]
    fn what_a_server_had_is_missed_until_it_is_back() {
        let mut told = Told { positions: Positions::default(), at: Instant::now() };
        assert_eq!(told.next(A, "1-5"), "");
        assert_eq!(told.next(A, "1-9"), "");
        assert_eq!(told.next(A, ""), "1-9 news", "its binary logs were reset");
        assert_eq!(told.next(A, "1-3"), "4-9", "it copies them again");
        assert_eq!(told.next(A, "1-2"), "3-9", "once more");
        assert_eq!(told.next(A, "1-12"), " news");
    }

    #[test]
    fn another_server_and_an_older_look_miss_nothing() {
        let mut told = Told { positions: Positions::default(), at: Instant::now() };
        told.next(A, "1-5");
        assert_eq!(told.next(B, "1-3"), "", "another server");
        let earlier = told.at - Duration::from_millis(1);
        assert_eq!(told.asked(earlier, B, "1-2"), "", "it was asked before the last answer came");
        assert_eq!(told.next(B, "1-4"), "");
    }
}
