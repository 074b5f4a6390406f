//! Whose history is the shard's: blank servers, errant transactions, divergence.
//!
//! A tablet is judged by those that have seen as many promotions as any (the longest reparent journal). Among these, what nobody else has
//! and did not come from its own source is errant; who has seen fewer promotions can testify against nobody, and what it alone has is of an
//! older lineage. Vitess's rules, with three corrections: a journal is only counted as far as it is applied, so whoever has more to apply is
//! not judged as older yet; a server that cannot name its source is not blamed for what came from anybody's source; and a divergence is
//! refused with all of its sides, never resolved by dropping them.

use std::collections::{BTreeMap, BTreeSet};

use super::{EmergencyRejection, NoPromotion, Side, Testimony, view::View, wish::is_out_of_service};
use crate::{
    mysql::{GtidSet, Position, ServerUuid},
    topo::TabletAlias,
};

/// What a reached tablet's history is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the shard's, as far as it goes.
    Accepted,
    /// It is, apart from these.
    Errant {
        /// Transactions that nobody else has and that did not come from its source.
        all: GtidSet,
        /// Those of them that may be an earlier primary's last words: see [`doubtful`].
        doubtful: GtidSet,
    },
    /// It says nothing, for this reason.
    Out(EmergencyRejection),
}

/// The reached tablets, judged.
pub(super) struct Histories<'a> {
    /// Whether positions are GTID sets.
    pub gtids: bool,
    /// Every reached tablet.
    pub standing: BTreeMap<&'a TabletAlias, Standing>,
    /// Those that may be judged differently once they have applied what they received.
    pub pending: BTreeSet<TabletAlias>,
}

type Judged<'a> = BTreeMap<&'a TabletAlias, (&'a Testimony, &'a GtidSet)>;

impl<'a> Histories<'a> {
    /// Judges all; an error where the evidence as a whole is worth nothing.
    pub fn judge(view: &View<'a>) -> Result<Self, NoPromotion> {
        let gtids = flavor(view)?;
        let standing = view.reached().map(|(alias, tablet)| (alias, standing(tablet, gtids))).collect();
        let mut histories = Self { gtids, standing, pending: BTreeSet::new() };
        histories.check_wiped(view)?;
        if gtids {
            histories.find_errant(view);
        }
        Ok(histories)
    }

    /// Where nobody has anything: a new shard starts like that, any other was wiped.
    fn check_wiped(&mut self, view: &View<'a>) -> Result<(), NoPromotion> {
        let blank = |(_, standing): &(&&TabletAlias, &Standing)| **standing == Standing::Out(EmergencyRejection::Blank);
        let rows = |alias: &TabletAlias| view.evidence.tablets.get(alias).and_then(|t| t.journal_rows.clone().ok()).unwrap_or(0);
        let in_service = |(_, standing): &(&&TabletAlias, &Standing)| {
            !matches!(standing, Standing::Out(EmergencyRejection::OutOfService(_) | EmergencyRejection::PositionUnknown))
        };
        let newest = self.standing.iter().filter(in_service).map(|(alias, _)| rows(alias)).max();
        let mut longest = self.standing.iter().filter(in_service).filter(|(alias, _)| Some(rows(alias)) == newest).peekable();
        if longest.peek().is_none() || !longest.all(|entry| blank(&entry)) {
            return Ok(());
        }
        let wiped: BTreeSet<TabletAlias> = self.standing.iter().filter(blank).map(|(alias, _)| (*alias).clone()).collect();
        let all_blank = self.standing.iter().filter(in_service).all(|entry| blank(&entry));
        let is_new = view.evidence.primary.is_none() && !view.evidence.had_primary && newest == Some(0) && all_blank;
        if !is_new {
            return Err(NoPromotion::WipedEvidence { wiped });
        }
        for standing in self.standing.values_mut().filter(|standing| **standing == Standing::Out(EmergencyRejection::Blank)) {
            *standing = Standing::Accepted;
        }
        Ok(())
    }

