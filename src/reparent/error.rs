//! Why a reparent failed, and what it left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use tonic::Code;

use crate::{
    durability::{ExtraError, PolicyError},
    elect::{NoCandidate, NoPromotion},
    tablet::{TabletError, TabletErrorKind},
    topo::{LockLost, LockOr, ShardId, TabletAlias, TopoError},
};

/// A reparent that did not do what was asked. The message names the tablets and the remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReparentError {
    /// The tablet that should become primary is the one to avoid.
    #[error("{alias} is both the new primary and the primary to avoid; name another tablet, or leave one of the two out")]
    SameAsAvoid {
        /// The tablet named twice.
        alias: TabletAlias,
    },
    /// The shard record names another primary than the caller expected.
    #[error("{shard} has {} as its primary and not {expected}, which was expected; look again before moving it", or_none(.found))]
    ExpectedPrimaryMismatch {
        /// The shard.
        shard: ShardId,
        /// What the caller expected.
        expected: TabletAlias,
        /// What the shard record says.
        found: Option<TabletAlias>,
    },
    /// The topology could not be read or locked; nothing was changed.
    #[error(transparent)]
    Topo(#[from] TopoError),
    /// The keyspace names a durability policy that does not exist.
    #[error("keyspace {keyspace}: {source}")]
    UnknownPolicy {
        /// The keyspace.
        keyspace: String,
        /// The name and the ones that exist.
        source: PolicyError,
    },
    /// Our settings demand of the keyspace what its durability policy cannot give.
    #[error("--durability-extra {keyspace}=...: {source}, or leave it out")]
    Extra {
        /// The keyspace.
        keyspace: String,
        /// What cannot be added to what.
        source: ExtraError,
    },
    /// Nobody can be elected; every tablet has its reason.
    #[error(transparent)]
    NoCandidate(#[from] NoCandidate),
    /// Nobody may be promoted in an emergency.
    #[error(transparent)]
    NoPromotion(Box<NoPromotion>),
    /// A request names a tablet in a way that cannot be meant.
    #[error("{0}")]
    Request(String),
    /// A tablet that must take part does not answer; nothing was changed.
    #[error("{source}; a planned reparent needs every PRIMARY and REPLICA tablet: bring {} back, or delete its record", .source.alias)]
    TabletUnreachable {
        /// The call that failed.
        source: TabletError,
    },
    /// Some cells cannot be read and the shard record alone does not tell who the primary is; nothing was changed.
    #[error(
        "cannot tell who is primary of {shard} while the topology of {cells} cannot be read; bring that cell's topology back"
    )]
    PartialTopology {
        /// The shard.
        shard: ShardId,
        /// The cells, with the reason of each.
        cells: String,
    },
    /// A step failed on a tablet.
    #[error("{step}: {source}; {remedy}")]
    Step {
        /// Which step.
        step: FailedStep,
        /// The call that failed.
        source: TabletError,
        /// What a person can do.
        remedy: &'static str,
    },
    /// The elect lacks transactions that another tablet holds.
    #[error("{elect} lacks {missing}, which {ahead} has; promote {ahead}, or let {elect} catch up first")]
    CandidateBehind {
        /// The tablet that should have become primary.
        elect: TabletAlias,
        /// A tablet that is ahead of it.
        ahead: TabletAlias,
        /// The missing transactions.
        missing: String,
    },
    /// A setting of the elect makes it unfit to be primary.
    #[error("{elect} must not become primary: {reason}")]
    Unfit {
        /// The tablet.
        elect: TabletAlias,
        /// The setting, its value, and what is right.
        reason: String,
    },
    /// A position that cannot be understood.
    #[error("{alias} answered the position {position:?}: {reason}")]
    Position {
        /// The tablet.
        alias: TabletAlias,
        /// Its words.
        position: String,
        /// Why it is no position.
        reason: String,
    },
    /// The shard lock was lost.
    #[error(transparent)]
    LockLost(#[from] LockLost),
    /// The intent could not be written, so the step was not taken.
    #[error("{step} was not sent, because the intent could not be written: {source}")]
    Intent {
        /// The step.
        step: &'static str,
        /// What the store said.
        source: LockOr,
    },
    /// Another run's record stands where ours would go and cannot be understood.
    #[error(
        "{key} holds a reparent journal that this version cannot read ({reason}); finish it with the newer version, or delete the key"
    )]
    ForeignJournal {
        /// The key.
        key: String,
        /// The decoder's words.
        reason: String,
    },
    /// The caller went away before the point of no return.
    #[error("the caller went away or its deadline passed before {elect} was promoted")]
    Cancelled {
        /// The tablet that would have become primary.
        elect: TabletAlias,
    },
    /// The promotion stands; some replicas do not follow.
    #[error(
        "{primary} is the primary, but not every replica follows it: {failures}; run the same command with {primary} as the new primary to repair it"
    )]
    ReplicasFailed {
        /// The new primary.
        primary: TabletAlias,
        /// Each replica and its error.
        failures: String,
    },
    /// The abrupt way is not open to this shard.
    #[error("the abrupt mode is refused: {reason}; use the graceful mode")]
    AbruptRefused {
        /// Why.
        reason: String,
    },
    /// The shard has had a primary before.
    #[error("{shard} has been initialised already{}; use PlannedReparentShard", .primary.as_ref().map(|p| format!(" and {p} is its primary")).unwrap_or_default())]
    AlreadyInitialised {
        /// The shard.
        shard: ShardId,
        /// Its primary.
        primary: Option<TabletAlias>,
    },
    /// A tablet that cannot be pointed at the primary.
    #[error("{alias} cannot be pointed at a primary: {reason}")]
    NotAReplica {
        /// The tablet.
        alias: TabletAlias,
        /// Why not.
        reason: String,
    },
    /// The operation's task ended without an answer: the process is stopping.
    #[error("the reparent of {shard} was interrupted because vtelector is stopping; run it again")]
    Stopping {
        /// The shard.
        shard: ShardId,
    },
    /// Under the lock it turned out that nothing has to be done any more; nothing was.
    #[error("{shard} was left alone: {reason}")]
    NotDue {
        /// The shard.
        shard: ShardId,
        /// What is different now.
        reason: String,
    },
    /// A failure after something had been changed, and what was done about it.
    #[error("{cause}; {aftermath}")]
    After {
        /// The failure.
        cause: Box<ReparentError>,
        /// The state it left.
        aftermath: Aftermath,
    },
}

