//! Replication of the agent's own server: its status, its threads, and whom it follows.

use tokio::time::Instant;

use super::AgentError;
use crate::{
    mysql::{
        GtidSet,
        conn::{MysqlConn, MysqlError, Row, Secret, quote},
    },
    pb::replicationdata::{PrimaryStatus, Status},
};

/// Thread states of [`Status`], as Vitess numbers them.
pub const UNKNOWN: i32 = 0;
/// The thread does not run.
pub const STOPPED: i32 = 1;
/// The IO thread has no connection and tries to get one.
pub const CONNECTING: i32 = 2;
/// The thread runs.
pub const RUNNING: i32 = 3;

/// Longest wait between two attempts of an IO thread to connect. Short, because a new primary needs its acknowledgers.
const CONNECT_RETRY_S: u32 = 1;

/// Attempts before an IO thread gives up: a day's worth.
const RETRY_COUNT: u32 = 86_400;

/// How replicas log in to their source.
#[derive(Debug, Clone, Default)]
pub struct ReplicationAccount {
    /// Account.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Connect over TLS; without it the password's public key is fetched from the source.
    pub ssl: bool,
    /// Authority, certificate and key, as files on the host of mysqld.
    pub ssl_ca: Option<String>,
    /// Certificate.
    pub ssl_cert: Option<String>,
    /// Key.
    pub ssl_key: Option<String>,
}

/// `SHOW REPLICA STATUS` of the unnamed channel.
#[derive(Debug, Clone)]
pub struct ReplicaStatus {
    /// Everything executed.
    pub executed: GtidSet,
    /// Everything received from the present source.
    pub retrieved: GtidSet,
    /// The message for callers.
    pub status: Status,
}

impl ReplicaStatus {
    /// Running, or connecting without an error: what Vitess calls healthy.
    pub fn io_healthy(&self) -> bool {
        match self.status.io_state {
            RUNNING => true,
            CONNECTING => self.status.last_io_error.is_empty(),
            _ => false,
        }
    }

    /// The SQL thread runs.
    pub fn sql_healthy(&self) -> bool {
        self.status.sql_state == RUNNING
    }

    /// Received, but not yet executed: what only the relay log holds.
    pub fn unapplied(&self) -> GtidSet {
        self.retrieved.subtract(&self.executed)
    }
}

/// Reads the status; `None` when no source is configured.
pub async fn status(conn: &mut MysqlConn, deadline: Instant) -> Result<Option<ReplicaStatus>, AgentError> {
    let rows = conn.query("SHOW REPLICA STATUS", deadline).await?;
    // Group replication has channels of its own, with names.
    let row = rows.into_iter().find(|row| row.text(&["Channel_Name"]).unwrap_or_default().is_empty());
    row.map(|row| replica_status(&row)).transpose()
}

fn replica_status(row: &Row) -> Result<ReplicaStatus, AgentError> {
    let text = |names: &[&str]| row.text(names).unwrap_or_default();
    let number = |names: &[&str]| row.text(names).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let file = |name: &[&str], position: &[&str]| match text(name) {
        file if file.is_empty() => String::new(),
        file => format!("FilePos/{file}:{}", text(position)),
    };
    let executed: GtidSet = text(&["Executed_Gtid_Set"]).parse()?;
    let retrieved: GtidSet = text(&["Retrieved_Gtid_Set"]).parse()?;
    let lag_s = row.text(&["Seconds_Behind_Source", "Seconds_Behind_Master"]).and_then(|n| n.parse().ok());
    let filtered = row.names().any(|name| {
        let rule = name.starts_with("Replicate_") && name != "Replicate_Ignore_Server_Ids";
        rule && !text(&[name]).is_empty()
    });
    let status = Status {
        position: format!("MySQL56/{executed}"),
        relay_log_position: format!("MySQL56/{}", executed.union(&retrieved)),
        replication_lag_seconds: lag_s.unwrap_or(0),
        replication_lag_unknown: lag_s.is_none(),
        source_host: text(&["Source_Host", "Master_Host"]),
        source_port: i32::try_from(number(&["Source_Port", "Master_Port"])).unwrap_or(0),
        source_user: text(&["Source_User", "Master_User"]),
        source_server_id: number(&["Source_Server_Id", "Master_Server_Id"]),
        source_uuid: match text(&["Source_UUID", "Master_UUID"]) {
            uuid if uuid.is_empty() => "00000000-0000-0000-0000-000000000000".to_owned(),
            uuid => uuid,
        },
        connect_retry: i32::try_from(number(&["Connect_Retry"])).unwrap_or(0),
        file_position: file(&["Relay_Source_Log_File", "Relay_Master_Log_File"], &["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"]),
        relay_log_source_binlog_equivalent_position: file(
            &["Source_Log_File", "Master_Log_File"],
            &["Read_Source_Log_Pos", "Read_Master_Log_Pos"],
        ),
        relay_log_file_position: file(&["Relay_Log_File"], &["Relay_Log_Pos"]),
        io_state: thread_state(&text(&["Replica_IO_Running", "Slave_IO_Running"])),
        last_io_error: text(&["Last_IO_Error"]),
        sql_state: thread_state(&text(&["Replica_SQL_Running", "Slave_SQL_Running"])),
        last_sql_error: text(&["Last_SQL_Error"]),
        sql_delay: number(&["SQL_Delay"]),
        auto_position: text(&["Auto_Position"]) == "1",
        has_replication_filters: filtered,
        ssl_allowed: text(&["Source_SSL_Allowed", "Master_SSL_Allowed"]) == "Yes",
        ..Status::default()
    };
    Ok(ReplicaStatus { executed, retrieved, status })
}

