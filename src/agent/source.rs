//! Following another tablet.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Action, Agent, AgentError, Context,
    demote::OFF_DELAY_FOLLOWING,
    promote::cancel_source_off,
    replication::{self, RUNNING, Source},
    semi_sync,
    status::Switches,
};
use crate::{
    mysql::{GtidSet, Position, ServerUuid, conn::Lease},
    pb::{
        tabletmanagerdata::SetReplicationSourceRequest,
        topodata::{Tablet, TabletType},
    },
    tablet::Call,
    topo::TabletAlias,
};

impl Agent {
    /// SetReplicationSource: read-only, a replica, and following `parent` at the address that the parent's record gives.
    pub(super) async fn set_source(
        self: &Arc<Self>,
        context: &Context,
        request: &SetReplicationSourceRequest,
        caller_gone: &CancellationToken,
    ) -> Result<(), AgentError> {
        let mut action = self.lock(context).await?;
        if !self.set_source_locked(&mut action, context, request).await? {
            return Ok(());
        }
        tokio::select! {
            biased;
            waited = self.wait_for_source(request, context) => waited,
            // A row that its dead writer never wrote does not come; whoever comes next needs the lock that is held here.
            () = caller_gone.cancelled() => Err(AgentError::Deadline("the caller has gone away".to_owned())),
        }
    }

    /// Unlike vttablet it makes the server super-read-only if it is not, and refuses to follow itself. Waits for nothing; whether
    /// replication was started.
    pub(super) async fn set_source_locked(
        self: &Arc<Self>,
        action: &mut Action,
        context: &Context,
        request: &SetReplicationSourceRequest,
    ) -> Result<bool, AgentError> {
        let was_primary = self.is_primary();
        let followed = self.point(action, context, request).await;
        if followed.is_err() && was_primary && !self.is_primary() {
            // Neither primary nor replica now: it goes on by itself until it is one, or says why not.
            self.unsettled.notify_one();
        }
        followed
    }

    async fn point(
        self: &Arc<Self>,
        action: &mut Action,
        context: &Context,
        request: &SetReplicationSourceRequest,
    ) -> Result<bool, AgentError> {
        let deadline = context.deadline;
        let parent = parent(request)?;
        if parent == self.settings.alias {
            return Err(AgentError::Precondition(format!("{parent} cannot follow itself; name another tablet")));
        }
        Position::decode(&request.wait_position)?;
        let record = self.topo.tablet(&parent).await?.value;
        let port = address(&parent, &record)?;
        let mut conn = self.mysql.conn(deadline).await?;
        if !Switches::read(&mut conn, deadline).await?.super_read_only {
            self.change(|state| state.writable = false);
            self.set_super_read_only(&mut conn, deadline).await?;
        }
        if self.is_primary() {
            self.set_type(TabletType::Replica).await;
        }
        cancel_source_off(action);
        let before = replication::status(&mut conn, deadline).await?;
        let run = request.force_start_replication || before.as_ref().is_none_or(|b| b.io_healthy() || b.sql_healthy());
        self.refuse_errant(&mut conn, &parent, &record, context).await?;
        // Before the SQL thread starts: with the source side on, its commits would wait for acknowledgements of their own.
        if semi_sync::release(&mut conn, deadline).await? {
            self.source_off_later(action, OFF_DELAY_FOLLOWING);
        }
        semi_sync::become_replica(&mut conn, request.semi_sync, deadline).await?;
        let source = Source {
            host: &record.mysql_hostname,
            port,
            account: &self.settings.replication,
            heartbeat_interval_s: request.heartbeat_interval,
        };
        let same = before.as_ref().is_some_and(|b| {
            (b.status.source_host.as_str(), b.status.source_port) == (source.host, i32::from(port)) && b.status.auto_position
        });
        if !same || request.heartbeat_interval != 0.0 {
            replication::change_source(&mut conn, &source, run, deadline).await?;
        } else if run {
            restart_io(&mut conn, deadline).await?;
        }
        if Switches::read(&mut conn, deadline).await?.offline_mode {
            // Whoever fenced this server before a promotion leaves it to us to open it again: it follows the new primary now.
            conn.exec("SET GLOBAL offline_mode = OFF", deadline).await.map_err(AgentError::change)?;
        }
        tracing::info!(%parent, semi_sync = request.semi_sync, run, "following");
        self.change(|state| state.replication_problem = None);
        Ok(run)
    }

