//! VTOrc's own paths: what its scripts, dashboards and health checks ask, in its shapes. What is told is told of the shards of all electors.

mod analysis;
mod instance;
mod shard;
mod vars;

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::Face;
use crate::{
    pb::vtelector::{HistoryRequest, ProblemsRequest, SetRecoveriesRequest, TabletsRequest, TabletsResponse},
    serve::{
        calls::{Context, Refusal, board, ledger, states},
        door::Operator,
    },
};
use analysis::analyses;
use instance::{Instance, Limits};
use shard::by_shard;

/// Recoveries on the status page.
const SHOWN_MAX: u32 = 100;
/// Longest wait for the topology in a health check.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);

/// Everything that VTOrc answers, and a sentence where we do not.
pub fn routes() -> Router<Face> {
    Router::new()
        .route("/api/problems", get(problems))
        .route("/api/errant-gtids", get(errant_gtids))
        .route("/api/detection-analysis", get(detection_analysis))
        .route("/api/disable-global-recoveries", get(disable).post(disable))
        .route("/api/enable-global-recoveries", get(enable).post(enable))
        .route("/api/config", get(config))
        .route("/api/database-state", get(no_database))
        .route("/debug/health", get(health))
        .route("/debug/status", get(status))
        .route("/debug/vars", get(vars))
        .route("/debug/pprof", get(no_pprof))
        .route("/debug/pprof/{*what}", get(no_pprof))
}

/// VTOrc's filters; what it does not know it ignores.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Filters {
    keyspace: String,
    shard: String,
}

type Asked = Result<Query<Filters>, QueryRejection>;

/// Why there is no list.
struct NoList(StatusCode, String);

