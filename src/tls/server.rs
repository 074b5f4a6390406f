//! Our side of connections that others make.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{ServerConfig, server::WebPkiClientVerifier};

use super::{Pem, TlsError, provider};
use crate::rotating::{Contents, Rotating};

/// Files of a server's TLS (PEM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that signed the clients' certificates; none is asked for when absent.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is let in as well, to prove itself in another way.
    pub client_may_have_none: bool,
}

/// TLS of a server.
pub struct ServerSide {
    /// The configuration of new connections; those that stand keep theirs.
    pub config: Arc<ServerConfig>,
}

/// TLS of a server that speaks `protocol` inside, from these files; `what` is named when they cannot be used later on.
pub fn server(what: &'static str, files: &ServerFiles, protocol: &'static str) -> Result<Rotating<ServerSide>, TlsError> {
    let paths: Vec<PathBuf> = [&files.cert, &files.key].into_iter().chain(&files.client_ca).cloned().collect();
    let files = files.clone();
    Rotating::load(what, paths, move |contents| build(&files, contents, protocol)).map_err(TlsError::Files)
}

fn build(files: &ServerFiles, contents: &Contents, protocol: &str) -> Result<ServerSide, String> {
    let content = |at: usize| contents.get(at).map(Vec::as_slice).unwrap_or_default();
    let (cert, key) = (Pem { path: &files.cert, content: content(0) }, Pem { path: &files.key, content: content(1) });
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let ca = Pem { path, content: content(2) };
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(ca.authorities()?), provider());
            let verifier = if files.client_may_have_none { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| ca.wrong("CA file", error))?)
        }
    };
    let mut config =
        builder.with_single_cert(cert.certificates("certificate")?, key.key()?).map_err(|error| cert.no_identity(&key, error))?;
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(ServerSide { config: Arc::new(config) })
}
