//! What Prometheus, supervisors and load balancers ask.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::Face;

/// Metrics.
pub fn routes() -> Router<Face> {
    Router::new().route("/metrics", get(metrics))
}

/// Health, which is told however much else is asked: whoever waits for it would end a process that works.
pub fn health() -> Router<Face> {
    Router::new()
        .route("/livez", get(alive))
        .route("/readyz", get(prepared))
        .route("/healthz", get(alive))
        .route("/debug/liveness", get(alive))
}

async fn metrics(State(face): State<Face>) -> Response {
    match face.context.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be printed: {error}\n")).into_response(),
    }
}

/// The process answers and is not about to end. Says nothing about etcd: restarting us would not mend it.
async fn alive(State(face): State<Face>) -> Response {
    match face.context.stopping.is_cancelled() {
        false => "ok\n".into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

/// Whether this process has seen enough to decide: the ledger, the topology, and every tablet of its shards once.
async fn prepared(State(face): State<Face>) -> Response {
    let why_not = match face.context.stopping.is_cancelled() {
        true => Some("stopping".to_owned()),
        false => face.context.not_ready(),
    };
    match why_not {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
