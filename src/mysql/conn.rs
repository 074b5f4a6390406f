//! Connections to one MySQL server. Every wait ends at a deadline, and a connection that failed is thrown away.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mysql_async::{Conn, Error as DriverError, OptsBuilder, SslOpts, consts::ColumnFlags, prelude::Queryable};
use tokio::time::{Instant, timeout_at};

use super::tls::MysqlTls;
pub use crate::secret::Secret;

/// Idle connections that are kept; what is released beyond them is closed.
const IDLE_MAX: usize = 4;

/// Longest statement text shown in an error, in characters.
const EXCERPT_LEN_MAX: usize = 200;

/// Set explicitly, because the driver asks the server for what is not set with a query of its own at every connect.
const MAX_ALLOWED_PACKET_BYTES: usize = 64 << 20;
const WAIT_TIMEOUT_S: usize = 28_800;

/// A name that TLS wants and nobody verifies; the host's own may be none that TLS takes.
const UNVERIFIED_NAME: &str = "mysql";

/// The words of a login that ended at its limit: the server is silent, not gone.
pub const NO_GREETING: &str = "no greeting in time";

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MysqlAddress {
    /// A Unix socket.
    Socket(PathBuf),
    /// Host name or IP address, and port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

impl fmt::Display for MysqlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MysqlAddress::Socket(path) => write!(f, "{}", path.display()),
            MysqlAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// How to log in to a server.
#[derive(Debug, Clone)]
pub struct MysqlSettings {
    /// Where it listens.
    pub address: MysqlAddress,
    /// Account.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Limit of one login, greeting included.
    pub connect_timeout: Duration,
}

/// Why MySQL did not do what was asked. The texts end as Vitess's do, because callers read the errno out of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MysqlError {
    /// No connection: nothing was sent.
    #[error("cannot connect to MySQL at {address}: {reason} (errno {errno}) (sqlstate HY000)")]
    Unreachable {
        /// Where it should listen.
        address: String,
        /// The system's words, or how long the login took in vain.
        reason: String,
        /// 2002 for a socket, 2003 for TCP, as MySQL's own client says.
        errno: u16,
    },
    /// The connection broke during a statement, which may have been carried out.
    #[error("lost connection to MySQL server during query: {reason} (errno 2013) (sqlstate HY000) during query: {sql}")]
    Lost {
        /// The statement.
        sql: String,
        /// What was seen.
        reason: String,
    },
    /// The deadline passed during a statement, which may still be running.
    #[error("MySQL did not answer in time: {sql}")]
    Timeout {
        /// The statement.
        sql: String,
    },
    /// The server refused.
    #[error("{message} (errno {errno}) (sqlstate {sqlstate}) during query: {sql}")]
    Server {
        /// MySQL's error number.
        errno: u16,
        /// SQLSTATE.
        sqlstate: String,
        /// The server's words.
        message: String,
        /// The statement.
        sql: String,
    },
    /// More rows than the caller can take.
    #[error("Row count exceeded {max_rows}")]
    TooManyRows {
        /// The limit that was given.
        max_rows: u64,
    },
    /// An answer without the column or in a form that no supported server gives.
    #[error("unexpected answer of MySQL to {sql}: {reason}")]
    Answer {
        /// The statement.
        sql: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl MysqlError {
    /// The server's error number, where it gave one.
    pub fn errno(&self) -> Option<u16> {
        match self {
            MysqlError::Unreachable { errno, .. } | MysqlError::Server { errno, .. } => Some(*errno),
            MysqlError::Lost { .. } => Some(2013),
            MysqlError::Timeout { .. } | MysqlError::TooManyRows { .. } | MysqlError::Answer { .. } => None,
        }
    }
}

/// A column of an answer.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name or alias.
    pub name: String,
    /// Name in its table.
    pub org_name: String,
    /// Table or alias.
    pub table: String,
    /// Real table.
    pub org_table: String,
    /// Schema.
    pub schema: String,
    /// Type, as the protocol numbers them.
    pub kind: mysql_async::consts::ColumnType,
    /// Flags.
    pub flags: ColumnFlags,
    /// Display length.
    pub length: u32,
    /// Character set number.
    pub charset: u16,
    /// Decimals.
    pub decimals: u8,
}

/// One row of an answer, as text.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[Column]>,
    /// One value a column; `None` is NULL.
    pub values: Vec<Option<Vec<u8>>>,
}

