//! The one task of a connection: moves bytes between its socket and its state, and notices when the peer falls silent.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::client::TlsStream;

use super::{super::dial::class_of, Client, Lost};
use crate::shard::FailureClass;

/// A vttablet forbids pings more often than every 10 s, or without a call under way; breaking that ends the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How much is read at once. It lies on the stack: a connection that waits has no buffer.
const READ_BYTES: usize = 16 << 10;

/// A connection's bytes, encrypted or not.
pub(in super::super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub(in super::super) enum Ended {
    /// By the peer, in order.
    Closed,
    Broken(Lost),
}

/// The driving half of a connection; it ends when the connection does.
pub(in super::super) struct Driver {
    socket: Socket,
    client: Client,
    /// What the socket has not taken yet, from `written` on.
    unwritten: Vec<u8>,
    written: usize,
    flushed: bool,
    last_read: Instant,
    /// Set while a call is under way.
    timer: Option<Pin<Box<Sleep>>>,
    pinged: bool,
}

impl Driver {
    /// A connection over this socket, both halves; nothing was said yet.
    pub(in super::super) fn new(socket: Socket) -> (Client, Self) {
        let client = Client::new();
        let driver = Self {
            socket,
            client: client.clone(),
            unwritten: Vec::new(),
            written: 0,
            flushed: true,
            last_read: Instant::now(),
            timer: None,
            pinged: false,
        };
        (client, driver)
    }

    /// Drives until the peer has said what a server must say first; else how it failed.
    pub(in super::super) fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let ended = self.poll_run(cx);
        if self.client.state().connection.has_spoken() {
            // What came after it is told to whoever uses the connection.
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(ended) = ended else { return Poll::Pending };
        Poll::Ready(Err(match ended {
            Ended::Broken(lost) => lost,
            Ended::Closed => Lost { class: FailureClass::Closed, reason: "it has closed the connection".to_owned() },
        }))
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.client.state().driver = Some(cx.waker().clone());
        // Reading comes first: what is known to be dead gets no new call.
        if let Poll::Ready(ended) = self.poll_receive(cx) {
            return Poll::Ready(self.end(cx, ended));
        }
        if let Poll::Ready(Err(error)) = self.poll_transmit(cx) {
            return Poll::Ready(self.end(cx, broken(&error)));
        }
        if self.client.state().connection.is_done() {
            return Poll::Ready(self.end(cx, Ended::Closed));
        }
        let silent = self.poll_silence(cx).map(Ended::Broken);
        silent.map(|ended| self.end(cx, ended))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut space);
            if let Err(error) = ready!(self.socket.poll_read(cx, &mut buffer)) {
                return Poll::Ready(broken(&error));
            }
            let bytes = buffer.filled();
            let connection = &mut self.client.state().connection;
            if bytes.is_empty() {
                return Poll::Ready(match connection.is_between_frames() {
                    true => Ended::Closed,
                    false => Ended::Broken(closed("the connection was closed in the middle of a frame")),
                });
            }
            self.last_read = Instant::now();
            self.pinged = false;
            if let Err(violation) = connection.receive(bytes, self.last_read) {
                let spoken = connection.has_spoken();
                let lost = connection.break_off(violation);
                return Poll::Ready(Ended::Broken(if spoken { lost } else { no_http2() }));
            }
        }
    }

    fn poll_transmit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.unwritten.len() {
                let written = ready!(self.socket.poll_write(cx, &self.unwritten[self.written..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += written;
                self.flushed = false;
            }
            (self.unwritten, self.written) = (Vec::new(), 0);
            self.client.state().connection.transmit(&mut self.unwritten);
            if self.unwritten.is_empty() {
                break;
            }
        }
        if !self.flushed {
            ready!(self.socket.poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Pings a peer that says nothing while a call is under way; ready when it stays silent.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        if !self.client.state().connection.is_busy() {
            (self.timer, self.pinged) = (None, false);
            return Poll::Pending;
        }
        let now = Instant::now();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(now + PING_INTERVAL)));
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = self.last_read + PING_INTERVAL;
            if self.pinged {
                let reason = format!("no answer to a ping within {PING_TIMEOUT:?}");
                return Poll::Ready(Lost { class: FailureClass::Silent, reason });
            }
            if now < due {
                timer.as_mut().reset(due);
                continue;
            }
            self.pinged = true;
            timer.as_mut().reset(now + PING_TIMEOUT);
            self.client.state().connection.ping();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Tells the callers, and the peer as far as it takes it at once.
    fn end(&mut self, cx: &mut Context<'_>, ended: Ended) -> Ended {
        let lost = match &ended {
            Ended::Closed => closed("the connection was closed"),
            Ended::Broken(lost) => lost.clone(),
        };
        self.client.state().connection.fail(lost);
        let _ = self.poll_transmit(cx);
        ended
    }
}

fn closed(reason: &str) -> Lost {
    Lost { class: FailureClass::Closed, reason: reason.to_owned() }
}

fn broken(error: &io::Error) -> Ended {
    Ended::Broken(Lost { class: class_of(error), reason: error.to_string() })
}

fn no_http2() -> Lost {
    let reason = "its first bytes are not HTTP/2 (is this the grpc port, and TLS on or off on both sides?)";
    Lost { class: FailureClass::Answered, reason: reason.to_owned() }
}

impl Future for Driver {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        self.poll_run(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.client
            .state()
            .connection
            .fail(Lost { class: FailureClass::Silent, reason: "the client is shutting down".to_owned() });
    }
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}
