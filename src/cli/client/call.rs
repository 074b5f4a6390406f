//! From a command to its request, and from the answer to what is printed.

use std::time::Duration;

use tonic::{Request, metadata::MetadataValue};

use super::{
    Answer, ClientCommand as Command, ClientError, Connection, Line, MESSAGE_BYTES_MAX, Verdict, args, elector, inspect, operate,
    show,
};
use crate::{
    pb::{topodata, vtctldata as v, vtctlservice::vtctld_client::VtctldClient, vttime},
    reparent::{MODE_KEY, Mode},
    topo::{TabletAlias, check_cell, check_name},
};

/// A request that is ready to be sent.
pub enum Ready {
    PlannedReparentShard(v::PlannedReparentShardRequest, Mode),
    EmergencyReparentShard(v::EmergencyReparentShardRequest),
    Elector(elector::Ready),
    Operate(operate::Ready),
    Inspect(inspect::Ready),
    InitShardPrimary(v::InitShardPrimaryRequest),
    ReparentTablet(v::ReparentTabletRequest),
    GetCellInfoNames,
    GetCellInfo(v::GetCellInfoRequest),
    AddCellInfo(v::AddCellInfoRequest),
    CreateKeyspace(v::CreateKeyspaceRequest),
    CreateShard(v::CreateShardRequest),
    GetKeyspaces,
    GetKeyspace(v::GetKeyspaceRequest),
    FindAllShardsInKeyspace(v::FindAllShardsInKeyspaceRequest),
    GetShard(v::GetShardRequest),
    GetShardReplication(v::GetShardReplicationRequest),
    GetTablets(v::GetTabletsRequest),
    GetTablet(v::GetTabletRequest),
    DeleteTablets(v::DeleteTabletsRequest),
    GetFullStatus(v::GetFullStatusRequest),
    PingTablet(v::PingTabletRequest),
    RefreshState(v::RefreshStateRequest),
    RunHealthCheck(v::RunHealthCheckRequest),
    ShardReplicationPositions(v::ShardReplicationPositionsRequest),
    StartReplication(v::StartReplicationRequest),
    StopReplication(v::StopReplicationRequest),
    SetWritable(v::SetWritableRequest),
    ChangeTabletType(v::ChangeTabletTypeRequest),
    SetKeyspaceDurabilityPolicy(v::SetKeyspaceDurabilityPolicyRequest),
    SetVtorcEmergencyReparent(v::SetVtorcEmergencyReparentRequest),
    GetTopologyPath(v::GetTopologyPathRequest),
    ValidateShard(v::ValidateShardRequest),
}

/// The connection arguments of any command.
pub fn connection(command: &Command) -> &Connection {
    macro_rules! of {
        ($($kind:ident)*) => { match command {
            $(Command::$kind(with) => &with.connection,)*
            Command::Maintenance(command) => command.connection(),
            Command::Recoveries(command) => command.connection(),
        } };
    }
    of!(PlannedReparentShard EmergencyReparentShard ErrantGtids Shards Explain Commands Problems Decisions History Acknowledge Status Events InitShardPrimary ReparentTablet GetCellInfoNames GetCellInfo AddCellInfo CreateKeyspace CreateShard
        GetKeyspaces GetKeyspace FindAllShardsInKeyspace GetShard GetShardReplication GetTablets GetTablet DeleteTablets GetFullStatus
        PingTablet RefreshState RunHealthCheck ShardReplicationPositions StartReplication StopReplication SetWritable ChangeTabletType
        SetKeyspaceDurabilityPolicy SetVtorcEmergencyReparent GetTopologyPath ValidateShard)
}