    fn find_errant(&mut self, view: &View<'a>) {
        let judged: Judged<'a> = self.accepted(view).filter_map(|(alias, t)| Some((alias, (t, t.received.gtid()?)))).collect();
        let waiting = judged.iter().filter(|(_, (tablet, _))| has_to_apply(tablet) && tablet.apply_failed.is_none());
        self.pending = waiting.map(|(alias, _)| (*alias).clone()).collect();
        let newest = judged.values().map(|(tablet, _)| rows(tablet)).max();
        let (group, older): (Judged<'a>, Judged<'a>) =
            judged.iter().map(|(alias, entry)| (*alias, *entry)).partition(|(_, (tablet, _))| Some(rows(tablet)) == newest);
        let seen = view.evidence.seen.and_then(|seen| seen.position.gtid()).cloned().unwrap_or_default();
        let mut errant = BTreeMap::new();
        for alias in group.keys() {
            let (extra, doubtful) = doubtful(view, alias, private(view, alias, &group, &judged).subtract(&seen), &judged);
            errant.insert(*alias, (extra, doubtful));
        }
        let witnesses = group.iter().filter(|(alias, _)| errant.get(*alias).is_none_or(|(extra, _)| extra.is_empty()));
        let witnesses: Vec<&GtidSet> = witnesses.map(|(_, (_, received))| *received).collect();
        let lineage = witnesses.iter().fold(seen.clone(), |all, received| all.union(received));
        for (alias, (tablet, received)) in &older {
            let extra = if has_to_apply(tablet) || follows_primary(view, tablet) {
                private(view, alias, &judged, &judged).subtract(&seen)
            } else if witnesses.is_empty() {
                GtidSet::default()
            } else {
                received.subtract(&lineage)
            };
            errant.insert(*alias, (extra, GtidSet::default()));
        }
        for (alias, (all, doubtful)) in errant.into_iter().filter(|(_, (extra, _))| !extra.is_empty()) {
            self.standing.insert(alias, Standing::Errant { all, doubtful });
        }
    }

    /// The tablets whose whole history is the shard's.
    pub fn accepted(&self, view: &View<'a>) -> impl Iterator<Item = (&'a TabletAlias, &'a Testimony)> {
        let tablets = view.evidence.tablets;
        let accepted = self.standing.iter().filter(|(_, standing)| **standing == Standing::Accepted);
        accepted.filter_map(move |(alias, _)| Some((*alias, tablets.get(*alias)?)))
    }

    /// The most advanced tablets, errant or not, that were judged, each with what not every other one of them has.
    pub fn sides(&self, view: &View<'a>) -> BTreeMap<TabletAlias, Side> {
        let tablets = view.evidence.tablets;
        let judged = self.standing.iter().filter(|(_, standing)| !matches!(standing, Standing::Out(_)));
        let judged: Vec<_> = judged.filter_map(|(alias, _)| Some((*alias, &tablets.get(*alias)?.received))).collect();
        let leading = |received: &Position| !judged.iter().any(|(_, other)| ahead(other, received));
        let leaders: Vec<_> = judged.iter().filter(|(_, received)| leading(received)).collect();
        let mut sets = leaders.iter().filter_map(|(_, received)| received.gtid());
        let common = sets.next().cloned().unwrap_or_default();
        let common = sets.fold(common, |common, set| common.intersect(set));
        let side = |received: &Position| {
            let extra = received.gtid().map(|set| set.subtract(&common)).unwrap_or_default();
            Side { received: received.clone(), extra }
        };
        leaders.into_iter().map(|(alias, received)| ((*alias).clone(), side(received))).collect()
    }

    /// Refuses where accepted histories contain each other in neither direction, or nobody's was accepted.
    pub fn check_one_line(&self, view: &View<'a>) -> Result<(), NoPromotion> {
        let accepted: Vec<&Position> = self.accepted(view).map(|(_, tablet)| &tablet.received).collect();
        let diverge = |a: &Position| accepted.iter().any(|b| a != *b && !ahead(a, b) && !ahead(b, a));
        let errant = self.standing.values().any(|standing| matches!(standing, Standing::Errant { .. }));
        if accepted.iter().any(|a| diverge(a)) || (accepted.is_empty() && errant) {
            return Err(self.split_brain(view));
        }
        Ok(())
    }

