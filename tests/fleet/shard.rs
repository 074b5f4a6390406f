//! One simulated shard: three tablets, their MySQL servers as far as an elector sees them, and clients that write ten times a second.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use vtelector::pb::{
    query::{QueryResult, Row},
    replicationdata::{Configuration, FullStatus, PrimaryStatus, Status as Replication, StopReplicationStatus},
    topodata::TabletType,
};

pub const TABLETS: usize = 3;
const WRITES_PER_SECOND: u64 = 10;
const TIMEOUT_MS: u64 = 1_000_000_000_000_000_000;
const THREAD_RUNS: i32 = 3;
const THREAD_CONNECTS: i32 = 2;
const THREAD_STOPPED: i32 = 1;

/// Last sequence of each server's own transactions.
type Position = [u64; TABLETS];

/// One tablet and its mysqld.
pub struct Tablet {
    pub mysqld_up: bool,
    pub tablet_type: TabletType,
    pub term: Option<Duration>,
    read_only: bool,
    semi_sync_primary: bool,
    semi_sync_replica: bool,
    source: Option<usize>,
    io: bool,
    sql: bool,
    pub executed: Position,
    journal: Vec<i64>,
}

/// Three of them.
pub struct Shard {
    pub number: usize,
    pub tablets: [Tablet; TABLETS],
    written: Instant,
    /// When somebody else became writable, and who.
    pub promoted: Option<(Instant, usize)>,
}

/// What a call wants to be told to the topology.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    Primary(usize),
    Replica(usize),
}

pub fn mysql_gone() -> Status {
    Status::unknown("net.Dial(/mysql.sock) to local server failed: connection refused (errno 2002) (sqlstate HY000)")
}

impl Shard {
    /// The first tablet is primary.
    pub fn new(number: usize, term: Duration) -> Self {
        let tablet = |index: usize| Tablet {
            mysqld_up: true,
            tablet_type: if index == 0 { TabletType::Primary } else { TabletType::Replica },
            term: (index == 0).then_some(term),
            read_only: index != 0,
            semi_sync_primary: index == 0,
            semi_sync_replica: index != 0,
            source: (index != 0).then_some(0),
            io: index != 0,
            sql: index != 0,
            executed: [100, 0, 0],
            journal: vec![1],
        };
        Self { number, tablets: [0, 1, 2].map(tablet), written: Instant::now(), promoted: None }
    }

    fn uuid(&self, index: usize) -> String {
        format!("{:08x}-0000-4000-8000-{index:012x}", self.number)
    }

    fn text(&self, position: &Position) -> String {
        let sets: Vec<_> =
            (0..TABLETS).filter(|i| position[*i] > 0).map(|i| format!("{}:1-{}", self.uuid(i), position[i])).collect();
        format!("MySQL56/{}", sets.join(","))
    }

    /// What the clients have written since, and who has it.
    fn catch_up(&mut self) {
        let due = self.written.elapsed().as_millis() as u64 * WRITES_PER_SECOND / 1000;
        self.written += Duration::from_millis(due * 1000 / WRITES_PER_SECOND);
        let Some(primary) = (0..TABLETS).find(|i| self.tablets[*i].mysqld_up && !self.tablets[*i].read_only) else { return };
        let acked = (0..TABLETS).any(|i| self.follows(i, primary));
        if acked || !self.tablets[primary].semi_sync_primary {
            self.tablets[primary].executed[primary] += due;
        }
        for replica in 0..TABLETS {
            if self.follows(replica, primary) {
                let received = self.tablets[primary].executed;
                let own = &mut self.tablets[replica].executed;
                *own = std::array::from_fn(|server| own[server].max(received[server]));
            }
        }
    }

    fn follows(&self, replica: usize, primary: usize) -> bool {
        let tablet = &self.tablets[replica];
        tablet.mysqld_up && tablet.source == Some(primary) && tablet.io && tablet.sql && self.tablets[primary].mysqld_up
    }

