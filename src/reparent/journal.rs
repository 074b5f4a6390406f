//! What a run writes down before a step that its successor has to know of.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::run;
use crate::topo::{ShardId, TabletAlias};

/// The version that is written and the newest that is understood.
const VERSION: u32 = 1;

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The old primary is being made read-only, or is. Whoever finds this makes it writable again.
    Demoting,
    /// The elect is being made primary, or is. Whoever finds this goes forward to it.
    Promoting,
    /// Nothing is left to do: it was done, or undone.
    Finished,
}

/// The journal of a shard: one key in the global topology store, overwritten by every run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// Who ran.
    pub who: String,
    /// What was done, in the words of the lock.
    pub action: String,
    pub stage: Stage,
    /// Who becomes primary.
    pub elect: String,
    /// Who was primary.
    pub old_primary: Option<String>,
    /// The start of the old primary's term, in nanoseconds.
    pub old_term_ns: Option<i64>,
    /// Replicas whose IO thread this run may have stopped.
    pub stopped_io: BTreeSet<String>,
    /// Tablets whose clients this run may have cut off: let in again when they follow the new primary.
    #[serde(default)]
    pub fenced: BTreeSet<String>,
    /// Replicas whose `replica_net_timeout` may be shortened for a testimony, and to how many seconds it has to be set back.
    #[serde(default)]
    pub net_timeouts: BTreeMap<String, u32>,
    /// Key of the reparent-journal row, in nanoseconds.
    pub time_created_ns: i64,
    /// When this was written (wall clock).
    pub written_at_ms: u64,
    /// How long after that a call of this run may still be under way.
    pub longest_call_ms: u64,
}

/// Bytes that are no journal of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("it is no JSON of a journal: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, and {VERSION} is the newest known here")]
    Version(u32),
    #[error("it names {0:?}, which is no tablet alias")]
    Alias(String),
}

impl Journal {
    /// The key of a shard's journal.
    pub fn key(ledger_root: &str, shard: &ShardId) -> String {
        format!("{}/journal/{}/{}", ledger_root.trim_end_matches('/'), shard.keyspace, shard.shard)
    }

    pub fn new(who: &str, action: &str, stage: Stage, elect: &TabletAlias, longest_call: Duration) -> Self {
        Self {
            version: VERSION,
            who: who.to_owned(),
            action: action.to_owned(),
            stage,
            elect: elect.to_string(),
            old_primary: None,
            old_term_ns: None,
            stopped_io: BTreeSet::new(),
            fenced: BTreeSet::new(),
            net_timeouts: BTreeMap::new(),
            time_created_ns: 0,
            written_at_ms: run::now().as_millis() as u64,
            longest_call_ms: longest_call.as_millis() as u64,
        }
    }

    /// The same run at a later stage.
    pub fn at(&self, stage: Stage) -> Self {
        Self { stage, written_at_ms: run::now().as_millis() as u64, ..self.clone() }
    }

    /// The journal of a run that leaves these tablets to others: fenced ones, and ones that could not be told to follow.
    pub fn leaving(&self, fenced: &BTreeSet<TabletAlias>, untold: &BTreeSet<TabletAlias>) -> Self {
        let names = |aliases: &BTreeSet<TabletAlias>| aliases.iter().map(ToString::to_string).collect();
        Self { fenced: names(fenced), stopped_io: names(untold), ..self.clone() }
    }

    /// The journal of a run after which everything is as it should be.
    pub fn leaving_nothing(&self) -> Self {
        self.leaving(&BTreeSet::new(), &BTreeSet::new())
    }

    /// The same with these timeouts to be set back.
    pub fn with_timeouts(&self, seconds: &BTreeMap<TabletAlias, u32>) -> Self {
        let net_timeouts = seconds.iter().map(|(alias, seconds)| (alias.to_string(), *seconds)).collect();
        Self { net_timeouts, ..self.clone() }
    }

    pub fn encode(&self) -> Vec<u8> {
        // A struct of strings and numbers always has a JSON form; its error case is for maps with other keys.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        // The version comes first: a newer journal may have another form altogether.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        match serde_json::from_slice::<Head>(bytes)?.version {
            VERSION => Ok(serde_json::from_slice(bytes)?),
            other => Err(JournalError::Version(other)),
        }
    }

    pub fn is_emergency(&self) -> bool {
        self.action.starts_with("EmergencyReparentShard")
    }

    pub fn elect(&self) -> Result<TabletAlias, JournalError> {
        parse(&self.elect)
    }

    pub fn old_primary(&self) -> Result<Option<TabletAlias>, JournalError> {
        self.old_primary.as_deref().map(parse).transpose()
    }

    pub fn stopped_io(&self) -> Result<BTreeSet<TabletAlias>, JournalError> {
        self.stopped_io.iter().map(|alias| parse(alias)).collect()
    }

    pub fn fenced(&self) -> Result<BTreeSet<TabletAlias>, JournalError> {
        self.fenced.iter().map(|alias| parse(alias)).collect()
    }

    pub fn net_timeouts(&self) -> Result<BTreeMap<TabletAlias, u32>, JournalError> {
        self.net_timeouts.iter().map(|(alias, seconds)| Ok((parse(alias)?, *seconds))).collect()
    }

    /// How long a call of the run that wrote this may still be under way, by the wall clock; never more than the call's own limit.
    pub fn calls_end_in(&self) -> Duration {
        let longest = Duration::from_millis(self.longest_call_ms);
        (Duration::from_millis(self.written_at_ms) + longest).saturating_sub(run::now()).min(longest)
    }
}

fn parse(alias: &str) -> Result<TabletAlias, JournalError> {
    alias.parse().map_err(|_| JournalError::Alias(alias.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_comes_back_as_it_was_written() {
        let elect = "zone1-101".parse().unwrap();
        let mut journal = Journal::new("host:15999", "PlannedReparentShard", Stage::Demoting, &elect, Duration::from_secs(15));
        journal.old_primary = Some("zone1-0000000100".to_owned());
        journal.stopped_io.insert("zone2-0000000200".to_owned());
        let read = Journal::decode(&journal.encode()).unwrap();
        assert_eq!(read, journal);
        assert_eq!(read.elect().unwrap(), elect);
        assert!(read.calls_end_in() <= Duration::from_secs(15));
        assert_eq!(Journal::key("/vtelector/", &"commerce/-80".parse().unwrap()), "/vtelector/journal/commerce/-80");
    }

    #[test]
    fn what_is_no_journal_of_this_version_is_refused_with_the_reason() {
        let reason = |text: &str| Journal::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(reason("{").contains("no JSON of a journal"));
        assert!(reason("{\"version\": 1}").contains("missing field"));
        assert!(reason("{\"version\": 2, \"anything\": []}").contains("version 2"));
        let elect = "zone1-101".parse().unwrap();
        let journal = Journal { elect: "nobody".to_owned(), ..Journal::new("", "", Stage::Demoting, &elect, Duration::ZERO) };
        assert!(journal.elect().unwrap_err().to_string().contains("nobody"));
    }
}
