//! What must hold all the time, and what must hold when everything is over.

use std::sync::Arc;

use tokio::time::Instant;
use vtelector::{
    pb::topodata::TabletType,
    topo::{ShardTablets, TabletAlias},
};

use super::{
    guard::newer,
    mysqld::{Io, Process},
    net::Node,
    world::{State, World},
};

/// A rule that was broken.
pub type Violation = String;

/// Calls to tablets that one elector may make in a second of a small shard, whatever happens: more is a loop.
const CALLS_MAX: usize = 400;

/// Looks at what the last tick has brought; what is new and wrong, for the diary.
pub fn watch(state: &mut State, now: Instant, start: Instant) -> Vec<String> {
    let mut found = Vec::new();
    let unseen = state.acks[state.acks_seen..].to_vec();
    for ack in unseen {
        if state.writers.last().is_none_or(|(last, _)| *last != ack.server) {
            let again = state.promotions.iter().rev().find(|(_, host)| *host == ack.server).map(|(at, _)| *at);
            let rival =
                state.writers.last().copied().filter(|(_, since)| ack.asked > *since && again.is_none_or(|at| at < *since));
            match rival {
                Some((rival, _)) if state.writers.iter().any(|(before, _)| *before == ack.server) => {
                    let (one, other) = (&state.hosts[ack.server].alias, &state.hosts[rival].alias);
                    found.push(format!("two writers: {one} acknowledges a write that began after {other} had acknowledged one"));
                }
                _ => state.writers.push((ack.server, ack.at)),
            }
        }
    }
    state.acks_seen = state.acks.len();
    let second = (now - start).as_secs().saturating_sub(1);
    for ((node, at), calls) in &state.calls {
        if *at == second && *calls > CALLS_MAX {
            found.push(format!("a loop: {node:?} made {calls} calls in second {at}"));
        }
    }
    found.retain(|violation| state.violations.insert(violation.clone()));
    found.into_iter().map(|violation| format!("VIOLATION {violation}")).collect()
}

/// Acknowledged transactions that this server does not have.
pub fn lost(state: &State, primary: usize) -> Vec<String> {
    let has = state.hosts[primary].mysqld.executed;
    let missing = state.acks.iter().filter(|ack| ack.sequence > has.0[ack.server]);
    missing.map(|ack| format!("{}:{}", state.hosts[ack.server].alias, ack.sequence)).collect()
}

/// The primary, if the shard is as its topology says, everybody living follows, and nothing is left of any fault.
pub async fn converged(world: &Arc<World>) -> Result<usize, String> {
    let topo = world.topo(Node::Person);
    let record = topo.shard(&world.shard).await.map_err(|error| error.to_string())?.value;
    let tablets = topo.shard_tablets(&world.shard).await.map_err(|error| error.to_string())?;
    let named = record.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
    let primary = named.and_then(|alias| world.host_of(&alias)).ok_or("the shard record names nobody")?;
    let (needed, acks): (usize, Vec<bool>) =
        (world.acks_needed(primary), (0..world.shape.tablets).map(|host| world.may_ack(primary, host)).collect());
    check_records(world, primary, &tablets, record.primary_term_start_time.as_ref())?;
    let state = world.lock();
    let them = &state.hosts[primary];
    let mysqld = &them.mysqld;
    let is = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{}: {what}", them.alias)) };
    is(mysqld.runs() && them.manager.process == Process::Running, "the primary is not running")?;
    is(mysqld.accepts_writes(), "the primary is not writable")?;
    is(mysqld.source.is_none() || mysqld.io == Io::Stopped, "the primary replicates")?;
    is(mysqld.source_enabled == (needed > 0), "semi-sync of the primary is not as the policy says")?;
    is(mysqld.waiting.len() < 3, "commits hang")?;
    for (host, them) in state.hosts.iter().enumerate().filter(|(host, _)| *host != primary) {
        follows(&state, host, primary, acks[host]).map_err(|what| format!("{}: {what}", them.alias))?;
    }
    Ok(primary)
}

fn check_records(
    world: &World,
    primary: usize,
    tablets: &ShardTablets,
    term: Option<&vtelector::pb::vttime::Time>,
) -> Result<(), String> {
    let state = world.lock();
    for (host, them) in state.hosts.iter().enumerate() {
        if them.manager.process != Process::Running {
            continue;
        }
        let Some(record) = tablets.tablets.get(&them.alias) else { return Err(format!("{} has no record", them.alias)) };
        let is_primary = record.r#type() == TabletType::Primary;
        if is_primary != (host == primary) {
            return Err(format!("the record of {} says {:?}", them.alias, record.r#type()));
        }
        if record.r#type() != them.manager.tablet_type {
            return Err(format!("{} is {:?}, and its record says {:?}", them.alias, them.manager.tablet_type, record.r#type()));
        }
        if is_primary && newer(record.primary_term_start_time.as_ref(), term) {
            return Err(format!("the shard record has an older term than {}", them.alias));
        }
    }
    Ok(())
}

fn follows(state: &State, host: usize, primary: usize, acks: bool) -> Result<(), &'static str> {
    let mysqld = &state.hosts[host].mysqld;
    if !mysqld.runs() || state.hosts[host].manager.process != Process::Running {
        return if mysqld.accepts_writes() { Err("writable beside the primary") } else { Ok(()) };
    }
    if !mysqld.read_only {
        return Err("writable");
    }
    if is_errant(state, host, primary) {
        // It cannot follow, and a person is to look at it.
        return Ok(());
    }
    let checks = [
        (mysqld.source == Some(primary), "does not follow the primary"),
        (mysqld.io_connected(), "its IO thread does not run"),
        (mysqld.sql && mysqld.sql_error.is_none(), "its SQL thread does not run"),
        (!mysqld.offline, "offline_mode was left on"),
        (mysqld.replica_enabled == acks, "its semi-sync is not as the policy says"),
        (mysqld.apply_per_tick.is_some() || mysqld.lag() == 0, "it lags"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
}

/// Whether a server has what the primary lacks.
pub fn is_errant(state: &State, host: usize, primary: usize) -> bool {
    let (mut own, theirs) = (state.hosts[host].mysqld.executed, state.hosts[primary].mysqld.binlog);
    own.0[primary] = 0;
    !theirs.contains(&own)
}
