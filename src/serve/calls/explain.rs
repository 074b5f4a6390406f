//! Everything about one shard.

use std::time::Duration;

use tonic::Code;

use super::{
    Context, board, elector, input, ledger, millis, overview,
    refusal::Refusal,
    reparent,
    wish::{self, Allowed},
};
use crate::{
    pb::{
        vtctldata::EmergencyReparentShardRequest,
        vtelector::{Blocked, ChannelState, ExplainRequest, ExplainResponse, ReparentResponse, ReplicationState, TabletState},
        vttime,
    },
    shard::{Channel, FailureClass, Greeting, IoState, OfflineMode, Replication, ShardView, TabletStatus, TabletView},
    topo::{ShardId, TabletAlias},
};

/// Decisions and recoveries that are listed where the request does not say how many.
const LISTED_DEFAULT: usize = 32;
/// What another elector may take to look into its memory.
const FORWARDED_LIMIT: Duration = Duration::from_secs(2);

/// Declared and observed, what is wrong, what was decided and done, and what would be done now.
pub async fn explain(context: &Context, request: ExplainRequest) -> Result<ExplainResponse, Refusal> {
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let filter = board::filter(context, &id.keyspace, &id.shard).await?;
    let Some(view) = context.senses.view(&id) else {
        if request.only_mine {
            return Err(Refusal::new(Code::NotFound, format!("{id} is not looked after by this elector: ask another one")));
        }
        return elsewhere(context, &id, request).await;
    };
    let limit = if request.limit == 0 { LISTED_DEFAULT } else { request.limit as usize };
    let (state, now) = (context.ledger.state(), context.ledger.now());
    let entry = context.board.snapshot(&filter).remove(&id);
    let rules = context.live.borrow().flap;
    let mut answer = ExplainResponse {
        summary: Some(overview::summary(&view, entry.as_ref(), &state, now.wall, &context.hands.settings.who)),
        tablets: view.tablets.iter().map(|(alias, tablet)| self::tablet(&view, alias, tablet)).collect(),
        recoveries: state
            .history(now, |shard| *shard == id)
            .into_iter()
            .take(limit)
            .map(|(_, found)| ledger::recovery(found))
            .collect(),
        maintenance: ledger::windows_over(&state, now.wall, &id, view.tablets.keys()),
        blocked: state.block(&id, now, &rules).map(|block| Blocked {
            by: block.rule.name().to_owned(),
            reason: block.reason,
            until: block.until.map(board::time),
        }),
        recoveries_disabled: ledger::disabled(&state),
        emergency_disabled: view.keyspace.emergency_disabled
            || view.record.as_ref().is_some_and(|record| record.emergency_disabled),
        unread: unread(&view),
        primary_since: overview::primary_since(&view),
        at: Some(overview::at(context)),
        ..ExplainResponse::default()
    };
    if let Some(entry) = &entry {
        answer.problems.extend(entry.problems.iter().map(|open| board::problem(&id, &open.problem, Some(open.since))));
        let newest = entry.decisions.len().saturating_sub(limit);
        answer.decisions.extend(entry.decisions.iter().skip(newest).map(|held| board::held(&id, held)));
    }
    if request.foretell {
        answer.foretold = Some(foretell(context, id).await?);
    }
    Ok(answer)
}

/// What the elector says that looks after the shard.
async fn elsewhere(context: &Context, id: &ShardId, request: ExplainRequest) -> Result<ExplainResponse, Refusal> {
    // A dry run asks every tablet, several times.
    let limit = FORWARDED_LIMIT + if request.foretell { 3 * context.remote_operation_timeout } else { Duration::ZERO };
    let mut answer = context.others.owner(id, ExplainRequest { only_mine: true, ..request }, limit).await?;
    answer.summary.iter_mut().for_each(|summary| summary.mine = false);
    Ok(answer)
}

/// What an emergency reparent would decide now.
async fn foretell(context: &Context, id: ShardId) -> Result<ReparentResponse, Refusal> {
    let request = EmergencyReparentShardRequest::default();
    let wish = wish::emergency(&request, Allowed::default(), context.wait_replicas_timeout)?;
    let _permit = reparent::begin(context, &id).await?;
    let outcome = context.hands.emergency_preview(&id, wish).await;
    Ok(elector::foretold(id, outcome))
}

fn unread(view: &ShardView) -> Vec<String> {
    let topology = view.topology_unreadable.iter().cloned();
    topology.chain(view.unreadable_cells.iter().map(|(cell, why)| format!("cell {cell}: {why}"))).collect()
}

