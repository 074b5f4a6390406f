//! Every shard in a line.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Context,
    board::{self, time},
    millis,
    refusal::Refusal,
};
use crate::{
    diagnose::Priority,
    ledger::LedgerState,
    pb::{
        topodata::{Shard, Tablet, TabletType},
        vtelector::{ShardSummary, ShardsRequest, ShardsResponse, shard_summary::State},
    },
    recover::board::{Filter, ShardEntry},
    shard::{Link, ShardView},
    topo::{ShardId, Snapshot, TabletAlias},
};

/// Evidence that is older tells nothing of what replicates now.
const EVIDENCE_MAX: Duration = Duration::from_secs(10);

/// Shards with their primary, redundancy, problems and age of evidence: ours, those of the other electors, and as declared where nobody
/// tells.
pub async fn shards(context: &Context, request: ShardsRequest) -> Result<ShardsResponse, Refusal> {
    let filter = board::filter(context, &request.keyspace, &request.shard).await?;
    let mut shards = mine(context, &filter);
    if request.only_mine {
        return Ok(ShardsResponse { shards, silent: Vec::new() });
    }
    let heard = context.others.shards(&filter).await;
    let known = shards.iter().map(id).collect();
    let theirs = heard.merged(&known, |answer| &answer.shards, id);
    shards.extend(theirs.into_iter().map(|shard| ShardSummary { mine: false, ..shard }));
    let known = shards.iter().map(id).collect();
    shards.extend(context.senses.declared().map(|snapshot| declared(&snapshot, &filter, &known)).unwrap_or_default());
    shards.sort_by(|one, other| (&one.keyspace, &one.shard).cmp(&(&other.keyspace, &other.shard)));
    Ok(ShardsResponse { shards, silent: heard.silent.clone() })
}

fn id(summary: &ShardSummary) -> ShardId {
    ShardId { keyspace: summary.keyspace.clone(), shard: summary.shard.clone() }
}

/// The shards of which nobody tells, as the topology declares them.
fn declared(snapshot: &Snapshot, filter: &Filter, known: &BTreeSet<ShardId>) -> Vec<ShardSummary> {
    let untold: BTreeMap<&ShardId, &Shard> = (snapshot.shards.iter())
        .filter(|(shard, _)| filter.wants(shard) && !known.contains(*shard))
        .map(|(shard, record)| (shard, &**record))
        .collect();
    if untold.is_empty() {
        return Vec::new();
    }
    let mut tablets: BTreeMap<(&str, &str), Vec<&Tablet>> = BTreeMap::new();
    for tablet in snapshot.cells.values().flat_map(|cell| cell.tablets.values()) {
        tablets.entry((&tablet.keyspace, &tablet.shard)).or_default().push(tablet);
    }
    let summaries = untold.into_iter().map(|(shard, record)| {
        let tablets = tablets.remove(&(shard.keyspace.as_str(), shard.shard.as_str())).unwrap_or_default();
        let primary = tablets.iter().find(|tablet| record.primary_alias.is_some() && tablet.alias == record.primary_alias);
        ShardSummary {
            keyspace: shard.keyspace.clone(),
            shard: shard.shard.clone(),
            state: State::Unknown as i32,
            primary: record.primary_alias.clone(),
            primary_hostname: primary.map(|tablet| tablet.hostname.clone()).unwrap_or_default(),
            tablets: u32::try_from(tablets.len()).unwrap_or(u32::MAX),
            durability_policy: snapshot
                .keyspaces
                .get(&shard.keyspace)
                .map(|found| found.durability_policy.clone())
                .unwrap_or_default(),
            ..ShardSummary::default()
        }
    });
    summaries.collect()
}

/// Those that this elector looks after.
pub fn mine(context: &Context, filter: &Filter) -> Vec<ShardSummary> {
    let entries = context.board.snapshot(filter);
    let (state, now) = (context.ledger.state(), context.ledger.now());
    let watched = context.senses.shards().borrow().clone();
    let views = watched.iter().filter(|shard| filter.wants(shard)).filter_map(|shard| context.senses.view(shard));
    let me = &context.hands.settings.who;
    views.map(|view| summary(&view, entries.get(&view.shard).map(|entry| &**entry), &state, now.wall, me)).collect()
}

