//! After a start of the agent or of mysqld: making the server what the topology says it is, under the shard lock.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Agent, AgentError, Context, replication, semi_sync, state, status::Switches};
use crate::{
    pb::{tabletmanagerdata::SetReplicationSourceRequest, topodata::TabletType},
    reparent::promotion_under_way,
    topo::{ShardLock, TabletAlias, TopoError},
};

/// Between two attempts, at first and at last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Longest time that a start holds the shard lock, which an elector may want for an emergency.
const LOCK_HELD_MAX: Duration = Duration::from_secs(5);

/// Limit of asking the primary whether it is there and has what we have, before the lock is wanted.
const PRIMARY_TIMEOUT: Duration = Duration::from_secs(1);

/// What settling has come to.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    Done,
    /// Not now, and why.
    Later(String),
}

/// Runs until shutdown: settles whenever somebody says that the server may not be what it should be.
pub async fn run(agent: Arc<Agent>) {
    loop {
        tokio::select! {
            () = agent.shutdown.cancelled() => return,
            () = agent.unsettled.notified() => {}
        }
        let (mut last, mut delay) = (String::new(), RETRY_FIRST);
        loop {
            let attempt = tokio::select! {
                () = agent.shutdown.cancelled() => return,
                attempt = agent.settle() => attempt,
            };
            let reason = match attempt {
                Ok(Settled::Done) => break,
                Ok(Settled::Later(reason)) => reason,
                Err(error) => error.to_string(),
            };
            if reason != last {
                tracing::warn!(reason, "this server is not yet what the topology says; trying again");
                last = reason.clone();
            }
            agent.change(|state| state.unsettled = Some(reason));
            delay = tokio::select! {
                () = agent.shutdown.cancelled() => return,
                // The server is back, or something else is new.
                () = agent.unsettled.notified() => RETRY_FIRST,
                () = sleep(delay) => (delay * 2).min(RETRY_LAST),
            };
        }
        agent.change(|state| state.unsettled = None);
    }
}

impl Agent {
    /// A server that is right already needs no lock. Everything else waits for it: an elector at work has its own plans for this
    /// server, and whoever starts an IO thread in the middle of an emergency reparent gives the old primary an acknowledger back.
    async fn settle(self: &Arc<Self>) -> Result<Settled, AgentError> {
        if self.is_settled().await? {
            return Ok(Settled::Done);
        }
        if !self.is_primary()
            && let Some((primary, record)) = self.shard_primary().await?
        {
            // A primary that does not answer cannot be followed now, and one that lacks transactions of ours never: nobody is kept from the
            // lock for that.
            let context = Context { deadline: Instant::now() + PRIMARY_TIMEOUT, lock_revision: None };
            let mut conn = self.mysql.conn(context.deadline).await?;
            self.refuse_errant(&mut conn, &primary, &record, &context).await?;
        }
        let action = format!("vtelector agent starts {}", self.settings.alias);
        let lock = match self.topo.lock_shard(&self.settings.shard, &action, self.settings.lock_timeout).await {
            Ok(lock) => lock,
            Err(error @ TopoError::LockTimeout { .. }) => return Ok(Settled::Later(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let done = self.settle_locked(&lock).await;
        if let Err(error) = lock.unlock().await {
            tracing::warn!(%error, "the shard lock was lost while this server was started");
        }
        done
    }

    async fn is_settled(&self) -> Result<bool, AgentError> {
        let (primary, writable) = {
            let state = self.state.borrow();
            (state.is_primary(), state.writable)
        };
        if primary {
            return Ok(writable);
        }
        let Some((primary, _)) = self.shard_primary().await? else { return Ok(true) };
        self.follows(&primary).await
    }

    /// The tablet that the shard record names, if it is another one and has a MySQL server, and its record.
    async fn shard_primary(&self) -> Result<Option<(TabletAlias, crate::pb::topodata::Tablet)>, AgentError> {
        let shard = self.topo.shard(&self.settings.shard).await?.value;
        let Some(alias) = shard.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok()) else {
            return Ok(None);
        };
        if alias == self.settings.alias {
            return Ok(None);
        }
        let record = self.topo.tablet(&alias).await?.value;
        Ok((!record.mysql_hostname.is_empty()).then_some((alias, record)))
    }

    async fn follows(&self, primary: &TabletAlias) -> Result<bool, AgentError> {
        let record = self.topo.tablet(primary).await?.value;
        let deadline = self.own_deadline();
        let mut conn = self.mysql.conn(deadline).await?;
        let now = replication::status(&mut conn, deadline).await?;
        let follows = now.is_some_and(|now| {
            let right = (&now.status.source_host, now.status.source_port) == (&record.mysql_hostname, record.mysql_port);
            right && now.io_healthy() && now.sql_healthy()
        });
        // A fence that was not lifted is a thing to be done yet.
        Ok(follows && !Switches::read(&mut conn, deadline).await?.offline_mode)
    }

    async fn settle_locked(self: &Arc<Self>, lock: &ShardLock) -> Result<Settled, AgentError> {
        if self.is_settled().await? {
            return Ok(Settled::Done);
        }
        if promotion_under_way(&self.topo, &self.settings.ledger_root, &self.settings.shard).await? {
            // An elector died in the middle. A primary that were writable again, or a replica that followed somebody, would undo what the
            // elect's promotion relies on.
            let reason = "an elector has left a promotion unfinished; the next reparent of this shard leads it to its end";
            return Ok(Settled::Later(reason.to_owned()));
        }
        let deadline = self.own_deadline().min(Instant::now() + LOCK_HELD_MAX);
        let context = Context { deadline, lock_revision: Some(lock.revision()) };
        let mut action = self.lock(&context).await?;
        if self.is_primary() {
            match self.resume(lock, &context).await? {
                Ok(()) => return Ok(Settled::Done),
                Err(reason) if reason.may_pass() => return Ok(Settled::Later(reason.to_string())),
                Err(reason) => {
                    tracing::warn!(%reason, "this server was primary, but is no longer");
                    self.set_type(TabletType::Replica).await;
                }
            }
        }
        let Some((primary, _)) = self.shard_primary().await? else { return Ok(Settled::Done) };
        let request = SetReplicationSourceRequest {
            parent: Some((&primary).into()),
            force_start_replication: true,
            semi_sync: self.acks_for(&primary).await?,
            ..SetReplicationSourceRequest::default()
        };
        self.set_source_locked(&mut action, &context, &request).await?;
        Ok(Settled::Done)
    }

    /// Makes a primary writable again: the topology says so under the lock, semi-sync is set and read back, and the lock is still ours.
    async fn resume(&self, lock: &ShardLock, context: &Context) -> Result<Result<(), state::NotWritable>, AgentError> {
        let deadline = context.deadline;
        let shard = self.topo.shard(&self.settings.shard).await?.value;
        let tablets = self.topo.shard_tablets(&self.settings.shard).await?;
        let term = self.state.borrow().tablet.primary_term_start_time;
        if let Err(reason) = state::may_become_writable(&self.settings.alias, term.as_ref(), &shard, &tablets) {
            return Ok(Err(reason));
        }
        let acks = self.policy_acks().await?;
        let mut conn = self.mysql.conn(deadline).await?;
        replication::forget_source(&mut conn, deadline).await?;
        semi_sync::become_source(&mut conn, acks, deadline).await?;
        lock.verify().await.map_err(|lost| AgentError::Precondition(lost.to_string()))?;
        self.make_writable(&mut conn, deadline).await?;
        tracing::info!(acks, "the topology says that this server is the primary: writable again");
        Ok(Ok(()))
    }
}
