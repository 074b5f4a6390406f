//! What befalls a tablet, and how it gets over it.

use mysql_async::{Conn, Opts};
use tokio::{task::JoinSet, time::sleep};

use super::{Cluster, DBA, POLL, SandboxError, Signal, Tablet};
use crate::{
    pb::{query::StreamHealthRequest, queryservice::query_client::QueryClient},
    topo::TabletAlias,
};

/// A fault of one tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of mysqld; its agent lives.
    MysqldKilled,
    /// kill -9 of mysqld and its agent, as when their host is lost.
    BothKilled,
    /// SIGSTOP of mysqld: it answers nothing, and goes on later as if nothing had happened.
    MysqldFrozen,
    /// Every packet to and from the tablet's host is dropped: needs [`super::Shape::hosts`].
    HostSilent,
    /// mysqld takes no connection, not even an administrator's; those that are open go on.
    ConnectionsExhausted,
    /// kill -9 of the agent; mysqld works.
    AgentKilled,
    /// SIGSTOP of the agent; mysqld works.
    AgentFrozen,
}

impl Fault {
    /// Its name in what a measurement prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::MysqldKilled => "mysqld killed",
            Self::BothKilled => "mysqld and agent killed",
            Self::MysqldFrozen => "mysqld frozen",
            Self::HostSilent => "host silent",
            Self::ConnectionsExhausted => "connections exhausted",
            Self::AgentKilled => "agent killed",
            Self::AgentFrozen => "agent frozen",
        }
    }
}

/// Connections of an administrator that take every place of a server, also those that become free. They end when dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    _task: JoinSet<()>,
}

impl Crowd {
    fn before(opts: Opts) -> Self {
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut inside = Vec::new();
            loop {
                match Conn::new(opts.clone()).await {
                    Ok(conn) => inside.push(conn),
                    Err(_) => sleep(POLL).await,
                }
            }
        });
        Self { _task: task }
    }
}

impl Cluster {
    /// Lets a fault happen to a tablet. Nobody restarts what is killed before [`Cluster::heal`] does.
    pub fn strike(&mut self, alias: &TabletAlias, fault: Fault) -> Result<(), SandboxError> {
        let tablet = self.tablet_mut(alias);
        match fault {
            // The end of a process takes the system a tenth of a second, which is a part of the failover.
            Fault::MysqldKilled => tablet.mysqld.signal(Signal::Kill)?,
            Fault::BothKilled => {
                tablet.mysqld.signal(Signal::Kill)?;
                tablet.signal_agent(Signal::Kill)?;
            }
            Fault::MysqldFrozen => tablet.mysqld.signal(Signal::Freeze)?,
            Fault::HostSilent => tablet.host.silence()?,
            Fault::ConnectionsExhausted => tablet.crowd = Some(Crowd::before(tablet.mysqld.opts(DBA))),
            Fault::AgentKilled => tablet.signal_agent(Signal::Kill)?,
            Fault::AgentFrozen => tablet.signal_agent(Signal::Freeze)?,
        }
        Ok(())
    }

    /// Ends the fault: restarts what was killed, thaws what was frozen, and waits until it answers.
    pub async fn heal(&mut self, alias: &TabletAlias, fault: Fault) -> Result<(), SandboxError> {
        let tablet = self.tablet_mut(alias);
        match fault {
            Fault::MysqldKilled | Fault::BothKilled => tablet.mysqld.restart()?,
            Fault::MysqldFrozen => tablet.mysqld.signal(Signal::Thaw)?,
            Fault::AgentFrozen => tablet.signal_agent(Signal::Thaw)?,
            Fault::HostSilent => tablet.host.reconnect()?,
            Fault::ConnectionsExhausted => tablet.crowd = None,
            Fault::AgentKilled => {}
        }
        tablet.mysqld.ready().await?;
        if matches!(fault, Fault::BothKilled | Fault::AgentKilled) {
            self.start_agent(alias)?;
            self.registered().await?;
        }
        Ok(())
    }

    /// Lets a replica apply everything so many seconds late; what it receives, and acknowledges, is as new as ever. 0 = no delay.
    pub async fn delay(&self, alias: &TabletAlias, delay_s: u32) -> Result<(), SandboxError> {
        let mysqld = &self.tablet(alias).mysqld;
        mysqld.execute("STOP REPLICA SQL_THREAD").await?;
        mysqld.execute(&format!("CHANGE REPLICATION SOURCE TO SOURCE_DELAY = {delay_s}")).await?;
        mysqld.execute("START REPLICA SQL_THREAD").await
    }

    /// Writes a transaction on a replica that nobody else has; its IO thread goes on.
    pub async fn write_errant(&self, alias: &TabletAlias) -> Result<(), SandboxError> {
        let mysqld = &self.tablet(alias).mysqld;
        mysqld.execute("SET GLOBAL super_read_only = OFF").await?;
        mysqld.execute(&format!("CREATE DATABASE errant_{}", alias.uid)).await?;
        mysqld.execute("SET GLOBAL super_read_only = ON").await
    }

    /// Gives a tablet an empty server in place of its own, as a person does with one that is errant: it copies everything from the
    /// primary again. Its agent goes on.
    pub async fn rebuild(&mut self, alias: &TabletAlias) -> Result<(), SandboxError> {
        let tools = self.tools().clone();
        let mysqld = &mut self.tablet_mut(alias).mysqld;
        mysqld.wipe(&tools).await?;
        mysqld.restart()?;
        mysqld.ready().await
    }

    /// Why a tablet does not serve, in its own words on the health stream; empty when it does.
    pub async fn health_error(&self, alias: &TabletAlias) -> Result<String, SandboxError> {
        let failed = |error: String| SandboxError::Wrong(vec![format!("the health of {alias}: {error}")]);
        let address = format!("http://{}:{}", self.tablet(alias).host.ip, self.tablet(alias).grpc_port);
        let mut client = QueryClient::connect(address).await.map_err(|error| failed(error.to_string()))?;
        let stream = client.stream_health(StreamHealthRequest {}).await;
        let mut stream = stream.map_err(|status| failed(status.to_string()))?.into_inner();
        let first = stream.message().await.map_err(|status| failed(status.to_string()))?;
        Ok(first.and_then(|health| health.realtime_stats).map(|stats| stats.health_error).unwrap_or_default())
    }
}

impl Tablet {
    /// kill -9 of the agent.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// Sends the agent a signal.
    pub fn signal_agent(&self, signal: Signal) -> Result<(), SandboxError> {
        self.agent.as_ref().map_or(Ok(()), |agent| agent.signal(signal))
    }
}
