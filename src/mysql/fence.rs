//! Making a MySQL server unable to acknowledge a write, without the help of its tablet (safety.md section 3).
//!
//! `offline_mode` is the fence: it cuts every client off in any state of the server, also those whose commits hang, and lets no new one
//! in. Then semi-sync is switched off, which ends the hung commits without anybody being told "committed", and super_read_only on.
//! Nobody waits for these two, which take a second.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    GtidSet,
    conn::{MysqlAddress, MysqlConn, MysqlError, MysqlSettings, Secret},
    tls::MysqlTls,
};
use crate::pb::topodata::Tablet;

/// How long a fence that was sent is waited for in the background: a frozen server may thaw that late and must find it queued.
const SENT_LIMIT: Duration = Duration::from_secs(3600);
/// Limit of what follows the fence; MySQL needs a second.
const FOLLOW_UP_LIMIT: Duration = Duration::from_secs(30);
/// Fences that are under way at the same time. What is more is refused: so many primaries do not die at once.
const FENCES_MAX: usize = 256;

const OFFLINE: &str = "SET GLOBAL offline_mode = ON";
const ONLINE: &str = "SET GLOBAL offline_mode = OFF";
const STATE: &str = "SELECT @@global.offline_mode, @@global.gtid_executed";
/// MySQL renamed the variable in 8.0.26; either plugin may be loaded, or none.
const SEMI_SYNC_OFF: [&str; 2] =
    ["SET GLOBAL rpl_semi_sync_source_enabled = OFF", "SET GLOBAL rpl_semi_sync_master_enabled = OFF"];
const READ_ONLY: &str = "SET GLOBAL super_read_only = ON";
/// MySQL's error number for a variable that does not exist.
const UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;

/// A server that was seen fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// What it had executed just after the fence. Every transaction that any client was told of as committed is in it. It is not the
    /// end: commits that hung are completed when semi-sync goes off, acknowledged to nobody.
    pub executed: GtidSet,
}

/// Why a server is not known to be fenced, or not known to be open again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// The tablet's record does not say where its MySQL is.
    #[error("the record of {tablet} names no MySQL host and port")]
    NoAddress {
        /// The tablet.
        tablet: String,
    },
    /// Nothing was sent.
    #[error("MySQL at {server} cannot be entered to fence it: {source}")]
    Unreachable {
        /// Where it listens.
        server: String,
        /// Why.
        source: MysqlError,
    },
    /// It answered and did not do it.
    #[error(
        "MySQL at {server} refused: {source}; the account of --mysql-user needs SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN \
         (README, MySQL account)"
    )]
    Refused {
        /// Where it listens.
        server: String,
        /// Its words.
        source: MysqlError,
    },
    /// Sent, without an answer so far: it may be carried out at any time.
    #[error("MySQL at {server} was sent {statement} and has not answered in time: it may still do it")]
    Unknown {
        /// Where it listens.
        server: String,
        /// What was sent.
        statement: &'static str,
    },
    /// It said OK, and its variable says otherwise: somebody else switches it.
    #[error("offline_mode of MySQL at {server} is not as it was just set: somebody else changes it")]
    NotConfirmed {
        /// Where it listens.
        server: String,
    },
    /// Too many fences are under way.
    #[error("{FENCES_MAX} fences are under way; MySQL at {server} was not sent another")]
    TooMany {
        /// Where it listens.
        server: String,
    },
}

/// What fences servers whose tablets do not answer.
#[async_trait]
pub trait ServerFence: Send + Sync + 'static {
    /// Cuts every client of the tablet's MySQL off, or says why that is not certain by `deadline`. A statement that was sent is never
    /// cancelled: after [`FenceError::Unknown`] the server may be fenced at any time. Who fences has to lift.
    async fn fence(&self, tablet: &Tablet, deadline: Instant) -> Result<Fenced, FenceError>;

    /// Lets clients in again: for a server that follows the new primary, or whose reparent was given up. Waits until an earlier fence
    /// of that server has ended, so that it cannot come after this.
    async fn lift(&self, tablet: &Tablet, deadline: Instant) -> Result<(), FenceError>;
}

/// The account that fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceAccount {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// Fences over MySQL's own protocol. Cheap to clone; every clone shares the tasks. When the last one is dropped nobody waits for
/// answers any more; what was sent stays sent.
#[derive(Clone)]
pub struct DirectFence {
    account: FenceAccount,
    tls: Option<MysqlTls>,
    under_way: Arc<Mutex<UnderWay>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_with_us: Arc<DropGuard>,
}

#[derive(Default)]
struct UnderWay {
    count: u64,
    /// By number: the server, and a token that is cancelled when the fence has ended.
    fences: BTreeMap<u64, (MysqlAddress, CancellationToken)>,
}