/// One shard of this elector.
pub fn summary(
    view: &ShardView,
    entry: Option<&ShardEntry>,
    ledger: &LedgerState,
    now: std::time::SystemTime,
    me: &str,
) -> ShardSummary {
    let primary = view.primary();
    let record = primary.and_then(|alias| view.tablets.get(alias)).map(|tablet| tablet.record.clone());
    let replicas = replicas(view, primary);
    let linked = |alias: &&&TabletAlias| primary.is_some_and(|primary| view.link(alias, primary, EVIDENCE_MAX) == Link::Up);
    let problems = entry.map(|entry| entry.problems.as_slice()).unwrap_or_default();
    let ages: Option<Vec<u64>> = view.tablets.values().map(|tablet| Some(millis(tablet.status.as_ref()?.age))).collect();
    let in_maintenance = ledger.maintenance(&view.shard, None, now).is_some()
        || view.tablets.keys().any(|alias| ledger.maintenance(&view.shard, Some(alias), now).is_some());
    ShardSummary {
        keyspace: view.shard.keyspace.clone(),
        shard: view.shard.shard.clone(),
        state: state(view, entry) as i32,
        primary: primary.map(Into::into),
        primary_hostname: record.map(|record| record.hostname.clone()).unwrap_or_default(),
        tablets: u32::try_from(view.tablets.len()).unwrap_or(u32::MAX),
        replicas: u32::try_from(replicas.len()).unwrap_or(u32::MAX),
        replicating: u32::try_from(replicas.iter().filter(linked).count()).unwrap_or(u32::MAX),
        durability_policy: policy(view),
        problems: u32::try_from(problems.len()).unwrap_or(u32::MAX),
        worst: problems.first().map(|open| board::problem(&view.shard, &open.problem, Some(open.since))),
        blocked: entry.and_then(|entry| entry.decision.decision.blocked.as_ref()).map(board::blocked),
        evidence_age_ms: ages.and_then(|ages| ages.into_iter().max()),
        elector: me.to_owned(),
        mine: true,
        in_maintenance,
    }
}

/// Whoever could be promoted or acknowledge, the primary not counted.
fn replicas<'a>(view: &'a ShardView, primary: Option<&TabletAlias>) -> BTreeSet<&'a TabletAlias> {
    let counts = |kind| matches!(kind, TabletType::Primary | TabletType::Replica | TabletType::Rdonly);
    let others = view.tablets.iter().filter(|(alias, tablet)| Some(*alias) != primary && counts(tablet.declared_type()));
    others.filter(|(_, tablet)| !tablet.is_shut_down()).map(|(alias, _)| alias).collect()
}

fn policy(view: &ShardView) -> String {
    match &view.keyspace.policy {
        _ if view.keyspace.policy_unset => String::new(),
        Ok(policy) => policy.name().to_owned(),
        Err(wrong) => wrong.clone(),
    }
}

/// Down is what takes no writes for certain, or may not: a problem of the whole shard, or no primary.
fn state(view: &ShardView, entry: Option<&ShardEntry>) -> State {
    match entry {
        _ if !view.looked => State::Unknown,
        None => State::Unknown,
        Some(entry) => match entry.problems.iter().map(|open| open.problem.code.priority()).min() {
            Some(Priority::Shard) => State::Down,
            Some(_) => State::Degraded,
            None if view.primary().is_none() && !view.keyspace.is_snapshot => State::Down,
            None => State::Ok,
        },
    }
}

/// When the declared primary's term began.
pub fn primary_since(view: &ShardView) -> Option<crate::pb::vttime::Time> {
    let (seconds, nanoseconds) = view.record.as_ref()?.term?;
    Some(crate::pb::vttime::Time { seconds, nanoseconds })
}

/// The moment of an answer.
pub fn at(context: &Context) -> crate::pb::vttime::Time {
    time(context.ledger.now().wall)
}
