//! One connection to one tablet.
//!
//! What a failed call means hangs on one question: can the tablet have received it? tonic's channel reconnects and queues by
//! itself and cannot say. So the connection is our own: it never reconnects, it counts as up only after the tablet has spoken
//! HTTP/2 (a frozen process accepts connections, and would carry out later what it was sent), and a call is "sent" from the
//! moment in which the connection asked for the message's bytes.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::dial::{Dialler, Endpoint};
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
    Up(SendRequest<OneMessage>),
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
        let task = tasks.spawn(run(endpoint.clone(), dialler, tasks.clone(), report));
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
        !matches!(*self.state.borrow(), State::Down(_)) && self.timeouts.load(Ordering::Relaxed) < TIMEOUTS_MAX
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
        let Ok(sender) = timeout_at(deadline, self.sender()).await else {
            return Err(SendError::NotSent(Lost::silent(format!("no connection to {} in time", self.endpoint))));
        };
        let sent = Arc::new(AtomicBool::new(false));
        let unanswered = |lost: Lost| match sent.load(Ordering::Acquire) {
            true => SendError::NoAnswer(lost),
            false => SendError::NotSent(lost),
        };
        let request = self.request(outgoing, Some(deadline), sent.clone());
        let request = request.map_err(|reason| SendError::NotSent(Lost::silent(reason)))?;
        match timeout_at(deadline, exchange(sender?, request)).await {
            Err(_) => {
                self.timeouts.fetch_add(1, Ordering::Relaxed);
                Err(unanswered(Lost::silent("no answer in time")))
            }
            Ok(Err(Exchange::Broken(lost))) => Err(unanswered(lost)),
            Ok(Err(Exchange::Status(status))) => {
                self.timeouts.store(0, Ordering::Relaxed);
                Err(SendError::Status(status))
            }
            Ok(Ok(answer)) => {
                self.timeouts.store(0, Ordering::Relaxed);
                Ok(answer)
            }
        }
    }

    /// Sends one message and awaits the beginning of an answer that may go on for ever; only its beginning has a deadline.
    pub(super) async fn open_stream(&self, outgoing: &Outgoing, deadline: Instant) -> Result<Incoming, SendError> {
        let silent = |_| SendError::NotSent(Lost::silent(format!("no stream from {} in time", self.endpoint)));
        let mut sender = timeout_at(deadline, self.sender()).await.map_err(silent)??;
        let request = self.request(outgoing, None, Arc::default());
        let request = request.map_err(|reason| SendError::NotSent(Lost::silent(reason)))?;
        let answer = timeout_at(deadline, sender.send_request(request)).await.map_err(silent)?;
        let (head, body) = answer.map_err(|error| SendError::NoAnswer(lost(&error, in_full(&error))))?.into_parts();
        match tonic::Status::from_header_map(&head.headers) {
            Some(status) => Err(SendError::Status(status)),
            None => Ok(body),
        }
    }

    async fn sender(&self) -> Result<SendRequest<OneMessage>, SendError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Dialling)).await;
        match settled.as_deref() {
            Ok(State::Up(sender)) => Ok(sender.clone()),
            Ok(State::Down(lost)) => Err(SendError::NotSent(lost.clone())),
            Ok(State::Dialling) | Err(_) => Err(SendError::NotSent(Lost::silent("the client is shutting down"))),
        }
    }

    fn request(
        &self,
        outgoing: &Outgoing,
        deadline: Option<Instant>,
        sent: Arc<AtomicBool>,
    ) -> Result<Request<OneMessage>, String> {
        let uri =
            Uri::builder().scheme(self.endpoint.scheme()).authority(self.endpoint.authority()).path_and_query(outgoing.path);
        let mut request = Request::post(uri.build().map_err(|error| error.to_string())?)
            .body(OneMessage { frame: Some(framed(&outgoing.message)), sent })
            .map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        headers.extend(outgoing.headers.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("vtelector/", env!("CARGO_PKG_VERSION"))));
        if let Some(deadline) = deadline {
            headers.insert("grpc-timeout", tablets_share(deadline.saturating_duration_since(Instant::now())));
        }
        Ok(request)
    }
}

