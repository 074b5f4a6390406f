//! Every path of the API: what is asked there, by whom, and what answers.

use std::{future::Future, pin::Pin, sync::Arc};

use prost::Message;

use crate::{
    pb::vtelector as pb,
    serve::{
        calls::{Context, Refusal, board, elector, errant, explain, ledger, overview, record, states},
        door::{Caller, Role},
    },
};

/// A question by which nothing changes, or a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The request stands in the path and the query.
    Get,
    /// The request stands in the body.
    Post,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, Refusal>> + Send>>;

/// One path and method.
pub struct Route {
    pub method: Verb,
    /// Below the root; names in braces are fields of the request.
    pub path: &'static str,
    /// The call of `vtelector.Elector`.
    pub name: &'static str,
    /// Who may ask. A command of readers is one of which they may have the dry run: the call itself looks whether it is one.
    pub role: Role,
    /// Full names of the messages.
    pub request: &'static str,
    pub response: &'static str,
    /// Answers an encoded request with an encoded answer.
    pub call: fn(Arc<Context>, Caller, Vec<u8>) -> Answer,
}

fn decoded<T: Message + Default>(bytes: &[u8]) -> Result<T, Refusal> {
    T::decode(bytes).map_err(|error| Refusal::invalid(error.to_string()))
}

macro_rules! routes {
    (
        questions { $($path:literal $name:ident($request:ident) -> $response:ident: $handler:path;)* }
        $(commands of $role:ident {
            $($command_path:literal $command:ident($command_request:ident) -> $command_response:ident: $command_handler:path;)*
        })*
    ) => {
        /// The table; those of one path stand one after the other.
        pub const ROUTES: &[Route] = &[
            $(Route {
                method: Verb::Get,
                path: $path,
                name: stringify!($name),
                role: Role::Reader,
                request: concat!("vtelector.", stringify!($request)),
                response: concat!("vtelector.", stringify!($response)),
                call: |context, _, bytes| Box::pin(async move {
                    let answer: pb::$response = $handler(&context, decoded::<pb::$request>(&bytes)?).await?;
                    Ok(answer.encode_to_vec())
                }),
            },)*
            $($(Route {
                method: Verb::Post,
                path: $command_path,
                name: stringify!($command),
                role: Role::$role,
                request: concat!("vtelector.", stringify!($command_request)),
                response: concat!("vtelector.", stringify!($command_response)),
                call: |context, caller, bytes| Box::pin(async move {
                    let request = decoded::<pb::$command_request>(&bytes)?;
                    let answer: pb::$command_response = $command_handler(&context, &caller, request).await?;
                    Ok(answer.encode_to_vec())
                }),
            },)*)*
        ];
    };
}

routes! {
    questions {
        "/status" GetStatus(GetStatusRequest) -> GetStatusResponse: ledger::get_status;
        "/shards" Shards(ShardsRequest) -> ShardsResponse: overview::shards;
        "/shards/{keyspace}/{shard}" Explain(ExplainRequest) -> ExplainResponse: explain::explain;
        "/tablets" Tablets(TabletsRequest) -> TabletsResponse: states::tablets;
        "/problems" Problems(ProblemsRequest) -> ProblemsResponse: board::problems;
        "/decisions" Decisions(DecisionsRequest) -> DecisionsResponse: board::decisions;
        "/history" History(HistoryRequest) -> HistoryResponse: ledger::history;
        "/commands" Commands(CommandsRequest) -> CommandsResponse: record::commands;
        "/errant-gtids" ErrantGtids(ErrantGtidsRequest) -> ErrantGtidsResponse: errant::errant_gtids;
        "/maintenance" ListMaintenance(ListMaintenanceRequest) -> ListMaintenanceResponse: ledger::list_maintenance;
    }
    commands of Operator {
        "/maintenance/begin" BeginMaintenance(BeginMaintenanceRequest) -> BeginMaintenanceResponse: ledger::begin_maintenance;
        "/maintenance/end" EndMaintenance(EndMaintenanceRequest) -> EndMaintenanceResponse: ledger::end_maintenance;
        "/acknowledge" Acknowledge(AcknowledgeRequest) -> AcknowledgeResponse: ledger::acknowledge;
        "/recoveries" SetRecoveries(SetRecoveriesRequest) -> SetRecoveriesResponse: ledger::set_recoveries;
    }
    commands of Reader {
        "/reparents/planned" PlannedReparent(PlannedReparentRequest) -> ReparentResponse: elector::planned;
        "/reparents/emergency" EmergencyReparent(EmergencyReparentRequest) -> ReparentResponse: elector::emergency;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_path_and_no_call_is_there_twice() {
        let paths: BTreeSet<_> = ROUTES.iter().map(|route| (route.path, route.method.name())).collect();
        let calls: BTreeSet<_> = ROUTES.iter().map(|route| route.name).collect();
        assert_eq!((paths.len(), calls.len()), (ROUTES.len(), ROUTES.len()));
    }
}
