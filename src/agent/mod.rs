//! `vtelector agent`: a tablet manager for a bare mysqld.
//!
//! It registers its server in the topology and obeys the calls of `tabletmanagerservice.TabletManager` with vttablet's meaning
//! (facts of it: the comments name where we differ, and why). One action at a time: [`Agent::lock`].

mod demote;
mod door;
mod error;
mod fence;
mod fetch;
mod health;
mod hear;
mod journal;
mod promote;
mod pulse;
mod records;
mod register;
mod replication;
mod rpc;
mod run;
mod semi_sync;
mod settings;
mod settle;
mod shard_sync;
mod source;
mod state;
mod status;
mod supervise;
mod threads;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard, Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::hear::knock;
use self::{door::Door, fence::Fence, hear::Ear, state::LocalState};
pub use self::{
    error::AgentError,
    fence::LOCK_REVISION_KEY,
    replication::ReplicationAccount,
    run::{RunError, Running, start},
    settings::AgentSettings,
};
use crate::{
    mysql::conn::Mysql,
    pb::topodata::{Tablet, TabletType},
    tablet::TabletManager,
    topo::{Topo, TopoError},
};

/// Limit of publishing our record while a caller waits; afterwards it goes on in the background.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Limits of one request, and on whose authority it is made.
#[derive(Debug, Clone, Copy)]
struct Context {
    deadline: Instant,
    lock_revision: Option<i64>,
}

/// What one action at a time may touch.
#[derive(Default)]
struct Action {
    /// Ends the task that switches semi-sync's source side off some time after a planned demotion.
    source_off: Option<CancellationToken>,
}

/// The agent of one server. All its tasks are in `tasks` and end with `shutdown`.
pub struct Agent {
    settings: AgentSettings,
    topo: Topo,
    tablets: Arc<dyn TabletManager>,
    mysql: Mysql,
    /// Schema of the reparent journal.
    sidecar: String,
    state: watch::Sender<LocalState>,
    action: Mutex<Action>,
    /// The highest lock revision that has been here. Locked after `action` where both are, and for a moment only.
    fence: Mutex<Fence>,
    door: Door,
    ear: Ear,
    /// The record in the topology differs from ours.
    unpublished: Notify,
    /// The server is not yet what the topology says it should be.
    unsettled: Notify,
    /// The server was made read-only after this agent, or it, was started.
    closed_at_start: AtomicBool,
    /// Somebody wants a health message now.
    health_wanted: Notify,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Agent {
    /// Waits for the action lock, then asks the fence. In that order: a newer elector may have been here meanwhile.
    async fn lock(&self, context: &Context) -> Result<MutexGuard<'_, Action>, AgentError> {
        let waited = timeout_at(context.deadline, self.action.lock()).await;
        let action =
            waited.map_err(|_| AgentError::Deadline("context deadline exceeded: another action is running".to_owned()))?;
        self.admit(context).await?;
        Ok(action)
    }

    /// Asks the fence, without waiting for the action that runs.
    async fn admit(&self, context: &Context) -> Result<(), AgentError> {
        self.fence.lock().await.admit(context.lock_revision).await
    }

    /// The deadline of a step that nobody waits for.
    fn own_deadline(&self) -> Instant {
        Instant::now() + self.settings.remote_operation_timeout
    }

    fn is_primary(&self) -> bool {
        self.state.borrow().is_primary()
    }

    /// Changes the agent's own view; everybody who follows it is told if it changed.
    fn change(&self, change: impl FnOnce(&mut LocalState)) {
        self.state.send_modify(change);
    }

    /// Leaves the type PRIMARY, or changes between other types: memory first, then the record, in the background if need be.
    async fn set_type(&self, to: TabletType) {
        self.change(|state| {
            state.tablet.set_type(to);
            state.tablet.primary_term_start_time = None;
            state.writable = false;
        });
        self.publish().await;
    }

    /// Publishes our record; what cannot be written now is written in the background.
    async fn publish(&self) {
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.write_record()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the tablet record cannot be written; trying again");
                self.unpublished.notify_one();
            }
            Err(_) => self.unpublished.notify_one(),
        }
    }

    async fn write_record(&self) -> Result<(), TopoError> {
        let wanted = self.state.borrow().tablet.clone();
        self.write_tablet(&wanted).await.map(drop)
    }

    /// Writes a record for this tablet; `false` when another process owns it. A record that was deleted ends this process, as it
    /// ends a vttablet: somebody has taken the tablet out of the topology.
    async fn write_tablet(&self, wanted: &Tablet) -> Result<bool, TopoError> {
        let mut ours = true;
        let mut change = |record: &mut Tablet| {
            ours = record.hostname.is_empty() || (&record.hostname, &record.port_map) == (&wanted.hostname, &wanted.port_map);
            let write = ours && record != wanted;
            if write {
                record.clone_from(wanted);
            }
            write
        };
        match self.topo.update_tablet(&self.settings.alias, &mut change).await {
            Ok(_) => {}
            Err(error @ TopoError::NotFound { .. }) => {
                tracing::error!(alias = %self.settings.alias, "the tablet record was deleted: shutting down");
                self.shutdown.cancel();
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        if !ours {
            tracing::error!(alias = %self.settings.alias, "the tablet record belongs to another process: two agents have this alias");
        }
        Ok(ours)
    }
}
