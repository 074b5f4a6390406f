//! HTTP: metrics for Prometheus, health for supervisors and load balancers.

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::{Parts, Readiness};

/// Requests that are answered at the same time; more wait in their connections.
const REQUESTS_MAX: usize = 32;

#[derive(Clone)]
struct Face {
    parts: Arc<Parts>,
    ready: Readiness,
    stopping: CancellationToken,
}

/// Answers until `closing`; from `stopping` on, health says so.
pub fn serve(
    listener: TcpListener,
    parts: Parts,
    ready: Readiness,
    stopping: CancellationToken,
    closing: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(alive))
        .route("/readyz", get(prepared))
        .route("/healthz", get(alive))
        .route("/debug/liveness", get(alive))
        .route("/debug/health", get(health))
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX))
        .with_state(Face { parts: Arc::new(parts), ready, stopping });
    async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(closing.cancelled_owned()).await {
            tracing::error!(%error, "HTTP ended");
        }
    }
}

async fn metrics(State(face): State<Face>) -> Response {
    match face.parts.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be printed: {error}\n")).into_response(),
    }
}

/// The process answers and is not about to end. Says nothing about etcd: restarting us would not mend it.
async fn alive(State(face): State<Face>) -> Response {
    match face.stopping.is_cancelled() {
        false => "ok\n".into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

/// Whether this process has seen enough to decide: the ledger, the topology, and every tablet of its shards once.
async fn prepared(State(face): State<Face>) -> Response {
    let why_not = match face.stopping.is_cancelled() {
        true => Some("stopping".to_owned()),
        false => (face.ready)(),
    };
    match why_not {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// As in VTOrc: 200 when the topology can be read, 500 otherwise.
async fn health(State(face): State<Face>) -> Response {
    let (code, body) = match face.parts.hands.topo.cells().await {
        _ if face.stopping.is_cancelled() => {
            (StatusCode::INTERNAL_SERVER_ERROR, serde_json::json!({"Healthy": false, "Reason": "stopping"}))
        }
        Ok(cells) => (StatusCode::OK, serde_json::json!({"Healthy": true, "Cells": cells})),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, serde_json::json!({"Healthy": false, "Reason": error.to_string()})),
    };
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
