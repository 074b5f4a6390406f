//! Making a connection to a tablet, until it has spoken HTTP/2.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::{
    link::{OneMessage, in_full},
    tls::{TlsDialler, TlsError},
};
use crate::shard::FailureClass;

/// A vttablet forbids pings more often than every 10 s, or without a call under way; breaking that ends the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an HTTP/2 frame's header.
const FRAME_HEADER_BYTES: usize = 9;
/// The type of the frame that a server must send first.
const SETTINGS: u8 = 4;

/// Where a tablet listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    tls: bool,
}

impl Endpoint {
    /// An endpoint; `tls` says whether connections to it are encrypted.
    pub(super) fn new(host: &str, port: u16, tls: bool) -> Self {
        Self { host: host.to_owned(), port, tls }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub(super) fn authority(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect { endpoint: Endpoint, class: FailureClass, reason: String },
    #[error("no TLS session with {endpoint}: {reason}")]
    Tls { endpoint: Endpoint, reason: String },
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("{endpoint} accepts connections but does not speak gRPC: {reason}")]
    Speech { endpoint: Endpoint, class: FailureClass, reason: String },
    #[error("{endpoint}: not connected within {limit:?} ({reached})")]
    Timeout { endpoint: Endpoint, limit: Duration, reached: &'static str },
}

impl DialError {
    /// What it proves.
    pub(super) fn class(&self) -> FailureClass {
        match self {
            Self::Connect { class, .. } | Self::Speech { class, .. } => *class,
            Self::Tls { .. } | Self::Files(_) => FailureClass::Answered,
            Self::Timeout { .. } => FailureClass::Silent,
        }
    }
}

/// What an error of the network proves: only the host itself refuses or resets.
fn class_of(error: &io::Error) -> FailureClass {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureClass::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => FailureClass::Closed,
        _ => FailureClass::Silent,
    }
}

/// The driving half of a connection; it ends when the connection does.
pub(super) type Driver = Pin<Box<Connection<TokioIo<Listening<Box<dyn Stream>>>, OneMessage, Tasks>>>;

/// How connections are made.
pub(super) struct Dialler {
    /// From the look-up of the name to the tablet's first frame.
    pub(super) timeout: Duration,
    pub(super) tls: Option<TlsDialler>,
}

impl Dialler {
    /// Connects and waits for the tablet's first frame: a process that is frozen or no tablet gets no request.
    pub(super) async fn dial(
        &self,
        endpoint: &Endpoint,
        tasks: TaskTracker,
    ) -> Result<(SendRequest<OneMessage>, Driver), DialError> {
        let mut reached = "no answer to the connection attempt";
        let result = timeout(self.timeout, self.stages(endpoint, tasks, &mut reached)).await;
        result.unwrap_or_else(|_| Err(DialError::Timeout { endpoint: endpoint.clone(), limit: self.timeout, reached }))
    }

    async fn stages(
        &self,
        endpoint: &Endpoint,
        tasks: TaskTracker,
        reached: &mut &'static str,
    ) -> Result<(SendRequest<OneMessage>, Driver), DialError> {
        let connect_error = |error: io::Error| {
            let (class, reason) = (class_of(&error), error.to_string());
            DialError::Connect { endpoint: endpoint.clone(), class, reason }
        };
        let speech_error = |(class, reason)| DialError::Speech { endpoint: endpoint.clone(), class, reason };
        let ended = |reason: String| speech_error((FailureClass::Closed, reason));
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(connect_error)?;
        tcp.set_nodelay(true).map_err(connect_error)?;
        *reached = "the port accepts connections, but the process behind it is silent";
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = tls.server_name(&endpoint.host)?;
                let session = TlsConnector::from(tls.config()).connect(name, tcp).await;
                let tls_error = |error: io::Error| DialError::Tls { endpoint: endpoint.clone(), reason: error.to_string() };
                Box::new(session.map_err(tls_error)?)
            }
        };
        let (stream, first_frame) = Listening::new(stream);
        let mut builder = Builder::new(Tasks(tasks));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| ended(in_full(&error)))?;
        let mut driver = Box::pin(driver);
        tokio::select! {
            biased;
            verdict = first_frame => verdict.map_err(|_| ended("the connection ended".to_owned()))?.map_err(speech_error)?,
            end = &mut driver => return Err(ended(end.err().map_or("the connection ended".to_owned(), |e| in_full(&e)))),
        }
        Ok((sender, driver))
    }
}

/// Lets hyper spawn what belongs to a connection under our tracker.
#[derive(Clone)]
pub(super) struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Whether the peer speaks HTTP/2; else how it failed.
type Judgement = Result<(), (FailureClass, String)>;

/// A stream that reports whether the peer's first frame is what HTTP/2 demands, and else why not.
pub(super) struct Listening<S> {
    inner: S,
    heard: Vec<u8>,
    report: Option<oneshot::Sender<Judgement>>,
}

impl<S> Listening<S> {
    fn new(inner: S) -> (Self, oneshot::Receiver<Judgement>) {
        let (report, first_frame) = oneshot::channel();
        (Self { inner, heard: Vec::with_capacity(FRAME_HEADER_BYTES), report: Some(report) }, first_frame)
    }

    /// Judges the bytes read: `None` while they are too few.
    fn judge(&mut self, read: io::Result<&[u8]>) -> Option<Judgement> {
        match read {
            Err(error) => Some(Err((class_of(&error), error.to_string()))),
            Ok([]) => Some(Err((FailureClass::Closed, "it has closed the connection".to_owned()))),
            Ok(bytes) => {
                let missing = FRAME_HEADER_BYTES - self.heard.len();
                self.heard.extend(bytes.iter().take(missing));
                match self.heard.get(FRAME_HEADER_BYTES - 1) {
                    None => None,
                    Some(_) if self.heard[3] == SETTINGS => Some(Ok(())),
                    Some(_) => Some(Err((
                        FailureClass::Answered,
                        "its first bytes are not HTTP/2 (is this the grpc port, and TLS on or off on both sides?)".to_owned(),
                    ))),
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if self.report.is_some() {
            let read = result.as_ref().map(|()| &buf.filled()[before..]);
            let read = read.map_err(|error| io::Error::new(error.kind(), error.to_string()));
            if let Some(verdict) = self.judge(read)
                && let Some(report) = self.report.take()
            {
                // The dialler may have given up; then nobody needs to know.
                let _ = report.send(verdict);
            }
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
