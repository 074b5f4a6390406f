//! What was decided, done and asked for: the newest first.

use std::time::SystemTime;

use super::{notices, text, words};
use crate::pb::{
    vtelector::{Command, DecisionRecord, ExplainResponse, Recovery, Rejected},
    vttime,
};

/// Entries of one list.
const ENTRIES_MAX: usize = 100;

/// A list of what happened.
pub struct Timeline {
    pub title: &'static str,
    pub none: &'static str,
    pub entries: Vec<Entry>,
}

/// Something that happened.
pub struct Entry {
    /// `decision`, `recovery`, `recovery failed`, `command` or `command failed`.
    pub class: &'static str,
    pub when: String,
    pub shard: Option<(String, String)>,
    pub title: String,
    pub why: String,
    /// More, as label and words.
    pub more: Vec<(&'static str, String)>,
    /// What else could have been done, and why it was not.
    pub rejected: Vec<(String, String)>,
    at: (i64, i32),
}

/// Decisions, recoveries and commands of a shard.
pub fn of_shard(told: &ExplainResponse, now: SystemTime) -> Timeline {
    let mut entries: Vec<Entry> = told.decisions.iter().map(|decision| self::decision(decision, now)).collect();
    entries.extend(told.recoveries.iter().map(|recovery| self::recovery(recovery, now)));
    entries.extend(told.commands.iter().map(|command| self::command(command, now)));
    Timeline { title: "What happened", none: "Nothing is remembered.", entries: sorted(entries) }
}

/// Recoveries of every shard.
pub fn of_all(recoveries: &[Recovery], now: SystemTime) -> Timeline {
    let entries = recoveries.iter().map(|recovery| Entry {
        shard: Some((
            format!("/shards/{}/{}", text::in_url(&recovery.keyspace), text::in_url(&recovery.shard)),
            format!("{}/{}", text::name(&recovery.keyspace), text::name(&recovery.shard)),
        )),
        ..self::recovery(recovery, now)
    });
    Timeline {
        title: "Recoveries of all electors",
        none: "No elector has done anything in the last 7 days.",
        entries: sorted(entries.collect()),
    }
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
    entries.truncate(ENTRIES_MAX);
    entries
}

fn at(time: Option<&vttime::Time>) -> (i64, i32) {
    time.map_or((0, 0), |time| (time.seconds, time.nanoseconds))
}

/// Labels with something behind them.
fn more<const N: usize>(all: [(&'static str, String); N]) -> Vec<(&'static str, String)> {
    all.into_iter().filter(|(_, words)| !words.is_empty()).collect()
}

fn decision(decision: &DecisionRecord, now: SystemTime) -> Entry {
    let no = |no: &Rejected| (text::name(&no.action).into_owned(), text::sentence(&no.why).into_owned());
    let about = decision.tablet_alias.as_ref().map(|alias| format!(", {}", words::alias(Some(alias)))).unwrap_or_default();
    let blocked = decision.blocked.as_ref().map(|blocked| notices::blocked(blocked, now)).unwrap_or_default();
    Entry {
        class: "decision",
        when: words::since(decision.since.as_ref(), now),
        shard: None,
        title: format!("Decided: {}{about}", text::name(&decision.action)),
        why: text::sentence(&decision.why).into_owned(),
        more: more([("Problem", text::name(&decision.code).into_owned()), ("Held back by", blocked)]),
        rejected: decision.rejected.iter().take(20).map(no).collect(),
        at: at(decision.since.as_ref()),
    }
}

fn recovery(recovery: &Recovery, now: SystemTime) -> Entry {
    let promoted =
        recovery.promoted.as_ref().map(|alias| format!(", {} promoted", words::alias(Some(alias)))).unwrap_or_default();
    let failed = recovery.outcome == "failed";
    Entry {
        class: if failed { "recovery failed" } else { "recovery" },
        when: words::since(recovery.at.as_ref(), now),
        shard: None,
        title: format!(
            "{}{}: {}{promoted}, in {}",
            if failed { "✖ " } else { "✓ " },
            text::name(&recovery.kind),
            text::name(&recovery.outcome),
            words::took(recovery.took_ms)
        ),
        why: text::sentence(&recovery.failure).into_owned(),
        more: more([
            ("Problem", text::name(&recovery.code).into_owned()),
            ("Old primary, or what was repaired", recovery.old.as_ref().map(|old| words::alias(Some(old))).unwrap_or_default()),
            ("Evidence", text::sentence(&recovery.evidence).into_owned()),
            ("By", text::name(&recovery.who).into_owned()),
        ]),
        rejected: Vec::new(),
        at: at(recovery.at.as_ref()),
    }
}

fn command(command: &Command, now: SystemTime) -> Entry {
    let failed = command.outcome != "done";
    Entry {
        class: if failed { "command failed" } else { "command" },
        when: words::since(command.at.as_ref(), now),
        shard: None,
        title: format!(
            "{} asked for {}: {}",
            text::name(&command.caller),
            text::name(&command.call),
            text::name(&command.outcome)
        ),
        why: text::sentence(&command.failure).into_owned(),
        more: more([
            ("What", text::sentence(&command.target).into_owned()),
            ("Proven by", text::name(&command.proven_by).into_owned()),
            ("From", text::name(&command.from).into_owned()),
            ("Through", text::name(&command.elector).into_owned()),
        ]),
        rejected: Vec::new(),
        at: at(command.at.as_ref()),
    }
}
