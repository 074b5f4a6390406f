//! A tablet manager's process: what it is, its action lock, and how one of its handlers gets at MySQL and at the topology.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use vtelector::{
    pb::{
        topodata::{self, TabletType},
        vttime,
    },
    topo::{TabletAlias, Topo, Version},
};

use super::{
    mysqld::{Mysqld, Process},
    net::Node,
    world::World,
};

/// Whose tablet manager it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Our agent: Hear, fencing, lock revisions, settles by itself.
    Agent,
    /// Vitess's.
    Vttablet,
}

impl Flavour {
    /// Its SOURCE_CONNECT_RETRY.
    pub fn connect_retry(self) -> Duration {
        match self {
            Self::Agent => Duration::from_secs(1),
            Self::Vttablet => Duration::from_secs(10),
        }
    }
}

pub struct Manager {
    pub flavour: Flavour,
    pub process: Process,
    /// Ended when the process dies: its handlers go no further.
    pub life: CancellationToken,
    pub tablet_type: TabletType,
    pub term: Option<vttime::Time>,
    /// Whether its query service is open.
    pub serving: bool,
    /// One action at a time.
    pub action: Arc<tokio::sync::Mutex<()>>,
    /// The highest lock revision that was seen; only an agent looks at it.
    pub revision: Version,
    /// The server has to be looked at: it was started, or this tablet has stepped down.
    pub unsettled: bool,
    /// The run of mysqld that it knows.
    pub known_boot: u64,
    /// MySQL did not answer when it was last looked at; agents tell that at once.
    pub mysql_down: bool,
}

impl Manager {
    pub fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            process: Process::Running,
            life: CancellationToken::new(),
            tablet_type: TabletType::Replica,
            term: None,
            serving: true,
            action: Arc::default(),
            revision: 0,
            unsettled: false,
            known_boot: 1,
            mysql_down: false,
        }
    }
}

/// How a handler fails: gRPC's code and the text.
pub type Answer<T> = Result<T, (Code, String)>;

pub fn failed<T>(code: Code, text: impl Into<String>) -> Answer<T> {
    Err((code, text.into()))
}

fn late<T>() -> Answer<T> {
    failed(Code::DeadlineExceeded, "context deadline exceeded")
}

/// One handler on one host.
#[derive(Clone)]
pub struct Handler {
    pub world: Arc<World>,
    pub host: usize,
    pub deadline: Instant,
    pub life: CancellationToken,
    /// The lock under which it was called.
    pub revision: Option<Version>,
}

/// A statement takes so long.
const STATEMENT: Duration = Duration::from_micros(400);

impl Handler {
    /// A handler of the manager's own.
    pub fn own(world: &Arc<World>, host: usize, limit: Duration) -> Self {
        let life = world.lock().hosts[host].manager.life.clone();
        Self { world: world.clone(), host, deadline: Instant::now() + limit, life, revision: None }
    }

    pub fn flavour(&self) -> Flavour {
        self.world.shape.flavour
    }

    pub fn alias(&self) -> TabletAlias {
        self.world.alias(self.host)
    }

    /// Waits while the manager is frozen.
    pub async fn gets_on(&self) {
        let runs = |state: &super::world::State| state.hosts[self.host].manager.process == Process::Running;
        if !runs(&self.world.lock()) {
            self.world.until(runs).await;
        }
    }

