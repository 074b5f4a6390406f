//! Who becomes primary in an emergency, and the proof that it is safe (pure).
//!
//! The rules are Vitess's where they are safe; safety rules 2, 4 and 5 say what is stricter here. The same evidence gives the same answer,
//! in whatever order the tablets are listed.

mod complete;
mod evidence;
mod history;
mod rank;
mod refusal;
mod revoke;
mod select;
#[cfg(test)]
pub(crate) mod tests;
mod verdict;
mod view;
mod wish;

pub use evidence::{EmergencyEvidence, EmergencyWish, MysqlFacts, Reach, SeenPrimary, Testimony};
pub use refusal::{EmergencyRejection, Holder, NoPromotion, Side};
pub use verdict::{Caveat, Chosen, Complete, Proof};
pub use wish::check_wish;

use std::collections::BTreeMap;

use complete::{Target, check_complete};
use history::Histories;
use select::{Selection, forbidden};
use view::View;

/// Chooses the next primary, or refuses with the reason and its remedy.
///
/// In order: the wish against the records, revoked, whose history is the shard's, complete, and among those that may be promoted and can
/// be established the best.
///
/// # Errors
/// The first of these that does not hold. [`NoPromotion::SplitBrain`] may name tablets that are only to apply what they received: ask again
/// when they have.
pub fn elect_emergency(evidence: &EmergencyEvidence<'_>, wish: &EmergencyWish) -> Result<Chosen, NoPromotion> {
    let view = View { evidence, wish };
    check_wish(evidence.shard, evidence.policy, evidence.primary, &view.members(), wish)?;
    let (revoked, mut caveats) = revoke::revoked(&view)?;
    let mut histories = Histories::judge(&view)?;
    let found = settle(&view, &histories);
    let (target, more) = match found {
        Err(NoPromotion::SplitBrain { .. } | NoPromotion::WouldLose { .. }) if wish.choose_side => {
            caveats.extend(choose_side(&view, &mut histories)?);
            settle(&view, &histories)?
        }
        found => found?,
    };
    caveats.extend(more);
    Selection { view: &view, histories: &histories, target: &target, revoked, caveats }.choose()
}

/// How far the shard can get without losing anything.
fn settle<'a>(view: &View<'a>, histories: &Histories<'a>) -> Result<(Target<'a>, Vec<Caveat>), NoPromotion> {
    histories.check_one_line(view)?;
    let Some(target) = Target::find(view, histories) else {
        return Err(nobody(view, histories));
    };
    let caveats = check_complete(view, histories, &target)?;
    Ok((target, caveats))
}

/// The refusal where nobody's history can be used at all.
fn nobody(view: &View<'_>, histories: &Histories<'_>) -> NoPromotion {
    let forbidden = |alias, tablet| forbidden(view, histories, alias, tablet);
    let tablets = view.evidence.tablets.iter();
    let rejected: BTreeMap<_, _> =
        tablets.filter_map(|(alias, tablet)| Some((alias.clone(), forbidden(alias, tablet)?))).collect();
    match view.wish.named.as_ref().and_then(|named| Some((named.clone(), rejected.get(named)?.clone()))) {
        Some((alias, why)) => NoPromotion::NotUsable { alias, why },
        None => NoPromotion::NobodyFit { shard: view.evidence.shard.clone(), rejected },
    }
}

/// A person's decision: the side of the named tablet stands.
fn choose_side<'a>(view: &View<'a>, histories: &mut Histories<'a>) -> Result<Vec<Caveat>, NoPromotion> {
    let sides = histories.sides(view);
    match &view.wish.named {
        Some(named) if sides.contains_key(named) => {
            let discarded = histories.choose(view, named);
            let caveat = |(tablet, extra)| Caveat::Discarded { tablet, extra };
            Ok(discarded.into_iter().map(caveat).collect())
        }
        Some(named) => Err(NoPromotion::NotASide { alias: named.clone(), sides }),
        None => Err(NoPromotion::SideNotNamed),
    }
}
