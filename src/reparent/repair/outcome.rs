//! How a repair ended: typed, so that whoever asked for it can choose what comes next.

use std::time::Duration;

use crate::{
    diagnose::Repair,
    mysql::GtidSet,
    reparent::{ReparentError, ReparentEvent},
    tablet::TabletError,
    topo::{LockLost, TabletAlias, TopoError},
};

/// One repair: what was said on the way, and how it ended.
#[derive(Debug, Clone)]
pub struct RepairOutcome {
    /// What was to be done.
    pub repair: Repair,
    /// To which tablet.
    pub tablet: TabletAlias,
    /// How it ended.
    pub end: RepairEnd,
    /// Lines in the order in which they were said.
    pub events: Vec<ReparentEvent>,
    /// From the lock to the end; zero when the lock was not had.
    pub took: Duration,
}

/// How a repair ended.
#[derive(Debug, Clone)]
pub enum RepairEnd {
    /// It was done, and read back; the text says what was done.
    Done(String),
    /// Read again under the lock, there was nothing to repair; the text says what was found.
    AlreadyFixed(String),
    /// It would do harm now.
    Refused(Refusal),
    /// It was begun or wanted and came to no good end.
    Failed(RepairError),
    /// Whoever asked called it off under the lock, or has gone away.
    NotDue(String),
}

impl RepairEnd {
    /// Whether everything is as it should be now.
    pub fn is_right(&self) -> bool {
        matches!(self, Self::Done(_) | Self::AlreadyFixed(_))
    }

    /// Its name as a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::AlreadyFixed(_) => "already_fixed",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::NotDue(_) => "not_due",
        }
    }
}

impl std::fmt::Display for RepairEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(what) => f.write_str(what),
            Self::AlreadyFixed(found) => write!(f, "nothing to repair: {found}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::NotDue(reason) => write!(f, "not due: {reason}"),
        }
    }
}

/// Why a repair would do harm now. Nothing was changed, unless the events say so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The topology does not name one primary: nobody, or two of one term.
    #[error("the topology does not say who the primary is: {reason}")]
    NoPrimary {
        /// What it says.
        reason: String,
    },
    /// Another tablet is the primary, or this one is.
    #[error("{tablet} is {} the primary: the topology names {primary}", if tablet == primary { "" } else { "not" })]
    Role {
        /// The tablet that was to be repaired.
        tablet: TabletAlias,
        /// The declared primary.
        primary: TabletAlias,
    },
    /// The tablet is not one of the shard, or somebody took it out of service.
    #[error("{tablet} is left alone: {reason}")]
    LeftAlone {
        /// The tablet.
        tablet: TabletAlias,
        /// Why.
        reason: String,
    },
    /// It has transactions that the primary does not have.
    #[error("{tablet} has {errant}, which {primary} does not have: rebuild it from a backup or a clone, or recover them first")]
    Errant {
        /// The tablet.
        tablet: TabletAlias,
        /// The primary.
        primary: TabletAlias,
        /// The transactions.
        errant: GtidSet,
    },
    /// The primary has purged what it lacks.
    #[error("{tablet} lacks {lacks}, which {primary} has purged from its binary logs: rebuild it from a backup or a clone")]
    NeedsRebuild {
        /// The tablet.
        tablet: TabletAlias,
        /// The primary.
        primary: TabletAlias,
        /// The transactions.
        lacks: GtidSet,
    },
    /// What it has received would be thrown away, because it cannot be applied.
    #[error(
        "{tablet} has received {unapplied} and cannot apply it ({reason}); changing its source would throw it away: repair its SQL thread"
    )]
    Unapplied {
        /// The tablet.
        tablet: TabletAlias,
        /// The transactions.
        unapplied: GtidSet,
        /// Why they are not applied.
        reason: String,
    },
    /// It is applying what it has received; the repair is for later.
    #[error("{tablet} is still applying {unapplied}, which a change of its source would throw away now")]
    Applying {
        /// The tablet.
        tablet: TabletAlias,
        /// The transactions.
        unapplied: GtidSet,
    },
    /// Another tablet takes writes, or may do so.
    #[error("{writer} {reason}, while the topology names {primary}: move the primary, or demote {writer}, first")]
    WrongPrimary {
        /// The declared primary.
        primary: TabletAlias,
        /// Who takes writes.
        writer: TabletAlias,
        /// How it is known.
        reason: String,
    },
    /// The declared primary copies from another server.
    #[error("{primary} replicates from {source_address}: it forgets its source first")]
    PrimaryReplicates {
        /// The declared primary.
        primary: TabletAlias,
        /// Its source.
        source_address: String,
    },
    /// The declared primary lacks what another tablet has.
    #[error("{primary} lacks {lacks}, which {ahead} has: writes on it would part with them; promote {ahead}")]
    Behind {
        /// The declared primary.
        primary: TabletAlias,
        /// Who has them.
        ahead: TabletAlias,
        /// The transactions.
        lacks: GtidSet,
    },
    /// Commits would hang.
    #[error("{why}: {acking} tablet(s) acknowledge {primary}, and {needed} are needed")]
    TooFewAckers {
        /// What is not done.
        why: String,
        /// The primary.
        primary: TabletAlias,
        /// How many there would be.
        acking: usize,
        /// How many are needed.
        needed: usize,
    },
    /// Something else has to be repaired before.
    #[error("{first} first: {reason}")]
    Later {
        /// What.
        first: String,
        /// Why.
        reason: String,
    },
    /// Tablets that cannot be seen might make it wrong.
    #[error("it is not certain while the topology of {cells} cannot be read")]
    PartialTopology {
        /// The cells, each with the reason.
        cells: String,
    },
}