/// The step that failed; prints as what was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedStep {
    /// Reading the candidates' replication status.
    CandidateStatus,
    /// Reading the primary's position.
    PrimaryPosition,
    /// Catching up before the demotion.
    CatchUp,
    /// Making the old primary read-only.
    Demote,
    /// Catching up with the demoted primary.
    CatchUpAfterDemotion,
    /// Making the elect primary.
    Promote,
    /// Making the current primary writable again.
    SetReadWrite,
    /// Writing the reparent-journal row.
    JournalRow,
    /// Pointing a tablet at its primary.
    Repoint,
}

impl FailedStep {
    /// The failure of this step as a metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CandidateStatus => "candidate_status",
            Self::PrimaryPosition => "primary_position",
            Self::CatchUp | Self::CatchUpAfterDemotion => "catch_up",
            Self::Demote => "demote",
            Self::Promote => "promote",
            Self::SetReadWrite => "set_read_write",
            Self::JournalRow => "journal_row",
            Self::Repoint => "repoint",
        }
    }
}

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CandidateStatus => "cannot judge a candidate",
            Self::PrimaryPosition => "the current primary must be healthy, but its position cannot be read",
            Self::CatchUp => "the new primary did not catch up with the current one",
            Self::Demote => "the current primary was not demoted",
            Self::CatchUpAfterDemotion => "the new primary did not catch up with the demoted one",
            Self::Promote => "the new primary was not promoted",
            Self::SetReadWrite => "the current primary was not made writable",
            Self::JournalRow => "the reparent journal could not be written",
            Self::Repoint => "the tablet was not pointed at its primary",
        })
    }
}

/// What a failed reparent left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aftermath {
    /// The old primary is writable again, as it was.
    Undone {
        /// The old primary.
        primary: TabletAlias,
    },
    /// The old primary could not be made writable again.
    NotUndone {
        /// The old primary.
        primary: TabletAlias,
        /// Why.
        reason: String,
    },
    /// The new primary is primary all the same.
    Promoted {
        /// The new primary.
        primary: TabletAlias,
    },
    /// It cannot be seen whether the new primary is primary.
    Unknown {
        /// The new primary.
        primary: TabletAlias,
        /// What was seen.
        reason: String,
    },
    /// An emergency reparent was given up before anybody was promoted.
    Reverted {
        /// The old primary, where it is writable again.
        writable: Option<TabletAlias>,
        /// Replicas that replicate again.
        restarted: BTreeSet<TabletAlias>,
        /// What could not be put back, with the reason of each.
        left: BTreeMap<TabletAlias, String>,
    },
    /// Nothing was put back: that is not certain to be right, or not ours to do any more.
    LeftToTheNext {
        /// Why.
        reason: String,
    },
    /// Every tablet was left read-only, because it is not known who was primary.
    AllReadOnly,
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undone { primary } => write!(f, "undone: {primary} is the primary and writable, as before"),
            Self::NotUndone { primary, reason } => write!(
                f,
                "{primary} may be read-only and could not be made writable again ({reason}): run PlannedReparentShard with {primary} as the new primary"
            ),
            Self::Promoted { primary } => {
                write!(f, "{primary} is already primary: run PlannedReparentShard with it as the new primary to complete the job")
            }
            Self::Unknown { primary, reason } => write!(
                f,
                "whether {primary} became primary is not known ({reason}): look at it, then run PlannedReparentShard with it as the new primary"
            ),
            Self::Reverted { writable, restarted, left } => {
                f.write_str("nobody was promoted")?;
                if let Some(primary) = writable {
                    write!(f, "; {primary} is writable again")?;
                }
                if !restarted.is_empty() {
                    let restarted = restarted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    write!(f, "; replication was started again on {restarted}")?;
                }
                left.iter().try_for_each(|(alias, reason)| write!(f, "; {alias} is left as it is: {reason}"))
            }
            Self::LeftToTheNext { reason } => {
                write!(f, "nothing was put back, because {reason}; run EmergencyReparentShard again, which takes it over")
            }
            Self::AllReadOnly => {
                f.write_str("every tablet was left read-only: run PlannedReparentShard again with the most advanced tablet as the new primary")
            }
        }
    }
}

