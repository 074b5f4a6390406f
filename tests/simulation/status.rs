//! What a tablet says of itself: FullStatus, replication status, the health stream.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tonic::Code;
use vtelector::{
    pb::{
        query::{RealtimeStats, StreamHealthResponse, Target},
        replicationdata::{Configuration, FullStatus, Status},
        topodata::TabletType,
    },
    tablet::{HealthStream, MYSQLD_SILENT, TabletError},
    topo::TabletAlias,
};

use super::{
    actions::primary_status,
    flow::{CR_CONN_HOST_ERROR, ER_OFFLINE},
    gtid::uuid,
    manager::{Flavour, Handler},
    mysqld::{Io, Process},
    net::Node,
    remote::{Remote, pause},
    world::{MYSQL_PORT, State},
};

const STOPPED: i32 = 1;
const CONNECTING: i32 = 2;
const RUNNING: i32 = 3;

/// An agent calls its server silent after that.
const PULSE: Duration = Duration::from_millis(400);

/// How often a health stream says that nothing is new.
const HEALTH_INTERVAL: Duration = Duration::from_secs(20);

/// MySQL's words for a connection that failed; whoever reads them decides by the words.
fn words(errno: u32) -> String {
    let message = match errno {
        CR_CONN_HOST_ERROR => "Can't connect to MySQL server on 'source:3306' (111)",
        ER_OFFLINE => "The server is currently in offline mode",
        _ => "Lost connection to MySQL server at 'reading initial communication packet', system error: 110",
    };
    format!("Error connecting to source 'vt_repl@source:3306'. This was attempt 1/86400. Message: {message}")
}

pub fn replication(state: &State, host: usize) -> Option<Status> {
    let mysqld = &state.hosts[host].mysqld;
    let source = mysqld.source?;
    let (io_state, last_io_error) = match mysqld.io {
        Io::Stopped => (STOPPED, String::new()),
        Io::Running { lost: None, .. } => (RUNNING, String::new()),
        Io::Running { .. } | Io::Connecting { errno: 0, .. } => (CONNECTING, String::new()),
        Io::Connecting { errno, .. } => (CONNECTING, words(errno)),
    };
    let sql = mysqld.sql && mysqld.sql_error.is_none();
    Some(Status {
        position: mysqld.executed.encode(),
        relay_log_position: mysqld.received.encode(),
        replication_lag_seconds: mysqld.lag() as u32,
        source_host: state.hosts[source].alias.to_string(),
        source_port: MYSQL_PORT,
        connect_retry: mysqld.connect_retry.as_secs() as i32,
        source_uuid: uuid(source),
        source_server_id: source as u32 + 1,
        io_state,
        last_io_error,
        sql_state: if sql { RUNNING } else { STOPPED },
        last_sql_error: mysqld.sql_error.clone().unwrap_or_default(),
        source_user: "vt_repl".to_owned(),
        auto_position: true,
        using_gtid: true,
        replication_lag_unknown: io_state != RUNNING || !sql,
        ..Status::default()
    })
}

pub fn full(state: &State, host: usize) -> FullStatus {
    let them = &state.hosts[host];
    let mysqld = &them.mysqld;
    let replication_status = replication(state, host);
    FullStatus {
        server_id: host as u32 + 1,
        server_uuid: uuid(host),
        replication_configuration: replication_status.as_ref().map(|_| Configuration {
            heartbeat_interval: mysqld.heartbeat.as_secs_f64(),
            replica_net_timeout: mysqld.net_timeout.as_secs() as i32,
        }),
        replication_status,
        primary_status: Some(primary_status(mysqld)),
        gtid_purged: "MySQL56/".to_owned(),
        version: "8.4.6".to_owned(),
        version_comment: "simulated".to_owned(),
        read_only: mysqld.read_only,
        gtid_mode: "ON".to_owned(),
        binlog_format: "ROW".to_owned(),
        binlog_row_image: "FULL".to_owned(),
        log_bin_enabled: true,
        log_replica_updates: true,
        semi_sync_primary_enabled: mysqld.source_enabled,
        semi_sync_replica_enabled: mysqld.replica_enabled,
        semi_sync_primary_status: mysqld.source_enabled,
        semi_sync_replica_status: matches!(mysqld.io, Io::Running { acks: true, .. }),
        semi_sync_primary_clients: mysqld.acked.len() as u32,
        semi_sync_primary_timeout: mysqld.timeout_ms,
        semi_sync_wait_for_replica_count: mysqld.wait_count as u32,
        super_read_only: mysqld.super_read_only && mysqld.read_only,
        disk_stalled: false,
        semi_sync_blocked: false,
        tablet_type: them.manager.tablet_type as i32,
    }
}

