//! One MySQL server with its tablet manager, as far as a reparent sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    mysql::GtidSet,
    pb::{replicationdata, topodata::TabletType},
    topo::TabletAlias,
};

/// A GTID set in which `A:1-10` stands for a server's first ten transactions.
pub fn gtids(text: &str) -> GtidSet {
    let mut full = text.to_owned();
    for letter in 'A'..='F' {
        let low = letter.to_ascii_lowercase();
        let uuid = format!("{}-0000-4000-8000-00000000000{low}", low.to_string().repeat(8));
        full = full.replace(&format!("{letter}:"), &format!("{uuid}:"));
    }
    full.parse().unwrap()
}

#[derive(Debug, Clone)]
pub struct Server {
    pub tablet_type: TabletType,
    pub term: Option<i64>,
    pub down: bool,
    pub read_only: bool,
    /// The letter of its server UUID.
    pub letter: char,
    pub semi_sync_primary: bool,
    pub semi_sync_replica: bool,
    pub semi_sync_timeout_ms: u64,
    pub semi_sync_wait_count: usize,
    pub source: Option<TabletAlias>,
    pub io: bool,
    pub sql: bool,
    pub received: GtidSet,
    pub executed: GtidSet,
    pub rows: BTreeSet<i64>,
    pub backup: bool,
    pub clock_behind_s: i64,
    /// mysqld is gone, its tablet manager answers.
    pub mysqld_down: bool,
    /// Nothing answers, and it may go on where it was.
    pub frozen: bool,
    /// Every packet to and from its host is lost; its clients are there with it.
    pub silent: bool,
    /// Its connection to a source that froze still stands, as far as it knows.
    pub content: bool,
    /// `replica_net_timeout`, in seconds.
    pub net_timeout_s: i32,
    /// `offline_mode`.
    pub offline: bool,
    /// Rows of the reparent journal before this test's own.
    pub journal: i32,
    pub version: String,
    /// It applies what it received only when somebody waits for that.
    pub lazy: bool,
    /// Nothing more comes from its source, as if the network between them were cut; until it is pointed at another.
    pub cut: bool,
    /// The UUID of the server that it copied from, where that is not its source's.
    pub source_uuid: Option<String>,
    pub sql_delay_s: u32,
    pub log_bin: bool,
    pub gtid_mode_on: bool,
    pub purged: GtidSet,
    pub pool: u64,
    pub tags: BTreeMap<String, String>,
    /// read_only without super_read_only.
    pub only_read_only: bool,
    /// super_read_only shows as ON, and waits for commits that hang: read_only is still OFF.
    pub closing: bool,
    /// Commits wait for acknowledgements there.
    pub commits_wait: bool,
    /// It replicates by GTID positions.
    pub auto_position: bool,
    pub heartbeat_s: f64,
    /// What keeps its SQL thread from running.
    pub sql_error: String,
    /// What keeps its IO thread from running.
    pub io_error: String,
    /// The type that its tablet believes it has, where that is not the recorded one.
    pub own_type: Option<TabletType>,
}

impl Server {
    pub fn primary(letter: char, executed: &str) -> Self {
        Self {
            tablet_type: TabletType::Primary,
            term: Some(1),
            down: false,
            read_only: false,
            letter,
            semi_sync_primary: false,
            semi_sync_replica: false,
            semi_sync_timeout_ms: 1_000_000_000_000_000_000,
            semi_sync_wait_count: 1,
            source: None,
            io: false,
            sql: false,
            received: gtids(executed),
            executed: gtids(executed),
            rows: BTreeSet::new(),
            backup: false,
            clock_behind_s: 0,
            mysqld_down: false,
            frozen: false,
            silent: false,
            content: false,
            net_timeout_s: 60,
            offline: false,
            journal: 1,
            version: "9.7.4".to_owned(),
            lazy: false,
            cut: false,
            source_uuid: None,
            sql_delay_s: 0,
            log_bin: true,
            gtid_mode_on: true,
            purged: gtids(""),
            pool: 0,
            tags: BTreeMap::new(),
            only_read_only: false,
            closing: false,
            commits_wait: false,
            auto_position: true,
            heartbeat_s: 30.0,
            sql_error: String::new(),
            io_error: String::new(),
            own_type: None,
        }
    }

