//! What stands around every HTTP request: who asks, how much they may send and in which time, and a net under panics.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;
use tonic::Code;

use super::api;
use crate::{
    metrics::Metrics,
    serve::door::{Caller, Denial, Door, Entrance, Peer, Role, is_from_another_site, is_open_path, other_site},
};

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a question may take until its answer begins. A stream of events is an answer that has begun.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// What the guard works with.
#[derive(Clone)]
pub struct Guard {
    /// Who may come in.
    pub door: Arc<Door>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// How long a body may take to come.
    pub body_wait: Duration,
}

/// Lets in whoever may come in, with their name in the request, and answers for what goes wrong.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let answer = match AssertUnwindSafe(guard.pass(request, next)).catch_unwind().await {
        Ok(answer) => answer,
        Err(_) => {
            tracing::error!(path, "a request ended in a panic; its message is above, please report it");
            let words = "internal error: the request ended in a panic; the server's log has its message";
            Err(Stop::Failed(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, words))
        }
    };
    let mut response = answer.unwrap_or_else(|stop| stop.response(&guard.metrics, api::is_below(&path)));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Why a request went no further.
enum Stop {
    Denied(Denial),
    Failed(StatusCode, Code, &'static str),
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl Stop {
    /// Programs that ask the API find the same shape whoever refuses.
    fn response(self, metrics: &Metrics, is_api: bool) -> Response {
        if let Self::Denied(denial) = &self {
            metrics.security.denied(Entrance::Http.name(), denial.reason());
        }
        match self {
            Self::Denied(denial) if is_api => api::denied(denial),
            Self::Denied(denial) => denial.into_response(),
            Self::Failed(status, code, words) if is_api => api::problem(status, code, words),
            Self::Failed(status, _, words) => (status, format!("{words}\n")).into_response(),
        }
    }
}

impl Guard {
    async fn pass(&self, mut request: Request, next: Next) -> Result<Response, Stop> {
        let peer = request.extensions().get::<Peer>().cloned();
        self.door.has_room(Entrance::Http, peer.as_ref())?;
        let is_question = matches!(*request.method(), Method::GET | Method::HEAD);
        let caller = match is_open_path(request.uri().path()) && is_question {
            true => Caller::anybody(Role::Reader, String::new()),
            false => {
                let authority = request.uri().authority().map(|authority| authority.as_str());
                self.door.admit(Entrance::Http, peer.as_ref(), request.headers(), authority).await?
            }
        };
        if !is_question && is_from_another_site(request.headers()) {
            return Err(other_site().into());
        }
        request.extensions_mut().insert(caller);
        let request = whole(request, self.body_wait).await?;
        match is_question {
            // What a command has begun is not given up because it takes long.
            false => Ok(next.run(request).await),
            true => timeout(ANSWER_WAIT, next.run(request))
                .await
                .map_err(|_| Stop::Failed(StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "no answer in time; try again")),
        }
    }
}

/// The request with its whole body: handlers never wait for a slow client.
async fn whole(request: Request, wait: Duration) -> Result<Request, Stop> {
    let (parts, body) = request.into_parts();
    let words = "the body is too large; 64 KiB are taken";
    let too_large = || Stop::Failed(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, words);
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let body: Bytes = match timeout(wait, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => {
            return Err(Stop::Failed(StatusCode::BAD_REQUEST, Code::InvalidArgument, "the body ended before its end"));
        }
        Err(_) => {
            return Err(Stop::Failed(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "the body did not come in time"));
        }
    };
    Ok(Request::from_parts(parts, Body::from(body)))
}
