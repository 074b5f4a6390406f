//! Why a tablet was not chosen, and why nobody was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use tonic::Code;

use crate::{
    durability::{NotEstablished, NotRevoked},
    mysql::{GtidSet, Position},
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

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
    /// It was fenced, or did not say how far it is.
    PositionUnknown,
    /// It is taking a backup.
    InBackup,
    /// It holds no transactions at all.
    Blank,
    /// Its reparent journal cannot be read, so nobody can tell which promotions it has seen; the reason.
    JournalUnreadable(String),
    /// It has transactions that the shard does not have.
    Errant(GtidSet),
    /// It stands on another side of a divergence than the one that a person chose.
    OtherSide(Position),
    /// It could not apply what it received.
    NotApplied(String),
    /// Its binary log is off.
    NoBinaryLog,
    /// GTIDs are off.
    NoGtids,
    /// A closer look found that it must not be primary now; the reason.
    Unfit(String),
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
    /// It is behind, and whoever is ahead has purged transactions that it lacks.
    CannotCopy {
        /// Who is ahead.
        from: TabletAlias,
        /// What it would need.
        missing: GtidSet,
    },
    /// It could not commit as primary.
    NotEstablished(Box<NotEstablished>),
    /// The chosen one is further ahead.
    Behind,
    /// As far ahead as the chosen one, which comes first by rule, cell, delay, version, buffer pool or alias.
    Outranked,
}

impl fmt::Display for EmergencyRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => f.write_str("another tablet was named"),
            Self::Ignored => f.write_str("it is to be ignored"),
            Self::NotReached(reason) => write!(f, "it was not reached: {reason}"),
            Self::MustNot(kind) => write!(f, "a tablet of type {} must not be promoted", kind.as_str_name()),
            Self::TaggedMustNot => f.write_str("its tag vtelector_promotion_rule is must_not"),
            Self::OutOfService(kind) => write!(f, "it is out of service: its type is {}", kind.as_str_name()),
            Self::OtherCell { primary } => write!(f, "its cell is not the old primary's, {primary}"),
            Self::PositionUnknown => f.write_str("its position is not known"),
            Self::InBackup => f.write_str("it is taking a backup"),
            Self::Blank => f.write_str("it holds no transactions"),
            Self::JournalUnreadable(reason) => write!(f, "its reparent journal cannot be read: {reason}"),
            Self::Errant(set) => write!(f, "it has errant transactions {set}"),
            Self::OtherSide(extra) => write!(f, "it is on the side that was not chosen, with {extra}"),
            Self::NotApplied(reason) => write!(f, "it could not apply what it has received: {reason}"),
            Self::NoBinaryLog => f.write_str("its binary log is off"),
            Self::NoGtids => f.write_str("its gtid_mode is not ON"),
            Self::Unfit(reason) => f.write_str(reason),
            Self::NewerMysql { than } => write!(f, "its MySQL is newer than that of {than}, which could not follow it"),
            Self::Purged { stranded, missing } => write!(f, "it has purged {missing}, which {stranded} lacks"),
            Self::CannotCopy { from, missing } => write!(f, "it lacks {missing}, which {from} has purged"),
            Self::NotEstablished(not) => not.fmt(f),
            Self::Behind => f.write_str("it is less advanced"),
            Self::Outranked => {
                f.write_str("it comes after the chosen one by promotion rule, cell, delay, version, buffer pool or alias")
            }
        }
    }
}

/// One side of a divergence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Everything that it has received.
    pub received: Position,
    /// What not every other side has; empty where there are no GTIDs.
    pub extra: GtidSet,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.extra.is_empty() { self.received.fmt(f) } else { self.extra.fmt(f) }
    }
}

