//! Answers in words: aligned tables, one fact a line.

use crate::{
    pb::{logutil, replicationdata::Status, topodata, topodata::TabletType, vtctldata as v, vttime},
    topo::TabletAlias,
};

/// Rows under headings, each column as wide as its widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&h| h.to_owned()).collect()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        // What a server says must not move the reader's cursor.
        self.rows.push(cells.map(|cell| cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()).to_vec());
    }

    /// Whether it has no rows below its headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// What [`Table::print`] gives; nothing where there are only headings.
    pub fn print_rows(&self) -> String {
        if self.is_empty() { String::new() } else { self.print() }
    }

    pub fn print(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:<0$}", width(i)));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Facts, one a line.
pub fn facts(rows: Vec<(&str, String)>) -> String {
    let mut table = Table { rows: Vec::new() };
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.print()
}

/// An alias as it is typed, or a dash.
pub fn alias(alias: Option<&topodata::TabletAlias>) -> String {
    match alias {
        Some(alias) if !alias.cell.is_empty() => TabletAlias { cell: alias.cell.clone(), uid: alias.uid }.to_string(),
        _ => "-".to_owned(),
    }
}

/// Aliases with commas between.
pub fn aliases(list: &[topodata::TabletAlias]) -> String {
    list.iter().map(|a| alias(Some(a))).collect::<Vec<_>>().join(", ")
}

fn kind(tablet: &topodata::Tablet) -> String {
    TabletType::try_from(tablet.r#type).map_or_else(|_| tablet.r#type.to_string(), |kind| kind.as_str_name().to_ascii_lowercase())
}

pub fn time(time: Option<&vttime::Time>) -> String {
    let stamp = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanoseconds).ok());
    stamp.map_or_else(|| "-".to_owned(), |stamp| format!("{stamp:.3}"))
}

fn address(tablet: &topodata::Tablet) -> String {
    match tablet.port_map.get("grpc") {
        Some(port) if !tablet.hostname.is_empty() => format!("{}:{port}", tablet.hostname),
        _ => "-".to_owned(),
    }
}

fn mysql(tablet: &topodata::Tablet) -> String {
    if tablet.mysql_hostname.is_empty() { "-".to_owned() } else { format!("{}:{}", tablet.mysql_hostname, tablet.mysql_port) }
}

pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// The lines that the server said, each with its time; a line that a person should look at says so.
pub fn events(events: &[logutil::Event]) -> String {
    let line = |event: &logutil::Event| {
        let warning = if event.level() == logutil::Level::Info { "" } else { "WARNING: " };
        format!("{}  {warning}{}\n", time(event.time.as_ref()), event.value)
    };
    events.iter().map(line).collect()
}

/// How a reparent ended.
pub fn promoted(keyspace: &str, shard: &str, primary: Option<&topodata::TabletAlias>) -> String {
    match primary {
        Some(primary) => format!("{keyspace}/{shard}: {} is primary", alias(Some(primary))),
        None => format!("{keyspace}/{shard}: nothing to do"),
    }
}

pub fn planned_reparent_shard(answer: &v::PlannedReparentShardResponse) -> String {
    events(&answer.events) + &promoted(&answer.keyspace, &answer.shard, answer.promoted_primary.as_ref())
}

pub fn emergency_reparent_shard(answer: &v::EmergencyReparentShardResponse) -> String {
    events(&answer.events) + &promoted(&answer.keyspace, &answer.shard, answer.promoted_primary.as_ref())
}

pub fn init_shard_primary(answer: &v::InitShardPrimaryResponse) -> String {
    events(&answer.events)
}

pub fn reparent_tablet(answer: &v::ReparentTabletResponse) -> String {
    format!("{}/{}: follows {}", answer.keyspace, answer.shard, alias(answer.primary.as_ref()))
}

pub fn get_cell_info_names(answer: &v::GetCellInfoNamesResponse) -> String {
    answer.names.join("\n")
}

pub fn get_cell_info(answer: &v::GetCellInfoResponse) -> String {
    let info = answer.cell_info.clone().unwrap_or_default();
    facts(vec![("server address", or_dash(&info.server_address)), ("root", or_dash(&info.root))])
}

