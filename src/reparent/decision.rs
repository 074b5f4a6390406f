//! The record of a decision: what was known, what was chosen, and why not the others. The same one is in a dry run, the API and the log.

use std::collections::BTreeMap;

use crate::topo::{ShardId, TabletAlias};

/// One tablet's part in a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TabletDecision {
    /// The type in its record, such as `REPLICA`.
    pub tablet_type: String,
    /// How far it was reached, in words; why not, where it was not.
    pub reach: String,
    /// Everything received, encoded; empty when unknown.
    pub received: String,
    /// What is applied, encoded; empty when unknown.
    pub executed: String,
    /// Its errant transactions; empty = none.
    pub errant: String,
    /// Why it was not chosen; `None` for the chosen one.
    pub rejected: Option<String>,
}

/// One proof of the four (safety rules, sections 1, 2, 4, 5): revoked, complete, established, locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofLine {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// The tablets that prove or refute it, in words.
    pub because: String,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// `PlannedReparentShard` or `EmergencyReparentShard`.
    pub operation: &'static str,
    /// The shard.
    pub shard: ShardId,
    /// The durability policy's name.
    pub policy: String,
    /// The primary before.
    pub old_primary: Option<TabletAlias>,
    /// Who becomes primary; `None` when the answer is a refusal.
    pub elect: Option<TabletAlias>,
    /// From whom the elect copies first.
    pub source: Option<TabletAlias>,
    /// The proofs, as far as they could be judged.
    pub proofs: Vec<ProofLine>,
    /// Every tablet.
    pub tablets: BTreeMap<TabletAlias, TabletDecision>,
    /// What a person should know.
    pub caveats: Vec<String>,
    /// What would be done, or was, step by step.
    pub steps: Vec<String>,
    /// Why nothing would be done, or was.
    pub refusal: Option<String>,
}