/// The tablet stops a little before we do, so that its own words arrive instead of our "no answer".
fn tablets_share(left: Duration) -> HeaderValue {
    let share = left - (left / 10).min(Duration::from_millis(50));
    // gRPC allows eight digits.
    HeaderValue::from_str(&format!("{}m", share.as_millis().clamp(1, 99_999_999))).unwrap_or(HeaderValue::from_static("1m"))
}

/// The life of a connection.
async fn run(endpoint: Endpoint, dialler: Arc<Dialler>, tasks: TaskTracker, report: watch::Sender<State>) {
    let lost = match dialler.dial(&endpoint, tasks).await {
        Err(error) => Lost { class: error.class(), reason: error.to_string() },
        Ok((sender, connection)) => {
            report.send_replace(State::Up(sender));
            match connection.await {
                Ok(()) => Lost { class: FailureClass::Closed, reason: format!("{endpoint} has closed the connection") },
                Err(error) => lost(&error, format!("the connection to {endpoint} broke: {}", in_full(&error))),
            }
        }
    };
    report.send_replace(State::Down(lost));
}

/// A connection that broke: by a ping that nobody answered, or from the other side.
pub(super) fn lost(error: &hyper::Error, reason: String) -> Lost {
    let class = if error.is_timeout() { FailureClass::Silent } else { FailureClass::Closed };
    Lost { class, reason }
}

enum Exchange {
    /// No gRPC answer came.
    Broken(Lost),
    /// An answer that is an error.
    Status(tonic::Status),
}

async fn exchange(mut sender: SendRequest<OneMessage>, request: Request<OneMessage>) -> Result<Bytes, Exchange> {
    let broken = |error: &hyper::Error| Exchange::Broken(lost(error, in_full(error)));
    let (head, body) = sender.send_request(request).await.map_err(|error| broken(&error))?.into_parts();
    // An error without a body has its status among the headers.
    if let Some(status) = tonic::Status::from_header_map(&head.headers) {
        return Err(Exchange::Status(status));
    }
    let body = Limited::new(body, PREFIX_BYTES + MESSAGE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<hyper::Error>() {
        Some(error) => broken(error),
        None => odd(in_full(error.as_ref())),
    })?;
    match body.trailers().and_then(tonic::Status::from_header_map) {
        Some(status) if status.code() == tonic::Code::Ok => unframed(body.to_bytes()),
        Some(status) => Err(Exchange::Status(status)),
        None => Err(odd(format!("an answer without a gRPC status (HTTP {})", head.status.as_u16()))),
    }
}

/// Somebody answered, in a way that no tablet does.
fn odd(reason: impl Into<String>) -> Exchange {
    Exchange::Broken(Lost { class: FailureClass::Answered, reason: reason.into() })
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

fn unframed(mut body: Bytes) -> Result<Bytes, Exchange> {
    if body.len() < PREFIX_BYTES {
        return Err(odd("an answer without a message"));
    }
    let message = body.split_off(PREFIX_BYTES);
    if body[0] != 0 || message.len() as u64 != u64::from(u32::from_be_bytes([body[1], body[2], body[3], body[4]])) {
        return Err(odd("an answer that is not one uncompressed message"));
    }
    Ok(message)
}

/// An error with its causes: "error reading a body from connection" alone helps nobody.
pub(super) fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// A request's body: one message, and a note that the connection took it.
pub(super) struct OneMessage {
    frame: Option<Bytes>,
    sent: Arc<AtomicBool>,
}

impl Body for OneMessage {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.sent.store(true, Ordering::Release);
        Poll::Ready(self.frame.take().map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.frame.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.frame.as_ref().map_or(0, |frame| frame.len() as u64))
    }
}