fn keyspaces<'a>(list: impl IntoIterator<Item = &'a v::Keyspace>) -> String {
    let mut table = Table::new(&["KEYSPACE", "DURABILITY", "KIND", "SIDECAR", "EMERGENCY REPARENTS"]);
    for keyspace in list {
        let record = keyspace.keyspace.clone().unwrap_or_default();
        let forbidden = record.vtorc_state.is_some_and(|state| state.disable_emergency_reparent);
        table.row([
            keyspace.name.clone(),
            or_dash(&record.durability_policy),
            record.keyspace_type().as_str_name().to_ascii_lowercase(),
            or_dash(&record.sidecar_db_name),
            if forbidden { "forbidden" } else { "allowed" }.to_owned(),
        ]);
    }
    table.print()
}

pub fn get_keyspaces(answer: &v::GetKeyspacesResponse) -> String {
    keyspaces(&answer.keyspaces)
}

pub fn get_keyspace(answer: &v::GetKeyspaceResponse) -> String {
    keyspaces(&answer.keyspace)
}

fn shards<'a>(list: impl IntoIterator<Item = &'a v::Shard>) -> String {
    let mut table = Table::new(&["SHARD", "PRIMARY", "SINCE", "SERVING", "EMERGENCY REPARENTS"]);
    for shard in list {
        let record = shard.shard.clone().unwrap_or_default();
        let forbidden = record.vtorc_state.is_some_and(|state| state.disable_emergency_reparent);
        table.row([
            format!("{}/{}", shard.keyspace, shard.name),
            alias(record.primary_alias.as_ref()),
            time(record.primary_term_start_time.as_ref()),
            yes(record.is_primary_serving),
            if forbidden { "forbidden" } else { "allowed" }.to_owned(),
        ]);
    }
    table.print()
}

pub fn get_shard(answer: &v::GetShardResponse) -> String {
    shards(&answer.shard)
}

pub fn find_all_shards_in_keyspace(answer: &v::FindAllShardsInKeyspaceResponse) -> String {
    shards(answer.shards.values())
}

pub fn get_shard_replication(answer: &v::GetShardReplicationResponse) -> String {
    let mut table = Table::new(&["CELL", "TABLETS"]);
    for (cell, graph) in &answer.shard_replication_by_cell {
        let nodes: Vec<_> = graph.nodes.iter().map(|node| alias(node.tablet_alias.as_ref())).collect();
        table.row([cell.clone(), nodes.join(", ")]);
    }
    table.print()
}

pub fn get_tablets(answer: &v::GetTabletsResponse) -> String {
    let mut table = Table::new(&["TABLET", "SHARD", "TYPE", "ADDRESS", "MYSQL", "PRIMARY SINCE"]);
    for tablet in &answer.tablets {
        table.row([
            alias(tablet.alias.as_ref()),
            format!("{}/{}", tablet.keyspace, tablet.shard),
            kind(tablet),
            address(tablet),
            mysql(tablet),
            time(tablet.primary_term_start_time.as_ref()),
        ]);
    }
    table.print()
}

pub fn get_tablet(answer: &v::GetTabletResponse) -> String {
    let tablet = answer.tablet.clone().unwrap_or_default();
    let tags: Vec<_> = tablet.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    facts(vec![
        ("tablet", alias(tablet.alias.as_ref())),
        ("shard", format!("{}/{}", tablet.keyspace, tablet.shard)),
        ("type", kind(&tablet)),
        ("address", address(&tablet)),
        ("mysql", mysql(&tablet)),
        ("primary since", time(tablet.primary_term_start_time.as_ref())),
        ("started", time(tablet.tablet_start_time.as_ref())),
        ("shut down", time(tablet.tablet_shutdown_time.as_ref())),
        ("tags", or_dash(&tags.join(", "))),
    ])
}

pub fn change_tablet_type(answer: &v::ChangeTabletTypeResponse) -> String {
    let (before, after) = (answer.before_tablet.clone().unwrap_or_default(), answer.after_tablet.clone().unwrap_or_default());
    let trial = if answer.was_dry_run { " (nothing was changed)" } else { "" };
    format!("{}: {} -> {}{trial}", alias(after.alias.as_ref().or(before.alias.as_ref())), kind(&before), kind(&after))
}

fn thread(state: i32) -> String {
    ["unknown", "stopped", "connecting", "running"].get(usize::try_from(state).unwrap_or(0)).unwrap_or(&"unknown").to_string()
}

