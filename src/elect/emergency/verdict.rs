//! What comes out: a candidate with its proof.

use std::collections::{BTreeMap, BTreeSet};

use super::EmergencyRejection;
use crate::{
    durability::{Established, NotEstablished, Revoked},
    mysql::{GtidSet, Position},
    topo::TabletAlias,
};

/// What the candidate must hold before it may be promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complete {
    /// Everything that could have been acknowledged: promotion waits until the candidate has applied it.
    pub position: Position,
    /// The tablets whose received sets make it up.
    pub held_by: BTreeSet<TabletAlias>,
}

/// Why the promotion is safe, apart from the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Nobody else can commit any more.
    pub revoked: Revoked,
    /// Nothing that was acknowledged is missing.
    pub complete: Complete,
    /// The candidate will be able to commit; `Err` only where a person allowed that.
    pub established: Result<Established, NotEstablished>,
}

/// What a person should know of a promotion that is allowed all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caveat {
    /// Nothing keeps that server from accepting writes if it still lives.
    NotFenced(TabletAlias),
    /// The shard had a primary whose record is gone: nothing keeps its server from accepting writes.
    OldPrimaryUnknown,
    /// The old primary was fenced before its position was read, and commits there waited for nobody: what only it holds is left behind.
    TailUnknown(TabletAlias),
    /// Seen on the old primary, but not known to have been acknowledged.
    PossiblyLost(GtidSet),
    /// Lost because a person accepted it.
    AcceptedLoss(GtidSet),
    /// The other side of a divergence, discarded because a person chose.
    Discarded {
        /// Who holds it.
        tablet: TabletAlias,
        /// What is discarded; where there are no GTIDs, its position.
        extra: Position,
    },
    /// Nobody acknowledged these, the new primary will lack them, and their holder cannot follow it.
    LeftBehind {
        /// Who holds them.
        tablet: TabletAlias,
        /// What they are; where there are no GTIDs, the position.
        extra: Position,
    },
    /// The new primary cannot send that replica what it lacks: it has to be restored.
    Stranded {
        /// The replica.
        tablet: TabletAlias,
        /// What the new primary has purged.
        missing: GtidSet,
    },
    /// Too few can acknowledge; a person allowed that.
    NotEstablished(NotEstablished),
}

/// The candidate and what must happen before it is promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Who becomes primary.
    pub elect: TabletAlias,
    /// Tablets as far ahead as the elect and just as fit, in order of preference, the elect first: whichever has applied all that it
    /// received may be promoted in its place.
    pub equals: Vec<TabletAlias>,
    /// The tablet that is further ahead than the elect: it applies its relay log, then the elect copies from it.
    pub source: Option<TabletAlias>,
    /// Why it is safe.
    pub proof: Proof,
    /// Transactions that only that tablet has and that never came from the shard's primary.
    pub errant: BTreeMap<TabletAlias, GtidSet>,
    /// Everybody else.
    pub rejected: BTreeMap<TabletAlias, EmergencyRejection>,
    /// What a person should know.
    pub caveats: Vec<Caveat>,
}
