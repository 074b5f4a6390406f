//! The highest position seen on a declared primary, and whether its clients' commits were safe with an acker then (safety rules, section 4).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    elect::SeenPrimary,
    mysql::{GtidSet, Position},
    shard::TabletStatus,
    topo::TabletAlias,
};

/// A source that gives up waiting sooner than that may have committed without an acknowledgement.
const TIMEOUT_MIN: Duration = Duration::from_secs(3600);
/// What `FullStatus` does not show of semi-sync is believed for that long; it is read more often.
const SETTINGS_FRESH: Duration = Duration::from_secs(180);

/// What was seen of one primary.
#[derive(Debug, Default)]
pub(super) struct Seen {
    of: Option<TabletAlias>,
    /// When its other semi-sync settings were last seen to be right.
    settings: Option<Instant>,
    safe: Option<Arc<GtidSet>>,
    any: Option<Arc<GtidSet>>,
}

impl Seen {
    /// Somebody else is primary: what was seen of the last one counts no more.
    pub fn begin(&mut self, primary: &TabletAlias) {
        if self.of.as_ref() != Some(primary) {
            *self = Self { of: Some(primary.clone()), ..Self::default() };
        }
    }

    /// Whether AFTER_SYNC and wait_no_replica were found as they have to be.
    pub fn settings(&mut self, primary: &TabletAlias, are_right: bool, at: Instant) {
        if self.of.as_ref() == Some(primary) {
            self.settings = are_right.then_some(at);
        }
    }

    /// A status of the primary.
    pub fn status(&mut self, status: &TabletStatus, at: Instant) {
        let Some(executed) = status.executed.clone().filter(|_| !status.read_only && status.replication.is_none()) else {
            return;
        };
        let fresh = self.settings.is_some_and(|seen| at.saturating_duration_since(seen) < SETTINGS_FRESH);
        let waits = Duration::from_millis(status.semi_sync_timeout_ms) > TIMEOUT_MIN;
        if fresh && waits && status.semi_sync_primary_enabled && status.semi_sync_primary_active {
            grow(&mut self.safe, &executed);
        }
        grow(&mut self.any, &executed);
    }

    /// What an emergency reparent away from it has to find again; where nothing binds, what it may report as lost.
    pub fn position(&self) -> Option<(TabletAlias, SeenPrimary)> {
        let (set, binding) = self.safe.as_ref().map(|safe| (safe, true)).or(self.any.as_ref().map(|any| (any, false)))?;
        Some((self.of.clone()?, SeenPrimary { position: Position::Gtid(GtidSet::clone(set)), binding }))
    }
}

/// What was acknowledged stays so, also where its server lost it.
fn grow(known: &mut Option<Arc<GtidSet>>, executed: &Arc<GtidSet>) {
    match known {
        Some(known) if !executed.contains(known) => *known = Arc::new(known.union(executed)),
        _ => *known = Some(executed.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::decode::Decoder;

    const U: &str = "aaaaaaaa-0000-0000-0000-000000000001";

    fn status(last: u64, active: bool) -> TabletStatus {
        let answer = crate::pb::replicationdata::FullStatus {
            primary_status: Some(crate::pb::replicationdata::PrimaryStatus {
                position: format!("MySQL56/{U}:1-{last}"),
                ..Default::default()
            }),
            semi_sync_primary_enabled: true,
            semi_sync_primary_status: active,
            semi_sync_primary_timeout: 1_000_000_000_000_000_000,
            ..Default::default()
        };
        Decoder::default().next(answer).status
    }

    fn seen(seen: &Seen) -> (String, bool) {
        let (_, SeenPrimary { position, binding }) = seen.position().unwrap();
        (position.to_string().rsplit(':').next().unwrap().to_owned(), binding)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_an_acker_certainly_has_binds() {
        let (mut primary, start, alias) = (Seen::default(), Instant::now(), "z1-100".parse().unwrap());
        primary.begin(&alias);
        primary.status(&status(5, true), start);
        assert_eq!(seen(&primary), ("1-5".into(), false), "AFTER_SYNC was not seen");
        primary.settings(&alias, true, start);
        primary.status(&status(6, true), start);
        assert_eq!(seen(&primary), ("1-6".into(), true));
        primary.status(&status(9, false), start);
        assert_eq!(seen(&primary), ("1-6".into(), true), "semi-sync had fallen back");
        let later = start + SETTINGS_FRESH;
        primary.status(&status(12, true), later);
        assert_eq!(seen(&primary), ("1-6".into(), true), "the settings may have changed since");
        primary.status(&status(3, false), later);
        primary.settings(&alias, true, later);
        primary.status(&status(4, true), later);
        assert_eq!(seen(&primary), ("1-6".into(), true), "its positions went backwards: what was acknowledged stays so");
        primary.begin(&"z1-101".parse().unwrap());
        assert!(primary.position().is_none());
    }
}
