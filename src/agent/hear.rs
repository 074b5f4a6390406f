//! The witness: what this host hears from a MySQL server that it connects to (safety.md section 8). It changes nothing there.
//!
//! One thing it does leave behind: a server that resolves names counts every connection that hangs up at the greeting against
//! `max_connect_errors` of our host, and bars the host when they are too many, this host's replication included. A proper login
//! sets the count back. So after every few knocks the replication account logs in once, which it is made for.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::UnixStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status};

use super::Agent;
use crate::{
    connect::connect,
    mysql::conn::{MysqlAddress, MysqlConn, MysqlSettings},
    pb::vtelectoragent::{HearRequest, HearResponse, Heard, witness_server::Witness},
    shard::Greeting,
};

/// Knocks at the same time; whoever comes later waits for a place within its own time.
const KNOCKS_MAX: usize = 16;

/// Longest time that a server is given to speak.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A login after so many knocks at one server: MySQL bars a host at 100 by default.
const LOGIN_EVERY: u32 = 20;

/// Servers whose knocks are counted; a shard has a few. Beyond it counting starts afresh, with a login the sooner.
const SERVERS_MAX: usize = 64;

/// Limit of that login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(2);

/// MySQL's refusal to take one more connection.
const TOO_MANY_CONNECTIONS: u16 = 1040;

/// A packet's length and number, before its first byte.
const HEADER_LEN: usize = 4;

/// First byte of a greeting (the protocol's version) and of an error.
const GREETING: u8 = 10;
const ERROR: u8 = 0xff;

/// The places of those who knock, and how often each server was knocked at since the last login.
pub(super) struct Ear {
    places: Semaphore,
    knocks: Mutex<BTreeMap<(String, u16), u32>>,
}

impl Default for Ear {
    fn default() -> Self {
        Self { places: Semaphore::new(KNOCKS_MAX), knocks: Mutex::default() }
    }
}

impl Ear {
    /// Counts a knock; true when a login is due.
    fn count(&self, host: &str, port: u16) -> bool {
        // A panic elsewhere cannot leave a count half-changed here.
        let mut knocks = self.knocks.lock().unwrap_or_else(PoisonError::into_inner);
        if knocks.len() >= SERVERS_MAX {
            knocks.clear();
        }
        let count = knocks.entry((host.to_owned(), port)).or_default();
        *count += 1;
        let due = *count >= LOGIN_EVERY;
        if due {
            *count = 0;
        }
        due
    }
}

/// Connects, reads the first packet, and hangs up.
pub(crate) async fn knock(address: &MysqlAddress, deadline: Instant) -> Greeting {
    let mut closed = false;
    loop {
        let heard = timeout_at(deadline, first_packet(address)).await;
        match heard {
            Err(_) => return Greeting::Silent,
            Ok(Err(Knock::Heard(greeting))) | Ok(Ok(greeting)) => return greeting,
            // A server that dies closes what it had accepted; a moment later it refuses.
            Ok(Err(Knock::Closed)) if !std::mem::replace(&mut closed, true) => {}
            Ok(Err(Knock::Closed)) => {
                return Greeting::CannotTell(format!("{address} closes connections without a word; is it a MySQL server?"));
            }
        }
    }
}

/// Why there is no first packet.
enum Knock {
    Heard(Greeting),
    Closed,
}

async fn first_packet(address: &MysqlAddress) -> Result<Greeting, Knock> {
    let failed = |error: io::Error| Knock::Heard(without_connection(&error, address));
    match address {
        MysqlAddress::Socket(path) => read_greeting(UnixStream::connect(path).await.map_err(failed)?, address).await,
        MysqlAddress::Tcp { host, port } => read_greeting(connect(host, *port).await.map_err(failed)?, address).await,
    }
}

/// What a failed attempt to connect says. "No route to host" is silence: so the system reports a neighbour that answers no more than
/// a timeout would. Without a network of our own we cannot tell.
fn without_connection(error: &io::Error, address: &MysqlAddress) -> Greeting {
    match error.kind() {
        ErrorKind::ConnectionRefused => Greeting::Refused,
        // A socket's file goes with its server.
        ErrorKind::NotFound if matches!(address, MysqlAddress::Socket(_)) => Greeting::Refused,
        // A Unix socket whose queue is full says so at once, where TCP would wait.
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::WouldBlock => Greeting::Silent,
        _ => Greeting::CannotTell(format!("connecting to {address}: {error}")),
    }
}

async fn read_greeting(mut stream: impl AsyncRead + Unpin, address: &MysqlAddress) -> Result<Greeting, Knock> {
    let mut packet = Vec::with_capacity(256);
    loop {
        match stream.read_buf(&mut packet).await {
            Ok(0) | Err(_) => return Err(Knock::Closed),
            Ok(_) => {}
        }
        if let Some(greeting) = greeting(&packet) {
            return Ok(greeting.unwrap_or_else(|| Greeting::CannotTell(format!("{address} does not speak MySQL's protocol"))));
        }
    }
}

