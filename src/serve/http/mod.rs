//! HTTP: what each part of it answers stands in a file of its own; here they are put together.

mod probes;

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::{
    calls::Context,
    door::{Caller, Role, is_from_another_site, is_from_this_machine, other_site},
};

/// Requests that are answered at the same time; more wait in their connections.
const REQUESTS_MAX: usize = 32;

/// What every handler works with.
#[derive(Clone)]
pub struct Face {
    /// What every call works with, whichever face it comes through.
    pub context: Arc<Context>,
}

/// Answers until `closing`.
pub fn serve(listener: TcpListener, context: Arc<Context>, closing: CancellationToken) -> impl Future<Output = ()> + Send {
    let routes = Router::new().merge(probes::routes());
    let routes = routes.layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX)).with_state(Face { context });
    let routes = routes.layer(middleware::from_fn(door)).into_make_service_with_connect_info::<SocketAddr>();
    async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(closing.cancelled_owned()).await {
            tracing::error!(%error, "HTTP ended");
        }
    }
}

/// Tells the handlers who asks.
async fn door(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request, next: Next) -> Response {
    let is_command = !matches!(*request.method(), Method::GET | Method::HEAD);
    if is_command && is_from_another_site(request.headers()) {
        return other_site().into_response();
    }
    let is_here = is_from_this_machine(peer, request.headers(), request.uri().authority().map(|authority| authority.as_str()));
    let caller = Caller::anybody(if is_here { Role::Operator } else { Role::Reader }, peer.ip().to_string());
    request.extensions_mut().insert(caller);
    next.run(request).await
}