    /// The refusal that names all sides.
    pub fn split_brain(&self, view: &View<'a>) -> NoPromotion {
        NoPromotion::SplitBrain { sides: self.sides(view), pending: self.pending.clone() }
    }

    /// What a person's choice makes of it: the named tablet's history is the shard's, and whoever has more is on another side.
    pub fn choose(&mut self, view: &View<'a>, named: &TabletAlias) -> BTreeMap<TabletAlias, Position> {
        let mut discarded = BTreeMap::new();
        let Some(chosen) = view.received(named) else { return discarded };
        for (alias, standing) in self.standing.iter_mut().filter(|(_, standing)| !matches!(standing, Standing::Out(_))) {
            let Some(received) = view.received(alias) else { continue };
            *standing = Standing::Accepted;
            if !chosen.contains(received) {
                let extra = beyond(received, chosen);
                discarded.insert((*alias).clone(), extra.clone());
                *standing = Standing::Out(EmergencyRejection::OtherSide(extra));
            }
        }
        discarded
    }
}

/// Whether `a` holds all of `b` and more. Positions of MariaDB may contain each other and differ: then neither is ahead.
pub(super) fn ahead(a: &Position, b: &Position) -> bool {
    a.contains(b) && !b.contains(a)
}

/// What `a` holds beyond `b`; where there are no GTIDs to subtract, all of it.
pub(super) fn beyond(a: &Position, b: &Position) -> Position {
    match (a.gtid(), b.gtid()) {
        (Some(a), Some(b)) => Position::Gtid(a.subtract(b)),
        _ => a.clone(),
    }
}

/// Whether the shard speaks in GTIDs: all of it must, or none.
fn flavor(view: &View<'_>) -> Result<bool, NoPromotion> {
    let known = view.reached().filter(|(_, tablet)| tablet.received != Position::None);
    let (gtid, other): (Vec<_>, Vec<_>) = known.partition(|(_, tablet)| tablet.received.gtid().is_some());
    if !gtid.is_empty() && !other.is_empty() {
        let names = |group: Vec<(&TabletAlias, &Testimony)>| group.into_iter().map(|(alias, _)| alias.clone()).collect();
        return Err(NoPromotion::MixedFlavors { gtid: names(gtid), other: names(other) });
    }
    Ok(!gtid.is_empty())
}

/// What can be said of a tablet alone.
fn standing(tablet: &Testimony, gtids: bool) -> Standing {
    if is_out_of_service(tablet.tablet_type) {
        return Standing::Out(EmergencyRejection::OutOfService(tablet.tablet_type));
    }
    match &tablet.received {
        Position::None => Standing::Out(EmergencyRejection::PositionUnknown),
        received if received.is_zero() => Standing::Out(EmergencyRejection::Blank),
        _ => match &tablet.journal_rows {
            Err(reason) if gtids => Standing::Out(EmergencyRejection::JournalUnreadable(reason.clone())),
            _ => Standing::Accepted,
        },
    }
}

fn rows(tablet: &Testimony) -> i32 {
    tablet.journal_rows.clone().unwrap_or(0)
}

/// Whether its journal may still grow by what it has received.
fn has_to_apply(tablet: &Testimony) -> bool {
    tablet.is_replica && !tablet.executed.contains(&tablet.received)
}

/// Whether it replicates from the primary of now: then no journal makes it older than that.
fn follows_primary(view: &View<'_>, tablet: &Testimony) -> bool {
    let primary = view.evidence.primary.and_then(|primary| view.evidence.tablets.get(primary)?.server_uuid);
    tablet.is_replica && primary.is_some() && tablet.source_uuid == primary
}

