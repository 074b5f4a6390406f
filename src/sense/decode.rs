//! `FullStatus` as decisions read it. A position is parsed only where its text is another one than last time: most are not.

use std::{sync::Arc, time::Duration};

use crate::{
    mysql::{GtidSet, Position, ServerUuid},
    pb::{
        replicationdata::{FullStatus, Status},
        topodata::TabletType,
    },
    shard::{IoState, Replication, TabletStatus},
};

/// MySQL's states of a replication thread, as `replicationdata.Status` numbers them.
const RUNNING: i32 = 3;
const CONNECTING: i32 = 2;

/// Decodes the answers of one tablet, one after the other.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    executed: Parsed,
    replicated: Parsed,
    relay: Parsed,
    purged: Parsed,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Decoded {
    pub status: TabletStatus,
    /// Everything that the server has received or executed, or why that is no set of GTIDs.
    pub has: Result<Arc<GtidSet>, String>,
}

/// A position's text, and what it stands for.
#[derive(Debug, Default)]
struct Parsed {
    text: String,
    value: Value,
}

#[derive(Debug, Clone, Default)]
enum Value {
    #[default]
    None,
    Gtids(Arc<GtidSet>),
    Bad(String),
}

impl Value {
    fn of(text: &str) -> Self {
        match Position::decode(text) {
            Ok(Position::None) => Self::None,
            Ok(Position::Gtid(set)) => Self::Gtids(Arc::new(set)),
            Ok(Position::Other { flavor, .. }) => Self::Bad(format!("it is of the flavor {flavor}")),
            Err(error) => Self::Bad(error.to_string()),
        }
    }

    fn set(&self) -> Option<Arc<GtidSet>> {
        match self {
            Self::Gtids(set) => Some(set.clone()),
            Self::None | Self::Bad(_) => None,
        }
    }
}

impl Parsed {
    /// Takes in the next text; `twin` often has the same.
    fn next(&mut self, text: String, twin: Option<&Parsed>) {
        if self.text == text {
            return;
        }
        self.value = match twin {
            Some(twin) if twin.text == text => twin.value.clone(),
            _ => Value::of(&text),
        };
        self.text = text;
    }
}

impl Decoder {
    /// Decodes the next answer.
    pub fn next(&mut self, answer: FullStatus) -> Decoded {
        let mut replication = answer.replication_status;
        let (replicated, relay) = match &mut replication {
            Some(status) => (std::mem::take(&mut status.position), std::mem::take(&mut status.relay_log_position)),
            None => Default::default(),
        };
        self.executed.next(answer.primary_status.map(|primary| primary.position).unwrap_or_default(), None);
        self.replicated.next(replicated, Some(&self.executed));
        self.relay.next(relay, Some(&self.executed));
        self.purged.next(answer.gtid_purged, None);
        let has = self.everything();
        let configuration = answer.replication_configuration.unwrap_or_default();
        let status = TabletStatus {
            server_uuid: answer.server_uuid.parse().ok(),
            tablet_type: TabletType::try_from(answer.tablet_type).unwrap_or(TabletType::Unknown),
            server_id: answer.server_id,
            version: answer.version,
            version_comment: answer.version_comment,
            read_only: answer.read_only || answer.super_read_only,
            super_read_only: answer.super_read_only,
            log_bin: answer.log_bin_enabled,
            log_replica_updates: answer.log_replica_updates,
            binlog_format: answer.binlog_format,
            binlog_row_image: answer.binlog_row_image,
            gtid_mode: answer.gtid_mode,
            executed: self.executed.value.set().or_else(|| self.replicated.value.set()),
            received: has.as_ref().ok().cloned(),
            purged: self.purged.value.set(),
            replication: replication.map(decoded),
            replica_net_timeout: Duration::from_secs(u64::try_from(configuration.replica_net_timeout).unwrap_or(0)),
            heartbeat: Duration::try_from_secs_f64(configuration.heartbeat_interval).unwrap_or_default(),
            semi_sync_primary_enabled: answer.semi_sync_primary_enabled,
            semi_sync_primary_active: answer.semi_sync_primary_status,
            semi_sync_wait_count: answer.semi_sync_wait_for_replica_count,
            semi_sync_clients: answer.semi_sync_primary_clients,
            semi_sync_timeout_ms: answer.semi_sync_primary_timeout,
            semi_sync_replica_enabled: answer.semi_sync_replica_enabled,
            semi_sync_replica_active: answer.semi_sync_replica_status,
            semi_sync_blocked: answer.semi_sync_blocked,
            disk_stalled: answer.disk_stalled,
        };
        Decoded { status, has }
    }

