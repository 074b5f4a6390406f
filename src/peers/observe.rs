//! What this elector sees of one tablet when it looks now.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    agent::knock,
    mysql::conn::MysqlAddress,
    pb::topodata::Tablet,
    shard::{FailureClass, Greeting},
    tablet::{Call, TabletError, TabletErrorKind, TabletManager},
    topo::{TabletAlias, Topo, TopoError},
};

/// Limit of each probe; they run side by side (safety rules, section 11).
pub const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// Tablets that are probed at the same time; whoever comes later waits for a place within the limit.
const PROBED_MAX: usize = 64;

/// What one channel found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answers.
    Answers,
    /// It does not.
    Fails {
        /// How.
        class: FailureClass,
        /// In which words.
        words: String,
    },
    /// It could not be tried from here: says nothing about the tablet.
    CannotTell(String),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers => f.write_str("answers"),
            Self::Fails { words, .. } => write!(f, "fails: {words}"),
            Self::CannotTell(words) => write!(f, "cannot be judged: {words}"),
        }
    }
}

/// What was found by all channels. It holds facts; what follows from them is judged by whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The tablet manager; any answer counts, also one that its MySQL is dead.
    pub manager: Probe,
    /// Its MySQL server.
    pub mysql: Probe,
    /// Whether that is writable; `None` where nobody said.
    pub writable: Option<bool>,
    /// How long the probes took.
    pub took: Duration,
}

/// Why a tablet could not be probed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObserveError {
    /// Its record could not be read.
    #[error("the record of {0} cannot be read from here: {1}")]
    Record(TabletAlias, TopoError),
    /// The topology gave no answer.
    #[error("the record of {0} could not be read from here within {PROBE_LIMIT:?}")]
    Topology(TabletAlias),
    /// Too many tablets are being probed.
    #[error("{0} was not probed: this elector probes {PROBED_MAX} tablets at the same time and no more")]
    Busy(TabletAlias),
}

/// Hears what MySQL servers say to somebody who connects. Production connects over TCP; the simulation has a network of its own.
#[async_trait]
pub trait Listen: Send + Sync + 'static {
    /// What the server at that address says until `deadline`.
    async fn greeting(&self, address: &MysqlAddress, deadline: Instant) -> Greeting;
}

struct OverTcp;

#[async_trait]
impl Listen for OverTcp {
    async fn greeting(&self, address: &MysqlAddress, deadline: Instant) -> Greeting {
        knock(address, deadline).await
    }
}

/// Looks at tablets, whoever looks after their shards. It changes nothing.
pub struct Observer {
    topo: Topo,
    tablets: Arc<dyn TabletManager>,
    mysql: Arc<dyn Listen>,
    places: Semaphore,
}

impl Observer {
    /// Looks by these ways.
    pub fn new(topo: &Topo, tablets: Arc<dyn TabletManager>) -> Self {
        Self::listening_by(topo, tablets, Arc::new(OverTcp))
    }

    /// The same, hearing MySQL servers by another way than TCP.
    pub fn listening_by(topo: &Topo, tablets: Arc<dyn TabletManager>, mysql: Arc<dyn Listen>) -> Self {
        Self { topo: topo.clone(), tablets, mysql, places: Semaphore::new(PROBED_MAX) }
    }

    /// Probes a tablet now, by every channel side by side. Answers within twice [`PROBE_LIMIT`], most of the time within one.
    pub async fn observe(&self, alias: &TabletAlias) -> Result<Observation, ObserveError> {
        let begun = Instant::now();
        let Ok(Ok(_place)) = timeout_at(begun + PROBE_LIMIT, self.places.acquire()).await else {
            return Err(ObserveError::Busy(alias.clone()));
        };
        let record = match timeout_at(begun + PROBE_LIMIT, self.topo.tablet(alias)).await {
            Ok(Ok(record)) => record.value,
            Ok(Err(error)) => return Err(ObserveError::Record(alias.clone(), error)),
            Err(_) => return Err(ObserveError::Topology(alias.clone())),
        };
        Ok(self.probe(&record).await)
    }

    async fn probe(&self, record: &Tablet) -> Observation {
        let (begun, call) = (Instant::now(), Call::read(PROBE_LIMIT));
        let ping = timeout(PROBE_LIMIT, self.tablets.ping(record, call));
        let status = timeout(PROBE_LIMIT, self.tablets.full_status(record, call));
        let (ping, status, greeting) = tokio::join!(ping, status, greeting(&*self.mysql, record, begun + PROBE_LIMIT));
        let (ping, status) = (ping.unwrap_or_else(|_| Err(silent(record))), status.unwrap_or_else(|_| Err(silent(record))));
        let manager = match (&ping, &status) {
            (Ok(()), _) | (_, Ok(_)) => Probe::Answers,
            (Err(ping), Err(status)) => match (ping.lost, status.lost) {
                (Some(class), Some(_)) => Probe::Fails { class, words: ping.message.clone() },
                _ => Probe::Answers,
            },
        };
        // Its own tablet manager's word goes before ours where it says that it works; else what we hear ourselves.
        let mysql = if status.is_ok() { Probe::Answers } else { greeting };
        let writable = status.ok().map(|status| !status.read_only && !status.super_read_only);
        Observation { manager, mysql, writable, took: begun.elapsed() }
    }
}

/// What its MySQL says to somebody who connects.
async fn greeting(mysql: &dyn Listen, record: &Tablet, deadline: Instant) -> Probe {
    let port = u16::try_from(record.mysql_port).ok().filter(|port| *port > 0 && !record.mysql_hostname.is_empty());
    let Some(port) = port else { return Probe::CannotTell("its record does not say where its MySQL is".to_owned()) };
    let fails = |class, words: &str| Probe::Fails { class, words: words.to_owned() };
    match mysql.greeting(&MysqlAddress::Tcp { host: record.mysql_hostname.clone(), port }, deadline).await {
        Greeting::Greeted => Probe::Answers,
        Greeting::TooManyConnections => fails(FailureClass::TooManyConnections, "it takes no further connection"),
        Greeting::Refused => fails(FailureClass::Refused, "its host refuses the connection"),
        Greeting::Silent => fails(FailureClass::Silent, &format!("no greeting within {PROBE_LIMIT:?}")),
        Greeting::CannotTell(words) => Probe::CannotTell(words),
    }
}

fn silent(record: &Tablet) -> TabletError {
    let alias = record.alias.clone().unwrap_or_default();
    TabletError {
        alias: TabletAlias { cell: alias.cell, uid: alias.uid },
        method: "FullStatus",
        kind: TabletErrorKind::UnknownOutcome,
        code: tonic::Code::DeadlineExceeded,
        lost: Some(FailureClass::Silent),
        message: format!("no answer within {PROBE_LIMIT:?}"),
    }
}
