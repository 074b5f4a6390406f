//! TLS towards MySQL servers that are verified, and that may ask for our certificate.

use mysql_async::{ClientIdentity, SslOpts};

use crate::{
    rotating::Rotating,
    tls::{ClientFiles, ClientSide, TlsError, client},
};

/// Files of TLS towards MySQL servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlTlsFiles {
    /// `--mysql-ssl-ca`, and `--mysql-ssl-cert` with `--mysql-ssl-key`.
    pub files: ClientFiles,
    /// `--mysql-ssl-server-name`: the name that every server's certificate bears, instead of the host's.
    pub server_name: Option<String>,
}

/// TLS towards MySQL servers. Cheap to clone.
#[derive(Clone)]
pub struct MysqlTls {
    files: Rotating<ClientSide>,
    server_name: Option<String>,
}

impl MysqlTls {
    /// Reads the files; they are read again when they change.
    pub fn load(tls: &MysqlTlsFiles) -> Result<Self, TlsError> {
        Ok(Self { files: client("TLS towards MySQL (--mysql-ssl-*)", &tls.files)?, server_name: tls.server_name.clone() })
    }

    /// What the driver takes, as the files are now.
    pub(super) async fn options(&self) -> SslOpts {
        let current = self.files.current().await;
        let ClientSide { ca, identity, .. } = &current.value;
        let options = SslOpts::default().with_danger_tls_hostname_override(self.server_name.clone());
        let options = match ca {
            Some(ca) => options.with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true),
            None => options,
        };
        let identity = identity.as_ref().map(|(cert, key)| ClientIdentity::new(cert.clone().into(), key.clone().into()));
        options.with_client_identity(identity)
    }
}