/// A connection that is open before it is needed: the only way to a server that is frozen by then.
pub struct Held {
    server: MysqlAddress,
    conn: MysqlConn,
}

impl Held {
    /// Whether the server answers on it. A held connection wants to be asked more often than the server's wait_timeout (8 hours).
    pub async fn is_alive(&mut self, deadline: Instant) -> bool {
        self.conn.ping(deadline).await
    }
}

/// A fence that is under way, in a task of its own.
pub struct Pending {
    server: MysqlAddress,
    answer: oneshot::Receiver<Result<Fenced, FenceError>>,
}

impl Pending {
    /// How it ended, or [`FenceError::Unknown`] at `deadline`; it goes on all the same.
    pub async fn answer(self, deadline: Instant) -> Result<Fenced, FenceError> {
        let unknown = || FenceError::Unknown { server: self.server.to_string(), statement: OFFLINE };
        match timeout_at(deadline, self.answer).await {
            Ok(Ok(answer)) => answer,
            // The process is stopping, or the time is over.
            Ok(Err(_)) | Err(_) => Err(unknown()),
        }
    }
}

impl DirectFence {
    /// A fence with that account.
    pub fn new(account: FenceAccount) -> Self {
        let stop = CancellationToken::new();
        let _stop_with_us = Arc::new(stop.clone().drop_guard());
        Self { account, tls: None, under_way: Arc::default(), tasks: TaskTracker::new(), stop, _stop_with_us }
    }

    /// Enters only servers that this TLS proves; without it TLS is spoken where it is offered, and nothing verified.
    pub fn tls(mut self, tls: Option<MysqlTls>) -> Self {
        self.tls = tls;
        self
    }

    /// Opens a connection to keep.
    pub async fn hold(&self, server: MysqlAddress, deadline: Instant) -> Result<Held, FenceError> {
        let conn = self.connect(&server, deadline).await?;
        Ok(Held { server, conn })
    }

    /// Connects and fences.
    pub async fn fence(&self, server: MysqlAddress, deadline: Instant) -> Result<Fenced, FenceError> {
        let held = self.hold(server, deadline).await?;
        self.queue(held)?.answer(deadline).await
    }

    /// Sends the fence on a held connection. When this returns it stands in the server's own queue, so that a frozen server does it
    /// first when it thaws, whatever becomes of this process.
    pub fn queue(&self, held: Held) -> Result<Pending, FenceError> {
        let Held { server, conn } = held;
        let (answer, answered) = oneshot::channel();
        let pending = Pending { server: server.clone(), answer: answered };
        let guard = self.enter(&server)?;
        let mut fencing = Box::pin(async move {
            let _guard = guard;
            carry_out(conn, &server, answer).await;
        });
        // The first poll writes the statement: nothing else stands before it on an idle connection.
        if tokio::task::unconstrained(&mut fencing).now_or_never().is_none() {
            self.spawn(fencing);
        }
        Ok(pending)
    }

    /// Lets clients in again, and sees that it is so.
    pub async fn unfence(&self, server: &MysqlAddress, deadline: Instant) -> Result<(), FenceError> {
        let earlier = lock(&self.under_way).of(server);
        for ended in earlier {
            let unknown = |_| FenceError::Unknown { server: server.to_string(), statement: OFFLINE };
            timeout_at(deadline, ended.cancelled()).await.map_err(unknown)?;
        }
        let mut conn = self.connect(server, deadline).await?;
        conn.exec(ONLINE, deadline).await.map_err(|error| after_sending(server, ONLINE, error))?;
        let state = conn.query_one(STATE, deadline).await.map_err(|error| after_sending(server, STATE, error))?;
        match state.at(0).as_deref() {
            Some("0") => Ok(()),
            _ => Err(FenceError::NotConfirmed { server: server.to_string() }),
        }
    }

    /// What the account may do there, as MySQL says it.
    pub async fn grants(&self, server: &MysqlAddress, deadline: Instant) -> Result<Vec<String>, FenceError> {
        let mut conn = self.connect(server, deadline).await?;
        let rows = conn.query("SHOW GRANTS", deadline).await;
        let rows = rows.map_err(|source| FenceError::Unreachable { server: server.to_string(), source })?;
        Ok(rows.iter().filter_map(|row| row.at(0)).collect())
    }

    async fn connect(&self, server: &MysqlAddress, deadline: Instant) -> Result<MysqlConn, FenceError> {
        let FenceAccount { user, password } = self.account.clone();
        let connect_timeout = deadline.saturating_duration_since(Instant::now());
        let settings = MysqlSettings { address: server.clone(), user, password, connect_timeout };
        let connected = match &self.tls {
            None => MysqlConn::connect_preferring_tls(&settings, deadline).await,
            Some(tls) => MysqlConn::connect_with_tls(&settings, tls, deadline).await,
        };
        connected.map_err(|source| FenceError::Unreachable { server: server.to_string(), source })
    }