    /// The union of all positions.
    fn everything(&self) -> Result<Arc<GtidSet>, String> {
        let mut all: Option<Arc<GtidSet>> = None;
        for position in [&self.executed, &self.replicated, &self.relay] {
            let set = match &position.value {
                Value::None => continue,
                Value::Bad(why) => return Err(why.clone()),
                Value::Gtids(set) => set,
            };
            all = Some(match all {
                None => set.clone(),
                Some(all) if Arc::ptr_eq(&all, set) || all.contains(set) => all,
                Some(all) if set.contains(&all) => set.clone(),
                Some(all) => Arc::new(all.union(set)),
            });
        }
        all.ok_or_else(|| "it has none".to_owned())
    }
}

fn decoded(status: Status) -> Replication {
    let source_uuid: Option<ServerUuid> = status.source_uuid.parse().ok();
    Replication {
        source_host: status.source_host,
        source_port: u16::try_from(status.source_port).unwrap_or(0),
        // A server that never connected says zeros.
        source_uuid: source_uuid.filter(|uuid| uuid.as_bytes() != &[0; 16]),
        io: match status.io_state {
            RUNNING => IoState::Running,
            CONNECTING => IoState::Connecting,
            _ => IoState::Stopped,
        },
        io_error: status.last_io_error,
        sql_running: status.sql_state == RUNNING,
        sql_error: status.last_sql_error,
        lag: (!status.replication_lag_unknown).then(|| Duration::from_secs(status.replication_lag_seconds.into())),
        delay: Duration::from_secs(status.sql_delay.into()),
        auto_position: status.auto_position,
        has_filters: status.has_replication_filters,
        backup_running: status.backup_running,
        has_credentials: !status.source_user.is_empty(),
        tls: status.ssl_allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::replicationdata::{Configuration, PrimaryStatus};

    const U: &str = "aaaaaaaa-0000-0000-0000-000000000001";

    fn replica(executed: &str, received: &str) -> FullStatus {
        FullStatus {
            replication_status: Some(Status {
                position: executed.into(),
                relay_log_position: received.into(),
                ..Status::default()
            }),
            primary_status: Some(PrimaryStatus { position: executed.into(), ..PrimaryStatus::default() }),
            ..FullStatus::default()
        }
    }

    #[test]
    fn what_was_received_counts_before_it_is_applied() {
        let all =
            |executed: &str, received: &str| Decoder::default().next(replica(executed, received)).has.map(|set| set.to_string());
        assert_eq!(all(&format!("MySQL56/{U}:1-5"), &format!("MySQL56/{U}:4-9")), Ok(format!("{U}:1-9")));
        assert_eq!(all(&format!("MySQL56/{U}:1-5"), ""), Ok(format!("{U}:1-5")));
        assert_eq!(all("MySQL56/", ""), Ok(String::new()));
        assert!(all("", "").unwrap_err().contains("none"));
        assert!(all("FilePos/binlog.000001:4", "").unwrap_err().contains("FilePos"));
        assert!(all("MySQL56/garbage", "").is_err());
    }

    #[test]
    fn a_position_that_did_not_move_is_not_parsed_again() {
        let mut decoder = Decoder::default();
        let (at_5, at_6) = (format!("MySQL56/{U}:1-5"), format!("MySQL56/{U}:1-6"));
        let first = decoder.next(replica(&at_5, &at_5)).status;
        let again = decoder.next(replica(&at_5, &at_6)).status;
        assert!(Arc::ptr_eq(&first.executed.unwrap(), again.executed.as_ref().unwrap()));
        assert_eq!(again.received.unwrap().to_string(), format!("{U}:1-6"));
    }

    #[test]
    fn what_mysql_leaves_open_is_not_known() {
        let mut answer = replica("MySQL56/", "");
        let status = answer.replication_status.as_mut().unwrap();
        (status.source_uuid, status.replication_lag_unknown) = ("00000000-0000-0000-0000-000000000000".into(), true);
        (status.io_state, status.source_port) = (2, 70_000);
        answer.replication_configuration = Some(Configuration { heartbeat_interval: -1.0, replica_net_timeout: -3 });
        let status = Decoder::default().next(answer).status;
        assert_eq!((status.heartbeat, status.replica_net_timeout), (Duration::ZERO, Duration::ZERO));
        let replication = status.replication.unwrap();
        assert_eq!((replication.source_uuid, replication.lag, replication.source_port), (None, None, 0));
        assert_eq!(replication.io, IoState::Connecting);
    }
}
