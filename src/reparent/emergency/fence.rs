//! Fences: set where a demotion does not answer, lifted by whoever sees the server follow the new primary (safety rules, section 3).

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};

use crate::{
    mysql::fence::{FenceError, Fenced},
    pb::topodata::Tablet,
    reparent::{
        Hands, ReparentError,
        dba::{SET_OFFLINE, SET_ONLINE, SET_SUPER_READ_ONLY},
        declared::Declared,
        journal::Stage,
        run::Run,
    },
    tablet::TabletError,
    topo::{ShardId, TabletAlias},
};

/// A fence through MySQL itself that was not answered by then proves nothing.
const DIRECT_LIMIT: Duration = Duration::from_millis(300);

/// A fence that was sent through a tablet.
pub(super) type Sent = JoinHandle<Result<(), TabletError>>;
/// A fence that was sent to a server whose tablet does not answer.
pub(super) type SentDirectly = JoinHandle<Result<Fenced, FenceError>>;

impl Run {
    /// Sends the fence through the tablet, in a task that outlives us: a frozen server does it as soon as it thaws.
    pub(super) fn fence(&self, tablet: &Tablet) -> Sent {
        let (tablets, call, tablet) = (self.hands.tablets.clone(), self.short(), tablet.clone());
        self.hands.tasks.spawn(async move { tablets.execute_fetch_as_dba(&tablet, SET_OFFLINE, 1, call).await.map(drop) })
    }

    /// Sends it to MySQL itself, where an account for that was given.
    pub(super) fn fence_directly(&self, tablet: &Tablet) -> Option<SentDirectly> {
        let (fence, tablet) = (self.hands.fence.clone()?, tablet.clone());
        Some(self.hands.tasks.spawn(async move { fence.fence(&tablet, Instant::now() + DIRECT_LIMIT).await }))
    }

    /// Lets the clients of a server in again that follows the new primary: read-only first, for its demotion may never have been done.
    pub(super) async fn lift(&self, tablet: &Tablet) -> Result<(), TabletError> {
        self.dba(tablet, SET_SUPER_READ_ONLY).await?;
        self.dba(tablet, SET_ONLINE).await.map(drop)
    }

    /// Lifts the fences that a finished run has left, where the servers follow the primary by now.
    pub(in crate::reparent) async fn lift_fences(&mut self, declared: &Declared) -> Result<(), ReparentError> {
        let Some(mut journal) = self.read_journal().await?.filter(|journal| journal.stage == Stage::Finished) else {
            return Ok(());
        };
        let fenced = journal.fenced().map_err(|error| self.foreign(&error))?;
        let mut lifted = false;
        for alias in fenced {
            let follows = match (declared.current_primary().and_then(|primary| declared.tablet(primary)), declared.tablet(&alias))
            {
                (_, None) => true,
                (Some(primary), Some(tablet)) => match self.follows(tablet, primary).await {
                    true => self.lift(tablet).await.is_ok(),
                    false => false,
                },
                (None, _) => false,
            };
            if follows {
                self.say(format!("{alias} follows the primary; its clients are let in again"));
                lifted |= journal.fenced.remove(&alias.to_string());
            }
        }
        if lifted {
            self.close(&journal).await;
        }
        Ok(())
    }

    /// The same for the shard as it is declared now.
    pub(in crate::reparent) async fn lift_fences_now(&mut self) -> Result<(), ReparentError> {
        let declared = Declared::read(self).await?;
        self.lift_fences(&declared).await
    }

    async fn follows(&self, tablet: &Tablet, primary: &Tablet) -> bool {
        let status = self.hands.tablets.replication_status(tablet, self.short()).await;
        status.is_ok_and(|status| status.source_host == primary.mysql_hostname && status.source_port == primary.mysql_port)
    }
}

impl Hands {
    /// Lifts what fences there are on a shard, after a server that was late has been pointed at the new primary.
    pub(in crate::reparent) async fn lift_fences(&self, shard: &ShardId, alias: &TabletAlias) {
        let mut run = Run::new(self.clone(), shard.clone(), Default::default());
        let lifted = async {
            run.lock(format!("EmergencyReparentShard: {alias} follows, its clients are let in again")).await?;
            let lifted = run.lift_fences_now().await;
            run.unlock().await;
            lifted
        };
        if let Err(error) = lifted.await {
            tracing::warn!(%shard, %alias, %error, "its clients are still cut off (offline_mode): the next emergency reparent lifts that");
        }
    }
}
