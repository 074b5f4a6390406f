//! The TLS identity towards tablets.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem::PemObject},
};

/// Files of the TLS identity towards tablets; the names of the flags are Vitess's.
#[derive(Debug, Clone)]
pub struct TabletTls {
    /// `--tablet-manager-grpc-ca`: authority that signed the tablets' certificates (PEM).
    pub ca: PathBuf,
    /// `--tablet-manager-grpc-cert` and `--tablet-manager-grpc-key`: our certificate and its key (PEM), for tablets that demand one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `--tablet-manager-grpc-server-name`: the name expected in the certificates, instead of the tablet's host name.
    pub server_name: Option<String>,
}

/// Why no TLS connection can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or holds something else.
    #[error("{what} {path}: {reason}", path = path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key that do not belong together, or are of no use.
    #[error("{cert} and {key} make no TLS identity: {source}", cert = cert.display(), key = key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The TLS library's words.
        source: rustls::Error,
    },
    /// A name that no certificate can bear.
    #[error("{name:?} is neither a host name nor an address: set --tablet-manager-grpc-server-name")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
}

/// The TLS side of a dialler. The files are read again at every connection, so that rotated certificates need no restart.
pub(super) struct TlsDialler {
    files: TabletTls,
    last_good: ArcSwap<ClientConfig>,
}

impl TlsDialler {
    /// Reads the files, once for now.
    pub(super) fn load(files: TabletTls) -> Result<Self, TlsError> {
        let config = client_config(&files)?;
        Ok(Self { files, last_good: ArcSwap::from_pointee(config) })
    }

    /// The current configuration; files that are broken just now (half written) leave the last good one in use.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        match client_config(&self.files) {
            Ok(config) => self.last_good.store(Arc::new(config)),
            Err(error) => tracing::warn!(%error, "tablet TLS files are unusable: going on with the last good ones"),
        }
        self.last_good.load_full()
    }

    /// The name that the tablet's certificate must bear.
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.files.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|source| TlsError::Name { name: name.to_owned(), source })
    }
}

fn client_config(files: &TabletTls) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA file", &files.ca)? {
        roots.add(certificate).map_err(|error| unusable("CA file", &files.ca, error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("CA file", &files.ca, error))?
        .with_root_certificates(roots);
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates("certificate", cert)?, private_key(key)?)
            .map_err(|source| TlsError::Identity { cert: cert.clone(), key: key.clone(), source })?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|e| unusable(what, path, e))?;
    if found.is_empty() {
        return Err(unusable(what, path, "no certificate in PEM form inside"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read("private key", path)?).map_err(|error| unusable("private key", path, error))
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error: io::Error| unusable(what, path, error))
}

fn unusable(what: &'static str, path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File { what, path: path.to_owned(), reason: reason.to_string() }
}
