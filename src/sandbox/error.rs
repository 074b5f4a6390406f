//! What can go wrong when a cluster is set up on one machine.

use std::{io, process::ExitStatus, time::Duration};

/// Setting up, or driving, a local cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A program that is needed is not there.
    #[error("no usable {name} found in {places}{why}; run deploy/tools/install, which puts one below target/tools")]
    NoTool {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        places: String,
        /// Why what was found is of no use; may be empty.
        why: String,
    },
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended that should be running, or failed.
    #[error("{name} ended with {status}; the end of its log:\n{log}")]
    Exited {
        /// The program and which one of several.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        log: String,
    },
    /// A condition was not met in time.
    #[error("{what}: not within {limit:?}; at last: {last}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// Why it was not so when last looked at.
        last: String,
    },
    /// A MySQL server refused a statement or a connection.
    #[error("{doing} on {server}: {source}")]
    Mysql {
        /// The statement, or "connecting".
        doing: String,
        /// The server.
        server: String,
        /// MySQL's reason.
        source: mysql_async::Error,
    },
    /// etcd refused a request.
    #[error("{doing} in etcd: {source}")]
    Etcd {
        /// What was attempted.
        doing: String,
        /// etcd's reason.
        source: etcd_client::Error,
    },
    /// The cluster is not as it must be; each sentence says one thing that is wrong.
    #[error("{}", .0.join("; "))]
    Wrong(Vec<String>),
}

impl SandboxError {
    /// For `map_err`: names what was attempted.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