/// Checks the arguments and writes them into the request.
pub fn prepare(command: Command) -> Result<Ready, ClientError> {
    Ok(match command {
        Command::PlannedReparentShard(with) if with.own.dry_run => Ready::Elector(elector::planned_preview(with.own)),
        Command::EmergencyReparentShard(with) if with.own.own.is_asked() => Ready::Elector(elector::emergency(with.own)),
        Command::EmergencyReparentShard(with) => Ready::EmergencyReparentShard(emergency(with.own)),
        Command::ErrantGtids(with) => Ready::Elector(elector::errant_gtids(with.own)),
        Command::Shards(with) => Ready::Inspect(inspect::shards(with.own)),
        Command::Commands(with) => Ready::Inspect(inspect::commands(with.own)),
        Command::Explain(with) => Ready::Inspect(inspect::explain(with.own)),
        Command::Problems(with) => Ready::Operate(operate::problems(with.own)),
        Command::Decisions(with) => Ready::Operate(operate::decisions(with.own)),
        Command::History(with) => Ready::Operate(operate::history(with.own)),
        Command::Acknowledge(with) => Ready::Operate(operate::acknowledge(with.own)),
        Command::Maintenance(command) => Ready::Operate(operate::maintenance(command)),
        Command::Recoveries(command) => Ready::Operate(operate::recoveries(command)),
        Command::Status(_) => Ready::Operate(operate::Ready::GetStatus),
        Command::PlannedReparentShard(with) => {
            let mode = if with.own.abrupt { Mode::Abrupt } else { Mode::Graceful };
            Ready::PlannedReparentShard(planned(with.own), mode)
        }
        Command::InitShardPrimary(with) => Ready::InitShardPrimary(v::InitShardPrimaryRequest {
            keyspace: with.own.shard.keyspace,
            shard: with.own.shard.shard,
            primary_elect_tablet_alias: some(&with.own.alias),
            force: with.own.force,
            wait_replicas_timeout: Some(duration(with.own.wait_replicas_timeout.0)),
        }),
        Command::ReparentTablet(with) => Ready::ReparentTablet(v::ReparentTabletRequest { tablet: some(&with.own.alias) }),
        Command::GetCellInfoNames(_) => Ready::GetCellInfoNames,
        Command::GetKeyspaces(_) => Ready::GetKeyspaces,
        Command::GetCellInfo(with) => {
            check_cell(&with.own.cell)?;
            Ready::GetCellInfo(v::GetCellInfoRequest { cell: with.own.cell })
        }
        Command::AddCellInfo(with) => {
            check_cell(&with.own.cell)?;
            let cell_info = topodata::CellInfo { server_address: with.own.server_address, root: with.own.root };
            Ready::AddCellInfo(v::AddCellInfoRequest { name: with.own.cell, cell_info: Some(cell_info) })
        }
        Command::CreateKeyspace(with) => {
            check_name("keyspace name", &with.own.keyspace)?;
            Ready::CreateKeyspace(v::CreateKeyspaceRequest {
                name: with.own.keyspace,
                force: with.own.force,
                durability_policy: with.own.durability_policy,
                sidecar_db_name: with.own.sidecar_db_name,
                allow_empty_v_schema: with.own.allow_empty_vschema,
                r#type: topodata::KeyspaceType::from(with.own.kind).into(),
                base_keyspace: with.own.base_keyspace,
                snapshot_time: with.own.snapshot_timestamp.map(time),
            })
        }
        Command::CreateShard(with) => Ready::CreateShard(v::CreateShardRequest {
            keyspace: with.own.shard.keyspace,
            shard_name: with.own.shard.shard,
            force: with.own.force,
            include_parent: with.own.include_parent,
        }),
        Command::GetKeyspace(with) => {
            check_name("keyspace name", &with.own.keyspace)?;
            Ready::GetKeyspace(v::GetKeyspaceRequest { keyspace: with.own.keyspace })
        }
        Command::FindAllShardsInKeyspace(with) => {
            check_name("keyspace name", &with.own.keyspace)?;
            Ready::FindAllShardsInKeyspace(v::FindAllShardsInKeyspaceRequest { keyspace: with.own.keyspace })
        }
        Command::SetKeyspaceDurabilityPolicy(with) => {
            check_name("keyspace name", &with.own.keyspace)?;
            Ready::SetKeyspaceDurabilityPolicy(v::SetKeyspaceDurabilityPolicyRequest {
                keyspace: with.own.keyspace,
                durability_policy: with.own.durability_policy,
            })
        }
        Command::SetVtorcEmergencyReparent(with) => {
            check_name("keyspace name", &with.own.keyspace)?;
            Ready::SetVtorcEmergencyReparent(v::SetVtorcEmergencyReparentRequest {
                keyspace: with.own.keyspace,
                shard: with.own.shard,
                disable: with.own.disable,
            })
        }
        Command::Events(_) => return Err(ClientError::Usage("events come one after the other, not in one answer".to_owned())),
        shard_or_tablet => prepare_other(shard_or_tablet),
    })
}

pub fn emergency(own: args::EmergencyReparent) -> v::EmergencyReparentShardRequest {
    v::EmergencyReparentShardRequest {
        keyspace: own.shard.keyspace,
        shard: own.shard.shard,
        new_primary: own.new_primary.as_ref().map(Into::into),
        ignore_replicas: own.ignore_replicas.iter().map(Into::into).collect(),
        wait_replicas_timeout: Some(duration(own.wait_replicas_timeout.0)),
        prevent_cross_cell_promotion: own.prevent_cross_cell_promotion,
        wait_for_all_tablets: own.wait_for_all_tablets,
        expected_primary: own.expected_primary.as_ref().map(Into::into),
    }
}

