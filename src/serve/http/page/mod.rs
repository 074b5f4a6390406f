//! The page: what operators see and do in a browser. It shows messages of `proto/vtelector.proto` as the calls answer them, and decides
//! nothing. Everything works without JavaScript; with it, an open page follows what happens.

mod actions;
mod assets;
mod document;
mod facts;
mod form;
mod lists;
mod live;
mod notices;
mod overview;
mod parts;
mod renderer;
mod respond;
mod said;
mod shard;
#[cfg(test)]
mod tests;
mod text;
mod timeline;
mod words;

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use askama::Template;
use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tonic::Code;

use self::{
    overview::Filter,
    parts::Part,
    renderer::{Renderer, View},
    respond::Frame,
    said::Sentences,
};
use super::Face;
use crate::{
    pb::vtelector::ExplainRequest,
    serve::{
        calls::{self, Refusal},
        door::{Caller, Role},
    },
};

/// Longest text of a search, in bytes.
const SEARCH_BYTES_MAX: usize = 200;

/// Longest form that is taken: two texts of a thousand characters, each written as up to nine.
const FORM_BYTES_MAX: usize = 32 << 10;

/// What all pages share.
struct Pages {
    renderer: Renderer,
    readers: Arc<Semaphore>,
    said: Sentences,
}

/// Every page and what it loads.
pub fn routes() -> Router<Face> {
    let pages = Arc::new(Pages {
        renderer: Renderer::default(),
        readers: Arc::new(Semaphore::new(live::READERS_MAX)),
        said: Sentences::default(),
    });
    Router::new()
        .route("/", get(overview))
        .route("/shards/{keyspace}/{shard}", get(one_shard))
        .route("/shards/{keyspace}/{shard}/reparent", get(actions::reparent_form).post(actions::reparent))
        .route("/shards/{keyspace}/{shard}/acknowledge", get(actions::acknowledge_form).post(actions::acknowledge))
        .route("/errant", get(errant))
        .route("/activity", get(activity))
        .route("/maintenance", get(actions::maintenance_page).post(actions::begin_maintenance))
        .route("/maintenance/end", post(actions::end_maintenance))
        .route("/recoveries", get(actions::recoveries_page).post(actions::set_recoveries))
        .route("/problems", get(problems))
        .route("/runbook", get(runbook))
        // Where alerts link to when their vtelector_docs is an elector.
        .route("/runbook.md", get(async || respond::with_headers(Redirect::permanent("/runbook").into_response())))
        .route("/live", get(live_overview))
        .route("/live/shards/{keyspace}/{shard}", get(live_shard))
        .route("/live/errant", get(live_errant))
        .route("/live/activity", get(live_activity))
        .route("/page/{file}", get(assets::asset))
        .method_not_allowed_fallback(not_taken)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(middleware::from_fn(shown_at_once))
        .layer(Extension(pages))
}

/// Whoever gives a command sees at once what it has changed.
async fn shown_at_once(Extension(pages): Extension<Arc<Pages>>, request: Request, next: Next) -> Response {
    let is_command = request.method() == Method::POST;
    let response = next.run(request).await;
    if is_command {
        pages.renderer.commanded();
    }
    response
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

/// What can be asked of a page: its parts, `*` = all, or all of it with its frame.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    parts: String,
    /// The number of a sentence that says how a command went.
    said: Option<u64>,
    /// Of a shard: also what would happen if its primary died now.
    foretell: Option<String>,
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
#[derive(Clone, Copy)]
struct Shown<'a> {
    face: &'a Face,
    pages: &'a Arc<Pages>,
    visitor: &'a Visitor,
    uri: &'a Uri,
    /// The page that the navigation marks.
    section: &'a str,
}

impl Shown<'_> {
    async fn answer(self, view: &View, asked: &Wanted, before: askama::Result<String>) -> Result<Response, Refusal> {
        let made = self.pages.renderer.page(&self.face.context, view, self.visitor.may_act()).await?;
        if !asked.parts.is_empty() {
            let wanted: BTreeSet<&str> = asked.parts.split(',').collect();
            let parts = made.parts((!wanted.contains("*")).then_some(&wanted)).render().map_err(unmade)?;
            return Ok(respond::html(StatusCode::OK, parts));
        }
        let here = self.uri.path_and_query().map_or("/", |here| here.as_str());
        let live = format!("/live{}", if self.uri.path() == "/" { &here[1..] } else { here });
        let said = asked.said.and_then(|number| self.pages.said.find(number));
        let frame = Frame::new(&made.title, self.section, &self.visitor.0).live(here, &live).said(said);
        Ok(frame.around(before.map_err(unmade)?, String::new()).answer(StatusCode::OK, made.parts(None).render()))
    }

    /// A page of which nothing but its parts can be asked.
    async fn list(self, view: &View, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
        let answer = async { self.answer(view, &query(wanted)?, Ok(String::new())).await };
        answer.await.unwrap_or_else(|refusal| self.refused(&refusal))
    }

    fn refused(self, refusal: &Refusal) -> Response {
        respond::refused(&self.visitor.0, refusal, ("/", "All shards"))
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
    let shown = Shown { face: &face, pages: &pages, visitor: &visitor, uri: &uri, section: "/" };
    let answer = async {
        let (filter, wanted) = (Filter::try_from(query(asked)?)?, query(wanted)?);
        let form = FilterForm { filter: &filter, is_set: filter != Filter::default() }.render();
        shown.answer(&View::Overview(filter), &wanted, form).await
    };
    answer.await.unwrap_or_else(|refusal| shown.refused(&refusal))
}