    pub fn replica(letter: char, source: &str, executed: &str) -> Self {
        Self {
            tablet_type: TabletType::Replica,
            term: None,
            read_only: true,
            source: Some(source.parse().unwrap()),
            io: true,
            sql: true,
            ..Self::primary(letter, executed)
        }
    }

    /// A server that has never been anything.
    pub fn fresh(letter: char) -> Self {
        Self { tablet_type: TabletType::Replica, term: None, read_only: true, ..Self::primary(letter, "") }
    }

    pub fn of_type(self, tablet_type: TabletType) -> Self {
        Self { tablet_type, ..self }
    }

    pub fn down(self) -> Self {
        Self { down: true, ..self }
    }

    /// Its MySQL answers.
    pub fn serves(&self) -> bool {
        !self.down && !self.mysqld_down && !self.frozen && !self.silent
    }

    pub fn writable(&self) -> bool {
        !self.read_only && !self.offline && self.serves()
    }

    pub fn uuid(&self) -> String {
        let low = self.letter.to_ascii_lowercase();
        format!("{}-0000-4000-8000-00000000000{low}", low.to_string().repeat(8))
    }

    pub fn replicates_from(&self, source: &TabletAlias) -> bool {
        self.serves() && self.io && self.source.as_ref() == Some(source)
    }

    /// Starts its threads, as far as nothing keeps them from running.
    pub fn start(&mut self, io: bool, sql: bool) {
        self.io |= io && self.io_error.is_empty();
        self.sql |= sql && self.sql_error.is_empty();
    }

    /// What a change of its source does to its relay log: gone, unless the SQL thread runs meanwhile.
    pub fn change_source(&mut self, violations: &mut Vec<String>) {
        if !self.sql && !self.executed.contains(&self.received) {
            violations.push(format!("server {} threw away {}", self.letter, self.received.subtract(&self.executed)));
        }
        if !self.sql {
            self.received = self.executed.clone();
        }
    }

    /// Semi-sync's source side goes off: commits that wait for acknowledgements end, and whatever client is still there is told.
    pub fn source_off(&mut self, violations: &mut Vec<String>) {
        if std::mem::take(&mut self.commits_wait) && !self.offline {
            violations.push(format!("clients of server {} were told of commits that nobody has acknowledged", self.letter));
        }
        self.semi_sync_primary = false;
    }

    /// One transaction of its own.
    pub fn commit(&mut self) -> GtidSet {
        let uuid = self.uuid();
        let server = uuid.parse().unwrap();
        let next = self.executed.last_sequence(server).unwrap_or(0) + 1;
        let one: GtidSet = format!("{uuid}:{next}").parse().unwrap();
        self.executed = self.executed.union(&one);
        self.received = self.received.union(&one);
        one
    }

    /// Its replication status; `source` is the server that it copies from.
    pub fn status(&self, source_port: i32, source: Option<&Server>) -> replicationdata::Status {
        let lost = self.io && !self.content && !source.is_some_and(Server::serves);
        replicationdata::Status {
            position: format!("MySQL56/{}", self.executed),
            relay_log_position: format!("MySQL56/{}", self.received),
            source_host: "127.0.0.1".to_owned(),
            source_port,
            source_uuid: self.source_uuid.clone().or_else(|| source.map(Server::uuid)).unwrap_or_default(),
            sql_delay: self.sql_delay_s,
            io_state: if lost {
                2
            } else if self.io {
                3
            } else {
                1
            },
            last_io_error: if lost {
                "Error connecting to source: Can't connect to MySQL server (110)".to_owned()
            } else {
                self.io_error.clone()
            },
            last_sql_error: self.sql_error.clone(),
            auto_position: self.auto_position,
            sql_state: if self.sql { 3 } else { 1 },
            replication_lag_unknown: !(self.io && self.sql),
            backup_running: self.backup,
            ..Default::default()
        }
    }
}
