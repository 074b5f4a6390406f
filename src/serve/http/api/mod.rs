//! Our own API: the calls of `vtelector.Elector` as JSON below `/api/v1`, all of them from one table.

mod document;
mod events;
mod input;
mod table;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Extension, Path, RawQuery, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, get, on},
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
use table::{ROUTES, Route, Verb};

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
        .route(&format!("{ROOT}{}", events::PATH), get(events::stream).fallback(not_allowed("GET".to_owned())))
        .route(&format!("{ROOT}/openapi.json"), get(openapi).fallback(not_allowed("GET".to_owned())))
        .route(ROOT, get(unknown))
        .route(&format!("{ROOT}/"), get(unknown))
        .route(&format!("{ROOT}/{{*rest}}"), axum::routing::any(unknown))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// Whether a path is one of this API, so that whatever is refused there is refused in its shape.
pub fn is_below(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn handler(route: &'static Route) -> MethodRouter<Face> {
    match route.method {
        Verb::Get => on(
            MethodFilter::GET,
            move |State(face): State<Face>, asks: Asks, path: PathNames, RawQuery(query): RawQuery| async move {
                let asked = names(path).and_then(|path| input::of_query(route, &face.context.schema, &path, query.as_deref()));
                answer(&face.context, route, reader(asks), asked).await
            },
        ),
        Verb::Post => on(
            MethodFilter::POST,
            move |State(face): State<Face>,
                  operator: Result<Operator, Denial>,
                  asks: Asks,
                  RawQuery(query): RawQuery,
                  headers: HeaderMap,
                  body: Result<Bytes, BytesRejection>| async move {
                let caller = match (operator, route.role) {
                    (Ok(Operator(caller)), _) => caller,
                    (Err(_), Role::Reader) => reader(asks),
                    (Err(denial), Role::Operator) => return denied(denial),
                };
                let body = match body {
                    Ok(body) => body,
                    Err(error) => return unread(&error),
                };
                if !is_json(&headers) {
                    let message = "the body of a command is JSON: say so with Content-Type: application/json";
                    return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message);
                }
                let asked = input::of_body(route, &face.context.schema, query.as_deref(), &body);
                answer(&face.context, route, caller, asked).await
            },
        ),
    }
}

/// Whoever the door has let in.
type Asks = Option<Extension<Caller>>;

/// Whoever asks, as somebody who may look at everything and change nothing.
fn reader(asks: Asks) -> Caller {
    let caller = asks.map_or_else(|| Caller::anybody(Role::Reader, ""), |Extension(caller)| caller);
    Caller { role: Role::Reader, ..caller }
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

fn unread(error: &BytesRejection) -> Response {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is too large; {BODY_BYTES_MAX} bytes are taken");
            problem(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, &message)
        }
        _ => problem(StatusCode::BAD_REQUEST, Code::InvalidArgument, &format!("the body cannot be read: {error}")),
    }
}

fn refused(refusal: &Refusal) -> Response {
    problem(super::status(refusal.code), refusal.code, &refusal.message)
}

/// What the door says, in this API's shape.
pub fn denied(denial: Denial) -> Response {
    let refusal = Refusal::from(denial.clone());
    let (mut head, body) = (denial.into_response().into_parts().0, body(refusal.code, &refusal.message));
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, body.into())
}

/// Why a request was not answered, in this API's shape.
pub fn problem(status: StatusCode, code: Code, message: &str) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body(code, message)).into_response()
}

fn body(code: Code, message: &str) -> String {
    format!("{}\n", json!({"error": {"code": name(code), "message": message}}))
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
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, &message);
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        std::future::ready(response)
    }
}

async fn unknown(uri: Uri) -> Response {
    let shown: String = uri.path().chars().take(128).collect();
    let message = format!("{shown} is no path of this API: {ROOT}/openapi.json describes them all");
    problem(StatusCode::NOT_FOUND, Code::NotFound, &message)
}

async fn openapi(State(face): State<Face>) -> Response {
    let document = document(&face.context.schema);
    ([(header::CONTENT_TYPE, "application/json")], format!("{document:#}\n")).into_response()
}
