//! Every method: its path, the bytes that go out, what the answer's bytes become.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use tonic::{Code, Status};

use super::fake::{Answer, FakeTablet, client, tablet_at, within_ms};
use crate::{
    pb::{
        query, replicationdata, tabletmanagerdata as data, topodata,
        vtelectoragent::{HearRequest, HearResponse, Heard},
    },
    shard::Greeting,
    tablet::{Call, GrpcTabletManager, SetSource, TabletErrorKind, TabletManager, TabletSettings},
    topo::TabletAlias,
};

const POSITION: &str = "MySQL56/3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5";

fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap()
}

/// Calls, and checks path, request and answer.
macro_rules! round {
    ($fake:ident, $method:literal, $request:expr, $answer:expr, $call:expr => $expected:expr) => {
        $fake.answer(Answer::Message($answer.encode_to_vec()));
        assert_eq!($call.await.unwrap(), $expected, $method);
        let last = $fake.received().pop().unwrap();
        assert_eq!(last.path, concat!("/tabletmanagerservice.TabletManager/", $method));
        assert_eq!(last.message, $request.encode_to_vec(), $method);
    };
}

#[tokio::test]
async fn reading_calls_speak_vitess() {
    let fake = FakeTablet::start().await;
    let (client, tablet, call) = (client(), fake.tablet(), within_ms(5000));
    let status = replicationdata::Status { position: POSITION.to_owned(), io_state: 3, ..Default::default() };
    let primary = replicationdata::PrimaryStatus { position: POSITION.to_owned(), ..Default::default() };
    let full = replicationdata::FullStatus { server_id: 7, ..Default::default() };
    let vars: BTreeMap<String, String> = [("Uptime".to_owned(), "5".to_owned())].into();

    let echo = data::PingResponse { payload: "payload".to_owned() };
    round!(fake, "Ping", data::PingRequest { payload: "payload".to_owned() }, echo, client.ping(&tablet, call) => ());
    let answer = data::FullStatusResponse { status: Some(full.clone()) };
    round!(fake, "FullStatus", data::FullStatusRequest {}, answer, client.full_status(&tablet, call) => full);
    let answer = data::ReplicationStatusResponse { status: Some(status.clone()) };
    round!(fake, "ReplicationStatus", data::ReplicationStatusRequest {}, answer, client.replication_status(&tablet, call) => status);
    let answer = data::PrimaryStatusResponse { status: Some(primary.clone()) };
    round!(fake, "PrimaryStatus", data::PrimaryStatusRequest {}, answer, client.primary_status(&tablet, call) => primary);
    let answer = data::PrimaryPositionResponse { position: POSITION.to_owned() };
    round!(fake, "PrimaryPosition", data::PrimaryPositionRequest {}, answer, client.primary_position(&tablet, call) => POSITION);
    let request = data::GetGlobalStatusVarsRequest { variables: vec!["Uptime".to_owned()] };
    let answer = data::GetGlobalStatusVarsResponse { status_values: vars.clone() };
    round!(fake, "GetGlobalStatusVars", request, answer, client.global_status_vars(&tablet, &["Uptime"], call) => vars);
    let request = data::WaitForPositionRequest { position: POSITION.to_owned() };
    let answer = data::WaitForPositionResponse {};
    round!(fake, "WaitForPosition", request, answer, client.wait_for_position(&tablet, POSITION, call) => ());
    let answer = data::ReadReparentJournalInfoResponse { length: 3 };
    let request = data::ReadReparentJournalInfoRequest {};
    round!(fake, "ReadReparentJournalInfo", request, answer, client.read_reparent_journal_info(&tablet, call) => 3);
    let answer = data::GetReplicasResponse { addrs: vec!["10.0.0.1".to_owned()] };
    round!(fake, "GetReplicas", data::GetReplicasRequest {}, answer, client.get_replicas(&tablet, call) => ["10.0.0.1"]);
}

