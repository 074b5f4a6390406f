//! Errant transactions, and what was done to all shards.

use std::{borrow::Cow, time::SystemTime};

use askama::Template;

use super::{
    overview::{Look, look},
    parts::{Body, Part},
    text,
    timeline::{self, Timeline},
    words,
};
use crate::pb::vtelector::{ErrantGtidsResponse, HistoryResponse, shard_summary::State};

/// Rows of a table.
const ROWS_MAX: usize = 2000;

#[derive(Template)]
#[template(path = "headline.html")]
struct Headline {
    look: Look,
    words: String,
    rest: String,
}

#[derive(Template)]
#[template(path = "errant.html")]
struct Errant<'a> {
    errant: Vec<ErrantRow<'a>>,
    unjudged: Vec<UnjudgedRow<'a>>,
    more: usize,
}

struct ErrantRow<'a> {
    href: String,
    shard: String,
    tablet: String,
    count: String,
    errant: Cow<'a, str>,
    against: String,
    age: String,
}

struct UnjudgedRow<'a> {
    href: String,
    shard: String,
    tablet: String,
    reason: Cow<'a, str>,
}

#[derive(Template)]
#[template(path = "timeline.html")]
struct Activity {
    timeline: Timeline,
}

fn shard(keyspace: &str, shard: &str) -> (String, String) {
    let href = format!("/shards/{}/{}", text::in_url(keyspace), text::in_url(shard));
    (href, format!("{}/{}", text::name(keyspace), text::name(shard)))
}

/// The page of errant transactions.
pub fn errant(told: &ErrantGtidsResponse) -> askama::Result<Body> {
    let found = told.errant.len() as u64;
    let (state, words) = match (found, told.unjudged.len()) {
        (0, 0) => (State::Ok, "No tablet has errant transactions".to_owned()),
        (0, _) => (State::Unknown, "No errant transactions where that can be told".to_owned()),
        _ => (State::Degraded, words::count(found, "tablet has errant transactions", "tablets have errant transactions")),
    };
    let mut rest = vec![format!("{} judged", words::count(told.judged, "tablet", "tablets"))];
    if !told.unjudged.is_empty() {
        rest.push(format!("{} of which it cannot be told", words::thousands(told.unjudged.len() as u64)));
    }
    rest.extend(told.silent.iter().take(8).map(|one| {
        format!("{} does not answer ({}), its tablets are missing", text::name(&one.elector), text::short(&one.reason, 200))
    }));
    let headline = Headline { look: look(state as i32), words, rest: rest.join("; ") };
    let title = format!("{} {}", headline.look.sign, headline.words);
    let rows = told.errant.iter().take(ROWS_MAX).map(|row| {
        let (href, shard) = shard(&row.keyspace, &row.shard);
        ErrantRow {
            href,
            shard,
            tablet: words::alias(row.tablet_alias.as_ref()),
            count: words::thousands(row.count),
            errant: text::short(&row.errant, 2000),
            against: words::alias(row.compared_with.as_ref()),
            age: words::age(row.age_ms),
        }
    });
    let unjudged = told.unjudged.iter().take(ROWS_MAX).map(|row| {
        let (href, shard) = shard(&row.keyspace, &row.shard);
        UnjudgedRow { href, shard, tablet: words::alias(row.tablet_alias.as_ref()), reason: text::short(&row.reason, 600) }
    });
    let more = told.errant.len().saturating_sub(ROWS_MAX) + told.unjudged.len().saturating_sub(ROWS_MAX);
    let table = Errant { errant: rows.collect(), unjudged: unjudged.collect(), more };
    Ok(Body { title, parts: vec![Part::new("headline", &headline)?.told(), Part::new("errant", &table)?] })
}

/// The page of everything that was done.
pub fn activity(told: &HistoryResponse, now: SystemTime) -> askama::Result<Body> {
    let timeline = timeline::of_all(&told.recoveries, now);
    let failed = told.recoveries.iter().filter(|recovery| recovery.outcome == "failed").count() as u64;
    let words = words::count(told.count, "recovery in the last 7 days", "recoveries in the last 7 days");
    let mut rest = Vec::new();
    if failed > 0 {
        rest.push(format!("{} of those below failed", words::thousands(failed)));
    }
    if !told.unread.is_empty() {
        rest.push(format!("this may not be all: {}", text::short(&told.unread, 500)));
    }
    if told.dropped > 0 {
        rest.push(format!("{} were dropped before 7 days were over", words::thousands(told.dropped)));
    }
    let state = if told.unread.is_empty() { State::Ok } else { State::Unknown };
    let headline = Headline { look: look(state as i32), words, rest: rest.join("; ") };
    let title = headline.words.clone();
    Ok(Body { title, parts: vec![Part::new("headline", &headline)?.told(), Part::new("activity", &Activity { timeline })?] })
}