fn thread_state(text: &str) -> i32 {
    match text {
        "Yes" => RUNNING,
        "Connecting" => CONNECTING,
        "No" => STOPPED,
        _ => UNKNOWN,
    }
}

/// Executed set, file position and UUID of the server, whether it is a primary or not.
pub async fn primary_status(conn: &mut MysqlConn, deadline: Instant) -> Result<PrimaryStatus, MysqlError> {
    let ids = conn.query_one("SELECT @@global.gtid_executed, @@global.server_uuid", deadline).await?;
    let show = if conn.version() >= (8, 2, 0) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let log = conn.query(show, deadline).await?.pop();
    let file = log.map(|log| (log.text(&["File"]).unwrap_or_default(), log.text(&["Position"]).unwrap_or_default()));
    Ok(PrimaryStatus {
        position: encode(&ids.at(0).unwrap_or_default()),
        file_position: file.map(|(file, at)| format!("FilePos/{file}:{at}")).unwrap_or_default(),
        server_uuid: ids.at(1).unwrap_or_default(),
    })
}

/// A set as MySQL prints it, with its line breaks, as a position for the wire.
fn encode(set: &str) -> String {
    format!("MySQL56/{}", set.replace(['\n', ' '], "").to_ascii_lowercase())
}

/// Everything executed, encoded.
pub async fn executed(conn: &mut MysqlConn, deadline: Instant) -> Result<String, MysqlError> {
    let row = conn.query_one("SELECT @@global.gtid_executed", deadline).await?;
    Ok(encode(&row.at(0).unwrap_or_default()))
}

/// Waits until the server has executed a set. Works on a primary too.
pub async fn wait_for(conn: &mut MysqlConn, wanted: &GtidSet, deadline: Instant) -> Result<(), AgentError> {
    let late = || AgentError::Deadline(format!("timed out waiting for position {wanted}"));
    // The server's own limit, so that it stops waiting when we do; ours cuts a little later, at the deadline itself.
    let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64().max(0.001);
    let sql = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{wanted}', {left:.3})");
    match conn.query_one(&sql, deadline + std::time::Duration::from_millis(20)).await {
        Ok(row) if row.at(0).as_deref() == Some("0") => Ok(()),
        Ok(_) | Err(MysqlError::Timeout { .. }) => Err(late()),
        Err(error) => Err(error.into()),
    }
}

/// Leaves replication for good: see [`stop`].
pub async fn forget_source(conn: &mut MysqlConn, deadline: Instant) -> Result<(), AgentError> {
    if stop(conn, deadline).await? {
        conn.exec("RESET REPLICA ALL", deadline).await.map_err(AgentError::change)?;
    }
    Ok(())
}

/// Stops both threads, after everything received is executed: forgetting the source afterwards deletes the relay log, which may hold
/// the only copy of what this server acknowledged. Returns whether there was a source.
pub async fn stop(conn: &mut MysqlConn, deadline: Instant) -> Result<bool, AgentError> {
    let Some(before) = status(conn, deadline).await? else { return Ok(false) };
    if before.status.io_state != STOPPED {
        conn.exec("STOP REPLICA IO_THREAD", deadline).await.map_err(AgentError::change)?;
    }
    let Some(now) = status(conn, deadline).await? else { return Ok(false) };
    apply_relay_log(conn, &now, deadline).await?;
    conn.exec("STOP REPLICA", deadline).await.map_err(AgentError::change)?;
    Ok(true)
}

