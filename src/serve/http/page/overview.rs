//! All shards: what is wrong first and in full, what is well after it and dense.

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use askama::Template;

use super::{
    document,
    notices::{self, Notices},
    parts::{Body, Part},
    text, words,
};
use crate::pb::vtelector::{GetStatusResponse, ShardSummary, ShardsResponse, shard_summary::State};

/// Shards that are told of in full; the others stand in their keyspace's table.
const CARDS_MAX: usize = 40;
/// Rows of all tables, so that the page keeps its size however large a fleet is.
const ROWS_MAX: usize = 4000;
/// Up to so many rows all tables are open.
const OPEN_ROWS_MAX: usize = 120;
/// With more rows than that hostnames are left to the pages of the shards.
const WIDE_ROWS_MAX: usize = 500;

/// Which shards are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Only this keyspace; empty = all.
    pub keyspace: String,
    /// Only those that have this in their name, primary, host or problem; empty = all.
    pub text: String,
    /// Only those that are not well.
    pub problems: bool,
}

impl Filter {
    fn is_set(&self) -> bool {
        *self != Self::default()
    }

    fn wants(&self, shard: &ShardSummary) -> bool {
        let is_wrong = || State::try_from(shard.state) != Ok(State::Ok) || shard.problems > 0;
        (self.keyspace.is_empty() || self.keyspace == shard.keyspace)
            && (!self.problems || is_wrong())
            && (self.text.is_empty() || self.is_in(shard))
    }

    fn is_in(&self, shard: &ShardSummary) -> bool {
        let wanted = self.text.to_lowercase();
        let code = shard.worst.as_ref().map(|worst| worst.code.as_str()).unwrap_or_default();
        let names = [&format!("{}/{}", shard.keyspace, shard.shard), shard.primary_hostname.as_str(), code, &shard.elector];
        names.iter().any(|name| name.to_lowercase().contains(&wanted))
            || words::alias(shard.primary.as_ref()).to_lowercase().contains(&wanted)
    }
}

/// How a state looks and what it is called: never by its colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The class of its colours.
    pub class: &'static str,
    /// Its sign.
    pub sign: &'static str,
    /// Its words.
    pub words: &'static str,
}

/// The look of a state's number.
pub fn look(state: i32) -> Look {
    match State::try_from(state) {
        Ok(State::Ok) => Look { class: "ok", sign: "✓", words: "well" },
        Ok(State::Degraded) => Look { class: "degraded", sign: "▲", words: "degraded" },
        Ok(State::Down) => Look { class: "down", sign: "✖", words: "takes no writes" },
        Ok(State::Unknown) | Err(_) => Look { class: "unknown", sign: "?", words: "not known" },
    }
}

/// The most urgent first.
fn urgency(shard: &ShardSummary) -> u8 {
    match State::try_from(shard.state) {
        Ok(State::Down) => 0,
        Ok(State::Degraded) => 1,
        Ok(State::Unknown) | Err(_) => 2,
        Ok(State::Ok) => 3,
    }
}

#[derive(Template)]
#[template(path = "headline.html")]
struct Headline {
    look: Look,
    words: String,
    rest: String,
}

#[derive(Template)]
#[template(path = "cards.html")]
struct Cards<'a> {
    cards: Vec<Card<'a>>,
    more: usize,
}

struct Card<'a> {
    href: String,
    name: String,
    look: Look,
    problem: Option<CardProblem<'a>>,
    /// Problems beyond the one that is told.
    more: u32,
    blocked: Option<String>,
    primary: String,
    hostname: Cow<'a, str>,
    redundancy: Redundancy,
    age: String,
    elector: Cow<'a, str>,
    in_maintenance: bool,
}

struct CardProblem<'a> {
    code: Cow<'a, str>,
    link: String,
    tablet: String,
    since: String,
    why: Cow<'a, str>,
    remedy: Cow<'a, str>,
}

/// How many of a shard's replicas replicate.
struct Redundancy {
    replicating: u32,
    replicas: u32,
    is_short: bool,
}

#[derive(Template)]
#[template(path = "keyspace.html")]
struct Keyspace<'a> {
    id: String,
    name: Cow<'a, str>,
    count: String,
    wrong: Option<String>,
    policy: Cow<'a, str>,
    redundancy: Redundancy,
    is_open: bool,
    is_wide: bool,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    href: String,
    name: Cow<'a, str>,
    look: Look,
    is_ok: bool,
    primary: String,
    hostname: Cow<'a, str>,
    redundancy: Redundancy,
    age: String,
    elector: Cow<'a, str>,
    in_maintenance: bool,
}

