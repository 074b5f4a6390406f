//! A connection of our own to a primary's MySQL server, held and asked again and again: no tablet manager stands in between.
//!
//! A connection that is lost is noticed with the next ping. The attempt to get a new one is itself the question then: refused, silent, full, or
//! answered, and be it with a wrong password.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    conn::{MysqlConn, MysqlError, MysqlSettings, NO_GREETING},
    fence::{FenceAccount, address},
    tls::MysqlTls,
};
use crate::{pb::topodata::Tablet, shard::FailureClass};

/// MySQL's error for one connection too many.
const TOO_MANY_CONNECTIONS: u16 = 1040;

/// Why a server did not answer over a connection of our own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct DirectFailure {
    /// What it proves.
    pub class: FailureClass,
    /// The server's words, or ours.
    pub words: String,
}

/// What connects to MySQL servers directly.
#[async_trait]
pub trait DirectMysql: Send + Sync + 'static {
    /// Logs in to the tablet's MySQL. A server without room for one more is asked a second time: an account with CONNECTION_ADMIN then gets
    /// the place that is kept for it, so a second refusal says that this one is taken as well.
    async fn connect(&self, tablet: &Tablet, deadline: Instant) -> Result<Box<dyn DirectLink>, DirectFailure>;
}

/// A connection that is held. After a failure it is thrown away.
#[async_trait]
pub trait DirectLink: Send + 'static {
    /// Whether the server answers on it by the deadline.
    async fn ping(&mut self, deadline: Instant) -> Result<(), DirectFailure>;
}

/// Connects with one account.
pub struct DirectProbe {
    account: FenceAccount,
    tls: Option<MysqlTls>,
}

impl DirectProbe {
    /// Connects to nothing yet.
    pub fn new(account: FenceAccount) -> Self {
        Self { account, tls: None }
    }

    /// Enters only servers that this TLS proves; without it TLS is spoken where it is offered, and nothing verified.
    pub fn tls(mut self, tls: Option<MysqlTls>) -> Self {
        self.tls = tls;
        self
    }
}

#[async_trait]
impl DirectMysql for DirectProbe {
    async fn connect(&self, tablet: &Tablet, deadline: Instant) -> Result<Box<dyn DirectLink>, DirectFailure> {
        let unknown = |error: super::fence::FenceError| DirectFailure { class: FailureClass::Answered, words: error.to_string() };
        let address = address(tablet).map_err(unknown)?;
        let FenceAccount { user, password } = self.account.clone();
        let connect_timeout = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let settings = MysqlSettings { address, user, password, connect_timeout };
        let connect = async || match &self.tls {
            None => MysqlConn::connect_preferring_tls(&settings, deadline).await,
            Some(tls) => MysqlConn::connect_with_tls(&settings, tls, deadline).await,
        };
        let connected = match connect().await {
            Err(error) if error.errno() == Some(TOO_MANY_CONNECTIONS) => connect().await,
            done => done,
        };
        connected.map(|conn| Box::new(conn) as Box<dyn DirectLink>).map_err(failure)
    }
}

#[async_trait]
impl DirectLink for MysqlConn {
    async fn ping(&mut self, deadline: Instant) -> Result<(), DirectFailure> {
        self.answers(deadline).await.map_err(failure)
    }
}

fn failure(error: MysqlError) -> DirectFailure {
    let class = match &error {
        MysqlError::Server { errno: TOO_MANY_CONNECTIONS, .. } => FailureClass::TooManyConnections,
        MysqlError::Server { .. } | MysqlError::TooManyRows { .. } | MysqlError::Answer { .. } => FailureClass::Answered,
        MysqlError::Timeout { .. } => FailureClass::Silent,
        MysqlError::Lost { .. } => FailureClass::Closed,
        MysqlError::Unreachable { reason, .. } if reason.contains(NO_GREETING) => FailureClass::Silent,
        MysqlError::Unreachable { reason, .. } if reason.contains("refused") => FailureClass::Refused,
        MysqlError::Unreachable { reason, .. }
            if ["closed", "reset", "broken pipe"].iter().any(|w| reason.to_lowercase().contains(w)) =>
        {
            FailureClass::Closed
        }
        MysqlError::Unreachable { .. } => FailureClass::Silent,
    };
    DirectFailure { class, words: error.to_string() }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::mysql::conn::Secret;

    fn probe() -> DirectProbe {
        DirectProbe::new(FenceAccount { user: "elector".into(), password: Secret("x".into()) })
    }

    fn tablet(port: u16) -> Tablet {
        Tablet { mysql_hostname: "127.0.0.1".into(), mysql_port: port.into(), ..Tablet::default() }
    }

    async fn class(port: u16, limit_ms: u64) -> FailureClass {
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        probe().connect(&tablet(port), deadline).await.err().unwrap().class
    }

    #[tokio::test]
    async fn refused_silent_and_closed_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(class(port, 100).await, FailureClass::Silent, "it accepts and says nothing");
        let mut closing = JoinSet::new();
        closing.spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        assert_eq!(class(port, 2000).await, FailureClass::Closed);
        closing.shutdown().await;
        assert_eq!(class(port, 2000).await, FailureClass::Refused);
        assert_eq!(class(0, 2000).await, FailureClass::Answered, "a record without a port proves nothing");
    }

    #[tokio::test]
    async fn an_answer_is_life_and_a_full_server_is_asked_twice() {
        use tokio::io::AsyncWriteExt;
        for (errno, state, expected, attempts) in
            [(1040u16, "08004", FailureClass::TooManyConnections, 2), (1129, "HY000", FailureClass::Answered, 1)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut refusing = JoinSet::new();
            refusing.spawn(async move {
                for _ in 0..attempts {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut packet = vec![0xff];
                    packet.extend(errno.to_le_bytes());
                    packet.extend(format!("#{state}no").as_bytes());
                    let mut frame = vec![packet.len() as u8, 0, 0, 0];
                    frame.extend(packet);
                    stream.write_all(&frame).await.unwrap();
                }
            });
            assert_eq!(class(port, 2000).await, expected);
            refusing.join_next().await.unwrap().unwrap();
        }
    }
}
