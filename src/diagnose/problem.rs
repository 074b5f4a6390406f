//! What a problem is: its code, what it rests on, and what would mend it.

use std::{collections::BTreeSet, time::Duration};

use super::Code;
use crate::topo::TabletAlias;

/// A difference between what is declared and what is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name: VTOrc's where VTOrc has one.
    pub code: Code,
    /// The tablet that has it; the declared primary for problems of the whole shard, where there is one.
    pub tablet: Option<TabletAlias>,
    /// The facts that make it so, for a person: who said what, and how long ago.
    pub why: String,
    /// What would mend it.
    pub remedy: Remedy,
}

/// How urgent problems are; the more urgent is the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody can write, or everything else depends on it.
    Shard,
    /// Critical.
    Critical,
    /// High.
    High,
    /// Medium.
    Medium,
    /// Low.
    Low,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 5] = [Self::Shard, Self::Critical, Self::High, Self::Medium, Self::Low];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shard => "shard",
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// What may be done about a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing that a program should do: it is reported.
    Report,
    /// Read these tablets again at once: what they said is too old, or contradicts the others.
    Reread(BTreeSet<TabletAlias>),
    /// Let the replicas say whether the primary takes connections: a witness call, or a bounced IO thread.
    Testify,
    /// An emergency reparent.
    Emergency(Ground),
    /// A planned reparent: to that tablet, or away from the primary to an elected one.
    Takeover {
        /// Who shall be primary; elected when absent.
        to: Option<TabletAlias>,
        /// Whether an emergency reparent follows where the planned one fails.
        then_emergency: bool,
    },
    /// The first primary of a shard that never had one.
    ElectFirst,
    /// One repair of [`Problem::tablet`].
    Fix(Repair),
}

/// Why an emergency reparent is due; what has to be confirmed before it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Every witness agrees that its MySQL is gone, silent or takes nobody: the replicas confirm it.
    PrimaryDead,
    /// The primary answers and cannot work: stalled disk, blocked semi-sync, read-only file system.
    PrimaryIncapable,
    /// The tablet manager is dead and MySQL works: a quorum of electors has to agree.
    ManagerDead,
    /// The primary's tablet record was deleted: every tablet has to answer.
    RecordDeleted,
}

/// One repair of one tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// The declared primary is writable and serving again (`UndoDemotePrimary`).
    MakeWritable,
    /// A replica refuses writes.
    MakeReadOnly,
    /// It follows the declared primary: validated by GTID first; unapplied relay log that nobody else has is never thrown away.
    Connect,
    /// Its replication threads run again; the source stays.
    StartReplication,
    /// `replica_net_timeout` and heartbeat fit together again, without loss of relay log.
    FixHeartbeat,
    /// The declared primary forgets its source.
    ForgetSource,
    /// Semi-sync of the declared primary as the policy wants it: on or off, timeout, wait count, wait point.
    SemiSyncPrimary,
    /// Semi-sync of a replica as the policy wants it.
    SemiSyncReplica,
    /// A PRIMARY record of an older term is made REPLICA, the tablet demoted and pointed at the primary.
    RetirePrimary,
    /// The tablet's own type is brought in line with its record.
    AlignType,
    /// An errant replica becomes DRAINED.
    Drain,
    /// The shard record names the primary that the tablets' records name.
    PublishPrimary,
    /// `offline_mode` is lifted from a server that follows the primary, or is the primary.
    LiftFence,
}

/// Limits of the diagnosis: flags in VTOrc's names where it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// A status older than this proves nothing: 2 x the status cadence plus one deadline.
    pub status_max_age: Duration,
    /// `--reasonable-replication-lag` (10 s).
    pub reasonable_replication_lag: Duration,
    /// Silence of a primary on every channel before the other tablets are asked what they hear (500 ms): a question costs nothing.
    pub witness_after: Duration,
    /// Silence of a primary on every channel before anybody is made to testify by an action (1 s; safety rules, section 9).
    pub silent_for: Duration,
    /// Silence of a primary on every channel before testimony makes it dead (1.5 s; safety rules, section 9).
    pub dead_after: Duration,
    /// Silence of a primary's tablet manager, its MySQL working, before a quorum is asked (4 s; not before 3 s).
    pub manager_dead_for: Duration,
    /// A primary that greets and answers nothing, or nothing but errors, for so long is incapacitated (20 s).
    pub incapacitated_for: Duration,
    /// A greeting older than this proves nothing (2 s).
    pub greeting_max_age: Duration,
    /// `offline_mode` of a replica that follows is lifted when it has lasted so long, under this primary (10 s).
    pub offline_for: Duration,
    /// `--enable-primary-disk-stalled-recovery`.
    pub recover_stalled_disk: bool,
    /// `--change-tablets-with-errant-gtid-to-drained`.
    pub drain_errant: bool,
    /// `--slow-primary-takeover`: move a primary that is so many times slower than its own baseline; `None` = only report it.
    pub slow_primary_factor: Option<u32>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            status_max_age: Duration::from_secs(4),
            reasonable_replication_lag: Duration::from_secs(10),
            witness_after: Duration::from_millis(500),
            silent_for: Duration::from_secs(1),
            dead_after: Duration::from_millis(1500),
            manager_dead_for: Duration::from_secs(4),
            incapacitated_for: Duration::from_secs(20),
            greeting_max_age: Duration::from_secs(2),
            offline_for: Duration::from_secs(10),
            recover_stalled_disk: false,
            drain_errant: false,
            slow_primary_factor: None,
        }
    }
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Report => f.write_str("report"),
            Self::Reread(_) => f.write_str("reread"),
            Self::Testify => f.write_str("asking the witnesses"),
            Self::Emergency(_) => f.write_str("emergency reparent"),
            Self::Takeover { to: Some(to), .. } => write!(f, "planned reparent to {to}"),
            Self::Takeover { to: None, .. } => f.write_str("planned reparent"),
            Self::ElectFirst => f.write_str("electing the first primary"),
            Self::Fix(repair) => write!(f, "{repair}"),
        }
    }
}

impl std::fmt::Display for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MakeWritable => "make writable",
            Self::MakeReadOnly => "make read-only",
            Self::Connect => "connect",
            Self::StartReplication => "start replication of",
            Self::FixHeartbeat => "fix the heartbeat of",
            Self::ForgetSource => "forget the source of",
            Self::SemiSyncPrimary => "set semi-sync on the primary",
            Self::SemiSyncReplica => "set semi-sync on the replica",
            Self::RetirePrimary => "retire",
            Self::AlignType => "align the type of",
            Self::Drain => "drain",
            Self::PublishPrimary => "publish",
            Self::LiftFence => "lift the fence of",
        })
    }
}
