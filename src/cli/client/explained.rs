//! Shards in words: the verdict first, then what is declared and seen, what is wrong, what was decided and why not otherwise.

use super::{
    decision, report,
    show::{Table, alias, facts, or_dash, time},
};
use crate::pb::vtelector::{shard_summary::State, *};

/// One line a shard, and who is silent.
pub fn shards(answer: &ShardsResponse) -> String {
    let mut table = Table::new(&["SHARD", "STATE", "PRIMARY", "REPLICATING", "POLICY", "EVIDENCE", "ELECTOR", "WORST PROBLEM"]);
    for shard in &answer.shards {
        table.row([
            format!("{}/{}", shard.keyspace, shard.shard),
            state(shard),
            alias(shard.primary.as_ref()),
            replicating(shard),
            or_dash(&shard.durability_policy),
            shard.evidence_age_ms.map_or_else(|| "-".to_owned(), |age| format!("{} old", seconds(age))),
            or_dash(&shard.elector),
            worst(shard),
        ]);
    }
    let of_state = |state: State| answer.shards.iter().filter(|shard| shard.state() == state).count();
    let count = format!(
        "shards: {}; down: {}, degraded: {}, unknown: {}",
        answer.shards.len(),
        of_state(State::Down),
        of_state(State::Degraded),
        of_state(State::Unknown)
    );
    report::sections(&[table.print_rows(), report::silent(&answer.silent), count])
}

fn state(shard: &ShardSummary) -> String {
    let word = match shard.state() {
        State::Ok => "ok",
        State::Degraded => "degraded",
        State::Down => "DOWN",
        State::Unknown => "unknown",
    };
    let maintenance = if shard.in_maintenance { ", in maintenance" } else { "" };
    format!("{word}{maintenance}")
}

fn replicating(shard: &ShardSummary) -> String {
    if shard.elector.is_empty() { "-".to_owned() } else { format!("{} of {}", shard.replicating, shard.replicas) }
}

fn worst(shard: &ShardSummary) -> String {
    let Some(worst) = &shard.worst else { return "-".to_owned() };
    let more = if shard.problems > 1 { format!(" and {} more", shard.problems - 1) } else { String::new() };
    format!("{} {}{more}", worst.code, alias(worst.tablet_alias.as_ref()))
}

/// Seconds as a person reads them.
fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", seconds(ms)))
}

/// Everything about one shard.
pub fn explanation(answer: &ExplainResponse) -> String {
    let summary = answer.summary.clone().unwrap_or_default();
    let mut parts = vec![head(answer, &summary), in_the_way(answer), tablets(&answer.tablets), trouble(&answer.tablets)];
    parts.push(wrong(&answer.problems));
    parts.push(decided(&answer.decisions));
    parts.push(recoveries(&answer.recoveries));
    parts.push(report::commands(&answer.commands));
    if let Some(foretold) = &answer.foretold {
        parts.push(format!("IF ITS PRIMARY DIED NOW\n\n{}", decision::dry_run(foretold)));
    }
    report::sections(&parts)
}

fn head(answer: &ExplainResponse, summary: &ShardSummary) -> String {
    let primary = match &summary.primary {
        None => "none is declared".to_owned(),
        Some(declared) => {
            let since = time(answer.primary_since.as_ref());
            format!("{} at {} since {since}", alias(Some(declared)), or_dash(&summary.primary_hostname))
        }
    };
    facts(vec![
        ("shard", format!("{}/{}", summary.keyspace, summary.shard)),
        ("state", state(summary)),
        ("primary", primary),
        ("policy", or_dash(&summary.durability_policy)),
        ("replicating", replicating(summary)),
        (
            "evidence",
            summary.evidence_age_ms.map_or_else(|| "not complete".to_owned(), |age| format!("none older than {}", seconds(age))),
        ),
        ("elector", or_dash(&summary.elector)),
    ])
}

/// What forbids recoveries, each in a line.
fn in_the_way(answer: &ExplainResponse) -> String {
    let mut lines = Vec::new();
    if let Some(off) = &answer.recoveries_disabled {
        lines.push(format!("recoveries are DISABLED by {} since {}: {}", off.who, time(off.since.as_ref()), off.why));
    }
    if answer.emergency_disabled {
        lines.push("emergency reparents are forbidden here (SetVtorcEmergencyReparent)".to_owned());
    }
    if let Some(blocked) = &answer.blocked {
        lines.push(format!("BLOCKED by {}", report::block(blocked)));
    }
    for window in &answer.maintenance {
        let until = time(window.until.as_ref());
        lines.push(format!("maintenance {} of {} until {until} by {}: {}", window.id, window.scope, window.owner, window.reason));
    }
    lines.extend(answer.unread.iter().map(|unread| format!("could not be read: {unread}")));
    report::list("IN THE WAY", &lines)
}

