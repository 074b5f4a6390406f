//! The arguments of the commands; flags have vtctldclient's names.

use std::str::FromStr;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use crate::{
    config::GoDuration,
    pb::topodata,
    topo::{NameError, ShardId, TabletAlias, check_name},
};

/// No arguments.
#[derive(Debug, Clone, Args)]
pub struct Nothing {}

/// A tablet.
#[derive(Debug, Clone, Args)]
pub struct TabletArg {
    /// Alias, such as zone1-0000000101 or zone1-101
    #[arg(value_name = "ALIAS")]
    pub alias: TabletAlias,
}

/// A cell.
#[derive(Debug, Clone, Args)]
pub struct CellArg {
    /// Name of the cell
    #[arg(value_name = "CELL")]
    pub cell: String,
}

/// A keyspace.
#[derive(Debug, Clone, Args)]
pub struct KeyspaceArg {
    /// Name of the keyspace
    #[arg(value_name = "KEYSPACE")]
    pub keyspace: String,
}

/// A shard.
#[derive(Debug, Clone, Args)]
pub struct ShardArg {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
}

/// A shard, and perhaps only some cells.
#[derive(Debug, Clone, Args)]
pub struct ShardAndCells {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
    /// Only these cells
    #[arg(value_name = "CELL")]
    pub cells: Vec<String>,
}

/// A planned reparent.
#[derive(Debug, Clone, Args)]
pub struct PlannedReparent {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
    /// The tablet that shall become primary; the best one when not given
    #[arg(long, value_name = "ALIAS")]
    pub new_primary: Option<TabletAlias>,
    /// The tablet that shall not be primary any more; nothing is done when it is not
    #[arg(long, value_name = "ALIAS")]
    pub avoid_primary: Option<TabletAlias>,
    /// Refuse unless this tablet is the primary now
    #[arg(long, value_name = "ALIAS")]
    pub expected_primary: Option<TabletAlias>,
    /// How long replicas may take to catch up and to follow
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub wait_replicas_timeout: GoDuration,
    /// Elect nobody who lags more than this; 0 = no limit
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub tolerable_replication_lag: GoDuration,
    /// Let a tablet of another cell be elected
    #[arg(long)]
    pub allow_cross_cell_promotion: bool,
    /// Make the old primary read-only at once: its open transactions fail instead of being waited for. Only vtelector knows this
    #[arg(long)]
    pub abrupt: bool,
    /// Change nothing: show what would be done and why. Exit code 3 when it would be refused. Only vtelector knows this
    #[arg(long)]
    pub dry_run: bool,
}

/// An emergency reparent.
#[derive(Debug, Clone, Args)]
pub struct EmergencyReparent {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
    /// The tablet that shall become primary, if it can do so safely; the best one when not given
    #[arg(long, value_name = "ALIAS")]
    pub new_primary: Option<TabletAlias>,
    /// Tablets that are neither asked nor pointed at the new primary, with commas between or repeated. They count as not reached
    #[arg(long, short, value_name = "ALIAS,...", value_delimiter = ',')]
    pub ignore_replicas: Vec<TabletAlias>,
    /// Refuse unless this tablet is the primary in the shard record
    #[arg(long, value_name = "ALIAS")]
    pub expected_primary: Option<TabletAlias>,
    /// How long the new primary may go without progress while it applies what it received, and how long replicas may take to follow
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub wait_replicas_timeout: GoDuration,
    /// Only a tablet in the old primary's cell
    #[arg(long)]
    pub prevent_cross_cell_promotion: bool,
    /// Wait for the answer of every tablet, dead ones too, instead of going on with those that answer
    #[arg(long)]
    pub wait_for_all_tablets: bool,
    #[command(flatten)]
    pub own: EmergencyOwn,
}

/// What vtctld has no field for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Only vtelector knows these")]
pub struct EmergencyOwn {
    /// Change nothing: show who would become primary, what proves it safe, and why not each of the others. Exit code 3 when it would be
    /// refused
    #[arg(long)]
    pub dry_run: bool,
    /// Accept the loss of exactly these transactions: the set that the refusal named
    #[arg(long, value_name = "GTIDSET", value_parser = NonEmptyStringValueParser::new())]
    pub accept_loss: Option<String>,
    /// Of two sides that went apart, keep that of --new-primary; what only the other side has is discarded
    #[arg(long, requires = "new_primary")]
    pub choose_side: bool,
    /// Promote also where too few tablets can acknowledge: commits hang until one can
    #[arg(long)]
    pub allow_not_established: bool,
}