    async fn wait_for_source(&self, request: &SetReplicationSourceRequest, context: &Context) -> Result<(), AgentError> {
        let mut conn = self.mysql.conn(context.deadline).await?;
        match &Position::decode(&request.wait_position)? {
            Position::None => {}
            Position::Gtid(set) => replication::wait_for(&mut conn, set, context.deadline).await?,
            Position::Other { flavor, .. } => {
                return Err(AgentError::Invalid(format!("a position of flavor {flavor} cannot be waited for here")));
            }
        }
        if request.time_created_ns != 0 {
            self.wait_for_journal(&mut conn, request.time_created_ns, context.deadline).await?;
        }
        Ok(())
    }

    /// Refuses to follow a parent that lacks transactions which this server has executed or received.
    pub(super) async fn refuse_errant(
        &self,
        conn: &mut Lease<'_>,
        parent: &TabletAlias,
        record: &Tablet,
        context: &Context,
    ) -> Result<(), AgentError> {
        let own = match replication::status(conn, context.deadline).await? {
            Some(replica) => replica.executed.union(&replica.retrieved),
            None => {
                let executed = replication::executed(conn, context.deadline).await?;
                Position::decode(&executed)?.gtid().cloned().unwrap_or_default()
            }
        };
        let timeout = context.deadline.saturating_duration_since(tokio::time::Instant::now());
        let theirs = self.tablets.primary_status(record, Call::read(timeout)).await?;
        let position = Position::decode(&theirs.position)?;
        let server: ServerUuid = theirs.server_uuid.parse()?;
        let errant = errant(&own, position.gtid().unwrap_or(&GtidSet::default()), server);
        if errant.is_empty() {
            return Ok(());
        }
        Err(AgentError::Precondition(format!(
            "Errant GTID detected - {errant}; {parent} does not have these transactions: rebuild this server from a backup or a clone"
        )))
    }
}

/// What is here and not there. What the parent wrote itself is not counted: it may have written more since it was asked.
fn errant(own: &GtidSet, parent: &GtidSet, parent_server: ServerUuid) -> GtidSet {
    own.without_server(parent_server).subtract(parent)
}

fn parent(request: &SetReplicationSourceRequest) -> Result<TabletAlias, AgentError> {
    let parent = request.parent.as_ref().ok_or_else(|| AgentError::Precondition("no parent was given".to_owned()))?;
    TabletAlias::try_from(parent).map_err(|error| AgentError::Invalid(error.to_string()))
}

fn address(parent: &TabletAlias, record: &Tablet) -> Result<u16, AgentError> {
    if record.mysql_hostname.is_empty() {
        return Err(AgentError::Precondition(format!("{parent} has no MySQL address in its record: it was shut down")));
    }
    u16::try_from(record.mysql_port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| AgentError::Precondition(format!("{parent} has MySQL port {} in its record", record.mysql_port)))
}

/// The source is right already: the IO thread starts afresh, which is when a changed semi-sync setting takes effect.
async fn restart_io(conn: &mut Lease<'_>, deadline: tokio::time::Instant) -> Result<(), AgentError> {
    let now = replication::status(conn, deadline).await?;
    let acking = semi_sync::SemiSync::read(conn, deadline).await?;
    let right = now.as_ref().is_some_and(|n| n.status.io_state == RUNNING && n.sql_healthy());
    if right && acking.replica_enabled == acking.replica_status {
        return Ok(());
    }
    conn.exec("STOP REPLICA IO_THREAD", deadline).await.map_err(AgentError::change)?;
    conn.exec("START REPLICA", deadline).await.map_err(AgentError::change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errant_is_what_the_parent_lacks_and_did_not_write_itself() {
        let set = |text: &str| text.parse::<GtidSet>().unwrap();
        let (a, b) = ("00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b");
        let own = set(&format!("{a}:1-12,{b}:1-3"));
        assert!(errant(&own, &set(&format!("{a}:1-10,{b}:1-3")), a.parse().unwrap()).is_empty());
        assert_eq!(errant(&own, &set(&format!("{a}:1-10,{b}:1-2")), a.parse().unwrap()), set(&format!("{b}:3")));
    }
}
