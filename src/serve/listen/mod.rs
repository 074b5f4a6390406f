//! Sockets and TLS of our own servers.

mod crowd;
mod gate;
mod stream;

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{ServeError, door::Entrance};
use crate::{
    config::{Listen, ServerTls},
    rotating::Rotating,
    tls::{ServerFiles, ServerSide, TlsError, server},
};

pub use crowd::Crowd;
pub use gate::Gate;
pub use stream::Stream;

/// Listens; an empty host is every address of both families, as in Go.
pub async fn bind(flag: &'static str, listen: &Listen) -> Result<TcpListener, ServeError> {
    let bound = match listen.host.as_str() {
        "" => match TcpListener::bind(("::", listen.port)).await {
            // A host without IPv6.
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => TcpListener::bind(("0.0.0.0", listen.port)).await,
            bound => bound,
        },
        host => TcpListener::bind((host, listen.port)).await,
    };
    bound.map_err(|source| ServeError::Listen { flag, address: listen.to_string(), source })
}

/// The address that a listener got.
pub fn address(flag: &'static str, listener: &TcpListener) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::Listen { flag, address: String::new(), source })
}

/// TLS of one of our servers, when it has a certificate. `client_may_have_none` = whoever has no certificate may prove another thing.
pub fn tls(entrance: Entrance, tls: Option<&ServerTls>) -> Result<Option<Rotating<ServerSide>>, ServeError> {
    let (what, flags, protocol, client_may_have_none) = match entrance {
        Entrance::Grpc => ("TLS of the gRPC server (--grpc-cert, --grpc-key, --grpc-ca)", "grpc", "h2", false),
        Entrance::Http => ("TLS of the HTTP server (--http-cert, --http-key, --http-ca)", "http", "http/1.1", true),
    };
    let Some(ServerTls { identity, client_ca }) = tls else { return Ok(None) };
    let files = ServerFiles {
        cert: identity.cert.clone(),
        key: identity.key.clone(),
        client_ca: client_ca.clone(),
        client_may_have_none,
    };
    let wrong = |error: TlsError| ServeError::Tls { flags, problem: error.to_string() };
    server(what, &files, protocol).map(Some).map_err(wrong)
}
