//! Errant GTIDs, judged from what the sensors bring: each replica's answer is compared with the primary's next one.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use super::observed::Observed;
use crate::{
    diagnose::errant::{DeclaredPrimary, Evidence, Look, PrimaryFacts, Unknown, judge},
    metrics::Metrics,
    mysql::GtidSet,
    shard::TabletStatus,
    topo::{ShardId, TabletAlias},
};

/// Longest set in a log line, in characters.
const LOGGED_SET_MAX: usize = 500;

/// Which tablets a report is about; empty names = all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrantFilter {
    /// Only this keyspace.
    pub keyspace: String,
    /// Only this shard of it.
    pub shard: String,
}

impl ErrantFilter {
    pub(super) fn includes(&self, shard: &ShardId) -> bool {
        (self.keyspace.is_empty() || self.keyspace == shard.keyspace) && (self.shard.is_empty() || self.shard == shard.shard)
    }
}

/// What is known of one tablet; never the primary, which has no errant transactions by definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TabletReport {
    /// The tablet.
    pub alias: TabletAlias,
    /// Its shard.
    pub shard: ShardId,
    /// The last judgement, however old; none when there never was one.
    pub verdict: Option<ErrantVerdict>,
    /// Why the last look came to no judgement, if it did not: the verdict is then stale.
    pub unknown: Option<Unknown>,
}

/// A judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrantVerdict {
    /// The errant transactions; empty = clean.
    pub errant: Arc<GtidSet>,
    /// The primary that does not have them.
    pub against: TabletAlias,
    /// When the tablet was looked at.
    pub at: Instant,
}

/// What is known of one tablet's errant transactions. Log lines and metrics are made here, so that they say the same.
#[derive(Debug)]
pub(super) struct Errant {
    is_primary: bool,
    verdict: Option<ErrantVerdict>,
    unknown: Option<Unknown>,
    /// What stood out in the last look that was judged.
    stood_out: Option<GtidSet>,
    /// An answer of the tablet that waits for the primary's next one.
    pending: Option<Pending>,
    /// What the metrics say: how many, and whether that is old.
    shown: Option<(Option<u128>, bool)>,
}

impl Default for Errant {
    fn default() -> Self {
        let unknown = Some(Unknown::NotYet);
        Self { is_primary: false, verdict: None, unknown, stood_out: None, pending: None, shown: None }
    }
}

/// An answer of a tablet.
#[derive(Debug)]
struct Pending {
    /// Whom the topology named when it was asked.
    under: Arc<DeclaredPrimary>,
    sent: Instant,
    answered: Instant,
}

/// Where a tablet stands, for lines and labels.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub shard: &'a ShardId,
    pub alias: &'a TabletAlias,
    pub metrics: &'a Metrics,
}

impl Errant {
    /// As last judged, however long ago; `None` = never.
    pub fn known(&self) -> Option<Arc<GtidSet>> {
        self.verdict.as_ref().map(|verdict| verdict.errant.clone())
    }

    /// Whether something stood out, so that the primary has to say whether commits wait there.
    pub fn is_suspected(&self) -> bool {
        self.stood_out.as_ref().is_some_and(|set| !set.is_empty())
    }

    /// For a report; `None` for the primary.
    pub fn report(&self, place: Place<'_>) -> Option<TabletReport> {
        let (alias, shard) = (place.alias.clone(), place.shard.clone());
        (!self.is_primary).then(|| TabletReport { alias, shard, verdict: self.verdict.clone(), unknown: self.unknown.clone() })
    }

    /// The tablet was asked under that primary and has answered.
    pub fn looked_at(&mut self, under: Arc<DeclaredPrimary>, sent: Instant, answered: Instant) {
        self.pending = Some(Pending { under, sent, answered });
    }

    /// Nothing can be said now.
    pub fn set_unknown(&mut self, place: Place<'_>, why: Unknown) {
        self.pending = None;
        (self.is_primary, self.unknown) = (false, Some(why));
        self.show(place);
    }

    /// The tablet is the primary.
    pub fn set_primary(&mut self, place: Place<'_>) {
        if self.is_primary {
            return;
        }
        if self.is_errant() {
            tracing::info!(tablet = %place.alias, shard = %place.shard, "no errant GTIDs any more: the tablet is the primary now");
        }
        *self = Self { is_primary: true, unknown: None, ..Self::default() };
        self.hide(place);
    }

