//! One connection that somebody made to us, with or without TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::crowd::Place;
use crate::{metrics::InFlight, serve::door::Peer};

/// Somebody who does not take what we send for so long is cut off: the answer waits in our memory.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// What the bytes go through.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection; its place is free again when it is dropped.
pub struct Stream {
    wire: Wire,
    peer: Peer,
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
    _open: Option<InFlight>,
}

impl Stream {
    /// One without TLS.
    pub fn plain(tcp: TcpStream, peer: Peer, place: Place, open: Option<InFlight>) -> Self {
        Self { wire: Wire::Plain(tcp), peer, stalled: None, _place: place, _open: open }
    }

    /// One with TLS, whose handshake is done.
    pub fn tls(tls: TlsStream<TcpStream>, peer: Peer, place: Place, open: Option<InFlight>) -> Self {
        Self { wire: Wire::Tls(Box::new(tls)), peer, stalled: None, _place: place, _open: open }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn wire(&mut self) -> Pin<&mut (dyn Both + Send + Unpin)> {
        match &mut self.wire {
            Wire::Plain(tcp) => Pin::new(tcp),
            Wire::Tls(tls) => Pin::new(&mut **tls),
        }
    }

    /// An answer that has to wait for the other end waits for a while only.
    fn patient<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED_MAX)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other end takes nothing")))
    }
}

trait Both: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Both for T {}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = self.wire().poll_write(cx, buf);
        self.patient(cx, poll)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let poll = self.wire().poll_write_vectored(cx, bufs);
        self.patient(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(tcp) => tcp.is_write_vectored(),
            Wire::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.wire().poll_flush(cx);
        self.patient(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.wire().poll_shutdown(cx);
        self.patient(cx, poll)
    }
}

impl Connected for Stream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}
