//! What the records say: nobody, several or an old one as primary, a record that lags behind, types that differ from their records.

use std::time::Duration;

use super::{
    Code, Ground, Problem, Remedy, Repair,
    facts::{Facts, answers, names, problem, report, secs},
};
use crate::{
    durability::{Members, PromotionRule, can_establish},
    pb::topodata::TabletType,
    shard::{ShardFacts, TabletView},
    topo::TabletAlias,
};

/// Problems of topology records.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(unreadable(facts));
    found.extend(no_policy(facts));
    found.extend(nobody(facts));
    found.extend(contradictions(facts));
    found.extend(future_term(facts));
    found.extend(unpublished(facts));
    for (alias, tablet) in facts.others() {
        found.extend(stale_primary(facts, alias, tablet));
    }
    for (alias, tablet) in &facts.view.tablets {
        found.extend(type_differs(facts, alias, tablet));
    }
    found
}

fn of_shard(facts: &Facts, code: Code, why: String, remedy: Remedy) -> Problem {
    Problem { code, tablet: facts.view.primary().cloned(), why, remedy }
}

fn unreadable(facts: &Facts) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(reason) = &facts.view.topology_unreadable {
        found.push(of_shard(facts, Code::TopologyUnreadable, format!("keyspace or shard record: {reason}"), Remedy::Report));
    }
    let cells: Vec<String> = facts.view.unreadable_cells.iter().map(|(cell, reason)| format!("{cell} ({reason})")).collect();
    if !cells.is_empty() {
        let why = format!("tablets of these cells may be other ones than these: {}", cells.join(", "));
        found.push(of_shard(facts, Code::PartialView, why, Remedy::Report));
    }
    found
}

fn no_policy(facts: &Facts) -> Option<Problem> {
    let why = match (&facts.view.keyspace.policy, facts.view.keyspace.policy_unset) {
        (Err(error), _) => error.clone(),
        (Ok(_), true) => "the keyspace names none; name one, if it be none, so that the shard is looked after".to_owned(),
        (Ok(_), false) => return None,
    };
    Some(of_shard(facts, Code::NoDurabilityPolicy, why, Remedy::Report))
}

/// Whether some tablet that answers could commit with the acknowledgements of the others that do: at the birth of a shard they come one by one.
fn can_commit(facts: &Facts) -> bool {
    let Ok(policy) = &facts.view.keyspace.policy else { return false };
    let reached: Members = facts
        .replicas()
        .filter(|(_, tablet)| answers(tablet))
        .map(|(alias, tablet)| (alias.clone(), tablet.declared_type()))
        .collect();
    let fits = |alias: &TabletAlias| {
        let member = facts.view.member(alias);
        policy.promotion_rule(&member) != PromotionRule::MustNot && can_establish(&**policy, &member, &reached).is_ok()
    };
    reached.keys().any(fits)
}

/// No tablet's record says PRIMARY: there never was one, or it is gone. While cells cannot be read it may stand in one of them.
fn nobody(facts: &Facts) -> Option<Problem> {
    let is_primary = |tablet: &TabletView| tablet.declared_type() == TabletType::Primary;
    let unknown = ShardFacts::default();
    let record = facts.view.record.as_ref().unwrap_or(&unknown);
    let is_empty = facts.view.tablets.is_empty();
    if facts.view.tablets.values().any(is_primary) || (is_empty && record.primary.is_none()) {
        return None;
    }
    let partial = !facts.view.unreadable_cells.is_empty();
    if record.term.is_none() && record.primary.is_none() {
        let anybody = facts.replicas().any(|(_, tablet)| answers(tablet));
        let (why, remedy) = match () {
            () if facts.view.record.is_none() => ("there is no shard record", Remedy::Report),
            () if partial => ("perhaps it stands in a cell that cannot be read", Remedy::Report),
            () if !anybody => ("no tablet that could be one answers", Remedy::Report),
            () if !can_commit(facts) => ("too few tablets that answer could acknowledge anybody's commits", Remedy::Report),
            () => ("the shard never had one", Remedy::ElectFirst),
        };
        return Some(of_shard(facts, Code::ClusterHasNoPrimary, format!("no record says PRIMARY: {why}"), remedy));
    }
    let named = record.primary.as_ref();
    let acting = facts.rivals().into_iter().chain(named.filter(|alias| acts(facts, alias)).cloned()).next();
    let (why, remedy) = match (named, acting) {
        _ if partial => ("perhaps it stands in a cell that cannot be read".to_owned(), Remedy::Report),
        _ if is_empty => ("and no tablet has a record".to_owned(), Remedy::Report),
        (_, Some(acting)) => (format!("{acting} is writable and replicated from all the same"), Remedy::Report),
        (Some(named), None) => (format!("the shard record names {named}"), Remedy::Emergency(Ground::RecordDeleted)),
        (None, None) => ("the shard record names nobody any more".to_owned(), Remedy::Emergency(Ground::RecordDeleted)),
    };
    Some(of_shard(facts, Code::PrimaryTabletDeleted, format!("no tablet's record says PRIMARY; {why}"), remedy))
}

fn acts(facts: &Facts, alias: &TabletAlias) -> bool {
    facts.view.tablets.get(alias).and_then(|tablet| facts.status(tablet)).is_some_and(|status| !status.read_only)
}