impl Refusal {
    /// Its name as a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoPrimary { .. } => "no_primary",
            Self::Role { .. } => "role",
            Self::LeftAlone { .. } => "left_alone",
            Self::Errant { .. } => "errant",
            Self::NeedsRebuild { .. } => "needs_rebuild",
            Self::Unapplied { .. } => "unapplied",
            Self::Applying { .. } => "applying",
            Self::WrongPrimary { .. } => "wrong_primary",
            Self::PrimaryReplicates { .. } => "primary_replicates",
            Self::Behind { .. } => "behind",
            Self::TooFewAckers { .. } => "too_few_ackers",
            Self::Later { .. } => "later",
            Self::PartialTopology { .. } => "partial_topology",
        }
    }
}

/// Why a repair failed. Repeating it is safe: whatever was done is looked at again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RepairError {
    /// The topology could not be read or written.
    #[error(transparent)]
    Topo(#[from] TopoError),
    /// The shard lock was lost.
    #[error(transparent)]
    LockLost(#[from] LockLost),
    /// The shard could not be locked or read, or what an earlier reparent left could not be led to its end.
    #[error(transparent)]
    Reparent(Box<ReparentError>),
    /// A call failed.
    #[error("{doing}: {source}")]
    Tablet {
        /// What was tried.
        doing: &'static str,
        /// The call.
        source: TabletError,
    },
    /// What a tablet says of itself cannot be judged.
    #[error("{tablet} cannot be judged: {reason}")]
    Unreadable {
        /// The tablet.
        tablet: TabletAlias,
        /// Why.
        reason: String,
    },
    /// A call was answered well, and yet the tablet is not as it should be.
    #[error("{tablet} is not as it should be after the repair: {found}; look at that tablet")]
    NotVerified {
        /// The tablet.
        tablet: TabletAlias,
        /// What was found.
        found: String,
    },
    /// Its replication does not run.
    #[error("replication of {tablet} does not run: {reason}")]
    Replication {
        /// The tablet.
        tablet: TabletAlias,
        /// MySQL's words: the IO thread's error, the SQL thread's error.
        reason: String,
    },
    /// The process is stopping.
    #[error("the repair was interrupted because vtelector is stopping")]
    Stopping,
}

impl From<ReparentError> for RepairError {
    fn from(error: ReparentError) -> Self {
        match error {
            ReparentError::Topo(error) => Self::Topo(error),
            ReparentError::LockLost(lost) => Self::LockLost(lost),
            other => Self::Reparent(Box::new(other)),
        }
    }
}

/// A repair that came to a good end.
pub(super) enum Fixed {
    Done(String),
    Already(String),
}

/// A repair that did not.
pub(super) enum Stop {
    Refused(Refusal),
    Failed(RepairError),
    NotDue(String),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RepairError> for Stop {
    fn from(error: RepairError) -> Self {
        Self::Failed(error)
    }
}

impl From<ReparentError> for Stop {
    fn from(error: ReparentError) -> Self {
        match error {
            ReparentError::NotDue { reason, .. } => Self::NotDue(reason),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<TopoError> for Stop {
    fn from(error: TopoError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Result<Fixed, Stop>> for RepairEnd {
    fn from(end: Result<Fixed, Stop>) -> Self {
        match end {
            Ok(Fixed::Done(what)) => Self::Done(what),
            Ok(Fixed::Already(found)) => Self::AlreadyFixed(found),
            Err(Stop::Refused(refusal)) => Self::Refused(refusal),
            Err(Stop::Failed(error)) => Self::Failed(error),
            Err(Stop::NotDue(reason)) => Self::NotDue(reason),
        }
    }
}

/// What a failed call was for.
pub(super) fn during(doing: &'static str) -> impl FnOnce(TabletError) -> Stop {
    move |source| Stop::Failed(RepairError::Tablet { doing, source })
}