/// What an agent says of a mysqld that does not answer; Vitess's tablet says nothing of it.
pub fn silence(state: &State, host: usize) -> Option<String> {
    let them = &state.hosts[host];
    match (them.manager.flavour, them.mysqld.process) {
        (Flavour::Agent, Process::Dead) => {
            Some("mysqld does not answer: connection refused (errno 2002) (sqlstate HY000)".to_owned())
        }
        (Flavour::Agent, Process::Frozen) if them.mysqld.frozen_at.elapsed() >= PULSE => {
            Some(format!("{MYSQLD_SILENT}: no answer for 300ms (errno 2013) (sqlstate HY000)"))
        }
        _ => None,
    }
}

pub async fn falls_silent(handler: &Handler) -> String {
    let host = handler.host;
    if handler.flavour() == Flavour::Vttablet {
        return std::future::pending().await;
    }
    handler.world.until(|state| silence(state, host).is_some()).await;
    silence(&handler.world.lock(), host).unwrap_or_default()
}

fn health_now(state: &State, host: usize, keyspace: &str, shard: &str) -> StreamHealthResponse {
    let them = &state.hosts[host];
    let manager = &them.manager;
    let is_primary = manager.tablet_type == TabletType::Primary;
    let health_error = silence(state, host).unwrap_or_default();
    let down = !health_error.is_empty();
    StreamHealthResponse {
        target: Some(Target {
            keyspace: keyspace.to_owned(),
            shard: shard.to_owned(),
            tablet_type: manager.tablet_type as i32,
            cell: String::new(),
        }),
        serving: manager.serving && !down && (!is_primary || !them.mysqld.read_only),
        primary_term_start_timestamp: if is_primary { manager.term.map_or(0, |term| term.seconds) } else { 0 },
        realtime_stats: Some(RealtimeStats { health_error, ..RealtimeStats::default() }),
        tablet_alias: Some((&them.alias).into()),
    }
}

/// One message at once, then each change and each interval; ends with the process, stands still while it or the wire does.
pub fn health(remote: Remote, host: usize, alias: TabletAlias) -> HealthStream {
    let life = remote.world.lock().hosts[host].manager.life.clone();
    let start: (Option<StreamHealthResponse>, Instant, bool) = (None, Instant::now(), false);
    let messages = stream::unfold(start, move |(last, said, over)| {
        let (remote, life, alias) = (remote.clone(), life.clone(), alias.clone());
        async move {
            if over {
                return None;
            }
            let ended = |text: &str| Err(TabletError::answered(alias.clone(), "StreamHealth", Code::Unavailable, text));
            loop {
                remote.world.gets_on(remote.node).await;
                let now = {
                    let state = remote.world.lock();
                    let reaches = state.net.reaches(remote.node, Node::Host(host));
                    if state.net.is_given_up(remote.node, Node::Host(host)) {
                        return Some((ended("keepalive failed"), (last, said, true)));
                    }
                    if life.is_cancelled() && reaches {
                        return Some((ended("connection closed"), (last, said, true)));
                    }
                    let runs = state.hosts[host].manager.process == Process::Running;
                    let shard = &remote.world.shard;
                    (reaches && runs).then(|| health_now(&state, host, &shard.keyspace, &shard.shard))
                };
                match now {
                    Some(now) if last.as_ref() != Some(&now) || said.elapsed() >= HEALTH_INTERVAL => {
                        remote.world.travel(Node::Host(host), remote.node).await;
                        return Some((Ok(now.clone()), (Some(now), Instant::now(), false)));
                    }
                    _ => pause().await,
                }
            }
        }
    });
    messages.boxed()
}
