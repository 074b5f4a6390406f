//! Whether mysqld answers at this moment, and whether it takes connections: what the health stream tells at once, and what keeps a
//! status call from waiting for a server that cannot answer. Decides nothing; what a lost server means is [`super::supervise`]'s.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{Agent, AgentError, hear, state::LocalState};
use crate::{mysql::conn::MysqlError, shard::Greeting, tablet::MYSQLD_SILENT};

/// One beat: a sleep in the server, so that the closing of the connection is seen at once.
const BEAT: Duration = Duration::from_millis(200);

/// A beat that is so late makes the server silent: it sleeps without locks and without touching the disk.
const LATE_AFTER: Duration = Duration::from_millis(300);

/// A silent server that thaws answers on the connection that is open. One whose host went away never does.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// Limit of one login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two attempts to connect: also how late the return of a server is told.
const RECONNECT: Duration = Duration::from_millis(100);

/// Between two knocks at the server's own door, and the limit of one. Only the greeting is asked for: a login waits where semi-sync
/// is being switched off.
const KNOCK_INTERVAL: Duration = Duration::from_secs(1);
const KNOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Knocks without a word in a row before it is told: one may have been lost in a full queue.
const UNHEARD_MAX: u32 = 2;

/// Runs until shutdown.
pub async fn run(agent: Arc<Agent>) {
    tokio::select! {
        () = agent.shutdown.cancelled() => {}
        never = agent.feel() => match never {},
        never = agent.try_door() => match never {},
    }
}

impl Agent {
    async fn feel(&self) -> Infallible {
        loop {
            let mut beaten = false;
            let error = self.beats(&mut beaten).await;
            self.mysql.forget_idle();
            // A connection alone may have been killed by somebody: the next one tells.
            if !beaten {
                self.set_silence(Some(error.to_string()));
                sleep(RECONNECT).await;
            }
        }
    }

    /// Beats on one connection until it fails.
    async fn beats(&self, beaten: &mut bool) -> MysqlError {
        let mut conn = match self.mysql.connect(Instant::now() + LOGIN_TIMEOUT).await {
            Ok(conn) => conn,
            Err(error) => return error,
        };
        let sql = format!("DO SLEEP({})", BEAT.as_secs_f64());
        loop {
            let beat = conn.exec(&sql, Instant::now() + GIVE_UP_AFTER);
            let mut beat = std::pin::pin!(beat);
            let ended = match timeout(BEAT + LATE_AFTER, &mut beat).await {
                Ok(ended) => ended,
                Err(_) => {
                    self.set_silence(Some(silent(&format!("no answer for {LATE_AFTER:?}"), 2013)));
                    beat.await
                }
            };
            match ended {
                Ok(()) => *beaten = true,
                Err(error) => return error,
            }
            self.set_silence(None);
        }
    }

    async fn try_door(&self) -> Infallible {
        let mut unheard = 0;
        loop {
            sleep(KNOCK_INTERVAL).await;
            let crowded = match hear::knock(self.mysql.address(), Instant::now() + KNOCK_TIMEOUT).await {
                Greeting::TooManyConnections => {
                    Some("Too many connections: not even an administrator gets in (errno 1040) (sqlstate 08004)".to_owned())
                }
                Greeting::Silent => {
                    unheard += 1;
                    (unheard >= UNHEARD_MAX).then(|| silent("it takes no connection", 2003))
                }
                // That it is gone shows on the open connection first.
                Greeting::Greeted | Greeting::Refused | Greeting::CannotTell(_) => {
                    unheard = 0;
                    None
                }
            };
            self.tell(|state| &mut state.crowded, crowded);
        }
    }

    fn set_silence(&self, words: Option<String>) {
        self.tell(|state| &mut state.silence, words);
    }

    /// Whoever follows the state is told of a change only.
    fn tell(&self, field: impl FnOnce(&mut LocalState) -> &mut Option<String>, words: Option<String>) {
        self.state.send_if_modified(|state| {
            let field = field(state);
            let changed = *field != words;
            *field = words;
            changed
        });
    }

    /// A read of the server, which fails at once where the server cannot answer or, while it runs, falls silent. Also where it is a
    /// primary that takes no connection: the connections that we hold are of no use to anybody else.
    pub(super) async fn while_it_answers<T>(&self, read: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
        let mut state = self.state.subscribe();
        let silence = async {
            let seen = state.wait_for(|state| state.no_answer().is_some()).await;
            seen.ok().and_then(|state| state.no_answer().cloned()).unwrap_or_default()
        };
        tokio::select! {
            biased;
            words = silence => Err(AgentError::NoAnswer(words)),
            answer = read => answer,
        }
    }
}

/// The words that [`crate::tablet::mysql_failure`] understands as silence.
fn silent(what: &str, errno: u16) -> String {
    format!("{MYSQLD_SILENT}: {what} (errno {errno}) (sqlstate HY000)")
}
