//! A primary that answers and does not work as one: its disk, its writability, its source, another one in its place.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Code, Ground, Problem, Remedy, Repair,
    facts::{Facts, names, problem, report, secs},
};
use crate::{
    mysql::GtidSet,
    pb::topodata::TabletType,
    shard::{Link, TabletStatus, TabletView, is_disk_full, is_file_system_read_only},
    topo::TabletAlias,
};

/// Problems of the declared primary's MySQL, and of whoever works in its place.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let Some((alias, tablet)) = facts.primary else { return Vec::new() };
    let mut found = Vec::new();
    found.extend(stalled_disk(facts, alias, tablet));
    found.extend(failing_disk(facts, alias, tablet));
    found.extend(slow(facts, alias, tablet));
    let Some((_, _, status)) = facts.primary_status() else { return found };
    let wrong = facts.acting_instead();
    if let Some(wrong) = wrong {
        let why = format!("{wrong} is writable and replicated from; the topology declares {alias}, which is read-only");
        found.push(problem(Code::WrongPrimary, alias, why, Remedy::Takeover { to: Some(alias.clone()), then_emergency: false }));
    }
    let rivals = facts.rivals();
    if !rivals.is_empty() && wrong.is_none() {
        let why = format!("{} too: writable and replicated from", names(&rivals));
        found.push(report(Code::SeveralPrimaries, alias, why));
    }
    found.extend(has_source(facts, alias, status, wrong));
    found.extend(read_only(facts, alias, status, wrong, &rivals));
    found.extend(offline(facts, (alias, tablet), status, wrong, &rivals));
    found
}

/// A vttablet whose disk hangs says nothing else, and says it whether its MySQL answers or not.
fn stalled_disk(facts: &Facts, alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
    let seen = tablet.status.as_ref().filter(|seen| seen.age <= facts.rules.status_max_age && seen.what.disk_stalled)?;
    let why = format!("its tablet said {} ago that writes to its disk hang", secs(seen.age));
    let remedy = if facts.rules.recover_stalled_disk { Remedy::Emergency(Ground::PrimaryIncapable) } else { Remedy::Report };
    Some(problem(Code::PrimaryDiskStalled, alias, why, remedy))
}

/// The primary's own words while it answers with errors, for long enough that nobody clears the disk meanwhile.
fn failing_disk(facts: &Facts, alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
    let channels = [Some(&tablet.mysql), tablet.direct.as_ref()];
    let failing = channels.into_iter().flatten().filter_map(|channel| channel.failing.as_ref());
    let (code, failing) = failing.into_iter().find_map(|failing| match &failing.words {
        words if is_file_system_read_only(words) => Some((Code::PrimaryFileSystemReadOnly, failing)),
        words if is_disk_full(words) => Some((Code::PrimaryDiskFull, failing)),
        _ => None,
    })?;
    let why = format!("it says for {}: {}", secs(failing.since), failing.words);
    let lasts = failing.since >= facts.rules.manager_dead_for;
    let remedy = match code {
        _ if !lasts || !facts.has_healthy_replica() => Remedy::Report,
        Code::PrimaryFileSystemReadOnly => Remedy::Emergency(Ground::PrimaryIncapable),
        _ => Remedy::Takeover { to: None, then_emergency: true },
    };
    Some(problem(code, alias, why, remedy))
}

/// Slower than that is slow to anybody; below it a factor says little.
const SLOW_AT_LEAST: Duration = Duration::from_millis(200);

/// Reported from this factor on where no other is set.
const SLOW_FACTOR: u32 = 10;

/// Slow against its own baseline, while the others are not: else it is our own network that is slow.
fn slow(facts: &Facts, alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
    let factor = facts.rules.slow_primary_factor.unwrap_or(SLOW_FACTOR);
    let is_slow = |tablet: &TabletView| {
        tablet.pace.is_some_and(|pace| pace.now >= SLOW_AT_LEAST && pace.now >= pace.usual.saturating_mul(factor))
    };
    let half_as_slow = |(_, tablet): (_, &TabletView)| tablet.pace.is_some_and(|pace| pace.now * 2 >= SLOW_AT_LEAST);
    let pace = tablet.pace.filter(|_| is_slow(tablet) && tablet.mysql.works())?;
    let others_known = facts.others().any(|(_, other)| other.pace.is_some());
    if facts.others().any(half_as_slow) {
        return None;
    }
    let why = format!("it answers within {:?}, usually {:?}; the others are as fast as ever", pace.now, pace.usual);
    let remedy = match facts.rules.slow_primary_factor {
        Some(_) if others_known && facts.has_healthy_replica() => Remedy::Takeover { to: None, then_emergency: true },
        _ => Remedy::Report,
    };
    Some(problem(Code::SlowPrimary, alias, why, remedy))
}

