//! Fences: set where a demotion does not answer, lifted by whoever sees the server follow the new primary (safety rules, section 3).

use std::time::Duration;

use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use crate::{
    mysql::fence::{FenceError, Fenced},
    pb::{replicationdata::Status, topodata::Tablet},
    reparent::{
        Hands, ReparentError,
        dba::{SET_OFFLINE, SET_ONLINE, SET_SUPER_READ_ONLY, Spelling, is_unknown_variable},
        declared::Declared,
        journal::Stage,
        run::Run,
        undo::STOPPED,
    },
    topo::{ShardId, TabletAlias},
};

/// A fence through MySQL itself that was not answered by then proves nothing.
const DIRECT_LIMIT: Duration = Duration::from_millis(300);

/// A fence that was sent through a tablet; whether it was set.
pub(in crate::reparent) type Sent = oneshot::Receiver<bool>;
/// A fence that was sent to a server whose tablet does not answer.
pub(in crate::reparent) type SentDirectly = JoinHandle<Result<Fenced, FenceError>>;

impl Run {
    /// Sends the fence through the tablet, in a task that outlives us: a frozen server does it as soon as it thaws. Cutting the clients off
    /// is the fence; what follows lets the commits that hang end, which would hold up every demotion. Nobody waits for that.
    pub(in crate::reparent) fn fence(&mut self, alias: &TabletAlias, tablet: &Tablet) -> Sent {
        let (tablets, call, tablet, under_way) = (self.hands.tablets.clone(), self.short(), tablet.clone(), self.begin(alias));
        let (fenced, answer) = oneshot::channel();
        self.hands.tasks.spawn(async move {
            let dba = async |sql: &str| tablets.execute_fetch_as_dba(&tablet, sql, 1, call).await;
            let offline = dba(SET_OFFLINE).await.is_ok();
            // Whether or not anybody waits for it still.
            let _heard = fenced.send(offline);
            if offline {
                let off = |spelling: Spelling| format!("SET GLOBAL {} = OFF", spelling.enabled());
                if let Err(error) = dba(&off(Spelling::Source)).await
                    && is_unknown_variable(&error)
                {
                    // A server without the plugin has nothing to switch off; what fails here fails its demotion, which says so.
                    let _off = dba(&off(Spelling::Master)).await;
                }
                let _read_only = dba(SET_SUPER_READ_ONLY).await;
            }
            drop(under_way);
        });
        answer
    }

    /// Sends it to MySQL itself, where an account for that was given.
    pub(super) fn fence_directly(&mut self, alias: &TabletAlias, tablet: &Tablet) -> Option<SentDirectly> {
        let (fence, tablet, under_way) = (self.hands.fence.clone()?, tablet.clone(), self.begin(alias));
        Some(self.hands.tasks.spawn(async move {
            let sent = fence.fence(&tablet, Instant::now() + DIRECT_LIMIT).await;
            drop(under_way);
            sent
        }))
    }

    /// Lets the clients of a server in again that follows the new primary: read-only first, for its demotion may never have been done.
    pub(in crate::reparent) async fn lift(&self, alias: &TabletAlias, tablet: &Tablet) -> Result<(), String> {
        self.ended(alias).await;
        self.dba(tablet, SET_SUPER_READ_ONLY).await.map_err(|error| error.to_string())?;
        self.let_in(alias, tablet).await
    }

    /// Lifts the fence. What was sent to MySQL itself before has ended then.
    pub(in crate::reparent) async fn let_in(&self, alias: &TabletAlias, tablet: &Tablet) -> Result<(), String> {
        self.ended(alias).await;
        if let Some(fence) = &self.hands.fence
            && fence.lift(tablet, Instant::now() + self.remote()).await.is_ok()
        {
            return Ok(());
        }
        self.dba(tablet, SET_ONLINE).await.map(drop).map_err(|error| error.to_string())
    }

    /// Sees to what a finished run has left of everybody, or of one tablet: not told to follow the primary, fenced.
    pub(in crate::reparent) async fn see_to_the_rest(
        &mut self,
        declared: &Declared,
        whose: Option<&TabletAlias>,
    ) -> Result<(), ReparentError> {
        let Some(mut journal) = self.read_journal().await?.filter(|journal| journal.stage == Stage::Finished) else {
            return Ok(());
        };
        let (fenced, untold) = match (journal.fenced(), journal.stopped_io()) {
            (Ok(fenced), Ok(untold)) => (fenced, untold),
            (Err(error), _) | (_, Err(error)) => return Err(self.foreign(&error)),
        };
        let primary = declared.current_primary().and_then(|alias| Some((alias, declared.tablet(alias)?)));
        let Some(primary) = primary else { return Ok(()) };
        let before = journal.clone();
        for alias in fenced.union(&untold).filter(|alias| whose.is_none_or(|whose| whose == *alias)) {
            let done = match declared.tablet(alias) {
                None => Ok(()),
                Some(tablet) => self.see_to(declared, primary, (alias, tablet), fenced.contains(alias)).await,
            };
            match done {
                Ok(()) => {
                    journal.fenced.remove(&alias.to_string());
                    journal.stopped_io.remove(&alias.to_string());
                }
                Err(reason) => self.say(format!("{alias} does not follow {} yet: {reason}", primary.0)),
            }
        }
        if journal != before {
            self.close(&journal).await;
        }
        Ok(())
    }

    async fn see_to(
        &self,
        declared: &Declared,
        (primary, source): (&TabletAlias, &Tablet),
        (alias, tablet): (&TabletAlias, &Tablet),
        fenced: bool,
    ) -> Result<(), String> {
        if alias != primary && !self.follows(tablet, source).await {
            let told = self.point(declared, tablet, alias, primary, self.short()).await;
            told.map_err(|error| error.to_string())?;
        }
        match fenced {
            true if alias == primary => self.let_in(alias, tablet).await,
            true => self.lift(alias, tablet).await,
            false => Ok(()),
        }
    }

    /// The same for the shard as it is declared now.
    pub(in crate::reparent) async fn see_to_the_rest_of(&mut self, alias: &TabletAlias) -> Result<(), ReparentError> {
        let declared = Declared::read(self).await?;
        self.see_to_the_rest(&declared, Some(alias)).await
    }

    async fn follows(&self, tablet: &Tablet, primary: &Tablet) -> bool {
        let status = self.hands.tablets.replication_status(tablet, self.short()).await;
        let is_there = |status: &Status| status.source_host == primary.mysql_hostname && status.source_port == primary.mysql_port;
        status.is_ok_and(|status| status.io_state != STOPPED && is_there(&status))
    }
}

impl Hands {
    /// Closes the chapter of a server that was late and has been pointed at the new primary by now.
    pub(in crate::reparent) async fn see_to_stragglers(&self, shard: &ShardId, alias: &TabletAlias) {
        let mut run = Run::new(self.clone(), shard.clone(), Default::default());
        let lifted = async {
            run.lock(format!("EmergencyReparentShard: {alias} follows at last")).await?;
            let lifted = run.see_to_the_rest_of(alias).await;
            run.unlock().await;
            lifted
        };
        if let Err(error) = lifted.await {
            tracing::warn!(%shard, %alias, %error, "what is left to do there (offline_mode, replication) is done by the next reparent of the shard, or by ReparentTablet");
        }
    }
}