/// A tablet that holds what nobody who may be used has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What only it has; where there are no GTIDs, its position.
    pub held: Position,
    /// Why it cannot be used.
    pub why: EmergencyRejection,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.held, self.why)
    }
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
    /// A tablet that is to be ignored is not one of the shard's.
    #[error("{alias}, which is to be ignored, is not a tablet of {shard}; ignore only its tablets")]
    IgnoredUnknown {
        /// The tablet.
        alias: TabletAlias,
        /// The shard.
        shard: ShardId,
    },
    /// A tablet cannot be wanted and left alone.
    #[error("{alias} is to be promoted and to be ignored; leave out one of the two")]
    NamedIgnored {
        /// The tablet.
        alias: TabletAlias,
    },
    /// A side is chosen by naming one of its tablets.
    #[error("choosing a side of a divergence needs the tablet that is to be promoted; name it")]
    SideNotNamed,
    /// The policy never promotes the named tablet.
    #[error("{alias} must not be promoted: {why}; name another tablet")]
    MustNot {
        /// The named tablet.
        alias: TabletAlias,
        /// By its type, or by its tag.
        why: EmergencyRejection,
    },
    /// The named tablet stands in another cell.
    #[error(
        "{alias} is not in {cell}, the old primary's cell, and cross-cell promotion is prevented; allow it or name another tablet"
    )]
    OtherCell {
        /// The named tablet.
        alias: TabletAlias,
        /// The old primary's cell.
        cell: String,
    },
    /// The named tablet cannot be used.
    #[error("{alias} cannot be promoted: {why}; name another tablet, or none")]
    NotUsable {
        /// The named tablet.
        alias: TabletAlias,
        /// Why.
        why: EmergencyRejection,
    },
    /// The named tablet is taking a backup while another could be promoted.
    #[error("{alias} is taking a backup and {free} is not; name {free}, or wait for the backup")]
    InBackup {
        /// The named tablet.
        alias: TabletAlias,
        /// Who is free.
        free: TabletAlias,
    },
    /// The named tablet could not commit.
    #[error("{0}; name another tablet, or bring back replicas that may acknowledge it")]
    NoProgress(NotEstablished),
    /// A promotable tablet could still commit.
    #[error("{not}{}; bring one of these tablets back, or stop its MySQL for certain and delete its record", because(.reasons))]
    NotRevoked {
        /// Who, and whom it could still use.
        not: NotRevoked,
        /// Why each unreached tablet that matters was not reached.
        reasons: BTreeMap<TabletAlias, String>,
    },
    /// The old primary's record is gone, and it could still commit.
    #[error("the old primary, whose record was deleted, could still commit{}{}; bring back what could acknowledge it", because(.reasons), because(.cells))]
    OldPrimaryUnknown {
        /// Why each unreached tablet that could serve it was not reached; nobody where it needs no acknowledgement.
        reasons: BTreeMap<TabletAlias, String>,
        /// Cells that could hold such tablets and cannot be listed, with the reasons.
        cells: BTreeMap<String, String>,
    },
    /// Tablets that nobody can list could acknowledge an unreached primary.
    #[error("{tablet} was not reached and could be acknowledged from cells whose tablets cannot be listed{}; make their topology readable", because(.cells))]
    UnlistedCells {
        /// The tablet.
        tablet: TabletAlias,
        /// The cells, with the reasons.
        cells: BTreeMap<String, String>,
    },
    /// Some tablets speak in GTIDs and others do not.
    #[error("some tablets have GTID positions ({}) and some have not ({}); take one of the two groups out of the shard", list(.gtid), list(.other))]
    MixedFlavors {
        /// Those with GTIDs.
        gtid: BTreeSet<TabletAlias>,
        /// Those without.
        other: BTreeSet<TabletAlias>,
    },
    /// Whoever has seen the last promotion holds nothing any more.
    #[error("{} hold no transactions although the shard had a primary: its data was wiped there; restore one of them", list(.wiped))]
    WipedEvidence {
        /// The tablets.
        wiped: BTreeSet<TabletAlias>,
    },
    /// Histories that contain each other in neither direction.
    #[error("the shard's histories have diverged (split brain): {}; restore all sides but one, or name a tablet and choose its side", by_side(.sides))]
    SplitBrain {
        /// The most advanced tablets, each with what distinguishes it.
        sides: BTreeMap<TabletAlias, Side>,
        /// Tablets that have not yet applied what they received: once they have, their journals may show that they are merely behind.
        pending: BTreeSet<TabletAlias>,
    },
    /// The named tablet is on no side of the divergence.
    #[error("{alias} is on no side of the divergence: {}; name one of these tablets", by_side(.sides))]
    NotASide {
        /// The named tablet.
        alias: TabletAlias,
        /// The sides.
        sides: BTreeMap<TabletAlias, Side>,
    },
    /// What may have been acknowledged is held only by tablets that cannot be used.
    #[error("transactions that may have been acknowledged would be lost{}: {}", as_set(.lost), loss_remedy(.holders, .lost))]
    WouldLose {
        /// Exactly what would be lost; `None` where there are no GTIDs to say it in.
        lost: Option<GtidSet>,
        /// Who holds what of it; nobody where it was only seen on the old primary.
        holders: BTreeMap<TabletAlias, Holder>,
        /// Tablets that have not yet applied what they received: once they have, their journals may show that they are merely behind.
        pending: BTreeSet<TabletAlias>,
    },
    /// A loss was accepted that is not the one that would happen.
    #[error("the accepted loss {accepted} is not what would be lost, {}; accept exactly that set, or nothing", nothing(.lost))]
    OtherLoss {
        /// What was accepted.
        accepted: GtidSet,
        /// What would be lost.
        lost: GtidSet,
    },
    /// What the old primary acknowledged may be where nobody can look.
    #[error("what {primary} has acknowledged may be held only by tablets whose positions are not known{}; bring them back", because(.unknown))]
    Incomplete {
        /// The old primary; "the old primary" where its record is gone.
        primary: String,
        /// The tablets, or cells, with the reasons.
        unknown: BTreeMap<String, String>,
    },
    /// Every tablet was rejected.
    #[error("no tablet of {shard} can be promoted{}", because(.rejected))]
    NobodyFit {
        /// The shard.
        shard: ShardId,
        /// Each tablet's reason.
        rejected: BTreeMap<TabletAlias, EmergencyRejection>,
    },
}

