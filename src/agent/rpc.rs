//! `tabletmanagerservice.TabletManager`: requests in, the agent's actions, answers and errors out.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{Agent, AgentError, Context, LOCK_REVISION_KEY};
use crate::pb::{tabletmanagerdata::*, tabletmanagerservice::tablet_manager_server::TabletManager};

/// We end that much before the caller does, so that it reads our words instead of its own deadline.
const MARGIN: Duration = Duration::from_millis(50);

/// Serves the tablet manager's calls.
pub struct TabletManagerService(pub Arc<Agent>);

impl TabletManagerService {
    /// A call that only reads: it ends with its caller.
    async fn read<Q, A, F>(
        &self,
        method: &'static str,
        request: Request<Q>,
        run: impl FnOnce(Arc<Agent>, Q, Instant) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, AgentError>>,
    {
        let context = self.context(method, request.metadata())?;
        let answer = run(self.0.clone(), request.into_inner(), context.deadline).await;
        answer.map(Response::new).map_err(|error| error.status(method, &self.0.settings.alias))
    }

    /// A call that changes something: it runs to its own end in a task of the agent, also when its caller goes away, because
    /// half of it may be worse than all or nothing of it.
    async fn act<Q, A, F>(
        &self,
        method: &'static str,
        request: Request<Q>,
        run: impl FnOnce(Arc<Agent>, Q, Context) -> F,
    ) -> Result<Response<A>, Status>
    where
        A: Send + 'static,
        F: Future<Output = Result<A, AgentError>> + Send + 'static,
    {
        let context = self.context(method, request.metadata())?;
        let task = self.0.tasks.spawn(run(self.0.clone(), request.into_inner(), context));
        let answer = task.await.unwrap_or(Err(AgentError::Shutdown));
        answer.map(Response::new).map_err(|error| {
            let status = error.status(method, &self.0.settings.alias);
            tracing::warn!(method, %error, "a call was not carried out");
            status
        })
    }

    fn context(&self, method: &str, metadata: &MetadataMap) -> Result<Context, Status> {
        let refused = |text: &str| AgentError::Invalid(text.to_owned()).status(method, &self.0.settings.alias);
        let lock_revision = match metadata.get(LOCK_REVISION_KEY) {
            None => None,
            Some(value) => {
                let revision = value.to_str().ok().and_then(|text| text.parse().ok());
                Some(revision.ok_or_else(|| refused("metadata vtelector-lock-revision is no decimal number"))?)
            }
        };
        let given = metadata.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
        let timeout =
            given.map_or(self.0.settings.remote_operation_timeout, |given| given.saturating_sub(MARGIN.min(given / 10)));
        Ok(Context { deadline: Instant::now() + timeout, lock_revision })
    }

    fn unimplemented(&self, method: &str, why: &str) -> Status {
        Status::unimplemented(format!(
            "TabletManager.{method} on {}: vtelector agent does not serve this call: {why}",
            self.0.settings.alias
        ))
    }
}

/// Longest deadline that is kept; what is longer is as good as none.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// gRPC's notation: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(amount.checked_mul(3600)?),
        "M" => Duration::from_secs(amount.checked_mul(60)?),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

/// The words in which a vttablet says that a position did not come.
fn wait_failed(error: AgentError) -> AgentError {
    match error {
        AgentError::Deadline(text) => AgentError::Deadline(format!("WaitSourcePos failed: {text}")),
        other => other,
    }
}

#[tonic::async_trait]
impl TabletManager for TabletManagerService {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse { payload: request.into_inner().payload }))
    }

    async fn get_global_status_vars(
        &self,
        request: Request<GetGlobalStatusVarsRequest>,
    ) -> Result<Response<GetGlobalStatusVarsResponse>, Status> {
        self.read("GetGlobalStatusVars", request, |agent, request, deadline| async move {
            Ok(GetGlobalStatusVarsResponse { status_values: agent.status_vars(&request.variables, deadline).await? })
        })
        .await
    }

    async fn full_status(&self, request: Request<FullStatusRequest>) -> Result<Response<FullStatusResponse>, Status> {
        self.read("FullStatus", request, |agent, _, deadline| async move {
            Ok(FullStatusResponse { status: Some(agent.while_it_answers(agent.full_status(deadline)).await?) })
        })
        .await
    }

    async fn replication_status(
        &self,
        request: Request<ReplicationStatusRequest>,
    ) -> Result<Response<ReplicationStatusResponse>, Status> {
        self.read("ReplicationStatus", request, |agent, _, deadline| async move {
            Ok(ReplicationStatusResponse { status: Some(agent.while_it_answers(agent.replication_status(deadline)).await?) })
        })
        .await
    }

    async fn primary_status(&self, request: Request<PrimaryStatusRequest>) -> Result<Response<PrimaryStatusResponse>, Status> {
        self.read("PrimaryStatus", request, |agent, _, deadline| async move {
            Ok(PrimaryStatusResponse { status: Some(agent.while_it_answers(agent.primary_status(deadline)).await?) })
        })
        .await
    }

    async fn primary_position(
        &self,
        request: Request<PrimaryPositionRequest>,
    ) -> Result<Response<PrimaryPositionResponse>, Status> {
        self.read("PrimaryPosition", request, |agent, _, deadline| async move {
            Ok(PrimaryPositionResponse { position: agent.while_it_answers(agent.primary_position(deadline)).await? })
        })
        .await
    }

    async fn wait_for_position(
        &self,
        request: Request<WaitForPositionRequest>,
    ) -> Result<Response<WaitForPositionResponse>, Status> {
        self.read("WaitForPosition", request, |agent, request, deadline| async move {
            agent.wait_for_position(&request.position, deadline).await.map_err(wait_failed)?;
            Ok(WaitForPositionResponse {})
        })
        .await
    }

    async fn read_reparent_journal_info(
        &self,
        request: Request<ReadReparentJournalInfoRequest>,
    ) -> Result<Response<ReadReparentJournalInfoResponse>, Status> {
        self.read("ReadReparentJournalInfo", request, |agent, _, deadline| async move {
            Ok(ReadReparentJournalInfoResponse { length: agent.journal_length(deadline).await? })
        })
        .await
    }

    async fn reload_schema(&self, request: Request<ReloadSchemaRequest>) -> Result<Response<ReloadSchemaResponse>, Status> {
        self.read("ReloadSchema", request, |agent, request, deadline| async move {
            agent.wait_for_position(&request.wait_position, deadline).await?;
            Ok(ReloadSchemaResponse {})
        })
        .await
    }

    async fn get_replicas(&self, request: Request<GetReplicasRequest>) -> Result<Response<GetReplicasResponse>, Status> {
        self.read("GetReplicas", request, |agent, _, deadline| async move {
            Ok(GetReplicasResponse { addrs: agent.replica_addresses(deadline).await? })
        })
        .await
    }

    async fn has_v_replication_workflows(
        &self,
        request: Request<HasVReplicationWorkflowsRequest>,
    ) -> Result<Response<HasVReplicationWorkflowsResponse>, Status> {
        self.read(
            "HasVReplicationWorkflows",
            request,
            |_, _, _| async move { Ok(HasVReplicationWorkflowsResponse { has: false }) },
        )
        .await
    }

    async fn populate_reparent_journal(
        &self,
        request: Request<PopulateReparentJournalRequest>,
    ) -> Result<Response<PopulateReparentJournalResponse>, Status> {
        self.act("PopulateReparentJournal", request, |agent, request, context| async move {
            agent.admit(&context).await?;
            agent.populate_journal(&request, context.deadline).await?;
            Ok(PopulateReparentJournalResponse {})
        })
        .await
    }

    async fn execute_fetch_as_dba(
        &self,
        request: Request<ExecuteFetchAsDbaRequest>,
    ) -> Result<Response<ExecuteFetchAsDbaResponse>, Status> {
        self.act("ExecuteFetchAsDba", request, |agent, request, context| async move {
            agent.admit(&context).await?;
            Ok(ExecuteFetchAsDbaResponse { result: Some(agent.fetch(&request, context.deadline).await?) })
        })
        .await
    }

    async fn run_health_check(
        &self,
        request: Request<RunHealthCheckRequest>,
    ) -> Result<Response<RunHealthCheckResponse>, Status> {
        self.read("RunHealthCheck", request, |agent, _, _| async move {
            agent.health_wanted.notify_waiters();
            Ok(RunHealthCheckResponse {})
        })
        .await
    }

    async fn refresh_state(&self, request: Request<RefreshStateRequest>) -> Result<Response<RefreshStateResponse>, Status> {
        self.act("RefreshState", request, |agent, _, context| async move {
            agent.refresh_state(&context).await?;
            Ok(RefreshStateResponse {})
        })
        .await
    }

    async fn set_read_only(&self, request: Request<SetReadOnlyRequest>) -> Result<Response<SetReadOnlyResponse>, Status> {
        self.act("SetReadOnly", request, |agent, _, context| async move {
            agent.set_read_only(&context).await?;
            Ok(SetReadOnlyResponse {})
        })
        .await
    }

    async fn set_read_write(&self, request: Request<SetReadWriteRequest>) -> Result<Response<SetReadWriteResponse>, Status> {
        self.act("SetReadWrite", request, |agent, _, context| async move {
            agent.set_read_write(&context).await?;
            Ok(SetReadWriteResponse {})
        })
        .await
    }

    async fn change_type(&self, request: Request<ChangeTypeRequest>) -> Result<Response<ChangeTypeResponse>, Status> {
        self.act("ChangeType", request, |agent, request, context| async move {
            let to = request.tablet_type();
            agent.change_type(&context, to, request.semi_sync).await?;
            Ok(ChangeTypeResponse {})
        })
        .await
    }

    async fn change_tags(&self, request: Request<ChangeTagsRequest>) -> Result<Response<ChangeTagsResponse>, Status> {
        self.act("ChangeTags", request, |agent, request, context| async move {
            Ok(ChangeTagsResponse { tags: agent.change_tags(&context, request.tags, request.replace).await? })
        })
        .await
    }

    async fn replica_was_promoted(
        &self,
        request: Request<ReplicaWasPromotedRequest>,
    ) -> Result<Response<ReplicaWasPromotedResponse>, Status> {
        self.act("ReplicaWasPromoted", request, |agent, _, context| async move {
            agent.was_promoted(&context).await?;
            Ok(ReplicaWasPromotedResponse {})
        })
        .await
    }

    async fn replica_was_restarted(
        &self,
        request: Request<ReplicaWasRestartedRequest>,
    ) -> Result<Response<ReplicaWasRestartedResponse>, Status> {
        self.act("ReplicaWasRestarted", request, |agent, _, context| async move {
            agent.was_restarted(&context).await?;
            Ok(ReplicaWasRestartedResponse {})
        })
        .await
    }

    async fn stop_replication(
        &self,
        request: Request<StopReplicationRequest>,
    ) -> Result<Response<StopReplicationResponse>, Status> {
        self.act("StopReplication", request, |agent, _, context| async move {
            agent.stop_replication(&context).await?;
            Ok(StopReplicationResponse {})
        })
        .await
    }

    async fn stop_replication_minimum(
        &self,
        request: Request<StopReplicationMinimumRequest>,
    ) -> Result<Response<StopReplicationMinimumResponse>, Status> {
        self.act("StopReplicationMinimum", request, |agent, request, context| async move {
            let wait = std::time::Duration::from_nanos(request.wait_timeout.max(0).unsigned_abs());
            Ok(StopReplicationMinimumResponse { position: agent.stop_at_minimum(&context, &request.position, wait).await? })
        })
        .await
    }

    async fn start_replication(
        &self,
        request: Request<StartReplicationRequest>,
    ) -> Result<Response<StartReplicationResponse>, Status> {
        self.act("StartReplication", request, |agent, request, context| async move {
            agent.start_replication(&context, request.semi_sync, false).await?;
            Ok(StartReplicationResponse {})
        })
        .await
    }

    async fn restart_replication(
        &self,
        request: Request<RestartReplicationRequest>,
    ) -> Result<Response<RestartReplicationResponse>, Status> {
        self.act("RestartReplication", request, |agent, request, context| async move {
            agent.start_replication(&context, request.semi_sync, true).await?;
            Ok(RestartReplicationResponse {})
        })
        .await
    }

    async fn start_replication_until_after(
        &self,
        request: Request<StartReplicationUntilAfterRequest>,
    ) -> Result<Response<StartReplicationUntilAfterResponse>, Status> {
        self.act("StartReplicationUntilAfter", request, |agent, request, context| async move {
            agent.start_until_after(&context, &request.position).await?;
            Ok(StartReplicationUntilAfterResponse {})
        })
        .await
    }

    async fn stop_replication_and_get_status(
        &self,
        request: Request<StopReplicationAndGetStatusRequest>,
    ) -> Result<Response<StopReplicationAndGetStatusResponse>, Status> {
        self.act("StopReplicationAndGetStatus", request, |agent, request, context| async move {
            let mode = request.stop_replication_mode();
            Ok(StopReplicationAndGetStatusResponse { status: Some(agent.stop_and_get_status(&context, mode).await?) })
        })
        .await
    }

    async fn reset_replication(
        &self,
        request: Request<ResetReplicationRequest>,
    ) -> Result<Response<ResetReplicationResponse>, Status> {
        self.act("ResetReplication", request, |agent, _, context| async move {
            agent.reset_replication(&context).await?;
            Ok(ResetReplicationResponse {})
        })
        .await
    }

    async fn reset_replication_parameters(
        &self,
        request: Request<ResetReplicationParametersRequest>,
    ) -> Result<Response<ResetReplicationParametersResponse>, Status> {
        self.act("ResetReplicationParameters", request, |agent, _, context| async move {
            agent.reset_parameters(&context).await?;
            Ok(ResetReplicationParametersResponse {})
        })
        .await
    }

    async fn init_primary(&self, request: Request<InitPrimaryRequest>) -> Result<Response<InitPrimaryResponse>, Status> {
        self.act("InitPrimary", request, |agent, request, context| async move {
            Ok(InitPrimaryResponse { position: agent.init_primary(&context, request.semi_sync).await? })
        })
        .await
    }

    async fn promote_replica(&self, request: Request<PromoteReplicaRequest>) -> Result<Response<PromoteReplicaResponse>, Status> {
        self.act("PromoteReplica", request, |agent, request, context| async move {
            Ok(PromoteReplicaResponse { position: agent.promote(&context, request.semi_sync).await? })
        })
        .await
    }

    async fn demote_primary(&self, request: Request<DemotePrimaryRequest>) -> Result<Response<DemotePrimaryResponse>, Status> {
        self.act("DemotePrimary", request, |agent, request, context| async move {
            Ok(DemotePrimaryResponse { primary_status: Some(agent.demote(&context, request.force).await?) })
        })
        .await
    }

    async fn undo_demote_primary(
        &self,
        request: Request<UndoDemotePrimaryRequest>,
    ) -> Result<Response<UndoDemotePrimaryResponse>, Status> {
        self.act("UndoDemotePrimary", request, |agent, request, context| async move {
            agent.undo_demote(&context, request.semi_sync).await?;
            Ok(UndoDemotePrimaryResponse {})
        })
        .await
    }

    async fn set_replication_source(
        &self,
        request: Request<SetReplicationSourceRequest>,
    ) -> Result<Response<SetReplicationSourceResponse>, Status> {
        // Dropped with this call when its caller goes away; following goes on to its end, the wait after it does not.
        let caller_gone = CancellationToken::new();
        let _caller = caller_gone.clone().drop_guard();
        self.act("SetReplicationSource", request, |agent, request, context| async move {
            agent.set_source(&context, &request, &caller_gone).await?;
            Ok(SetReplicationSourceResponse {})
        })
        .await
    }

    async fn sleep(&self, _: Request<SleepRequest>) -> Result<Response<SleepResponse>, Status> {
        Err(self.unimplemented("Sleep", "it only holds the action lock"))
    }

    async fn execute_hook(&self, _: Request<ExecuteHookRequest>) -> Result<Response<ExecuteHookResponse>, Status> {
        Err(self.unimplemented("ExecuteHook", "an agent runs no programs"))
    }

    async fn lock_tables(&self, _: Request<LockTablesRequest>) -> Result<Response<LockTablesResponse>, Status> {
        Err(self.unimplemented("LockTables", "it serves backups of a vttablet"))
    }

    async fn unlock_tables(&self, _: Request<UnlockTablesRequest>) -> Result<Response<UnlockTablesResponse>, Status> {
        Err(self.unimplemented("UnlockTables", "it serves backups of a vttablet"))
    }

    async fn execute_multi_fetch_as_dba(
        &self,
        _: Request<ExecuteMultiFetchAsDbaRequest>,
    ) -> Result<Response<ExecuteMultiFetchAsDbaResponse>, Status> {
        Err(self.unimplemented("ExecuteMultiFetchAsDba", "send the statements one by one with ExecuteFetchAsDba"))
    }

    async fn execute_fetch_as_app(
        &self,
        _: Request<ExecuteFetchAsAppRequest>,
    ) -> Result<Response<ExecuteFetchAsAppResponse>, Status> {
        Err(self.unimplemented("ExecuteFetchAsApp", "the agent has no application account; use ExecuteFetchAsDba"))
    }

    async fn read_v_replication_workflow(
        &self,
        _: Request<ReadVReplicationWorkflowRequest>,
    ) -> Result<Response<ReadVReplicationWorkflowResponse>, Status> {
        Err(self.unimplemented("ReadVReplicationWorkflow", "a bare mysqld has no VReplication"))
    }

    async fn read_v_replication_workflows(
        &self,
        _: Request<ReadVReplicationWorkflowsRequest>,
    ) -> Result<Response<ReadVReplicationWorkflowsResponse>, Status> {
        Err(self.unimplemented("ReadVReplicationWorkflows", "a bare mysqld has no VReplication"))
    }

    async fn check_throttler(&self, _: Request<CheckThrottlerRequest>) -> Result<Response<CheckThrottlerResponse>, Status> {
        Err(self.unimplemented("CheckThrottler", "a bare mysqld has no throttler"))
    }

    async fn get_throttler_status(
        &self,
        _: Request<GetThrottlerStatusRequest>,
    ) -> Result<Response<GetThrottlerStatusResponse>, Status> {
        Err(self.unimplemented("GetThrottlerStatus", "a bare mysqld has no throttler"))
    }

    async fn init_replica(&self, _: Request<InitReplicaRequest>) -> Result<Response<InitReplicaResponse>, Status> {
        Err(self.unimplemented("InitReplica", "it wipes the GTID history; use SetReplicationSource"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_in_every_unit() {
        assert_eq!(grpc_timeout("15S"), Some(Duration::from_secs(15)));
        assert_eq!(grpc_timeout("1500000u"), Some(Duration::from_millis(1500)));
        assert_eq!(grpc_timeout("99999999H"), Some(TIMEOUT_MAX));
        for text in ["", "S", "5", "5s", "x5S", "é"] {
            assert_eq!(grpc_timeout(text), None, "{text}");
        }
    }
}
