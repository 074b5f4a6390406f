//! Connections to the members of one etcd cluster, and which of them is used.
//!
//! The client library's balancer calls broken endpoints ready, so there is one client per endpoint here: one is active, and the
//! next one takes over when it does not answer. TCP backs off for minutes after dropped packets: a client that failed twice in a
//! row is thrown away, and the next attempt starts with a fresh connection. So does the next call after the TLS files have changed; calls
//! and watches that are under way end on the connection that they have.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Error, KvClient, LeaseClient, WatchClient};
use tokio::time::{Instant, timeout};
use tonic::{Code, ConnectError, Status};

use crate::{
    rotating::{Rotating, Version},
    text::causes,
    tls::{ClientSide, client},
    topo::{KvError, TopoTls},
};

/// Longest wait for TCP and TLS to be set up; a request waits no longer than its own limit in any case.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// etcd closes connections that ping more often than every 5 s (its `--grpc-keepalive-min-time`).
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A caller that gave up earlier than this says nothing about the endpoint.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// Failures in a row after which a client is replaced.
const FAILURES_MAX: u32 = 2;
/// Largest answer taken: a listing of a cell with some hundred thousand tablets.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What is attempted, for errors: a verb and its object.
#[derive(Clone, Copy)]
pub(super) struct Operation<'a> {
    verb: &'static str,
    object: &'a str,
    writes: bool,
}

impl<'a> Operation<'a> {
    pub fn read(verb: &'static str, object: &'a str) -> Self {
        Self { verb, object, writes: false }
    }

    pub fn write(verb: &'static str, object: &'a str) -> Self {
        Self { verb, object, writes: true }
    }
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.object)
    }
}

/// Why one attempt at one endpoint brought no answer that counts.
enum Failure {
    /// No connection: nothing was sent.
    NotSent(String),
    /// Sent perhaps; no answer came.
    NoAnswer(String),
    /// etcd answered with an error: nothing was done, and another member would say the same.
    Refused(Box<Status>),
}

/// An answer, and whether an earlier attempt of the same call may have been carried out as well.
pub(super) struct Answer<T> {
    pub value: T,
    pub earlier_unknown: bool,
}

/// Why a call failed on every endpoint, or was refused by one.
pub(super) enum CallError {
    /// etcd's own error.
    Refused { status: Box<Status>, earlier_unknown: bool },
    /// No endpoint answered.
    Unreachable(KvError),
}

/// The clients of one endpoint's connection.
#[derive(Clone)]
pub(super) struct Conn {
    pub kv: KvClient,
    pub lease: LeaseClient,
    pub watch: WatchClient,
    /// Keeps the connection's list of endpoints alive.
    _client: Client,
}

#[derive(Default)]
struct Slot {
    conn: Option<Conn>,
    failures_in_a_row: u32,
    /// Of the TLS files that the client was made with.
    tls_number: u64,
    /// Counts clients, so that a late failure of an old one does not discredit the new one.
    generation: u64,
}

struct Host {
    address: String,
    slot: Mutex<Slot>,
}

impl Host {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        self.slot().failures_in_a_row = 0;
    }

    fn failed(&self, generation: u64) {
        let mut slot = self.slot();
        if slot.generation == generation {
            slot.failures_in_a_row += 1;
            if slot.failures_in_a_row >= FAILURES_MAX {
                slot.conn = None;
                slot.failures_in_a_row = 0;
            }
        }
    }
}

/// The members of one etcd cluster.
pub(super) struct Links {
    hosts: Vec<Host>,
    active: AtomicUsize,
    tls: Option<Rotating<ClientSide>>,
    request_timeout: Duration,
}

impl Links {
    /// Takes endpoints written as `host:port` with commas between; connects when first used.
    pub fn new(addresses: &str, tls: Option<TopoTls>, request_timeout: Duration) -> Result<Self, KvError> {
        let hosts: Vec<Host> = addresses
            .split(',')
            .map(str::trim)
            .filter(|address| !address.is_empty())
            .map(|address| Host { address: address.to_owned(), slot: Mutex::default() })
            .collect();
        let refused = |reason: String| KvError::Refused { operation: format!("connecting to etcd at {addresses:?}"), reason };
        if hosts.is_empty() {
            return Err(refused("no endpoint is given; write host:port, several with commas between".to_owned()));
        }
        for Host { address, .. } in &hosts {
            let url = if address.contains("://") { address.clone() } else { format!("http://{address}") };
            url.parse::<tonic::transport::Uri>().map_err(|error| refused(format!("{address:?} is no endpoint: {error}")))?;
        }
        let tls = tls.map(|files| client("TLS towards etcd (--topo-etcd-tls-*)", &files)).transpose();
        let tls = tls.map_err(|error| refused(error.to_string()))?;
        Ok(Self { hosts, active: AtomicUsize::new(0), tls, request_timeout })
    }