impl EmergencyOwn {
    /// Whether any of it is asked for.
    pub fn is_asked(&self) -> bool {
        self.dry_run || self.accept_loss.is_some() || self.choose_side || self.allow_not_established
    }
}

/// Whose errant transactions to list.
#[derive(Debug, Clone, Args)]
pub struct ErrantArg {
    /// Only this keyspace or shard, such as commerce or commerce/0
    #[arg(value_name = "KEYSPACE[/SHARD]")]
    pub scope: Option<Scope>,
}

/// A keyspace or one shard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The keyspace.
    pub keyspace: String,
    /// The shard; empty = all of them.
    pub shard: String,
}

impl FromStr for Scope {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('/') {
            let ShardId { keyspace, shard } = text.parse()?;
            return Ok(Self { keyspace, shard });
        }
        check_name("keyspace name", text)?;
        Ok(Self { keyspace: text.to_owned(), shard: String::new() })
    }
}

/// The first primary.
#[derive(Debug, Clone, Args)]
pub struct InitPrimary {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
    /// The tablet that shall be primary
    #[arg(value_name = "ALIAS")]
    pub alias: TabletAlias,
    /// Also where the shard has had a primary
    #[arg(long)]
    pub force: bool,
    /// How long replicas may take to follow
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub wait_replicas_timeout: GoDuration,
}

/// A new cell.
#[derive(Debug, Clone, Args)]
pub struct AddCell {
    /// Name of the cell
    #[arg(value_name = "CELL")]
    pub cell: String,
    /// Root of the cell's topology in its etcd
    #[arg(long, short, value_name = "PATH")]
    pub root: String,
    /// Endpoints of the cell's etcd: host:port, with commas between
    #[arg(long, short = 'a', value_name = "HOST:PORT,...", default_value = "")]
    pub server_address: String,
}

/// A new keyspace.
#[derive(Debug, Clone, Args)]
pub struct CreateKeyspace {
    /// Name of the keyspace
    #[arg(value_name = "KEYSPACE")]
    pub keyspace: String,
    /// No error when it exists
    #[arg(long, short)]
    pub force: bool,
    /// none, semi_sync, cross_cell, semi_sync_with_rdonly_ack or cross_cell_with_rdonly_ack
    #[arg(long, value_name = "POLICY", default_value = "none")]
    pub durability_policy: String,
    /// Schema of Vitess's own tables on each server
    #[arg(long, value_name = "NAME", default_value = "_vt")]
    pub sidecar_db_name: String,
    /// Accepted for vtctldclient's users: no VSchema is written here, the first tablet of the keyspace does that
    #[arg(long, short = 'e')]
    pub allow_empty_vschema: bool,
    /// normal, or snapshot: the state of another keyspace at a time
    #[arg(long = "type", value_name = "TYPE", value_enum, ignore_case = true, default_value = "normal")]
    pub kind: KeyspaceType,
    /// The keyspace that a snapshot is taken of
    #[arg(long, value_name = "KEYSPACE", default_value = "", required_if_eq("kind", "snapshot"))]
    pub base_keyspace: String,
    /// When the snapshot was taken, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", required_if_eq("kind", "snapshot"))]
    pub snapshot_timestamp: Option<jiff::Timestamp>,
}

/// A new shard.
#[derive(Debug, Clone, Args)]
pub struct CreateShard {
    /// Shard, such as commerce/0 or commerce/-80
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
    /// No error when it exists
    #[arg(long, short)]
    pub force: bool,
    /// Make the keyspace as well when it does not exist
    #[arg(long, short = 'p')]
    pub include_parent: bool,
}

/// Which tablets to list.
#[derive(Debug, Clone, Args)]
pub struct GetTablets {
    /// Only this keyspace
    #[arg(long, short, value_name = "KEYSPACE", default_value = "")]
    pub keyspace: String,
    /// Only this shard; needs the keyspace
    #[arg(long, short, value_name = "SHARD", default_value = "", requires = "keyspace")]
    pub shard: String,
    /// Only these cells
    #[arg(long, short, value_name = "CELL", value_delimiter = ',')]
    pub cell: Vec<String>,
    /// Only these tablets, whatever the rest says
    #[arg(long, short = 't', value_name = "ALIAS", value_delimiter = ',')]
    pub tablet_alias: Vec<TabletAlias>,
    /// Only this type
    #[arg(long, value_name = "TYPE", value_enum, ignore_case = true)]
    pub tablet_type: Option<TabletType>,
    /// Fail when any cell cannot be read
    #[arg(long)]
    pub strict: bool,
}

