//! The page: what operators see and do in a browser. It shows messages of `proto/vtelector.proto` as the calls answer them, and decides
//! nothing. Everything works without JavaScript; with it, an open page follows what happens.

mod assets;
mod live;
mod notices;
mod overview;
mod parts;
mod renderer;
mod respond;
mod text;
mod words;

use std::{collections::BTreeSet, sync::Arc};

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tonic::Code;

use self::{
    overview::Filter,
    renderer::{Renderer, View},
    respond::Frame,
};
use super::Face;
use crate::serve::{
    calls::Refusal,
    door::{Caller, Role},
};

/// Longest text of a search, in bytes.
const SEARCH_BYTES_MAX: usize = 200;

/// What all pages share.
struct Pages {
    renderer: Renderer,
    readers: Arc<Semaphore>,
}

/// Every page and what it loads.
pub fn routes() -> Router<Face> {
    let pages = Arc::new(Pages { renderer: Renderer::default(), readers: Arc::new(Semaphore::new(live::READERS_MAX)) });
    Router::new()
        .route("/", get(overview))
        .route("/live", get(live_overview))
        .route("/page/{file}", get(assets::asset))
        .method_not_allowed_fallback(not_taken)
        .fallback(not_found)
        .layer(Extension(pages))
}

/// Whoever asks. Somebody who has not come through the door may look.
#[derive(Clone)]
struct Visitor(Caller);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        let caller = parts.extensions.get::<Caller>().cloned();
        Ok(Self(caller.unwrap_or_else(|| Caller::anybody(Role::Reader, ""))))
    }
}

impl Visitor {
    fn may_act(&self) -> bool {
        self.0.role >= Role::Operator
    }
}

/// Which parts of a page are asked for: `*` = all.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    parts: String,
}

/// What can be asked of the overview.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    keyspace: String,
    #[serde(default)]
    text: String,
    problems: Option<String>,
}

impl TryFrom<Asked> for Filter {
    type Error = Refusal;

    fn try_from(asked: Asked) -> Result<Self, Refusal> {
        let problems = match asked.problems.as_deref() {
            None | Some("0" | "false") => false,
            Some("" | "1" | "on" | "true") => true,
            Some(other) => {
                let other = text::name(other);
                return Err(Refusal::invalid(format!("problems: {other:?} is neither 1 nor 0")));
            }
        };
        let text = asked.text.trim();
        for (field, given) in [("text", text), ("keyspace", &asked.keyspace)] {
            if given.len() > SEARCH_BYTES_MAX {
                let bytes = given.len();
                return Err(Refusal::invalid(format!("{field}: {bytes} bytes are too many; {SEARCH_BYTES_MAX} are taken")));
            }
        }
        Ok(Self { text: text.to_owned(), keyspace: asked.keyspace, problems })
    }
}

/// A query that can be read.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    query.map(|Query(asked)| asked).map_err(|wrong| Refusal::invalid(format!("the query of the address: {}", wrong.body_text())))
}

#[derive(Template)]
#[template(path = "filter.html")]
struct FilterForm<'a> {
    filter: &'a Filter,
    is_set: bool,
}

/// A page that follows what happens, or the parts of it that are asked for.
struct Shown<'a> {
    face: &'a Face,
    pages: &'a Arc<Pages>,
    visitor: &'a Visitor,
    uri: &'a Uri,
    wanted: Wanted,
    /// The page that the navigation marks.
    section: &'a str,
}

impl Shown<'_> {
    async fn answer(self, view: &View, before: askama::Result<String>) -> Result<Response, Refusal> {
        let made = self.pages.renderer.page(&self.face.context, view, self.visitor.may_act()).await?;
        if !self.wanted.parts.is_empty() {
            let wanted: BTreeSet<&str> = self.wanted.parts.split(',').collect();
            let parts = made.parts((!wanted.contains("*")).then_some(&wanted)).render().map_err(unmade)?;
            return Ok(respond::html(StatusCode::OK, parts));
        }
        let here = self.uri.path_and_query().map_or("/", |here| here.as_str());
        let live = if here.starts_with("/?") || here == "/" { format!("/live{}", &here[1..]) } else { format!("/live{here}") };
        let frame = Frame::new(&made.title, self.section, &self.visitor.0).live(here, &live);
        let frame = frame.around(before.map_err(unmade)?, String::new());
        Ok(frame.answer(StatusCode::OK, made.parts(None).render()))
    }
}

fn unmade(error: askama::Error) -> Refusal {
    Refusal::new(Code::Internal, format!("the page cannot be made: {error}"))
}

async fn overview(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    uri: Uri,
    asked: Result<Query<Asked>, QueryRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let answer = async {
        let (filter, wanted) = (Filter::try_from(query(asked)?)?, query(wanted)?);
        let form = FilterForm { filter: &filter, is_set: filter != Filter::default() }.render();
        let shown = Shown { face: &face, pages: &pages, visitor: &visitor, uri: &uri, wanted, section: "/" };
        shown.answer(&View::Overview(filter), form).await
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/", "All shards")))
}

async fn live_overview(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let filter = query(asked).and_then(Filter::try_from);
    let stream = filter.and_then(|filter| live::stream(face.context, pages, View::Overview(filter), visitor.may_act()));
    stream.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/", "All shards")))
}

/// A program is answered in plain words, a browser with a page.
async fn not_found(visitor: Visitor, uri: Uri, headers: HeaderMap) -> Response {
    let words = format!("{} is no page of this elector", text::name(uri.path()));
    if is_program(&headers) {
        return respond::with_headers((StatusCode::NOT_FOUND, format!("{words}\n")).into_response());
    }
    respond::refused(&visitor.0, &Refusal::new(Code::NotFound, words), ("/", "All shards"))
}

async fn not_taken(method: http::Method, uri: Uri) -> Response {
    let words = format!("{} cannot be asked with {method}\n", text::name(uri.path()));
    respond::with_headers((StatusCode::METHOD_NOT_ALLOWED, words).into_response())
}

fn is_program(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    !accept.contains("text/html")
}