impl Row {
    /// The first of these columns that exists: names differ between generations of MySQL. `None` is NULL or no such column.
    pub fn text(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.value(name)).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        let at = self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))?;
        self.values.get(at)?.as_deref()
    }

    /// A column by its place.
    pub fn at(&self, index: usize) -> Option<String> {
        let bytes = self.values.get(index)?.as_deref()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }
}

/// Everything a statement answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Columns; empty for a statement without a result set.
    pub columns: Arc<[Column]>,
    /// Rows.
    pub rows: Vec<Row>,
    /// Rows that a write touched.
    pub rows_affected: u64,
    /// Last value of AUTO_INCREMENT.
    pub insert_id: u64,
    /// The server's remark.
    pub info: String,
}

/// One connection. After an error other than [`MysqlError::Server`] it is not used again.
pub struct MysqlConn {
    conn: Conn,
    /// False while a statement runs: a future dropped half-way leaves it so, and the connection is closed.
    clean: bool,
}

impl MysqlConn {
    /// Logs in, within the deadline and the settings' own limit.
    pub async fn connect(settings: &MysqlSettings, deadline: Instant) -> Result<Self, MysqlError> {
        let limit = deadline.min(Instant::now() + settings.connect_timeout);
        Self::login(settings, None, limit).await.map_err(|error| error.of(settings))
    }