#[derive(Template)]
#[template(path = "standing.html")]
struct Standing<'a> {
    who: Cow<'a, str>,
    version: Cow<'a, str>,
    shards: String,
    electors: Vec<[Cow<'a, str>; 5]>,
    windows: Vec<WindowLine>,
    may_act: bool,
}

/// An open maintenance window.
pub struct WindowLine {
    pub id: String,
    pub scope: String,
    pub owner: String,
    pub reason: String,
    pub until: String,
}

/// The page of all shards.
pub fn body(
    shards: &ShardsResponse,
    status: &GetStatusResponse,
    filter: &Filter,
    now: SystemTime,
    may_act: bool,
) -> askama::Result<Body> {
    let mut shown: Vec<&ShardSummary> = shards.shards.iter().filter(|shard| filter.wants(shard)).collect();
    let headline = headline(&shards.shards, &shown, filter);
    let title = format!("{} {}", headline.look.sign, headline.words);
    shown.truncate(ROWS_MAX);
    let mut parts = vec![
        Part::new("headline", &headline)?.told(),
        Part::new("notices", &Notices::everywhere(status, &shards.silent, now, may_act))?,
        Part::new("cards", &cards(&shown, now))?,
    ];
    let mut keyspaces: BTreeMap<&str, Vec<&ShardSummary>> = BTreeMap::new();
    for shard in &shown {
        keyspaces.entry(&shard.keyspace).or_default().push(shard);
    }
    let (is_open, is_wide) = (shown.len() <= OPEN_ROWS_MAX, shown.len() <= WIDE_ROWS_MAX);
    for (at, (name, shards)) in keyspaces.iter().enumerate() {
        let is_open = is_open || !filter.keyspace.is_empty();
        parts.push(Part::new(format!("keyspace-{at}"), &keyspace(at, name, shards, is_open, is_wide))?);
    }
    parts.push(Part::new("standing", &standing(status, now, may_act))?);
    Ok(Body { title, parts })
}

/// What is wrong in a few words, however many shards are shown.
fn headline(all: &[ShardSummary], shown: &[&ShardSummary], filter: &Filter) -> Headline {
    let of = |state: State| all.iter().filter(|shard| shard.state == state as i32).count() as u64;
    let (down, degraded, ok) = (of(State::Down), of(State::Degraded), of(State::Ok));
    let total = all.len() as u64;
    let unknown = total - down - degraded - ok;
    let (state, words) = match (total, down, degraded, unknown) {
        (0, ..) => (State::Unknown, "No shard is watched".to_owned()),
        (_, 1.., ..) => (State::Down, words::count(down, "shard takes no writes", "shards take no writes")),
        (_, 0, 1.., _) => (State::Degraded, words::count(degraded, "shard is degraded", "shards are degraded")),
        (_, 0, 0, 1..) => (State::Unknown, words::count(unknown, "shard is not looked at", "shards are not looked at")),
        (1, ..) => (State::Ok, "The only shard is well".to_owned()),
        (_, 0, 0, 0) => (State::Ok, format!("All {} shards are well", words::thousands(total))),
    };
    let mut rest = Vec::new();
    if down > 0 && degraded > 0 {
        rest.push(format!("{} degraded", words::thousands(degraded)));
    }
    if (down > 0 || degraded > 0) && unknown > 0 {
        rest.push(format!("{} not looked at", words::thousands(unknown)));
    }
    if down + degraded + unknown > 0 && total > 0 {
        rest.push(format!("{} of {} well", words::thousands(ok), words::thousands(total)));
    }
    if filter.is_set() {
        rest.push(format!("{} shown by the filter", words::thousands(shown.len() as u64)));
    }
    if shown.len() > ROWS_MAX {
        rest.push(format!("the first {} are listed: use the filter", words::thousands(ROWS_MAX as u64)));
    }
    Headline { look: look(state as i32), words, rest: rest.join(", ") }
}

fn cards<'a>(shown: &[&'a ShardSummary], now: SystemTime) -> Cards<'a> {
    let mut wrong: Vec<&ShardSummary> = shown.iter().copied().filter(|shard| urgency(shard) < 2).collect();
    wrong.sort_by_key(|shard| urgency(shard));
    let more = wrong.len().saturating_sub(CARDS_MAX);
    Cards { cards: wrong.into_iter().take(CARDS_MAX).map(|shard| card(shard, now)).collect(), more }
}