    fn replication(&self, index: usize, port: i32, host: impl Fn(usize) -> String) -> Option<Replication> {
        let tablet = &self.tablets[index];
        let source = tablet.source?;
        let (up, position) = (self.tablets[source].mysqld_up, self.text(&tablet.executed));
        let lost = tablet.io && !up;
        Some(Replication {
            position: position.clone(),
            relay_log_position: position,
            source_host: host(source),
            source_port: port,
            source_uuid: self.uuid(source),
            io_state: match (tablet.io, up) {
                (false, _) => THREAD_STOPPED,
                (true, true) => THREAD_RUNS,
                (true, false) => THREAD_CONNECTS,
            },
            last_io_error: if lost { "2003 error reconnecting to source: (111)".to_owned() } else { String::new() },
            sql_state: if tablet.sql { THREAD_RUNS } else { THREAD_STOPPED },
            auto_position: true,
            using_gtid: true,
            ..Replication::default()
        })
    }

    fn primary_status(&self, index: usize) -> PrimaryStatus {
        let (position, server_uuid) = (self.text(&self.tablets[index].executed), self.uuid(index));
        PrimaryStatus { position, server_uuid, ..PrimaryStatus::default() }
    }

    /// Its mysqld is gone from now on.
    pub fn kill(&mut self, index: usize) {
        self.catch_up();
        self.tablets[index].mysqld_up = false;
    }

    /// The tablet that the records should name.
    pub fn primary(&self) -> usize {
        (0..TABLETS).max_by_key(|i| self.tablets[*i].term).unwrap()
    }
}

/// Addresses of a shard's MySQL servers.
pub struct Hosts<'a> {
    pub port: i32,
    pub host: &'a (dyn Fn(usize) -> String + Sync),
}

/// The calls of a tablet manager.
impl Shard {
    pub fn full_status(&mut self, index: usize, hosts: &Hosts<'_>) -> FullStatus {
        self.catch_up();
        let tablet = &self.tablets[index];
        FullStatus {
            server_id: index as u32 + 1,
            server_uuid: self.uuid(index),
            replication_status: self.replication(index, hosts.port, hosts.host),
            primary_status: Some(self.primary_status(index)),
            gtid_purged: "MySQL56/".to_owned(),
            version: "9.7.4".to_owned(),
            read_only: tablet.read_only,
            super_read_only: tablet.read_only,
            gtid_mode: "ON".to_owned(),
            binlog_format: "ROW".to_owned(),
            binlog_row_image: "FULL".to_owned(),
            log_bin_enabled: true,
            log_replica_updates: true,
            semi_sync_primary_enabled: tablet.semi_sync_primary,
            semi_sync_primary_status: tablet.semi_sync_primary,
            semi_sync_replica_enabled: tablet.semi_sync_replica,
            semi_sync_replica_status: tablet.semi_sync_replica && tablet.io,
            semi_sync_primary_clients: (0..TABLETS).filter(|i| self.follows(*i, index)).count() as u32,
            semi_sync_primary_timeout: TIMEOUT_MS,
            semi_sync_wait_for_replica_count: 1,
            replication_configuration: tablet.source.map(|_| Configuration { heartbeat_interval: 30.0, replica_net_timeout: 60 }),
            tablet_type: tablet.tablet_type.into(),
            ..FullStatus::default()
        }
    }

    pub fn status(&mut self, index: usize, hosts: &Hosts<'_>) -> Result<Replication, Status> {
        self.catch_up();
        let none = || Status::unknown("no replication status (errno 100) (sqlstate HY000)");
        self.replication(index, hosts.port, hosts.host).ok_or_else(none)
    }

    pub fn executed(&mut self, index: usize) -> PrimaryStatus {
        self.catch_up();
        self.primary_status(index)
    }

    pub fn stop_replication(&mut self, index: usize, both: bool, hosts: &Hosts<'_>) -> Result<StopReplicationStatus, Status> {
        let before = self.status(index, hosts)?;
        // As a vttablet does: a thread that connects with an error is left as it is.
        if before.last_io_error.is_empty() {
            self.tablets[index].io = false;
        }
        self.tablets[index].sql &= !both;
        Ok(StopReplicationStatus { before: Some(before), after: Some(self.status(index, hosts)?) })
    }

    pub fn start_replication(&mut self, index: usize) {
        self.catch_up();
        (self.tablets[index].io, self.tablets[index].sql) = (true, true);
    }

