//! Making a connection to a tablet, until it has spoken HTTP/2.

use std::{fmt, future::poll_fn, io, time::Duration};

use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{
    http2::{Client, Driver, Socket},
    link::Lost,
    tls::TlsDialler,
};
use crate::{connect::connect, shard::FailureClass, tls::TlsError};

/// Where a tablet listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    tls: bool,
}

impl Endpoint {
    /// An endpoint; `tls` says whether connections to it are encrypted.
    pub(super) fn new(host: &str, port: u16, tls: bool) -> Self {
        Self { host: host.to_owned(), port, tls }
    }

    /// Whether connections to it are encrypted.
    pub(super) fn is_https(&self) -> bool {
        self.tls
    }

    pub(super) fn authority(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect { endpoint: Endpoint, class: FailureClass, reason: String },
    #[error("no TLS session with {endpoint}: {reason}")]
    Tls { endpoint: Endpoint, reason: String },
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("{endpoint} accepts connections but does not speak gRPC: {reason}")]
    Speech { endpoint: Endpoint, class: FailureClass, reason: String },
    #[error("{endpoint}: not connected within {limit:?} ({reached})")]
    Timeout { endpoint: Endpoint, limit: Duration, reached: &'static str },
}

impl DialError {
    /// What it proves.
    pub(super) fn class(&self) -> FailureClass {
        match self {
            Self::Connect { class, .. } | Self::Speech { class, .. } => *class,
            Self::Tls { .. } | Self::Files(_) => FailureClass::Answered,
            Self::Timeout { .. } => FailureClass::Silent,
        }
    }
}

/// What an error of the network proves: only the host itself refuses or resets.
pub(super) fn class_of(error: &io::Error) -> FailureClass {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureClass::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => FailureClass::Closed,
        _ => FailureClass::Silent,
    }
}

/// How connections are made.
pub(super) struct Dialler {
    /// From the look-up of the name to the tablet's first frame.
    pub(super) timeout: Duration,
    pub(super) tls: Option<TlsDialler>,
}

impl Dialler {
    /// Connects and waits for the tablet's first frame: a process that is frozen or no tablet gets no request.
    pub(super) async fn dial(&self, endpoint: &Endpoint) -> Result<(Client, Driver), DialError> {
        let mut reached = "no answer to the connection attempt";
        let result = timeout(self.timeout, self.stages(endpoint, &mut reached)).await;
        result.unwrap_or_else(|_| Err(DialError::Timeout { endpoint: endpoint.clone(), limit: self.timeout, reached }))
    }

    async fn stages(&self, endpoint: &Endpoint, reached: &mut &'static str) -> Result<(Client, Driver), DialError> {
        let connect_error = |error: io::Error| {
            let (class, reason) = (class_of(&error), error.to_string());
            DialError::Connect { endpoint: endpoint.clone(), class, reason }
        };
        let speech_error = |Lost { class, reason }| DialError::Speech { endpoint: endpoint.clone(), class, reason };
        let tcp = connect(&endpoint.host, endpoint.port).await.map_err(connect_error)?;
        tcp.set_nodelay(true).map_err(connect_error)?;
        *reached = "the port accepts connections, but the process behind it is silent";
        let socket = match &self.tls {
            None => Socket::Plain(tcp),
            Some(tls) => {
                let name = tls.server_name(&endpoint.host)?;
                let session = TlsConnector::from(tls.config().await).connect(name, tcp).await;
                let tls_error = |error: io::Error| DialError::Tls { endpoint: endpoint.clone(), reason: error.to_string() };
                Socket::Tls(Box::new(session.map_err(tls_error)?))
            }
        };
        let (client, mut driver) = Driver::new(socket);
        poll_fn(|cx| driver.poll_greeting(cx)).await.map_err(speech_error)?;
        Ok((client, driver))
    }
}
