//! The evidence as the caller wants it looked at: an ignored tablet is one that was not reached.

use std::collections::{BTreeMap, BTreeSet};

use super::{EmergencyEvidence, EmergencyRejection, EmergencyWish, Reach, Testimony};
use crate::{
    durability::{Member, Members, ackers},
    mysql::Position,
    pb::topodata::TabletType,
    topo::TabletAlias,
};

/// Evidence and wish, with the questions that every part of the decision asks.
pub(super) struct View<'a> {
    pub evidence: &'a EmergencyEvidence<'a>,
    pub wish: &'a EmergencyWish,
}

impl<'a> View<'a> {
    /// Every tablet of the shard, and the recorded primary where its own record is missing.
    pub fn members(&self) -> BTreeMap<TabletAlias, Member> {
        let tablets = self.evidence.tablets.iter();
        let mut members: BTreeMap<_, _> =
            tablets.map(|(alias, t)| (alias.clone(), Member::tagged(alias.clone(), t.tablet_type, &t.tags))).collect();
        if let Some(primary) = self.evidence.primary {
            members.entry(primary.clone()).or_insert_with(|| Member::new(primary.clone(), TabletType::Primary));
        }
        members
    }

    /// The same as types.
    pub fn types(&self) -> Members {
        self.members().into_iter().map(|(alias, member)| (alias, member.tablet_type)).collect()
    }

    pub fn member(&self, alias: &TabletAlias) -> Member {
        match self.evidence.tablets.get(alias) {
            Some(tablet) => Member::tagged(alias.clone(), tablet.tablet_type, &tablet.tags),
            None => Member::new(alias.clone(), TabletType::Primary),
        }
    }

    /// The primary whose commits matter. Where its record is gone it could have been anywhere, so it stands in a cell of its own.
    pub fn old_primary(&self) -> Member {
        match self.evidence.primary {
            Some(primary) => self.member(primary),
            None => Member::new(TabletAlias { cell: String::new(), uid: 0 }, TabletType::Primary),
        }
    }

    /// Whether the shard had a primary of which no record is left.
    pub fn old_primary_deleted(&self) -> bool {
        self.evidence.primary.is_none() && self.evidence.had_primary
    }

    /// Whether commits on the old primary waited for acknowledgements.
    pub fn acknowledges(&self) -> bool {
        self.evidence.policy.acks_proven(&self.old_primary()) > 0
    }

    /// Those that may have acknowledged the old primary.
    pub fn old_ackers(&self) -> BTreeSet<TabletAlias> {
        ackers(self.evidence.policy, &self.old_primary(), &self.types())
    }

    /// Why a tablet was not reached; `None` when it was.
    pub fn unreached(&self, alias: &TabletAlias) -> Option<EmergencyRejection> {
        if self.wish.ignored.contains(alias) {
            return Some(EmergencyRejection::Ignored);
        }
        match self.evidence.tablets.get(alias).map(|tablet| &tablet.reach) {
            Some(Reach::Unreached(reason)) => Some(EmergencyRejection::NotReached(reason.clone())),
            Some(_) => None,
            None => Some(EmergencyRejection::NotReached("it has no tablet record".to_owned())),
        }
    }

    /// The tablets that were stopped, demoted or fenced, with what they said.
    pub fn reached(&self) -> impl Iterator<Item = (&'a TabletAlias, &'a Testimony)> {
        self.evidence.tablets.iter().filter(|(alias, _)| self.unreached(alias).is_none())
    }

    /// The position that a tablet answered with.
    pub fn received(&self, alias: &TabletAlias) -> Option<&'a Position> {
        let tablet = self.evidence.tablets.get(alias).filter(|_| self.unreached(alias).is_none())?;
        (tablet.received != Position::None).then_some(&tablet.received)
    }

    /// Cells without a list of tablets from which somebody may acknowledge that primary.
    pub fn unlisted_ackers(&self, primary: &Member) -> BTreeMap<String, String> {
        let acks_from = |cell: &String| {
            [TabletType::Replica, TabletType::Rdonly].into_iter().any(|kind| {
                let unlisted = Member::new(TabletAlias { cell: cell.clone(), uid: 0 }, kind);
                self.evidence.policy.may_ack(primary, &unlisted)
            })
        };
        let cells = self.evidence.unlisted_cells.iter().filter(|(cell, _)| acks_from(cell));
        cells.map(|(cell, reason)| (cell.clone(), reason.clone())).collect()
    }
}
