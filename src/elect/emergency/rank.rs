//! Who comes first. Positions are only partly ordered; how many are ahead of a tablet is a total order that agrees with theirs.

use std::cmp::Reverse;

use super::{Testimony, history::ahead, view::View};
use crate::{durability::PromotionRule, mysql::Position, topo::TabletAlias};

/// Since this patch level, MySQL 8.0 replicates to and from any other.
const PATCH_FREE: (u32, u32, u32) = (8, 0, 34);

/// How advanced a tablet is: how many others have received more, and how many have received the same and executed more.
type Progress = (usize, usize);

/// What decides between tablets that are equally advanced; the smaller one comes first.
type Merits<'a> = (bool, bool, (u32, u32, u32), Reverse<u64>, &'a TabletAlias);

/// The tablets among which ranks are given.
pub(super) struct Field<'v, 'a> {
    pub view: &'v View<'a>,
    pub all: Vec<(&'a TabletAlias, &'a Testimony)>,
}

impl<'a> Field<'_, 'a> {
    fn progress(&self, tablet: &Testimony) -> Progress {
        let count = |further: &dyn Fn(&Testimony) -> bool| self.all.iter().filter(|(_, other)| further(other)).count();
        let received = count(&|other| ahead(&other.received, &tablet.received));
        let executed = count(&|other| other.received == tablet.received && ahead(executed(other), executed(tablet)));
        (received, executed)
    }

    fn rule(&self, alias: &TabletAlias) -> PromotionRule {
        self.view.evidence.policy.promotion_rule(&self.view.member(alias))
    }

    fn merits(&self, alias: &'a TabletAlias, tablet: &Testimony) -> Merits<'a> {
        let other_cell = self.view.evidence.primary.is_some_and(|primary| primary.cell != alias.cell);
        (other_cell, !tablet.sql_delay.is_zero(), version(tablet), Reverse(tablet.buffer_pool_pages), alias)
    }

    /// Most advanced first: whom to copy from.
    pub fn by_progress(&self, alias: &'a TabletAlias, tablet: &Testimony) -> (Progress, bool, PromotionRule, Merits<'a>) {
        (self.progress(tablet), tablet.backup_running, self.rule(alias), self.merits(alias, tablet))
    }

    /// Best promotion rule first, then most advanced: whom to promote.
    pub fn by_rule(&self, alias: &'a TabletAlias, tablet: &Testimony) -> (PromotionRule, Progress, Merits<'a>) {
        (self.rule(alias), self.progress(tablet), self.merits(alias, tablet))
    }
}

/// A server without a source tells nothing of what it has applied beyond what it has, and so comes after a replica that has as much.
fn executed(tablet: &Testimony) -> &Position {
    if tablet.is_replica { &tablet.executed } else { &Position::None }
}

/// Older first, so that everybody can follow; the patch level counts only where MySQL says so.
fn version(tablet: &Testimony) -> (u32, u32, u32) {
    match tablet.mysql.as_ref().and_then(|mysql| mysql.version) {
        Some((8, 0, patch)) => (8, 0, patch.min(PATCH_FREE.2)),
        Some((major, minor, _)) => (major, minor, 0),
        None => (u32::MAX, 0, 0),
    }
}
