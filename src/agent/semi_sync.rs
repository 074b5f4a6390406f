//! Semi-synchronous replication: reading it, and setting it so that it is a fence (safety.md sections 5 and 12).

use tokio::time::Instant;

use super::AgentError;
use crate::mysql::conn::{MysqlConn, MysqlError};

/// A timeout that never falls back to asynchronous replication; the value that Vitess's own configuration uses.
const TIMEOUT_MS: u64 = 1_000_000_000_000_000_000;

/// What is asked of both plugins under their present names.
const VARIABLES: [&str; 6] = [
    "rpl_semi_sync_source_enabled",
    "rpl_semi_sync_replica_enabled",
    "rpl_semi_sync_source_timeout",
    "rpl_semi_sync_source_wait_for_replica_count",
    "rpl_semi_sync_source_wait_no_replica",
    "rpl_semi_sync_source_wait_point",
];

/// A plugin is not loaded.
const ER_UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;

/// MySQL renamed plugins and variables in 8.0.26; either may be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    SourceReplica,
    MasterSlave,
}

impl Names {
    fn source(self) -> &'static str {
        match self {
            Names::SourceReplica => "source",
            Names::MasterSlave => "master",
        }
    }

    fn replica(self) -> &'static str {
        match self {
            Names::SourceReplica => "replica",
            Names::MasterSlave => "slave",
        }
    }
}

/// Variables and status of both plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SemiSync {
    names: Option<Names>,
    /// Source side switched on.
    pub source_enabled: bool,
    /// Replica side switched on.
    pub replica_enabled: bool,
    /// Source side waiting for acknowledgements.
    pub source_status: bool,
    /// Replica side acknowledging.
    pub replica_status: bool,
    /// Replicas that acknowledge.
    pub clients: u32,
    /// After that many milliseconds a commit goes on without acknowledgement.
    pub timeout_ms: u64,
    /// Acknowledgements a commit waits for.
    pub wait_for_replica_count: u32,
    wait_no_replica: bool,
    after_sync: bool,
}

fn on(value: &str) -> bool {
    value.eq_ignore_ascii_case("ON") || value == "1"
}

impl SemiSync {
    /// Whether the plugins of one generation are loaded.
    pub fn loaded(&self) -> bool {
        self.names.is_some()
    }

    /// Reads the variables; what is status stays as if nothing ran. By their names, which takes MySQL a tenth of a millisecond; only
    /// where they have others, or are not there, it has to make the list of all its variables, which takes four.
    pub async fn variables(conn: &mut MysqlConn, deadline: Instant) -> Result<Self, MysqlError> {
        let mut this = Self::default();
        let select = VARIABLES.map(|name| format!("@@global.{name} AS {name}")).join(", ");
        match conn.query_one(&format!("SELECT {select}"), deadline).await {
            Ok(row) => {
                for name in VARIABLES {
                    this.take(name, &row.text(&[name]).unwrap_or_default());
                }
                return Ok(this);
            }
            Err(error) if error.errno() == Some(ER_UNKNOWN_SYSTEM_VARIABLE) => {}
            Err(error) => return Err(error),
        }
        for row in conn.query("SHOW GLOBAL VARIABLES LIKE 'rpl\\_semi\\_sync\\_%'", deadline).await? {
            this.take(&row.at(0).unwrap_or_default(), &row.at(1).unwrap_or_default());
        }
        Ok(this)
    }

    /// Reads everything.
    pub async fn read(conn: &mut MysqlConn, deadline: Instant) -> Result<Self, MysqlError> {
        let mut this = Self::variables(conn, deadline).await?;
        if this.loaded() {
            for row in conn.query("SHOW GLOBAL STATUS LIKE 'Rpl\\_semi\\_sync\\_%'", deadline).await? {
                this.take(&row.at(0).unwrap_or_default(), &row.at(1).unwrap_or_default());
            }
        }
        Ok(this)
    }