#[tokio::test]
async fn replication_calls_speak_vitess() {
    let fake = FakeTablet::start().await;
    let (client, tablet, call) = (client(), fake.tablet(), within_ms(5000));
    let status = replicationdata::Status { position: POSITION.to_owned(), io_state: 1, ..Default::default() };
    let both = replicationdata::StopReplicationStatus { before: Some(status.clone()), after: Some(status) };
    let none = data::StopReplicationResponse {};

    let mode = replicationdata::StopReplicationMode::Iothreadonly;
    let request = data::StopReplicationAndGetStatusRequest { stop_replication_mode: 1 };
    let answer = data::StopReplicationAndGetStatusResponse { status: Some(both.clone()) };
    round!(fake, "StopReplicationAndGetStatus", request, answer, client.stop_replication_and_get_status(&tablet, mode, call) => both);
    round!(fake, "StopReplication", data::StopReplicationRequest {}, none, client.stop_replication(&tablet, call) => ());
    let request = data::StartReplicationRequest { semi_sync: true };
    round!(fake, "StartReplication", request, none, client.start_replication(&tablet, true, call) => ());
    let request = data::RestartReplicationRequest { semi_sync: true };
    round!(fake, "RestartReplication", request, none, client.restart_replication(&tablet, true, call) => ());
    let request = data::StopReplicationMinimumRequest { position: POSITION.to_owned(), wait_timeout: 1_500_000_000 };
    let answer = data::StopReplicationMinimumResponse { position: POSITION.to_owned() };
    let wait = Duration::from_millis(1500);
    round!(fake, "StopReplicationMinimum", request, answer, client.stop_replication_minimum(&tablet, POSITION, wait, call) => POSITION);
    let parent = alias("zone2-200");
    let set = SetSource {
        parent: &parent,
        time_created_ns: 42,
        force_start: true,
        wait_position: POSITION,
        semi_sync: true,
        heartbeat_interval_s: 0.5,
    };
    let request = data::SetReplicationSourceRequest {
        parent: Some((&parent).into()),
        time_created_ns: 42,
        force_start_replication: true,
        wait_position: POSITION.to_owned(),
        semi_sync: true,
        heartbeat_interval: 0.5,
    };
    round!(fake, "SetReplicationSource", request, none, client.set_replication_source(&tablet, set, call) => ());
    let request = data::ResetReplicationParametersRequest {};
    round!(fake, "ResetReplicationParameters", request, none, client.reset_replication_parameters(&tablet, call) => ());
    let request = data::ReplicaWasRestartedRequest { parent: Some((&parent).into()) };
    round!(fake, "ReplicaWasRestarted", request, none, client.replica_was_restarted(&tablet, &parent, call) => ());
}

#[tokio::test]
async fn promoting_calls_speak_vitess() {
    let fake = FakeTablet::start().await;
    let (client, tablet, call) = (client(), fake.tablet(), within_ms(5000));
    let primary = replicationdata::PrimaryStatus { position: POSITION.to_owned(), ..Default::default() };
    let none = data::SetReadOnlyResponse {};

    let answer = data::DemotePrimaryResponse { primary_status: Some(primary.clone()) };
    round!(fake, "DemotePrimary", data::DemotePrimaryRequest { force: true }, answer, client.demote_primary(&tablet, true, call) => primary);
    let request = data::UndoDemotePrimaryRequest { semi_sync: true };
    round!(fake, "UndoDemotePrimary", request, none, client.undo_demote_primary(&tablet, true, call) => ());
    let answer = data::PromoteReplicaResponse { position: POSITION.to_owned() };
    let request = data::PromoteReplicaRequest { semi_sync: true };
    round!(fake, "PromoteReplica", request, answer, client.promote_replica(&tablet, true, call) => POSITION);
    let answer = data::InitPrimaryResponse { position: POSITION.to_owned() };
    let request = data::InitPrimaryRequest { semi_sync: true };
    round!(fake, "InitPrimary", request, answer, client.init_primary(&tablet, true, call) => POSITION);
    let request = data::PopulateReparentJournalRequest {
        time_created_ns: 42,
        action_name: "PlannedReparentShard".to_owned(),
        primary_alias: Some(topodata::TabletAlias { cell: "zone1".to_owned(), uid: 101 }),
        replication_position: POSITION.to_owned(),
    };
    let me = alias("zone1-101");
    let journal = client.populate_reparent_journal(&tablet, 42, "PlannedReparentShard", &me, POSITION, call);
    round!(fake, "PopulateReparentJournal", request, none, journal => ());
    round!(fake, "ReplicaWasPromoted", data::ReplicaWasPromotedRequest {}, none, client.replica_was_promoted(&tablet, call) => ());
    round!(fake, "SetReadOnly", data::SetReadOnlyRequest {}, none, client.set_read_only(&tablet, true, call) => ());
    round!(fake, "SetReadWrite", data::SetReadWriteRequest {}, none, client.set_read_only(&tablet, false, call) => ());
}