    /// Logs in over TLS where the server offers it, as MySQL's own client does: encrypted, but whose server it is nobody verifies
    /// (MySQL signs its certificates itself).
    pub async fn connect_preferring_tls(settings: &MysqlSettings, deadline: Instant) -> Result<Self, MysqlError> {
        let limit = deadline.min(Instant::now() + settings.connect_timeout);
        let tls = SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some(UNVERIFIED_NAME));
        match Self::login(settings, Some(tls), limit).await {
            Err(LoginError::NoTls) => Self::login(settings, None, limit).await,
            done => done,
        }
        .map_err(|error| error.of(settings))
    }

    /// Logs in over TLS: to a server that bears a certificate of the right authority and name, and to no other.
    pub async fn connect_with_tls(settings: &MysqlSettings, tls: &MysqlTls, deadline: Instant) -> Result<Self, MysqlError> {
        let limit = deadline.min(Instant::now() + settings.connect_timeout);
        Self::login(settings, Some(tls.options().await), limit).await.map_err(|error| error.of(settings))
    }

    async fn login(settings: &MysqlSettings, tls: Option<SslOpts>, limit: Instant) -> Result<Self, LoginError> {
        let builder = OptsBuilder::default()
            .user(Some(&settings.user))
            .pass(Some(&settings.password.0))
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .max_allowed_packet(Some(MAX_ALLOWED_PACKET_BYTES))
            .wait_timeout(Some(WAIT_TIMEOUT_S))
            .ssl_opts(tls);
        let builder = match &settings.address {
            MysqlAddress::Socket(path) => builder.socket(Some(path.to_string_lossy())),
            MysqlAddress::Tcp { host, port } => builder.ip_or_hostname(host).tcp_port(*port),
        };
        match timeout_at(limit, Conn::new(builder)).await {
            Ok(Ok(conn)) => Ok(Self { conn, clean: true }),
            Ok(Err(DriverError::Server(error))) => Err(LoginError::Refused(server_error(error, "(login)"))),
            Ok(Err(DriverError::Driver(mysql_async::DriverError::NoClientSslFlagFromServer))) => Err(LoginError::NoTls),
            Ok(Err(error)) => Err(LoginError::Unreachable(error.to_string())),
            Err(_) => Err(LoginError::Unreachable(NO_GREETING.to_owned())),
        }
    }

    /// The server's number of this connection: what KILL takes.
    pub fn id(&self) -> u32 {
        self.conn.id()
    }

    /// The server's version as it greeted: major, minor, patch.
    pub fn version(&self) -> (u16, u16, u16) {
        self.conn.server_version()
    }

    /// Runs a statement for its rows.
    pub async fn query(&mut self, sql: &str, deadline: Instant) -> Result<Vec<Row>, MysqlError> {
        Ok(self.run(sql, u64::MAX, deadline).await?.rows)
    }

    /// Runs a statement that must answer one row.
    pub async fn query_one(&mut self, sql: &str, deadline: Instant) -> Result<Row, MysqlError> {
        let mut rows = self.query(sql, deadline).await?;
        rows.pop().ok_or_else(|| MysqlError::Answer { sql: excerpt(sql), reason: "no row".to_owned() })
    }

    /// Runs a statement whose answer does not matter.
    pub async fn exec(&mut self, sql: &str, deadline: Instant) -> Result<(), MysqlError> {
        self.run(sql, u64::MAX, deadline).await.map(drop)
    }

    /// Runs a statement with the text protocol and gives the whole answer, of at most `max_rows` rows.
    pub async fn run(&mut self, sql: &str, max_rows: u64, deadline: Instant) -> Result<Answer, MysqlError> {
        self.clean = false;
        let answer = match timeout_at(deadline, Self::read(&mut self.conn, sql, max_rows)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ReadError::TooManyRows)) => return Err(MysqlError::TooManyRows { max_rows }),
            Ok(Err(ReadError::Driver(DriverError::Server(error)))) => Err(server_error(error, sql)),
            Ok(Err(ReadError::Driver(error))) => {
                return Err(MysqlError::Lost { sql: excerpt(sql), reason: error.to_string() });
            }
            Err(_) => return Err(MysqlError::Timeout { sql: excerpt(sql) }),
        };
        self.clean = true;
        answer
    }

    async fn read(conn: &mut Conn, sql: &str, max_rows: u64) -> Result<Answer, ReadError> {
        let mut result = conn.query_iter(sql).await?;
        let columns: Arc<[Column]> = result.columns_ref().iter().map(column).collect();
        let mut rows = Vec::new();
        while let Some(row) = result.next().await? {
            if rows.len() as u64 >= max_rows {
                return Err(ReadError::TooManyRows);
            }
            let values = row.unwrap().into_iter().map(text_value).collect();
            rows.push(Row { columns: columns.clone(), values });
        }
        let (rows_affected, insert_id) = (result.affected_rows(), result.last_insert_id().unwrap_or(0));
        let info = result.info().into_owned();
        result.drop_result().await?;
        Ok(Answer { columns, rows, rows_affected, insert_id, info })
    }

    /// Whether the server answers on it.
    pub async fn ping(&mut self, deadline: Instant) -> bool {
        self.answers(deadline).await.is_ok()
    }

    /// The same, and how it fails.
    pub async fn answers(&mut self, deadline: Instant) -> Result<(), MysqlError> {
        let sql = || "(ping)".to_owned();
        match timeout_at(deadline, self.conn.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(DriverError::Server(error))) => Err(server_error(error, &sql())),
            Ok(Err(error)) => Err(MysqlError::Lost { sql: sql(), reason: error.to_string() }),
            Err(_) => Err(MysqlError::Timeout { sql: sql() }),
        }
    }
}

/// Why a login failed.
enum LoginError {
    /// The server speaks no TLS.
    NoTls,
    Refused(MysqlError),
    Unreachable(String),
}

impl LoginError {
    fn of(self, settings: &MysqlSettings) -> MysqlError {
        let reason = match self {
            LoginError::Refused(error) => return error,
            LoginError::NoTls => "it offers no TLS".to_owned(),
            LoginError::Unreachable(reason) => reason,
        };
        let errno = if matches!(settings.address, MysqlAddress::Socket(_)) { 2002 } else { 2003 };
        MysqlError::Unreachable { address: settings.address.to_string(), reason, errno }
    }
}

enum ReadError {
    Driver(DriverError),
    TooManyRows,
}

impl From<DriverError> for ReadError {
    fn from(error: DriverError) -> Self {
        ReadError::Driver(error)
    }
}

fn column(column: &mysql_async::Column) -> Column {
    Column {
        name: column.name_str().into_owned(),
        org_name: column.org_name_str().into_owned(),
        table: column.table_str().into_owned(),
        org_table: column.org_table_str().into_owned(),
        schema: column.schema_str().into_owned(),
        kind: column.column_type(),
        flags: column.flags(),
        length: column.column_length(),
        charset: column.character_set(),
        decimals: column.decimals(),
    }
}