async fn apply_relay_log(conn: &mut MysqlConn, now: &ReplicaStatus, deadline: Instant) -> Result<(), AgentError> {
    let unapplied = now.unapplied();
    if unapplied.is_empty() {
        return Ok(());
    }
    let refused = |reason: String| {
        AgentError::Precondition(format!(
            "received but not yet executed: {unapplied}; forgetting the source now would throw it away ({reason}); let the SQL \
             thread finish, or repair it, then retry"
        ))
    };
    if !now.sql_healthy() {
        conn.exec("START REPLICA SQL_THREAD", deadline).await.map_err(|error| refused(error.to_string()))?;
    }
    wait_for(conn, &unapplied, deadline).await.map_err(|error| refused(error.to_string()))
}

/// Whom to follow, and how.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Host of its mysqld.
    pub host: &'a str,
    /// Port of its mysqld.
    pub port: u16,
    /// Account there.
    pub account: &'a ReplicationAccount,
    /// Heartbeat period; 0 = leave it.
    pub heartbeat_interval_s: f64,
}

impl Source<'_> {
    fn options(&self) -> String {
        let account = self.account;
        let mut options = vec![
            format!("SOURCE_HOST = {}", quote(self.host)),
            format!("SOURCE_PORT = {}", self.port),
            format!("SOURCE_USER = {}", quote(&account.user)),
            format!("SOURCE_CONNECT_RETRY = {CONNECT_RETRY_S}"),
            format!("SOURCE_RETRY_COUNT = {RETRY_COUNT}"),
        ];
        if account.ssl {
            options.push("SOURCE_SSL = 1".to_owned());
            for (name, file) in [("CA", &account.ssl_ca), ("CERT", &account.ssl_cert), ("KEY", &account.ssl_key)] {
                options.extend(file.as_ref().map(|file| format!("SOURCE_SSL_{name} = {}", quote(file))));
            }
        } else {
            options.push("GET_SOURCE_PUBLIC_KEY = 1".to_owned());
        }
        if self.heartbeat_interval_s > 0.0 {
            options.push(format!("SOURCE_HEARTBEAT_PERIOD = {:.3}", self.heartbeat_interval_s));
        }
        // Last, because an error text is cut before it.
        options.push(format!("SOURCE_PASSWORD = {}", quote(&account.password.0)));
        options.join(", ")
    }
}

/// Points the server at a source. Afterwards both threads run, or both stand still if `run` is false.
///
/// MySQL deletes the relay log in CHANGE REPLICATION SOURCE when both threads stand still, and keeps it while one runs. So where
/// received transactions are not executed yet, the SQL thread runs during the change, and goes on with them. If it
/// cannot run, the change is refused: this relay log may hold the only other copy of what this server has acknowledged.
/// Auto-positioning cannot be switched on while a thread runs; a replica without it is given time to execute everything instead.
pub async fn change_source(conn: &mut MysqlConn, source: &Source<'_>, run: bool, deadline: Instant) -> Result<(), AgentError> {
    let before = status(conn, deadline).await?;
    if before.as_ref().is_some_and(|b| b.status.io_state != STOPPED) {
        conn.exec("STOP REPLICA IO_THREAD", deadline).await.map_err(AgentError::change)?;
    }
    // Read again: the IO thread may have received until it stopped.
    let now = match before {
        Some(_) => status(conn, deadline).await?,
        None => None,
    };
    match now {
        Some(now) if now.status.auto_position && (now.sql_healthy() || !now.unapplied().is_empty()) => {
            if !now.sql_healthy() {
                conn.exec("START REPLICA SQL_THREAD", deadline).await.map_err(|error| keep_relay_log(&now, &error))?;
            }
            let sql = format!("CHANGE REPLICATION SOURCE TO {}", source.options());
            conn.exec(&sql, deadline).await.map_err(AgentError::change)?;
            if !run {
                conn.exec("STOP REPLICA SQL_THREAD", deadline).await.map_err(AgentError::change)?;
            }
        }
        now => {
            if let Some(now) = &now {
                apply_relay_log(conn, now, deadline).await?;
                conn.exec("STOP REPLICA", deadline).await.map_err(AgentError::change)?;
            }
            let sql = format!("CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION = 1, {}", source.options());
            conn.exec(&sql, deadline).await.map_err(AgentError::change)?;
        }
    }
    if run {
        conn.exec("START REPLICA", deadline).await.map_err(AgentError::change)?;
    }
    Ok(())
}

fn keep_relay_log(now: &ReplicaStatus, error: &MysqlError) -> AgentError {
    AgentError::Precondition(format!(
        "received but not yet executed: {}; changing the source would throw it away, because the SQL thread cannot be started: {error}; \
         repair the SQL thread, then retry",
        now.unapplied()
    ))
}
