//! One connection to one tablet.
//!
//! What a failed call means hangs on one question: can the tablet have received it? tonic's channel reconnects and queues by
//! itself and cannot say. So the connection is our own: it never reconnects, it counts as up only after the tablet has spoken
//! HTTP/2 (a frozen process accepts connections, and would carry out later what it was sent), and a call is "sent" from the
//! moment in which its first byte may have reached the socket, unless the tablet says that it has refused this very call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{
    dial::{Dialler, Endpoint},
    http2::{Client, End, Ended, Exchange, Request, encode_head},
};
use crate::shard::FailureClass;

/// Vitess's limit (`--grpc-max-message-size`), both ways.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// After so many deadlines missed in a row a connection is given up: once packets were dropped, TCP backs off for minutes.
const TIMEOUTS_MAX: u32 = 2;

/// gRPC's prefix of a message: a compression flag and the length.
pub(super) const PREFIX_BYTES: usize = 5;

/// How a call over a link ended, other than with an answer.
#[derive(Debug)]
pub(super) enum SendError {
    /// The tablet cannot have received the message.
    NotSent(Lost),
    /// The tablet may have received the message.
    NoAnswer(Lost),
    /// The tablet answered with a gRPC status.
    Status(tonic::Status),
}

/// How and why nothing came back.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub class: FailureClass,
    pub reason: String,
}

impl Lost {
    fn silent(reason: impl Into<String>) -> Self {
        Self { class: FailureClass::Silent, reason: reason.into() }
    }
}

/// What a call consists of.
pub(super) struct Outgoing {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// The encoded request.
    pub message: Vec<u8>,
    /// Metadata.
    pub headers: HeaderMap,
}

#[derive(Clone)]
enum State {
    Dialling,
    Up(Client),
    Down(Lost),
}

/// One connection, being made, up, or down for good. Dropping the last reference ends it.
pub(super) struct Link {
    endpoint: Endpoint,
    state: watch::Receiver<State>,
    timeouts: AtomicU32,
    /// It was asked to be a witness and does not know the call: a vttablet. Nobody becomes our agent on a connection that is open.
    no_witness: AtomicBool,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// Starts to connect.
    pub(super) fn open(endpoint: Endpoint, dialler: Arc<Dialler>, tasks: &TaskTracker) -> Arc<Self> {
        let (report, state) = watch::channel(State::Dialling);
        let task = tasks.spawn(run(endpoint.clone(), dialler, report));
        Arc::new(Self {
            endpoint,
            state,
            timeouts: AtomicU32::new(0),
            no_witness: AtomicBool::new(false),
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Where it leads.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether a new call may be tried on it.
    pub(super) fn usable(&self) -> bool {
        let open = match &*self.state.borrow() {
            State::Dialling => true,
            State::Up(client) => client.is_open(),
            State::Down(_) => false,
        };
        open && self.timeouts.load(Ordering::Relaxed) < TIMEOUTS_MAX
    }

    /// Whether the tablet has spoken on it, and it has not ended since.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Whether the tablet has said that it does not know the witness's call.
    pub(super) fn is_no_witness(&self) -> bool {
        self.no_witness.load(Ordering::Relaxed)
    }

    /// It has said so.
    pub(super) fn set_no_witness(&self) {
        self.no_witness.store(true, Ordering::Relaxed);
    }

    /// Sends one message and awaits the answer, until the deadline.
    pub(super) async fn call(&self, outgoing: &Outgoing, deadline: Instant) -> Result<Bytes, SendError> {
        let Ok(client) = timeout_at(deadline, self.client()).await else {
            return Err(SendError::NotSent(Lost::silent(format!("no connection to {} in time", self.endpoint))));
        };
        let request = self.request(outgoing, Some(deadline));
        let mut exchange = client?.start(request).map_err(SendError::NotSent)?;
        let Ok((http_status, body, end)) = timeout_at(deadline, exchange.whole()).await else {
            self.timeouts.fetch_add(1, Ordering::Relaxed);
            let lost = Lost::silent("no answer in time");
            return Err(if exchange.was_sent() { SendError::NoAnswer(lost) } else { SendError::NotSent(lost) });
        };
        let result = answer(http_status, body, end);
        if matches!(result, Ok(_) | Err(SendError::Status(_))) {
            self.timeouts.store(0, Ordering::Relaxed);
        }
        result
    }

    /// Sends one message and awaits the beginning of an answer that may go on for ever; only its beginning has a deadline.
    pub(super) async fn open_stream(&self, outgoing: &Outgoing, deadline: Instant) -> Result<Exchange, SendError> {
        let silent = |_| SendError::NotSent(Lost::silent(format!("no stream from {} in time", self.endpoint)));
        let client = timeout_at(deadline, self.client()).await.map_err(silent)??;
        let mut exchange = client.start(self.request(outgoing, None)).map_err(SendError::NotSent)?;
        match timeout_at(deadline, exchange.begun()).await.map_err(silent)? {
            None => Ok(exchange),
            // Without a message it is an error, whatever it says.
            Some(end) => Err(answer(0, Vec::new(), end).err().unwrap_or_else(|| odd("an answer without a message"))),
        }
    }

    async fn client(&self) -> Result<Client, SendError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Dialling)).await;
        match settled.as_deref() {
            Ok(State::Up(client)) => Ok(client.clone()),
            Ok(State::Down(lost)) => Err(SendError::NotSent(lost.clone())),
            Ok(State::Dialling) | Err(_) => Err(SendError::NotSent(Lost::silent("the client is shutting down"))),
        }
    }

