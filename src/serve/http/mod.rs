//! HTTP: what each part of it answers stands in a file of its own; here they are put together.

mod events;
mod probes;

use std::{future::Future, sync::Arc};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::calls::Context;

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
    let routes = Router::new().merge(probes::routes()).merge(events::routes());
    let routes = routes.layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX)).with_state(Face { context });
    async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(closing.cancelled_owned()).await {
            tracing::error!(%error, "HTTP ended");
        }
    }
}
