//! What persons switch off: for a while and a part (maintenance), or altogether.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::topo::{NameError, ShardId, TabletAlias, check_cell, check_name};

/// Longest maintenance window: what is forgotten ends by itself.
pub const WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What maintenance is done on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One tablet: nothing is done to it. A shard whose primary it is keeps its primary.
    Tablet(TabletAlias),
    /// One shard, with all its tablets.
    Shard(ShardId),
    /// Every shard of a keyspace.
    Keyspace(String),
    /// Every tablet of a cell.
    Cell(String),
}

/// Text that names nothing that maintenance could be done on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is nothing that maintenance is done on{}; write tablet:zone1-101, shard:commerce/0, keyspace:commerce or cell:zone1",
    .name.as_ref().map(|name| format!(": {name}")).unwrap_or_default())]
pub struct ScopeError {
    given: String,
    name: Option<NameError>,
}

/// A maintenance window: within it electors do nothing to what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What a person ends it by.
    pub id: String,
    /// What it is about.
    pub scope: Scope,
    /// Whose it is.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// When it began (wall clock).
    pub from: SystemTime,
    /// When it ends by itself (wall clock).
    pub until: SystemTime,
}

/// Recoveries are switched off everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// Who switched them off.
    pub who: String,
    /// Why.
    pub why: String,
    /// Since when; `None` where that cannot be read.
    pub since: Option<SystemTime>,
}

impl Scope {
    /// Whether something about this shard, and about this tablet of it where one is named, falls under it.
    pub fn covers(&self, shard: &ShardId, tablet: Option<&TabletAlias>) -> bool {
        match self {
            Self::Tablet(alias) => tablet == Some(alias),
            Self::Shard(id) => id == shard,
            Self::Keyspace(keyspace) => *keyspace == shard.keyspace,
            Self::Cell(cell) => tablet.is_some_and(|tablet| tablet.cell == *cell),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tablet(alias) => write!(f, "tablet:{alias}"),
            Self::Shard(shard) => write!(f, "shard:{shard}"),
            Self::Keyspace(keyspace) => write!(f, "keyspace:{keyspace}"),
            Self::Cell(cell) => write!(f, "cell:{cell}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let error = |name: Option<NameError>| ScopeError { given: text.to_owned(), name };
        let (kind, name) = text.split_once(':').ok_or_else(|| error(None))?;
        let scope = match kind {
            "tablet" => name.parse().map(Self::Tablet),
            "shard" => name.parse().map(Self::Shard),
            "keyspace" => check_name("keyspace name", name).map(|()| Self::Keyspace(name.to_owned())),
            "cell" => check_cell(name).map(|()| Self::Cell(name.to_owned())),
            _ => return Err(error(None)),
        };
        scope.map_err(|name| error(Some(name)))
    }
}
