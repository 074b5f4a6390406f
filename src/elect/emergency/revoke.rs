//! Revoked: nobody can commit any more (safety rules, section 2).

use std::collections::{BTreeMap, BTreeSet};

use super::{Caveat, NoPromotion, view::View};
use crate::{
    durability::{Members, NotRevoked, Revoked, RevokedBy, revoked_for},
    topo::TabletAlias,
};

/// Proves that no tablet can commit on its own, or says who could.
pub(super) fn revoked(view: &View<'_>) -> Result<(Revoked, Vec<Caveat>), NoPromotion> {
    let (policy, all) = (view.evidence.policy, view.types());
    let reached: BTreeSet<TabletAlias> = view.reached().map(|(alias, _)| alias.clone()).collect();
    let (mut proven, mut open) = (BTreeMap::new(), BTreeMap::new());
    for (alias, member) in view.members() {
        if !policy.could_be_primary(&member) && view.evidence.primary != Some(&alias) {
            continue;
        }
        match revoked_for(policy, &member, &reached, &all) {
            Err(not) => {
                open.insert(alias, not);
            }
            Ok(RevokedBy::AckersReached { .. }) if !view.unlisted_ackers(&member).is_empty() => {
                return Err(NoPromotion::UnlistedCells { tablet: alias, cells: view.unlisted_ackers(&member) });
            }
            Ok(by) => {
                proven.insert(alias, by);
            }
        }
    }
    let mut caveats = unfenced(view, open)?;
    caveats.extend(deleted(view, &reached, &all)?);
    Ok((Revoked(proven), caveats))
}

/// Who may stay as it is because a person called and no policy holds it back: the recorded primary, where it alone was not reached, and
/// what that person told us to leave alone, except the primary itself.
fn unfenced(view: &View<'_>, open: BTreeMap<TabletAlias, NotRevoked>) -> Result<Vec<Caveat>, NoPromotion> {
    let ignored = |alias: &TabletAlias| view.wish.ignored.contains(alias);
    let primary = view.evidence.primary;
    let tolerable =
        |(alias, not): (&TabletAlias, &NotRevoked)| not.acks_needed == 0 && (ignored(alias) != (primary == Some(alias)));
    if open.is_empty() {
        return Ok(Vec::new());
    }
    if view.wish.allow_unfenced && open.iter().all(tolerable) {
        return Ok(open.into_keys().map(Caveat::NotFenced).collect());
    }
    let worst = primary.filter(|primary| open.contains_key(primary));
    let others = open.keys().chain(open.values().flat_map(|not| &not.unreached_ackers));
    let reasons = others.filter_map(|alias| Some((alias.clone(), view.unreached(alias)?.to_string()))).collect();
    let worst = worst.and_then(|primary| open.get(primary)).or_else(|| open.values().next());
    match worst.cloned() {
        Some(not) => Err(NoPromotion::NotRevoked { not, reasons }),
        None => Ok(Vec::new()),
    }
}

/// The same for a primary whose record was deleted: its server may still run.
fn deleted(view: &View<'_>, reached: &BTreeSet<TabletAlias>, all: &Members) -> Result<Option<Caveat>, NoPromotion> {
    if !view.old_primary_deleted() {
        return Ok(None);
    }
    let old = view.old_primary();
    match revoked_for(view.evidence.policy, &old, reached, all) {
        Ok(_) => {
            let cells = view.unlisted_ackers(&old);
            if cells.is_empty() { Ok(None) } else { Err(NoPromotion::OldPrimaryUnknown { reasons: BTreeMap::new(), cells }) }
        }
        Err(not) if not.acks_needed == 0 && view.wish.allow_unfenced => Ok(Some(Caveat::OldPrimaryUnknown)),
        Err(not) => {
            let ackers = not.unreached_ackers.iter();
            let reasons = ackers.filter_map(|alias| Some((alias.clone(), view.unreached(alias)?.to_string()))).collect();
            Err(NoPromotion::OldPrimaryUnknown { reasons, cells: BTreeMap::new() })
        }
    }
}