fn tablets(tablets: &[TabletState]) -> String {
    let mut table =
        Table::new(&["TABLET", "DECLARED", "SEEN AS", "MYSQL", "WRITES", "REPLICATES FROM", "THREADS", "LAG", "LAST STATUS"]);
    for tablet in tablets {
        let replication = tablet.replication.as_ref();
        let threads =
            replication.map(|found| format!("{}, {}", found.io_thread, if found.sql_running { "running" } else { "stopped" }));
        let dash = || "-".to_owned();
        table.row([
            alias(tablet.alias.as_ref()),
            if tablet.shut_down { "shut down".to_owned() } else { tablet.declared_type.to_ascii_lowercase() },
            or_dash(&tablet.observed_type.to_ascii_lowercase()),
            or_dash(&tablet.version),
            writes(tablet),
            replication.map_or_else(dash, source),
            threads.unwrap_or_else(dash),
            replication.and_then(|found| found.lag_ms).map_or_else(dash, seconds),
            ago(tablet.status_age_ms),
        ]);
    }
    table.print_rows()
}

fn writes(tablet: &TabletState) -> String {
    let words = match (tablet.offline_mode, tablet.super_read_only, tablet.read_only) {
        (Some(true), _, _) => "refuses clients",
        (_, Some(true), _) => "super read-only",
        (_, _, Some(true)) => "read-only",
        (_, _, Some(false)) => "writable",
        (_, _, None) => return "-".to_owned(),
    };
    if tablet.is_heard() { words.to_owned() } else { format!("was {words}") }
}

fn source(replication: &ReplicationState) -> String {
    match &replication.source_alias {
        Some(source) => alias(Some(source)),
        None => or_dash(&replication.source),
    }
}

/// What does not work, and what is errant: a line each.
fn trouble(tablets: &[TabletState]) -> String {
    let mut table = Table::new(&["TABLET", "CHANNEL", "LAST GOOD", "FAILS FOR", "HOW"]);
    for tablet in tablets {
        for channel in tablet.channels.iter().filter(|channel| !channel.works) {
            table.row([
                alias(tablet.alias.as_ref()),
                channel.name.clone(),
                ago(channel.last_good_ms),
                channel.failing_for_ms.map_or_else(|| "-".to_owned(), seconds),
                [channel.failure.as_str(), channel.words.as_str()].join(": ").trim_matches([':', ' ']).to_owned(),
            ]);
        }
    }
    let mut errant = Table::new(&["TABLET", "ERRANT TRANSACTIONS"]);
    for tablet in tablets {
        if let Some(set) = tablet.errant.as_ref().filter(|set| !set.is_empty()) {
            errant.row([alias(tablet.alias.as_ref()), set.clone()]);
        }
    }
    report::sections(&[table.print_rows(), errant.print_rows()])
}

fn wrong(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "NO PROBLEM IS OPEN".to_owned();
    }
    let mut table = Table::new(&["PRIORITY", "PROBLEM", "TABLET", "SINCE", "REMEDY", "WHY"]);
    for problem in problems {
        table.row([
            problem.priority.clone(),
            problem.code.clone(),
            alias(problem.tablet_alias.as_ref()),
            time(problem.since.as_ref()),
            problem.remedy.clone(),
            problem.why.clone(),
        ]);
    }
    table.print()
}

/// The newest last: the one that holds.
fn decided(decisions: &[DecisionRecord]) -> String {
    let mut table = Table::new(&["DECIDED", "IS DONE", "TABLET", "WHY"]);
    for decision in decisions {
        let why = match &decision.blocked {
            None => decision.why.clone(),
            Some(blocked) => format!("{}; BLOCKED by {}", decision.why, report::block(blocked)),
        };
        let at = time(decision.since.as_ref());
        table.row([at, decision.action.clone(), alias(decision.tablet_alias.as_ref()), why]);
        for no in &decision.rejected {
            table.row([String::new(), format!("not: {}", no.action), String::new(), no.why.clone()]);
        }
    }
    table.print_rows()
}

fn recoveries(recoveries: &[Recovery]) -> String {
    let answer =
        HistoryResponse { recoveries: recoveries.to_vec(), count: recoveries.len() as u64, ..HistoryResponse::default() };
    if recoveries.is_empty() { String::new() } else { report::history(&answer) }
}
