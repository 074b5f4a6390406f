//! HTTP: what each part of it answers stands in a file of its own; here they are put together.

pub mod api;
mod events;
mod page;
mod probes;
mod vtorc;

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
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
    let routes = Router::new()
        .merge(probes::routes())
        .merge(vtorc::routes())
        .merge(api::routes())
        .merge(page::routes())
        .merge(events::routes());
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
