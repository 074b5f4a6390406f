//! One MySQL server: who may write, what it holds, whom it follows, and who waits for an acknowledgement.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::gtid::{Pos, SERVERS_MAX};

/// Whether a process gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Running,
    Frozen,
    Dead,
}

/// A timeout that never ends: what Vitess ships, in milliseconds.
pub const NEVER_MS: u64 = 1_000_000_000_000_000_000;
/// MySQL's acknowledgement receiver sits in a poll for so long when semi-sync is switched off.
const RECEIVER_POLL: Duration = Duration::from_secs(1);

/// An IO thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    Stopped,
    /// It has no connection: an attempt is under way since then, or the next one is made at that time.
    Connecting {
        trying: Option<Instant>,
        next: Instant,
        errno: u32,
    },
    /// It has this run of its source.
    Running {
        heard: Instant,
        acks: bool,
        source_boot: u64,
        lost: Option<Instant>,
    },
}

/// A commit that waits for an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    pub sequence: u64,
    /// When the client asked for it; `None` = its connection was cut meanwhile.
    pub client: Option<Instant>,
}

/// What a commit has come to.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    pub sequence: u64,
    pub asked: Option<Instant>,
}

#[derive(Debug, Clone)]
pub struct Mysqld {
    pub index: usize,
    pub process: Process,
    /// When it was frozen last.
    pub frozen_at: Instant,
    /// Counts its starts.
    pub boot: u64,
    pub read_only: bool,
    pub super_read_only: bool,
    /// super_read_only was asked for and waits for commits under way.
    pub closing: bool,
    pub offline: bool,
    pub source_enabled: bool,
    pub replica_enabled: bool,
    pub source_off_at: Option<Instant>,
    pub timeout_ms: u64,
    pub wait_count: usize,
    /// What stands in its binary log; a commit that waits is in it.
    pub binlog: Pos,
    pub executed: Pos,
    pub received: Pos,
    pub waiting: VecDeque<Waiting>,
    /// The last transaction that each connected acknowledger has acknowledged.
    pub acked: BTreeMap<usize, u64>,
    pub source: Option<usize>,
    pub io: Io,
    pub sql: bool,
    pub sql_error: Option<String>,
    /// Transactions that it applies in a tick, of each server; `None` = as many as there are.
    pub apply_per_tick: Option<u64>,
    pub net_timeout: Duration,
    /// Heartbeat period of its source's channel: half of the timeout when it was set up.
    pub heartbeat: Duration,
    pub connect_retry: Duration,
    pub disk_full: bool,
    /// What the source has sent so far over the present connection.
    pub sent: Pos,
    /// On their way to this server: events of its source, and acknowledgements of its replicas.
    pub events: VecDeque<(Instant, Pos)>,
    pub acks: VecDeque<(Instant, usize, u64)>,
    /// Done, and not yet looked at by the clients.
    pub done: Vec<Committed>,
}

impl Mysqld {
    pub fn new(index: usize, executed: Pos, connect_retry: Duration) -> Self {
        Self {
            index,
            process: Process::Running,
            frozen_at: Instant::now(),
            boot: 1,
            read_only: true,
            super_read_only: true,
            closing: false,
            offline: false,
            source_enabled: false,
            replica_enabled: false,
            source_off_at: None,
            timeout_ms: NEVER_MS,
            wait_count: 1,
            binlog: executed,
            executed,
            received: executed,
            waiting: VecDeque::new(),
            acked: BTreeMap::new(),
            source: None,
            io: Io::Stopped,
            sql: false,
            sql_error: None,
            apply_per_tick: None,
            net_timeout: Duration::from_secs(8),
            heartbeat: Duration::from_secs(4),
            connect_retry,
            disk_full: false,
            sent: Pos::default(),
            events: VecDeque::new(),
            acks: VecDeque::new(),
            done: Vec::new(),
        }
    }

    pub fn runs(&self) -> bool {
        self.process == Process::Running
    }

    pub fn accepts_writes(&self) -> bool {
        self.runs() && !self.read_only && !self.closing && !self.offline && !self.disk_full
    }

    /// A client's transaction goes into the binary log; whether it is committed, its replicas decide.
    pub fn begin(&mut self, client: Option<Instant>) -> u64 {
        let next = self.binlog.0[self.index].max(self.executed.0[self.index]) + 1;
        self.binlog.0[self.index] = next;
        self.waiting.push_back(Waiting { sequence: next, client });
        self.commit_what_may();
        next
    }