#[tokio::test]
async fn tablet_calls_speak_vitess() {
    let fake = FakeTablet::start().await;
    let (client, tablet, call) = (client(), fake.tablet(), within_ms(5000));
    let none = data::RefreshStateResponse {};
    let tags: BTreeMap<String, String> = [("pool".to_owned(), "a".to_owned())].into();

    let request = data::ChangeTypeRequest { tablet_type: 8, semi_sync: true };
    round!(fake, "ChangeType", request, none, client.change_type(&tablet, topodata::TabletType::Drained, true, call) => ());
    round!(fake, "RefreshState", data::RefreshStateRequest {}, none, client.refresh_state(&tablet, call) => ());
    round!(fake, "RunHealthCheck", data::RunHealthCheckRequest {}, none, client.run_health_check(&tablet, call) => ());
    let request = data::ChangeTagsRequest { tags: tags.clone(), replace: true };
    let answer = data::ChangeTagsResponse { tags: tags.clone() };
    round!(fake, "ChangeTags", request, answer, client.change_tags(&tablet, &tags, true, call) => tags);
    let result = query::QueryResult { rows_affected: 2, ..Default::default() };
    let request = data::ExecuteFetchAsDbaRequest { query: "SELECT 1".into(), max_rows: 10, ..Default::default() };
    let answer = data::ExecuteFetchAsDbaResponse { result: Some(result.clone()) };
    round!(fake, "ExecuteFetchAsDba", request, answer, client.execute_fetch_as_dba(&tablet, "SELECT 1", 10, call) => result);
}

#[tokio::test]
async fn a_call_carries_its_deadline_and_the_locks_revision() {
    let fake = FakeTablet::start().await;
    let call = Call { timeout: Duration::from_secs(15), lock_revision: Some(4711) };
    client().refresh_state(&fake.tablet(), call).await.unwrap();
    let headers = fake.received().pop().unwrap().headers;
    assert_eq!(headers["vtelector-lock-revision"], "4711");
    let timeout_ms: u32 = headers["grpc-timeout"].to_str().unwrap().strip_suffix('m').unwrap().parse().unwrap();
    // The tablet gives up 50 ms before us, and connecting has taken something.
    assert!((14_000..=14_950).contains(&timeout_ms), "{timeout_ms}");

    client().refresh_state(&fake.tablet(), within_ms(5000)).await.unwrap();
    assert!(!fake.received().pop().unwrap().headers.contains_key("vtelector-lock-revision"));
}