fn tablet(view: &ShardView, alias: &TabletAlias, tablet: &TabletView) -> TabletState {
    let record = &tablet.record;
    let mut state = TabletState {
        alias: Some(alias.into()),
        declared_type: record.r#type().as_str_name().to_owned(),
        hostname: record.hostname.clone(),
        grpc_address: record.port_map.get("grpc").map(|port| format!("{}:{port}", record.hostname)).unwrap_or_default(),
        mysql_address: format!("{}:{}", record.mysql_hostname, record.mysql_port),
        primary_since: tablet.term().map(|(seconds, nanoseconds)| vttime::Time { seconds, nanoseconds }),
        shut_down: tablet.is_shut_down(),
        channels: channels(tablet),
        offline_mode: tablet.offline.as_ref().map(|seen| matches!(seen.what, OfflineMode::On { .. })),
        errant: tablet.errant.as_ref().map(ToString::to_string),
        pace_ms: tablet.pace.map(|pace| millis(pace.now)),
        usual_pace_ms: tablet.pace.map(|pace| millis(pace.usual)),
        status_age_ms: tablet.status.as_ref().map(|seen| millis(seen.age)),
        ..TabletState::default()
    };
    if let Some(seen) = &tablet.status {
        observed(&mut state, view, &seen.what);
    }
    state
}

fn observed(state: &mut TabletState, view: &ShardView, status: &TabletStatus) {
    state.observed_type = status.tablet_type.as_str_name().to_owned();
    state.version.clone_from(&status.version);
    state.read_only = Some(status.read_only);
    state.super_read_only = Some(status.super_read_only);
    state.executed = status.executed.as_ref().map(ToString::to_string).unwrap_or_default();
    state.replication = status.replication.as_ref().map(|replication| self::replication(view, replication));
    let waits = format!("waits for {}, {} connected", status.semi_sync_wait_count, status.semi_sync_clients);
    state.semi_sync_source = match (status.semi_sync_primary_enabled, status.semi_sync_blocked) {
        (false, _) => "off".to_owned(),
        (true, true) => format!("stalled, {waits}"),
        (true, false) => format!("on, {waits}"),
    };
    state.semi_sync_replica = match (status.semi_sync_replica_enabled, status.semi_sync_replica_active) {
        (false, _) => "off",
        (true, false) => "on, not active",
        (true, true) => "on",
    }
    .to_owned();
}

fn replication(view: &ShardView, replication: &Replication) -> ReplicationState {
    let io = match replication.io {
        IoState::Running => "running",
        IoState::Connecting => "connecting",
        IoState::Stopped => "stopped",
    };
    ReplicationState {
        source: format!("{}:{}", replication.source_host, replication.source_port),
        source_alias: view.tablet_at(&replication.source_host, replication.source_port).map(Into::into),
        io_thread: io.to_owned(),
        io_error: replication.io_error.clone(),
        sql_running: replication.sql_running,
        sql_error: replication.sql_error.clone(),
        lag_ms: replication.lag.map(millis),
    }
}

/// Every way by which a tablet is asked, and what others heard of it.
fn channels(tablet: &TabletView) -> Vec<ChannelState> {
    let own =
        [("tablet manager", Some(&tablet.manager)), ("MySQL", Some(&tablet.mysql)), ("MySQL directly", tablet.direct.as_ref())];
    let own = own.into_iter().filter_map(|(name, channel)| Some(self::channel(name, channel?)));
    let heard = tablet.greetings.iter().map(|(by, seen)| ChannelState {
        name: format!("heard by {by}"),
        works: seen.what == Greeting::Greeted,
        last_good_ms: (seen.what == Greeting::Greeted).then(|| millis(seen.age)),
        words: seen.what.to_string(),
        ..ChannelState::default()
    });
    own.chain(heard).collect()
}

fn channel(name: &str, channel: &Channel) -> ChannelState {
    let failing = channel.failing.as_ref();
    let failure = failing.map(|failing| match failing.class {
        FailureClass::Refused => "refused",
        FailureClass::Closed => "closed",
        FailureClass::TooManyConnections => "too many connections",
        FailureClass::Silent => "silent",
        FailureClass::Answered => "answered with an error",
    });
    ChannelState {
        name: name.to_owned(),
        works: channel.works(),
        last_good_ms: channel.last_good.map(millis),
        failing_for_ms: failing.map(|failing| millis(failing.since)),
        failures: failing.map(|failing| failing.count).unwrap_or_default(),
        failure: failure.unwrap_or_default().to_owned(),
        words: failing.map(|failing| failing.words.clone()).unwrap_or_default(),
    }
}
