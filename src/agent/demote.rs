//! Giving up being writable: planned, and in an emergency.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Action, Agent, AgentError, Context, promote::cancel_source_off, replication, semi_sync, status::Switches};
use crate::{
    mysql::conn::{Lease, MysqlError},
    pb::replicationdata::PrimaryStatus,
};

/// After a planned demotion semi-sync's source side stays on that long, unless the server follows another or is primary again
/// before. Long enough for a reparent: switching it off may hold MySQL's variables for a second, and is never to fall into one.
const OFF_DELAY_DEMOTED: Duration = Duration::from_secs(10);

/// A server that follows another has no replicas any more: so much later MySQL has noticed, and switches it off at once.
pub(super) const OFF_DELAY_FOLLOWING: Duration = Duration::from_secs(3);

/// Limit of taking a demotion back whose own deadline is over.
const REVERT_TIMEOUT: Duration = Duration::from_secs(5);

impl Agent {
    /// DemotePrimary. Running commits finish, later writes get error 1290; the answer is the position that stays.
    pub(super) async fn demote(self: &Arc<Self>, context: &Context, force: bool) -> Result<PrimaryStatus, AgentError> {
        let mut action = self.lock(context).await?;
        let status = self.demote_locked(&mut action, force, context.deadline).await?;
        tracing::info!(force, position = status.position, "demoted: this server is read-only");
        Ok(status)
    }

    /// Planned: super_read_only, position, answer; semi-sync's source side is switched off later, because MySQL may take a second for
    /// it. Taken back when it fails. Forced: `offline_mode` first, so that no client whose commit hangs is told "committed" when
    /// semi-sync goes off, then super_read_only; never taken back.
    pub(super) async fn demote_locked(
        self: &Arc<Self>,
        action: &mut Action,
        force: bool,
        deadline: Instant,
    ) -> Result<PrimaryStatus, AgentError> {
        cancel_source_off(action);
        let mut conn = self.mysql.conn(deadline).await?;
        let before = Switches::read(&mut conn, deadline).await?;
        if force && !before.super_read_only {
            conn.exec("SET GLOBAL offline_mode = ON", deadline).await.map_err(AgentError::change)?;
            semi_sync::source_off(&mut conn, deadline).await?;
        }
        self.change(|state| state.writable = false);
        let done = self.close(&mut conn, before, deadline).await;
        match done {
            Ok(status) => {
                if !force {
                    self.source_off_later(action, OFF_DELAY_DEMOTED);
                }
                Ok(status)
            }
            Err(error) if force => Err(error),
            Err(error) => {
                self.reopen(before).await;
                Err(error)
            }
        }
    }

    async fn close(&self, conn: &mut Lease<'_>, before: Switches, deadline: Instant) -> Result<PrimaryStatus, AgentError> {
        if !before.super_read_only {
            self.set_super_read_only(conn, deadline).await?;
        }
        Ok(replication::primary_status(conn, deadline).await?)
    }

    /// Switches super_read_only on. It waits for commits under way; when it waits too long it is killed, because MySQL would
    /// otherwise carry it out some time later, when nobody expects it any more.
    pub(super) async fn set_super_read_only(&self, conn: &mut Lease<'_>, deadline: Instant) -> Result<(), AgentError> {
        let id = conn.id();
        let error = match conn.exec("SET GLOBAL super_read_only = ON", deadline).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !matches!(error, MysqlError::Timeout { .. }) {
            return Err(AgentError::change(error));
        }
        let limit = Instant::now() + REVERT_TIMEOUT;
        if let Ok(mut killer) = self.mysql.conn(limit).await {
            // Gone meanwhile (errno 1094) is as good.
            let _ = killer.exec(&format!("KILL {id}"), limit).await;
        }
        Err(AgentError::Deadline(
            "super_read_only waits for commits that do not end: perhaps they wait for a semi-sync acknowledgement".to_owned(),
        ))
    }

    /// Takes a planned demotion back, with a limit of its own.
    async fn reopen(&self, before: Switches) {
        if before.read_only {
            return;
        }
        let deadline = Instant::now() + REVERT_TIMEOUT;
        let reopened = async {
            let mut conn = self.mysql.conn(deadline).await?;
            self.make_writable(&mut conn, deadline).await
        };
        match reopened.await {
            Ok(()) => tracing::warn!("the demotion failed and was taken back: this server is writable again"),
            Err(error) => {
                tracing::error!(%error, "the demotion failed and could not be taken back: this server may be read-only")
            }
        }
    }

    /// Switches semi-sync's source side off some time from now, if nothing else has happened to this server by then.
    pub(super) fn source_off_later(self: &Arc<Self>, action: &mut Action, delay: Duration) {
        cancel_source_off(action);
        let cancelled = self.shutdown.child_token();
        action.source_off = Some(cancelled.clone());
        let agent = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = sleep(delay) => {}
            }
            let deadline = agent.own_deadline();
            let Ok(_action) = agent.lock(&Context { deadline, lock_revision: None }).await else { return };
            // Cancelled by whoever held the action lock before us.
            if cancelled.is_cancelled() {
                return;
            }
            let off = async {
                let mut conn = agent.mysql.conn(deadline).await?;
                semi_sync::source_off(&mut conn, deadline).await
            };
            if let Err(error) = off.await {
                tracing::warn!(%error, "semi-sync's source side could not be switched off after the demotion");
            }
        });
    }

    /// SetReadOnly: ordinary accounts cannot write. Ours includes administrators: nothing is to be written on a server that should not be.
    pub(super) async fn set_read_only(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        let mut conn = self.mysql.conn(context.deadline).await?;
        self.change(|state| state.writable = false);
        self.set_super_read_only(&mut conn, context.deadline).await
    }
}
