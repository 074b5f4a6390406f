//! How one elector calls another: over TLS, and saying who it is.

use std::path::Path;

use tonic::{Request, transport::Endpoint};

use crate::{
    credentials::ClientUser,
    rotating::Rotating,
    tls::{ClientFiles, ClientSide, TlsError, client},
};

/// Files of TLS towards the other electors.
pub type PeerTls = ClientFiles;

/// How the other electors are called: TLS, and who we say that we are. Both are read from files, and again when these change.
#[derive(Clone, Default)]
pub struct PeerDoor {
    tls: Option<Rotating<ClientSide>>,
    user: Option<Rotating<ClientUser>>,
}

impl PeerDoor {
    /// Reads the files, once for now.
    pub fn load(tls: Option<&PeerTls>, user: Option<&Path>) -> Result<Self, TlsError> {
        let tls =
            tls.map(|files| client("TLS towards the other electors (--elector-grpc-ca, --grpc-cert)", files)).transpose()?;
        Ok(Self { tls, user: user.map(ClientUser::load).transpose().map_err(TlsError::Files)? })
    }

    /// The endpoint of an elector, and how often the TLS files had changed when it was made: a channel of an older number is to be made
    /// anew.
    pub async fn endpoint(&self, address: &str) -> Result<(Endpoint, u64), String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint =
            Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| format!("{address:?} is no address"))?;
        let Some(tls) = &self.tls else { return Ok((endpoint, 0)) };
        let tls = tls.current().await;
        let endpoint = endpoint.tls_config(tls.value.tonic.clone()).map_err(|error| format!("TLS towards {address}: {error}"))?;
        Ok((endpoint, tls.number))
    }

    /// Writes who we are into a request.
    pub async fn sign<T>(&self, request: &mut Request<T>) {
        if let Some(user) = &self.user {
            user.current().await.value.sign(request.metadata_mut());
        }
    }
}
