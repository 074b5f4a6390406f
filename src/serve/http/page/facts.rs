//! What is declared of each tablet beside what was seen of it, so that disagreement is seen at once: a row for each fact, a column for each
//! tablet.

use super::{text, words};
use crate::pb::vtelector::{ChannelState, ReplicationState, ShardSummary, TabletState};

/// What one tablet says to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// In words; empty = nothing is to be said.
    pub words: String,
    /// `differs` = another than declared, `fails` = does not answer or does not run, `unknown`, or nothing.
    pub class: &'static str,
}

/// The head of a column.
pub struct Column {
    pub alias: String,
    pub hostname: String,
    pub is_primary: bool,
    pub shut_down: bool,
}

fn fact(words: impl Into<String>) -> Fact {
    Fact { words: words.into(), class: "" }
}

fn unknown() -> Fact {
    Fact { words: "not known".to_owned(), class: "unknown" }
}

impl Fact {
    fn differs_if(self, differs: bool) -> Self {
        if differs { Self { class: "differs", ..self } } else { self }
    }

    fn fails_if(self, fails: bool) -> Self {
        if fails { Self { class: "fails", ..self } } else { self }
    }
}

/// The head of a tablet's column.
pub fn column(tablet: &TabletState, summary: &ShardSummary) -> Column {
    Column {
        alias: words::alias(tablet.alias.as_ref()),
        hostname: text::name(&tablet.hostname).into_owned(),
        is_primary: tablet.alias.is_some() && tablet.alias == summary.primary,
        shut_down: tablet.shut_down,
    }
}