/// What only that tablet of `among` has and did not get from its source. What a server without a source has is its own business: it may
/// have been the primary.
fn private(view: &View<'_>, alias: &TabletAlias, among: &Judged<'_>, all: &Judged<'_>) -> GtidSet {
    let Some((tablet, received)) = all.get(alias).filter(|(tablet, _)| tablet.is_replica) else { return GtidSet::default() };
    let others: Vec<&GtidSet> = among.iter().filter(|(other, _)| **other != alias).map(|(_, (_, received))| *received).collect();
    if others.is_empty() {
        return GtidSet::default();
    }
    let sources = sources(view, tablet, all);
    if sources.is_empty() {
        return GtidSet::default();
    }
    let own = sources.into_iter().fold((*received).clone(), |own, source| own.without_server(source));
    others.into_iter().fold(own, |own, other| own.subtract(other))
}

/// The server whose transactions a replica may hold first; where it cannot say so, any that it could be.
fn sources(view: &View<'_>, tablet: &Testimony, all: &Judged<'_>) -> BTreeSet<ServerUuid> {
    match tablet.source_uuid {
        Some(source) => BTreeSet::from([source]),
        None => {
            let known = all.values().filter_map(|(other, _)| other.source_uuid);
            let primary = view.evidence.primary.and_then(|primary| view.evidence.tablets.get(primary)?.server_uuid);
            known.chain(primary).collect()
        }
    }
}

/// What of a tablet's extra transactions may be an earlier primary's last words, and what is left of the extra ones.
///
/// A primary that dies right after its promotion may leave behind nobody else who has heard of its predecessor's last transactions, which
/// were acknowledged all the same. They look like errant ones: neither from the source nor known to others. They cannot be that where it was
/// seen what the primary has, where anybody has received from it what this tablet has not (whoever receives gets the old before the new), or
/// where their server never wrote for this shard before. Where nobody has anything from the source, they are no doubt the shard's.
fn doubtful(view: &View<'_>, alias: &TabletAlias, extra: GtidSet, all: &Judged<'_>) -> (GtidSet, GtidSet) {
    let none = GtidSet::default();
    let Some((tablet, received)) = all.get(alias).filter(|_| !extra.is_empty()) else { return (extra, none) };
    let others = || all.iter().filter(|(other, _)| **other != alias).map(|(_, entry)| entry);
    let sources = sources(view, tablet, all);
    let of_sources = |set: &GtidSet| sources.iter().fold(none.clone(), |found, source| found.union(&set.of_server(*source)));
    let heard = |(_, theirs): &(&Testimony, &GtidSet)| !received.contains(&of_sources(theirs));
    let is_source = |(other, _): &(&Testimony, &GtidSet)| other.server_uuid.is_some_and(|uuid| sources.contains(&uuid));
    let seen = view.evidence.seen.is_some_and(|seen| seen.position.gtid().is_some());
    if seen || others().any(|entry| heard(entry) || is_source(entry)) || all.values().any(|(t, _)| lacks_rows(t, all)) {
        return (extra, none);
    }
    let known: BTreeSet<ServerUuid> = others().flat_map(|(_, theirs)| theirs.servers()).collect();
    let last_words = extra.servers().intersection(&known).fold(none.clone(), |all, server| all.union(&extra.of_server(*server)));
    let source_was_heard = all.values().any(|(_, theirs)| !of_sources(theirs).is_empty());
    if source_was_heard { (extra, last_words) } else { (extra.subtract(&last_words), none) }
}

/// Whether more servers wrote for the shard than its journal tells of: every primary leaves a row, so this journal does not go back far
/// enough to say how many terms there were, and an old lineage is nothing to wonder about.
fn lacks_rows(tablet: &Testimony, all: &Judged<'_>) -> bool {
    let Some(executed) = tablet.executed.gtid() else { return false };
    let shared = |server: &ServerUuid| all.values().filter(|(_, received)| !received.of_server(*server).is_empty()).count() > 1;
    usize::try_from(rows(tablet)).is_ok_and(|rows| rows < executed.servers().iter().filter(|server| shared(server)).count())
}
