//! The tablet-manager client over gRPC.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use http::HeaderValue;
use prost::Message;
use tokio::time::Instant;
use tonic::{Code, metadata::MetadataMap};

use super::{
    Call, HealthStream, SetSource, TabletError, TabletErrorKind, TabletManager, alias_of,
    cache::Links,
    dial::{Dialler, Endpoint},
    health,
    link::{Lost, MESSAGE_BYTES_MAX, Outgoing, SendError},
    tls::{TabletTls, TlsDialler},
};
use crate::{
    credentials::ClientUser,
    pb::{
        query::{QueryResult, StreamHealthRequest},
        replicationdata::{FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        tabletmanagerdata as data, topodata,
        topodata::{Tablet, TabletType},
        vtelectoragent::{HearRequest, HearResponse, Heard},
    },
    rotating::Rotating,
    shard::{FailureClass, Greeting},
    tls::TlsError,
    topo::TabletAlias,
};

/// Metadata key of [`Call::lock_revision`].
pub const LOCK_REVISION_KEY: &str = "vtelector-lock-revision";

/// A deadline further away is none that anybody waits for; this keeps the clock's arithmetic in range.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is sent by a ping and has to come back.
const PING: &str = "payload";

/// How to reach tablets.
#[derive(Debug, Clone)]
pub struct TabletSettings {
    /// Limit of making a connection; a call's own deadline holds as well.
    pub connect_timeout: Duration,
    /// Encrypts every connection where given.
    pub tls: Option<TabletTls>,
    /// File of the user that we are for tablets that ask (Vitess's `--grpc-auth-static-client-creds`).
    pub user: Option<PathBuf>,
}

impl Default for TabletSettings {
    /// Two seconds allow for one lost packet: TCP repeats the first after one second.
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(2), tls: None, user: None }
    }
}

/// Calls tablets over gRPC, with one connection per tablet that is made when first needed.
pub struct GrpcTabletManager {
    links: Links,
    tls: bool,
    user: Option<Rotating<ClientUser>>,
}

/// A call that is not sent: the code that Vitess gives it, and why.
type Refusal = (Code, String);

impl GrpcTabletManager {
    /// Reads the files; connects to nothing yet.
    pub fn new(settings: TabletSettings) -> Result<Self, TlsError> {
        let tls = settings.tls.map(TlsDialler::load).transpose()?;
        let user = settings.user.as_deref().map(ClientUser::load).transpose().map_err(TlsError::Files)?;
        Ok(Self { tls: tls.is_some(), user, links: Links::new(Dialler { timeout: settings.connect_timeout, tls }) })
    }

    /// Closes the connections to the tablets that are not to be kept: those whose records are gone.
    pub fn retain(&self, keep: impl Fn(&TabletAlias) -> bool) {
        self.links.retain(keep);
    }

    #[cfg(test)]
    pub(super) fn connected(&self) -> Vec<TabletAlias> {
        self.links.aliases()
    }

    /// One call: `path` is the gRPC path, whose last part is the method.
    async fn call<Q: Message, A: Message + Default>(
        &self,
        tablet: &Tablet,
        path: &'static str,
        request: Q,
        call: Call,
    ) -> Result<A, TabletError> {
        let alias = alias_of(tablet);
        let method = path.rsplit('/').next().unwrap_or(path);
        let error = |kind, code, lost, message| TabletError { alias: alias.clone(), method, kind, code, lost, message };
        // Nobody was asked: whoever waits for this tablet hears nothing.
        let refused = |(code, message)| error(TabletErrorKind::Unreachable, code, Some(FailureClass::Silent), message);
        let deadline = Instant::now() + call.timeout.min(TIMEOUT_MAX);
        let endpoint = endpoint_of(tablet, self.tls).map_err(refused)?;
        let outgoing = self.outgoing(path, request, call).await.map_err(refused)?;
        let answer = self.send(&alias, &endpoint, &outgoing, deadline).await;
        let bytes = answer.map_err(|failed| unanswered(failed, (&alias, method), &endpoint, (deadline, call.timeout)))?;
        A::decode(bytes).map_err(|reason| {
            let message = format!("its answer cannot be read ({reason}); is {endpoint} a tablet's grpc port?");
            error(TabletErrorKind::UnknownOutcome, Code::Internal, None, message)
        })
    }

