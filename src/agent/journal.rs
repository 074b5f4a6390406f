//! The reparent journal: one row a promotion, which reaches replicas by replication and so proves whom they follow.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Agent, AgentError, replication};
use crate::{
    mysql::{
        Position,
        conn::{MysqlConn, MysqlError, quote},
    },
    pb::tabletmanagerdata::PopulateReparentJournalRequest,
    topo::TabletAlias,
};

/// How often a replica looks for the row it waits for. There is nothing in MySQL to be told by.
const POLL: Duration = Duration::from_millis(10);

/// Longest position that a row takes, in bytes.
const POSITION_LEN_MAX: usize = 64_000;

/// Errors of a schema or table that is not there.
const ER_BAD_DB: u16 = 1049;
const ER_NO_SUCH_TABLE: u16 = 1146;

fn missing(error: &MysqlError) -> bool {
    matches!(error.errno(), Some(ER_BAD_DB | ER_NO_SUCH_TABLE))
}

impl Agent {
    fn journal(&self) -> String {
        format!("`{}`.reparent_journal", self.sidecar)
    }

    /// Makes the table where it is missing. Looks first: CREATE ... IF NOT EXISTS writes a transaction even if there is nothing to do.
    pub(super) async fn create_journal(&self, conn: &mut MysqlConn, deadline: Instant) -> Result<(), AgentError> {
        let journal = self.journal();
        match conn.query(&format!("SELECT 1 FROM {journal} LIMIT 1"), deadline).await {
            Ok(_) => return Ok(()),
            Err(error) if missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let schema = format!("CREATE DATABASE IF NOT EXISTS `{}`", self.sidecar);
        let table = format!(
            "CREATE TABLE IF NOT EXISTS {journal} (time_created_ns BIGINT UNSIGNED NOT NULL, action_name VARBINARY(255) NOT NULL, \
             primary_alias VARBINARY(255) NOT NULL, replication_position VARBINARY(64000) DEFAULT NULL, \
             PRIMARY KEY (time_created_ns)) ENGINE = InnoDB"
        );
        conn.exec(&schema, deadline).await.map_err(AgentError::change)?;
        conn.exec(&table, deadline).await.map_err(AgentError::change)
    }

    /// Writes one row; with semi-sync this waits for an acknowledgement, which is what proves that the new primary works.
    pub(super) async fn populate_journal(
        &self,
        row: &PopulateReparentJournalRequest,
        deadline: Instant,
    ) -> Result<(), AgentError> {
        let mut position = Position::decode(&row.replication_position)?.encode();
        position.truncate(POSITION_LEN_MAX);
        let alias = match &row.primary_alias {
            Some(alias) => TabletAlias::try_from(alias).map_err(|error| AgentError::Invalid(error.to_string()))?.to_string(),
            None => String::new(),
        };
        let sql = format!(
            "INSERT INTO {} (time_created_ns, action_name, primary_alias, replication_position) VALUES ({}, {}, {}, {})",
            self.journal(),
            row.time_created_ns,
            quote(&row.action_name),
            quote(&alias),
            quote(&position)
        );
        let mut conn = self.mysql.conn(deadline).await?;
        match conn.exec(&sql, deadline).await {
            Err(error) if missing(&error) => {
                self.create_journal(&mut conn, deadline).await?;
                conn.exec(&sql, deadline).await.map_err(AgentError::change)
            }
            done => done.map_err(AgentError::change),
        }
    }

    /// Rows in the journal; none where there is no table.
    pub(super) async fn journal_length(&self, deadline: Instant) -> Result<i32, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        match conn.query_one(&format!("SELECT COUNT(*) FROM {}", self.journal()), deadline).await {
            Ok(row) => Ok(row.at(0).and_then(|n| n.parse().ok()).unwrap_or(0)),
            Err(error) if missing(&error) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a row has come here.
    pub(super) async fn wait_for_journal(
        &self,
        conn: &mut MysqlConn,
        time_created_ns: i64,
        deadline: Instant,
    ) -> Result<(), AgentError> {
        let sql = format!("SELECT 1 FROM {} WHERE time_created_ns = {time_created_ns}", self.journal());
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < deadline {
            ticks.tick().await;
            match conn.query(&sql, deadline).await {
                Ok(rows) if !rows.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) if missing(&error) => {}
                Err(MysqlError::Timeout { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let status = match self.mysql.conn(self.own_deadline()).await {
            Ok(mut conn) => replication::status(&mut conn, self.own_deadline()).await.ok().flatten(),
            Err(_) => None,
        };
        let errors = status.map_or_else(String::new, |s| format!(": {} {}", s.status.last_io_error, s.status.last_sql_error));
        Err(AgentError::Deadline(format!("timed out waiting for reparent journal row {time_created_ns}{}", errors.trim_end())))
    }
}