    /// Ends the commits that have their acknowledgements, or need none.
    pub fn commit_what_may(&mut self) {
        let mut acked: Vec<u64> = self.acked.values().copied().collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let up_to = match self.source_enabled {
            true => acked.get(self.wait_count.max(1) - 1).copied().unwrap_or(0),
            false => u64::MAX,
        };
        while let Some(first) = self.waiting.front().copied().filter(|first| first.sequence <= up_to) {
            self.waiting.pop_front();
            self.executed.0[self.index] = first.sequence;
            self.received.join(&self.executed);
            self.done.push(Committed { sequence: first.sequence, asked: first.client });
        }
        if self.closing && self.waiting.is_empty() {
            (self.closing, self.read_only, self.super_read_only) = (false, true, true);
        }
    }

    /// `SET GLOBAL super_read_only = ON`; it is on when `read_only` is.
    pub fn close(&mut self) {
        self.super_read_only = true;
        if !self.read_only {
            self.closing = true;
        }
        self.commit_what_may();
    }

    /// Both switches off.
    pub fn open(&mut self) {
        (self.read_only, self.super_read_only, self.closing) = (false, false, false);
    }

    /// `offline_mode`: every client is thrown out; replicas are clients as well.
    pub fn set_offline(&mut self, offline: bool) {
        self.offline = offline;
        if offline {
            self.waiting.iter_mut().for_each(|waiting| waiting.client = None);
            self.acked.clear();
        }
    }

    /// `rpl_semi_sync_source_enabled`; when it goes off with replicas connected, that takes its time.
    pub fn set_source_enabled(&mut self, on: bool, now: Instant) {
        if on {
            (self.source_enabled, self.source_off_at) = (true, None);
        } else if self.source_enabled {
            let poll = if self.acked.is_empty() { Duration::ZERO } else { RECEIVER_POLL };
            self.source_off_at.get_or_insert(now + poll);
        }
    }

    pub fn start_io(&mut self, now: Instant) {
        if self.io == Io::Stopped && self.source.is_some() {
            self.io = Io::Connecting { trying: None, next: now, errno: 0 };
        }
    }

    /// How long `STOP REPLICA IO_THREAD` takes now: an attempt to connect is seen to end in laps of two seconds.
    pub fn io_stop_takes(&self) -> Duration {
        match self.io {
            Io::Connecting { trying: Some(_), .. } => Duration::from_secs(2),
            _ => Duration::from_millis(2),
        }
    }

    pub fn stop_io(&mut self) {
        self.io = Io::Stopped;
        self.events.clear();
    }

    /// `CHANGE REPLICATION SOURCE TO`: relay log that was not applied is thrown away and fetched again.
    pub fn change_source(&mut self, source: Option<usize>) {
        self.stop_io();
        self.source = source;
        self.heartbeat = self.net_timeout / 2;
        self.received = self.executed;
        self.sql_error = None;
    }

    pub fn io_connected(&self) -> bool {
        matches!(self.io, Io::Running { lost: None, .. })
    }

    /// The machine takes the process away. What is in the binary log is committed when it comes back.
    pub fn die(&mut self) {
        self.process = Process::Dead;
        self.waiting.clear();
        self.acked.clear();
        self.acks.clear();
        self.events.clear();
        self.done.clear();
    }

    /// It comes back as its configuration says: read-only, nothing replicating, semi-sync off, not offline.
    pub fn start(&mut self) {
        if self.process != Process::Dead {
            return;
        }
        self.process = Process::Running;
        self.boot += 1;
        (self.read_only, self.super_read_only, self.closing, self.offline) = (true, true, false, false);
        (self.source_enabled, self.replica_enabled, self.source_off_at) = (false, false, None);
        self.executed.join(&self.binlog);
        self.received.join(&self.executed);
        (self.io, self.sql) = (Io::Stopped, false);
    }

    /// Applies what was received.
    pub fn apply(&mut self) {
        if !self.sql || self.sql_error.is_some() || self.source.is_none() {
            return;
        }
        for server in (0..SERVERS_MAX).filter(|server| *server != self.index) {
            let step = self.apply_per_tick.unwrap_or(u64::MAX);
            self.executed.0[server] = self.received.0[server].min(self.executed.0[server].saturating_add(step));
        }
        self.binlog.join(&self.executed);
    }

    pub fn lag(&self) -> u64 {
        let behind: u64 =
            self.received.0.iter().zip(self.executed.0).map(|(received, executed)| received - executed.min(*received)).sum();
        behind / 100
    }
}