/// A source is forgotten only where nothing that it has is left to come or to apply, and where it is not what really works.
fn has_source(facts: &Facts, alias: &TabletAlias, status: &TabletStatus, wrong: Option<&TabletAlias>) -> Option<Problem> {
    let replication = status.replication.as_ref()?;
    let source = facts.view.tablet_at(&replication.source_host, replication.source_port);
    let name = source.map_or_else(|| format!("{}:{}", replication.source_host, replication.source_port), ToString::to_string);
    let has = |other: Option<&Arc<GtidSet>>| other.zip(status.executed.as_ref()).is_some_and(|(other, own)| own.contains(other));
    let of_source = source.and_then(|source| facts.status(&facts.view.tablets[source]));
    let follows = replication.link() == Link::Up;
    let may_come = status.read_only || follows;
    let (what, remedy) = match of_source {
        _ if wrong.is_some() => ("which works as primary", Remedy::Report),
        _ if !has(status.received.as_ref()) => ("and has not applied all that it received", Remedy::Report),
        Some(of_source) if follows && !of_source.read_only => ("which has to become read-only first", Remedy::Report),
        Some(of_source) if may_come && !has(of_source.executed.as_ref()) => {
            ("and has not received all that it has", Remedy::Report)
        }
        _ if status.read_only && follows && source.is_none() => {
            ("which no tablet's record names, and follows it", Remedy::Report)
        }
        _ => ("and is to have none", Remedy::Fix(Repair::ForgetSource)),
    };
    Some(problem(Code::PrimaryHasPrimary, alias, format!("it replicates from {name}, {what}"), remedy))
}

/// Writable again, unless somebody else works in its place or it lacks what others have.
fn read_only(
    facts: &Facts,
    alias: &TabletAlias,
    status: &TabletStatus,
    wrong: Option<&TabletAlias>,
    rivals: &BTreeSet<TabletAlias>,
) -> Vec<Problem> {
    if !status.read_only || status.disk_stalled {
        return Vec::new();
    }
    let others: BTreeSet<TabletAlias> = wrong.into_iter().chain(rivals).cloned().collect();
    let lost = lost_transactions(facts, status);
    let (why, remedy) = match () {
        () if !others.is_empty() => (format!("and {} is writable", names(&others)), Remedy::Report),
        () if status.replication.is_some() => ("and has a source, which it has to forget first".to_owned(), Remedy::Report),
        () if lost.is_some() => ("and lacks transactions that others have".to_owned(), Remedy::Report),
        () if facts.declared_type() != Some(TabletType::Primary) => ("and its record is not PRIMARY".to_owned(), Remedy::Report),
        () => ("and declared primary".to_owned(), Remedy::Fix(Repair::MakeWritable)),
    };
    let mut found = vec![problem(Code::PrimaryIsReadOnly, alias, format!("it is read-only {why}"), remedy)];
    found.extend(lost.map(|(holder, count)| {
        report(
            Code::PrimaryLostTransactions,
            alias,
            format!("{holder} has {count} transaction(s) that it lacks, and did not write them"),
        )
    }));
    found
}

/// No client gets in. Nobody waits for that to pass: whoever fences a primary holds the shard lock until another one is declared.
fn offline(
    facts: &Facts,
    (alias, tablet): (&TabletAlias, &TabletView),
    status: &TabletStatus,
    wrong: Option<&TabletAlias>,
    rivals: &BTreeSet<TabletAlias>,
) -> Option<Problem> {
    facts.refuses_clients_for(tablet)?;
    let others: BTreeSet<TabletAlias> = wrong.into_iter().chain(rivals).cloned().collect();
    let (why, remedy) = match () {
        () if !others.is_empty() => (format!("and {} is writable", names(&others)), Remedy::Report),
        () if status.replication.is_some() => ("and has a source, which it has to forget first".to_owned(), Remedy::Report),
        () if facts.declared_type() != Some(TabletType::Primary) => ("and its record is not PRIMARY".to_owned(), Remedy::Report),
        () => ("and declared primary".to_owned(), Remedy::Fix(Repair::LiftFence)),
    };
    Some(problem(Code::PrimaryIsOffline, alias, format!("it is in offline_mode {why}"), remedy))
}

/// What a replica had that was read before a read-only primary, and that the primary has not. What the replica wrote itself, and what is
/// known to be errant, may be on that replica alone; anything else was sent to it by somebody.
fn lost_transactions(facts: &Facts, status: &TabletStatus) -> Option<(TabletAlias, u128)> {
    let (asked, executed) = (facts.primary?.1.status.as_ref()?.age, status.executed.as_ref()?);
    facts.replicas().find_map(|(alias, replica)| {
        replica.status.as_ref().filter(|seen| seen.age > asked)?;
        let of_replica = facts.status(replica)?;
        let more = of_replica.received.as_ref()?.subtract(executed);
        let sent = of_replica.server_uuid.map_or_else(|| more.clone(), |own| more.without_server(own));
        let sent = replica.errant.as_ref().map_or_else(|| sent.clone(), |errant| sent.subtract(errant));
        (!sent.is_empty()).then(|| (alias.clone(), sent.count()))
    })
}
