//! HTTP: what each part of it answers stands in a file of its own; here they are put together.

mod guard;
mod probes;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::{Router, body::Body, middleware};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer};

use self::guard::Guard;
use super::{
    calls::Context,
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

/// Headers that take longer, and connections on which nothing is asked for so long, are given up.
const HEADERS_WAIT: Duration = Duration::from_secs(30);
/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// All headers of one request.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// Answers until `closing`, then lets open requests end.
pub fn serve(gate: Gate, door: Arc<Door>, context: Arc<Context>, closing: CancellationToken) -> impl Future<Output = ()> + Send {
    let routes = Router::new().merge(probes::routes());
    let guard = Guard { door, metrics: context.metrics.clone() };
    let routes = routes.layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX)).with_state(Face { context });
    let routes = routes.layer(middleware::from_fn_with_state(guard, guard::guard));
    let (mut arrivals, taking) = gate.open(closing);
    let serving = async move {
        let (mut connections, graceful) = (JoinSet::new(), GracefulShutdown::new());
        while let Some(stream) = arrivals.recv().await {
            while connections.try_join_next().is_some() {}
            connections.spawn(connection(stream, routes.clone(), graceful.watcher()));
        }
        graceful.shutdown().await;
    };
    async move {
        tokio::join!(serving, taking);
    }
}

/// Answers on one connection until one side closes it.
async fn connection(stream: Stream, routes: Router, watcher: Watcher) {
    let peer = stream.peer().clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let routes = routes.clone();
        async move { routes.oneshot(request.map(Body::new)).await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WAIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // How a connection ends is the client's business.
    let _ = watcher.watch(connection).await;
}