    pub fn demote(&mut self, index: usize) -> PrimaryStatus {
        self.catch_up();
        let tablet = &mut self.tablets[index];
        (tablet.read_only, tablet.semi_sync_primary) = (true, false);
        self.primary_status(index)
    }

    pub fn promote(&mut self, index: usize, semi_sync: bool, term: Duration) -> (String, Record) {
        self.catch_up();
        let tablet = &mut self.tablets[index];
        (tablet.source, tablet.io, tablet.sql) = (None, false, false);
        (tablet.read_only, tablet.semi_sync_primary, tablet.semi_sync_replica) = (false, semi_sync, false);
        (tablet.tablet_type, tablet.term) = (TabletType::Primary, Some(term));
        (self.written, self.promoted) = (Instant::now(), Some((Instant::now(), index)));
        (self.text(&self.tablets[index].executed), Record::Primary(index))
    }

    pub fn follow(&mut self, index: usize, parent: usize, semi_sync: bool) -> Record {
        self.catch_up();
        let tablet = &mut self.tablets[index];
        (tablet.source, tablet.io, tablet.sql) = (Some(parent), true, true);
        (tablet.read_only, tablet.semi_sync_primary, tablet.semi_sync_replica) = (true, false, semi_sync);
        (tablet.tablet_type, tablet.term) = (TabletType::Replica, None);
        self.catch_up();
        Record::Replica(index)
    }

    pub fn write_journal(&mut self, index: usize, row: i64) -> Result<(), Status> {
        self.catch_up();
        if self.tablets[index].read_only {
            return Err(Status::unknown("--super-read-only (errno 1290) (sqlstate HY000)"));
        }
        self.tablets[index].executed[index] += 1;
        self.tablets[index].journal.push(row);
        Ok(())
    }

    pub fn journal_rows(&self, index: usize) -> i32 {
        // Rows are replicated: everybody who follows has the primary's.
        let rows = |i: usize| self.tablets[i].journal.len();
        self.tablets[index].source.map_or(rows(index), |source| rows(source).max(rows(index))) as i32
    }

    pub fn set_read_only(&mut self, index: usize, read_only: bool) {
        self.catch_up();
        self.tablets[index].read_only = read_only;
    }

    /// A statement of the administrator.
    pub fn statement(&mut self, index: usize, sql: &str) -> Result<QueryResult, Status> {
        self.catch_up();
        let tablet = &mut self.tablets[index];
        let row = |values: &[&str]| {
            let lengths = values.iter().map(|value| value.len() as i64).collect();
            Ok(QueryResult { rows: vec![Row { lengths, values: values.concat().into_bytes() }], ..QueryResult::default() })
        };
        match sql {
            "STOP REPLICA IO_THREAD" => tablet.io = false,
            "START REPLICA IO_THREAD" => tablet.io = true,
            "START REPLICA" => (tablet.io, tablet.sql) = (true, true),
            "SET GLOBAL super_read_only = ON" => tablet.read_only = true,
            "SET GLOBAL rpl_semi_sync_source_enabled = OFF" => tablet.semi_sync_primary = false,
            "SET GLOBAL rpl_semi_sync_source_enabled = ON" => tablet.semi_sync_primary = true,
            "SELECT @@global.super_read_only" => return row(&[if tablet.read_only { "1" } else { "0" }]),
            "SELECT @@global.offline_mode" => return row(&["0"]),
            "SELECT UTC_TIMESTAMP(6)" => {
                let now = jiff::Timestamp::now();
                return row(&[&now.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string()]);
            }
            _ if sql.starts_with("SELECT @@global.rpl_semi_sync_source_timeout") => {
                return row(&[&TIMEOUT_MS.to_string(), "1", "AFTER_SYNC", "1"]);
            }
            _ if sql.starts_with("SELECT @@global.rpl_semi_sync_source_wait_point") => return row(&["AFTER_SYNC", "1"]),
            _ if sql.starts_with("SELECT (SELECT COUNT(*)") => return row(&["0"]),
            _ if sql.starts_with("SET ") => {}
            other => return Err(Status::new(Code::Unknown, format!("the simulator does not know {other}"))),
        }
        Ok(QueryResult::default())
    }
}