    fn take(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        let Some(name) = name.strip_prefix("rpl_semi_sync_") else { return };
        let (names, field) = match name.split_once('_') {
            Some((side @ ("source" | "replica"), field)) => (Names::SourceReplica, (side == "source", field)),
            Some((side @ ("master" | "slave"), field)) => (Names::MasterSlave, (side == "master", field)),
            _ => return,
        };
        match field {
            (true, "enabled") => (self.names, self.source_enabled) = (Some(names), on(value)),
            (false, "enabled") => self.replica_enabled = on(value),
            (true, "status") => self.source_status = on(value),
            (false, "status") => self.replica_status = on(value),
            (true, "clients") => self.clients = value.parse().unwrap_or(0),
            (true, "timeout") => self.timeout_ms = value.parse().unwrap_or(0),
            (true, "wait_for_replica_count" | "wait_for_slave_count") => {
                self.wait_for_replica_count = value.parse().unwrap_or(0);
            }
            (true, "wait_no_replica" | "wait_no_slave") => self.wait_no_replica = on(value),
            (true, "wait_point") => self.after_sync = value.eq_ignore_ascii_case("AFTER_SYNC"),
            _ => {}
        }
    }

    /// Whether a commit on a source with these settings is acknowledged to its client only after a replica has it, always.
    fn is_fence(&self) -> bool {
        self.source_enabled && self.source_status && self.timeout_ms >= TIMEOUT_MS && self.wait_no_replica && self.after_sync
    }
}

fn not_loaded() -> AgentError {
    AgentError::Precondition(
        "VT09013: semi-sync plugins are not loaded; load rpl_semi_sync_source and rpl_semi_sync_replica (or give the agent's account \
         INSERT on mysql.plugin and restart it)"
            .to_owned(),
    )
}

/// Loads the plugins where they are missing. INSTALL PLUGIN is refused under super_read_only, so that is lifted for its
/// duration; read_only stays, and keeps out everybody but administrators. Nothing reaches the binary log.
pub async fn install(conn: &mut MysqlConn, deadline: Instant) -> Result<bool, MysqlError> {
    if SemiSync::read(conn, deadline).await?.loaded() {
        return Ok(false);
    }
    let new_names = conn.version() >= (8, 0, 26);
    conn.exec("SET GLOBAL read_only = ON", deadline).await?;
    conn.exec("SET GLOBAL super_read_only = OFF", deadline).await?;
    let mut result = Ok(true);
    for (old, new) in [("master", "source"), ("slave", "replica")] {
        let side = if new_names { new } else { old };
        let sql = format!("INSTALL PLUGIN rpl_semi_sync_{side} SONAME 'semisync_{side}.so'");
        if let Err(error) = conn.exec(&sql, deadline).await {
            result = Err(error);
        }
    }
    conn.exec("SET GLOBAL super_read_only = ON", deadline).await?;
    result
}

/// Prepares a server for being written to: with acknowledgements exactly as the fence needs them, or without. To be called while it is
/// read-only. Reads everything back and refuses when it is not so.
pub async fn become_source(conn: &mut MysqlConn, acks: bool, deadline: Instant) -> Result<(), AgentError> {
    let now = SemiSync::read(conn, deadline).await?;
    let Some(names) = now.names else {
        return if acks { Err(not_loaded()) } else { Ok(()) };
    };
    let (source, replica) = (names.source(), names.replica());
    if !acks {
        return switch(conn, &now, false, false, deadline).await;
    }
    if now.source_enabled && !now.source_status {
        // Left on by a demotion, and fallen back to asynchronous since: only off and on brings it back without an acknowledgement.
        source_off(conn, deadline).await?;
    }
    let sql = format!(
        "SET GLOBAL rpl_semi_sync_{source}_timeout = {TIMEOUT_MS}, GLOBAL rpl_semi_sync_{source}_wait_no_{replica} = ON, \
         GLOBAL rpl_semi_sync_{source}_wait_point = 'AFTER_SYNC', GLOBAL rpl_semi_sync_{source}_enabled = ON, GLOBAL rpl_semi_sync_{replica}_enabled = ON"
    );
    conn.exec(&sql, deadline).await.map_err(AgentError::change)?;
    let after = SemiSync::read(conn, deadline).await?;
    if after.is_fence() {
        Ok(())
    } else {
        Err(AgentError::Precondition(format!("semi-sync does not take its settings: {after:?}")))
    }
}

/// Prepares a server for following: replica side as told. The source side is left to [`release`] and [`source_off`].
pub async fn become_replica(conn: &mut MysqlConn, acks: bool, deadline: Instant) -> Result<(), AgentError> {
    let now = SemiSync::variables(conn, deadline).await?;
    if now.names.is_none() && acks {
        return Err(not_loaded());
    }
    switch(conn, &now, now.source_enabled, acks, deadline).await
}

