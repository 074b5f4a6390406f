//! Watching mysqld: it is read-only whenever it was started, and what it is afterwards is decided by [`super::settle`].

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Agent, AgentError, Context, replication, semi_sync, status::Switches};
use crate::mysql::conn::{MysqlConn, MysqlError};

/// Between two attempts to connect, at first and at last.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_LAST: Duration = Duration::from_secs(1);

/// One lap of the connection that is kept: it sleeps in the server, so that its closing is seen at once.
const LAP_S: u32 = 1;

/// A server that has not ended a lap after that long is called silent.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Uptime counts whole seconds: two readings of the same server differ by up to this.
const UPTIME_SLACK: Duration = Duration::from_secs(2);

/// One run of mysqld.
#[derive(Debug, Clone, Copy)]
struct Incarnation {
    started: Instant,
    connection: u32,
    /// Thread id of its main thread, which is its process id; `None` without performance_schema.
    process: Option<u64>,
}

impl Incarnation {
    async fn read(conn: &mut MysqlConn, deadline: Instant) -> Result<Self, MysqlError> {
        let row = conn.query_one("SHOW GLOBAL STATUS LIKE 'Uptime'", deadline).await?;
        let uptime = Duration::from_secs(row.at(1).and_then(|s| s.parse().ok()).unwrap_or(0));
        let now = Instant::now();
        let main = "SELECT thread_os_id FROM performance_schema.threads WHERE name = 'thread/sql/main'";
        let process = conn.query(main, deadline).await?.first().and_then(|row| row.at(0)?.parse().ok());
        Ok(Self { started: now.checked_sub(uptime).unwrap_or(now), connection: conn.id(), process })
    }

    /// Whether `later` is another run: it started later, its connections are counted anew, or it is another process (in a container
    /// the id may be the same; a restart within seconds can be told by it alone).
    fn replaced_by(&self, later: &Self) -> bool {
        later.started > self.started + UPTIME_SLACK || later.connection <= self.connection || later.process != self.process
    }
}

/// Runs until shutdown, at first with the connection on which the server was found.
pub async fn run(agent: Arc<Agent>, found: MysqlConn) {
    let mut known = Some(found);
    let mut last: Option<Incarnation> = None;
    let mut delay = RECONNECT_FIRST;
    loop {
        let lap = async {
            let deadline = agent.own_deadline();
            let mut conn = match known.take() {
                Some(conn) => conn,
                None => agent.mysql.connect(deadline).await?,
            };
            let found = Incarnation::read(&mut conn, deadline).await?;
            match last {
                Some(last) if !last.replaced_by(&found) => agent.found_again().await?,
                Some(_) => {
                    tracing::warn!("mysqld was restarted: read-only until the topology has been read under the shard lock");
                    agent.close_after_start().await?;
                }
                // Done before the first call was served, unless MySQL did not let us.
                None if agent.closed_at_start.load(Ordering::Relaxed) => {}
                None => agent.close_after_start().await?,
            }
            last = Some(found);
            agent.renew_door().await?;
            agent.change(|state| state.mysql_down = None);
            delay = RECONNECT_FIRST;
            agent.watch(&mut conn).await
        };
        let error = tokio::select! {
            () = agent.shutdown.cancelled() => return,
            ended = lap => match ended { Ok(never) => match never {}, Err(error) => error },
        };
        agent.mysql.forget_idle();
        agent.lost_mysql(&error);
        tokio::select! {
            () = agent.shutdown.cancelled() => return,
            () = sleep(delay) => {}
        }
        delay = (delay * 2).min(RECONNECT_LAST);
    }
}

/// A watch never ends well.
enum Never {}

impl Agent {
    /// Read-only first, whatever my.cnf says; then [`super::settle`] decides. Under the action lock: an action that was under way when
    /// mysqld went down has failed by now, and one that has made the new run writable since was told so by an elector.
    pub(super) async fn close_after_start(self: &Arc<Self>) -> Result<(), AgentError> {
        let deadline = self.own_deadline();
        let mut action = self.lock(&Context { deadline, lock_revision: None }).await?;
        if self.state.borrow().writable {
            return Ok(());
        }
        let mut conn = self.mysql.conn(deadline).await?;
        if !Switches::read(&mut conn, deadline).await?.super_read_only {
            if self.is_primary() {
                self.set_super_read_only(&mut conn, deadline).await?;
            } else {
                // Another one was elected while this agent was away: the commits that hang here will never be acknowledged.
                self.shut(&mut action, None).await?;
            }
        }
        match semi_sync::install(&mut conn, deadline).await {
            Ok(false) => {}
            Ok(true) => tracing::info!("semi-sync plugins loaded"),
            Err(error) => {
                tracing::warn!(%error, "semi-sync plugins cannot be loaded: a policy with acknowledgements will be refused")
            }
        }
        self.closed_at_start.store(true, Ordering::Relaxed);
        self.unsettled.notify_one();
        Ok(())
    }

    /// The same run of mysqld answers again: only the connection was lost, and what it was it still is.
    /// Unless another primary was elected while it was silent.
    async fn found_again(self: &Arc<Self>) -> Result<(), AgentError> {
        let deadline = self.own_deadline();
        let mut action = self.lock(&Context { deadline, lock_revision: None }).await?;
        let mut conn = self.mysql.conn(deadline).await?;
        let now = Switches::read(&mut conn, deadline).await?;
        drop(conn);
        if !self.is_primary() && !now.super_read_only {
            tracing::warn!("mysqld answers again and is writable, but this tablet is no longer primary: read-only");
            self.shut(&mut action, None).await?;
            self.unsettled.notify_one();
        }
        self.change(|state| state.writable = !now.read_only && state.is_primary());
        Ok(())
    }

    fn lost_mysql(&self, error: &AgentError) {
        let text = error.to_string();
        let first = self.state.borrow().mysql_down.is_none();
        if first {
            tracing::warn!(%error, "mysqld does not answer");
        }
        self.change(|state| {
            state.mysql_down = Some(text);
            state.writable = false;
        });
    }

    /// Sleeps in the server lap after lap, and looks at replication at every health interval.
    async fn watch(&self, conn: &mut MysqlConn) -> Result<Never, AgentError> {
        let mut looked = Instant::now();
        loop {
            conn.exec(&format!("DO SLEEP({LAP_S})"), Instant::now() + SILENT_AFTER).await?;
            if looked.elapsed() >= self.settings.health_check_interval {
                looked = Instant::now();
                self.look_at_replication(conn).await?;
                // A server that takes no further connection is not lost, and would only be the less crowded if we let go of this one.
                if let Err(error) = self.renew_door().await {
                    tracing::debug!(%error, "the fence keeps its older connection");
                }
            }
        }
    }

    async fn look_at_replication(&self, conn: &mut MysqlConn) -> Result<(), AgentError> {
        let status = replication::status(conn, self.own_deadline()).await?;
        let (problem, lag_s) = match &status {
            Some(now) if now.io_healthy() && now.sql_healthy() => (None, now.status.replication_lag_seconds),
            Some(now) => {
                let text = format!("replication does not run: {} {}", now.status.last_io_error, now.status.last_sql_error);
                (Some(text.trim_end_matches([' ', ':']).to_owned()), now.status.replication_lag_seconds)
            }
            None => (Some("no replication source is configured".to_owned()), 0),
        };
        self.state.send_if_modified(|state| {
            let changed = (&state.replication_problem, state.lag_s) != (&problem, lag_s);
            (state.replication_problem, state.lag_s) = (problem, lag_s);
            changed
        });
        Ok(())
    }
}
