//! A real mysqld on a data folder of its own.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mysql_async::{Conn, Opts, OptsBuilder, Row, prelude::Queryable};
use tokio::time::timeout;

use super::{Host, Process, SandboxError, Signal, TempFolder, Tools, eventually, free_port, tools::is_root};

/// The account of agents and checks, with all rights, over the Unix socket or from 127.0.0.1, without a password.
pub const DBA: &str = "vt_dba";
/// The account of replicas, from everywhere; its password is its name.
pub const REPLICATION: &str = "vt_repl";
/// The account of writers, from everywhere, without a password and without any right to write on a read-only server.
pub const APP: &str = "app";

/// A server that has not come up, or gone down in good order, by then never will.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A statement that takes longer hangs.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// Between the `server_id` of a server and that of the next one in its place.
const SERVER_IDS_APART: u32 = 10_000;
/// More than a page of it is of no use to anybody.
const LOG_LINES: usize = 25;

/// One MySQL server: GTIDs, both semi-sync plugins, read-only at its start, replication not started by itself.
#[derive(Debug)]
pub struct Mysqld {
    program: PathBuf,
    folder: PathBuf,
    server_id: u32,
    host: Host,
    /// Lines of its configuration beside ours.
    my_cnf: Vec<String>,
    port: u16,
    process: Option<Process>,
}

impl Mysqld {
    /// Makes a server in `folder`, which must not exist, and starts it without waiting: see [`Mysqld::ready`].
    pub async fn start(tools: &Tools, folder: &Path, server_id: u32) -> Result<Self, SandboxError> {
        Self::start_on(&Host::local(), tools, folder, server_id, &[]).await
    }

    /// [`Mysqld::start`] on a host of its own, with more lines in its configuration.
    pub async fn start_on(
        host: &Host,
        tools: &Tools,
        folder: &Path,
        server_id: u32,
        my_cnf: &[String],
    ) -> Result<Self, SandboxError> {
        fs::create_dir_all(folder).map_err(SandboxError::io(format!("making the folder {}", folder.display())))?;
        fill(tools, folder).await?;
        let (host, my_cnf) = (host.clone(), my_cnf.to_owned());
        let (program, folder) = (tools.mysqld.clone(), folder.to_owned());
        let mut server = Self { program, folder, server_id, host, my_cnf, port: free_port()?, process: None };
        server.write_settings()?;
        server.restart()?;
        Ok(server)
    }

    fn write_settings(&self) -> Result<(), SandboxError> {
        let path = self.folder.join("my.cnf");
        fs::write(&path, self.settings()).map_err(SandboxError::io(format!("writing {}", path.display())))
    }

    /// Waits until it answers.
    pub async fn ready(&mut self) -> Result<(), SandboxError> {
        let name = self.name();
        let opts = self.opts(DBA);
        let process = &mut self.process;
        eventually(&format!("{name} answering"), START_LIMIT, async || {
            let process = process.as_mut().ok_or_else(|| String::from("it is not running"))?;
            process.check_running().map_err(|error| error.to_string())?;
            let conn = Conn::new(opts.clone()).await.map_err(|error| error.to_string())?;
            conn.disconnect().await.map_err(|error| error.to_string())
        })
        .await
    }

    /// Starts it again on its data, on the same port; one that still runs is killed first.
    pub fn restart(&mut self) -> Result<(), SandboxError> {
        self.process = None;
        let mut args = vec![format!("--defaults-file={}", self.folder.join("my.cnf").display())];
        args.extend(as_root());
        self.process = Some(Process::start_on(&self.host, &self.name(), &self.program, &args, &[], &self.log())?);
        Ok(())
    }

    /// kill -9, and an empty data folder in place of its own. It gets another `server_id`: a replica passes over whatever its source got from
    /// the replica's own.
    pub async fn wipe(&mut self, tools: &Tools) -> Result<(), SandboxError> {
        self.kill();
        self.server_id += SERVER_IDS_APART;
        self.write_settings()?;
        let data = self.folder.join("data");
        fs::remove_dir_all(&data).map_err(SandboxError::io(format!("removing {}", data.display())))?;
        fill(tools, &self.folder).await
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Shuts it down in good order.
    pub async fn stop(&mut self) -> Result<(), SandboxError> {
        match self.process.take() {
            Some(mut process) => process.stop(START_LIMIT).await.map(drop),
            None => Ok(()),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(signal))
    }

    /// Its name in errors.
    pub fn name(&self) -> String {
        format!("mysqld {}", self.server_id)
    }

    /// Its `server_id`.
    pub fn server_id(&self) -> u32 {
        self.server_id
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("mysql.sock")
    }

    /// Its error log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("mysqld.log")
    }

