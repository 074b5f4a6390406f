//! A whole cluster on one machine: real etcd, real mysqld servers, agents, an elector, writers, as child processes on loopback.
//!
//! `vtelector demo` shows it to a person; the integration tests drive it. Everything started here is owned: it ends, by its
//! process id, when its owner is dropped, and also when the process that started it is killed.

mod check;
mod cluster;
mod error;
mod etcd;
mod fault;
mod mysqld;
mod netns;
mod process;
mod tools;
mod writer;

use std::{
    fmt::Display,
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

pub use cluster::{Cluster, GLOBAL_ROOT, KEYSPACE, OtherElector, SHARD, Shape, Tablet};
pub use error::SandboxError;
pub use etcd::Etcd;
pub use fault::Fault;
pub use mysqld::{APP, DBA, Mysqld, REPLICATION};
pub use netns::{Host, Network};
pub use process::{Process, Signal};
pub use tools::Tools;
pub use writer::{Ack, Move, Writers, lost, second_writers, write_gap};

/// How often a condition is looked at: often enough not to be seen in a measurement of seconds, and cheap.
const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` again and again until it answers `Ok`, for at most `limit`; a probe that hangs is cut off there.
///
/// The error names `what` was waited for and the last reason why it was not so.
pub async fn eventually<T, E: Display>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, SandboxError> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("nothing was learned");
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = reason.to_string(),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(SandboxError::Late { what: what.to_owned(), limit, last });
        }
        sleep(POLL).await;
    }
}

/// A TCP port of 127.0.0.1 that nobody listens on. It lies below the range from which the kernel serves outgoing
/// connections, so that none of those takes it before its server does.
pub fn free_port() -> Result<u16, SandboxError> {
    const PORTS: std::ops::Range<u16> = 10_240..32_000;
    for _ in 0..100 {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(SandboxError::io("finding a free TCP port")(io::ErrorKind::AddrInUse.into()))
}

/// A folder below the system's temporary one, removed with all its content when dropped.
#[derive(Debug)]
pub struct TempFolder {
    path: PathBuf,
    keep: bool,
}

impl TempFolder {
    /// Makes the folder. Its path is short, because a Unix socket's may have 107 bytes at most.
    pub fn new() -> Result<Self, SandboxError> {
        let path = std::env::temp_dir().join(format!("vtelector-{:08x}", rand::random::<u32>()));
        fs::create_dir_all(&path).map_err(SandboxError::io(format!("making the folder {}", path.display())))?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is, for a person who wants to read the logs.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed is in the system's temporary folder, which the system cleans.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
