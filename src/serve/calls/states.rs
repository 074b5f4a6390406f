//! Tablets: what their records declare beside what was seen of them.

use std::time::Duration;

use super::{Context, board, millis, refusal::Refusal};
use crate::{
    pb::{
        vtelector::{ChannelState, ReplicationState, SemiSyncState, TabletState, TabletsRequest, TabletsResponse},
        vttime,
    },
    shard::{Channel, FailureClass, Greeting, IoState, OfflineMode, Replication, ShardView, TabletStatus, TabletView},
    topo::{ShardId, TabletAlias},
};

/// Every tablet, or those of shards where something is wrong.
pub async fn tablets(context: &Context, request: TabletsRequest) -> Result<TabletsResponse, Refusal> {
    let filter = board::filter(context, &request.keyspace, &request.shard).await?;
    let (entries, watched) = (context.board.snapshot(&filter), context.senses.shards().borrow().clone());
    let lag_max = context.live.borrow().rules.reasonable_replication_lag;
    let mut answer = TabletsResponse::default();
    for view in watched.iter().filter(|shard| filter.wants(shard)).filter_map(|shard| context.senses.view(shard)) {
        let has_problems = || entries.get(&view.shard).is_some_and(|entry| !entry.problems.is_empty());
        if !request.only_troubled || has_problems() || view.tablets.values().any(|tablet| is_troubled(tablet, lag_max)) {
            answer.tablets.extend(view.tablets.iter().map(|(alias, tablet)| state(&view, alias, tablet)));
        }
    }
    if !request.only_mine {
        let heard = context.others.tablets(&filter, request.only_troubled).await;
        answer.tablets.extend(heard.merged(&watched, |said| &said.tablets, shard_of));
        answer.silent = heard.silent.clone();
        answer.tablets.sort_by_cached_key(|tablet| (tablet.keyspace.clone(), tablet.shard.clone()));
    }
    Ok(answer)
}

fn shard_of(tablet: &TabletState) -> ShardId {
    ShardId { keyspace: tablet.keyspace.clone(), shard: tablet.shard.clone() }
}

fn is_troubled(tablet: &TabletView, lag_max: Duration) -> bool {
    let Some(status) = tablet.status.as_ref().map(|seen| &seen.what) else { return true };
    let is_errant = tablet.errant.as_ref().is_some_and(|errant| !errant.is_empty());
    let replicates_badly = status.replication.as_ref().is_some_and(|replication| {
        let late = replication.lag.is_some_and(|lag| lag.abs_diff(replication.delay) > lag_max);
        replication.io != IoState::Running || !replication.sql_running || late
    });
    is_errant || replicates_badly || !tablet.manager.works() || !tablet.mysql.works()
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// The channel by which a tablet manager asks its MySQL.
const MYSQL: &str = "MySQL";

impl TabletState {
    /// Whether what is said of its MySQL holds now; otherwise it was so when that was last heard.
    pub fn is_heard(&self) -> bool {
        self.channels.iter().all(|channel| channel.name != MYSQL || channel.works)
    }
}

/// One tablet: what its record declares beside what was seen.
pub fn state(view: &ShardView, alias: &TabletAlias, tablet: &TabletView) -> TabletState {
    let record = &tablet.record;
    let mut state = TabletState {
        keyspace: view.shard.keyspace.clone(),
        shard: view.shard.shard.clone(),
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
    state.server_uuid = status.server_uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    state.server_id = status.server_id;
    state.version.clone_from(&status.version);
    state.version_comment.clone_from(&status.version_comment);
    state.gtid_mode.clone_from(&status.gtid_mode);
    state.binlog_format.clone_from(&status.binlog_format);
    state.binlog_row_image.clone_from(&status.binlog_row_image);
    (state.log_bin, state.log_replica_updates) = (status.log_bin, status.log_replica_updates);
    state.purged = status.purged.as_ref().map(ToString::to_string).unwrap_or_default();
    state.replica_net_timeout_s = seconds(status.replica_net_timeout);
    state.heartbeat_interval_s = status.heartbeat.as_secs_f64();
    state.disk_stalled = status.disk_stalled;
    state.read_only = Some(status.read_only);
    state.super_read_only = Some(status.super_read_only);
    state.executed = status.executed.as_ref().map(ToString::to_string).unwrap_or_default();
    state.replication = status.replication.as_ref().map(|replication| self::replication(view, replication));
    state.semi_sync = Some(SemiSyncState {
        source_enabled: status.semi_sync_primary_enabled,
        source_active: status.semi_sync_primary_active,
        wait_for: status.semi_sync_wait_count,
        clients: status.semi_sync_clients,
        timeout_ms: status.semi_sync_timeout_ms,
        replica_enabled: status.semi_sync_replica_enabled,
        replica_active: status.semi_sync_replica_active,
        blocked: status.semi_sync_blocked,
    });
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
        source_uuid: replication.source_uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        auto_position: replication.auto_position,
        has_filters: replication.has_filters,
        delay_s: seconds(replication.delay),
        has_credentials: replication.has_credentials,
        tls: replication.tls,
    }
}

/// Every way by which a tablet is asked, and what others heard of it.
fn channels(tablet: &TabletView) -> Vec<ChannelState> {
    let own =
        [("tablet manager", Some(&tablet.manager)), (MYSQL, Some(&tablet.mysql)), ("MySQL directly", tablet.direct.as_ref())];
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