    /// Opens a tablet's health stream.
    async fn open_health(&self, tablet: &Tablet, call: Call) -> Result<HealthStream, TabletError> {
        let alias = alias_of(tablet);
        let refused = |(code, message)| {
            let (kind, lost) = (TabletErrorKind::Unreachable, Some(FailureClass::Silent));
            TabletError { alias: alias.clone(), method: health::METHOD, kind, code, lost, message }
        };
        let deadline = Instant::now() + call.timeout.min(TIMEOUT_MAX);
        let endpoint = endpoint_of(tablet, self.tls).map_err(refused)?;
        let outgoing = self.outgoing("/queryservice.Query/StreamHealth", StreamHealthRequest {}, call).await.map_err(refused)?;
        let link = self.links.get(&alias, &endpoint);
        match link.open_stream(&outgoing, deadline).await {
            Ok(body) => Ok(health::messages(health::Reading { alias, link, body })),
            Err(failed) => Err(unanswered(failed, (&alias, health::METHOD), &endpoint, (deadline, call.timeout))),
        }
    }

    /// What is sent: the request, the lock under which it is made, and who we are.
    async fn outgoing(&self, path: &'static str, request: impl Message, call: Call) -> Result<Outgoing, Refusal> {
        let message = request.encode_to_vec();
        if message.len() > MESSAGE_BYTES_MAX {
            let text =
                format!("the request has {} bytes, more than the {MESSAGE_BYTES_MAX} that a tablet accepts", message.len());
            return Err((Code::ResourceExhausted, text));
        }
        let mut metadata = MetadataMap::new();
        if let Some(user) = &self.user {
            user.current().await.value.sign_for_tablet(&mut metadata);
        }
        let mut headers = metadata.into_headers();
        if let Some(revision) = call.lock_revision {
            headers.insert(LOCK_REVISION_KEY, HeaderValue::from(revision));
        }
        Ok(Outgoing { path, message, headers })
    }

    /// A kept connection may have died unnoticed. What was certainly not sent over it is tried once over a new one.
    async fn send(
        &self,
        alias: &TabletAlias,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<bytes::Bytes, SendError> {
        let link = self.links.get(alias, endpoint);
        let kept = link.is_up();
        let result = link.call(outgoing, deadline).await;
        if !kept || !matches!(result, Err(SendError::NotSent(_))) || Instant::now() >= deadline {
            return result;
        }
        self.links.discard(alias, &link);
        self.links.get(alias, endpoint).call(outgoing, deadline).await
    }
}

/// What a failed exchange means.
fn unanswered(
    failed: SendError,
    (alias, method): (&TabletAlias, &'static str),
    endpoint: &Endpoint,
    (deadline, limit): (Instant, Duration),
) -> TabletError {
    let alias = alias.clone();
    match failed {
        SendError::Status(status) => TabletError::answered(alias, method, status.code(), status.message()),
        SendError::NotSent(Lost { class, reason }) => {
            let (kind, code) = (TabletErrorKind::Unreachable, Code::Unavailable);
            TabletError { alias, method, kind, code, lost: Some(class), message: reason }
        }
        SendError::NoAnswer(Lost { class, reason }) => {
            let code = if Instant::now() >= deadline { Code::DeadlineExceeded } else { Code::Unavailable };
            let message = format!("sent to {endpoint}, but then: {reason} (limit {limit:?})");
            TabletError { alias, method, kind: TabletErrorKind::UnknownOutcome, code, lost: Some(class), message }
        }
    }
}

/// Where a tablet listens by its record. The refusals and their codes are Vitess's (facts: a cleanly stopped tablet fails at once).
fn endpoint_of(tablet: &Tablet, tls: bool) -> Result<Endpoint, Refusal> {
    let blank = tablet.hostname.is_empty() && tablet.mysql_hostname.is_empty() && tablet.port_map.is_empty();
    if tablet.tablet_shutdown_time.is_some() || (blank && tablet.r#type() != TabletType::Unknown) {
        return Err((Code::Unavailable, "tablet is shutdown".to_owned()));
    }
    if tablet.hostname.is_empty() {
        return Err((Code::FailedPrecondition, "its record has no hostname".to_owned()));
    }
    let port = tablet.port_map.get("grpc").copied().unwrap_or(0);
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(Endpoint::new(&tablet.hostname, port, tls)),
        _ => Err((Code::FailedPrecondition, format!("its record has no grpc port (port map: {:?})", tablet.port_map))),
    }
}

/// A part that every tablet puts into its answer; without it the answer says nothing.
fn part<T>(part: Option<T>, tablet: &Tablet, method: &'static str) -> Result<T, TabletError> {
    part.ok_or_else(|| TabletError {
        alias: alias_of(tablet),
        method,
        kind: TabletErrorKind::UnknownOutcome,
        code: Code::Internal,
        lost: None,
        message: "its answer is empty".to_owned(),
    })
}

/// The gRPC path of a tablet-manager method.
macro_rules! path {
    ($method:literal) => {
        concat!("/tabletmanagerservice.TabletManager/", $method)
    };
}

#[async_trait]
impl TabletManager for GrpcTabletManager {
    async fn ping(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let request = data::PingRequest { payload: PING.to_owned() };
        let answer: data::PingResponse = self.call(tablet, path!("Ping"), request, call).await?;
        part((answer.payload == PING).then_some(()), tablet, "Ping")
    }

