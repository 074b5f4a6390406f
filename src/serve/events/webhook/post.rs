//! One request to a receiver: every wait limited, nothing followed, nothing read that nobody needs.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, pki_types::pem::PemObject};
use tokio_util::task::TaskTracker;

use super::{
    file::Receiver,
    sign::{ID, SEQUENCE, SIGNATURE},
};
use crate::{secret::Secret, text::causes};

/// From the connection to the last byte of the answer.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Of an answer's body so much is read, so that its connection can be used again; of one that says more, the connection is closed.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Longest pause that a receiver may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What is sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// JSON.
    pub body: Bytes,
    /// The number of the event.
    pub sequence: u64,
    /// Its name.
    pub id: String,
    /// The signature, where the receiver has a secret.
    pub signature: Option<String>,
}

/// Why it was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// For a metric; from a bounded set.
    pub reason: &'static str,
    /// For a person; says nothing of the address but its host.
    pub text: String,
    /// Whether trying again soon makes sense: not where the receiver says that the request itself is wrong.
    pub is_passing: bool,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// Brings messages to one receiver.
#[async_trait]
pub trait Post: Send + Sync {
    /// Sends it and waits until it was taken.
    async fn post(&self, message: &Message) -> Result<(), Failure>;
}

/// Makes what brings messages to a receiver.
pub type Posts = Arc<dyn Fn(&Receiver) -> Result<Arc<dyn Post>, String> + Send + Sync>;

/// Over HTTP/1.1, with TLS where the address says so.
pub struct HttpPost {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Secret,
    target: String,
}

/// Connections are tasks; they have an owner.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, connection: F) {
        self.0.spawn(connection);
    }
}

impl HttpPost {
    /// A client for that receiver; its connections belong to `tasks`.
    pub fn new(receiver: &Receiver, tasks: TaskTracker) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(ANSWERS_WITHIN / 2));
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls(receiver)?).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(Tasks(tasks))
            // A connection that was idle for long may be gone without a word: a new one is cheaper than an event that comes late.
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self { client, url: receiver.url.clone(), target: receiver.target.clone() })
    }

    async fn answer(&self, message: &Message, end: Instant) -> Result<(), Failure> {
        let failure = |reason, text: String| Failure {
            reason,
            text: format!("{}: {text}", self.target),
            is_passing: true,
            retry_after: None,
        };
        let request = self.request(message).map_err(|error| failure("request", error))?;
        let answer = self.client.request(request).await.map_err(|error| {
            let reason = if error.is_connect() { "connect" } else { "reset" };
            failure(reason, chain(&error))
        })?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status.is_success() {
            // It was taken; what is said beside that only frees the connection.
            let rest = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
            _ = timeout_at(end.min(Instant::now() + Duration::from_secs(1)), rest).await;
            return Ok(());
        }
        let wanted = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let (reason, is_passing) = match status {
            StatusCode::TOO_MANY_REQUESTS => ("status_429", true),
            StatusCode::REQUEST_TIMEOUT => ("status_408", true),
            _ if status.is_server_error() => ("status_5xx", true),
            _ if status.is_client_error() => ("status_4xx", false),
            _ if status.is_redirection() => ("redirect", false),
            _ => ("status_other", false),
        };
        let mut said = format!("it answered {status}");
        if status.is_redirection() {
            said.push_str("; redirects are not followed: write the last address into the file");
        }
        Err(Failure {
            is_passing,
            retry_after: wanted.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)),
            ..failure(reason, said)
        })
    }

    fn request(&self, message: &Message) -> Result<Request<Full<Bytes>>, String> {
        let uri: Uri = self.url.0.parse().map_err(|_| "its address cannot be read".to_owned())?;
        let mut request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("vtelector/", env!("CARGO_PKG_VERSION")))
            .header(SEQUENCE, message.sequence)
            .header(ID, &message.id);
        if let Some(signature) = &message.signature {
            request = request.header(SIGNATURE, signature);
        }
        request.body(Full::new(message.body.clone())).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Post for HttpPost {
    async fn post(&self, message: &Message) -> Result<(), Failure> {
        let end = Instant::now() + ANSWERS_WITHIN;
        let late = || Failure {
            reason: "timeout",
            text: format!("{}: no answer within {} s", self.target, ANSWERS_WITHIN.as_secs()),
            is_passing: true,
            retry_after: None,
        };
        timeout_at(end, self.answer(message, end)).await.unwrap_or_else(|_| Err(late()))
    }
}

fn tls(receiver: &Receiver) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| format!("TLS: {error}"))?;
    let Some(pem) = &receiver.ca else {
        if receiver.target.starts_with("http:") {
            return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
        }
        let found = builder.with_native_roots();
        return Ok(found
            .map_err(|error| format!("the system's authorities: {error}; name one as ca_file"))?
            .with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for found in rustls::pki_types::CertificateDer::pem_slice_iter(pem) {
        let certificate = found.map_err(|error| format!("ca_file: {error}"))?;
        roots.add(certificate).map_err(|error| format!("ca_file: {error}"))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The error with its causes, in one line; none of them knows more of the address than the host.
fn chain(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}