    /// The endpoints as they were given.
    pub fn addresses(&self) -> String {
        self.hosts.iter().map(|host| host.address.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Limit of one request to one endpoint.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Sends a request to the active endpoint, then to the others, each within `limit`; a lone endpoint gets a second try after a
    /// lost answer. So a call ends within `limit` times the number of endpoints (at least two).
    pub async fn call<T, F, Fut>(&self, operation: Operation<'_>, limit: Duration, send: F) -> Result<Answer<T>, CallError>
    where
        F: Fn(Conn) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let first = self.active.load(Ordering::Relaxed);
        let mut earlier_unknown = false;
        let mut reasons: Vec<String> = Vec::new();
        let mut sent = true;
        for attempt in 0..self.hosts.len().max(2) {
            let index = (first + attempt) % self.hosts.len();
            if attempt >= self.hosts.len() && !sent {
                break;
            }
            let host = &self.hosts[index];
            match self.attempt(host, limit, &send).await {
                Ok(value) => {
                    self.active.store(index, Ordering::Relaxed);
                    return Ok(Answer { value, earlier_unknown });
                }
                Err(Failure::Refused(status)) => return Err(CallError::Refused { status, earlier_unknown }),
                Err(Failure::NotSent(reason)) => {
                    sent = false;
                    reasons.push(reason);
                }
                Err(Failure::NoAnswer(reason)) => {
                    (sent, earlier_unknown) = (true, true);
                    reasons.push(reason);
                }
            }
            let _ = self.active.compare_exchange(index, (index + 1) % self.hosts.len(), Ordering::Relaxed, Ordering::Relaxed);
        }
        reasons.dedup();
        Err(CallError::Unreachable(self.unreachable(operation, reasons.join("; "), earlier_unknown)))
    }

    /// The error that names operation and endpoints.
    pub fn unreachable(&self, operation: Operation<'_>, reason: String, sent: bool) -> KvError {
        let unknown_outcome = operation.writes && sent;
        KvError::Unreachable { operation: operation.to_string(), endpoints: self.addresses(), reason, unknown_outcome }
    }

    async fn attempt<T, F, Fut>(&self, host: &Host, limit: Duration, send: &F) -> Result<T, Failure>
    where
        F: Fn(Conn) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let (conn, generation) = self.conn(host).await?;
        let mut watchdog = Watchdog { links: self, host, generation, started: Instant::now(), answered: false };
        let result = timeout(limit, send(conn)).await;
        watchdog.answered = true;
        let failure = match result {
            Ok(Ok(value)) => {
                host.succeeded();
                return Ok(value);
            }
            Ok(Err(error)) => classify(error),
            Err(_) => Failure::NoAnswer(format!("silent for {limit:?}")),
        };
        match failure {
            Failure::Refused(_) => host.succeeded(),
            Failure::NotSent(_) | Failure::NoAnswer(_) => host.failed(generation),
        }
        Err(match failure {
            Failure::NotSent(reason) => Failure::NotSent(format!("{}: {reason}", host.address)),
            Failure::NoAnswer(reason) => Failure::NoAnswer(format!("{}: {reason}", host.address)),
            refused => refused,
        })
    }

    async fn conn(&self, host: &Host) -> Result<(Conn, u64), Failure> {
        let tls = match &self.tls {
            Some(files) => Some(files.current().await),
            None => None,
        };
        let tls_number = tls.as_ref().map_or(0, |tls| tls.number);
        {
            let slot = host.slot();
            if let Some(conn) = slot.conn.as_ref().filter(|_| slot.tls_number == tls_number) {
                return Ok((conn.clone(), slot.generation));
            }
        }
        let conn = self
            .connect(&host.address, tls.as_deref())
            .await
            .map_err(|reason| Failure::NotSent(format!("{}: {reason}", host.address)))?;
        let mut slot = host.slot();
        slot.generation += 1;
        slot.tls_number = tls_number;
        slot.conn = Some(conn.clone());
        Ok((conn, slot.generation))
    }

    /// Makes a client. Nothing goes over the network before its first request.
    async fn connect(&self, address: &str, tls: Option<&Version<ClientSide>>) -> Result<Conn, String> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT_MAX.min(self.request_timeout))
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some(tls) = tls {
            options = options.with_tls(tls.value.tonic.clone());
        }
        let client = Client::connect([address], Some(options)).await.map_err(|error| explain(&error))?;
        Ok(Conn {
            kv: client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX),
            _client: client,
        })
    }
}

/// Counts a request whose caller gave up as a failure: else a caller with a short deadline would never reach another endpoint.
struct Watchdog<'a> {
    links: &'a Links,
    host: &'a Host,
    generation: u64,
    started: Instant,
    answered: bool,
}

impl Drop for Watchdog<'_> {
    fn drop(&mut self) {
        if !self.answered && self.started.elapsed() >= PATIENCE_MIN {
            self.host.failed(self.generation);
            let hosts = &self.links.hosts;
            if let Some(index) = hosts.iter().position(|host| std::ptr::eq(host, self.host)) {
                let next = (index + 1) % hosts.len();
                let _ = self.links.active.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

fn classify(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) if status.source().is_some() => {
            // A status with a cause was made on this side: the transport failed.
            let reason = with_last_cause(status.message(), &status);
            if never_sent(&status) { Failure::NotSent(reason) } else { Failure::NoAnswer(reason) }
        }
        Error::GRpcStatus(status) => match status.code() {
            Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::Unimplemented => Failure::Refused(Box::new(status)),
            _ => Failure::NoAnswer(status.message().to_owned()),
        },
        error @ (Error::InvalidArgs(_) | Error::InvalidUri(_)) => Failure::NotSent(explain(&error)),
        error => Failure::NoAnswer(explain(&error)),
    }
}

fn never_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

/// The words of an error and of its last cause, which usually says most.
fn explain(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => with_last_cause(status.message(), status),
        Error::TransportError(error) => with_last_cause(&error.to_string(), error),
        error => error.to_string(),
    }
}

fn with_last_cause(text: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let last = causes(error).skip(1).last().map(ToString::to_string);
    match last {
        Some(last) if text.is_empty() => last,
        Some(last) if !text.contains(last.as_str()) => format!("{text}: {last}"),
        _ => text.to_owned(),
    }
}