    async fn full_status(&self, tablet: &Tablet, call: Call) -> Result<FullStatus, TabletError> {
        let answer: data::FullStatusResponse = self.call(tablet, path!("FullStatus"), data::FullStatusRequest {}, call).await?;
        part(answer.status, tablet, "FullStatus")
    }

    async fn replication_status(&self, tablet: &Tablet, call: Call) -> Result<Status, TabletError> {
        let request = data::ReplicationStatusRequest {};
        let answer: data::ReplicationStatusResponse = self.call(tablet, path!("ReplicationStatus"), request, call).await?;
        part(answer.status, tablet, "ReplicationStatus")
    }

    async fn primary_status(&self, tablet: &Tablet, call: Call) -> Result<PrimaryStatus, TabletError> {
        let request = data::PrimaryStatusRequest {};
        let answer: data::PrimaryStatusResponse = self.call(tablet, path!("PrimaryStatus"), request, call).await?;
        part(answer.status, tablet, "PrimaryStatus")
    }

    async fn primary_position(&self, tablet: &Tablet, call: Call) -> Result<String, TabletError> {
        let request = data::PrimaryPositionRequest {};
        let answer: data::PrimaryPositionResponse = self.call(tablet, path!("PrimaryPosition"), request, call).await?;
        Ok(answer.position)
    }

    async fn global_status_vars(
        &self,
        tablet: &Tablet,
        variables: &[&str],
        call: Call,
    ) -> Result<BTreeMap<String, String>, TabletError> {
        let request = data::GetGlobalStatusVarsRequest { variables: variables.iter().map(|&name| name.to_owned()).collect() };
        let answer: data::GetGlobalStatusVarsResponse = self.call(tablet, path!("GetGlobalStatusVars"), request, call).await?;
        Ok(answer.status_values)
    }

    async fn wait_for_position(&self, tablet: &Tablet, position: &str, call: Call) -> Result<(), TabletError> {
        let request = data::WaitForPositionRequest { position: position.to_owned() };
        let _: data::WaitForPositionResponse = self.call(tablet, path!("WaitForPosition"), request, call).await?;
        Ok(())
    }

    async fn stop_replication_and_get_status(
        &self,
        tablet: &Tablet,
        mode: StopReplicationMode,
        call: Call,
    ) -> Result<StopReplicationStatus, TabletError> {
        let request = data::StopReplicationAndGetStatusRequest { stop_replication_mode: mode.into() };
        let answer: data::StopReplicationAndGetStatusResponse =
            self.call(tablet, path!("StopReplicationAndGetStatus"), request, call).await?;
        part(answer.status, tablet, "StopReplicationAndGetStatus")
    }

    async fn stop_replication(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let request = data::StopReplicationRequest {};
        let _: data::StopReplicationResponse = self.call(tablet, path!("StopReplication"), request, call).await?;
        Ok(())
    }

