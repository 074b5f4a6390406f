//! Declared and observed in, the road out (pure).

use std::collections::BTreeSet;

use super::{Branch, Planned, ReparentError, declared::Declared, observed::Observed};
use crate::{
    elect::{Elected, Evidence, Wish, elect_planned},
    topo::TabletAlias,
};

/// The tablet to avoid: the recorded primary where the request names nobody.
pub(super) fn avoid(declared: &Declared, request: &Planned) -> Option<TabletAlias> {
    match (&request.new_primary, &request.avoid_primary) {
        (None, None) => declared.primary.clone(),
        (_, avoid) => avoid.clone(),
    }
}

/// What can be refused before any tablet is asked.
pub(super) fn check_request(declared: &Declared, request: &Planned) -> Result<(), ReparentError> {
    if let Some(alias) = &request.new_primary
        && request.avoid_primary.as_ref() == Some(alias)
    {
        return Err(ReparentError::SameAsAvoid { alias: alias.clone() });
    }
    declared.check_expected(request.expected_primary.as_ref())
}

/// Nothing to do: no tablet was named, and the primary is not the one to avoid.
pub(super) fn satisfied_by(declared: &Declared, request: &Planned) -> Option<TabletAlias> {
    let primary = declared.primary.as_ref().filter(|_| request.new_primary.is_none())?;
    (avoid(declared, request).as_ref() != Some(primary)).then(|| primary.clone())
}

/// Elects.
pub(super) fn elect(declared: &Declared, observed: &Observed, request: &Planned) -> Result<Elected, ReparentError> {
    let evidence = Evidence {
        shard: &declared.shard,
        policy: &*declared.policy,
        recorded_primary: declared.primary.as_ref(),
        tablets: &observed.candidates(declared),
    };
    let wish = Wish {
        named: request.new_primary.clone(),
        avoid: avoid(declared, request),
        tolerable_lag: request.tolerable_lag,
        allow_cross_cell: request.allow_cross_cell,
    };
    Ok(elect_planned(&evidence, &wish)?)
}

/// Which road leads from here to the elect.
pub(super) fn branch(declared: &Declared, elect: &TabletAlias) -> Result<Branch, ReparentError> {
    let current = declared.current_primary();
    // A cell that cannot be read may hold a primary with a newer term, unless the shard record names the one that we see.
    if !declared.unreadable.is_empty() && (current.is_none() || current != declared.primary.as_ref()) {
        return Err(ReparentError::PartialTopology { shard: declared.shard.clone(), cells: declared.unreadable.clone() });
    }
    Ok(match current {
        Some(primary) if primary == elect => Branch::Partial,
        Some(_) => Branch::Graceful,
        None if declared.term.is_none() => Branch::Initial,
        None => Branch::Potential,
    })
}

/// The replica whose IO thread is stopped to wake the old primary's acknowledgement receiver (safety rules, section 7): one that
/// replicates from it, is not the elect, and leaves enough ackers behind. One that acknowledges nothing comes first.
pub(super) fn nudged(declared: &Declared, observed: &Observed, old: &TabletAlias, elect: &TabletAlias) -> Option<TabletAlias> {
    if !declared.semi_sync_primary(old) {
        return None;
    }
    let source = declared.tablet(old)?;
    let replicas = declared.tablets.keys().filter(|alias| *alias != old);
    let replicas: BTreeSet<_> = replicas.filter(|alias| observed.replicates_from(alias, source)).collect();
    let acks = |alias: &TabletAlias| declared.semi_sync_replica(old, alias);
    let needed = declared.policy.acks_needed(&declared.member(old));
    let ackers = replicas.iter().filter(|alias| acks(alias)).count();
    let spare = |alias: &&TabletAlias| alias != &elect && ackers - usize::from(acks(alias)) >= needed;
    replicas.into_iter().filter(spare).min_by_key(|alias| acks(alias)).cloned()
}
