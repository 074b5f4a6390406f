//! What comes out: a candidate with its proof.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

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
    /// The new primary will lack these, which no acker could acknowledge, and their holder cannot follow it.
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

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFenced(tablet) => write!(f, "{tablet} is not fenced: if it still lives, it may go on accepting writes"),
            Self::OldPrimaryUnknown => {
                f.write_str("the old primary's record was deleted: if its server still lives, it may go on accepting writes")
            }
            Self::TailUnknown(tablet) => {
                write!(f, "{tablet} was fenced before its position was read: what nobody else received is left behind")
            }
            Self::PossiblyLost(set) => {
                write!(f, "{set} was seen on the old primary and is lost; it may not have been acknowledged")
            }
            Self::AcceptedLoss(set) => write!(f, "{set} is lost, as was accepted"),
            Self::Discarded { tablet, extra } => write!(f, "{extra} on {tablet} is discarded, as was chosen; restore it"),
            Self::LeftBehind { tablet, extra } => {
                write!(f, "the new primary will lack {extra}, which {tablet} has; it will not follow")
            }
            Self::Stranded { tablet, missing } => {
                write!(f, "{tablet} lacks {missing}, which the new primary has purged; restore it")
            }
            Self::NotEstablished(not) => write!(f, "{not}; its first commits will hang, as was allowed"),
        }
    }
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
