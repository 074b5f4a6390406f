//! The servers: what a tablet and its mysqld do with a call, with clients, and by themselves.

use std::hash::{Hash, Hasher};

use crate::protocol::{Flaw, Settings};

/// A set of transactions, or of tablets: one bit each.
pub type Set = u8;

/// The most tablets that a shard has here.
pub const TABLETS_MAX: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mysqld {
    Up,
    /// SIGSTOP, a stalled disk, a paused machine: it goes on later as if nothing had been.
    Frozen,
    Dead,
}

/// A replica's IO thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Io {
    /// No source is configured.
    Absent,
    Stopped,
    /// It tries again and again; `StopReplicationAndGetStatus` answers OK and leaves it so.
    Connecting,
    Running,
}

/// A `DemotePrimary(force)` that the tablet has taken and not yet answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Demotion {
    None,
    /// It waits for a frozen mysqld.
    Waiting(u8),
    /// A vttablet has closed its query service; mysqld is writable.
    ServiceClosed(u8),
    /// A vttablet found hanging commits and has switched semi-sync off, so that they end.
    SemiSyncOff(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tablet {
    pub mysqld: Mysqld,
    /// Not super_read_only.
    pub writable: bool,
    /// offline_mode: no client gets in, and none is answered any more.
    pub offline: bool,
    /// The fence waits for a frozen mysqld, on a connection that is open already.
    pub fence_waits: bool,
    /// Commits wait for acknowledgements.
    pub semi_sync: bool,
    pub demotion: Demotion,
    /// The lock revision for which it was demoted since mysqld was started.
    pub demoted_for: u8,
    pub io: Io,
    pub source: u8,
    /// Relay log and binary log: what it could still come to execute.
    pub received: Set,
    /// The binary log: what it hands on, and all that is left after a promotion or another source.
    pub executed: Set,
    /// Transactions whose clients wait here.
    pub waiting: Set,
    /// The highest lock revision that an agent has seen.
    pub seen: u8,
    /// mysqld was restarted, and what it should be is not settled yet.
    pub unsettled: bool,
}

/// What an elector sends to a tablet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    Demote,
    Fence,
    StopIo,
    /// Waits until everything received is applied.
    Apply,
    /// `SetReplicationSource`; a server that follows is read-only and open to its own again.
    Follow(u8),
    /// `START REPLICA IO_THREAD` towards the old primary, which is its source or becomes it again.
    RestartIo(u8),
    Promote,
    Undemote,
}

/// What came of a call that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Done,
    /// An agent has seen a higher revision.
    Overtaken,
    /// An error, or none in time.
    Failed,
}

/// In one piece: the searches spend their time here.
impl Hash for Tablet {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let (demotion, by) = match self.demotion {
            Demotion::None => (0, 0),
            Demotion::Waiting(by) => (1, by),
            Demotion::ServiceClosed(by) => (2, by),
            Demotion::SemiSyncOff(by) => (3, by),
        };
        let flags = [self.writable, self.offline, self.fence_waits, self.semi_sync, self.unsettled];
        let flags = flags.iter().fold(0, |flags, flag| flags << 1 | u8::from(*flag));
        let small = [self.mysqld as u8, self.io as u8, self.source, demotion, by, self.demoted_for, self.seen];
        hasher.write_u64(small.iter().fold(u64::from(flags), |all, one| all << 4 | u64::from(*one)));
        hasher.write_u32(u32::from_le_bytes([self.received, self.executed, self.waiting, 0]));
    }
}

pub fn has(set: Set, one: u8) -> bool {
    set & (1 << one) != 0
}

impl Tablet {
    pub fn primary() -> Self {
        Self { writable: true, semi_sync: true, io: Io::Absent, ..Self::replica() }
    }

    pub fn replica() -> Self {
        Self {
            mysqld: Mysqld::Up,
            writable: false,
            offline: false,
            fence_waits: false,
            semi_sync: false,
            demotion: Demotion::None,
            demoted_for: 0,
            io: Io::Running,
            source: 0,
            received: 0,
            executed: 0,
            waiting: 0,
            seen: 0,
            unsettled: false,
        }
    }