#[derive(Template)]
#[template(path = "crumbs.html")]
struct Crumbs<'a> {
    keyspace: &'a str,
    url: String,
}

async fn one_shard(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    uri: Uri,
    Path((keyspace, shard)): Path<(String, String)>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let shown = Shown { face: &face, pages: &pages, visitor: &visitor, uri: &uri, section: "/" };
    let answer = async {
        let wanted = query(wanted)?;
        let crumbs = Crumbs { keyspace: &text::name(&keyspace), url: text::in_url(&keyspace) }.render();
        if wanted.foretell.is_some() {
            return foretold(shown, keyspace.clone(), shard.clone(), crumbs).await;
        }
        shown.answer(&View::Shard { keyspace, shard }, &wanted, crumbs).await
    };
    answer.await.unwrap_or_else(|refusal| shown.refused(&refusal))
}

/// The shard as it is now, and what would happen if its primary died. It asks every tablet, so it is made when somebody asks for it, and
/// stays as it was.
async fn foretold(
    shown: Shown<'_>,
    keyspace: String,
    shard: String,
    crumbs: askama::Result<String>,
) -> Result<Response, Refusal> {
    let link = Foretelling { shard: format!("/shards/{}/{}", text::in_url(&keyspace), text::in_url(&shard)) };
    let request = ExplainRequest { keyspace, shard, foretell: true, ..ExplainRequest::default() };
    let told = calls::explain::explain(&shown.face.context, request).await?;
    let mut body = shard::body(&told, SystemTime::now(), shown.visitor.may_act()).map_err(unmade)?;
    let foretold = told.foretold.unwrap_or_default();
    let foretold = shard::foretold("What an emergency reparent would do now", &foretold);
    // After what is wrong and what is done about it.
    let place = body.parts.iter().position(|part| part.id == "tablets").unwrap_or_default();
    body.parts.insert(place, Part::new("foretold", &foretold).map_err(unmade)?);
    let before = crumbs.map_err(unmade)? + &link.render().map_err(unmade)?;
    let frame = Frame::new(&body.title, shown.section, &shown.visitor.0).around(before, String::new());
    Ok(frame.answer(StatusCode::OK, body.parts(None).render()))
}

#[derive(Template)]
#[template(
    source = "<p class=\"rest\">This page stays as it is. <a href=\"{{ shard }}\">The shard as it changes</a></p>",
    ext = "html"
)]
struct Foretelling {
    shard: String,
}

async fn errant(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    uri: Uri,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let shown = Shown { face: &face, pages: &pages, visitor: &visitor, uri: &uri, section: "/errant" };
    shown.list(&View::Errant, wanted).await
}

async fn activity(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    uri: Uri,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let shown = Shown { face: &face, pages: &pages, visitor: &visitor, uri: &uri, section: "/activity" };
    shown.list(&View::Activity, wanted).await
}

async fn problems(visitor: Visitor) -> Response {
    Frame::new("Problem codes", "/problems", &visitor.0).answer(StatusCode::OK, Ok(document::PROBLEMS.clone()))
}

async fn runbook(visitor: Visitor) -> Response {
    Frame::new("Runbook", "/runbook", &visitor.0).answer(StatusCode::OK, Ok(document::RUNBOOK.clone()))
}

fn follow(face: Face, pages: Arc<Pages>, visitor: &Visitor, view: Result<View, Refusal>) -> Response {
    let stream = view.and_then(|view| live::stream(face.context, pages, view, visitor.may_act()));
    stream.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/", "All shards")))
}

async fn live_overview(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    follow(face, pages, &visitor, query(asked).and_then(Filter::try_from).map(View::Overview))
}

async fn live_shard(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    Path((keyspace, shard)): Path<(String, String)>,
) -> Response {
    follow(face, pages, &visitor, Ok(View::Shard { keyspace, shard }))
}

async fn live_errant(State(face): State<Face>, Extension(pages): Extension<Arc<Pages>>, visitor: Visitor) -> Response {
    follow(face, pages, &visitor, Ok(View::Errant))
}

async fn live_activity(State(face): State<Face>, Extension(pages): Extension<Arc<Pages>>, visitor: Visitor) -> Response {
    follow(face, pages, &visitor, Ok(View::Activity))
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