/// What the bytes that came say; `None` = too few, `Some(None)` = not MySQL. An error other than 1040, such as a barred host or a
/// shutdown under way, is a sign of life.
fn greeting(packet: &[u8]) -> Option<Option<Greeting>> {
    Some(match *packet.get(HEADER_LEN)? {
        GREETING => Some(Greeting::Greeted),
        ERROR => {
            let number = u16::from_le_bytes([*packet.get(HEADER_LEN + 1)?, *packet.get(HEADER_LEN + 2)?]);
            let full = number == TOO_MANY_CONNECTIONS;
            Some(if full { Greeting::TooManyConnections } else { Greeting::Greeted })
        }
        _ => None,
    })
}

/// Serves `vtelectoragent.Witness`.
pub struct WitnessService(pub Arc<Agent>);

#[tonic::async_trait]
impl Witness for WitnessService {
    async fn hear(&self, request: Request<HearRequest>) -> Result<Response<HearResponse>, Status> {
        let HearRequest { host, port, wait_ms } = request.into_inner();
        let port = u16::try_from(port).ok().filter(|port| *port > 0 && !host.is_empty());
        let port = port.ok_or_else(|| Status::invalid_argument("Hear: it takes the host and port of a MySQL server"))?;
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(wait_ms.into()).min(WAIT_MAX);
        let (heard, words) = match self.0.hear(host, port, deadline).await {
            Greeting::Greeted => (Heard::Greeted, String::new()),
            Greeting::TooManyConnections => (Heard::TooManyConnections, String::new()),
            Greeting::Refused => (Heard::Refused, String::new()),
            Greeting::Silent => (Heard::Silent, String::new()),
            Greeting::CannotTell(words) => (Heard::CannotTell, words),
        };
        Ok(Response::new(HearResponse { heard: heard.into(), words, took_ms: begun.elapsed().as_millis() as u32 }))
    }
}

impl Agent {
    async fn hear(self: &Arc<Self>, host: String, port: u16, deadline: Instant) -> Greeting {
        let Ok(Ok(_place)) = timeout_at(deadline, self.ear.places.acquire()).await else {
            return Greeting::CannotTell("this agent hears too many servers at once".to_owned());
        };
        let due = self.ear.count(&host, port);
        let address = MysqlAddress::Tcp { host, port };
        let greeting = knock(&address, deadline).await;
        if due {
            self.tasks.spawn(self.clone().log_in(address));
        }
        greeting
    }

    /// See the head of this file. Whether it succeeds shows where it matters: the IO thread logs in the same way.
    async fn log_in(self: Arc<Self>, address: MysqlAddress) {
        let account = &self.settings.replication;
        let (user, password) = (account.user.clone(), account.password.clone());
        let settings = MysqlSettings { address, user, password, connect_timeout: LOGIN_TIMEOUT };
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            login = MysqlConn::connect_preferring_tls(&settings, Instant::now() + LOGIN_TIMEOUT) => drop(login),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// What is heard of a server that says `words` to everybody, and then waits or hangs up.
    async fn heard_of(words: &'static [u8], waits: bool) -> Greeting {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let mut kept = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(words).await.unwrap();
                if waits {
                    kept.push(stream);
                }
            }
        };
        let address = MysqlAddress::Tcp { host: "127.0.0.1".to_owned(), port };
        tokio::select! {
            greeting = knock(&address, Instant::now() + Duration::from_millis(200)) => greeting,
            () = server => unreachable!(),
        }
    }

    #[tokio::test]
    async fn a_server_is_told_by_its_first_packet() {
        assert_eq!(heard_of(b"\x4a\0\0\0\x0a8.0.36\0", true).await, Greeting::Greeted);
        assert_eq!(heard_of(b"\x17\0\0\0\xff\x10\x04Too many connections", true).await, Greeting::TooManyConnections);
        assert_eq!(heard_of(b"\x17\0\0\0\xff\x69\x04Host is blocked", false).await, Greeting::Greeted, "an error shows life");
        assert_eq!(heard_of(b"", true).await, Greeting::Silent, "a connection without a word");
        assert_eq!(heard_of(b"\x17\0\0\0\xff", true).await, Greeting::Silent, "half a word is none");
        assert!(matches!(heard_of(b"", false).await, Greeting::CannotTell(_)), "something closes what somebody else may serve");
        assert!(matches!(heard_of(b"SSH-2.0-x\r\n", true).await, Greeting::CannotTell(_)));
    }

    #[tokio::test]
    async fn nobody_listens_and_nobody_can_be_found() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let soon = || Instant::now() + Duration::from_secs(5);
        let gone = MysqlAddress::Tcp { host: "127.0.0.1".to_owned(), port };
        assert_eq!(knock(&gone, soon()).await, Greeting::Refused);
        let nameless = MysqlAddress::Tcp { host: "no such name".to_owned(), port };
        assert!(matches!(knock(&nameless, soon()).await, Greeting::CannotTell(_)));
        assert_eq!(knock(&MysqlAddress::Socket("/nowhere/mysql.sock".into()), soon()).await, Greeting::Refused);
    }

    #[test]
    fn a_login_follows_long_before_mysql_bars_the_host() {
        let ear = Ear::default();
        let due: Vec<usize> = (1..=100).filter(|_| ear.count("a", 3306)).collect();
        assert_eq!(due.len(), 5);
        assert!(!ear.count("b", 3306), "each server counts on its own");
    }
}
