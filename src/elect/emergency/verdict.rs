//! What comes out: a candidate with its proof, or a refusal that names the tablets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use tonic::Code;

use crate::{
    durability::{Established, NotEstablished, NotRevoked, Revoked},
    mysql::{GtidSet, Position},
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
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
    /// Seen on the old primary, but not known to have been acknowledged.
    PossiblyLost(GtidSet),
    /// Lost because a person accepted it.
    AcceptedLoss(GtidSet),
    /// The other side of a divergence, discarded because a person chose.
    Discarded {
        /// Who holds it.
        tablet: TabletAlias,
        /// What is discarded.
        extra: GtidSet,
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

/// Why a tablet was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmergencyRejection {
    /// Another tablet was named.
    NotNamed,
    /// The caller left it out.
    Ignored,
    /// It did not answer; the reason.
    NotReached(String),
    /// Its type is never promoted.
    MustNot(TabletType),
    /// Its tag says that it is never promoted.
    TaggedMustNot,
    /// Its record says that it is occupied or out of service (BACKUP, RESTORE, DRAINED).
    OutOfService(TabletType),
    /// It stands in another cell than the old primary.
    OtherCell {
        /// The old primary's cell.
        primary: String,
    },
    /// It is taking a backup.
    InBackup,
    /// It holds no transactions at all.
    Blank,
    /// It has transactions that the shard does not have.
    Errant(GtidSet),
    /// It could not apply what it received.
    NotApplied(String),
    /// Its binary log is off.
    NoBinaryLog,
    /// GTIDs are off.
    NoGtids,
    /// It runs a newer MySQL than a replica that would have to follow it.
    NewerMysql {
        /// That replica.
        than: TabletAlias,
    },
    /// It has purged transactions that a replica which must follow lacks.
    Purged {
        /// That replica.
        stranded: TabletAlias,
        /// What it would need.
        missing: GtidSet,
    },
    /// It could not commit as primary.
    NotEstablished(NotEstablished),
    /// The chosen one is further ahead.
    Behind,
    /// As far ahead as the chosen one, which comes first by rule, cell, delay, version, buffer pool or alias.
    Outranked,
}

/// Nobody may be promoted. The message names the tablets and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPromotion {
    /// The named tablet is not one of the shard's.
    #[error("{alias} is not a tablet of {shard}; name one of its tablets")]
    Unknown {
        /// The named tablet.
        alias: TabletAlias,
        /// The shard.
        shard: ShardId,
    },
    /// A promotable tablet could still commit.
    #[error("{not}; bring one of these tablets back, or stop its MySQL for certain and delete its record")]
    NotRevoked {
        /// Who, and whom it could still use.
        not: NotRevoked,
        /// Why each unreached tablet that matters was not reached.
        reasons: BTreeMap<TabletAlias, String>,
    },
}

impl fmt::Display for EmergencyRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => f.write_str("another tablet was named"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl NoPromotion {
    /// The gRPC code for the caller.
    pub fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}
