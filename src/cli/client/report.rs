//! What is wrong, what was done and what is switched off, in words: one thing a line, the newest or most urgent where the eye falls first.

use super::show::{Table, alias, facts, or_dash, time};
use crate::pb::vtelector::{event::What, *};

fn shard_name(keyspace: &str, shard: &str) -> String {
    format!("{keyspace}/{shard}")
}

/// Sections with an empty line between; empty ones are left out.
pub fn sections(parts: &[String]) -> String {
    parts.iter().map(|part| part.trim_end()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Electors that did not answer; nothing where all did.
pub fn silent(silent: &[SilentElector]) -> String {
    let mut table = Table::new(&["SILENT ELECTOR", "WHY"]);
    for elector in silent {
        table.row([elector.elector.clone(), elector.reason.clone()]);
    }
    table.print_rows()
}

/// Lines below a heading; nothing where there are none.
pub fn list(heading: &str, lines: &[String]) -> String {
    let mut table = Table::new(&[heading]);
    for line in lines {
        table.row([line.clone()]);
    }
    table.print_rows()
}

/// What persons asked for; nothing where there is none.
pub fn commands(commands: &[Command]) -> String {
    let mut table = Table::new(&["AT", "CALL", "OF", "BY", "PROVEN BY", "FROM", "OUTCOME", "WHY"]);
    for command in commands {
        table.row([
            time(command.at.as_ref()),
            command.call.clone(),
            or_dash(&command.target),
            or_dash(&command.caller),
            or_dash(&command.proven_by),
            or_dash(&command.from),
            command.outcome.clone(),
            or_dash(&command.failure),
        ]);
    }
    table.print_rows()
}

pub fn problems(answer: &ProblemsResponse) -> String {
    let mut table = Table::new(&["SHARD", "PRIORITY", "PROBLEM", "TABLET", "SINCE", "WHY"]);
    for problem in &answer.problems {
        table.row([
            shard_name(&problem.keyspace, &problem.shard),
            problem.priority.clone(),
            problem.code.clone(),
            alias(problem.tablet_alias.as_ref()),
            time(problem.since.as_ref()),
            problem.why.clone(),
        ]);
    }
    let mut done = Table::new(&["SHARD", "IS DONE", "TABLET", "SINCE", "WHY"]);
    for decision in &answer.decisions {
        done.row(decision_cells(decision));
    }
    let count = format!("shards looked after: {}, problems: {}", answer.shards, answer.problems.len());
    sections(&[table.print_rows(), done.print_rows(), silent(&answer.silent), count])
}

fn decision_cells(decision: &DecisionRecord) -> [String; 5] {
    let why = match &decision.blocked {
        None => decision.why.clone(),
        Some(blocked) => format!("{}; BLOCKED by {}", decision.why, block(blocked)),
    };
    [
        shard_name(&decision.keyspace, &decision.shard),
        decision.action.clone(),
        alias(decision.tablet_alias.as_ref()),
        time(decision.since.as_ref()),
        why,
    ]
}

/// A block with its end.
pub fn block(blocked: &Blocked) -> String {
    let until = blocked.until.as_ref().map_or_else(String::new, |until| format!(", until {}", time(Some(until))));
    format!("{}{until}: {}", blocked.by, blocked.reason)
}

pub fn decisions(answer: &DecisionsResponse) -> String {
    let mut table = Table::new(&["SHARD", "IS DONE", "TABLET", "SINCE", "WHY"]);
    for decision in &answer.decisions {
        table.row(decision_cells(decision));
        for no in &decision.rejected {
            table.row([String::new(), format!("not: {}", no.action), String::new(), String::new(), no.why.clone()]);
        }
    }
    let listed = answer.decisions.len() as u64;
    let of_all = if answer.count > listed { format!(", the newest of {}", answer.count) } else { String::new() };
    let count = format!("shards looked after: {}, decisions: {listed}{of_all}", answer.shards);
    sections(&[table.print_rows(), silent(&answer.silent), count])
}

pub fn history(answer: &HistoryResponse) -> String {
    let mut table = Table::new(&["ENDED", "SHARD", "KIND", "PROBLEM", "FROM", "TO", "TOOK", "OUTCOME", "BY", "WHY"]);
    for recovery in &answer.recoveries {
        let why = if recovery.failure.is_empty() { &recovery.evidence } else { &recovery.failure };
        table.row([
            time(recovery.at.as_ref()),
            shard_name(&recovery.keyspace, &recovery.shard),
            recovery.kind.clone(),
            recovery.code.clone(),
            alias(recovery.old.as_ref()),
            alias(recovery.promoted.as_ref()),
            format!("{}.{:03} s", recovery.took_ms / 1000, recovery.took_ms % 1000),
            recovery.outcome.clone(),
            recovery.who.clone(),
            why.clone(),
        ]);
    }
    let unread = if answer.unread.is_empty() { String::new() } else { format!("MAY NOT BE ALL: {}", answer.unread) };
    let dropped = match answer.dropped {
        0 => String::new(),
        dropped => format!("; {dropped} older ones were dropped because there were too many"),
    };
    let count = format!("recoveries: {}, shown: {}{dropped}", answer.count, answer.recoveries.len());
    sections(&[table.print_rows(), unread, count])
}

pub fn acknowledged(answer: &AcknowledgeResponse) -> String {
    match answer.shards.as_slice() {
        [] => "nothing to acknowledge".to_owned(),
        shards => shards.iter().map(|shard| format!("{shard}: acknowledged\n")).collect(),
    }
}

pub fn begun(answer: &BeginMaintenanceResponse) -> String {
    let window = answer.window.clone().unwrap_or_default();
    let (scope, until) = (&window.scope, time(window.until.as_ref()));
    format!("maintenance {} of {scope} until {until}; end it with: maintenance end {}", window.id, window.id)
}

pub fn maintenance(windows: &[MaintenanceWindow]) -> String {
    let mut table = Table::new(&["MAINTENANCE", "OF", "UNTIL", "OWNER", "REASON"]);
    for window in windows {
        let until = time(window.until.as_ref());
        table.row([window.id.clone(), window.scope.clone(), until, window.owner.clone(), window.reason.clone()]);
    }
    if table.is_empty() { "no maintenance".to_owned() } else { table.print() }
}

/// Whether something stands in the way of recoveries, or waits for one.
pub fn is_finding(answer: &GetStatusResponse) -> bool {
    answer.problems > 0
        || !answer.not_ready.is_empty()
        || answer.recoveries_disabled.is_some()
        || !answer.blocked.is_empty()
        || !answer.garbage.is_empty()
        || !answer.settings_error.is_empty()
        || !answer.webhooks_error.is_empty()
        || answer.webhooks.iter().any(|webhook| webhook.failures > 0)
}

pub fn status(answer: &GetStatusResponse) -> String {
    let recoveries = match &answer.recoveries_disabled {
        None => "enabled".to_owned(),
        Some(off) => format!("DISABLED by {} since {}: {}", off.who, time(off.since.as_ref()), off.why),
    };
    let ready = if answer.not_ready.is_empty() { "yes".to_owned() } else { format!("NO: {}", answer.not_ready) };
    let mut head = vec![
        ("elector", format!("{}, release {}", or_dash(&answer.who), or_dash(&answer.version))),
        ("ready", ready),
        ("recoveries", recoveries),
        ("shards looked after", answer.shards.to_string()),
        ("problems", answer.problems.to_string()),
    ];
    if !answer.settings_error.is_empty() {
        head.push(("settings", format!("OLD ONES IN FORCE: {}", answer.settings_error)));
    }
    if !answer.webhooks_error.is_empty() {
        head.push(("webhooks", format!("OLD ONES IN FORCE: {}", answer.webhooks_error)));
    }
    let mut webhooks = Table::new(&["RECEIVER OF EVENTS", "DELIVERED BY", "UP TO", "PENDING", "LAST FAILURE"]);
    for webhook in &answer.webhooks {
        let failure =
            if webhook.failures == 0 { "-".to_owned() } else { format!("{} times: {}", webhook.failures, webhook.error) };
        let (up_to, pending) = (webhook.delivered_sequence.to_string(), webhook.pending.to_string());
        webhooks.row([webhook.name.clone(), or_dash(&webhook.deliverer), up_to, pending, failure]);
    }
    let mut blocked = Table::new(&["SHARD", "BLOCKED BY"]);
    for shard in &answer.blocked {
        blocked.row([shard_name(&shard.keyspace, &shard.shard), shard.blocked.as_ref().map(block).unwrap_or_default()]);
    }
    let mut garbage = Table::new(&["UNREADABLE IN THE LEDGER", "WHY"]);
    for value in &answer.garbage {
        garbage.row([value.key.clone(), value.reason.clone()]);
    }
    let windows = if answer.maintenance.is_empty() { String::new() } else { maintenance(&answer.maintenance) };
    sections(&[facts(head), blocked.print_rows(), windows, webhooks.print_rows(), garbage.print_rows()])
}

/// One event in one line.
pub fn event(event: &Event) -> String {
    let about = |name: &str, tablet: String| if tablet == "-" { name.to_owned() } else { format!("{name} {tablet}") };
    let what = match &event.what {
        None => "something that this release does not know".to_owned(),
        Some(What::Opened(problem)) => {
            format!("problem: {}: {}", about(&problem.code, alias(problem.tablet_alias.as_ref())), problem.why)
        }
        Some(What::Closed(problem)) => format!("gone: {}", about(&problem.code, alias(problem.tablet_alias.as_ref()))),
        Some(What::Decided(decision)) => {
            let [_, action, tablet, _, why] = decision_cells(decision);
            format!("decision: {}: {why}", about(&action, tablet))
        }
        Some(What::Recovered(recovery)) => {
            let took = format!("{}.{:03} s", recovery.took_ms / 1000, recovery.took_ms % 1000);
            let why = if recovery.failure.is_empty() { String::new() } else { format!(": {}", recovery.failure) };
            let promoted = alias(recovery.promoted.as_ref());
            let to = if promoted == "-" { String::new() } else { format!(", {promoted} is primary") };
            format!("recovery: {} of {} {} after {took}{to}{why}", recovery.kind, recovery.code, recovery.outcome)
        }
        Some(What::LeftAlone(LeftAlone {})) => "no longer looked after by this elector".to_owned(),
        Some(What::Dropped(EventsDropped {})) => "events up to this one are no longer in the log".to_owned(),
    };
    let number = if event.sequence == 0 { String::new() } else { format!("{}  ", event.sequence) };
    let line = format!("{number}{}  {}  {what}", time(event.at.as_ref()), shard_name(&event.keyspace, &event.shard));
    // What a server says must not move the reader's cursor.
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
