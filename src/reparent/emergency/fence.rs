//! Fences: set where a demotion does not answer, lifted by whoever sees the server follow the new primary (safety rules, section 3).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    mysql::fence::{FenceError, Fenced},
    pb::{replicationdata::Status, topodata::Tablet},
    reparent::{
        Hands, ReparentError,
        dba::{SET_OFFLINE, SET_ONLINE, SET_SUPER_READ_ONLY, Spelling, is_unknown_variable},
        declared::Declared,
        journal::Stage,
        run::{RETRY_PAUSE, Run},
        undo::STOPPED,
    },
    shard::FailureClass,
    tablet::{Call, TabletError, TabletErrorKind, TabletManager},
    topo::{ShardId, TabletAlias},
};

/// A fence through MySQL itself that was not answered by then proves nothing.
const DIRECT_LIMIT: Duration = Duration::from_millis(300);

/// A fence that was sent through a tablet; whether it was set.
pub(in crate::reparent) type Sent = oneshot::Receiver<bool>;
/// A fence that was sent to a server whose tablet does not answer.
pub(in crate::reparent) type SentDirectly = JoinHandle<Result<Fenced, FenceError>>;

/// Throws the clients of one tablet's server out.
struct Fencer {
    tablets: Arc<dyn TabletManager>,
    tablet: Tablet,
    call: Call,
    /// It is done, by this way or another.
    cut_off: CancellationToken,
    given_up: CancellationToken,
    unlocked: CancellationToken,
}

impl Fencer {
    async fn dba(&self, sql: &str, call: Call) -> Result<(), TabletError> {
        self.tablets.execute_fetch_as_dba(&self.tablet, sql, 1, call).await.map(drop)
    }

    /// A host that is silent may be back at any moment, and this has to be the first that it hears: tried for as long as the call may take.
    /// Where nobody listens that ends with the lock: whoever listens there later has just been started, and may be another tablet.
    async fn throw_out(&self) -> bool {
        let end = Instant::now() + self.call.timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let nobody_listens = match self.dba(SET_OFFLINE, Call { timeout: left, ..self.call }).await {
                Ok(()) => return true,
                Err(error) if error.kind != TabletErrorKind::Unreachable => return false,
                Err(error) => error.lost == Some(FailureClass::Refused),
            };
            let over = Instant::now() + RETRY_PAUSE >= end || self.given_up.is_cancelled() || self.cut_off.is_cancelled();
            if over {
                return false;
            }
            sleep(RETRY_PAUSE).await;
            if nobody_listens && self.unlocked.is_cancelled() {
                return false;
            }
        }
    }

    /// Lets the commits that hang end, which would hold up every demotion. Nobody is told of them any more.
    async fn follow_up(&self) {
        let off = |spelling: Spelling| format!("SET GLOBAL {} = OFF", spelling.enabled());
        if let Err(error) = self.dba(&off(Spelling::Source), self.call).await
            && is_unknown_variable(&error)
        {
            // A server without the plugin has nothing to switch off; what fails here fails its demotion, which says so.
            let _off = self.dba(&off(Spelling::Master), self.call).await;
        }
        let _read_only = self.dba(SET_SUPER_READ_ONLY, self.call).await;
    }
}

impl Run {
    /// Sends the fence through the tablet, in a task that outlives us: a frozen server does it as soon as it thaws. Cutting the clients off
    /// is the fence, and `cut_off` is cancelled when it is done; nobody waits for what follows.
    pub(in crate::reparent) fn fence(&mut self, alias: &TabletAlias, tablet: &Tablet, cut_off: &CancellationToken) -> Sent {
        let (tablets, tablet, call) = (self.hands.tablets.clone(), tablet.clone(), self.short());
        let (given_up, unlocked) = (self.given_up.clone(), self.unlocked.clone());
        let fencer = Fencer { tablets, tablet, call, cut_off: cut_off.clone(), given_up, unlocked };
        let under_way = self.begin(alias);
        let (fenced, answer) = oneshot::channel();
        self.hands.tasks.spawn(async move {
            let offline = fencer.throw_out().await;
            // Whether or not anybody waits for it still.
            let _heard = fenced.send(offline);
            if offline {
                fencer.cut_off.cancel();
                fencer.follow_up().await;
            }
            drop(under_way);
        });
        answer
    }

    /// Sends it to MySQL itself, where an account for that was given.
    pub(super) fn fence_directly(
        &mut self,
        alias: &TabletAlias,
        tablet: &Tablet,
        cut_off: &CancellationToken,
    ) -> Option<SentDirectly> {
        let (fence, tablet, under_way) = (self.hands.fence.clone()?, tablet.clone(), self.begin(alias));
        let cut_off = cut_off.clone();
        Some(self.hands.tasks.spawn(async move {
            let sent = fence.fence(&tablet, Instant::now() + DIRECT_LIMIT).await;
            if sent.is_ok() {
                cut_off.cancel();
            }
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
            if fenced {
                // Perhaps it never was: following ends its commits that hang, and nobody may be there to be told of them.
                self.dba(tablet, SET_OFFLINE).await.map_err(|error| error.to_string())?;
            }
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
