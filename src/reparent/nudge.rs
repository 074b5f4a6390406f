//! Waking the old primary's acknowledgement receiver.
//!
//! Inside a demotion MySQL switches its side of semi-sync off, and that waits for a receiver which sleeps up to a second in a poll on
//! the replicas' connections. The poll wakes when any of them closes. Nothing is promoted before the demotion has answered, so no
//! guarantee depends on what is done here. Only a replica that is not needed is stopped: without the elect's acknowledgement a commit
//! under way would hang, the demotion behind it, and the elect's own login behind the demotion. A shard of two takes the second.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::dba::{IS_SUPER_READ_ONLY, START_IO, STOP_IO, first_row};
use crate::{
    pb::topodata::Tablet,
    tablet::{Call, TabletManager},
};

/// A demotion that nothing holds up has answered by then, or sleeps in that poll.
const NUDGE_AFTER: Duration = Duration::from_millis(15);
/// A demotion that slept in that poll answers within this time of the nudge.
const NUDGE_EFFECT: Duration = Duration::from_millis(40);
/// A server that does not say within this time whether it is read-only holds the lock that the poll is waited for under.
const PROBE_LIMIT: Duration = Duration::from_millis(40);
/// Pauses between two looks at a server whose running transactions are being finished: from, to.
const PROBE_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(80));
/// How often it is tried; after that the demotion takes the time it takes.
const NUDGES_MAX: u32 = 3;

/// One demotion's nudges.
pub(super) struct Nudge {
    pub tablets: Arc<dyn TabletManager>,
    pub old: Tablet,
    /// A replica that is not needed: its IO thread is stopped, and left so until it is re-pointed.
    pub spare: Tablet,
    pub call: Call,
    /// Cancelled when the demotion has answered.
    pub answered: CancellationToken,
}

impl Nudge {
    /// Ends soon after the demotion has answered.
    pub async fn run(self) {
        if self.answers_within(NUDGE_AFTER).await {
            return;
        }
        // The first nudge costs nothing when it comes too early; every other one waits for its moment.
        let mut connected = true;
        for nudge in 0..NUDGES_MAX {
            let answered = nudge > 0 && self.waits_for_the_poll(&mut connected).await.is_none();
            if answered || !connected {
                return;
            }
            self.statement(STOP_IO).await;
            connected = false;
            if self.answers_within(NUDGE_EFFECT).await {
                return;
            }
        }
    }

    /// Resolves when the old primary is read-only and does not answer further questions; `None` when the demotion has answered. While
    /// it is still writable, the replica that was stopped too early is connected again.
    async fn waits_for_the_poll(&self, connected: &mut bool) -> Option<()> {
        let mut pause = PROBE_PAUSES.0;
        loop {
            let read_only = self.tablets.execute_fetch_as_dba(&self.old, IS_SUPER_READ_ONLY, 1, self.call);
            let said = tokio::select! {
                biased;
                () = self.answered.cancelled() => return None,
                said = timeout(PROBE_LIMIT, read_only) => said,
            };
            match said {
                Ok(Ok(row)) if first_row(&row).first().is_some_and(|value| value == "0") => {}
                _ => return Some(()),
            }
            if !*connected {
                self.statement(START_IO).await;
                *connected = true;
            }
            if self.answers_within(pause).await {
                return None;
            }
            pause = (pause * 2).min(PROBE_PAUSES.1);
        }
    }

    async fn answers_within(&self, wait: Duration) -> bool {
        timeout(wait, self.answered.cancelled()).await.is_ok()
    }

    /// A nudge that fails costs time and nothing else.
    async fn statement(&self, sql: &str) {
        if let Err(error) = self.tablets.execute_fetch_as_dba(&self.spare, sql, 1, self.call).await {
            tracing::debug!(%error, sql, "a nudge failed");
        }
    }
}
