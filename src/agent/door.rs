//! The fence of an emergency: throwing every client out, on a connection that is open already.
//!
//! A frozen server accepts no login and answers nothing, but it carries out what waits on an open connection as soon as it thaws. So one
//! connection is kept for this statement alone: whatever else hangs, it is free.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Agent, AgentError};
use crate::mysql::conn::{MysqlConn, MysqlError};

/// Longest time that a fence waits for a frozen server. Whoever thaws it later finds the statement in its socket all the same.
pub(super) const FROZEN_MAX: Duration = Duration::from_secs(3600);

/// The server shall not close this connection for being idle.
const KEEP: &str = "SET SESSION wait_timeout = 31536000";

/// Not on a server that is closed already ([`super::status::Switches`] says why both variables are asked): a replica's readers, and those
/// of a demoted primary, harm nobody.
const THROW_OUT: &str = "SET GLOBAL offline_mode = IF(@@global.read_only AND @@global.super_read_only, @@global.offline_mode, 1)";

/// The connection; absent while it is in use, and while there is no server.
#[derive(Default)]
pub(super) struct Door(Mutex<Option<MysqlConn>>);

impl Door {
    fn replace(&self, conn: Option<MysqlConn>) -> Option<MysqlConn> {
        // A panic elsewhere cannot leave an option half-changed here.
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), conn)
    }
}

impl Agent {
    /// Opens the connection afresh. The one before serves until then: it may be open to a server that answers nobody any more.
    pub(super) async fn renew_door(&self) -> Result<(), AgentError> {
        let deadline = self.own_deadline();
        let mut conn = self.mysql.connect(deadline).await?;
        conn.exec(KEEP, deadline).await?;
        drop(self.door.replace(Some(conn)));
        Ok(())
    }

    /// Throws every client out, those whose commits hang first of all: they are told nothing. Fails at once where there is no server,
    /// and waits for one that is frozen.
    pub(super) async fn throw_out(&self) -> Result<(), AgentError> {
        if let Some(mut conn) = self.door.replace(None) {
            match conn.exec(THROW_OUT, Instant::now() + FROZEN_MAX).await {
                Ok(()) => {
                    drop(self.door.replace(Some(conn)));
                    return Ok(());
                }
                // Killed by somebody, or of a server that is gone: a new connection will tell.
                Err(MysqlError::Lost { .. }) => {}
                Err(error) => return Err(AgentError::change(error)),
            }
        }
        let deadline = self.own_deadline();
        let mut conn = self.mysql.connect(deadline).await?;
        conn.exec(THROW_OUT, deadline).await.map_err(AgentError::change)
    }
}