/// Says beforehand whether semi-sync could be set as asked.
pub async fn check(conn: &mut MysqlConn, acks: bool, deadline: Instant) -> Result<(), AgentError> {
    if acks && !SemiSync::variables(conn, deadline).await?.loaded() { Err(not_loaded()) } else { Ok(()) }
}

async fn switch(conn: &mut MysqlConn, now: &SemiSync, source: bool, replica: bool, deadline: Instant) -> Result<(), AgentError> {
    let Some(names) = now.names else { return Ok(()) };
    let mut set = Vec::new();
    if now.source_enabled != source {
        set.push(format!("GLOBAL rpl_semi_sync_{}_enabled = {}", names.source(), i32::from(source)));
    }
    if now.replica_enabled != replica {
        set.push(format!("GLOBAL rpl_semi_sync_{}_enabled = {}", names.replica(), i32::from(replica)));
    }
    if set.is_empty() {
        return Ok(());
    }
    conn.exec(&format!("SET {}", set.join(", ")), deadline).await.map_err(AgentError::change)
}

/// Makes the source side harmless for a server that follows another, at once: a commit of its SQL thread waits for an acknowledgement
/// for a millisecond, once, and never again. Switching it off for good is left to [`source_off`], which may take MySQL a second.
pub async fn release(conn: &mut MysqlConn, deadline: Instant) -> Result<bool, AgentError> {
    let now = SemiSync::variables(conn, deadline).await?;
    let Some(names) = now.names.filter(|_| now.source_enabled) else { return Ok(false) };
    let sql = format!("SET GLOBAL rpl_semi_sync_{}_timeout = 1", names.source());
    conn.exec(&sql, deadline).await.map_err(AgentError::change)?;
    Ok(true)
}

/// Switches the source side off. While replicas are connected, or have left within the last second, MySQL's acknowledgement receiver
/// sits in a poll of up to a second, and holds the lock of all system variables meanwhile; otherwise it is done at once.
pub async fn source_off(conn: &mut MysqlConn, deadline: Instant) -> Result<(), AgentError> {
    let now = SemiSync::variables(conn, deadline).await?;
    switch(conn, &now, false, now.replica_enabled, deadline).await?;
    match now.names {
        // What `release` has shortened; whoever looks at this server before it is promoted shall find it fit.
        Some(names) if now.timeout_ms < TIMEOUT_MS => {
            let sql = format!("SET GLOBAL rpl_semi_sync_{}_timeout = {TIMEOUT_MS}", names.source());
            conn.exec(&sql, deadline).await.map_err(AgentError::change)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> SemiSync {
        let mut this = SemiSync::default();
        for (name, value) in pairs {
            this.take(name, value);
        }
        this
    }

    #[test]
    fn both_generations_of_names_are_understood() {
        let new = read(&[("rpl_semi_sync_source_enabled", "ON"), ("rpl_semi_sync_source_wait_for_replica_count", "2")]);
        let old = read(&[("rpl_semi_sync_master_enabled", "ON"), ("rpl_semi_sync_master_wait_for_slave_count", "2")]);
        assert_eq!((new.source_enabled, new.wait_for_replica_count), (true, 2));
        assert_eq!((old.source_enabled, old.wait_for_replica_count), (true, 2));
        assert_ne!(new.names, old.names);
        assert!(!read(&[]).loaded());
    }

    #[test]
    fn only_an_unlimited_wait_before_the_engine_commits_is_a_fence() {
        let right = [
            ("rpl_semi_sync_source_enabled", "ON"),
            ("rpl_semi_sync_source_status", "ON"),
            ("rpl_semi_sync_source_timeout", "1000000000000000000"),
            ("rpl_semi_sync_source_wait_no_replica", "ON"),
            ("rpl_semi_sync_source_wait_point", "AFTER_SYNC"),
        ];
        assert!(read(&right).is_fence());
        let wrong = ["OFF", "OFF", "10000", "OFF", "AFTER_COMMIT"];
        for (at, value) in wrong.into_iter().enumerate() {
            let mut pairs = right;
            pairs[at].1 = value;
            assert!(!read(&pairs).is_fence(), "{:?}", pairs[at]);
        }
    }
}
