//! A wish against the records alone: what is wrong with it is said before anything is touched.

use std::collections::BTreeMap;

use super::{EmergencyRejection, EmergencyWish, NoPromotion};
use crate::{
    durability::{Member, Policy, PromotionRule},
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// Whether a record says that its tablet serves nobody, for now.
pub(super) fn is_out_of_service(tablet_type: TabletType) -> bool {
    matches!(tablet_type, TabletType::Backup | TabletType::Restore | TabletType::Drained)
}

/// Why the records forbid this tablet's promotion.
pub(super) fn reject_by_record(
    policy: &dyn Policy,
    primary: Option<&TabletAlias>,
    tablet: &Member,
    wish: &EmergencyWish,
) -> Option<EmergencyRejection> {
    if is_out_of_service(tablet.tablet_type) {
        return Some(EmergencyRejection::OutOfService(tablet.tablet_type));
    }
    if !policy.could_be_primary(tablet) {
        return Some(EmergencyRejection::MustNot(tablet.tablet_type));
    }
    if policy.promotion_rule(tablet) == PromotionRule::MustNot {
        return Some(EmergencyRejection::TaggedMustNot);
    }
    match primary {
        Some(primary) if wish.prevent_cross_cell && primary.cell != tablet.alias.cell => {
            Some(EmergencyRejection::OtherCell { primary: primary.cell.clone() })
        }
        _ => None,
    }
}

/// Checks a wish against the tablets' records, before anything is stopped.
///
/// # Errors
/// A tablet that the shard does not have, contradictions, and a named tablet that must not be promoted whatever its server says.
pub fn check_wish(
    shard: &ShardId,
    policy: &dyn Policy,
    primary: Option<&TabletAlias>,
    members: &BTreeMap<TabletAlias, Member>,
    wish: &EmergencyWish,
) -> Result<(), NoPromotion> {
    if let Some(alias) = wish.ignored.iter().find(|alias| !members.contains_key(alias)) {
        return Err(NoPromotion::IgnoredUnknown { alias: alias.clone(), shard: shard.clone() });
    }
    let Some(alias) = &wish.named else {
        return if wish.choose_side { Err(NoPromotion::SideNotNamed) } else { Ok(()) };
    };
    let Some(member) = members.get(alias) else {
        return Err(NoPromotion::Unknown { alias: alias.clone(), shard: shard.clone() });
    };
    if wish.ignored.contains(alias) {
        return Err(NoPromotion::NamedIgnored { alias: alias.clone() });
    }
    let alias = alias.clone();
    match reject_by_record(policy, primary, member, wish) {
        None => Ok(()),
        Some(EmergencyRejection::OtherCell { primary: cell }) => Err(NoPromotion::OtherCell { alias, cell }),
        Some(why @ EmergencyRejection::OutOfService(_)) => Err(NoPromotion::NotUsable { alias, why }),
        Some(why) => Err(NoPromotion::MustNot { alias, why }),
    }
}