    async fn start_replication(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let request = data::StartReplicationRequest { semi_sync };
        let _: data::StartReplicationResponse = self.call(tablet, path!("StartReplication"), request, call).await?;
        Ok(())
    }

    async fn set_replication_source(&self, tablet: &Tablet, set: SetSource<'_>, call: Call) -> Result<(), TabletError> {
        let request = data::SetReplicationSourceRequest {
            parent: Some(set.parent.into()),
            time_created_ns: set.time_created_ns,
            force_start_replication: set.force_start,
            wait_position: set.wait_position.to_owned(),
            semi_sync: set.semi_sync,
            heartbeat_interval: set.heartbeat_interval_s,
        };
        let _: data::SetReplicationSourceResponse = self.call(tablet, path!("SetReplicationSource"), request, call).await?;
        Ok(())
    }

    async fn demote_primary(&self, tablet: &Tablet, force: bool, call: Call) -> Result<PrimaryStatus, TabletError> {
        let request = data::DemotePrimaryRequest { force };
        let answer: data::DemotePrimaryResponse = self.call(tablet, path!("DemotePrimary"), request, call).await?;
        part(answer.primary_status, tablet, "DemotePrimary")
    }

    async fn undo_demote_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let request = data::UndoDemotePrimaryRequest { semi_sync };
        let _: data::UndoDemotePrimaryResponse = self.call(tablet, path!("UndoDemotePrimary"), request, call).await?;
        Ok(())
    }

