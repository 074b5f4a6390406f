//! Why the agent did not do what it was asked, and what the caller reads of it.

use tonic::{Code, Status};

use crate::{
    mysql::{GtidError, conn::MysqlError},
    tablet::{MysqlErrno, TabletError},
    text::within,
    topo::{TabletAlias, TopoError},
};

/// Longest error text that is sent, in bytes; Vitess cuts at the same length.
const MESSAGE_LEN_MAX: usize = 7680;

/// A request that failed. The texts are a contract: callers decide by the errno in them.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Reading from MySQL failed; the code follows the errno.
    #[error("{0}")]
    Read(#[from] MysqlError),
    /// A statement that changes MySQL failed; as from a vttablet, the errno is in the text only.
    #[error("ExecuteFetch failed: {0}")]
    Change(#[source] MysqlError),
    /// The server has no replication source. Callers take errno 100 for "this may be a primary".
    #[error("no replication status (errno 100) (sqlstate HY000)")]
    NotReplica,
    /// The status before stopping could not be read.
    #[error("before status failed: {0}")]
    BeforeStatus(#[source] Box<AgentError>),
    /// Refused before anything was changed, or at a step that needs what is not there.
    #[error("{0}")]
    Precondition(String),
    /// A newer holder of the shard lock was here.
    #[error(
        "overtaken: this call was made under shard lock revision {given}, but revision {seen} has been here; take the lock again and \
         look at the shard afresh (if the global topology was restored from a copy, delete {file} and restart the agent)"
    )]
    Overtaken {
        /// Revision of the caller's lock.
        given: i64,
        /// Highest revision seen.
        seen: i64,
        /// Where it is kept.
        file: String,
    },
    /// The topology failed.
    #[error("{0}")]
    Topo(#[from] TopoError),
    /// The deadline passed.
    #[error("{0}")]
    Deadline(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A position that does not parse.
    #[error("parse error: {0}")]
    Position(#[from] GtidError),
    /// Another tablet failed us.
    #[error("{0}")]
    Peer(#[from] TabletError),
    /// A file of ours could not be used.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On which file.
        path: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The fence waits for a server that does not answer.
    #[error("mysqld does not answer; when it does, it throws its clients out and becomes read-only first of all")]
    Frozen,
    /// mysqld does not answer, as is known without asking it.
    #[error("{0}")]
    NoAnswer(String),
    /// The agent is going down.
    #[error("the agent is shutting down")]
    Shutdown,
}

impl AgentError {
    /// Wraps a MySQL error of a statement that changes something. No connection means that nothing was sent: that stays code 14.
    pub fn change(error: MysqlError) -> Self {
        match error {
            MysqlError::Unreachable { .. } => AgentError::Read(error),
            _ => AgentError::Change(error),
        }
    }

    /// What a caller of `method` gets.
    pub fn status(&self, method: &str, alias: &TabletAlias) -> Status {
        let mut message = format!("TabletManager.{method} on {alias}: {self}");
        message.truncate(within(&message, MESSAGE_LEN_MAX).len());
        Status::new(self.code(), message)
    }

    fn code(&self) -> Code {
        match self {
            AgentError::Read(error) => read_code(error),
            AgentError::Change(_) | AgentError::NotReplica | AgentError::Topo(_) => Code::Unknown,
            AgentError::BeforeStatus(error) => error.code(),
            AgentError::Precondition(_) | AgentError::Overtaken { .. } => Code::FailedPrecondition,
            AgentError::Deadline(_) | AgentError::Frozen => Code::DeadlineExceeded,
            AgentError::Invalid(_) => Code::InvalidArgument,
            AgentError::Position(_) | AgentError::File { .. } => Code::Internal,
            AgentError::Peer(error) => error.code,
            AgentError::NoAnswer(words) => MysqlErrno::find(words).map_or(Code::Unavailable, |found| errno_code(found.errno)),
            AgentError::Shutdown => Code::Unavailable,
        }
    }
}

/// The mapping of facts/tabletmanager.md 1.3 for errors of reads. Vitess's code 17 for errno 1290 is no gRPC code: it arrives as unknown.
fn read_code(error: &MysqlError) -> Code {
    match error {
        MysqlError::Timeout { .. } => return Code::DeadlineExceeded,
        MysqlError::TooManyRows { .. } => return Code::ResourceExhausted,
        MysqlError::Answer { .. } => return Code::Internal,
        MysqlError::Unreachable { .. } | MysqlError::Lost { .. } | MysqlError::Server { .. } => {}
    }
    errno_code(error.errno().unwrap_or(0).into())
}

fn errno_code(errno: u32) -> Code {
    match errno {
        2002 | 2003 | 2006 | 1053 => Code::Unavailable,
        2013 => Code::Cancelled,
        1205 => Code::DeadlineExceeded,
        1062 | 1050 => Code::AlreadyExists,
        1146 => Code::NotFound,
        1044 | 1045 => Code::PermissionDenied,
        1213 => Code::Aborted,
        1040 | 1203 => Code::ResourceExhausted,
        1064 | 1193 => Code::InvalidArgument,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias() -> TabletAlias {
        "zone1-101".parse().unwrap()
    }

    #[test]
    fn the_text_of_a_tablet_that_is_no_replica_is_vitess_own() {
        let status = AgentError::NotReplica.status("ReplicationStatus", &alias());
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(
            status.message(),
            "TabletManager.ReplicationStatus on zone1-0000000101: no replication status (errno 100) (sqlstate HY000)"
        );
        let before = AgentError::BeforeStatus(Box::new(AgentError::NotReplica)).status("StopReplicationAndGetStatus", &alias());
        assert!(before.message().ends_with(": before status failed: no replication status (errno 100) (sqlstate HY000)"));
    }

    #[test]
    fn a_dead_server_is_unavailable_for_reads_and_changes_alike() {
        let dead = MysqlError::Unreachable { address: "/s".to_owned(), reason: "refused".to_owned(), errno: 2002 };
        for error in [AgentError::Read(dead.clone()), AgentError::change(dead)] {
            let status = error.status("FullStatus", &alias());
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("(errno 2002) (sqlstate HY000)"), "{}", status.message());
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let status = AgentError::Precondition("ä".repeat(MESSAGE_LEN_MAX)).status("X", &alias());
        assert!(status.message().len() <= MESSAGE_LEN_MAX && status.message().len() > MESSAGE_LEN_MAX - 2);
    }
}
