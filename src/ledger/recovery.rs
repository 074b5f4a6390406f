//! One finished recovery.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::topo::{ShardId, TabletAlias};

/// What an elector did about a problem by itself, from the decision to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The shard.
    pub shard: ShardId,
    /// Name of the problem's code. A name, because an elector of another release may know codes that this one does not.
    pub code: String,
    /// What was done.
    pub kind: Kind,
    /// Who was promoted; `None` when nobody was.
    pub promoted: Option<TabletAlias>,
    /// Who was primary before; for a repair, the tablet that was repaired.
    pub old: Option<TabletAlias>,
    /// The elector that did it.
    pub who: String,
    /// When it ended (wall clock of that elector).
    pub at: SystemTime,
    /// How long it took, from the decision on.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// What the decision rested on, for a person.
    pub evidence: String,
}

/// What a recovery does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An emergency reparent.
    Emergency,
    /// A planned reparent: a graceful takeover.
    Takeover,
    /// The first primary of a shard.
    ElectFirst,
    /// A half-done reparent of an elector that died was finished, or taken back.
    Resume,
    /// Something other than a promotion.
    Repair,
}

/// How a recovery ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it was meant.
    Done,
    /// Somebody else was faster: under the lock there was nothing left to do.
    AlreadyDone,
    /// It failed, or was refused under the lock, for this reason.
    Failed(String),
}

impl Recovery {
    /// Whether it is a completed automatic promotion: those alone count for anti-flapping. One that was completed by the successor of an
    /// elector that died counts as well: the shard has had another primary.
    pub fn is_promotion(&self) -> bool {
        self.outcome == Outcome::Done && self.promoted.is_some() && self.kind != Kind::Repair
    }
}

impl Kind {
    /// Its name in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::Takeover => "takeover",
            Self::ElectFirst => "elect_first",
            Self::Resume => "resume",
            Self::Repair => "repair",
        }
    }
}

impl Outcome {
    /// Its name in metrics and answers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AlreadyDone => "already_done",
            Self::Failed(_) => "failed",
        }
    }
}
