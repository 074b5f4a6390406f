//! What an operator does: forms, previews, and commands. Each command is a form that is sent, and leads to a page that says how it went.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{
        Path, Query, State,
        rejection::{FormRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use std::{sync::Arc, time::SystemTime};
use tonic::Code;

use super::{
    Pages, Visitor,
    form::{self, Field},
    overview::{self, WindowLine},
    query,
    respond::{self, Frame},
    shard, text, unmade, words,
};
use crate::{
    config::GoDuration,
    pb::{
        topodata,
        vtctldata::PlannedReparentShardRequest,
        vtelector::{
            AcknowledgeRequest, BeginMaintenanceRequest, EndMaintenanceRequest, ExplainRequest, GetStatusRequest,
            ListMaintenanceRequest, Mode, PlannedReparentRequest, SetRecoveriesRequest,
        },
        vttime,
    },
    serve::{
        calls::{self, Refusal},
        door::{Caller, Denial, Operator},
        http::Face,
    },
    topo::TabletAlias,
};

/// Whose name stands under a command.
const NAME_HINT: &str = "stands under what you do, for others who see it";
/// Longest time that stands on a page as a duration.
const HOUR: &str = "1h";

/// Somebody who may give commands, or why not.
type Asks = Result<Operator, Denial>;

fn operator(asks: Asks) -> Result<Caller, Refusal> {
    asks.map(|Operator(caller)| caller).map_err(|denial| {
        let code = match denial {
            Denial::Unproven { .. } => Code::Unauthenticated,
            Denial::Forbidden(_) => Code::PermissionDenied,
            Denial::TooMuch(_) => Code::ResourceExhausted,
        };
        Refusal::new(code, denial.to_string())
    })
}

/// Forms are shown to those who may send them.
fn may_act(visitor: &Visitor) -> Result<(), Refusal> {
    let refusal = || Refusal::new(Code::PermissionDenied, "a reader may look at everything and change nothing: ask an operator");
    visitor.may_act().then_some(()).ok_or_else(refusal)
}

fn body<T>(form: Result<Form<T>, FormRejection>) -> Result<T, Refusal> {
    form.map(|Form(form)| form).map_err(|wrong| Refusal::invalid(format!("what was sent: {}", wrong.body_text())))
}

/// The address of a shard's page. Names that no topology takes are refused by the call.
fn shard_page(keyspace: &str, shard: &str) -> String {
    format!("/shards/{}/{}", text::in_url(keyspace), text::in_url(shard))
}

/// Asks for a name only where nothing has proven one.
fn name_field(caller: &Caller) -> Vec<Field> {
    let ask = || Field::text("who", "Your name", NAME_HINT, String::new(), true);
    caller.name.is_none().then(ask).into_iter().collect()
}

/// Leads to a page and says there what was done.
fn done(pages: &Pages, page: &str, sentence: String) -> Response {
    tracing::debug!(sentence, "a command through the page was done");
    let number = pages.said.keep(sentence);
    respond::with_headers(Redirect::to(&format!("{page}?said={number}")).into_response())
}

fn alias(field: &str, given: &str) -> Result<topodata::TabletAlias, Refusal> {
    let alias: TabletAlias = given.trim().parse().map_err(|wrong| Refusal::invalid(format!("{field}: {wrong}")))?;
    Ok((&alias).into())
}

/// Which primary is wished, and how.
#[derive(Deserialize)]
pub struct Move {
    #[serde(default)]
    new_primary: String,
    #[serde(default)]
    expected_primary: String,
    #[serde(default)]
    mode: String,
}

impl Move {
    /// Without a tablet: whoever is best. Without a mode: graceful.
    fn request(&self, keyspace: &str, shard: &str, dry_run: bool) -> Result<PlannedReparentRequest, Refusal> {
        let optional = |field, given: &str| if given.is_empty() { Ok(None) } else { alias(field, given).map(Some) };
        let mode = match self.mode.as_str() {
            "" | "graceful" => Mode::Graceful,
            "abrupt" => Mode::Abrupt,
            other => return Err(Refusal::invalid(format!("mode: {:?} is neither graceful nor abrupt", text::name(other)))),
        };
        let new_primary = optional("new_primary", if self.new_primary == "best" { "" } else { &self.new_primary })?;
        let request = PlannedReparentShardRequest {
            keyspace: keyspace.to_owned(),
            shard: shard.to_owned(),
            new_primary,
            expected_primary: optional("expected_primary", &self.expected_primary)?,
            ..PlannedReparentShardRequest::default()
        };
        Ok(PlannedReparentRequest { request: Some(request), mode: mode as i32, dry_run })
    }
}

/// First the choice of a tablet; with one, what would happen, and for those who may do it the button that does it.
pub async fn reparent_form(
    State(face): State<Face>,
    visitor: Visitor,
    Path((keyspace, shard)): Path<(String, String)>,
    asked: Result<Query<Move>, QueryRejection>,
) -> Response {
    let here = shard_page(&keyspace, &shard);
    let answer = async {
        let asked = query(asked)?;
        let title = format!("Move the primary of {}/{}", text::name(&keyspace), text::name(&shard));
        let request = ExplainRequest { keyspace: keyspace.clone(), shard: shard.clone(), ..ExplainRequest::default() };
        let told = calls::explain::explain(&face.context, request).await?;
        let primary = told.summary.as_ref().and_then(|summary| summary.primary.clone());
        let page = if asked.new_primary.is_empty() {
            choose(&title, &here, &told.tablets, primary.as_ref()).render().map_err(unmade)?
        } else {
            let foretold = calls::elector::planned(&face.context, &visitor.0, asked.request(&keyspace, &shard, true)?).await?;
            let preview = shard::foretold("What would be done", &foretold);
            let elect = foretold.would_promote.as_ref().filter(|_| visitor.may_act()).map(|alias| words::alias(Some(alias)));
            let confirm = elect.filter(|_| preview.is_allowed()).map(|elect| confirm(&here, &asked, elect, primary.as_ref()));
            let who = if visitor.may_act() { "" } else { "An operator can do it. " };
            let back = format!("<p>{who}<a href=\"{here}/reparent\">Choose again</a></p>");
            let preview = preview.render().map_err(unmade)?;
            let confirm = confirm.map(|confirm| confirm.render()).transpose().map_err(unmade)?;
            preview + &confirm.unwrap_or(back)
        };
        let heading = heading(&title, &here).map_err(unmade)?;
        Ok(Frame::new(&title, "/", &visitor.0).around(heading, String::new()).answer(StatusCode::OK, Ok(page)))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, (&here, "The shard")))
}

