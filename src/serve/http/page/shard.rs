//! One shard: what is wrong, what is declared beside what is, what would happen, what happened.

use std::{borrow::Cow, time::SystemTime};

use askama::Template;

use super::{
    document,
    facts::{self, Fact},
    notices::{self, Notice, Notices},
    overview::{Look, WindowLine, look, window},
    parts::{Body, Part},
    text,
    timeline::{self, Timeline},
    words,
};
use crate::pb::vtelector::{DecisionRecord, ExplainResponse, Problem, ReparentResponse, ShardSummary};

/// Problems that are told; a shard with more is broken altogether.
const PROBLEMS_MAX: usize = 50;

#[derive(Template)]
#[template(path = "shard_headline.html")]
struct Headline {
    name: String,
    look: Look,
    primary: String,
    hostname: String,
    since: Option<String>,
    redundancy: String,
    is_short: bool,
    policy: String,
    age: String,
    elector: String,
    in_maintenance: bool,
}

#[derive(Template)]
#[template(path = "shard_now.html")]
struct Now<'a> {
    here: String,
    problems: Vec<ProblemLine<'a>>,
    decision: Option<DecisionLine<'a>>,
    may_act: bool,
    is_blocked: bool,
    scope: String,
}

struct ProblemLine<'a> {
    code: Cow<'a, str>,
    link: String,
    priority: Cow<'a, str>,
    class: &'static str,
    tablet: String,
    since: String,
    why: Cow<'a, str>,
    remedy: Cow<'a, str>,
}

/// What is done now.
struct DecisionLine<'a> {
    action: Cow<'a, str>,
    tablet: String,
    since: String,
    why: Cow<'a, str>,
    blocked: Option<String>,
    rejected: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

#[derive(Template)]
#[template(path = "shard_tablets.html")]
struct Tablets {
    columns: Vec<facts::Column>,
    rows: Vec<(&'static str, Vec<Fact>)>,
    executed: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "shard_windows.html")]
struct Windows {
    windows: Vec<WindowLine>,
}

#[derive(Template)]
#[template(path = "timeline.html")]
struct Past {
    timeline: Timeline,
}

/// The page of a shard, but for its foretelling.
pub fn body(told: &ExplainResponse, now: SystemTime, may_act: bool) -> askama::Result<Body> {
    let unknown = ShardSummary::default();
    let summary = told.summary.as_ref().unwrap_or(&unknown);
    let headline = headline(told, summary, now);
    let title = format!("{} {}", headline.look.sign, headline.name);
    let windows = Windows { windows: told.maintenance.iter().map(|one| window(one, now)).collect() };
    let timeline = timeline::of_shard(told, now);
    let parts = vec![
        Part::new("headline", &headline)?.told(),
        Part::new("notices", &notices(told, summary, now, may_act))?,
        Part::new("now", &self::now(told, summary, now, may_act))?,
        Part::new("tablets", &tablets(told, summary))?,
        Part::new("windows", &windows)?,
        Part::new("timeline", &Past { timeline })?,
    ];
    Ok(Body { title, parts })
}

fn headline(told: &ExplainResponse, summary: &ShardSummary, now: SystemTime) -> Headline {
    Headline {
        name: format!("{}/{}", text::name(&summary.keyspace), text::name(&summary.shard)),
        look: look(summary.state),
        primary: words::alias(summary.primary.as_ref()),
        hostname: text::name(&summary.primary_hostname).into_owned(),
        since: told.primary_since.as_ref().map(|since| words::since(Some(since), now)),
        redundancy: format!("{} of {}", summary.replicating, summary.replicas),
        is_short: summary.replicating < summary.replicas,
        policy: if summary.durability_policy.is_empty() { "none".into() } else { text::name(&summary.durability_policy).into() },
        age: words::evidence(summary.evidence_age_ms),
        elector: if summary.elector.is_empty() { "nobody".into() } else { text::name(&summary.elector).into() },
        in_maintenance: summary.in_maintenance,
    }
}

fn notices(told: &ExplainResponse, summary: &ShardSummary, now: SystemTime, may_act: bool) -> Notices {
    let plain = |what: &str, why: String| Notice { what: what.to_owned(), why, link: None };
    let mut notices = Vec::new();
    notices.extend(told.recoveries_disabled.as_ref().map(|off| notices::disabled(off, now, may_act)));
    notices.extend(told.blocked.as_ref().map(|blocked| Notice {
        link: may_act.then(|| (format!("{}/acknowledge", super::overview::href(summary)), "Acknowledge")),
        ..plain("Earlier promotions forbid another one for now", notices::blocked(blocked, now))
    }));
    if told.emergency_disabled {
        let why = "SetVtorcEmergencyReparent switched them off for this shard or its keyspace".to_owned();
        notices.push(plain("Emergency reparents are switched off", why));
    }
    if !told.unread.is_empty() {
        let unread: Vec<Cow<'_, str>> = told.unread.iter().take(20).map(|one| text::short(one, 500)).collect();
        notices.push(plain("Not all of the topology could be read, so this may not be all", unread.join("; ")));
    }
    Notices { notices }
}