    fn enter(&self, server: &MysqlAddress) -> Result<Entered, FenceError> {
        let mut under_way = lock(&self.under_way);
        if under_way.fences.len() >= FENCES_MAX {
            return Err(FenceError::TooMany { server: server.to_string() });
        }
        under_way.count += 1;
        let (number, ended) = (under_way.count, CancellationToken::new());
        under_way.fences.insert(number, (server.clone(), ended));
        Ok(Entered { under_way: self.under_way.clone(), number })
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    }
}

#[async_trait]
impl ServerFence for DirectFence {
    async fn fence(&self, tablet: &Tablet, deadline: Instant) -> Result<Fenced, FenceError> {
        self.fence(address(tablet)?, deadline).await
    }

    async fn lift(&self, tablet: &Tablet, deadline: Instant) -> Result<(), FenceError> {
        self.unfence(&address(tablet)?, deadline).await
    }
}

/// A fence that is counted as under way until dropped.
struct Entered {
    under_way: Arc<Mutex<UnderWay>>,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some((_, ended)) = lock(&self.under_way).fences.remove(&self.number) {
            ended.cancel();
        }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    // A panic elsewhere cannot leave a map half-changed here.
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UnderWay {
    fn of(&self, server: &MysqlAddress) -> Vec<CancellationToken> {
        self.fences.values().filter(|(of, _)| of == server).map(|(_, ended)| ended.clone()).collect()
    }
}

/// Where the MySQL server of a tablet listens, by its record.
pub fn address(tablet: &Tablet) -> Result<MysqlAddress, FenceError> {
    match u16::try_from(tablet.mysql_port) {
        Ok(port) if port > 0 && !tablet.mysql_hostname.is_empty() => {
            Ok(MysqlAddress::Tcp { host: tablet.mysql_hostname.clone(), port })
        }
        _ => {
            let alias = tablet.alias.clone().unwrap_or_default();
            Err(FenceError::NoAddress { tablet: format!("{}-{:010}", alias.cell, alias.uid) })
        }
    }
}

/// The fence, its answer, and what follows it.
async fn carry_out(mut conn: MysqlConn, server: &MysqlAddress, answer: oneshot::Sender<Result<Fenced, FenceError>>) {
    let fenced = fence_confirmed(&mut conn, server).await;
    match &fenced {
        Ok(Fenced { executed }) => {
            tracing::info!(%server, %executed, nobody_waits = answer.is_closed(), "fenced over MySQL: it accepts no client any more");
        }
        Err(error) => tracing::info!(%server, %error, "not fenced over MySQL"),
    }
    let go_on = fenced.is_ok();
    // Whoever asked may have gone on by now.
    drop(answer.send(fenced));
    if go_on && let Err(error) = follow_up(&mut conn).await {
        tracing::warn!(%server, %error, "fenced over MySQL, but it could not be made read-only: accounts with CONNECTION_ADMIN can write");
    }
}

async fn fence_confirmed(conn: &mut MysqlConn, server: &MysqlAddress) -> Result<Fenced, FenceError> {
    let deadline = Instant::now() + SENT_LIMIT;
    conn.exec(OFFLINE, deadline).await.map_err(|error| after_sending(server, OFFLINE, error))?;
    let state = conn.query_one(STATE, deadline).await.map_err(|error| after_sending(server, STATE, error))?;
    match (state.at(0).as_deref(), state.at(1).unwrap_or_default().parse()) {
        (Some("1"), Ok(executed)) => Ok(Fenced { executed }),
        _ => Err(FenceError::NotConfirmed { server: server.to_string() }),
    }
}

/// Semi-sync off, super_read_only on.
async fn follow_up(conn: &mut MysqlConn) -> Result<(), MysqlError> {
    let deadline = Instant::now() + FOLLOW_UP_LIMIT;
    for sql in SEMI_SYNC_OFF {
        match conn.exec(sql, deadline).await {
            Ok(()) => break,
            Err(error) if error.errno() == Some(UNKNOWN_SYSTEM_VARIABLE) => {}
            Err(error) => return Err(error),
        }
    }
    conn.exec(READ_ONLY, deadline).await
}

/// What an error means once a statement was sent.
fn after_sending(server: &MysqlAddress, statement: &'static str, error: MysqlError) -> FenceError {
    let server = server.to_string();
    match error {
        source @ MysqlError::Server { .. } => FenceError::Refused { server, source },
        MysqlError::Unreachable { .. }
        | MysqlError::Lost { .. }
        | MysqlError::Timeout { .. }
        | MysqlError::TooManyRows { .. }
        | MysqlError::Answer { .. } => FenceError::Unknown { server, statement },
    }
}