impl IntoResponse for NoList {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl Filters {
    fn of(asked: Asked) -> Result<Self, NoList> {
        let Query(filters) = asked.map_err(|error| NoList(StatusCode::BAD_REQUEST, error.to_string()))?;
        if filters.keyspace.is_empty() && !filters.shard.is_empty() {
            return Err(NoList(StatusCode::BAD_REQUEST, "shard without keyspace: give keyspace=NAME as well".to_owned()));
        }
        Ok(filters)
    }
}

async fn problems(State(face): State<Face>, asked: Asked) -> Response {
    instances(&face.context, asked, |instance| !instance.problems.is_empty()).await.into_response()
}

async fn errant_gtids(State(face): State<Face>, asked: Asked) -> Response {
    instances(&face.context, asked, |instance| !instance.gtid_errant.is_empty()).await.into_response()
}

async fn instances(context: &Context, asked: Asked, wanted: impl Fn(&Instance) -> bool) -> Result<Response, NoList> {
    let filters = Filters::of(asked)?;
    let (tablets, limits) = (troubled(context, &filters).await?, limits(context));
    let shards = by_shard(&tablets.tablets);
    let all = shards.values().flat_map(|shard| shard.tablets.iter().map(|tablet| Instance::of(tablet, shard, limits)));
    let mut instances: Vec<Instance> = all.filter(wanted).collect();
    instances.sort_by(|one, other| one.instance_alias.cmp(&other.instance_alias));
    Ok(list(&instances))
}

async fn detection_analysis(State(face): State<Face>, asked: Asked) -> Response {
    let answer = async {
        let filters = Filters::of(asked)?;
        let context = &face.context;
        let request = ProblemsRequest { keyspace: filters.keyspace.clone(), shard: filters.shard.clone(), only_mine: false };
        let (tablets, problems) = tokio::join!(troubled(context, &filters), board::problems(context, request));
        let (tablets, problems) = (tablets?, problems.or_else(|refusal| nothing_there(refusal, Default::default))?);
        let declared = context.declared();
        let shards = by_shard(&tablets.tablets);
        Ok::<_, NoList>(list(&analyses(&shards, &problems.problems, declared.as_deref(), limits(context))))
    };
    answer.await.into_response()
}

/// The tablets of shards where something is wrong. Of a keyspace that does not exist there are none, as in VTOrc.
async fn troubled(context: &Context, filters: &Filters) -> Result<TabletsResponse, NoList> {
    let (keyspace, shard) = (filters.keyspace.clone(), filters.shard.clone());
    let request = TabletsRequest { keyspace, shard, only_troubled: true, only_mine: false };
    states::tablets(context, request).await.or_else(|refusal| nothing_there(refusal, Default::default))
}

fn nothing_there<T>(refusal: Refusal, nothing: impl FnOnce() -> T) -> Result<T, NoList> {
    match refusal.code {
        Code::NotFound => Ok(nothing()),
        Code::InvalidArgument => Err(NoList(StatusCode::BAD_REQUEST, refusal.message)),
        _ => Err(NoList(StatusCode::INTERNAL_SERVER_ERROR, refusal.message)),
    }
}

fn limits(context: &Context) -> Limits {
    Limits { now: Timestamp::now(), poll: context.instance_poll_time, lag: context.reasonable_lag() }
}

/// Switches recoveries off on all electors. VTOrc takes it as a GET; so do we, from operators only.
async fn disable(State(face): State<Face>, operator: Operator) -> Response {
    switch(&face, operator, false).await
}

async fn enable(State(face): State<Face>, operator: Operator) -> Response {
    switch(&face, operator, true).await
}

async fn switch(face: &Face, Operator(caller): Operator, enabled: bool) -> Response {
    let path = if enabled { "/api/enable-global-recoveries" } else { "/api/disable-global-recoveries" };
    let who = format!("somebody at {}", caller.from);
    let request = SetRecoveriesRequest { enabled, who, why: format!("asked for over HTTP: {path}") };
    match ledger::set_recoveries(&face.context, &caller, request).await {
        Ok(_) => {
            let state = if enabled { "enabled" } else { "disabled" };
            text(format!("Global recoveries {state} (on all electors, until they are switched again)\n"))
        }
        Err(refusal) => (super::status(refusal.code), format!("{refusal}\n")).into_response(),
    }
}

/// The value of every flag that is in force, by name.
async fn config(State(face): State<Face>) -> Response {
    let effective = face.context.effective();
    match pretty(&*effective, b"\t") {
        Ok(body) => text(body + "\n"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn no_database() -> Response {
    let message = "vtelector has no SQLite database to dump; see /api/v1/tablets, /api/v1/problems and /api/v1/history\n";
    (StatusCode::NOT_FOUND, message).into_response()
}

async fn no_pprof() -> Response {
    let message = "vtelector is no Go program and has no pprof; profile it with perf\n";
    (StatusCode::NOT_FOUND, message).into_response()
}

/// VTOrc's health with our reason: 500 until everything was looked at once, and while the topology cannot be read.
async fn health(State(face): State<Face>) -> Response {
    let context = &face.context;
    let cells = async { tokio::time::timeout(HEALTH_LIMIT, context.topo.cells()).await };
    let reason = match context.not_ready() {
        _ if context.stopping.is_cancelled() => Some("stopping".to_owned()),
        Some(reason) => Some(reason),
        None => match cells.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("the topology gave no answer within {HEALTH_LIMIT:?}")),
        },
    };
    let mut health = serde_json::json!({"Healthy": reason.is_none(), "LastReported": Timestamp::now().to_string()});
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if let (Some(reason), Some(fields)) = (reason, health.as_object_mut()) {
        fields.insert("Reason".to_owned(), reason.into());
    }
    (code, json(&health)).into_response()
}

/// Who we are, and the last recoveries of all electors.
async fn status(State(face): State<Face>) -> Response {
    let request = HistoryRequest { limit: SHOWN_MAX, ..HistoryRequest::default() };
    let (recoveries, unread) = match ledger::history(&face.context, request).await {
        Ok(answer) => (answer.recoveries, answer.unread),
        Err(refusal) => (Vec::new(), refusal.to_string()),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>vtelector {who}</title></head><body>\n\
         <h1>vtelector {who}</h1>\n<p>Release {release}. <a href=\"/\">All shards</a>.</p>\n<h2>Recent Recoveries</h2>\n",
        who = escaped(face.context.who()),
        release = env!("CARGO_PKG_VERSION"),
    );
    if !unread.is_empty() {
        let _ = writeln!(page, "<p>This may not be all: {}</p>", escaped(&unread));
    }
    page.push_str(
        "<table border=\"1\">\n<tr><th>Recovery ID</th><th>Failure Type</th><th>Tablet Alias</th><th>Timestamp</th>\
         <th>Shard</th><th>Outcome</th></tr>\n",
    );
    for recovery in &recoveries {
        let at = recovery.at.and_then(|at| Timestamp::new(at.seconds, at.nanoseconds).ok());
        let alias = recovery.old.as_ref().map(|old| format!("{}-{:010}", old.cell, old.uid)).unwrap_or_default();
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            // A recovery is known by when it ended: VTOrc's number is one process's own.
            at.map(|at| at.as_millisecond()).unwrap_or_default(),
            escaped(&recovery.code),
            escaped(&alias),
            at.map(|at| at.to_string()).unwrap_or_default(),
            escaped(&format!("{}/{}", recovery.keyspace, recovery.shard)),
            escaped(&recovery.outcome),
        );
    }
    page.push_str("</table>\n</body></html>\n");
    let policy = "default-src 'none'; style-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)], page).into_response()
}

async fn vars(State(face): State<Face>) -> Response {
    let vars: BTreeMap<String, serde_json::Value> = vars::vars(&face.context.metrics.gathered());
    json(&vars)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn text(body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, body).into_response()
}

/// A list as Go prints it: an empty one is `null`.
fn list<T: Serialize>(items: &[T]) -> Response {
    json(&(!items.is_empty()).then_some(items))
}

fn json(value: &impl Serialize) -> Response {
    // By way of a value: VTOrc's fields stand in the order of their names.
    let printed = serde_json::to_value(value).and_then(|value| pretty(&value, b" "));
    match printed {
        Ok(body) => {
            // As Go does, so that no browser takes a name for markup.
            let body = body.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
            ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn pretty(value: &impl Serialize, indent: &[u8]) -> Result<String, serde_json::Error> {
    let mut body = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut body, formatter))?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}