    /// The tablet is watched no more.
    pub fn end(&self, place: Place<'_>) {
        if self.is_errant() {
            tracing::info!(tablet = %place.alias, shard = %place.shard, "a tablet with errant GTIDs is watched no more");
        }
        self.hide(place);
    }

    fn is_errant(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| !verdict.errant.is_empty())
    }

    fn set_verdict(&mut self, place: Place<'_>, verdict: ErrantVerdict) {
        let Place { alias, shard, .. } = place;
        match (self.is_errant(), verdict.errant.is_empty()) {
            (false, false) => tracing::warn!(
                tablet = %alias, %shard, primary = %verdict.against, count = %verdict.errant.count(),
                errant = cut(&verdict.errant.to_string()),
                "errant GTIDs: this tablet has transactions that its primary does not have"
            ),
            (true, true) => tracing::info!(tablet = %alias, %shard, primary = %verdict.against, "no errant GTIDs any more"),
            (true, false) | (false, true) => {}
        }
        (self.is_primary, self.verdict, self.unknown) = (false, Some(verdict), None);
        self.show(place);
    }

    /// Metrics cost more than a judgement: they are touched where they change.
    fn show(&mut self, place: Place<'_>) {
        let now = (self.verdict.as_ref().map(|verdict| verdict.errant.count()), self.unknown.is_some());
        if self.shown != Some(now) {
            let ShardId { keyspace, shard } = place.shard;
            place.metrics.errant.set(keyspace, shard, &place.alias.to_string(), now.0, now.1);
            self.shown = Some(now);
        }
    }

    fn hide(&self, place: Place<'_>) {
        let ShardId { keyspace, shard } = place.shard;
        place.metrics.errant.forget(keyspace, shard, &place.alias.to_string());
    }
}

/// What the declared primary said, and when it was asked.
pub(super) struct PrimaryAnswer {
    pub sent: Instant,
    pub facts: Result<PrimaryFacts, String>,
}

impl PrimaryAnswer {
    /// `waits` says whether commits wait there, as read before the status.
    pub fn of(sent: Instant, status: &TabletStatus, waits: Option<bool>) -> Self {
        let not_acting = if status.replication.is_some() {
            Some("it replicates from another server")
        } else if status.read_only || status.super_read_only {
            Some("it is read-only")
        } else {
            None
        };
        let commits_wait = if status.semi_sync_blocked { Some(true) } else { waits };
        let facts = |executed| PrimaryFacts { uuid: status.server_uuid, executed, not_acting, commits_wait };
        Self { sent, facts: status.executed.clone().map(facts).ok_or_else(|| "its position is no set of GTIDs".to_owned()) }
    }
}

/// Judges every answer that came before the primary was asked. `primary` is whom the topology names now.
pub(super) fn judge_all(
    tablets: &mut BTreeMap<TabletAlias, Observed>,
    (shard, metrics): (&ShardId, &Metrics),
    primary: &DeclaredPrimary,
    answer: &PrimaryAnswer,
) {
    for (alias, tablet) in tablets.iter_mut().filter(|(alias, _)| **alias != primary.alias) {
        let Some(pending) = tablet.errant.pending.take_if(|pending| pending.answered <= answer.sent) else { continue };
        let place = Place { shard, alias, metrics };
        let has = match &tablet.has {
            Ok(has) => has,
            Err(why) => {
                tablet.errant.set_unknown(place, Unknown::NoGtids(why.clone()));
                continue;
            }
        };
        let stood_out = tablet.errant.stood_out.take();
        let judged = judge(&Evidence {
            declared_before: &pending.under,
            has,
            primary: answer.facts.as_ref().map_err(String::as_str),
            declared_after: Ok(primary),
            stood_out: stood_out.as_ref(),
        });
        match judged {
            Err(why) => {
                tablet.errant.stood_out = stood_out;
                tablet.errant.set_unknown(place, why);
            }
            Ok(Look { stands_out, errant }) => {
                let count = stands_out.count();
                tablet.errant.stood_out = Some(stands_out);
                match errant {
                    Some(errant) => {
                        let (errant, against) = (Arc::new(errant), primary.alias.clone());
                        tablet.errant.set_verdict(place, ErrantVerdict { errant, against, at: pending.sent });
                    }
                    None => tablet.errant.set_unknown(place, Unknown::SeenOnce { count }),
                }
            }
        }
    }
}

/// A text as it may be logged.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LOGGED_SET_MAX) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.chars().count()),
    }
}