fn list(aliases: &BTreeSet<TabletAlias>) -> String {
    aliases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn pairs<K: fmt::Display, V: fmt::Display>(map: &BTreeMap<K, V>, between: &str) -> String {
    map.iter().map(|(key, value)| format!("{key}{between}{value}")).collect::<Vec<_>>().join("; ")
}

/// ` (z1-0000000101: no answer; ...)`, or nothing.
fn because<K: fmt::Display, V: fmt::Display>(map: &BTreeMap<K, V>) -> String {
    if map.is_empty() { String::new() } else { format!(" ({})", pairs(map, ": ")) }
}

fn by_side(sides: &BTreeMap<TabletAlias, Side>) -> String {
    pairs(sides, " has ")
}

fn as_set(lost: &Option<GtidSet>) -> String {
    lost.as_ref().map_or_else(String::new, |lost| format!(": {lost}"))
}

fn loss_remedy(holders: &BTreeMap<TabletAlias, Holder>, lost: &Option<GtidSet>) -> String {
    let holders = match holders.is_empty() {
        true => "they were seen on the old primary and no tablet that was reached has them".to_owned(),
        false => pairs(holders, " alone holds "),
    };
    match lost {
        Some(_) => format!("{holders}; repair that tablet, or accept the loss of exactly this set"),
        None => format!("{holders}; repair that tablet"),
    }
}

fn nothing(lost: &GtidSet) -> String {
    if lost.is_empty() { "nothing at all".to_owned() } else { lost.to_string() }
}

impl NoPromotion {
    /// Tablets whose journals may change the answer once they have applied what they received: let them, and ask again.
    pub fn pending(&self) -> Option<&BTreeSet<TabletAlias>> {
        match self {
            Self::SplitBrain { pending, .. } | Self::WouldLose { pending, .. } if !pending.is_empty() => Some(pending),
            _ => None,
        }
    }

    /// The gRPC code for the caller.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } | Self::IgnoredUnknown { .. } => Code::NotFound,
            Self::NamedIgnored { .. } | Self::SideNotNamed => Code::InvalidArgument,
            Self::MustNot { .. } | Self::OtherCell { .. } | Self::InBackup { .. } | Self::NoProgress(_) => Code::Aborted,
            _ => Code::FailedPrecondition,
        }
    }

    /// The kind of refusal as a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown { .. } | Self::IgnoredUnknown { .. } => "unknown_tablet",
            Self::NamedIgnored { .. } | Self::SideNotNamed => "invalid_request",
            Self::MustNot { .. } => "must_not",
            Self::OtherCell { .. } => "other_cell",
            Self::NotUsable { .. } => "not_usable",
            Self::InBackup { .. } => "in_backup",
            Self::NoProgress(_) => "not_established",
            Self::NotRevoked { .. } | Self::OldPrimaryUnknown { .. } | Self::UnlistedCells { .. } => "not_revoked",
            Self::MixedFlavors { .. } => "mixed_positions",
            Self::WipedEvidence { .. } => "wiped_evidence",
            Self::SplitBrain { .. } => "split_brain",
            Self::NotASide { .. } => "not_a_side",
            Self::WouldLose { .. } => "would_lose",
            Self::OtherLoss { .. } => "other_loss",
            Self::Incomplete { .. } => "not_complete",
            Self::NobodyFit { .. } => "nobody_fit",
        }
    }
}
