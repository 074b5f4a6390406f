//! A primary that does not answer: dead, silent, cut off from us, or without its tablet manager (safety rules, section 9).
//!
//! Two roads lead to "dead". *Gone*: its own host says that nobody is there, a replica that was asked after that has lost it, and none has
//! it. *Silent*: nothing was heard on any channel for 1.5 s, every replica that answers was made to testify, and none was greeted.
//! Whatever shows that its MySQL lives closes both.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Code, Ground, Problem, Remedy,
    facts::{Facts, answers, how, names, problem, report, secs},
    testimony::{Silence, Word},
};
use crate::{
    shard::{FailureClass, Link, TabletView},
    topo::TabletAlias,
};

/// Problems of a declared primary whose MySQL or tablet manager we do not reach.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let Some((alias, tablet)) = facts.primary else { return Vec::new() };
    let mut found = Vec::new();
    if tablet.status.is_none() && tablet.mysql.failing.is_some() {
        found.push(report(Code::InvalidPrimary, alias, "it has never answered since this elector watches it"));
    }
    match Silence::of(facts) {
        Some(silence) => found.push(verdict(facts, &silence)),
        None if answers(tablet) => {
            found.extend(manager_dead(facts, alias, tablet, "its MySQL answers us"));
            found.extend(full(alias, tablet));
            found.extend(early_warnings(facts, alias, tablet));
        }
        None => {}
    }
    found
}

fn verdict(facts: &Facts, silence: &Silence) -> Problem {
    if silence.lives_for_us() || silence.anybody(Word::Greeted) {
        return alive(facts, silence);
    }
    if !silence.replicas().any(|one| one.answers) {
        return all_out_of_sight(silence);
    }
    match dead(facts, silence) {
        Some(why) => problem(code_of_dead(silence), silence.alias, why, Remedy::Emergency(Ground::PrimaryDead)),
        None if silence.class.is_none() => shut_down(silence),
        None => unseen(facts, silence),
    }
}

/// Why it is dead; `None` while that is not proven. At least one replica answers, and nobody was greeted.
fn dead(facts: &Facts, silence: &Silence) -> Option<String> {
    let gone = silence.who(Word::Gone);
    let seen = what_we_see(silence);
    let lasts = silence.class.is_some() && silence.lasts(facts.rules.dead_after);
    let has_it = silence.anybody(Word::Content) || silence.anybody(Word::Searching);
    let not_asked = silence.replicas().any(|one| one.word == Word::NotAsked);
    let lost = format!("{seen}; lost by {}", names(&gone));
    if !has_it && !gone.is_empty() {
        let of_its_host = silence.is_gone() && (!not_asked || silence.since >= ASK_FIRST);
        let of_all = is_gone_with_its_manager(silence) && silence.replicas().all(|one| one.word == Word::Gone);
        let shut_down = silence.class.is_none() && !not_asked;
        if of_its_host || of_all || shut_down {
            return Some(lost);
        }
    }
    if lasts && silence.is_gone() && !has_it && !not_asked {
        return Some(format!("{seen}; its own host says so, and no replica has it"));
    }
    (lasts && !gone.is_empty() && !not_asked && silence.to_be_asked().is_empty()).then_some(lost)
}

/// A replica that answers is given that long to say what it sees, once the primary's host has said that nobody is there.
const ASK_FIRST: Duration = Duration::from_millis(250);

/// Its tablet manager is gone as well: then only all replicas together are believed at once.
fn is_gone_with_its_manager(silence: &Silence) -> bool {
    silence.tablet.mysql.is_gone() && silence.tablet.manager.is_gone()
}

fn code_of_dead(silence: &Silence) -> Code {
    if silence.replicas().all(|one| one.answers) { Code::DeadPrimary } else { Code::DeadPrimaryAndSomeReplicas }
}

/// Its MySQL takes connections, and we do not reach it.
fn alive(facts: &Facts, silence: &Silence) -> Problem {
    let (alias, tablet) = (silence.alias, silence.tablet);
    let witnesses = silence.who(Word::Greeted);
    let seen = match (witnesses.is_empty(), what_we_see(silence)) {
        (true, seen) => format!("{seen}; it answered over a connection of our own"),
        (false, seen) => format!("{seen}; it greets {}", names(&witnesses)),
    };
    if let Some(dead) = manager_dead(facts, alias, tablet, &seen) {
        return dead;
    }
    if tablet.manager.works() && silence.lasts(facts.rules.incapacitated_for) {
        let remedy = Remedy::Takeover { to: None, then_emergency: true };
        return problem(Code::IncapacitatedPrimary, alias, format!("{seen}; it takes connections and answers nothing"), remedy);
    }
    report(code_of_unseen(silence), alias, seen)
}

/// Its MySQL lives, and its tablet manager does not answer.
fn manager_dead(facts: &Facts, alias: &TabletAlias, tablet: &TabletView, seen: &str) -> Option<Problem> {
    let failing = tablet.manager.failing.as_ref().filter(|failing| failing.class != FailureClass::Answered)?;
    let why = format!("{seen}; its tablet manager does not answer for {} ({})", secs(failing.since), how(failing.class));
    let lasts = |at_least| tablet.manager.fails_for(at_least) && failing.since + MANAGER_KNOWN_LATE >= at_least;
    if tablet.is_shut_down() {
        return Some(report(Code::PrimaryTabletDead, alias, format!("{why}; it was shut down on purpose")));
    }
    if lasts(facts.rules.manager_dead_for) {
        return Some(problem(Code::PrimaryTabletDead, alias, why, Remedy::Emergency(Ground::ManagerDead)));
    }
    (tablet.mysql.failing.is_none() && lasts(facts.rules.silent_for)).then(|| report(Code::PrimaryTabletDead, alias, why))
}

