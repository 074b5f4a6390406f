//! Sockets and TLS of our own servers.

use std::{net::SocketAddr, path::Path};

use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::ServeError;
use crate::config::{Listen, ServerTls};

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

/// Reads the files of the server's identity, and of the authority whose clients alone are let in.
pub fn tls(tls: &ServerTls) -> Result<ServerTlsConfig, ServeError> {
    let identity = Identity::from_pem(read(&tls.identity.cert)?, read(&tls.identity.key)?);
    let config = ServerTlsConfig::new().identity(identity);
    Ok(match &tls.client_ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(read(ca)?)).client_auth_optional(false),
        None => config,
    })
}

fn read(file: &Path) -> Result<Vec<u8>, ServeError> {
    std::fs::read(file).map_err(|error| ServeError::Tls(format!("{}: {error}", file.display())))
}