impl ReparentError {
    /// The gRPC code for the caller.
    pub fn code(&self) -> Code {
        match self {
            Self::SameAsAvoid { .. }
            | Self::ExpectedPrimaryMismatch { .. }
            | Self::UnknownPolicy { .. }
            | Self::Extra { .. }
            | Self::CandidateBehind { .. }
            | Self::Unfit { .. }
            | Self::ForeignJournal { .. }
            | Self::AbruptRefused { .. }
            | Self::AlreadyInitialised { .. }
            | Self::NotAReplica { .. } => Code::FailedPrecondition,
            Self::NoCandidate(none) => none.code(),
            Self::NoPromotion(none) => none.code(),
            Self::Request(_) => Code::InvalidArgument,
            Self::Topo(error) => topo_code(error),
            Self::TabletUnreachable { .. } | Self::PartialTopology { .. } | Self::Stopping { .. } => Code::Unavailable,
            Self::Step { source, .. } => tablet_code(source),
            Self::Position { .. } => Code::DataLoss,
            Self::LockLost(_) | Self::Intent { source: LockOr::Lost(_), .. } | Self::ReplicasFailed { .. } => Code::Aborted,
            Self::Intent { source: LockOr::Kv(_), .. } => Code::Unavailable,
            Self::Cancelled { .. } => Code::DeadlineExceeded,
            Self::NotDue { .. } => Code::FailedPrecondition,
            Self::After { cause, .. } => cause.code(),
        }
    }

    /// The kind of failure as a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SameAsAvoid { .. } => "same_as_avoid",
            Self::ExpectedPrimaryMismatch { .. } => "expected_primary_mismatch",
            Self::Topo(TopoError::LockTimeout { .. }) => "lock_timeout",
            Self::Topo(_) | Self::PartialTopology { .. } => "topology",
            Self::UnknownPolicy { .. } | Self::Extra { .. } => "unknown_policy",
            Self::NoCandidate(_) => "no_candidate",
            Self::NoPromotion(none) => none.reason(),
            Self::Request(_) => "invalid_request",
            Self::TabletUnreachable { .. } => "tablet_unreachable",
            Self::Step { step, .. } => step.reason(),
            Self::CandidateBehind { .. } => "candidate_behind",
            Self::Unfit { .. } => "unfit",
            Self::Position { .. } => "position",
            Self::LockLost(_) | Self::Intent { source: LockOr::Lost(_), .. } => "lock_lost",
            Self::Intent { source: LockOr::Kv(_), .. } => "intent_not_written",
            Self::ForeignJournal { .. } => "foreign_journal",
            Self::Cancelled { .. } => "cancelled",
            Self::ReplicasFailed { .. } => "replicas_failed",
            Self::AbruptRefused { .. } => "abrupt_refused",
            Self::AlreadyInitialised { .. } => "already_initialised",
            Self::NotAReplica { .. } => "not_a_replica",
            Self::Stopping { .. } => "stopping",
            Self::NotDue { .. } => "not_due",
            Self::After { cause, .. } => cause.reason(),
        }
    }

    /// The cause without what was done about it.
    pub fn cause(&self) -> &ReparentError {
        match self {
            Self::After { cause, .. } => cause.cause(),
            other => other,
        }
    }

    /// This failure, with what it left behind.
    pub(super) fn after(self, aftermath: Aftermath) -> Self {
        Self::After { cause: Box::new(self), aftermath }
    }
}

/// A tablet's code where it says something; a plain failure is internal to the shard, not unknown.
fn tablet_code(error: &TabletError) -> Code {
    match (error.kind, error.code) {
        (TabletErrorKind::Unreachable | TabletErrorKind::MysqlDown, _) => Code::Unavailable,
        (_, Code::Unknown | Code::Ok) => Code::Internal,
        (_, code) => code,
    }
}

fn topo_code(error: &TopoError) -> Code {
    match error {
        TopoError::NotFound { .. } => Code::NotFound,
        TopoError::Exists { .. } => Code::AlreadyExists,
        TopoError::Garbage { .. } => Code::DataLoss,
        TopoError::Name(_) => Code::InvalidArgument,
        TopoError::LockLost { .. } => Code::Aborted,
        TopoError::LockTimeout { .. } | TopoError::Kv { .. } => Code::Unavailable,
    }
}

fn or_none(alias: &Option<TabletAlias>) -> String {
    alias.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string)
}
