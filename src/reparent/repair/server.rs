//! A server as its `FullStatus` shows it, decoded as far as repairs look at it (pure).

use crate::{
    mysql::{GtidSet, Position, ServerUuid},
    pb::{
        replicationdata::{FullStatus, Status},
        topodata::{Tablet, TabletType},
    },
};

/// Thread states in `replicationdata.Status`.
const STOPPED: i32 = 1;
const RUNNING: i32 = 3;

/// A server.
pub(super) struct Server {
    pub full: FullStatus,
    pub uuid: Option<ServerUuid>,
    pub executed: GtidSet,
    /// Executed and received.
    pub everything: GtidSet,
    pub purged: GtidSet,
}

impl Server {
    /// Reads an answer; the error says why it tells nothing.
    pub fn read(full: FullStatus) -> Result<Self, String> {
        if full.disk_stalled {
            return Err("its disk hangs, and it says nothing else".to_owned());
        }
        let primary = full.primary_status.as_ref().map(|status| status.position.as_str()).unwrap_or_default();
        let replica = full.replication_status.as_ref();
        let mut executed = gtids(primary)?;
        let mut received = GtidSet::default();
        if let Some(status) = replica {
            executed = executed.union(&gtids(&status.position)?);
            received = gtids(&status.relay_log_position)?;
        }
        let everything = executed.union(&received);
        let purged = gtids(&full.gtid_purged)?;
        Ok(Self { uuid: full.server_uuid.parse().ok(), executed, everything, purged, full })
    }

    /// Clients can write.
    pub fn is_writable(&self) -> bool {
        !self.full.read_only
    }

    /// Nobody can write, administrators included.
    pub fn is_closed(&self) -> bool {
        self.full.read_only && self.full.super_read_only
    }

    /// The type that the tablet believes it has.
    pub fn tablet_type(&self) -> TabletType {
        self.full.tablet_type()
    }

    pub fn replication(&self) -> Option<&Status> {
        self.full.replication_status.as_ref()
    }

    /// Received, and only in the relay log yet.
    pub fn unapplied(&self) -> GtidSet {
        self.everything.subtract(&self.executed)
    }

    /// Whether its configured source is that tablet's server.
    pub fn has_source(&self, source: &Tablet) -> bool {
        self.replication().is_some_and(|status| is_at(source, status))
    }

    pub fn io_runs(&self) -> bool {
        self.replication().is_some_and(|status| status.io_state == RUNNING)
    }

    pub fn io_stopped(&self) -> bool {
        self.replication().is_none_or(|status| status.io_state == STOPPED)
    }

    pub fn sql_runs(&self) -> bool {
        self.replication().is_some_and(|status| status.sql_state == RUNNING)
    }

    /// MySQL's words on why its replication does not run.
    pub fn complaint(&self) -> String {
        let Some(status) = self.replication() else { return "it has no source".to_owned() };
        let thread = |name: &str, state: i32, error: &str| match (state, error) {
            (RUNNING, _) => None,
            (state, "") => Some(format!("its {name} thread {}", if state == STOPPED { "is stopped" } else { "is connecting" })),
            (_, error) => Some(format!("its {name} thread: {error}")),
        };
        let io = thread("IO", status.io_state, &status.last_io_error);
        let sql = thread("SQL", status.sql_state, &status.last_sql_error);
        io.into_iter().chain(sql).collect::<Vec<_>>().join("; ")
    }

    /// `host:port` of its source.
    pub fn source_address(&self) -> String {
        self.replication().map_or_else(String::new, |status| format!("{}:{}", status.source_host, status.source_port))
    }
}

/// Whether a replication status names that tablet's server as the source.
pub(super) fn is_at(tablet: &Tablet, status: &Status) -> bool {
    status.source_host == tablet.mysql_hostname && status.source_port == tablet.mysql_port
}

fn gtids(position: &str) -> Result<GtidSet, String> {
    match Position::decode(position).map_err(|error| error.to_string())? {
        Position::None => Ok(GtidSet::default()),
        Position::Gtid(set) => Ok(set),
        Position::Other { flavor, .. } => Err(format!("its position is of the flavor {flavor}, and no set of GTIDs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::replicationdata::PrimaryStatus;

    const P: &str = "aaaaaaaa-0000-0000-0000-000000000001";

    fn status(executed: &str, received: &str) -> FullStatus {
        let position = |set: &str| format!("MySQL56/{P}:{set}");
        FullStatus {
            primary_status: Some(PrimaryStatus { position: position(executed), ..Default::default() }),
            replication_status: Some(Status {
                position: position(executed),
                relay_log_position: position(received),
                io_state: STOPPED,
                sql_state: RUNNING,
                last_io_error: "access denied".to_owned(),
                ..Default::default()
            }),
            gtid_purged: "MySQL56/".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_only_received_is_told_from_what_is_applied() {
        let server = Server::read(status("1-10", "1-15")).unwrap();
        assert_eq!(server.unapplied(), format!("{P}:11-15").parse().unwrap());
        assert_eq!(server.complaint(), "its IO thread: access denied");
        assert!(server.io_stopped() && server.sql_runs());
    }

    #[test]
    fn an_answer_that_tells_nothing_is_no_server() {
        assert!(Server::read(FullStatus { disk_stalled: true, ..status("1", "1") }).is_err());
        assert!(Server::read(FullStatus { gtid_purged: "FilePos/binlog:4".to_owned(), ..status("1", "1") }).is_err());
    }
}
