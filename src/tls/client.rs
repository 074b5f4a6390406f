//! Our side of connections that we make.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{Pem, TlsError, provider};
use crate::rotating::{Contents, Rotating};

/// Files of TLS towards servers (PEM).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authority that signed the servers' certificates; the system's authorities when absent.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, for servers that let in nobody without.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS towards servers, in the forms that our libraries take.
pub struct ClientSide {
    /// For connections of our own making, with HTTP/2 inside. Without an authority's file it trusts nobody.
    pub config: Arc<ClientConfig>,
    /// For tonic's channels.
    pub tonic: ClientTlsConfig,
    /// The authority's file; `None` = the system's authorities.
    pub ca: Option<Vec<u8>>,
    /// The files of our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// TLS towards servers, from these files; `what` is named when they cannot be used later on.
pub fn client(what: &'static str, files: &ClientFiles) -> Result<Rotating<ClientSide>, TlsError> {
    let identity = files.identity.iter().flat_map(|(cert, key)| [cert, key]);
    let paths: Vec<PathBuf> = files.ca.iter().chain(identity).cloned().collect();
    let files = files.clone();
    Rotating::load(what, paths, move |contents| build(&files, contents)).map_err(TlsError::Files)
}

fn build(files: &ClientFiles, contents: &Contents) -> Result<ClientSide, String> {
    let mut contents = contents.iter();
    let mut next = || contents.next().map(Vec::as_slice).unwrap_or_default();
    let ca = files.ca.as_ref().map(|path| Pem { path, content: next() });
    let (roots, tonic) = match &ca {
        Some(ca) => (ca.authorities()?, ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.content))),
        None => (RootCertStore::empty(), ClientTlsConfig::new().with_enabled_roots()),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (mut config, tonic, identity) = match &files.identity {
        None => (builder.with_no_client_auth(), tonic, None),
        Some((cert, key)) => {
            let (cert, key) = (Pem { path: cert, content: next() }, Pem { path: key, content: next() });
            let config = builder
                .with_client_auth_cert(cert.certificates("certificate")?, key.key()?)
                .map_err(|error| cert.no_identity(&key, error))?;
            let tonic = tonic.identity(Identity::from_pem(cert.content, key.content));
            (config, tonic, Some((cert.content.to_vec(), key.content.to_vec())))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(ClientSide { config: Arc::new(config), tonic, ca: ca.map(|ca| ca.content.to_vec()), identity })
}
