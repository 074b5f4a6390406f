//! Our own API: the calls of `vtelector.Elector` as JSON below `/api/v1`, all of them from one table.

mod document;
mod input;
mod table;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Extension, Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, on},
};
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::json;
use tonic::Code;

use super::Face;
use crate::serve::{
    calls::{Context, Refusal},
    door::{Caller, Denial, Operator, Role},
};
pub use document::document;
use table::{ROUTES, Route};

/// Below this path everything stands.
pub const ROOT: &str = "/api/v1";
/// Largest body of a command, as everywhere over HTTP: names, reasons and a set of GTIDs.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Every route of the table, the document that describes them, and a sentence for everything else.
pub fn routes() -> Router<Face> {
    let mut router = Router::new();
    let mut paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    paths.dedup();
    for path in paths {
        let of_path = ROUTES.iter().filter(|route| route.path == path);
        let allowed: Vec<&str> = of_path.clone().map(|route| route.method.name()).collect();
        let mut methods = MethodRouter::new();
        for route in of_path {
            methods = methods.merge(handler(route));
        }
        router = router.route(&format!("{ROOT}{path}"), methods.fallback(not_allowed(allowed.join(", "))));
    }
    router
        .route(&format!("{ROOT}/openapi.json"), get(openapi).fallback(not_allowed("GET".to_owned())))
        .route(ROOT, get(unknown))
        .route(&format!("{ROOT}/"), get(unknown))
        .route(&format!("{ROOT}/{{*rest}}"), axum::routing::any(unknown))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

fn handler(route: &'static Route) -> MethodRouter<Face> {
    match route.role {
        Role::Reader => on(
            route.method.filter(),
            move |State(face): State<Face>, caller: Option<Extension<Caller>>, path: PathNames, RawQuery(query): RawQuery| async move {
                // Whoever reads is not asked who they are here: the door has let them in.
                let caller = caller.map_or_else(|| Caller::anybody(Role::Reader, ""), |Extension(caller)| caller);
                let asked = names(path).and_then(|path| input::of_query(route, &face.context.schema, &path, query.as_deref()));
                answer(&face.context, route, caller, asked).await
            },
        ),
        Role::Operator => on(
            route.method.filter(),
            move |State(face): State<Face>,
                  operator: Result<Operator, Denial>,
                  RawQuery(query): RawQuery,
                  headers: HeaderMap,
                  body: Result<Bytes, axum::extract::rejection::BytesRejection>| async move {
                let Operator(caller) = match operator {
                    Ok(operator) => operator,
                    Err(denial) => return denied(denial),
                };
                let body = match body {
                    Ok(body) => body,
                    Err(error) => return too_large(&error),
                };
                if !is_json(&headers) {
                    let message = "the body of a command is JSON: say so with Content-Type: application/json";
                    return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT", message);
                }
                let asked = input::of_body(route, &face.context.schema, query.as_deref(), &body);
                answer(&face.context, route, caller, asked).await
            },
        ),
    }
}

type PathNames = Result<Path<Vec<(String, String)>>, PathRejection>;

fn names(path: PathNames) -> Result<Vec<(String, String)>, Refusal> {
    match path {
        Ok(Path(names)) => Ok(names),
        // A path without names.
        Err(PathRejection::MissingPathParams(_)) => Ok(Vec::new()),
        Err(error) => Err(Refusal::invalid(format!("the path cannot be read: {error}"))),
    }
}

async fn answer(context: &Arc<Context>, route: &Route, caller: Caller, asked: Result<Vec<u8>, Refusal>) -> Response {
    let answered = match asked {
        Ok(request) => (route.call)(context.clone(), caller, request).await,
        Err(refusal) => Err(refusal),
    };
    match answered.and_then(|answer| printed(context, route, &answer)) {
        Ok(body) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, body).into_response()
        }
        Err(refusal) => refused(&refusal),
    }
}

/// The proto's names, and what is false, zero or empty as well: a program finds the field.
fn printed(context: &Context, route: &Route, answer: &[u8]) -> Result<Vec<u8>, Refusal> {
    let internal = |error: String| Refusal::new(Code::Internal, format!("the answer cannot be printed: {error}"));
    let kind = context.schema.get_message_by_name(route.response).ok_or_else(|| internal(route.response.to_owned()))?;
    let message = DynamicMessage::decode(kind, answer).map_err(|error| internal(error.to_string()))?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let mut body = Vec::new();
    let mut printer = serde_json::Serializer::new(&mut body);
    message.serialize_with_options(&mut printer, &options).map_err(|error| internal(error.to_string()))?;
    body.push(b'\n');
    Ok(body)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn too_large(error: &axum::extract::rejection::BytesRejection) -> Response {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is too large; {BODY_BYTES_MAX} bytes are taken");
            problem(StatusCode::PAYLOAD_TOO_LARGE, "RESOURCE_EXHAUSTED", &message)
        }
        _ => problem(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", &format!("the body cannot be read: {error}")),
    }
}

fn refused(refusal: &Refusal) -> Response {
    problem(super::status(refusal.code), name(refusal.code), &refusal.message)
}

/// What the door says, in this API's shape.
fn denied(denial: Denial) -> Response {
    let code = match &denial {
        Denial::Unproven { .. } => "UNAUTHENTICATED",
        Denial::Forbidden(_) => "PERMISSION_DENIED",
        Denial::TooMuch(_) => "RESOURCE_EXHAUSTED",
    };
    let message = denial.to_string();
    let (mut said, told) = (denial.into_response().into_parts().0, body(code, &message));
    said.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    said.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(said, told.into())
}

fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body(code, message)).into_response()
}

fn body(code: &str, message: &str) -> String {
    format!("{}\n", json!({"error": {"code": code, "message": message}}))
}

/// The name of a code as gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What answers another method than those of the path.
fn not_allowed(allowed: String) -> impl Fn(Method) -> std::future::Ready<Response> + Clone + Send + Sync + 'static {
    move |method: Method| {
        let shown: String = method.as_str().chars().take(32).collect();
        let message = format!("{shown} is not taken here: use {allowed}");
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "UNIMPLEMENTED", &message);
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        std::future::ready(response)
    }
}

async fn unknown(uri: Uri) -> Response {
    let shown: String = uri.path().chars().take(128).collect();
    let message = format!("{shown} is no path of this API: {ROOT}/openapi.json describes them all");
    problem(StatusCode::NOT_FOUND, "NOT_FOUND", &message)
}

async fn openapi(State(face): State<Face>) -> Response {
    let document = document(&face.context.schema);
    ([(header::CONTENT_TYPE, "application/json")], format!("{document:#}\n")).into_response()
}
