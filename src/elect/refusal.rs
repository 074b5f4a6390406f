//! Why a tablet was not elected, and why nobody was.

use std::{collections::BTreeMap, fmt, time::Duration};

use tonic::Code;

use crate::{
    durability::NotEstablished,
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// Why a tablet was not elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Another tablet was named.
    NotNamed,
    /// The policy never promotes a tablet of this type.
    MustNot(TabletType),
    /// Its tag says that it is never promoted.
    TaggedMustNot,
    /// It is the one to avoid.
    Avoided,
    /// It is recorded as PRIMARY, and such a tablet becomes primary only when it is named.
    RecordedPrimary,
    /// It stands in another cell than the recorded primary.
    OtherCell {
        /// The primary's cell.
        primary: String,
    },
    /// It did not answer.
    NotReached,
    /// It is taking a backup.
    InBackup,
    /// Its lag is not known: it does not replicate.
    LagUnknown,
    /// It lags more than is tolerated.
    Lags {
        /// Its lag.
        lag: Duration,
        /// What is tolerated.
        tolerable: Duration,
    },
    /// It could not commit as primary.
    NotEstablished(NotEstablished),
    /// The elected one is further ahead.
    Behind,
    /// As far ahead as the elected one, which comes first by promotion rule, buffer pool or alias.
    Outranked,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => f.write_str("another tablet was named"),
            Self::MustNot(tablet_type) => write!(f, "a tablet of type {} must not be promoted", tablet_type.as_str_name()),
            Self::TaggedMustNot => f.write_str("its tag vtelector_promotion_rule is must_not"),
            Self::Avoided => f.write_str("it is the primary to avoid"),
            Self::RecordedPrimary => f.write_str("it is recorded as PRIMARY; name it to promote it"),
            Self::OtherCell { primary } => {
                write!(f, "its cell is not the primary's, {primary}; allow cross-cell promotion or name it")
            }
            Self::NotReached => f.write_str("it does not answer"),
            Self::InBackup => f.write_str("it is taking a backup"),
            Self::LagUnknown => f.write_str("its replication lag is unknown"),
            Self::Lags { lag, tolerable } => {
                write!(f, "it lags {} s and {} s are tolerable", lag.as_secs(), tolerable.as_secs_f64())
            }
            Self::NotEstablished(not) => not.fmt(f),
            Self::Behind => f.write_str("it is less advanced"),
            Self::Outranked => f.write_str("it comes after the elected one by promotion rule, buffer pool or alias"),
        }
    }
}

/// Nobody can be elected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCandidate {
    /// The named tablet is not one of the shard's.
    #[error("{alias} is not a tablet of {shard}; name one of its tablets")]
    Unknown {
        /// The named tablet.
        alias: TabletAlias,
        /// The shard.
        shard: ShardId,
    },
    /// The policy never promotes the named tablet.
    #[error("{alias} must not be promoted: its type is {}; name a REPLICA tablet", .tablet_type.as_str_name())]
    MustNot {
        /// The named tablet.
        alias: TabletAlias,
        /// The type in its record.
        tablet_type: TabletType,
    },
    /// The named tablet's tag says that it is never promoted.
    #[error("{alias} must not be promoted: its tag vtelector_promotion_rule is must_not; name another tablet, or change the tag")]
    TaggedMustNot {
        /// The named tablet.
        alias: TabletAlias,
    },
    /// The replication status of a candidate is not known.
    #[error("cannot judge candidate {alias}: {reason}")]
    StatusFailed {
        /// The candidate.
        alias: TabletAlias,
        /// The failure.
        reason: String,
    },
    /// The tablet that would be elected could not commit.
    #[error("{0}; name another tablet, or add replicas that may acknowledge it")]
    NoProgress(NotEstablished),
    /// Every tablet was rejected.
    #[error("no tablet of {shard} can be elected: {}", rejections(.rejected))]
    AllRejected {
        /// The shard.
        shard: ShardId,
        /// Each tablet's reason.
        rejected: BTreeMap<TabletAlias, Rejection>,
    },
}

fn rejections(rejected: &BTreeMap<TabletAlias, Rejection>) -> String {
    if rejected.is_empty() {
        return "it has no tablets".to_owned();
    }
    rejected.iter().map(|(alias, why)| format!("{alias}: {why}")).collect::<Vec<_>>().join("; ")
}

impl NoCandidate {
    /// The gRPC code for the caller.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::NotFound,
            Self::MustNot { .. } | Self::TaggedMustNot { .. } => Code::Aborted,
            Self::StatusFailed { .. } => Code::Unavailable,
            Self::NoProgress(_) | Self::AllRejected { .. } => Code::FailedPrecondition,
        }
    }
}
