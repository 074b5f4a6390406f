//! What the election looks at.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    durability::Policy,
    mysql::{GtidSet, Position, ServerUuid},
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// How far a tablet was reached. Only what is *proven* lets it count as unable to acknowledge or to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It answered a question; nothing was changed there. In a forecast (before anything is stopped, and in a dry run) it counts as if
    /// it had been stopped or demoted.
    Seen,
    /// A replica whose IO thread was seen stopped after we had stopped it.
    Stopped,
    /// It answered its demotion: it is read-only, and its position is known.
    Demoted,
    /// It accepts no client any more (`offline_mode` was confirmed), but its position is not known.
    Fenced,
    /// No answer, or one that proves nothing; the reason.
    Unreached(String),
}

/// What its MySQL server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlFacts {
    /// Major, minor, patch; `None` when it cannot be told.
    pub version: Option<(u32, u32, u32)>,
    /// Whether the binary log is on: without it nobody can replicate from this server.
    pub log_bin: bool,
    /// Whether GTIDs are on.
    pub gtid_mode_on: bool,
    /// Transactions that it holds but cannot hand on any more.
    pub purged: GtidSet,
}

/// Everything known of one tablet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Testimony {
    /// The type in its record.
    pub tablet_type: TabletType,
    /// The tags in its record.
    pub tags: BTreeMap<String, String>,
    /// How far it was reached.
    pub reach: Reach,
    /// Whether a replication source is configured; without one it acts as a primary, or never replicated.
    pub is_replica: bool,
    /// Everything received, applied or not; of a server without a source what it has executed. [`Position::None`] when unknown.
    pub received: Position,
    /// What is applied.
    pub executed: Position,
    /// Its source's server UUID, where it is a replica that ever connected.
    pub source_uuid: Option<ServerUuid>,
    /// Its own server UUID.
    pub server_uuid: Option<ServerUuid>,
    /// Rows of its reparent journal (of what is applied), or why they cannot be counted.
    pub journal_rows: Result<i32, String>,
    /// Whether either replication thread ran before we stopped it: one that was stopped by a person stays stopped, and acknowledges nothing.
    pub was_replicating: bool,
    /// Whether its SQL thread runs.
    pub sql_running: bool,
    /// `SOURCE_DELAY`; zero = none.
    pub sql_delay: Duration,
    /// Whether it is taking a backup.
    pub backup_running: bool,
    /// Its server's settings; `None` when it did not say.
    pub mysql: Option<MysqlFacts>,
    /// Pages in its buffer pool: a warm server is the better primary.
    pub buffer_pool_pages: u64,
    /// Why it could not apply what it has received, as seen in this run.
    pub apply_failed: Option<String>,
    /// Why it could not be pointed at the elect, as seen in this run: it will acknowledge nothing.
    pub follow_failed: Option<String>,
    /// Why it must not be primary, as found by a closer look: its clock, its semi-sync settings. It may be a source and an acker.
    pub unfit: Option<String>,
}

/// The highest position ever seen on the old primary, for whoever watched it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenPrimary {
    /// The position.
    pub position: Position,
    /// Whether semi-sync was seen active then, AFTER_SYNC, without a way out (safety rules, section 4): everything in it was acknowledged
    /// by an acker. Else it is reported as possibly lost and binds nobody.
    pub binding: bool,
}

/// The shard's evidence.
pub struct EmergencyEvidence<'a> {
    /// The shard.
    pub shard: &'a ShardId,
    /// Its durability policy, with what our settings add to it.
    pub policy: &'a dyn Policy,
    /// The primary in the shard record, or by the tablets' own newer records.
    pub primary: Option<&'a TabletAlias>,
    /// Whether the shard ever had a primary (its record carries a term).
    pub had_primary: bool,
    /// Every tablet of the shard, ignored ones too.
    pub tablets: &'a BTreeMap<TabletAlias, Testimony>,
    /// Cells whose tablets cannot be listed, with the reasons. Tablets there, known from the last list kept, stand in `tablets` as
    /// unreached; a cell without such a list stands here, and no proof may assume that it has no ackers.
    pub unlisted_cells: &'a BTreeMap<String, String>,
    /// What was seen of the old primary earlier.
    pub seen: Option<&'a SeenPrimary>,
}

/// What the caller wants and allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmergencyWish {
    /// This tablet and no other. A wish, not a bypass.
    pub named: Option<TabletAlias>,
    /// Tablets that are left alone. They count as unreached.
    pub ignored: BTreeSet<TabletAlias>,
    /// Only a tablet in the old primary's cell.
    pub prevent_cross_cell: bool,
    /// A person accepts the loss of exactly this set.
    pub accept_loss: Option<GtidSet>,
    /// A person chose the named tablet's side of a divergence; the other sides' extra transactions are discarded.
    pub choose_side: bool,
    /// A person accepts a primary whose first commits will hang until somebody can acknowledge.
    pub allow_not_established: bool,
    /// Under a policy without ackers: go on although the old primary is neither demoted nor fenced (safety rules, section 2). True for a
    /// person's call, with Vitess's condition that it is the only promotable tablet not reached.
    pub allow_unfenced: bool,
}
