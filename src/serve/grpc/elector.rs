//! `vtelector.Elector`: what vtelector says beyond vtctld.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{
    pb::vtelector::{self as pb, elector_server},
    serve::{
        calls::{Context, board, elector, errant, explain, ledger, observe, overview, record, states},
        door::Caller,
    },
};

/// The service.
pub struct Elector {
    context: Arc<Context>,
}

impl Elector {
    /// Answers with what the context has.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Whoever asks, as the door has let them in.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let nobody = || Status::unauthenticated("nobody came in through the door; please report it");
    request.extensions().get::<Caller>().cloned().ok_or_else(nobody)
}

/// Writes the trait's methods: each is answered by a function of that name's module. A command's is told who asks.
macro_rules! elector {
    (
        questions { $($rpc:ident($request:ident) -> $response:ident: $handler:path;)* }
        commands { $($command:ident($command_request:ident) -> $command_response:ident: $command_handler:path;)* }
    ) => {
        #[tonic::async_trait]
        impl elector_server::Elector for Elector {
            type WatchEventsStream = board::Events;

            async fn watch_events(&self, request: Request<pb::WatchEventsRequest>) -> Result<Response<board::Events>, Status> {
                Ok(Response::new(board::watch_events(&self.context, request.into_inner()).await?))
            }

            $(async fn $rpc(&self, request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                $handler(&self.context, request.into_inner()).await.map(Response::new).map_err(Status::from)
            })*

            $(async fn $command(&self, request: Request<pb::$command_request>) -> Result<Response<pb::$command_response>, Status> {
                let caller = caller(&request)?;
                $command_handler(&self.context, &caller, request.into_inner()).await.map(Response::new).map_err(Status::from)
            })*
        }
    };
}

elector! {
    questions {
        errant_gtids(ErrantGtidsRequest) -> ErrantGtidsResponse: errant::errant_gtids;
        problems(ProblemsRequest) -> ProblemsResponse: board::problems;
        decisions(DecisionsRequest) -> DecisionsResponse: board::decisions;
        commands(CommandsRequest) -> CommandsResponse: record::commands;
        history(HistoryRequest) -> HistoryResponse: ledger::history;
        list_maintenance(ListMaintenanceRequest) -> ListMaintenanceResponse: ledger::list_maintenance;
        get_status(GetStatusRequest) -> GetStatusResponse: ledger::get_status;
        observe(ObserveRequest) -> ObserveResponse: observe::observe;
        shards(ShardsRequest) -> ShardsResponse: overview::shards;
        tablets(TabletsRequest) -> TabletsResponse: states::tablets;
        explain(ExplainRequest) -> ExplainResponse: explain::explain;
    }
    commands {
        planned_reparent(PlannedReparentRequest) -> ReparentResponse: elector::planned;
        emergency_reparent(EmergencyReparentRequest) -> ReparentResponse: elector::emergency;
        acknowledge(AcknowledgeRequest) -> AcknowledgeResponse: ledger::acknowledge;
        begin_maintenance(BeginMaintenanceRequest) -> BeginMaintenanceResponse: ledger::begin_maintenance;
        end_maintenance(EndMaintenanceRequest) -> EndMaintenanceResponse: ledger::end_maintenance;
        set_recoveries(SetRecoveriesRequest) -> SetRecoveriesResponse: ledger::set_recoveries;
    }
}
