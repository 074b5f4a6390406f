//! Why a call was not done: the code that a program reads and the sentence that a person reads.

use tonic::{Code, Status};

use crate::{
    serve::door::Denial,
    tablet::{TabletError, TabletErrorKind},
    text::within,
    topo::{KvError, NameError, TopoError},
};

/// Longest error text that is sent; Vitess cuts there too, as a longer one would break HTTP/2 header limits of clients.
const MESSAGE_BYTES_MAX: usize = 7680;

/// An answer other than the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of mistake or failure it is.
    pub code: Code,
    /// What is wrong with which thing, and what to do.
    pub message: String,
}

impl Refusal {
    /// An answer with that code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The request itself cannot be meant.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// The request could be done, but not in the present state of the world.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut message = refusal.message;
        message.truncate(within(&message, MESSAGE_BYTES_MAX).len());
        Status::new(refusal.code, message)
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let status = Status::from(denial);
        Self::new(status.code(), status.message())
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<TopoError> for Refusal {
    fn from(error: TopoError) -> Self {
        let code = match &error {
            TopoError::NotFound { .. } => Code::NotFound,
            TopoError::Exists { .. } => Code::AlreadyExists,
            TopoError::Garbage { .. } => Code::DataLoss,
            TopoError::Name(_) => Code::InvalidArgument,
            TopoError::LockLost { .. } => Code::Aborted,
            // The holder goes on meanwhile; the same call may succeed later.
            TopoError::LockTimeout { .. } => Code::Unavailable,
            TopoError::Kv { source, .. } => match source {
                KvError::Exists { .. } => Code::AlreadyExists,
                KvError::BadVersion { .. } | KvError::LeaseGone { .. } => Code::Aborted,
                KvError::Unreachable { .. } => Code::Unavailable,
                KvError::Compacted { .. } => Code::OutOfRange,
                KvError::Refused { .. } => Code::Internal,
            },
        };
        Self::new(code, error.to_string())
    }
}

impl From<TabletError> for Refusal {
    fn from(error: TabletError) -> Self {
        let code = match error.kind {
            TabletErrorKind::Unreachable | TabletErrorKind::MysqlDown => Code::Unavailable,
            TabletErrorKind::UnknownOutcome if error.code == Code::DeadlineExceeded => Code::DeadlineExceeded,
            TabletErrorKind::UnknownOutcome => Code::Unavailable,
            TabletErrorKind::NotReplica | TabletErrorKind::Precondition | TabletErrorKind::ErrantGtid => Code::FailedPrecondition,
            TabletErrorKind::AlreadyDone => Code::AlreadyExists,
            TabletErrorKind::Unimplemented => Code::Unimplemented,
            TabletErrorKind::Overtaken => Code::Aborted,
            // A vttablet answers UNKNOWN to most failures: it was reached, and it failed.
            TabletErrorKind::Failed if matches!(error.code, Code::Unknown | Code::Ok) => Code::Internal,
            TabletErrorKind::Failed => error.code,
        };
        Self::new(code, error.to_string())
    }
}