/// Records to delete.
#[derive(Debug, Clone, Args)]
pub struct DeleteTablets {
    /// The tablets
    #[arg(value_name = "ALIAS", required = true)]
    pub aliases: Vec<TabletAlias>,
    /// Also when one is the primary of its shard
    #[arg(long, short)]
    pub allow_primary: bool,
}

/// Writable or not.
#[derive(Debug, Clone, Args)]
pub struct SetWritable {
    /// Alias, such as zone1-0000000101
    #[arg(value_name = "ALIAS")]
    pub alias: TabletAlias,
    /// true or false
    #[arg(value_name = "WRITABLE", action = clap::ArgAction::Set)]
    pub writable: bool,
}

/// Another type.
#[derive(Debug, Clone, Args)]
pub struct ChangeType {
    /// Alias, such as zone1-0000000101
    #[arg(value_name = "ALIAS")]
    pub alias: TabletAlias,
    /// The type it shall have
    #[arg(value_name = "TYPE", value_enum, ignore_case = true)]
    pub to: TabletType,
    /// Only say what would change
    #[arg(long, short)]
    pub dry_run: bool,
}

/// A policy.
#[derive(Debug, Clone, Args)]
pub struct SetDurability {
    /// Name of the keyspace
    #[arg(value_name = "KEYSPACE")]
    pub keyspace: String,
    /// none, semi_sync, cross_cell, semi_sync_with_rdonly_ack or cross_cell_with_rdonly_ack
    #[arg(long, value_name = "POLICY", default_value = "none")]
    pub durability_policy: String,
}

/// Automatic emergency reparents on or off.
#[derive(Debug, Clone, Args)]
pub struct SetEmergency {
    /// Name of the keyspace
    #[arg(value_name = "KEYSPACE")]
    pub keyspace: String,
    /// Name of the shard; the whole keyspace when not given
    #[arg(value_name = "SHARD", default_value = "")]
    pub shard: String,
    /// Allow them
    #[arg(long, short, required_unless_present = "disable", conflicts_with = "disable")]
    pub enable: bool,
    /// Forbid them
    #[arg(long, short)]
    pub disable: bool,
}

/// A path of the topology.
#[derive(Debug, Clone, Args)]
pub struct TopologyPathArg {
    /// Path, such as /global/keyspaces or /zone1/tablets
    #[arg(value_name = "PATH")]
    pub path: String,
    /// As it stood at this revision of etcd; 0 = now
    #[arg(long, value_name = "REVISION", default_value = "0")]
    pub version: i64,
    /// Show a record as JSON
    #[arg(long)]
    pub data_as_json: bool,
}

/// What to compare.
#[derive(Debug, Clone, Args)]
pub struct ValidateShard {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    pub shard: ShardId,
    /// Ask each tablet whether it answers, too
    #[arg(long, short)]
    pub ping_tablets: bool,
}

/// Vitess's keyspace types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyspaceType {
    /// Takes writes
    Normal,
    /// The state of another keyspace at a time
    Snapshot,
}

impl From<KeyspaceType> for topodata::KeyspaceType {
    fn from(kind: KeyspaceType) -> Self {
        match kind {
            KeyspaceType::Normal => Self::Normal,
            KeyspaceType::Snapshot => Self::Snapshot,
        }
    }
}

/// Vitess's tablet types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TabletType {
    /// Takes writes
    Primary,
    /// May become primary
    Replica,
    /// For batch reads
    Rdonly,
    /// Held back
    Spare,
    /// For trials
    Experimental,
    /// Taking a backup
    Backup,
    /// Restoring one
    Restore,
    /// Claimed by a process
    Drained,
}

impl From<TabletType> for topodata::TabletType {
    fn from(kind: TabletType) -> Self {
        match kind {
            TabletType::Primary => Self::Primary,
            TabletType::Replica => Self::Replica,
            TabletType::Rdonly => Self::Rdonly,
            TabletType::Spare => Self::Spare,
            TabletType::Experimental => Self::Experimental,
            TabletType::Backup => Self::Backup,
            TabletType::Restore => Self::Restore,
            TabletType::Drained => Self::Drained,
        }
    }
}