/// Two claims of one term, or two terms for one tablet: nothing is decided on either.
fn contradictions(facts: &Facts) -> Option<Problem> {
    let claims = facts.view.tablets.iter().filter(|(_, tablet)| tablet.declared_type() == TabletType::Primary);
    let record = facts.view.record.as_ref();
    match facts.view.primary() {
        None if claims.clone().next().is_some() || record.is_some_and(|record| record.primary.is_some()) => {
            let tablets = names(claims.map(|(alias, _)| alias));
            let recorded = names(record.and_then(|record| record.primary.as_ref()));
            let why = format!("records of one term: PRIMARY says {tablets}; the shard record names {recorded}");
            Some(of_shard(facts, Code::ContradictingPrimaries, why, Remedy::Report))
        }
        Some(primary) => {
            let (tablet, record) = (facts.view.tablets.get(primary)?, record?);
            let newer = record.primary.as_ref() == Some(primary) && record.term > tablet.term();
            let is_primary = tablet.declared_type() == TabletType::Primary;
            let why = || format!("the shard record gives {primary} a newer term than its own record");
            (newer && is_primary).then(|| of_shard(facts, Code::ContradictingPrimaries, why(), Remedy::Report))
        }
        None => None,
    }
}

/// How far clocks may be apart: a candidate's clock that is further behind a term is not waited for either.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);

/// The newest term begins after our own clock's now. It is valid all the same: the newest one is primary, whatever its clock says.
fn future_term(facts: &Facts) -> Option<Problem> {
    let claims = facts.view.tablets.iter().filter(|(_, tablet)| tablet.declared_type() == TabletType::Primary);
    let of_tablets = claims.filter_map(|(alias, tablet)| Some((tablet.term()?, Some(alias))));
    let of_record = facts.view.record.iter().filter_map(|record| Some((record.term?, record.primary.as_ref())));
    let ((seconds, nanoseconds), of) = of_tablets.chain(of_record).max_by_key(|(term, _)| *term)?;
    let begins = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).unwrap_or(0).min(999_999_999));
    let ahead = begins.checked_sub(facts.view.wall_clock).filter(|ahead| *ahead > CLOCKS_APART_MAX)?;
    let why = format!(
        "the term of {} begins {} after now, by this elector's clock; nobody whose clock is right can be promoted before",
        names(of),
        secs(ahead)
    );
    Some(Problem { code: Code::PrimaryTermInFuture, tablet: of.cloned(), why, remedy: Remedy::Report })
}

/// The shard record lags behind the tablets' records: vtgate may not find the primary, and a restarted vttablet believes it.
fn unpublished(facts: &Facts) -> Option<Problem> {
    let ((alias, tablet), record) = (facts.primary?, facts.view.record.as_ref()?);
    let published = record.primary.as_ref() == Some(alias) && record.term >= tablet.term();
    if published || tablet.declared_type() != TabletType::Primary {
        return None;
    }
    let works = facts.status(tablet).is_some_and(|status| !status.read_only && status.tablet_type == TabletType::Primary);
    let recorded = names(record.primary.as_ref());
    let (why, remedy) = match works && facts.acting_instead().is_none() {
        true => ("which works as primary", Remedy::Fix(Repair::PublishPrimary)),
        false => ("which does not work as primary", Remedy::Report),
    };
    let why = format!("the shard record names {recorded}, or an older term; the newest PRIMARY record is that of {alias}, {why}");
    Some(problem(Code::UnpublishedPrimary, alias, why, remedy))
}

/// A PRIMARY record with an older term than the declared primary's.
fn stale_primary(facts: &Facts, alias: &TabletAlias, tablet: &TabletView) -> Vec<Problem> {
    let Some((primary, _)) = facts.primary else { return Vec::new() };
    if tablet.declared_type() != TabletType::Primary {
        return Vec::new();
    }
    let (why, remedy) = match facts.can_be_followed() {
        true => (format!("{primary} has a newer term"), Remedy::Fix(Repair::RetirePrimary)),
        false => (format!("{primary} has a newer term, and does not work as primary"), Remedy::Report),
    };
    let mut found = vec![problem(Code::StaleTopoPrimary, alias, why, remedy)];
    if let Some(extra) = tablet.errant.as_ref().filter(|extra| !extra.is_empty()) {
        let why = format!("it is back with transactions that {primary} has not: {extra}");
        found.push(report(Code::ReturnedPrimaryIsErrant, alias, why));
    }
    found
}

/// The type that a tablet believes it has, and the one in its record. While it takes or restores a backup they change.
fn type_differs(facts: &Facts, alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
    let (own, declared) = (facts.status(tablet)?.tablet_type, tablet.declared_type());
    let passing = |of| matches!(of, TabletType::Unknown | TabletType::Backup | TabletType::Restore);
    if own == declared || passing(own) || passing(declared) {
        return None;
    }
    let why = format!("it believes to be {}, its record says {}", own.as_str_name(), declared.as_str_name());
    let is_primary = facts.primary.is_some_and(|(primary, _)| primary == alias);
    let code = if is_primary { Code::PrimaryCurrentTypeMismatch } else { Code::ReplicaCurrentTypeMismatch };
    // A tablet that believes to be primary may have been promoted this moment, its record on the way to us.
    let remedy = match is_primary || own != TabletType::Primary || facts.can_be_followed() {
        true if facts.acting_instead().is_none() => Remedy::Fix(Repair::AlignType),
        _ => Remedy::Report,
    };
    Some(problem(code, alias, why, remedy))
}