    /// The request; one whose answer has no deadline is read as it comes.
    fn request(&self, outgoing: &Outgoing, deadline: Option<Instant>) -> Request {
        let timeout = deadline.map(|deadline| tablets_share(deadline.saturating_duration_since(Instant::now())));
        let timeout = timeout.as_ref().map(|timeout| ("grpc-timeout", timeout.as_bytes()));
        let headers = [
            ("content-type", &b"application/grpc"[..]),
            ("te", b"trailers"),
            ("user-agent", concat!("vtelector/", env!("CARGO_PKG_VERSION")).as_bytes()),
        ];
        let metadata = outgoing.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers = headers.into_iter().chain(timeout).chain(metadata);
        Request {
            head: encode_head(self.endpoint.is_https(), &self.endpoint.authority(), outgoing.path, headers),
            body: framed(&outgoing.message),
            answer_bytes_max: deadline.map(|_| PREFIX_BYTES + MESSAGE_BYTES_MAX),
        }
    }
}

/// The tablet stops a little before we do, so that its own words arrive instead of our "no answer".
fn tablets_share(left: Duration) -> String {
    let share = left - (left / 10).min(Duration::from_millis(50));
    // gRPC allows eight digits.
    format!("{}m", share.as_millis().clamp(1, 99_999_999))
}

/// The life of a connection.
async fn run(endpoint: Endpoint, dialler: Arc<Dialler>, report: watch::Sender<State>) {
    // Dialling needs more room than all that follows, so it has its own.
    let lost = match Box::pin(dialler.dial(&endpoint)).await {
        Err(error) => Lost { class: error.class(), reason: error.to_string() },
        Ok((client, driver)) => {
            report.send_replace(State::Up(client));
            match driver.await {
                Ended::Closed => Lost { class: FailureClass::Closed, reason: format!("{endpoint} has closed the connection") },
                Ended::Broken(Lost { class, reason }) => {
                    Lost { class, reason: format!("the connection to {endpoint} broke: {reason}") }
                }
            }
        }
    };
    report.send_replace(State::Down(lost));
}

/// What came back.
fn answer(http_status: u16, body: Vec<u8>, end: End) -> Result<Bytes, SendError> {
    match end {
        End::Broken(lost) => Err(SendError::NoAnswer(lost)),
        End::NotProcessed(lost) => Err(SendError::NotSent(lost)),
        End::Bare => Err(without_status(http_status)),
        End::Trailers(fields) => match tonic::Status::from_header_map(&fields.grpc) {
            Some(status) if status.code() == tonic::Code::Ok => unframed(body.into()),
            Some(status) => Err(SendError::Status(status)),
            None => Err(without_status(http_status)),
        },
    }
}

fn without_status(http_status: u16) -> SendError {
    odd(format!("an answer without a gRPC status (HTTP {http_status})"))
}

/// Somebody answered, in a way that no tablet does.
fn odd(reason: impl Into<String>) -> SendError {
    SendError::NoAnswer(Lost { class: FailureClass::Answered, reason: reason.into() })
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

fn unframed(mut body: Bytes) -> Result<Bytes, SendError> {
    if body.len() < PREFIX_BYTES {
        return Err(odd("an answer without a message"));
    }
    let message = body.split_off(PREFIX_BYTES);
    if body[0] != 0 || message.len() as u64 != u64::from(u32::from_be_bytes([body[1], body[2], body[3], body[4]])) {
        return Err(odd("an answer that is not one uncompressed message"));
    }
    Ok(message)
}
