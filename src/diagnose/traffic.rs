//! Whether a workflow is switching a shard's traffic (pure).
//!
//! vtctld's switches stop writes on one side, wait for the other to catch up, and open that. A primary that moves in the middle makes
//! them fail half-way, or longer by a reparent. So moves that can wait do; who must not wait, an emergency, does not ask.

use crate::{
    pb::topodata::{Shard, SrvKeyspace, TabletType},
    topo::HeldLock,
};

/// Words in the actions of locks that vtctld holds while it switches traffic or ends a workflow, in lower case: keyspace locks of
/// `SwitchTraffic` and `ReverseTraffic` (which say `SwitchReads`, `SwitchWrites`), `Complete` and `Cancel`, and of the older calls
/// that do the same by hand.
const SWITCHES: [&str; 10] = [
    "switchreads",
    "switchwrites",
    "switchtraffic",
    "reversetraffic",
    "migrateserved",
    "dropsources",
    "droptargets",
    "completemigrateworkflow",
    "tabletcontrol",
    "isprimaryserving",
];

/// The message by which vtctld marks streams whose traffic has been switched and whose workflow is not completed.
const FROZEN: &str = "FROZEN";

/// Numbers of the workflows that switch traffic in the end: MoveTables, Migrate, Reshard.
const SWITCHING_TYPES: [(u32, &str); 3] = [(1, "MoveTables"), (3, "Migrate"), (4, "Reshard")];

/// Streams that are named at most.
pub const STREAMS_MAX: u64 = 5;

/// A row of a primary's `vreplication` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The workflow's name.
    pub workflow: String,
    /// Its type's number.
    pub workflow_type: u32,
    /// Such as `Running`.
    pub state: String,
    /// Such as `FROZEN`.
    pub message: String,
}

/// What the shard record says.
pub fn in_record(record: &Shard) -> Option<String> {
    record.tablet_controls.iter().find_map(|control| {
        let kind = control.tablet_type().as_str_name();
        match (control.frozen, control.denied_tables.as_slice()) {
            (true, _) => Some(format!("the shard record is frozen for {kind}")),
            (false, []) => None,
            (false, tables) => Some(format!("the shard record denies {kind} tables {}", tables.join(", "))),
        }
    })
}

/// What a cell's serving record says of the shard's primary.
pub fn in_serving_record(serving: &SrvKeyspace, shard: &str, cell: &str) -> Option<String> {
    let of_primary = serving.partitions.iter().filter(|partition| partition.served_type() == TabletType::Primary);
    let controls = of_primary.flat_map(|partition| &partition.shard_tablet_controls);
    controls
        .filter(|control| control.name == shard && control.query_service_disabled)
        .map(|_| format!("the query service of its primary is disabled in cell {cell}"))
        .next()
}

/// What those who hold the keyspace's or the shard's lock, or wait for it, are about.
pub fn in_locks(locks: &[HeldLock]) -> Option<String> {
    let switches = |lock: &&HeldLock| {
        let action = lock.action.to_ascii_lowercase();
        SWITCHES.iter().any(|switch| action.contains(switch))
    };
    locks
        .iter()
        .find(switches)
        .map(|lock| format!("{} {} {}", lock.holder, if lock.waits { "waits to lock" } else { "has locked" }, lock.what))
}

/// The statement that finds the streams that matter in a sidecar database.
pub fn streams_query(sidecar_db: &str) -> String {
    let types: Vec<String> = SWITCHING_TYPES.iter().map(|(number, _)| number.to_string()).collect();
    format!(
        "SELECT workflow, workflow_type, state, message FROM `{}`.vreplication WHERE message = '{FROZEN}' OR (workflow_type IN ({}) AND \
         state IN ('Copying', 'Running')) LIMIT {STREAMS_MAX}",
        sidecar_db.replace('`', "``"),
        types.join(", ")
    )
}

/// What the primary's streams say.
pub fn in_streams(streams: &[Stream]) -> Option<String> {
    let mut found: Vec<String> = streams.iter().filter_map(stream).collect();
    found.sort();
    found.dedup();
    (!found.is_empty()).then(|| found.join(", "))
}