    pub fn up(&self) -> bool {
        self.mysqld == Mysqld::Up
    }

    /// Whether a client's write gets in.
    pub fn open(&self) -> bool {
        self.writable && !self.offline && self.demotion == Demotion::None
    }

    pub fn follows(&self, source: u8) -> bool {
        self.io == Io::Running && self.source == source
    }

    fn cut_clients(&mut self) {
        self.waiting = 0;
    }

    pub fn dies(&mut self) {
        self.mysqld = Mysqld::Dead;
        self.cut_clients();
        self.demotion = Demotion::None;
        self.fence_waits = false;
        self.demoted_for = 0;
        if self.io != Io::Absent {
            self.io = Io::Stopped;
        }
    }

    /// Read-only, not replicating, without offline_mode: what my.cnf says, and what is not in my.cnf does not survive.
    pub fn returns(&mut self, settings: &Settings) {
        self.mysqld = Mysqld::Up;
        self.offline = false;
        self.writable = self.io == Io::Absent && settings.has(Flaw::ReturnsWritable);
        self.semi_sync = self.writable;
        self.unsettled = true;
    }

    /// What waited for a frozen mysqld comes first. A vttablet's statements each wait on a connection of their own: they come when they come.
    pub fn thaws(&mut self, settings: &Settings) {
        self.mysqld = Mysqld::Up;
        if settings.agents {
            self.carries_out_what_waited(settings);
        }
    }

    /// One more step of what waited for mysqld, or of a vttablet's demotion.
    pub fn carries_out_what_waited(&mut self, settings: &Settings) {
        if self.fence_waits {
            self.fence();
        }
        match self.demotion {
            Demotion::None => {}
            Demotion::Waiting(by) if settings.agents => self.demoted(by),
            Demotion::Waiting(by) => self.closes_service(by, settings),
            Demotion::ServiceClosed(by) if self.waiting != 0 => {
                self.demotion = Demotion::SemiSyncOff(by);
                self.semi_sync = false;
            }
            // super_read_only waits for commits that wait.
            Demotion::SemiSyncOff(_) if self.waiting != 0 => {}
            Demotion::ServiceClosed(by) | Demotion::SemiSyncOff(by) => self.demoted(by),
        }
    }

    fn fence(&mut self) {
        self.fence_waits = false;
        self.offline = true;
        self.cut_clients();
    }

    fn demoted(&mut self, by: u8) {
        self.demotion = Demotion::None;
        self.demoted_for = by;
        self.cut_clients();
        self.writable = false;
        self.semi_sync = false;
    }

    /// DemotePrimary(force). The agent cuts its clients first (offline_mode). A vttablet closes its query service: through it nobody is
    /// answered any more, but who is connected to mysqld itself stays.
    fn demote(&mut self, revision: u8, settings: &Settings) -> Answer {
        if self.mysqld == Mysqld::Frozen {
            self.demotion = Demotion::Waiting(revision);
            return Answer::Failed;
        }
        if settings.agents {
            self.offline = true;
            self.demoted(revision);
        } else {
            self.closes_service(revision, settings);
        }
        Answer::Done
    }

    fn closes_service(&mut self, by: u8, settings: &Settings) {
        if !settings.direct_clients {
            self.cut_clients();
        }
        self.demotion = Demotion::ServiceClosed(by);
    }

    /// The caller of a vttablet's demotion has gone away: it opens the query service again, and forgets semi-sync.
    pub fn demotion_is_cancelled(&mut self) {
        if self.demotion != Demotion::None {
            self.demotion = Demotion::None;
            self.semi_sync = false;
        }
    }

    fn promote(&mut self, acks: u8) {
        // RESET REPLICA ALL: what is not applied is gone.
        self.received = self.executed;
        self.io = Io::Absent;
        self.semi_sync = acks > 0;
        self.writable = true;
        self.offline = false;
        self.unsettled = false;
    }
}