#[tokio::test]
async fn a_tablet_hears_who_calls_and_never_a_token() {
    let fake = FakeTablet::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    for (content, user) in
        [(r#"{"Username": "elector", "Password": "p1"}"#, Some(("elector", "p1"))), (r#"{"Token": "secret"}"#, None)]
    {
        std::fs::write(file.path(), content).unwrap();
        let settings = TabletSettings { user: Some(file.path().to_owned()), ..TabletSettings::default() };
        let client = GrpcTabletManager::new(settings).unwrap();
        client.refresh_state(&fake.tablet(), within_ms(5000)).await.unwrap();
        let headers = fake.received().pop().unwrap().headers;
        let text = |key: &str| headers.get(key).map(|value| value.to_str().unwrap());
        assert_eq!((text("username"), text("password")), user.unzip());
        assert_eq!(text("authorization"), None);
    }
    std::fs::write(file.path(), r#"{"Password": "p1"}"#).unwrap();
    let settings = TabletSettings { user: Some(file.path().to_owned()), ..TabletSettings::default() };
    let Err(error) = GrpcTabletManager::new(settings) else { panic!("a user without a name") };
    assert!(error.to_string().contains("Username") && !error.to_string().contains("p1"), "{error}");
}

#[tokio::test]
async fn a_tablets_error_keeps_its_code_and_words() {
    let fake = FakeTablet::start().await;
    let text =
        "TabletManager.ReplicationStatus on zone1-0000000101: no replication status (errno 100) (sqlstate HY000) 100% \u{e9}\n";
    fake.answer(Answer::Status(Status::unknown(text)));
    let error = client().replication_status(&fake.tablet(), within_ms(5000)).await.unwrap_err();
    assert_eq!((error.kind, error.code), (TabletErrorKind::NotReplica, Code::Unknown));
    assert_eq!(error.message, "no replication status (errno 100) (sqlstate HY000) 100% \u{e9}\n");
}

#[tokio::test]
async fn an_answer_of_five_megabytes_is_read_and_one_above_the_limit_is_not() {
    let fake = FakeTablet::start().await;
    let (client, tablet) = (client(), fake.tablet());
    let position = "x".repeat(5 << 20);
    fake.answer(Answer::Message(data::PrimaryPositionResponse { position: position.clone() }.encode_to_vec()));
    assert_eq!(client.primary_position(&tablet, within_ms(5000)).await.unwrap(), position);
    fake.answer(Answer::Message(data::PrimaryPositionResponse { position: "x".repeat(16 << 20) }.encode_to_vec()));
    let error = client.primary_position(&tablet, within_ms(5000)).await.unwrap_err();
    assert_eq!(error.kind, TabletErrorKind::UnknownOutcome, "{error}");

    let error = client.wait_for_position(&tablet, &"x".repeat(16 << 20), within_ms(5000)).await.unwrap_err();
    assert_eq!((error.kind, error.code), (TabletErrorKind::Unreachable, Code::ResourceExhausted), "{error}");
    assert_eq!(fake.received().len(), 2, "a request above the limit is not sent");
}

#[tokio::test]
async fn a_record_that_says_not_to_call_is_obeyed() {
    let now = crate::pb::vttime::Time { seconds: 1, nanoseconds: 0 };
    let blank = topodata::Tablet { hostname: String::new(), port_map: BTreeMap::new(), ..tablet_at(1) };
    let cases = [
        (Code::Unavailable, "tablet is shutdown", topodata::Tablet { tablet_shutdown_time: Some(now), ..tablet_at(1) }),
        (Code::Unavailable, "tablet is shutdown", blank),
        (Code::FailedPrecondition, "no hostname", topodata::Tablet { hostname: String::new(), ..tablet_at(1) }),
        (Code::FailedPrecondition, "no grpc port", topodata::Tablet { port_map: BTreeMap::new(), ..tablet_at(1) }),
        (Code::FailedPrecondition, "no grpc port", tablet_at(0)),
        (
            Code::FailedPrecondition,
            "no grpc port",
            topodata::Tablet { port_map: [("grpc".to_owned(), 70_000)].into(), ..tablet_at(1) },
        ),
    ];
    let client = client();
    for (code, words, tablet) in cases {
        let error = client.ping(&tablet, within_ms(5000)).await.unwrap_err();
        assert_eq!((error.kind, error.code), (TabletErrorKind::Unreachable, code), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    assert!(client.connected().is_empty(), "nothing was dialled");
}

#[tokio::test]
async fn a_tablet_that_is_no_witness_is_asked_once_a_connection() {
    let fake = FakeTablet::start().await;
    let (client, tablet, call) = (client(), fake.tablet(), within_ms(2000));
    let of = topodata::Tablet { mysql_hostname: "10.0.0.9".to_owned(), mysql_port: 3306, ..Default::default() };
    let wait = Duration::from_secs(1);
    fake.answer(Answer::Message(HearResponse { heard: Heard::Silent.into(), ..Default::default() }.encode_to_vec()));
    assert_eq!(client.hear(&tablet, &of, wait, call).await.unwrap(), Greeting::Silent);
    let asked = fake.received().pop().unwrap();
    assert_eq!(asked.path, "/vtelectoragent.Witness/Hear");
    let request = HearRequest { host: "10.0.0.9".to_owned(), port: 3306, wait_ms: 1000 };
    assert_eq!(asked.message, request.encode_to_vec());

    fake.answer(Answer::Status(Status::unimplemented("unknown service vtelectoragent.Witness")));
    for _ in 0..3 {
        let error = client.hear(&tablet, &of, wait, call).await.unwrap_err();
        assert_eq!(error.kind, TabletErrorKind::Unimplemented);
    }
    assert_eq!(fake.received().len(), 2, "a vttablet does not learn the call by being asked again");
}
