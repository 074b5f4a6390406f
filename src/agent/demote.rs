//! Giving up being writable: planned, and in an emergency.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    Action, Agent, AgentError, Context, door::FROZEN_MAX, promote::cancel_source_off, replication, semi_sync, status::Switches,
};
use crate::{
    mysql::conn::{Lease, MysqlError},
    pb::replicationdata::PrimaryStatus,
};

/// After a planned demotion semi-sync's source side stays on that long, unless the server follows another or is primary again
/// before. Long enough for a reparent: switching it off may hold MySQL's variables for a second, and is never to fall into one.
const OFF_DELAY_DEMOTED: Duration = Duration::from_secs(10);

/// A server that follows another has no replicas any more: so much later MySQL has noticed, and switches it off at once.
pub(super) const OFF_DELAY_FOLLOWING: Duration = Duration::from_secs(3);

/// A server that has not answered the simplest question by then is frozen, and commits that have not ended by then hang. Well below the
/// time for which an elector waits for a demotion (400 ms, safety.md section 3): the fence is sent before anybody else is promoted.
const ANSWER_MAX: Duration = Duration::from_millis(50);
const FLOWING_MAX: Duration = Duration::from_millis(100);

/// Limit of taking a demotion back whose own deadline is over.
const REVERT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is to be told that the server does not answer.
pub(super) type Frozen = Option<oneshot::Sender<()>>;

impl Agent {
    /// DemotePrimary. The answer is the position that stays. In an emergency the demotion goes on whatever its caller is told, and he is
    /// told early of a server that does not answer: he has others to ask.
    pub(super) async fn demote(self: &Arc<Self>, context: &Context, force: bool) -> Result<PrimaryStatus, AgentError> {
        if !force {
            return self.demote_in_order(context).await;
        }
        let (tell, frozen) = oneshot::channel();
        let (agent, context) = (self.clone(), *context);
        let task = self.tasks.spawn(async move { agent.demote_by_force(&context, Some(tell)).await });
        tokio::select! {
            biased;
            done = task => done.unwrap_or(Err(AgentError::Shutdown)),
            Ok(()) = frozen => Err(AgentError::Frozen),
        }
    }

    /// Planned: super_read_only, position, answer; semi-sync's source side is switched off later, because MySQL may take a second for
    /// it. Running commits finish, later writes get error 1290. Taken back when it fails.
    async fn demote_in_order(self: &Arc<Self>, context: &Context) -> Result<PrimaryStatus, AgentError> {
        let mut action = self.lock(context).await?;
        cancel_source_off(&mut action);
        let mut conn = self.mysql.conn(context.deadline).await?;
        let before = Switches::read(&mut conn, context.deadline).await?;
        self.change(|state| state.writable = false);
        match self.close(&mut conn, context.deadline).await {
            Ok(status) => {
                self.source_off_later(&mut action, OFF_DELAY_DEMOTED);
                tracing::info!(position = status.position, "demoted: this server is read-only");
                Ok(status)
            }
            Err(error) => {
                self.reopen(context, before).await;
                Err(error)
            }
        }
    }

    /// In an emergency: neither an action under way nor a frozen server keeps the fence from being sent, and the caller's deadline ends
    /// nothing, because half a demotion is worse than a late one. Never taken back.
    async fn demote_by_force(self: &Arc<Self>, context: &Context, mut frozen: Frozen) -> Result<PrimaryStatus, AgentError> {
        self.admit(context).await?;
        let patient = Context { deadline: Instant::now() + FROZEN_MAX, ..*context };
        let mut lock = pin!(self.lock(&patient));
        let mut action = match timeout(FLOWING_MAX, &mut lock).await {
            Ok(action) => action?,
            // Whoever holds the action lock hangs, perhaps on this very server.
            Err(_) => tokio::join!(lock, self.throw_out_first(&mut frozen)).0?,
        };
        let status = self.shut(&mut action, frozen).await?;
        tracing::info!(position = status.position, "demoted by force: this server is read-only");
        Ok(status)
    }

    /// Makes the server read-only whatever state it is in. Commits that flow end by themselves, acknowledged by living replicas, and
    /// leave nothing behind that only this server has. Where they hang, or nothing answers, all clients are thrown out first, so that none
    /// is told "committed" when semi-sync goes off and lets the hung commits end.
    pub(super) async fn shut(self: &Arc<Self>, action: &mut Action, mut frozen: Frozen) -> Result<PrimaryStatus, AgentError> {
        cancel_source_off(action);
        self.change(|state| state.writable = false);
        let deadline = self.own_deadline();
        let pending = match timeout(ANSWER_MAX, self.mysql.conn(deadline)).await {
            Ok(Ok(mut conn)) => match timeout(FLOWING_MAX, self.close(&mut conn, deadline)).await {
                Ok(Ok(status)) => {
                    self.source_off_later(action, OFF_DELAY_DEMOTED);
                    return Ok(status);
                }
                _ => Some(conn.id()),
            },
            _ => None,
        };
        self.throw_out_first(&mut frozen).await?;
        let deadline = self.own_deadline();
        let mut conn = self.mysql.conn(deadline).await?;
        if let Some(id) = pending {
            // Or MySQL would carry it out when nobody expects it any more. Gone meanwhile (errno 1094) is as good.
            let _ = conn.exec(&format!("KILL {id}"), deadline).await;
        }
        semi_sync::source_off(&mut conn, deadline).await?;
        self.close(&mut conn, deadline).await
    }

    /// Throws the clients out, and tells whoever wants to know when the server does not answer even that.
    async fn throw_out_first(&self, frozen: &mut Frozen) -> Result<(), AgentError> {
        let mut thrown_out = pin!(self.throw_out());
        if let Ok(done) = timeout(ANSWER_MAX, &mut thrown_out).await {
            return done;
        }
        tracing::warn!("mysqld does not answer: when it does, it throws its clients out and becomes read-only first of all");
        if let Some(tell) = frozen.take() {
            // The caller may be content with less.
            let _ = tell.send(());
        }
        thrown_out.await
    }

    async fn close(&self, conn: &mut Lease<'_>, deadline: Instant) -> Result<PrimaryStatus, AgentError> {
        if !Switches::read(conn, deadline).await?.super_read_only {
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

    /// Takes a planned demotion back, with a limit of its own; not where somebody else has been promoted or has come to demote it, too.
    async fn reopen(&self, context: &Context, before: Switches) {
        if before.read_only {
            return;
        }
        let overtaken = self.fence.lock().await.overtaken(context.lock_revision);
        if overtaken || self.refuse_when_superseded().await.is_err() {
            tracing::warn!("the demotion failed, but another elector is at work: this server stays as it is");
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
