//! HTTP: what each part of it answers stands in a file of its own; here they are put together.

pub mod api;
mod guard;
mod page;
mod probes;
mod vtorc;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::StatusCode, middleware};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer};

use self::guard::Guard;
use super::{
    calls::{Context, Limits},
    door::Door,
    listen::{Gate, Stream},
};

/// Requests that are answered at the same time; more wait in their connections.
const REQUESTS_MAX: usize = 32;

/// What every handler works with.
#[derive(Clone)]
pub struct Face {
    /// What every call works with, whichever face it comes through.
    pub context: Arc<Context>,
}

/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// All headers of one request.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// Answers until `closing`, then lets open requests end.
pub fn serve(
    gate: Gate,
    door: Arc<Door>,
    context: Arc<Context>,
    limits: Limits,
    closing: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let routes = Router::new().merge(probes::routes()).merge(vtorc::routes()).merge(api::routes()).merge(page::routes());
    let guard = Guard { door, metrics: context.metrics.clone(), body_wait: limits.body_wait };
    let routes = routes.layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX)).merge(probes::health());
    let routes = routes.with_state(Face { context });
    let routes = routes.layer(middleware::from_fn_with_state(guard, guard::guard));
    let (mut arrivals, taking) = gate.open(closing);
    let serving = async move {
        let (mut connections, graceful) = (JoinSet::new(), GracefulShutdown::new());
        while let Some(stream) = arrivals.recv().await {
            while connections.try_join_next().is_some() {}
            connections.spawn(connection(stream, routes.clone(), limits.headers_wait, graceful.watcher()));
        }
        graceful.shutdown().await;
    };
    async move {
        tokio::join!(serving, taking);
    }
}

/// Answers on one connection until one side closes it.
async fn connection(stream: Stream, routes: Router, headers_wait: Duration, watcher: Watcher) {
    let peer = stream.peer().clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let routes = routes.clone();
        async move { routes.oneshot(request.map(Body::new)).await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers_wait)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // How a connection ends is the client's business.
    let _ = watcher.watch(connection).await;
}

/// The status that says what a refusal's code says.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
