//! TLS of every connection, ours and others': configurations from PEM files that may be replaced while we run.

mod client;
mod server;
mod x509;

pub use client::{ClientFiles, ClientSide, client};
pub use server::{ServerFiles, ServerSide, server};
pub use x509::{Subject, not_after_s, subject};

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Why no TLS connection can be made. Nothing of what the files hold is in the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or holds something else, or files that do not belong together.
    #[error("{0}")]
    Files(String),
    /// A name that no certificate can bear.
    #[error("{name:?} is neither a host name nor an address: set --{flag}")]
    Name {
        /// The name.
        name: String,
        /// The flag that gives another.
        flag: &'static str,
    },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// One file and what it held when it was read.
struct Pem<'a> {
    path: &'a PathBuf,
    content: &'a [u8],
}

impl Pem<'_> {
    fn wrong(&self, what: &str, reason: impl ToString) -> String {
        format!("{what} {}: {}", self.path.display(), reason.to_string())
    }

    fn certificates(&self, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.content).collect();
        match found {
            Ok(found) if found.is_empty() => Err(self.wrong(what, "no certificate in PEM form inside")),
            found => found.map_err(|error| self.wrong(what, error)),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.content).map_err(|error| self.wrong("private key", error))
    }

    fn authorities(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates("CA file")? {
            roots.add(certificate).map_err(|error| self.wrong("CA file", error))?;
        }
        Ok(roots)
    }

    /// Words for a key that is not the certificate's.
    fn no_identity(&self, key: &Pem<'_>, reason: impl ToString) -> String {
        format!("{} and {} make no TLS identity: {}", self.path.display(), key.path.display(), reason.to_string())
    }
}
