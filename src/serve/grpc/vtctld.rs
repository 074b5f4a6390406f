//! Every method of `vtctlservice.Vtctld`: who answers it, or why nobody does.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::elector::caller;
use crate::{
    pb::{vtctldata, vtctlservice::vtctld_server},
    serve::calls::{Context, cells, keyspaces, path, record::recorded, reparent, replication, shards, tablets, validate},
};

/// The service.
pub struct Vtctld {
    context: Arc<Context>,
}

impl Vtctld {
    /// Answers with what the context has.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Writes the trait's methods from three tables: `served` names the function that answers, `commands` those whose callers are recorded,
/// `refused` what to use instead.
macro_rules! vtctld {
    (
        served { $($rpc:ident($request:ident) -> $response:ident: $handler:path;)* }
        commands { $($command:ident($command_request:ident) -> $command_response:ident: $command_handler:path;)* }
        refused { $($no:ident($no_request:ident) -> $no_response:ident: $instead:literal;)* }
    ) => {
        #[tonic::async_trait]
        impl vtctld_server::Vtctld for Vtctld {
            $(async fn $rpc(&self, request: Request<vtctldata::$request>) -> Result<Response<vtctldata::$response>, Status> {
                $handler(&self.context, request).await.map(Response::new).map_err(Status::from)
            })*
            $(async fn $command(
                &self,
                request: Request<vtctldata::$command_request>,
            ) -> Result<Response<vtctldata::$command_response>, Status> {
                let (caller, asked) = (caller(&request)?, request.get_ref().clone());
                let call = stringify!($command_request).trim_end_matches("Request");
                let work = $command_handler(&self.context, request);
                recorded(&self.context, &caller, call, &asked, work).await.map(Response::new).map_err(Status::from)
            })*
            $(async fn $no(&self, _: Request<vtctldata::$no_request>) -> Result<Response<vtctldata::$no_response>, Status> {
                let method = stringify!($no_request).trim_end_matches("Request");
                Err(Status::unimplemented(format!("{method} is not served by vtelector; {}", $instead)))
            })*
        }
    };
}

vtctld! {
    served {
        find_all_shards_in_keyspace(FindAllShardsInKeyspaceRequest) -> FindAllShardsInKeyspaceResponse: shards::find_all_shards_in_keyspace;
        get_cell_info(GetCellInfoRequest) -> GetCellInfoResponse: cells::get_cell_info;
        get_cell_info_names(GetCellInfoNamesRequest) -> GetCellInfoNamesResponse: cells::get_cell_info_names;
        get_full_status(GetFullStatusRequest) -> GetFullStatusResponse: tablets::get_full_status;
        get_keyspace(GetKeyspaceRequest) -> GetKeyspaceResponse: keyspaces::get_keyspace;
        get_keyspaces(GetKeyspacesRequest) -> GetKeyspacesResponse: keyspaces::get_keyspaces;
        get_shard(GetShardRequest) -> GetShardResponse: shards::get_shard;
        get_shard_replication(GetShardReplicationRequest) -> GetShardReplicationResponse: shards::get_shard_replication;
        get_tablet(GetTabletRequest) -> GetTabletResponse: tablets::get_tablet;
        get_tablets(GetTabletsRequest) -> GetTabletsResponse: tablets::get_tablets;
        get_topology_path(GetTopologyPathRequest) -> GetTopologyPathResponse: path::get_topology_path;
        ping_tablet(PingTabletRequest) -> PingTabletResponse: tablets::ping_tablet;
        shard_replication_positions(ShardReplicationPositionsRequest) -> ShardReplicationPositionsResponse: replication::shard_replication_positions;
        validate_shard(ValidateShardRequest) -> ValidateShardResponse: validate::validate_shard;
    }
    commands {
        add_cell_info(AddCellInfoRequest) -> AddCellInfoResponse: cells::add_cell_info;
        change_tablet_type(ChangeTabletTypeRequest) -> ChangeTabletTypeResponse: tablets::change_tablet_type;
        create_keyspace(CreateKeyspaceRequest) -> CreateKeyspaceResponse: keyspaces::create_keyspace;
        create_shard(CreateShardRequest) -> CreateShardResponse: shards::create_shard;
        delete_tablets(DeleteTabletsRequest) -> DeleteTabletsResponse: tablets::delete_tablets;
        emergency_reparent_shard(EmergencyReparentShardRequest) -> EmergencyReparentShardResponse: reparent::emergency_reparent_shard;
        init_shard_primary(InitShardPrimaryRequest) -> InitShardPrimaryResponse: reparent::init_shard_primary;
        planned_reparent_shard(PlannedReparentShardRequest) -> PlannedReparentShardResponse: reparent::planned_reparent_shard;
        refresh_state(RefreshStateRequest) -> RefreshStateResponse: tablets::refresh_state;
        reparent_tablet(ReparentTabletRequest) -> ReparentTabletResponse: reparent::reparent_tablet;
        run_health_check(RunHealthCheckRequest) -> RunHealthCheckResponse: tablets::run_health_check;
        set_keyspace_durability_policy(SetKeyspaceDurabilityPolicyRequest) -> SetKeyspaceDurabilityPolicyResponse: keyspaces::set_keyspace_durability_policy;
        set_vtorc_emergency_reparent(SetVtorcEmergencyReparentRequest) -> SetVtorcEmergencyReparentResponse: keyspaces::set_vtorc_emergency_reparent;
        set_writable(SetWritableRequest) -> SetWritableResponse: tablets::set_writable;
        start_replication(StartReplicationRequest) -> StartReplicationResponse: replication::start_replication;
        stop_replication(StopReplicationRequest) -> StopReplicationResponse: replication::stop_replication;
    }
    refused {
        add_cells_alias(AddCellsAliasRequest) -> AddCellsAliasResponse: "ask vtctld for it";
        change_tablet_tags(ChangeTabletTagsRequest) -> ChangeTabletTagsResponse: "ask vtctld for it";
        check_throttler(CheckThrottlerRequest) -> CheckThrottlerResponse: "ask vtctld for it";
        delete_cell_info(DeleteCellInfoRequest) -> DeleteCellInfoResponse: "ask vtctld for it";
        delete_cells_alias(DeleteCellsAliasRequest) -> DeleteCellsAliasResponse: "ask vtctld for it";
        delete_keyspace(DeleteKeyspaceRequest) -> DeleteKeyspaceResponse: "ask vtctld for it";
        delete_shards(DeleteShardsRequest) -> DeleteShardsResponse: "ask vtctld for it";
        execute_fetch_as_dba(ExecuteFetchAsDbaRequest) -> ExecuteFetchAsDbaResponse: "ask vtctld for it";
        execute_hook(ExecuteHookRequest) -> ExecuteHookResponse: "ask vtctld for it";
        get_cells_aliases(GetCellsAliasesRequest) -> GetCellsAliasesResponse: "ask vtctld for it";
        get_srv_keyspace_names(GetSrvKeyspaceNamesRequest) -> GetSrvKeyspaceNamesResponse: "ask vtctld for it";
        get_srv_keyspaces(GetSrvKeyspacesRequest) -> GetSrvKeyspacesResponse: "ask vtctld for it";
        get_throttler_status(GetThrottlerStatusRequest) -> GetThrottlerStatusResponse: "ask vtctld for it";
        get_version(GetVersionRequest) -> GetVersionResponse: "the tablet's own HTTP port tells it (/debug/vars)";
        rebuild_keyspace_graph(RebuildKeyspaceGraphRequest) -> RebuildKeyspaceGraphResponse: "ask vtctld for it";
        refresh_state_by_shard(RefreshStateByShardRequest) -> RefreshStateByShardResponse: "call RefreshState for each tablet";
        set_shard_is_primary_serving(SetShardIsPrimaryServingRequest) -> SetShardIsPrimaryServingResponse: "ask vtctld for it";
        set_shard_tablet_control(SetShardTabletControlRequest) -> SetShardTabletControlResponse: "ask vtctld for it";
        shard_replication_add(ShardReplicationAddRequest) -> ShardReplicationAddResponse: "a tablet adds itself when it starts";
        shard_replication_fix(ShardReplicationFixRequest) -> ShardReplicationFixResponse: "ask vtctld for it";
        shard_replication_remove(ShardReplicationRemoveRequest) -> ShardReplicationRemoveResponse: "use DeleteTablets";
        sleep_tablet(SleepTabletRequest) -> SleepTabletResponse: "ask vtctld for it";
        tablet_externally_reparented(TabletExternallyReparentedRequest) -> TabletExternallyReparentedResponse: "ask vtctld for it";
        update_cell_info(UpdateCellInfoRequest) -> UpdateCellInfoResponse: "ask vtctld for it";
        update_cells_alias(UpdateCellsAliasRequest) -> UpdateCellsAliasResponse: "ask vtctld for it";
        validate(ValidateRequest) -> ValidateResponse: "call ValidateShard for each shard";
        validate_keyspace(ValidateKeyspaceRequest) -> ValidateKeyspaceResponse: "call ValidateShard for each shard";
    }
}
