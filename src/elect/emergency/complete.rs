//! Complete: nothing that could have been acknowledged is missing (safety rules, section 4).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Caveat, Complete, EmergencyRejection, Holder, NoPromotion, Reach, Testimony,
    history::{Histories, Standing, ahead, beyond},
    view::View,
};
use crate::{
    durability::ackers,
    mysql::{GtidSet, Position},
    topo::TabletAlias,
};

/// How far the shard can get: the most advanced history that can be used.
pub(super) struct Target<'a> {
    /// That history.
    pub position: &'a Position,
    /// The tablets that others can copy from.
    pub usable: BTreeMap<&'a TabletAlias, &'a Testimony>,
}

/// Why nobody can copy from that tablet, and it cannot be promoted itself.
pub(super) fn unusable(tablet: &Testimony, gtids: bool) -> Option<EmergencyRejection> {
    if let Some(reason) = &tablet.apply_failed {
        return Some(EmergencyRejection::NotApplied(reason.clone()));
    }
    match &tablet.mysql {
        Some(mysql) if !mysql.log_bin => Some(EmergencyRejection::NoBinaryLog),
        Some(mysql) if gtids && !mysql.gtid_mode_on => Some(EmergencyRejection::NoGtids),
        _ => None,
    }
}

impl<'a> Target<'a> {
    /// The most advanced of the tablets that can be used; `None` when none can.
    pub fn find(view: &View<'a>, histories: &Histories<'a>) -> Option<Self> {
        let accepted = histories.accepted(view);
        let usable: BTreeMap<_, _> = accepted.filter(|(_, tablet)| unusable(tablet, histories.gtids).is_none()).collect();
        let positions = || usable.values().map(|tablet| &tablet.received);
        let position = positions().find(|position| !positions().any(|other| ahead(other, position)))?;
        Some(Self { position, usable })
    }

    /// The proof's piece: what the elect must hold, and who has it.
    pub fn complete(&self) -> Complete {
        let holders = self.usable.iter().filter(|(_, tablet)| tablet.received == *self.position);
        Complete { position: self.position.clone(), held_by: holders.map(|(alias, _)| (*alias).clone()).collect() }
    }
}

/// What nobody who may be used has.
#[derive(Default)]
struct Loss {
    /// What may have been acknowledged, by holder.
    binding: BTreeMap<TabletAlias, Holder>,
    /// The same, of what was seen on the old primary and nobody has.
    seen: Option<Position>,
    caveats: Vec<Caveat>,
}

impl Loss {
    /// All of it as a set; `None` where there are no GTIDs.
    fn set(&self) -> Option<GtidSet> {
        let held = self.binding.values().map(|holder| &holder.held).chain(&self.seen);
        held.map(Position::gtid).try_fold(GtidSet::default(), |all, set| Some(all.union(set?)))
    }
}

/// Proves that reaching the target loses nothing that was acknowledged, or what a person accepted.
pub(super) fn check_complete(
    view: &View<'_>,
    histories: &Histories<'_>,
    target: &Target<'_>,
) -> Result<Vec<Caveat>, NoPromotion> {
    let mut caveats = check_known(view, target)?;
    let mut loss = left_behind(view, histories, target);
    seen(view, target, &mut loss);
    caveats.append(&mut loss.caveats);
    let lost = loss.set();
    match (&view.wish.accept_loss, lost) {
        (Some(accepted), Some(lost)) if *accepted != lost => {
            return Err(NoPromotion::OtherLoss { accepted: accepted.clone(), lost });
        }
        (Some(_), Some(lost)) if lost.is_empty() => {}
        (Some(_), Some(lost)) => caveats.push(Caveat::AcceptedLoss(lost)),
        (_, Some(lost)) if lost.is_empty() => {}
        (_, lost) if diverging(view, &loss) && lost.is_some() => return Err(histories.split_brain(view)),
        (_, lost) => {
            return Err(NoPromotion::WouldLose { lost, holders: loss.binding, pending: histories.pending.clone() });
        }
    }
    Ok(caveats)
}