fn card(shard: &ShardSummary, now: SystemTime) -> Card<'_> {
    let problem = shard.worst.as_ref().map(|worst| CardProblem {
        code: text::name(&worst.code),
        link: document::what_to_do(&text::name(&worst.code)),
        tablet: worst.tablet_alias.as_ref().map(|alias| words::alias(Some(alias))).unwrap_or_default(),
        since: words::since(worst.since.as_ref(), now),
        why: text::short(&worst.why, 600),
        remedy: text::short(&worst.remedy, 300),
    });
    Card {
        href: href(shard),
        name: format!("{}/{}", text::name(&shard.keyspace), text::name(&shard.shard)),
        look: look(shard.state),
        more: shard.problems.saturating_sub(u32::from(problem.is_some())),
        problem,
        blocked: shard.blocked.as_ref().map(|blocked| text::short(&notices::blocked(blocked, now), 600).into_owned()),
        primary: words::alias(shard.primary.as_ref()),
        hostname: text::name(&shard.primary_hostname),
        redundancy: redundancy(shard.replicating, shard.replicas),
        age: age(shard),
        elector: elector(shard),
        in_maintenance: shard.in_maintenance,
    }
}

fn keyspace<'a>(at: usize, name: &'a str, shards: &[&'a ShardSummary], is_open: bool, is_wide: bool) -> Keyspace<'a> {
    let sum = |f: fn(&ShardSummary) -> u32| shards.iter().map(|shard| f(shard)).fold(0, u32::saturating_add);
    let wrong = shards.iter().filter(|shard| urgency(shard) < 3).count() as u64;
    Keyspace {
        id: format!("ks-{at}"),
        name: text::name(name),
        count: words::count(shards.len() as u64, "shard", "shards"),
        wrong: (wrong > 0).then(|| format!("{} not well", words::thousands(wrong))),
        policy: shards.first().map(|shard| text::name(&shard.durability_policy)).unwrap_or_default(),
        redundancy: redundancy(sum(|shard| shard.replicating), sum(|shard| shard.replicas)),
        is_open,
        is_wide,
        rows: shards.iter().map(|shard| row(shard, is_wide)).collect(),
    }
}

fn row(shard: &ShardSummary, is_wide: bool) -> Row<'_> {
    Row {
        href: href(shard),
        name: text::name(&shard.shard),
        look: look(shard.state),
        is_ok: urgency(shard) == 3,
        primary: words::alias(shard.primary.as_ref()),
        hostname: if is_wide { text::name(&shard.primary_hostname) } else { Cow::Borrowed("") },
        redundancy: redundancy(shard.replicating, shard.replicas),
        age: age(shard),
        elector: elector(shard),
        in_maintenance: shard.in_maintenance,
    }
}

fn standing(status: &GetStatusResponse, now: SystemTime, may_act: bool) -> Standing<'_> {
    let electors = status.electors.iter().take(100).map(|one| {
        let me = if one.me { "this one" } else { "" };
        [text::name(&one.who), text::name(&one.cell), text::name(&one.region), text::name(&one.release), Cow::Borrowed(me)]
    });
    let windows = status.maintenance.iter().take(200).map(|window| self::window(window, now));
    Standing {
        who: text::name(&status.who),
        version: text::name(&status.version),
        shards: words::count(status.shards, "shard", "shards"),
        electors: electors.collect(),
        windows: windows.collect(),
        may_act,
    }
}

/// A window in a line.
pub fn window(window: &crate::pb::vtelector::MaintenanceWindow, now: SystemTime) -> WindowLine {
    WindowLine {
        id: text::name(&window.id).into_owned(),
        scope: text::short(&window.scope, 150).into_owned(),
        owner: text::name(&window.owner).into_owned(),
        reason: text::sentence(&window.reason).into_owned(),
        until: words::since(window.until.as_ref(), now),
    }
}

/// The address of a shard's page.
pub fn href(shard: &ShardSummary) -> String {
    format!("/shards/{}/{}", text::in_url(&shard.keyspace), text::in_url(&shard.shard))
}

fn redundancy(replicating: u32, replicas: u32) -> Redundancy {
    Redundancy { replicating, replicas, is_short: replicating < replicas }
}

fn age(shard: &ShardSummary) -> String {
    words::evidence(shard.evidence_age_ms)
}

fn elector(shard: &ShardSummary) -> Cow<'_, str> {
    if shard.elector.is_empty() { Cow::Borrowed("nobody") } else { text::name(&shard.elector) }
}