#[derive(Template)]
#[template(path = "heading.html")]
struct Heading<'a> {
    title: &'a str,
    shard: &'a str,
}

fn heading(title: &str, shard: &str) -> askama::Result<String> {
    Heading { title, shard }.render()
}

fn choose(
    title: &str,
    here: &str,
    tablets: &[crate::pb::vtelector::TabletState],
    primary: Option<&topodata::TabletAlias>,
) -> form::Form {
    let others = tablets.iter().filter(|tablet| tablet.alias.as_ref() != primary);
    let described = others.map(|tablet| {
        let alias = words::alias(tablet.alias.as_ref());
        let words = format!("{alias}, {}, {}", text::name(&tablet.declared_type), text::name(&tablet.hostname));
        (alias, words)
    });
    let best = ("best".to_owned(), "whoever is best".to_owned());
    let modes = [("graceful", "graceful: running transactions may finish"), ("abrupt", "abrupt: running transactions fail")];
    form::Form {
        title: "Which tablet shall be primary?".to_owned(),
        intro: "The next page shows what would happen. Nothing is changed before an operator confirms it there.".to_owned(),
        method: "get",
        action: format!("{here}/reparent"),
        fields: vec![
            Field::choice("new_primary", "New primary", "", std::iter::once(best).chain(described).collect()),
            Field::choice("mode", "The old primary", "", modes.map(|(mode, words)| (mode.to_owned(), words.to_owned())).into()),
        ],
        hidden: Vec::new(),
        submit: "Preview",
        is_danger: false,
        back: (here.to_owned(), if title.is_empty() { "Back" } else { "Leave it as it is" }),
    }
}

