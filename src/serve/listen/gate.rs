//! Taking connections: as many as there may be, each with its handshake in a task of its own, so that a slow client holds up nobody else.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    crowd::{Crowd, Full, Place},
    stream::Stream,
};
use crate::{
    metrics::SecurityMetrics,
    rotating::Rotating,
    serve::door::{Entrance, Peer},
    tls::{self, ServerSide},
};

/// A handshake that takes longer is given up.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections that wait for being served.
const ARRIVED_MAX: usize = 64;
/// After an error of the listener itself, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// What goes wrong with connections is logged no more often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What a client without a place is told on HTTP. On gRPC it is an empty SETTINGS frame and a GOAWAY (ENHANCE_YOUR_CALM) with words.
const FULL_HTTP: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 44\r\n\r\ntoo many connections; close some, and retry\n";
const FULL_GRPC: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x33\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections; close some, and retry";

/// Where clients come in.
pub struct Gate {
    /// Which face.
    pub entrance: Entrance,
    /// What listens.
    pub listener: TcpListener,
    /// TLS, when it is spoken.
    pub tls: Option<Rotating<ServerSide>>,
    /// How many there may be.
    pub crowd: Arc<Crowd>,
    /// Where it is counted, when it is.
    pub metrics: Option<SecurityMetrics>,
}

impl Gate {
    /// The connections, as they come, and what takes them until `closing`: whoever serves them has to run that.
    pub fn open(self, closing: CancellationToken) -> (mpsc::Receiver<Stream>, impl Future<Output = ()> + Send) {
        let (arrived, arrivals) = mpsc::channel(ARRIVED_MAX);
        (arrivals, async move { _ = closing.run_until_cancelled(self.run(arrived)).await })
    }

    async fn run(self, arrived: mpsc::Sender<Stream>) {
        let (mut handshakes, mut said) = (JoinSet::new(), None);
        loop {
            while handshakes.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((tcp, address)) => match self.crowd.enter(address.ip()) {
                    Ok(place) => {
                        handshakes.spawn(self.welcome(tcp, address, place, arrived.clone()));
                    }
                    Err(full) => self.turn_away(&tcp, address.ip(), full, &mut said),
                },
                // The client went away before it was its turn.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    seldom(&mut said, || tracing::warn!(%error, face = self.entrance.name(), "connections cannot be taken"));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn turn_away(&self, tcp: &TcpStream, address: IpAddr, full: Full, said: &mut Option<Instant>) {
        let (reason, words) = match full {
            Full::Total => ("too_many", "there are as many connections as there may be"),
            Full::OfAddress => ("too_many_of_address", "that address has as many connections as one may have"),
        };
        if let Some(metrics) = &self.metrics {
            metrics.connection_refused(self.entrance.name(), reason);
        }
        seldom(said, || tracing::info!(face = self.entrance.name(), %address, "a connection was refused: {words}"));
        if self.tls.is_none() {
            // It fits into the empty buffer of the socket, or nobody hears it.
            let _ = tcp.try_write(match self.entrance {
                Entrance::Grpc => FULL_GRPC,
                Entrance::Http => FULL_HTTP,
            });
        }
    }

    /// Speaks TLS where that is asked for, and hands the connection on.
    fn welcome(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        place: Place,
        arrived: mpsc::Sender<Stream>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (tls, metrics, face) = (self.tls.clone(), self.metrics.clone(), self.entrance.name());
        let open = metrics.as_ref().map(|metrics| metrics.connection(face));
        async move {
            // Without it answers of several packets wait for each other; a socket that refuses it is about to fail anyway.
            let _ = tcp.set_nodelay(true);
            let mut peer = Peer { address, certificate: None };
            let stream = match tls {
                None => Stream::plain(tcp, peer, place, open),
                Some(tls) => {
                    let acceptor = TlsAcceptor::from(tls.current().await.value.config.clone());
                    match timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
                        Ok(Ok(session)) => {
                            let chain = session.get_ref().1.peer_certificates();
                            peer.certificate = chain.and_then(|chain| tls::subject(chain.first()?)).map(Arc::new);
                            Stream::tls(session, peer, place, open)
                        }
                        failed => {
                            if let Some(metrics) = metrics {
                                metrics.connection_refused(face, "handshake");
                            }
                            let error = failed
                                .map_or_else(|late| late.to_string(), |tls| tls.err().map(|e| e.to_string()).unwrap_or_default());
                            tracing::debug!(face, %address, error, "a connection was refused");
                            return;
                        }
                    }
                }
            };
            // Nobody serves any more when this fails.
            let _ = arrived.send(stream).await;
        }
    }
}

/// Says something unless it was said a short while ago.
fn seldom(said: &mut Option<Instant>, say: impl FnOnce()) {
    let now = Instant::now();
    if said.is_none_or(|at| now.duration_since(at) >= SAID_EVERY) {
        *said = Some(now);
        say();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_as_long_as_they_say() {
        let http = std::str::from_utf8(FULL_HTTP).unwrap();
        let (head, body) = http.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}: {}", body.len());
        assert_eq!(usize::from(FULL_GRPC[9 + 2]), FULL_GRPC.len() - 9 - 9);
    }
}
