//! Decisions in words, for a person who was woken by them: who becomes primary, what proves it, why not the others. The verdict stands last.

use tonic::Code;

use super::{
    report,
    show::{Table, alias, events, facts, or_dash},
};
use crate::pb::vtelector::{Decision, ErrantGtidsResponse, Proof, ReparentResponse, TabletDecision};

/// What a reparent would do.
pub fn dry_run(answer: &ReparentResponse) -> String {
    let mut parts = vec![events(&answer.events)];
    if let Some(decision) = &answer.decision {
        parts.extend(sections(decision));
    }
    parts.push(verdict(answer));
    parts.iter().map(|part| part.trim_end()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

fn verdict(answer: &ReparentResponse) -> String {
    let shard = format!("{}/{}", answer.keyspace, answer.shard);
    if let Some(refusal) = &answer.refusal {
        return format!("{shard}: WOULD BE REFUSED, {:?}: {}\nnothing was changed", Code::from(refusal.code), refusal.message);
    }
    match &answer.would_promote {
        Some(elect) => format!("{shard}: {} would become primary\nnothing was changed", alias(Some(elect))),
        None => format!("{shard}: nothing to do\nnothing was changed"),
    }
}

fn sections(decision: &Decision) -> Vec<String> {
    let mut head = vec![
        ("operation", decision.operation.clone()),
        ("policy", or_dash(&decision.policy)),
        ("old primary", alias(decision.old_primary.as_ref())),
        ("new primary", alias(decision.elect.as_ref())),
    ];
    if decision.source.is_some() {
        head.push(("copies first from", alias(decision.source.as_ref())));
    }
    vec![
        facts(head),
        proofs(&decision.proofs),
        tablets(decision),
        positions(&decision.tablets),
        list("STEPS", &decision.steps),
        list("CAVEATS", &decision.caveats),
    ]
}

fn proofs(proofs: &[Proof]) -> String {
    if proofs.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["PROOF", "HOLDS", "BECAUSE"]);
    for proof in proofs {
        let holds = if proof.holds { "yes" } else { "NO" };
        table.row([proof.name.clone(), holds.to_owned(), proof.because.clone()]);
    }
    table.print()
}

fn tablets(decision: &Decision) -> String {
    if decision.tablets.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["TABLET", "TYPE", "REACHED", "WHY NOT"]);
    for tablet in &decision.tablets {
        // The last column may be long, this one must not be: what went wrong stands there.
        let (reach, detail) = tablet.reach.split_once(": ").unwrap_or((&tablet.reach, "-"));
        let is_elect = decision.elect.is_some() && tablet.alias == decision.elect;
        let why_not = match &tablet.rejected {
            _ if is_elect => "(the new primary)",
            Some(reason) => reason,
            None => detail,
        };
        table.row([alias(tablet.alias.as_ref()), tablet.r#type.to_ascii_lowercase(), or_dash(reach), why_not.to_owned()]);
    }
    table.print()
}

/// GTID sets are too long for a column beside others.
fn positions(tablets: &[TabletDecision]) -> String {
    let known =
        |tablet: &&TabletDecision| !(tablet.received.is_empty() && tablet.executed.is_empty() && tablet.errant.is_empty());
    let mut table = Table::new(&["TABLET", "", "POSITION"]);
    for tablet in tablets.iter().filter(known) {
        let executed = if tablet.executed == tablet.received { "all of it".to_owned() } else { or_dash(&tablet.executed) };
        table.row([alias(tablet.alias.as_ref()), "received".to_owned(), or_dash(&tablet.received)]);
        table.row([String::new(), "executed".to_owned(), executed]);
        if !tablet.errant.is_empty() {
            table.row([String::new(), "ERRANT".to_owned(), tablet.errant.clone()]);
        }
    }
    if table.is_empty() { String::new() } else { table.print() }
}

fn list(heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[heading]);
    for (i, line) in lines.iter().enumerate() {
        table.row([format!("{}. {line}", i + 1)]);
    }
    table.print()
}

/// Who has errant transactions, and of whom that cannot be told.
pub fn errant_gtids(answer: &ErrantGtidsResponse) -> String {
    let mut table = Table::new(&["TABLET", "SHARD", "ERRANT", "COMPARED WITH", "AGE", "TRANSACTIONS"]);
    for tablet in &answer.errant {
        table.row([
            alias(tablet.tablet_alias.as_ref()),
            format!("{}/{}", tablet.keyspace, tablet.shard),
            tablet.count.to_string(),
            alias(tablet.compared_with.as_ref()),
            format!("{}.{:03} s", tablet.age_ms / 1000, tablet.age_ms % 1000),
            tablet.errant.clone(),
        ]);
    }
    for tablet in &answer.unjudged {
        let shard = format!("{}/{}", tablet.keyspace, tablet.shard);
        let unknown = format!("not known: {}", tablet.reason);
        table.row([alias(tablet.tablet_alias.as_ref()), shard, "?".to_owned(), "-".to_owned(), "-".to_owned(), unknown]);
    }
    let judged = format!("judged: {}, errant: {}, not known: {}", answer.judged, answer.errant.len(), answer.unjudged.len());
    report::sections(&[table.print_rows(), report::silent(&answer.silent), judged])
}
