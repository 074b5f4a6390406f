//! What of an event decides who is told of it.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use crate::{
    diagnose::{Code, Priority},
    pb::vtelector::{Event, event::What},
};

/// What kinds of events there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A problem is there that was not.
    Opened,
    /// A problem is gone.
    Closed,
    /// Another decision than before.
    Decided,
    /// A recovery has ended.
    Recovered,
    /// An elector no longer looks after a shard, or something that this release does not know.
    Other,
}

impl Kind {
    /// Those that can be asked for.
    pub const ALL: [Self; 4] = [Self::Opened, Self::Closed, Self::Decided, Self::Recovered];

    /// Its name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Decided => "decided",
            Self::Recovered => "recovered",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names nothing of that list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of: {known}")]
pub struct WordError {
    given: String,
    known: String,
}

impl WordError {
    /// That word, and those that would do.
    pub fn new(given: &str, known: &[&str]) -> Self {
        Self { given: given.to_owned(), known: known.join(", ") }
    }
}

impl FromStr for Kind {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| WordError::new(text, &Self::ALL.map(Self::name)))
    }
}

/// Priorities by their names in messages, the most urgent first.
const PRIORITIES: [(Priority, &str); 5] = [
    (Priority::Shard, "shard"),
    (Priority::Critical, "critical"),
    (Priority::High, "high"),
    (Priority::Medium, "medium"),
    (Priority::Low, "low"),
];

/// The priority of that name.
pub fn priority(text: &str) -> Result<Priority, WordError> {
    let found = PRIORITIES.into_iter().find(|(_, name)| *name == text);
    found.map(|(priority, _)| priority).ok_or_else(|| WordError::new(text, &PRIORITIES.map(|(_, name)| name)))
}

/// The name of a priority.
pub fn priority_name(priority: Priority) -> &'static str {
    PRIORITIES.iter().find(|(known, _)| *known == priority).map_or("low", |(_, name)| name)
}

/// What of an event decides who is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// The urgency of the problem that it is about; of one that is not known here, the highest: nobody should miss it.
    pub priority: Priority,
    /// Whose it is.
    pub keyspace: Arc<str>,
    /// When it happened, in seconds since 1970.
    pub at_s: i64,
}

impl Head {
    /// The head of that event.
    pub fn of(event: &Event) -> Self {
        let by_code = |code: &str| Code::ALL.iter().find(|known| known.name() == code).map(|code| code.priority());
        let (kind, found) = match &event.what {
            Some(What::Opened(problem)) => (Kind::Opened, priority(&problem.priority).ok()),
            Some(What::Closed(problem)) => (Kind::Closed, priority(&problem.priority).ok()),
            Some(What::Decided(decision)) => (Kind::Decided, by_code(&decision.code)),
            Some(What::Recovered(recovery)) => (Kind::Recovered, by_code(&recovery.code)),
            Some(What::LeftAlone(_) | What::Dropped(_)) | None => (Kind::Other, None),
        };
        let at_s = event.at.as_ref().map_or(0, |at| at.seconds);
        Self { kind, priority: found.unwrap_or(Priority::Shard), keyspace: event.keyspace.as_str().into(), at_s }
    }
}

/// Which events somebody wants to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What they are.
    pub kinds: BTreeSet<Kind>,
    /// How urgent.
    pub priorities: BTreeSet<Priority>,
    /// Of which keyspaces; none = of all.
    pub keyspaces: BTreeSet<String>,
}

impl Wanted {
    /// Whether that event is wanted.
    pub fn wants(&self, head: &Head) -> bool {
        self.kinds.contains(&head.kind)
            && self.priorities.contains(&head.priority)
            && (self.keyspaces.is_empty() || self.keyspaces.contains(&*head.keyspace))
    }
}