/// A tablet gets a call. `tablets` are all of them, because following asks the source.
pub fn arrives(tablets: &mut [Tablet; TABLETS_MAX], at: u8, call: Call, revision: u8, settings: &Settings) -> Answer {
    let source = match call {
        Call::Follow(source) | Call::RestartIo(source) => tablets[usize::from(source)],
        _ => tablets[usize::from(at)],
    };
    let tablet = &mut tablets[usize::from(at)];
    if tablet.mysqld == Mysqld::Dead {
        return Answer::Failed;
    }
    if settings.agents {
        if revision < tablet.seen {
            return Answer::Overtaken;
        }
        tablet.seen = revision;
    }
    if tablet.demotion != Demotion::None && call != Call::Fence {
        // The action lock; statements need none.
        return Answer::Failed;
    }
    match call {
        Call::Demote => return tablet.demote(revision, settings),
        Call::Fence if !tablet.up() => {
            tablet.fence_waits = true;
            return Answer::Failed;
        }
        _ if !tablet.up() => return Answer::Failed,
        Call::Fence => tablet.fence(),
        Call::StopIo => return stop_io(tablet, settings),
        Call::Apply => tablet.executed = tablet.received,
        Call::Follow(to) => return follow(tablet, to, &source, settings),
        Call::RestartIo(to) if tablet.io != Io::Absent && (tablet.source == to || settings.has(Flaw::UndoOnlyStarts)) => {
            if tablet.io == Io::Stopped {
                connect(tablet, &source);
            }
        }
        Call::RestartIo(to) => return follow(tablet, to, &source, settings),
        Call::Promote => tablet.promote(settings.acks),
        // Never while the fence is still on its way there: the server would be fenced afterwards, and nobody would know.
        Call::Undemote if tablet.fence_waits && !settings.has(Flaw::UndoBeforeFence) => return Answer::Failed,
        Call::Undemote => {
            tablet.writable = true;
            tablet.offline &= settings.has(Flaw::UndoForgetsFence);
            tablet.demoted_for = 0;
            tablet.semi_sync = settings.acks > 0;
            tablet.unsettled = false;
        }
    }
    Answer::Done
}

/// Whatever the thread did: afterwards it is stopped, and seen to be. A server that is no replica but writable is not stopped by this.
fn stop_io(tablet: &mut Tablet, settings: &Settings) -> Answer {
    match tablet.io {
        Io::Absent if tablet.writable => return Answer::Failed,
        Io::Connecting if settings.has(Flaw::StopIsBelieved) => {}
        Io::Absent => {}
        _ => tablet.io = Io::Stopped,
    }
    Answer::Done
}

fn follow(tablet: &mut Tablet, to: u8, source: &Tablet, settings: &Settings) -> Answer {
    if !settings.has(Flaw::RepointsUnapplied) {
        tablet.executed = tablet.received;
    }
    // Errant GTIDs: it asks the source, and refuses.
    if !source.up() || tablet.received & !source.executed != 0 {
        return Answer::Failed;
    }
    tablet.received = tablet.executed;
    tablet.cut_clients();
    tablet.source = to;
    connect(tablet, source);
    if settings.has(Flaw::RepointsUnapplied) {
        // The connection takes its time: what was thrown away is not there again at once.
        (tablet.io, tablet.received) = (Io::Connecting, tablet.executed);
    }
    (tablet.writable, tablet.semi_sync, tablet.offline, tablet.demoted_for) = (false, false, false, 0);
    tablet.unsettled = false;
    Answer::Done
}

/// An IO thread starts: at once where its source lets it in, else it tries again and again.
fn connect(tablet: &mut Tablet, source: &Tablet) {
    tablet.io = Io::Connecting;
    if source.up() && !source.offline {
        tablet.io = Io::Running;
        tablet.received |= source.executed;
    }
}