    /// How to connect over the Unix socket as `user`, one of [`DBA`], [`APP`].
    pub fn opts(&self, user: &str) -> Opts {
        let socket = self.socket().display().to_string();
        OptsBuilder::default().user(Some(user)).socket(Some(socket)).stmt_cache_size(0).into()
    }

    /// How to connect over TCP as `user`, one of [`DBA`], [`APP`].
    pub fn tcp_opts(&self, user: &str) -> Opts {
        // Otherwise a connection to this machine moves to the Unix socket by itself.
        let opts = OptsBuilder::default().prefer_socket(false).ip_or_hostname(self.host.ip.as_str()).tcp_port(self.port);
        opts.user(Some(user)).stmt_cache_size(0).into()
    }

    /// A connection as [`DBA`] over the Unix socket.
    pub async fn connect(&self) -> Result<Conn, SandboxError> {
        self.in_time("connecting", Conn::new(self.opts(DBA))).await
    }

    /// All rows of one statement, as [`DBA`].
    pub async fn query(&self, sql: &str) -> Result<Vec<Row>, SandboxError> {
        let mut conn = self.connect().await?;
        let rows = self.in_time(sql, conn.query(sql)).await?;
        self.in_time("disconnecting", conn.disconnect()).await?;
        Ok(rows)
    }

    /// One statement, as [`DBA`]; its rows are thrown away.
    pub async fn execute(&self, sql: &str) -> Result<(), SandboxError> {
        self.query(sql).await.map(drop)
    }

    /// The first column of the first row as text; empty for NULL, or when there is no row.
    pub async fn value(&self, sql: &str) -> Result<String, SandboxError> {
        let rows = self.query(sql).await?;
        Ok(rows.first().and_then(|row| row.get_opt::<String, _>(0)).and_then(Result::ok).unwrap_or_default())
    }

    /// `@@global.gtid_executed`, on one line.
    pub async fn gtid_executed(&self) -> Result<String, SandboxError> {
        Ok(self.value("SELECT @@global.gtid_executed").await?.replace('\n', ""))
    }

    /// Whether it accepts writes of ordinary accounts.
    pub async fn is_writable(&self) -> Result<bool, SandboxError> {
        Ok(self.value("SELECT CAST(@@global.read_only AS CHAR)").await? == "0")
    }