fn confirm(here: &str, asked: &Move, elect: String, primary: Option<&topodata::TabletAlias>) -> form::Form {
    let old = primary.map(|alias| words::alias(Some(alias)));
    let title = match &old {
        Some(old) => format!("Move the primary from {old} to {elect}?"),
        None => format!("Make {elect} primary?"),
    };
    form::Form {
        title,
        intro: "It is refused when the primary is another one by then.".to_owned(),
        method: "post",
        action: format!("{here}/reparent"),
        fields: Vec::new(),
        hidden: vec![
            ("new_primary", elect),
            ("expected_primary", old.unwrap_or_default()),
            ("mode", text::short(&asked.mode, 20).into_owned()),
        ],
        submit: "Move the primary",
        is_danger: true,
        back: (format!("{here}/reparent"), "Choose again"),
    }
}

/// Moves the primary.
pub async fn reparent(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    Path((keyspace, shard)): Path<(String, String)>,
    asks: Asks,
    form: Result<Form<Move>, FormRejection>,
) -> Response {
    let here = shard_page(&keyspace, &shard);
    let answer = async {
        let (caller, asked) = (operator(asks)?, body(form)?);
        if asked.new_primary.is_empty() {
            return Err(Refusal::invalid("new_primary is required: choose a tablet"));
        }
        let request = asked.request(&keyspace, &shard, false)?;
        let told = calls::elector::planned(&face.context, &caller, request).await?;
        let sentence = match &told.promoted_primary {
            Some(alias) => format!("{} is primary now.", words::alias(Some(alias))),
            None => "There was nothing to do.".to_owned(),
        };
        Ok(done(&pages, &here, sentence))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, (&here, "The shard")))
}

/// Who asks, and why.
#[derive(Deserialize)]
pub struct Reason {
    #[serde(default)]
    who: String,
    #[serde(default)]
    why: String,
}

/// Lifts what earlier promotions forbid.
pub async fn acknowledge_form(visitor: Visitor, Path((keyspace, shard)): Path<(String, String)>) -> Response {
    let here = shard_page(&keyspace, &shard);
    let answer = || {
        may_act(&visitor)?;
        let title = format!("Acknowledge earlier promotions of {}/{}", text::name(&keyspace), text::name(&shard));
        let mut fields = name_field(&visitor.0);
        fields.push(Field::text("why", "Why", "what was found, for others; may be left empty", String::new(), false));
        let form = form::Form {
            title: "Allow another automatic promotion".to_owned(),
            intro: "Each automatic promotion forbids the next one for a time, and several of them forbid it until a person has looked. \
                    This lifts both."
                .to_owned(),
            method: "post",
            action: format!("{here}/acknowledge"),
            fields,
            hidden: Vec::new(),
            submit: "Acknowledge",
            is_danger: false,
            back: (here.clone(), "Leave it as it is"),
        };
        let heading = heading(&title, &here).map_err(unmade)?;
        Ok(Frame::new(&title, "/", &visitor.0).around(heading, String::new()).answer(StatusCode::OK, form.render()))
    };
    answer().unwrap_or_else(|refusal: Refusal| respond::refused(&visitor.0, &refusal, (&here, "The shard")))
}