/// Every fact that is known of any tablet.
pub fn rows(tablets: &[TabletState], summary: &ShardSummary) -> Vec<(&'static str, Vec<Fact>)> {
    type Say = fn(&TabletState, &ShardSummary) -> Fact;
    let all: [(&'static str, Say); 17] = [
        ("Declared type", |tablet, _| fact(text::name(&tablet.declared_type))),
        ("Observed type", observed_type),
        ("Takes writes", writable),
        ("Tablet manager", |tablet, _| channel(tablet, "tablet manager")),
        ("MySQL", |tablet, _| channel(tablet, "MySQL")),
        ("MySQL directly", |tablet, _| channel(tablet, "MySQL directly")),
        ("Heard by others", |tablet, _| heard(tablet)),
        ("Replicates from", source),
        ("IO thread", |tablet, _| replicates(tablet, io_thread)),
        ("SQL thread", |tablet, _| replicates(tablet, sql_thread)),
        ("Lag", |tablet, _| replicates(tablet, |replication| replication.lag_ms.map_or_else(unknown, |ms| fact(words::age(ms))))),
        ("Semi-sync, as source", |tablet, _| semi_sync(&tablet.semi_sync_source)),
        ("Semi-sync, as replica", |tablet, _| semi_sync(&tablet.semi_sync_replica)),
        ("Errant GTIDs", |tablet, _| errant(tablet)),
        ("Answers in", |tablet, _| pace(tablet)),
        ("Status is", |tablet, _| tablet.status_age_ms.map_or_else(unknown, |ms| fact(format!("{} old", words::age(ms))))),
        ("Version, addresses", |tablet, _| addresses(tablet)),
    ];
    let rows = all.into_iter().map(|(label, say)| (label, tablets.iter().map(|tablet| say(tablet, summary)).collect::<Vec<_>>()));
    rows.filter(|(_, facts)| facts.iter().any(|fact| !fact.words.is_empty())).collect()
}

fn observed_type(tablet: &TabletState, _: &ShardSummary) -> Fact {
    match tablet.observed_type.as_str() {
        "" => unknown(),
        observed => fact(text::name(observed)).differs_if(observed != tablet.declared_type),
    }
}

fn writable(tablet: &TabletState, summary: &ShardSummary) -> Fact {
    let Some(read_only) = tablet.read_only else { return unknown() };
    let is_primary = tablet.alias.is_some() && tablet.alias == summary.primary;
    let words = match (read_only, tablet.super_read_only) {
        (false, _) => "yes",
        (true, Some(true)) => "no",
        (true, _) => "administrators only (super_read_only is off)",
    };
    let offline = tablet.offline_mode == Some(true);
    let words = if offline { format!("{words}, and offline_mode refuses every client") } else { words.to_owned() };
    let words = if tablet.is_heard() { words } else { format!("{words}, when last heard") };
    fact(words).differs_if(read_only == is_primary || offline)
}

/// One of the tablet's own channels.
fn channel(tablet: &TabletState, name: &str) -> Fact {
    let Some(channel) = tablet.channels.iter().find(|channel| channel.name == name) else { return fact("") };
    if channel.works {
        let good = channel.last_good_ms.map_or_else(|| "never asked".to_owned(), |ms| format!("answers, {} ago", words::age(ms)));
        return fact(good);
    }
    fact(failing(channel)).fails_if(!channel.failure.is_empty())
}

fn failing(channel: &ChannelState) -> String {
    if channel.failure.is_empty() {
        return "not asked yet".to_owned();
    }
    let since = channel.failing_for_ms.map(|ms| format!(" for {}", words::age(ms))).unwrap_or_default();
    let good =
        channel.last_good_ms.map_or_else(|| "never answered".to_owned(), |ms| format!("last answer {} ago", words::age(ms)));
    let said = if channel.words.is_empty() { String::new() } else { format!(": {}", text::short(&channel.words, 400)) };
    format!("{}{since}, {good}{said}", text::name(&channel.failure))
}

/// What other tablets' hosts heard of it.
fn heard(tablet: &TabletState) -> Fact {
    let heard: Vec<&ChannelState> = tablet.channels.iter().filter(|channel| channel.name.starts_with("heard by ")).collect();
    let words: Vec<String> = heard
        .iter()
        .take(16)
        .map(|channel| {
            let by = text::name(channel.name.trim_start_matches("heard by "));
            let ago = channel.last_good_ms.map(|ms| format!(" {} ago", words::age(ms))).unwrap_or_default();
            format!("{by}: {}{ago}", text::short(&channel.words, 200))
        })
        .collect();
    fact(words.join("; ")).fails_if(heard.iter().any(|channel| !channel.works))
}

fn source(tablet: &TabletState, summary: &ShardSummary) -> Fact {
    let is_primary = tablet.alias.is_some() && tablet.alias == summary.primary;
    match &tablet.replication {
        _ if tablet.observed_type.is_empty() && tablet.read_only.is_none() => unknown(),
        None => fact("nobody").differs_if(!is_primary),
        Some(replication) => {
            let from = match &replication.source_alias {
                Some(alias) => words::alias(Some(alias)),
                None => format!("{}, which is no tablet of this shard", text::name(&replication.source)),
            };
            fact(from).differs_if(is_primary || replication.source_alias != summary.primary)
        }
    }
}

fn replicates(tablet: &TabletState, say: fn(&ReplicationState) -> Fact) -> Fact {
    tablet.replication.as_ref().map_or_else(|| fact(""), say)
}

fn io_thread(replication: &ReplicationState) -> Fact {
    with_error(&replication.io_thread, &replication.io_error).fails_if(replication.io_thread != "running")
}

fn sql_thread(replication: &ReplicationState) -> Fact {
    with_error(if replication.sql_running { "running" } else { "stopped" }, &replication.sql_error)
        .fails_if(!replication.sql_running)
}

fn with_error(state: &str, error: &str) -> Fact {
    match error {
        "" => fact(text::name(state)),
        error => fact(format!("{}: {}", text::name(state), text::short(error, 600))),
    }
}

fn semi_sync(said: &str) -> Fact {
    fact(text::name(said)).fails_if(said.starts_with("stalled"))
}

fn errant(tablet: &TabletState) -> Fact {
    match tablet.errant.as_deref() {
        None => unknown(),
        Some("") => fact("none"),
        Some(errant) => fact(text::short(errant, 600)).differs_if(true),
    }
}

fn pace(tablet: &TabletState) -> Fact {
    match (tablet.pace_ms, tablet.usual_pace_ms) {
        (Some(now), Some(usual)) => {
            fact(format!("{now} ms, usually {usual} ms")).differs_if(now > 200 && now > usual.saturating_mul(10))
        }
        _ => fact(""),
    }
}

fn addresses(tablet: &TabletState) -> Fact {
    let known = [&tablet.version, &tablet.mysql_address, &tablet.grpc_address].into_iter().filter(|known| !known.is_empty());
    fact(known.map(|known| text::name(known).into_owned()).collect::<Vec<_>>().join(", "))
}