/// The text protocol knows bytes and NULL only; the other forms belong to prepared statements, which are never used.
fn text_value(value: mysql_async::Value) -> Option<Vec<u8>> {
    match value {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) => Some(bytes),
        other => Some(other.as_sql(true).into_bytes()),
    }
}

fn server_error(error: mysql_async::ServerError, sql: &str) -> MysqlError {
    MysqlError::Server { errno: error.code, sqlstate: error.state, message: error.message, sql: excerpt(sql) }
}

/// A statement as it may be shown: shortened, and without the password that follows SOURCE_PASSWORD.
fn excerpt(sql: &str) -> String {
    let mut text = sql.to_owned();
    if let Some(at) = text.find("SOURCE_PASSWORD") {
        text.truncate(at);
        text.push_str("SOURCE_PASSWORD = ... (hidden)");
    }
    if text.chars().count() > EXCERPT_LEN_MAX {
        text = text.chars().take(EXCERPT_LEN_MAX).chain("...".chars()).collect();
    }
    text
}

/// A string as a literal of SQL, for sessions with [`SESSION_SETUP`].
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What a session needs so that our own statements mean the same whatever the server's sql_mode says of quotes and backslashes.
const SESSION_SETUP: &str = "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION'";

/// One server, and the connections to it that stand idle.
pub struct Mysql {
    settings: MysqlSettings,
    idle: Mutex<Vec<MysqlConn>>,
}

impl Mysql {
    /// Connects when it is first asked to.
    pub fn new(settings: MysqlSettings) -> Self {
        Self { settings, idle: Mutex::new(Vec::new()) }
    }

    /// Where the server listens.
    pub fn address(&self) -> &MysqlAddress {
        &self.settings.address
    }

    /// A connection that has just answered: an idle one, or a new one. An idle one matters where logins hang, as they do while
    /// semi-synchronous replication is being switched off.
    pub async fn conn(&self, deadline: Instant) -> Result<Lease<'_>, MysqlError> {
        loop {
            let idle = self.idle().pop();
            let Some(mut conn) = idle else {
                let mut conn = MysqlConn::connect(&self.settings, deadline).await?;
                conn.exec(SESSION_SETUP, deadline).await?;
                return Ok(Lease { mysql: self, conn: Some(conn) });
            };
            if conn.ping(deadline.min(Instant::now() + self.settings.connect_timeout)).await {
                return Ok(Lease { mysql: self, conn: Some(conn) });
            }
        }
    }

    /// A connection of the caller's own, as the server sets it up.
    pub async fn connect(&self, deadline: Instant) -> Result<MysqlConn, MysqlError> {
        MysqlConn::connect(&self.settings, deadline).await
    }

    /// Closes what stands idle: the server it belonged to is gone.
    pub fn forget_idle(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<MysqlConn>> {
        // A panic elsewhere cannot leave a vector half-changed here.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan; it goes back when dropped, if it is clean.
pub struct Lease<'a> {
    mysql: &'a Mysql,
    conn: Option<MysqlConn>,
}

impl Deref for Lease<'_> {
    type Target = MysqlConn;

    #[allow(clippy::expect_used)]
    fn deref(&self) -> &MysqlConn {
        self.conn.as_ref().expect("taken only by drop")
    }
}

impl DerefMut for Lease<'_> {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut MysqlConn {
        self.conn.as_mut().expect("taken only by drop")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let mut idle = self.mysql.idle();
        if conn.clean && idle.len() < IDLE_MAX {
            idle.push(conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let sql = "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'a', SOURCE_PASSWORD = 'hunter2', SOURCE_SSL = 1";
        assert!(!excerpt(sql).contains("hunter2"), "{}", excerpt(sql));
        assert!(!format!("{:?}", Secret("hunter2".to_owned())).contains("hunter2"));
    }

    #[test]
    fn a_literal_survives_quotes_and_backslashes() {
        assert_eq!(quote("bin.000001"), "'bin.000001'");
        assert_eq!(quote("o'b\\"), "'o''b\\\\'");
    }
}