fn now<'a>(told: &'a ExplainResponse, summary: &ShardSummary, now: SystemTime, may_act: bool) -> Now<'a> {
    Now {
        here: super::overview::href(summary),
        problems: told.problems.iter().take(PROBLEMS_MAX).map(|problem| self::problem(problem, now)).collect(),
        decision: told.decisions.last().map(|decision| self::decision(decision, now)),
        may_act,
        is_blocked: told.blocked.is_some(),
        scope: text::in_url(&format!("shard:{}/{}", summary.keyspace, summary.shard)),
    }
}

fn problem(problem: &Problem, now: SystemTime) -> ProblemLine<'_> {
    ProblemLine {
        code: text::name(&problem.code),
        link: document::what_to_do(&text::name(&problem.code)),
        priority: if problem.priority == "shard" { Cow::Borrowed("the whole shard") } else { text::name(&problem.priority) },
        class: if problem.priority == "shard" { "down" } else { "degraded" },
        tablet: problem.tablet_alias.as_ref().map(|alias| words::alias(Some(alias))).unwrap_or_default(),
        since: words::since(problem.since.as_ref(), now),
        why: text::sentence(&problem.why),
        remedy: text::sentence(&problem.remedy),
    }
}

fn decision(decision: &DecisionRecord, now: SystemTime) -> DecisionLine<'_> {
    let rejected = decision.rejected.iter().take(20);
    DecisionLine {
        action: text::name(&decision.action),
        tablet: decision.tablet_alias.as_ref().map(|alias| words::alias(Some(alias))).unwrap_or_default(),
        since: words::since(decision.since.as_ref(), now),
        why: text::sentence(&decision.why),
        blocked: decision.blocked.as_ref().map(|blocked| notices::blocked(blocked, now)),
        rejected: rejected.map(|no| (text::name(&no.action), text::sentence(&no.why))).collect(),
    }
}

fn tablets(told: &ExplainResponse, summary: &ShardSummary) -> Tablets {
    let executed = told.tablets.iter().filter(|tablet| !tablet.executed.is_empty());
    Tablets {
        columns: told.tablets.iter().map(|tablet| facts::column(tablet, summary)).collect(),
        rows: facts::rows(&told.tablets, summary),
        executed: executed
            .map(|tablet| (words::alias(tablet.alias.as_ref()), text::short(&tablet.executed, 20_000).into_owned()))
            .collect(),
    }
}

/// What a dry run found.
#[derive(Template)]
#[template(path = "foretold.html")]
pub struct Foretold {
    title: &'static str,
    class: &'static str,
    verdict: String,
    refusal: String,
    policy: String,
    source: Option<String>,
    proofs: Vec<(String, bool, String)>,
    tablets: Vec<Considered>,
    caveats: Vec<String>,
    steps: Vec<String>,
    events: Vec<String>,
}

/// A tablet's part in it.
struct Considered {
    alias: String,
    kind: String,
    reach: String,
    received: String,
    executed: String,
    errant: String,
    /// Why it was not chosen; `None` = it was.
    rejected: Option<String>,
}

impl Foretold {
    /// Whether it would be done.
    pub fn is_allowed(&self) -> bool {
        self.class != "down"
    }
}

/// A dry run in words.
pub fn foretold(title: &'static str, told: &ReparentResponse) -> Foretold {
    let sentence = |text: &String| text::sentence(text).into_owned();
    let decision = told.decision.clone().unwrap_or_default();
    let refusal = told.refusal.as_ref().map(|refusal| sentence(&refusal.message)).unwrap_or_default();
    let (class, verdict) = match &told.would_promote {
        _ if told.refusal.is_some() => ("down", "Nobody would be promoted".to_owned()),
        Some(alias) => ("ok", format!("{} would become primary", words::alias(Some(alias)))),
        None => ("ok", "There would be nothing to do".to_owned()),
    };
    let tablets = decision.tablets.iter().map(|tablet| Considered {
        alias: words::alias(tablet.alias.as_ref()),
        kind: text::name(&tablet.r#type).into_owned(),
        reach: sentence(&tablet.reach),
        received: text::short(&tablet.received, 1000).into_owned(),
        executed: text::short(&tablet.executed, 1000).into_owned(),
        errant: text::short(&tablet.errant, 1000).into_owned(),
        rejected: tablet.rejected.as_ref().map(sentence),
    });
    Foretold {
        title,
        class,
        verdict,
        refusal,
        policy: text::name(&decision.policy).into_owned(),
        source: decision.source.as_ref().map(|alias| words::alias(Some(alias))),
        proofs: decision.proofs.iter().map(|proof| (sentence(&proof.name), proof.holds, sentence(&proof.because))).collect(),
        tablets: tablets.collect(),
        caveats: decision.caveats.iter().map(sentence).collect(),
        steps: decision.steps.iter().map(sentence).collect(),
        events: told.events.iter().take(200).map(|event| sentence(&event.value)).collect(),
    }
}
