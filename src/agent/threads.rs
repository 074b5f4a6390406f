//! The calls that start, stop and read replication, and change the tablet's type.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Agent, AgentError, Context,
    replication::{self, STOPPED},
    semi_sync::{self, SemiSync},
    status::Switches,
};
use crate::{
    mysql::{GtidSet, Position},
    pb::{
        replicationdata::{PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::TabletType,
    },
};

/// The set in a position; a call that would run SQL with none is refused.
fn gtids(position: &str) -> Result<GtidSet, AgentError> {
    match Position::decode(position)? {
        Position::Gtid(set) => Ok(set),
        Position::None => Err(AgentError::Invalid("an empty position was given".to_owned())),
        Position::Other { flavor, .. } => Err(AgentError::Invalid(format!("flavor {flavor} is not MySQL's"))),
    }
}

impl Agent {
    pub(super) async fn replication_status(&self, deadline: Instant) -> Result<Status, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        Ok(replication::status(&mut conn, deadline).await?.ok_or(AgentError::NotReplica)?.status)
    }

    pub(super) async fn primary_status(&self, deadline: Instant) -> Result<PrimaryStatus, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        Ok(replication::primary_status(&mut conn, deadline).await?)
    }

    pub(super) async fn primary_position(&self, deadline: Instant) -> Result<String, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        Ok(replication::executed(&mut conn, deadline).await?)
    }

    pub(super) async fn wait_for_position(&self, position: &str, deadline: Instant) -> Result<(), AgentError> {
        let wanted = match Position::decode(position)? {
            Position::None => return Ok(()),
            _ => gtids(position)?,
        };
        let mut conn = self.mysql.conn(deadline).await?;
        replication::wait_for(&mut conn, &wanted, deadline).await
    }

    /// Stops the IO thread, or both. Unlike vttablet it stops an IO thread that is connecting, and threads one of which is
    /// dead already: what is reported as stopped cannot come back and acknowledge.
    pub(super) async fn stop_and_get_status(
        &self,
        context: &Context,
        mode: StopReplicationMode,
    ) -> Result<StopReplicationStatus, AgentError> {
        let _action = self.lock(context).await?;
        let deadline = context.deadline;
        let before = |error: AgentError| AgentError::BeforeStatus(Box::new(error));
        let mut conn = self.mysql.conn(deadline).await.map_err(|error| before(error.into()))?;
        let first = replication::status(&mut conn, deadline).await.map_err(before)?;
        let first = first.ok_or_else(|| before(AgentError::NotReplica))?;
        let semi_sync = SemiSync::read(&mut conn, deadline).await?;
        let with_flags = Status {
            semi_sync_primary_enabled: semi_sync.source_enabled,
            semi_sync_replica_enabled: semi_sync.replica_enabled,
            semi_sync_primary_status: semi_sync.source_status,
            semi_sync_replica_status: semi_sync.replica_status,
            ..first.status.clone()
        };
        let (io_stopped, sql_stopped) = (first.status.io_state == STOPPED, first.status.sql_state == STOPPED);
        let sql = match mode {
            StopReplicationMode::Iothreadonly if !io_stopped => "STOP REPLICA IO_THREAD",
            StopReplicationMode::Ioandsqlthread if !(io_stopped && sql_stopped) => "STOP REPLICA",
            _ => return Ok(StopReplicationStatus { before: Some(with_flags.clone()), after: Some(with_flags) }),
        };
        conn.exec(sql, deadline).await.map_err(AgentError::change)?;
        let after = replication::status(&mut conn, deadline).await?.ok_or(AgentError::NotReplica)?;
        Ok(StopReplicationStatus { before: Some(with_flags), after: Some(after.status) })
    }

    pub(super) async fn stop_replication(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        self.exec("STOP REPLICA", context.deadline).await
    }

    pub(super) async fn start_replication(&self, context: &Context, acks: bool, restart: bool) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        let mut conn = self.mysql.conn(context.deadline).await?;
        if restart {
            conn.exec("STOP REPLICA", context.deadline).await.map_err(AgentError::change)?;
        }
        if self.is_primary() {
            semi_sync::check(&mut conn, acks, context.deadline).await?;
        } else {
            semi_sync::become_replica(&mut conn, acks, context.deadline).await?;
        }
        conn.exec("START REPLICA", context.deadline).await.map_err(AgentError::change)
    }

    pub(super) async fn stop_at_minimum(&self, context: &Context, position: &str, wait: Duration) -> Result<String, AgentError> {
        let _action = self.lock(context).await?;
        let mut conn = self.mysql.conn(context.deadline).await?;
        if Position::decode(position)? != Position::None {
            replication::wait_for(&mut conn, &gtids(position)?, context.deadline.min(Instant::now() + wait)).await?;
        }
        conn.exec("STOP REPLICA", context.deadline).await.map_err(AgentError::change)?;
        Ok(replication::executed(&mut conn, context.deadline).await?)
    }

    pub(super) async fn start_until_after(&self, context: &Context, position: &str) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        self.exec(&format!("START REPLICA UNTIL SQL_AFTER_GTIDS = '{}'", gtids(position)?), context.deadline).await
    }

    /// Stops and forgets the source, after everything received is executed.
    pub(super) async fn reset_parameters(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        let mut conn = self.mysql.conn(context.deadline).await?;
        replication::forget_source(&mut conn, context.deadline).await
    }

    /// Wipes the GTID history, as its name and vttablet say. Refused on a server that is writable.
    pub(super) async fn reset_replication(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        let deadline = context.deadline;
        if self.state.borrow().writable {
            let text = "this server is a writable primary: demote it before its GTID history is wiped".to_owned();
            return Err(AgentError::Precondition(text));
        }
        let mut conn = self.mysql.conn(deadline).await?;
        semi_sync::source_off(&mut conn, deadline).await?;
        semi_sync::become_replica(&mut conn, false, deadline).await?;
        for sql in ["STOP REPLICA", "RESET REPLICA ALL", wipe_gtids(conn.version())] {
            conn.exec(sql, deadline).await.map_err(AgentError::change)?;
        }
        Ok(())
    }

    /// ReplicaWasRestarted: a primary becomes a replica; MySQL becomes read-only, where vttablet leaves it as it is.
    pub(super) async fn was_restarted(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        if self.is_primary() {
            self.leave_primary(TabletType::Replica, context.deadline).await?;
        }
        Ok(())
    }

    async fn leave_primary(&self, to: TabletType, deadline: Instant) -> Result<(), AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        if !Switches::read(&mut conn, deadline).await?.super_read_only {
            self.set_super_read_only(&mut conn, deadline).await?;
        }
        self.set_type(to).await;
        Ok(())
    }

    /// ChangeType. To PRIMARY: record and term only. From PRIMARY: MySQL becomes read-only first, where vttablet leaves it as it is.
    pub(super) async fn change_type(self: &Arc<Self>, context: &Context, to: TabletType, acks: bool) -> Result<(), AgentError> {
        let from = self.state.borrow().tablet_type();
        match to {
            TabletType::Unknown => return Err(AgentError::Invalid("type UNKNOWN cannot be taken".to_owned())),
            TabletType::Drained if from == to => {
                return Err(AgentError::Precondition(format!("{} is already drained", self.settings.alias)));
            }
            TabletType::Primary if from == to => return Ok(()),
            TabletType::Primary => return self.was_promoted(context).await,
            _ => {}
        }
        let _action = self.lock(context).await?;
        if from == TabletType::Primary {
            self.leave_primary(to, context.deadline).await?;
        } else {
            self.set_type(to).await;
        }
        let mut conn = self.mysql.conn(context.deadline).await?;
        semi_sync::become_replica(&mut conn, acks, context.deadline).await?;
        let acking = SemiSync::read(&mut conn, context.deadline).await?;
        let replica = replication::status(&mut conn, context.deadline).await?;
        if replica.is_some_and(|r| r.io_healthy()) && acking.replica_enabled != acking.replica_status {
            for sql in ["STOP REPLICA IO_THREAD", "START REPLICA IO_THREAD"] {
                conn.exec(sql, context.deadline).await.map_err(AgentError::change)?;
            }
        }
        Ok(())
    }

    async fn exec(&self, sql: &str, deadline: Instant) -> Result<(), AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        conn.exec(sql, deadline).await.map_err(AgentError::change)
    }
}

fn wipe_gtids(version: (u16, u16, u16)) -> &'static str {
    if version >= (8, 2, 0) { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" }
}
