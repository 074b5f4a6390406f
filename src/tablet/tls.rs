//! The TLS identity towards tablets.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};

use crate::{
    rotating::Rotating,
    tls::{ClientFiles, ClientSide, TlsError, client},
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

/// The TLS side of a dialler. New connections are made with the files as they are then.
pub(super) struct TlsDialler {
    files: Rotating<ClientSide>,
    server_name: Option<String>,
}

impl TlsDialler {
    /// Reads the files, once for now.
    pub(super) fn load(tls: TabletTls) -> Result<Self, TlsError> {
        let files = ClientFiles { ca: Some(tls.ca), identity: tls.identity };
        Ok(Self { files: client("TLS towards tablets (--tablet-manager-grpc-*)", &files)?, server_name: tls.server_name })
    }

    /// The current configuration; files that are broken just now (half written) leave the last good one in use.
    pub(super) async fn config(&self) -> Arc<ClientConfig> {
        self.files.current().await.value.config.clone()
    }

    /// The name that the tablet's certificate must bear.
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let flag = "tablet-manager-grpc-server-name";
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name { name: name.to_owned(), flag })
    }
}