fn lag(status: &Status) -> String {
    if status.replication_lag_unknown { "unknown".to_owned() } else { format!("{} s", status.replication_lag_seconds) }
}

pub fn get_full_status(answer: &v::GetFullStatusResponse) -> String {
    let Some(full) = &answer.status else { return "no status".to_owned() };
    let mut rows = vec![
        ("server", format!("{} (id {}), MySQL {} {}", full.server_uuid, full.server_id, full.version, full.version_comment)),
        ("type in memory", full.tablet_type().as_str_name().to_ascii_lowercase()),
        ("read_only", format!("{}, super {}", yes(full.read_only), yes(full.super_read_only))),
        ("executed", full.primary_status.as_ref().map_or_else(|| "-".to_owned(), |status| or_dash(&status.position))),
        ("purged", or_dash(&full.gtid_purged)),
        ("binary log", format!("{}, {}, gtid_mode {}", yes(full.log_bin_enabled), full.binlog_format, full.gtid_mode)),
        (
            "semi-sync as primary",
            format!(
                "{} (acks wanted {}, clients {}, timeout {} ms)",
                yes(full.semi_sync_primary_enabled),
                full.semi_sync_wait_for_replica_count,
                full.semi_sync_primary_clients,
                full.semi_sync_primary_timeout
            ),
        ),
        (
            "semi-sync as replica",
            format!("{}, active {}", yes(full.semi_sync_replica_enabled), yes(full.semi_sync_replica_status)),
        ),
        ("disk stalled", yes(full.disk_stalled)),
    ];
    match &full.replication_status {
        None => rows.push(("replication", "not configured".to_owned())),
        Some(status) => rows.extend([
            ("source", format!("{}:{}", status.source_host, status.source_port)),
            ("threads", format!("io {}, sql {}", thread(status.io_state), thread(status.sql_state))),
            ("lag", lag(status)),
            ("received", or_dash(&status.relay_log_position)),
            ("last errors", or_dash(format!("{} {}", status.last_io_error, status.last_sql_error).trim())),
        ]),
    }
    facts(rows)
}

pub fn shard_replication_positions(answer: &v::ShardReplicationPositionsResponse) -> String {
    let mut table = Table::new(&["TABLET", "TYPE", "IO", "SQL", "LAG", "POSITION"]);
    for (name, status) in &answer.replication_statuses {
        let tablet = answer.tablet_map.get(name);
        let is_primary = tablet.is_some_and(|tablet| tablet.r#type() == TabletType::Primary);
        let of_replica = |text: String| if is_primary { "-".to_owned() } else { text };
        table.row([
            name.clone(),
            tablet.map_or_else(|| "-".to_owned(), kind),
            of_replica(thread(status.io_state)),
            of_replica(thread(status.sql_state)),
            of_replica(lag(status)),
            if status.position.is_empty() { "no answer".to_owned() } else { status.position.clone() },
        ]);
    }
    table.print()
}

pub fn get_topology_path(answer: &v::GetTopologyPathResponse) -> String {
    let cell = answer.cell.clone().unwrap_or_default();
    if cell.children.is_empty() { cell.data } else { cell.children.join("\n") }
}

pub fn validate_shard(answer: &v::ValidateShardResponse) -> String {
    if answer.results.is_empty() { "nothing wrong".to_owned() } else { answer.results.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_nothing_moves_the_cursor() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["wide\u{1b}[2J".to_owned(), "x\ny".to_owned()]);
        assert_eq!(table.print(), "A         LONG\nwide [2J  x y");
    }

    #[test]
    fn a_tablet_that_did_not_answer_is_not_shown_as_healthy() {
        let mut answer = v::ShardReplicationPositionsResponse::default();
        answer.replication_statuses.insert("zone1-0000000101".to_owned(), Status::default());
        assert!(shard_replication_positions(&answer).ends_with("unknown  unknown  0 s  no answer"));
    }

    #[test]
    fn times_are_in_utc_with_milliseconds() {
        let stamp = vttime::Time { seconds: 1_760_000_000, nanoseconds: 123_456_789 };
        assert_eq!(time(Some(&stamp)), "2025-10-09T08:53:20.123Z");
        assert_eq!(time(None), "-");
    }
}