pub fn planned(own: args::PlannedReparent) -> v::PlannedReparentShardRequest {
    v::PlannedReparentShardRequest {
        keyspace: own.shard.keyspace,
        shard: own.shard.shard,
        new_primary: own.new_primary.as_ref().map(Into::into),
        avoid_primary: own.avoid_primary.as_ref().map(Into::into),
        expected_primary: own.expected_primary.as_ref().map(Into::into),
        wait_replicas_timeout: Some(duration(own.wait_replicas_timeout.0)),
        tolerable_replication_lag: Some(duration(own.tolerable_replication_lag.0)),
        allow_cross_cell_promotion: own.allow_cross_cell_promotion,
    }
}

/// The commands whose arguments were checked while they were parsed.
fn prepare_other(command: Command) -> Ready {
    /// Requests that name one tablet and nothing else.
    macro_rules! of_tablet {
        ($request:ident, $with:ident) => {
            v::$request { tablet_alias: some(&$with.own.alias) }
        };
    }
    match command {
        Command::GetShard(with) => {
            Ready::GetShard(v::GetShardRequest { keyspace: with.own.shard.keyspace, shard_name: with.own.shard.shard })
        }
        Command::GetShardReplication(with) => Ready::GetShardReplication(v::GetShardReplicationRequest {
            keyspace: with.own.shard.keyspace,
            shard: with.own.shard.shard,
            cells: with.own.cells,
        }),
        Command::ShardReplicationPositions(with) => Ready::ShardReplicationPositions(v::ShardReplicationPositionsRequest {
            keyspace: with.own.shard.keyspace,
            shard: with.own.shard.shard,
        }),
        Command::GetTablets(with) => Ready::GetTablets(v::GetTabletsRequest {
            keyspace: with.own.keyspace,
            shard: with.own.shard,
            cells: with.own.cell,
            strict: with.own.strict,
            tablet_aliases: with.own.tablet_alias.iter().map(Into::into).collect(),
            tablet_type: with.own.tablet_type.map_or(0, |kind| topodata::TabletType::from(kind).into()),
        }),
        Command::DeleteTablets(with) => Ready::DeleteTablets(v::DeleteTabletsRequest {
            tablet_aliases: with.own.aliases.iter().map(Into::into).collect(),
            allow_primary: with.own.allow_primary,
        }),
        Command::SetWritable(with) => {
            Ready::SetWritable(v::SetWritableRequest { tablet_alias: some(&with.own.alias), writable: with.own.writable })
        }
        Command::ChangeTabletType(with) => Ready::ChangeTabletType(v::ChangeTabletTypeRequest {
            tablet_alias: some(&with.own.alias),
            db_type: topodata::TabletType::from(with.own.to).into(),
            dry_run: with.own.dry_run,
        }),
        Command::GetTopologyPath(with) => Ready::GetTopologyPath(v::GetTopologyPathRequest {
            path: with.own.path,
            version: with.own.version,
            as_json: with.own.data_as_json,
        }),
        Command::ValidateShard(with) => Ready::ValidateShard(v::ValidateShardRequest {
            keyspace: with.own.shard.keyspace,
            shard: with.own.shard.shard,
            ping_tablets: with.own.ping_tablets,
        }),
        Command::GetTablet(with) => Ready::GetTablet(of_tablet!(GetTabletRequest, with)),
        Command::GetFullStatus(with) => Ready::GetFullStatus(of_tablet!(GetFullStatusRequest, with)),
        Command::PingTablet(with) => Ready::PingTablet(of_tablet!(PingTabletRequest, with)),
        Command::RefreshState(with) => Ready::RefreshState(of_tablet!(RefreshStateRequest, with)),
        Command::RunHealthCheck(with) => Ready::RunHealthCheck(of_tablet!(RunHealthCheckRequest, with)),
        Command::StartReplication(with) => Ready::StartReplication(of_tablet!(StartReplicationRequest, with)),
        Command::StopReplication(with) => Ready::StopReplication(of_tablet!(StopReplicationRequest, with)),
        other => unreachable!("prepare() has taken {other:?}"),
    }
}