    async fn promote_replica(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError> {
        let request = data::PromoteReplicaRequest { semi_sync };
        let answer: data::PromoteReplicaResponse = self.call(tablet, path!("PromoteReplica"), request, call).await?;
        Ok(answer.position)
    }

    async fn init_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError> {
        let request = data::InitPrimaryRequest { semi_sync };
        let answer: data::InitPrimaryResponse = self.call(tablet, path!("InitPrimary"), request, call).await?;
        Ok(answer.position)
    }

    async fn populate_reparent_journal(
        &self,
        tablet: &Tablet,
        time_created_ns: i64,
        action: &str,
        primary: &TabletAlias,
        position: &str,
        call: Call,
    ) -> Result<(), TabletError> {
        let request = data::PopulateReparentJournalRequest {
            time_created_ns,
            action_name: action.to_owned(),
            primary_alias: Some(topodata::TabletAlias::from(primary)),
            replication_position: position.to_owned(),
        };
        let _: data::PopulateReparentJournalResponse = self.call(tablet, path!("PopulateReparentJournal"), request, call).await?;
        Ok(())
    }

    async fn read_reparent_journal_info(&self, tablet: &Tablet, call: Call) -> Result<i32, TabletError> {
        let request = data::ReadReparentJournalInfoRequest {};
        let answer: data::ReadReparentJournalInfoResponse =
            self.call(tablet, path!("ReadReparentJournalInfo"), request, call).await?;
        Ok(answer.length)
    }

    async fn set_read_only(&self, tablet: &Tablet, read_only: bool, call: Call) -> Result<(), TabletError> {
        if read_only {
            let request = data::SetReadOnlyRequest {};
            let _: data::SetReadOnlyResponse = self.call(tablet, path!("SetReadOnly"), request, call).await?;
        } else {
            let request = data::SetReadWriteRequest {};
            let _: data::SetReadWriteResponse = self.call(tablet, path!("SetReadWrite"), request, call).await?;
        }
        Ok(())
    }

    async fn change_type(&self, tablet: &Tablet, to: TabletType, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let request = data::ChangeTypeRequest { tablet_type: to.into(), semi_sync };
        let _: data::ChangeTypeResponse = self.call(tablet, path!("ChangeType"), request, call).await?;
        Ok(())
    }

    async fn refresh_state(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let request = data::RefreshStateRequest {};
        let _: data::RefreshStateResponse = self.call(tablet, path!("RefreshState"), request, call).await?;
        Ok(())
    }

    async fn run_health_check(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let request = data::RunHealthCheckRequest {};
        let _: data::RunHealthCheckResponse = self.call(tablet, path!("RunHealthCheck"), request, call).await?;
        Ok(())
    }

    async fn reset_replication_parameters(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let request = data::ResetReplicationParametersRequest {};
        let _: data::ResetReplicationParametersResponse =
            self.call(tablet, path!("ResetReplicationParameters"), request, call).await?;
        Ok(())
    }

    async fn execute_fetch_as_dba(
        &self,
        tablet: &Tablet,
        sql: &str,
        max_rows: u64,
        call: Call,
    ) -> Result<QueryResult, TabletError> {
        let request = data::ExecuteFetchAsDbaRequest { query: sql.into(), max_rows, ..Default::default() };
        let answer: data::ExecuteFetchAsDbaResponse = self.call(tablet, path!("ExecuteFetchAsDba"), request, call).await?;
        Ok(answer.result.unwrap_or_default())
    }

    async fn restart_replication(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let request = data::RestartReplicationRequest { semi_sync };
        let _: data::RestartReplicationResponse = self.call(tablet, path!("RestartReplication"), request, call).await?;
        Ok(())
    }

    async fn stop_replication_minimum(
        &self,
        tablet: &Tablet,
        position: &str,
        wait: Duration,
        call: Call,
    ) -> Result<String, TabletError> {
        let wait_timeout = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
        let request = data::StopReplicationMinimumRequest { position: position.to_owned(), wait_timeout };
        let answer: data::StopReplicationMinimumResponse =
            self.call(tablet, path!("StopReplicationMinimum"), request, call).await?;
        Ok(answer.position)
    }

    async fn get_replicas(&self, tablet: &Tablet, call: Call) -> Result<Vec<String>, TabletError> {
        let answer: data::GetReplicasResponse =
            self.call(tablet, path!("GetReplicas"), data::GetReplicasRequest {}, call).await?;
        Ok(answer.addrs)
    }

    async fn change_tags(
        &self,
        tablet: &Tablet,
        tags: &BTreeMap<String, String>,
        replace: bool,
        call: Call,
    ) -> Result<BTreeMap<String, String>, TabletError> {
        let request = data::ChangeTagsRequest { tags: tags.clone(), replace };
        let answer: data::ChangeTagsResponse = self.call(tablet, path!("ChangeTags"), request, call).await?;
        Ok(answer.tags)
    }

    async fn replica_was_restarted(&self, tablet: &Tablet, parent: &TabletAlias, call: Call) -> Result<(), TabletError> {
        let request = data::ReplicaWasRestartedRequest { parent: Some(parent.into()) };
        let _: data::ReplicaWasRestartedResponse = self.call(tablet, path!("ReplicaWasRestarted"), request, call).await?;
        Ok(())
    }

    async fn replica_was_promoted(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let request = data::ReplicaWasPromotedRequest {};
        let _: data::ReplicaWasPromotedResponse = self.call(tablet, path!("ReplicaWasPromoted"), request, call).await?;
        Ok(())
    }

    async fn hear(&self, tablet: &Tablet, of: &Tablet, wait: Duration, call: Call) -> Result<Greeting, TabletError> {
        let alias = alias_of(tablet);
        let link = endpoint_of(tablet, self.tls).ok().map(|endpoint| self.links.get(&alias, &endpoint));
        if link.as_ref().is_some_and(|link| link.is_no_witness()) {
            return Err(TabletError::unimplemented(alias, "Hear"));
        }
        // The witness's own words are worth more than our deadline.
        let wait_ms = wait.min(call.timeout.mul_f64(0.9)).as_millis() as u32;
        let request = HearRequest { host: of.mysql_hostname.clone(), port: of.mysql_port, wait_ms };
        let answer: Result<HearResponse, _> = self.call(tablet, "/vtelectoragent.Witness/Hear", request, call).await;
        if let (Err(TabletError { kind: TabletErrorKind::Unimplemented, .. }), Some(link)) = (&answer, link) {
            link.set_no_witness();
        }
        let answer = answer?;
        Ok(match answer.heard() {
            Heard::Greeted => Greeting::Greeted,
            Heard::TooManyConnections => Greeting::TooManyConnections,
            Heard::Refused => Greeting::Refused,
            Heard::Silent => Greeting::Silent,
            Heard::CannotTell => Greeting::CannotTell(answer.words),
        })
    }

    async fn stream_health(&self, tablet: &Tablet, call: Call) -> Result<HealthStream, TabletError> {
        self.open_health(tablet, call).await
    }
}