/// Whether holders that carry errant transactions contradict each other: then it is not for us to say which of them is right.
fn diverging(view: &View<'_>, loss: &Loss) -> bool {
    let errant = loss.binding.iter().filter(|(_, holder)| matches!(holder.why, EmergencyRejection::Errant(_)));
    let received: Vec<&Position> = errant.filter_map(|(alias, _)| view.received(alias)).collect();
    received.iter().any(|a| received.iter().any(|b| a != b && !ahead(a, b) && !ahead(b, a)))
}

/// Whether everything that the old primary acknowledged can be seen: on itself, or on so many of its ackers that each transaction was
/// acknowledged by one of them.
fn check_known(view: &View<'_>, target: &Target<'_>) -> Result<Vec<Caveat>, NoPromotion> {
    if view.evidence.primary.is_none() && !view.evidence.had_primary {
        return Ok(Vec::new());
    }
    let (old, policy) = (view.old_primary(), view.evidence.policy);
    let itself = view.evidence.primary.and_then(|primary| view.received(primary));
    if itself.is_some_and(|position| target.position.contains(position)) {
        return Ok(Vec::new());
    }
    let acks = policy.acks_proven(&old);
    if acks == 0 {
        let fenced = view.evidence.tablets.get(&old.alias).is_some_and(|tablet| tablet.reach == Reach::Fenced);
        return Ok(if fenced && itself.is_none() { vec![Caveat::TailUnknown(old.alias)] } else { Vec::new() });
    }
    let unknown: BTreeSet<TabletAlias> =
        ackers(policy, &old, &view.types()).into_iter().filter(|alias| view.received(alias).is_none()).collect();
    let cells = view.unlisted_ackers(&old);
    if unknown.len() < acks && cells.is_empty() {
        return Ok(Vec::new());
    }
    let reason = |alias: &TabletAlias| view.unreached(alias).unwrap_or(EmergencyRejection::PositionUnknown).to_string();
    let unknown = unknown.iter().map(|alias| (alias.to_string(), reason(alias)));
    let unknown = unknown.chain(cells.into_iter().map(|(cell, why)| (format!("cell {cell}"), why))).collect();
    let primary = view.evidence.primary.map_or_else(|| "the old primary".to_owned(), ToString::to_string);
    Err(NoPromotion::Incomplete { primary, unknown })
}

/// What reached tablets hold beyond the target, apart from what is errant.
fn left_behind(view: &View<'_>, histories: &Histories<'_>, target: &Target<'_>) -> Loss {
    let (mut loss, ackers) = (Loss::default(), view.old_ackers());
    for (alias, standing) in &histories.standing {
        let Some((tablet, received)) = view.evidence.tablets.get(*alias).zip(view.received(alias)) else { continue };
        let (rightful, why) = match standing {
            Standing::Accepted => match unusable(tablet, histories.gtids) {
                Some(why) => (received.clone(), why),
                None => continue,
            },
            Standing::Errant { all, doubtful } => {
                (beyond(received, &Position::Gtid(all.subtract(doubtful))), EmergencyRejection::Errant(all.clone()))
            }
            // A person has decided about it.
            Standing::Out(EmergencyRejection::OtherSide(_)) => continue,
            Standing::Out(why) => (received.clone(), why.clone()),
        };
        if target.position.contains(&rightful) {
            continue;
        }
        let held = beyond(&rightful, target.position);
        let out_of_service = matches!(why, EmergencyRejection::OutOfService(_));
        // Without acknowledgements, whatever left the primary may have been confirmed to a client.
        let binding = if view.acknowledges() { ackers.contains(*alias) } else { !out_of_service };
        if binding {
            loss.binding.insert((*alias).clone(), Holder { held, why });
        } else {
            loss.caveats.push(Caveat::LeftBehind { tablet: (*alias).clone(), extra: held });
        }
    }
    loss
}

/// What was seen on the old primary and the target lacks.
fn seen(view: &View<'_>, target: &Target<'_>, loss: &mut Loss) {
    let Some(seen) = view.evidence.seen.filter(|seen| !target.position.contains(&seen.position)) else { return };
    let missing = beyond(&seen.position, target.position);
    match missing.gtid() {
        _ if seen.binding => loss.seen = Some(missing),
        Some(set) => loss.caveats.push(Caveat::PossiblyLost(set.clone())),
        None => {}
    }
}