pub async fn acknowledge(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    Path((keyspace, shard)): Path<(String, String)>,
    asks: Asks,
    form: Result<Form<Reason>, FormRejection>,
) -> Response {
    let here = shard_page(&keyspace, &shard);
    let answer = async {
        let (caller, Reason { who, why }) = (operator(asks)?, body(form)?);
        if shard.is_empty() {
            return Err(Refusal::invalid("shard is required: name a shard"));
        }
        calls::ledger::acknowledge(&face.context, &caller, AcknowledgeRequest { keyspace, shard, who, why }).await?;
        Ok(done(&pages, &here, "Acknowledged: earlier promotions forbid no further one.".to_owned()))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, (&here, "The shard")))
}

#[derive(Template)]
#[template(path = "maintenance.html")]
struct Maintenance {
    windows: Vec<WindowLine>,
    may_act: bool,
}

/// What a maintenance page is asked for.
#[derive(Deserialize)]
pub struct Scoped {
    #[serde(default)]
    scope: String,
    said: Option<u64>,
}

/// Open windows, and the form that begins one.
pub async fn maintenance_page(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asked: Result<Query<Scoped>, QueryRejection>,
) -> Response {
    let answer = async {
        let asked = query(asked)?;
        let told = calls::ledger::list_maintenance(&face.context, ListMaintenanceRequest {}).await?;
        let now = SystemTime::now();
        let windows = told.windows.iter().map(|window| overview::window(window, now)).collect();
        let page = Maintenance { windows, may_act: visitor.may_act() }.render().map_err(unmade)?;
        let form = match visitor.may_act() {
            true => begin_form(&visitor.0, text::short(&asked.scope, 200).into_owned()).render().map_err(unmade)?,
            false => String::new(),
        };
        let said = asked.said.and_then(|number| pages.said.find(number));
        let frame = Frame::new("Maintenance", "/maintenance", &visitor.0).said(said).around(String::new(), form);
        Ok(frame.answer(StatusCode::OK, Ok(page)))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/", "All shards")))
}

fn begin_form(caller: &Caller, scope: String) -> form::Form {
    let mut fields =
        vec![Field::text("scope", "Of what", "tablet:zone1-101, shard:commerce/0, keyspace:commerce or cell:zone1", scope, true)];
    fields.push(Field::text("reason", "Reason", "what is done, for others who see it", String::new(), true));
    fields.push(Field::text("lasting", "For how long", "it ends by itself then: 30m, 4h, at most 720h", HOUR.to_owned(), true));
    fields.extend(name_field(caller));
    form::Form {
        title: "Begin maintenance".to_owned(),
        intro: "No elector does anything to it by itself until it ends.".to_owned(),
        method: "post",
        action: "/maintenance".to_owned(),
        fields,
        hidden: Vec::new(),
        submit: "Begin",
        is_danger: false,
        back: ("/".to_owned(), "All shards"),
    }
}

/// What maintenance is begun.
#[derive(Deserialize)]
pub struct Begin {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    lasting: String,
    #[serde(default)]
    who: String,
}

pub async fn begin_maintenance(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asks: Asks,
    form: Result<Form<Begin>, FormRejection>,
) -> Response {
    let answer = async {
        let (caller, asked) = (operator(asks)?, body(form)?);
        let lasting: GoDuration =
            asked.lasting.trim().parse().map_err(|wrong| Refusal::invalid(format!("for how long: {wrong}")))?;
        let seconds = i64::try_from(lasting.0.as_secs()).unwrap_or(i64::MAX);
        let duration = Some(vttime::Duration { seconds, nanos: lasting.0.subsec_nanos() as i32 });
        let scope = asked.scope.trim().to_owned();
        let request = BeginMaintenanceRequest { scope: scope.clone(), owner: asked.who, reason: asked.reason, duration };
        calls::ledger::begin_maintenance(&face.context, &caller, request).await?;
        Ok(done(&pages, "/maintenance", format!("Maintenance of {scope} has begun; it ends by itself after {lasting}.")))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/maintenance", "Maintenance")))
}

/// Which window is ended.
#[derive(Deserialize)]
pub struct End {
    #[serde(default)]
    id: String,
}

pub async fn end_maintenance(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asks: Asks,
    form: Result<Form<End>, FormRejection>,
) -> Response {
    let answer = async {
        let (caller, End { id }) = (operator(asks)?, body(form)?);
        calls::ledger::end_maintenance(&face.context, &caller, EndMaintenanceRequest { id }).await?;
        Ok(done(&pages, "/maintenance", "Maintenance has ended.".to_owned()))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/maintenance", "Maintenance")))
}

#[derive(Template)]
#[template(path = "recoveries.html")]
struct Recoveries {
    off: Option<(String, String, String)>,
    may_act: bool,
}

/// What the page after a command is asked for.
#[derive(Deserialize)]
pub struct Told {
    said: Option<u64>,
}

/// Whether recoveries are on, and the form that switches them.
pub async fn recoveries_page(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asked: Result<Query<Told>, QueryRejection>,
) -> Response {
    let answer = async {
        let asked = query(asked)?;
        let status = calls::ledger::get_status(&face.context, GetStatusRequest {}).await?;
        let now = SystemTime::now();
        let off = status.recoveries_disabled.map(|off| {
            let why = text::sentence(&off.why).into_owned();
            (text::name(&off.who).into_owned(), why, words::since(off.since.as_ref(), now))
        });
        let form = match visitor.may_act() {
            true => switch_form(&visitor.0, off.is_some()).render().map_err(unmade)?,
            false => String::new(),
        };
        let page = Recoveries { off, may_act: visitor.may_act() }.render();
        let said = asked.said.and_then(|number| pages.said.find(number));
        Ok(Frame::new("Recoveries", "", &visitor.0).said(said).around(String::new(), form).answer(StatusCode::OK, page))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/", "All shards")))
}

fn switch_form(caller: &Caller, are_off: bool) -> form::Form {
    let mut fields = name_field(caller);
    let hint = if are_off { "may be left empty" } else { "for others who find them switched off" };
    fields.push(Field::text("why", "Why", hint, String::new(), !are_off));
    let (title, submit, enabled) = match are_off {
        true => ("Switch recoveries on", "Switch on", "true"),
        false => ("Switch recoveries off", "Switch off", "false"),
    };
    form::Form {
        title: title.to_owned(),
        intro: if are_off { String::new() } else { "A primary that dies then stays dead until a person acts.".to_owned() },
        method: "post",
        action: "/recoveries".to_owned(),
        fields,
        hidden: vec![("enabled", enabled.to_owned())],
        submit,
        is_danger: !are_off,
        back: ("/".to_owned(), "All shards"),
    }
}

/// On or off.
#[derive(Deserialize)]
pub struct Switch {
    #[serde(default)]
    enabled: String,
    #[serde(default)]
    who: String,
    #[serde(default)]
    why: String,
}

pub async fn set_recoveries(
    State(face): State<Face>,
    Extension(pages): Extension<Arc<Pages>>,
    visitor: Visitor,
    asks: Asks,
    form: Result<Form<Switch>, FormRejection>,
) -> Response {
    let answer = async {
        let (caller, asked) = (operator(asks)?, body(form)?);
        let enabled = match asked.enabled.as_str() {
            "true" => true,
            "false" => false,
            other => return Err(Refusal::invalid(format!("enabled: {:?} is neither true nor false", text::name(other)))),
        };
        let request = SetRecoveriesRequest { enabled, who: asked.who, why: asked.why };
        calls::ledger::set_recoveries(&face.context, &caller, request).await?;
        let sentence = if enabled { "Recoveries are on again." } else { "Recoveries are switched off, for all electors." };
        Ok(done(&pages, "/recoveries", sentence.to_owned()))
    };
    answer.await.unwrap_or_else(|refusal| respond::refused(&visitor.0, &refusal, ("/recoveries", "Recoveries")))
}