fn stream(stream: &Stream) -> Option<String> {
    let name = SWITCHING_TYPES.iter().find(|(number, _)| *number == stream.workflow_type).map(|(_, name)| *name);
    let kind = name.unwrap_or("workflow");
    if stream.message == FROZEN {
        return Some(format!("{kind} {} has switched its traffic and is not completed", stream.workflow));
    }
    let runs = name.is_some() && ["Copying", "Running"].contains(&stream.state.as_str());
    runs.then(|| format!("{kind} {} is {}", stream.workflow, stream.state.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::topodata::{ShardTabletControl, shard::TabletControl, srv_keyspace::KeyspacePartition};

    fn lock(action: &str, waits: bool) -> HeldLock {
        HeldLock { what: "keyspace commerce".to_owned(), action: action.to_owned(), holder: format!("{action} on host1"), waits }
    }

    #[test]
    fn vtctlds_switches_are_known_by_the_actions_of_their_locks() {
        for action in ["SwitchReads", "SwitchWrites", "completeMigrateWorkflow", "DropSources", "MigrateServedTypes(PRIMARY)"] {
            assert_eq!(in_locks(&[lock(action, false)]), Some(format!("{action} on host1 has locked keyspace commerce")));
        }
        let waits = in_locks(&[lock("CreateShard", false), lock("SwitchWrites", true)]);
        assert_eq!(waits.unwrap(), "SwitchWrites on host1 waits to lock keyspace commerce");
        for action in [
            "PlannedReparentShard(zone1-0000000101, AvoidPrimary = <nil>)",
            "VTOrc Recovery for DeadPrimary on zone1-0000000100",
            "RebuildKeyspace",
            "SetKeyspaceDurabilityPolicy",
            "CreateShard",
            "",
        ] {
            assert_eq!(in_locks(&[lock(action, false)]), None, "{action}");
        }
    }

    #[test]
    fn denied_tables_and_a_disabled_query_service_are_named() {
        let mut record = Shard::default();
        assert_eq!(in_record(&record), None);
        let mut control = TabletControl { tablet_type: TabletType::Primary.into(), ..TabletControl::default() };
        record.tablet_controls = vec![control.clone()];
        assert_eq!(in_record(&record), None, "a control that denies nothing");
        control.denied_tables = vec!["corder".to_owned(), "customer".to_owned()];
        record.tablet_controls.push(control);
        assert_eq!(in_record(&record).unwrap(), "the shard record denies PRIMARY tables corder, customer");

        let control = |name: &str, query_service_disabled| ShardTabletControl {
            name: name.to_owned(),
            query_service_disabled,
            ..ShardTabletControl::default()
        };
        let serving = |kind: TabletType, controls| SrvKeyspace {
            partitions: vec![KeyspacePartition {
                served_type: kind.into(),
                shard_tablet_controls: controls,
                ..Default::default()
            }],
            ..SrvKeyspace::default()
        };
        let of = |serving: &SrvKeyspace| in_serving_record(serving, "-80", "zone1");
        assert_eq!(of(&serving(TabletType::Primary, vec![control("-80", false), control("80-", true)])), None);
        assert_eq!(of(&serving(TabletType::Replica, vec![control("-80", true)])), None);
        let disabled = of(&serving(TabletType::Primary, vec![control("-80", true)]));
        assert_eq!(disabled.unwrap(), "the query service of its primary is disabled in cell zone1");
    }

    #[test]
    fn streams_that_will_switch_or_have_switched_are_named_once() {
        let row = |workflow: &str, workflow_type, state: &str, message: &str| Stream {
            workflow: workflow.to_owned(),
            workflow_type,
            state: state.to_owned(),
            message: message.to_owned(),
        };
        let said = in_streams(&[
            row("cust", 1, "Running", ""),
            row("cust", 1, "Running", ""),
            row("halves", 4, "Stopped", "FROZEN"),
            row("halves_reverse", 4, "Stopped", ""),
            row("views", 0, "Running", ""),
            row("alter", 5, "Running", ""),
        ]);
        assert_eq!(said.unwrap(), "MoveTables cust is running, Reshard halves has switched its traffic and is not completed");
        assert_eq!(in_streams(&[row("cust", 1, "Stopped", ""), row("cust", 1, "Error", "x")]), None);
        assert_eq!(in_streams(&[]), None);
    }

    #[test]
    fn the_statement_is_bounded_and_its_database_quoted() {
        let sql = streams_query("_vt`x");
        assert!(sql.contains("FROM `_vt``x`.vreplication") && sql.ends_with("LIMIT 5"), "{sql}");
    }
}
