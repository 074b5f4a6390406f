//! Answers: the frame around a page, its headers, and what is said when there is no page.

use std::time::SystemTime;

use askama::Template;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tonic::Code;

use super::{
    assets::{ASSETS, Assets},
    said::Said,
    text, words,
};
use crate::serve::{
    calls::Refusal,
    door::{Caller, Role},
};

/// Nothing from outside, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The pages that every page links to.
const PAGES: [(&str, &str); 6] = [
    ("/", "Shards"),
    ("/activity", "Activity"),
    ("/errant", "Errant GTIDs"),
    ("/maintenance", "Maintenance"),
    ("/problems", "Problem codes"),
    ("/runbook", "Runbook"),
];

/// Everything around a page.
#[derive(Template)]
#[template(path = "frame.html")]
pub struct Frame<'a> {
    title: &'a str,
    assets: &'a Assets,
    pages: &'a [(&'a str, &'a str)],
    section: &'a str,
    here: &'a str,
    live: &'a str,
    caller: String,
    as_of: String,
    said: Option<Said>,
    before: String,
    body: String,
    after: String,
}

impl<'a> Frame<'a> {
    /// A frame for whoever asks, around nothing yet.
    pub fn new(title: &'a str, section: &'a str, caller: &Caller) -> Self {
        let role = match caller.role {
            Role::Operator => "operator",
            Role::Reader => "reader",
        };
        Self {
            title,
            assets: &ASSETS,
            pages: &PAGES,
            section,
            here: "",
            live: "",
            caller: caller.name.as_deref().map_or(role.to_owned(), |name| format!("{}, {role}", text::name(name))),
            as_of: words::now(SystemTime::now()),
            said: None,
            before: String::new(),
            body: String::new(),
            after: String::new(),
        }
    }

    /// The page's own address, and where it hears that it has changed.
    pub fn live(self, here: &'a str, live: &'a str) -> Self {
        Self { here, live, ..self }
    }

    /// How the command went that led here.
    pub fn said(self, said: Option<Said>) -> Self {
        Self { said, ..self }
    }

    /// What stands before the parts that change, and after them.
    pub fn around(self, before: String, after: String) -> Self {
        Self { before, after, ..self }
    }

    /// The frame around a page.
    pub fn rendered(self, body: String) -> askama::Result<String> {
        Self { body, ..self }.render()
    }

    /// The page itself.
    pub fn answer(self, status: StatusCode, body: askama::Result<String>) -> Response {
        match body.and_then(|body| self.rendered(body)) {
            Ok(page) => html(status, page),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("the page cannot be made: {error}\n")),
        }
    }
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    title: &'a str,
    words: &'a str,
    back: (&'a str, &'a str),
}

/// A page that says why there is none, with the way back.
pub fn refused(caller: &Caller, refusal: &Refusal, back: (&str, &str)) -> Response {
    let (status, title) = status(refusal.code);
    let words = text::short(&refusal.message, 4000);
    Frame::new(title, "", caller).answer(status, Message { title, words: &words, back }.render())
}

/// A page with its headers.
pub fn html(status: StatusCode, page: String) -> Response {
    with_headers((status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response())
}

fn plain(status: StatusCode, words: String) -> Response {
    with_headers((status, words).into_response())
}

/// What every answer but an asset bears: what stands on a page is old a second later, and nobody else's.
pub fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let all: [(HeaderName, &str); 5] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not no-referrer: with that a browser hides from the door that a form is our own.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The HTTP status of a refusal, and what it is called.
fn status(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument | Code::OutOfRange => (StatusCode::BAD_REQUEST, "That cannot be meant"),
        Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => (StatusCode::CONFLICT, "Refused"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "Not allowed"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "Who asks?"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "Too much at once"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Not now"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "It took too long"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "Not implemented"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "It failed"),
    }
}