    /// Runs a statement. A frozen server does it when it thaws, whoever has gone meanwhile.
    pub async fn sql<T: Send + 'static>(&self, statement: impl FnOnce(&mut Mysqld) -> T + Send + 'static) -> Answer<T> {
        self.sql_for(STATEMENT, statement).await
    }

    /// A statement that takes so long.
    pub async fn sql_for<T: Send + 'static>(
        &self,
        takes: Duration,
        statement: impl FnOnce(&mut Mysqld) -> T + Send + 'static,
    ) -> Answer<T> {
        self.gets_on().await;
        let (world, host) = (self.world.clone(), self.host);
        let boot = world.lock().hosts[host].mysqld.boot;
        let task = tokio::spawn(async move {
            sleep(takes).await;
            world.until(|state| state.hosts[host].mysqld.process != Process::Frozen).await;
            let state = &mut *world.lock();
            let mysqld = &mut state.hosts[host].mysqld;
            if mysqld.boot != boot {
                return failed(Code::Cancelled, "Lost connection to MySQL server during query (errno 2013) (sqlstate HY000)");
            }
            match mysqld.process {
                Process::Dead => failed(
                    Code::Unavailable,
                    "net.Dial(mysql.sock) to local server failed: connection refused (errno 2002) (sqlstate HY000)",
                ),
                _ => Ok(statement(mysqld)),
            }
        });
        match timeout_at(self.deadline, task).await {
            Ok(done) => {
                self.gets_on().await;
                done.unwrap_or_else(|_| late())
            }
            Err(_) => late(),
        }
    }

    /// Waits until the server is in that state.
    pub async fn sees(&self, holds: impl Fn(&Mysqld) -> bool) -> Answer<()> {
        let host = self.host;
        let seen = self.world.until(|state| {
            let mysqld = &state.hosts[host].mysqld;
            mysqld.process == Process::Dead || (mysqld.runs() && holds(mysqld))
        });
        if timeout_at(self.deadline, seen).await.is_err() {
            return late();
        }
        self.sql(|_| ()).await
    }

    /// `super_read_only = ON`, which waits for commits under way.
    pub async fn close(&self) -> Answer<()> {
        self.sql(Mysqld::close).await?;
        self.sees(|mysqld| mysqld.read_only).await
    }

    /// Semi-sync's source side off, which may take a second.
    pub async fn source_off(&self) -> Answer<()> {
        self.sql(|mysqld| mysqld.set_source_enabled(false, Instant::now())).await?;
        self.sees(|mysqld| !mysqld.source_enabled).await
    }

    /// Stops the IO thread; an attempt to connect ends in its own time.
    pub async fn stop_io(&self) -> Answer<()> {
        let takes = self.sql(|mysqld| mysqld.io_stop_takes()).await?;
        self.world.lock().io_stops += 1;
        self.sql_for(takes, Mysqld::stop_io).await
    }

    pub async fn action(&self) -> Answer<OwnedMutexGuard<()>> {
        let action = self.world.lock().hosts[self.host].manager.action.clone();
        match timeout_at(self.deadline, action.lock_owned()).await {
            Ok(action) => {
                self.gets_on().await;
                self.admit().map(|()| action)
            }
            Err(_) => late(),
        }
    }

    /// An agent refuses whoever was overtaken.
    pub fn admit(&self) -> Answer<()> {
        let state = &mut *self.world.lock();
        let manager = &mut state.hosts[self.host].manager;
        let Some(revision) = self.revision.filter(|_| manager.flavour == Flavour::Agent) else { return Ok(()) };
        if revision < manager.revision {
            return failed(Code::FailedPrecondition, format!("overtaken: {revision} < {}", manager.revision));
        }
        manager.revision = revision;
        Ok(())
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Manager) -> T) -> T {
        change(&mut self.world.lock().hosts[self.host].manager)
    }

    pub fn topo(&self) -> Topo {
        self.world.topo(Node::Host(self.host))
    }

    /// Writes type and term into the tablet's record.
    pub async fn write_record(&self, tablet_type: TabletType, term: Option<vttime::Time>) -> Answer<()> {
        self.gets_on().await;
        let mut change = |record: &mut topodata::Tablet| {
            (record.r#type, record.primary_term_start_time) = (tablet_type as i32, term);
            true
        };
        let written = self.topo().update_tablet(&self.alias(), &mut change).await;
        written.map(drop).map_err(|error| (Code::Unknown, error.to_string()))
    }

    /// Runs a handler as far as its process lives.
    pub async fn while_alive<T>(&self, work: impl Future<Output = Answer<T>>) -> Option<Answer<T>> {
        self.life.run_until_cancelled(work).await
    }
}