    async fn in_time<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, mysql_async::Error>>,
    ) -> Result<T, SandboxError> {
        match timeout(STATEMENT_LIMIT, work).await {
            Ok(result) => result.map_err(|source| SandboxError::Mysql { doing: doing.to_owned(), server: self.name(), source }),
            Err(_) => Err(SandboxError::Late {
                what: format!("{doing} on {}", self.name()),
                limit: STATEMENT_LIMIT,
                last: String::from("no answer"),
            }),
        }
    }

    /// Small in memory and on disk, but as in production wherever a reparent could notice: each commit is synced to disk, and
    /// semi-sync never gives up waiting.
    fn settings(&self) -> String {
        let folder = self.folder.display();
        let mut text = format!(
            "[mysqld]\ndatadir={folder}/data\nsocket={folder}/mysql.sock\npid-file={folder}/mysqld.pid\n\
             port={port}\nbind-address={host}\nreport-host={host}\nreport-port={port}\nserver-id={id}\n",
            host = self.host.ip,
            port = self.port,
            id = self.server_id,
        );
        for setting in [
            "gtid_mode=ON",
            "enforce_gtid_consistency=ON",
            "log_bin=binlog",
            "relay_log=relay",
            "skip_replica_start=ON",
            "super_read_only=ON",
            "plugin_load_add=semisync_source.so",
            "plugin_load_add=semisync_replica.so",
            "loose_rpl_semi_sync_source_timeout=1000000000000000000",
            "skip_name_resolve=ON",
            "secure_file_priv=NULL",
            "mysqlx=OFF",
            "performance_schema=ON",
            "max_connections=100",
            "innodb_buffer_pool_size=32M",
            "innodb_redo_log_capacity=32M",
        ] {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{setting}");
        }
        for line in &self.my_cnf {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// mysqld refuses to run as root unless it is told to.
fn as_root() -> Option<String> {
    is_root().then(|| String::from("--user=root"))
}

/// Puts a prepared data folder into a server's folder.
async fn fill(tools: &Tools, folder: &Path) -> Result<(), SandboxError> {
    // Without a cache the next server in the same folder of servers finds the one that was made for the first.
    let cache = tools.cache.as_deref().unwrap_or_else(|| folder.parent().unwrap_or(folder));
    copy(&template(tools, cache).await?, &folder.join("data"))
}

/// The prepared data folder below `cache`, made when it is not there: initialising one takes seconds, copying it a blink.
async fn template(tools: &Tools, cache: &Path) -> Result<PathBuf, SandboxError> {
    let made = cache.join(format!("template-{}", tools.mysqld_version));
    let lock_path = cache.join("template.lock");
    let lock = File::create(&lock_path).map_err(SandboxError::io(format!("opening {}", lock_path.display())))?;
    // Held until the file is closed; another process that makes the same template is waited for.
    eventually("another process's data folder", START_LIMIT, async || lock.try_lock()).await?;
    if !made.exists() {
        let new = cache.join("template.new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(SandboxError::io(format!("removing {}", new.display())))?;
        }
        make_template(tools, &new).await?;
        fs::rename(&new, &made).map_err(SandboxError::io(format!("renaming {}", new.display())))?;
    }
    Ok(made)
}

async fn make_template(tools: &Tools, data: &Path) -> Result<(), SandboxError> {
    let folder = TempFolder::new()?;
    let common =
        ["--no-defaults".to_owned(), format!("--datadir={}", data.display()), "--innodb-redo-log-capacity=32M".to_owned()];
    let common: Vec<String> = common.into_iter().chain(as_root()).collect();
    let log = folder.path().join("init.log");
    let args = common.iter().map(String::as_str).chain(["--initialize-insecure"]);
    let status = Process::start("mysqld --initialize", &tools.mysqld, args, &[], &log)?.wait(START_LIMIT).await?;
    if !status.success() {
        let log = super::process::tail(&log, LOG_LINES);
        return Err(SandboxError::Exited { name: String::from("mysqld --initialize"), status, log });
    }
    // Without a binary log the accounts leave no GTID behind: every server starts with an empty set.
    let socket = folder.path().join("mysql.sock");
    let own = [
        format!("--socket={}", socket.display()),
        format!("--pid-file={}", folder.path().join("pid").display()),
        "--skip-networking".to_owned(),
        "--skip-log-bin".to_owned(),
        "--mysqlx=OFF".to_owned(),
        "--secure-file-priv=NULL".to_owned(),
    ];
    let mut server = Process::start("mysqld (template)", &tools.mysqld, common.iter().chain(&own), &[], &log)?;
    let opts: Opts = OptsBuilder::default().user(Some("root")).socket(Some(socket.display().to_string())).into();
    let mysql = |doing: &str| {
        let doing = doing.to_owned();
        move |source| SandboxError::Mysql { doing, server: String::from("mysqld (template)"), source }
    };
    let mut conn = eventually("mysqld (template) answering", START_LIMIT, async || {
        server.check_running().map_err(|error| error.to_string())?;
        Conn::new(opts.clone()).await.map_err(|error| error.to_string())
    })
    .await?;
    for sql in accounts() {
        conn.query_drop(&sql).await.map_err(mysql(&sql))?;
    }
    conn.disconnect().await.map_err(mysql("disconnecting"))?;
    server.stop(START_LIMIT).await?;
    // The server's identity: each copy makes its own.
    let identity = data.join("auto.cnf");
    fs::remove_file(&identity).map_err(SandboxError::io(format!("removing {}", identity.display())))
}

fn accounts() -> Vec<String> {
    let mut statements = Vec::new();
    for host in ["localhost", "127.0.0.1"] {
        statements.push(format!("CREATE USER {DBA}@'{host}'"));
        statements.push(format!("GRANT ALL ON *.* TO {DBA}@'{host}' WITH GRANT OPTION"));
    }
    statements.push(format!("CREATE USER {REPLICATION}@'%' IDENTIFIED BY '{REPLICATION}'"));
    statements.push(format!("GRANT REPLICATION SLAVE ON *.* TO {REPLICATION}@'%'"));
    statements.push(format!("CREATE USER {APP}@'%'"));
    statements.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX ON *.* TO {APP}@'%'"));
    statements
}

/// Copies a data folder; its empty blocks stay empty, which makes a third of it.
fn copy(from: &Path, to: &Path) -> Result<(), SandboxError> {
    let doing = || format!("copying {} to {}", from.display(), to.display());
    let output =
        Command::new("cp").args(["-r", "--sparse=always"]).arg(from).arg(to).output().map_err(SandboxError::io(doing()))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SandboxError::io(doing())(std::io::Error::other(reason)))
}