/// How much later than its silence a tablet manager's first failure is known at most: it is asked less often than MySQL.
const MANAGER_KNOWN_LATE: Duration = Duration::from_millis(750);

/// Its tablet's pooled connections work, and nobody else gets in.
fn full(alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
    let failing = tablet.direct.as_ref()?.failing.as_ref().filter(|failing| failing.class == FailureClass::TooManyConnections)?;
    let why = format!("it takes no connection of ours for {}; its tablet still answers", secs(failing.since));
    Some(report(Code::PrimaryTooManyConnections, alias, why))
}

/// Replicas that lost a primary of which we think well: it is asked again at once, unless it answered after they complained.
fn early_warnings<'a>(facts: &Facts<'a>, primary: &'a TabletAlias, tablet: &'a TabletView) -> Vec<Problem> {
    let complains = |(alias, replica): (&'a TabletAlias, &'a TabletView)| {
        let age = replica.status.as_ref().filter(|_| facts.link(replica) == Link::Lost)?.age;
        let error = facts.status(replica)?.replication.as_ref()?.io_error.clone();
        let answered_after = tablet.mysql.last_good.is_some_and(|good| good < age);
        let remedy = if answered_after { Remedy::Report } else { Remedy::Reread(BTreeSet::from([primary.clone()])) };
        Some(problem(Code::ReplicaFailingToConnectToPrimary, alias, error, remedy))
    };
    facts.replicas().filter_map(complains).collect()
}

/// A tablet that was shut down on purpose is not asked; its replicas say whether its MySQL went with it.
fn shut_down(silence: &Silence) -> Problem {
    let content = silence.who(Word::Content);
    let why = match content.is_empty() {
        true => "its tablet was shut down on purpose, and no replica says whether its MySQL went with it".to_owned(),
        false => format!("its tablet was shut down on purpose; its MySQL works for {}", names(&content)),
    };
    report(Code::PrimaryTabletDead, silence.alias, why)
}

fn all_out_of_sight(silence: &Silence) -> Problem {
    let (seen, replicas) = (what_we_see(silence), names(silence.replicas().map(|one| one.alias)));
    if silence.replicas().next().is_none() {
        return report(Code::DeadPrimaryWithoutReplicas, silence.alias, format!("{seen}; it has no replica"));
    }
    let why = format!("{seen}; neither does any replica ({replicas}): perhaps it is we who are cut off");
    report(Code::DeadPrimaryAndReplicas, silence.alias, why)
}

/// Nothing proves it dead, and nothing that it lives: whom to ask next. A greeting that is asked for costs nothing; where that was in
/// vain, only an action makes a replica testify, and that waits longer.
fn unseen(facts: &Facts, silence: &Silence) -> Problem {
    let (seen, code) = (what_we_see(silence), code_of_unseen(silence));
    let say = |what: String, remedy| problem(code, silence.alias, format!("{seen}; {what}"), remedy);
    let reread =
        |tablets: BTreeSet<TabletAlias>| say(format!("{} shall be read again", names(&tablets)), Remedy::Reread(tablets));
    let not_asked = silence.who(Word::NotAsked);
    let has_it: BTreeSet<TabletAlias> = &silence.who(Word::Content) | &silence.who(Word::Searching);
    let (not_heard, to_be_asked) = (silence.not_heard(), silence.to_be_asked());
    let may_act = silence.lasts(facts.rules.silent_for);
    if !not_asked.is_empty() {
        reread(not_asked)
    } else if !not_heard.is_empty() && (silence.is_gone() || silence.lasts(facts.rules.witness_after)) {
        say(format!("{} shall testify", names(&not_heard)), Remedy::Testify)
    } else if !has_it.is_empty() && silence.is_gone() && !may_act {
        reread(has_it)
    } else if !to_be_asked.is_empty() && may_act {
        say(format!("{} shall testify", names(&to_be_asked)), Remedy::Testify)
    } else if silence.lasts(facts.rules.dead_after) {
        say("nobody can tell whether it lives".to_owned(), Remedy::Report)
    } else {
        say("not for long enough to prove anything".to_owned(), Remedy::Reread(BTreeSet::from([silence.alias.clone()])))
    }
}

fn code_of_unseen(silence: &Silence) -> Code {
    if silence.class == Some(FailureClass::TooManyConnections) {
        return Code::PrimaryTooManyConnections;
    }
    let valid = || silence.replicas().filter(|one| one.answers);
    let content = valid().filter(|one| one.link == Link::Up).count();
    if content > 0 && valid().all(|one| one.link == Link::Up && one.lags) {
        Code::UnreachablePrimaryWithLaggingReplicas
    } else if content > 0 && content < valid().count() {
        Code::UnreachablePrimaryWithBrokenReplicas
    } else {
        Code::UnreachablePrimary
    }
}

fn what_we_see(silence: &Silence) -> String {
    let Some(class) = silence.class else { return "its tablet was shut down".to_owned() };
    let heard = silence.last_good.map_or_else(|| "never heard".to_owned(), |age| format!("last heard {} ago", secs(age)));
    format!("its MySQL does not answer us for {} ({}, {heard})", secs(silence.since), how(class))
}