/// Sends the request and puts the answer into words. The server is told how long we wait.
pub async fn send(channel: Line, ready: Ready, left: Duration) -> Result<Answer, ClientError> {
    let mut client = VtctldClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    macro_rules! ask {
        ($rpc:ident, $request:expr) => {{
            let mut request = Request::new($request);
            request.set_timeout(left);
            client.$rpc(request).await?.into_inner()
        }};
    }
    /// Calls whose answer is empty or not worth a table of its own: the words say what was done.
    macro_rules! done {
        ($rpc:ident, $request:expr, $words:expr) => {{
            let words = $words;
            Answer::new(&ask!($rpc, $request), words)
        }};
    }
    /// Calls whose answer becomes a table.
    macro_rules! shown {
        ($rpc:ident, $request:expr) => {{
            let answer = ask!($rpc, $request);
            Answer::new(&answer, show::$rpc(&answer))
        }};
    }
    Ok(match ready {
        Ready::PlannedReparentShard(r, mode) => {
            let mut request = Request::new(r);
            request.set_timeout(left);
            if mode != Mode::default() {
                request.metadata_mut().insert(MODE_KEY, MetadataValue::from_static(mode.name()));
            }
            let answer = client.planned_reparent_shard(request).await?.into_inner();
            Answer::new(&answer, show::planned_reparent_shard(&answer))
        }
        Ready::EmergencyReparentShard(r) => shown!(emergency_reparent_shard, r),
        Ready::Elector(ready) => elector::send(channel, ready, left).await?,
        Ready::Operate(ready) => operate::send(channel, ready, left).await?,
        Ready::Inspect(ready) => inspect::send(channel, ready, left).await?,
        Ready::InitShardPrimary(r) => shown!(init_shard_primary, r),
        Ready::ReparentTablet(r) => shown!(reparent_tablet, r),
        Ready::GetCellInfoNames => shown!(get_cell_info_names, v::GetCellInfoNamesRequest {}),
        Ready::GetCellInfo(r) => shown!(get_cell_info, r),
        Ready::AddCellInfo(r) => done!(add_cell_info, r, format!("cell {} is registered", r.name)),
        Ready::CreateKeyspace(r) => done!(create_keyspace, r, format!("keyspace {} is there", r.name)),
        Ready::CreateShard(r) => done!(create_shard, r, format!("shard {}/{} is there", r.keyspace, r.shard_name)),
        Ready::GetKeyspaces => shown!(get_keyspaces, v::GetKeyspacesRequest {}),
        Ready::GetKeyspace(r) => shown!(get_keyspace, r),
        Ready::FindAllShardsInKeyspace(r) => shown!(find_all_shards_in_keyspace, r),
        Ready::GetShard(r) => shown!(get_shard, r),
        Ready::GetShardReplication(r) => shown!(get_shard_replication, r),
        Ready::GetTablets(r) => shown!(get_tablets, r),
        Ready::GetTablet(r) => shown!(get_tablet, r),
        Ready::DeleteTablets(r) => done!(delete_tablets, r, format!("deleted: {}", show::aliases(&r.tablet_aliases))),
        Ready::GetFullStatus(r) => shown!(get_full_status, r),
        Ready::PingTablet(r) => done!(ping_tablet, r, format!("{} answers", show::alias(r.tablet_alias.as_ref()))),
        Ready::RefreshState(r) => {
            done!(refresh_state, r, format!("{} has read its records", show::alias(r.tablet_alias.as_ref())))
        }
        Ready::RunHealthCheck(r) => {
            done!(run_health_check, r, format!("{} tells its health", show::alias(r.tablet_alias.as_ref())))
        }
        Ready::ShardReplicationPositions(r) => shown!(shard_replication_positions, r),
        Ready::StartReplication(r) => done!(start_replication, r, format!("{} replicates", show::alias(r.tablet_alias.as_ref()))),
        Ready::StopReplication(r) => {
            done!(stop_replication, r, format!("replication is stopped on {}", show::alias(r.tablet_alias.as_ref())))
        }
        Ready::SetWritable(r) => {
            let state = if r.writable { "writable" } else { "read-only" };
            done!(set_writable, r, format!("{} is {state}", show::alias(r.tablet_alias.as_ref())))
        }
        Ready::ChangeTabletType(r) => shown!(change_tablet_type, r),
        Ready::SetKeyspaceDurabilityPolicy(r) => {
            done!(
                set_keyspace_durability_policy,
                r,
                format!("keyspace {}: durability policy {}", r.keyspace, r.durability_policy)
            )
        }
        Ready::SetVtorcEmergencyReparent(r) => {
            let state = if r.disable { "forbidden" } else { "allowed" };
            let shard = if r.shard.is_empty() { String::new() } else { format!("/{}", r.shard) };
            done!(set_vtorc_emergency_reparent, r, format!("{}{shard}: automatic emergency reparents are {state}", r.keyspace))
        }
        Ready::GetTopologyPath(r) => shown!(get_topology_path, r),
        Ready::ValidateShard(r) => {
            let answer = ask!(validate_shard, r);
            let verdict = if answer.results.is_empty() { Verdict::Well } else { Verdict::Finding };
            Answer { verdict, ..Answer::new(&answer, show::validate_shard(&answer)) }
        }
    })
}

fn some(alias: &TabletAlias) -> Option<topodata::TabletAlias> {
    Some(alias.into())
}

fn time(stamp: jiff::Timestamp) -> vttime::Time {
    vttime::Time { seconds: stamp.as_second(), nanoseconds: stamp.subsec_nanosecond() }
}

pub fn duration(duration: Duration) -> vttime::Duration {
    // Nanoseconds below a second fit; so do the seconds of a Go duration.
    vttime::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}
