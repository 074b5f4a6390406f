//! Emergency reparents as their caller sees them, in vtctld's words and in our own.

use tonic::{Code, Request, transport::Channel};
use vtelector::{
    pb::{
        query::{QueryResult, Row},
        replicationdata::{FullStatus, Status, StopReplicationStatus},
        tabletmanagerdata as tablet_side,
        topodata::TabletType,
        vtctldata::{EmergencyReparentShardRequest, PlannedReparentShardRequest},
        vtelector::{EmergencyReparentRequest, PlannedReparentRequest, elector_client::ElectorClient},
        vttime,
    },
    serve::Limits,
    topo::Kv,
};

use crate::{
    fake::FakeTablet,
    world::{LOCK_TIMEOUT, World, alias, refused, shard},
};

const UUID: &str = "aaaaaaaa-0000-4000-8000-00000000000a";

fn emergency() -> EmergencyReparentShardRequest {
    EmergencyReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() }
}

/// Our own form of the same request.
fn own(request: EmergencyReparentShardRequest) -> EmergencyReparentRequest {
    EmergencyReparentRequest { request: Some(request), ..Default::default() }
}

async fn elector(world: &World) -> ElectorClient<Channel> {
    ElectorClient::connect(format!("http://{}", world.server.grpc)).await.unwrap()
}

async fn counted(world: &World) -> Vec<String> {
    let page = world.metrics().await;
    page.lines().filter(|line| line.starts_with("vtorc_emergency_reparent_counts")).map(str::to_owned).collect()
}

fn failures(number: usize) -> [String; 1] {
    [format!(r#"vtorc_emergency_reparent_counts{{keyspace="commerce",result="failure",shard="0"}} {number}"#)]
}

/// What was asked of a tablet that could have changed it.
fn changes(fake: &FakeTablet) -> Vec<String> {
    let reads = ["FullStatus", "ReplicationStatus", "PrimaryPosition", "ReadReparentJournalInfo", "GetGlobalStatusVars"];
    fake.called().into_iter().filter(|method| !reads.contains(&method.as_str())).collect()
}

fn full_status(name: &str, replication: Status) -> FullStatus {
    FullStatus {
        server_uuid: format!("{}-0000-4000-8000-00000000000b", &name[6..].repeat(8)[..8]),
        replication_status: Some(replication),
        version: "9.7.4".to_owned(),
        gtid_mode: "ON".to_owned(),
        log_bin_enabled: true,
        read_only: true,
        super_read_only: true,
        ..Default::default()
    }
}

/// A replica that has applied this many of the dead primary's transactions, and obeys.
async fn replica(world: &World, name: &str, transactions: u32) -> FakeTablet {
    let fake = world.tablet(name, TabletType::Replica).await;
    let position = format!("MySQL56/{UUID}:1-{transactions}");
    let running = Status {
        position: position.clone(),
        relay_log_position: position.clone(),
        source_uuid: UUID.to_owned(),
        io_state: 3,
        sql_state: 3,
        ..Default::default()
    };
    let full = full_status(name, running.clone());
    let stopped = Status { io_state: 1, ..running.clone() };
    let both = StopReplicationStatus { before: Some(running.clone()), after: Some(stopped) };
    // The semi-sync settings as they must be; nobody asks for anything else that a test here depends on.
    let settings = ["1000000000000000000", "1", "AFTER_SYNC", "1"];
    let row = Row { lengths: settings.map(|value| value.len() as i64).to_vec(), values: settings.concat().into_bytes() };
    let result = QueryResult { rows: vec![row], ..Default::default() };
    fake.answers("FullStatus", tablet_side::FullStatusResponse { status: Some(full) });
    fake.answers("ReplicationStatus", tablet_side::ReplicationStatusResponse { status: Some(running) });
    fake.answers("ReadReparentJournalInfo", tablet_side::ReadReparentJournalInfoResponse { length: 1 });
    fake.answers("StopReplicationAndGetStatus", tablet_side::StopReplicationAndGetStatusResponse { status: Some(both) });
    fake.answers("ExecuteFetchAsDba", tablet_side::ExecuteFetchAsDbaResponse { result: Some(result) });
    fake.answers("PromoteReplica", tablet_side::PromoteReplicaResponse { position });
    fake
}

/// A shard whose primary is dead, with a replica that has everything and one that is behind.
async fn headless() -> (World, FakeTablet, FakeTablet) {
    let world = World::start().await;
    world.tablet("zone1-100", TabletType::Primary).await.leave().await;
    let ahead = replica(&world, "zone1-101", 9).await;
    let behind = replica(&world, "zone1-102", 8).await;
    (world, ahead, behind)
}

#[tokio::test]
async fn a_dry_run_says_what_the_call_then_does_and_touches_nothing() {
    let (mut world, ahead, behind) = headless().await;
    let mut elector = elector(&world).await;
    let before = world.etcd.kv().list("/").await.unwrap().revision;
    let trial = EmergencyReparentRequest { dry_run: true, ..own(emergency()) };
    let told = elector.emergency_reparent(trial).await.unwrap().into_inner();
    assert!(changes(&ahead).is_empty() && changes(&behind).is_empty(), "{:?} {:?}", ahead.called(), behind.called());
    assert_eq!(world.etcd.kv().list("/").await.unwrap().revision, before, "nothing was written, no lock was taken");
    assert!(counted(&world).await.is_empty());
    assert!(told.was_dry_run && told.refusal.is_none() && told.promoted_primary.is_none());
    assert_eq!(told.would_promote, Some(alias("zone1-101")));
    let decision = told.decision.unwrap();
    assert_eq!((decision.operation.as_str(), decision.policy.as_str()), ("EmergencyReparentShard", "semi_sync"));
    assert_eq!((decision.old_primary, decision.elect), (Some(alias("zone1-100")), Some(alias("zone1-101"))));
    let proofs: Vec<_> = decision.proofs.iter().map(|proof| (proof.name.as_str(), proof.holds)).collect();
    assert_eq!(proofs, [("revoked", true), ("complete", true), ("established", true)]);
    assert!(decision.proofs.iter().all(|proof| !proof.because.is_empty()) && !decision.steps.is_empty());
    let rejected: Vec<_> = decision.tablets.iter().map(|tablet| (tablet.alias.clone().unwrap().uid, &tablet.rejected)).collect();
    let [(100, Some(dead)), (101, None), (102, Some(late))] = rejected[..] else { panic!("{rejected:?}") };
    assert!(dead.contains("not reached") && late.contains("less advanced"), "{dead} {late}");

    let done = world.client.emergency_reparent_shard(emergency()).await.unwrap().into_inner();
    assert_eq!((done.keyspace.as_str(), done.shard.as_str()), ("commerce", "0"));
    assert_eq!(done.promoted_primary, Some(alias("zone1-101")));
    assert!(!done.events.is_empty() && done.events.iter().all(|event| event.time.is_some()));
    assert!(ahead.last::<tablet_side::PromoteReplicaRequest>("PromoteReplica").semi_sync);
    let follows = behind.last::<tablet_side::SetReplicationSourceRequest>("SetReplicationSource");
    assert_eq!((follows.parent, follows.semi_sync), (Some(alias("zone1-101")), true));
    assert_eq!(counted(&world).await, [r#"vtorc_emergency_reparent_counts{keyspace="commerce",result="success",shard="0"} 1"#]);
    let page = world.metrics().await;
    for line in [
        r#"vtelector_reparent_duration_seconds_count{operation="emergency",result="success"} 1"#,
        r#"vtelector_reparent_step_seconds_count{operation="emergency",step="promote"} 1"#,
        r#"vtelector_reparents_running 0"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn our_own_call_answers_with_the_decision() {
    let (world, ahead, _behind) = headless().await;
    let done = elector(&world).await.emergency_reparent(own(emergency())).await.unwrap().into_inner();
    assert_eq!(done.promoted_primary, Some(alias("zone1-101")));
    assert!(!done.was_dry_run && done.refusal.is_none() && done.would_promote.is_none());
    let decision = done.decision.unwrap();
    assert_eq!(decision.elect, Some(alias("zone1-101")));
    assert!(decision.proofs.iter().any(|proof| proof.name == "locked" && proof.holds), "{decision:?}");
    assert!(ahead.called().iter().any(|method| method == "PopulateReparentJournal"));
}

#[tokio::test]
async fn what_cannot_be_proven_is_refused_before_anything_is_changed() {
    let (mut world, ahead, behind) = headless().await;
    let mut elector = elector(&world).await;
    behind.leave().await;
    let trial = EmergencyReparentRequest { dry_run: true, ..own(emergency()) };
    let told = elector.emergency_reparent(trial).await.unwrap().into_inner();
    let refusal = told.refusal.unwrap();
    assert_eq!((refusal.code, told.would_promote), (Code::FailedPrecondition as i32, None));
    assert_eq!(told.decision.unwrap().refusal, refusal.message);
    let words = ["zone1-0000000100", "zone1-0000000102"];
    for word in words {
        assert!(refusal.message.contains(word), "{word} is not in {}", refusal.message);
    }
    refused(world.client.emergency_reparent_shard(emergency()).await, Code::FailedPrecondition, &words);
    refused(elector.emergency_reparent(own(emergency())).await, Code::FailedPrecondition, &words);
    assert!(changes(&ahead).is_empty(), "{:?}", ahead.called());
    assert_eq!(counted(&world).await, failures(2));
    let reason = r#"vtelector_reparent_failures_total{operation="emergency",reason="not_revoked"} 2"#;
    assert!(world.metrics().await.contains(reason), "{}", world.metrics().await);
}

#[tokio::test]
async fn a_loss_is_accepted_only_by_naming_exactly_what_the_refusal_named() {
    let (mut world, ahead, behind) = headless().await;
    let mut elector = elector(&world).await;
    // The one that has everything has no binary log: nobody can copy from it, and it cannot lead. Nor can it follow one that lacks what
    // it has, so somebody else must acknowledge.
    let _acker = replica(&world, "zone1-103", 8).await;
    let position = format!("MySQL56/{UUID}:1-9");
    let running = Status {
        position: position.clone(),
        relay_log_position: position,
        source_uuid: UUID.to_owned(),
        io_state: 3,
        sql_state: 3,
        ..Default::default()
    };
    let full = FullStatus { log_bin_enabled: false, ..full_status("zone1-101", running) };
    ahead.answers("FullStatus", tablet_side::FullStatusResponse { status: Some(full) });
    let lost = format!("{UUID}:9");
    refused(
        world.client.emergency_reparent_shard(emergency()).await,
        Code::FailedPrecondition,
        &[&lost, "zone1-0000000101", "binary log"],
    );
    let trial = EmergencyReparentRequest { dry_run: true, ..own(emergency()) };
    let decision = elector.emergency_reparent(trial.clone()).await.unwrap().into_inner().decision.unwrap();
    let [complete] = &decision.proofs[..] else { panic!("{decision:?}") };
    assert!(complete.name == "complete" && !complete.holds && complete.because.contains(&lost), "{complete:?}");

    let with = |lost: &str| {
        let mut request = Request::new(emergency());
        request.metadata_mut().insert("vtelector-accept-loss", lost.parse().unwrap());
        request
    };
    refused(
        world.client.emergency_reparent_shard(with(&format!("{UUID}:8-9"))).await,
        Code::FailedPrecondition,
        &[&lost, "exactly"],
    );
    assert!(changes(&ahead).is_empty() && changes(&behind).is_empty());
    let told =
        elector.emergency_reparent(EmergencyReparentRequest { accept_loss: lost.clone(), ..trial }).await.unwrap().into_inner();
    assert_eq!(told.would_promote, Some(alias("zone1-102")), "{:?}", told.refusal);
    assert!(told.decision.unwrap().caveats.iter().any(|caveat| *caveat == format!("{lost} is lost, as was accepted")));
    let done = world.client.emergency_reparent_shard(with(&lost)).await.unwrap().into_inner();
    assert_eq!(done.promoted_primary, Some(alias("zone1-102")));
    let warned =
        done.events.iter().any(|event| event.level() == vtelector::pb::logutil::Level::Warning && event.value.contains(&lost));
    assert!(warned, "{:?}", done.events);
}

#[tokio::test]
async fn a_tablet_of_nobody_or_another_primary_than_expected_is_refused_before_anybody_is_asked() {
    let (mut world, ahead, behind) = headless().await;
    let mut elector = elector(&world).await;
    let requests = [
        (
            EmergencyReparentShardRequest { new_primary: Some(alias("zone1-999")), ..emergency() },
            Code::NotFound,
            "zone1-0000000999",
        ),
        (
            EmergencyReparentShardRequest { ignore_replicas: vec![alias("zone9-1")], ..emergency() },
            Code::NotFound,
            "zone9-0000000001",
        ),
        (
            EmergencyReparentShardRequest { expected_primary: Some(alias("zone1-101")), ..emergency() },
            Code::FailedPrecondition,
            "zone1-0000000100",
        ),
    ];
    for (i, (request, code, word)) in requests.into_iter().enumerate() {
        refused(world.client.emergency_reparent_shard(request.clone()).await, code, &[word]);
        let trial = EmergencyReparentRequest { dry_run: true, ..own(request) };
        let refusal = elector.emergency_reparent(trial).await.unwrap().into_inner().refusal.unwrap();
        assert!(refusal.code == code as i32 && refusal.message.contains(word), "{refusal:?}");
        assert_eq!(counted(&world).await, failures(i + 1));
    }
    assert!(ahead.called().is_empty() && behind.called().is_empty());
}

#[tokio::test]
async fn a_planned_reparent_has_its_dry_run_too() {
    let world = World::start().await;
    let mut elector = elector(&world).await;
    let primary = world.tablet("zone1-100", TabletType::Primary).await;
    let not_a_replica = tonic::Status::unknown("no replication status (errno 100) (sqlstate HY000)");
    primary.fails("ReplicationStatus", not_a_replica);
    let candidate = replica(&world, "zone1-101", 9).await;
    let request = PlannedReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
    let trial = |request| PlannedReparentRequest { request: Some(request), dry_run: true, ..Default::default() };
    let told = elector.planned_reparent(trial(request.clone())).await.unwrap().into_inner();
    assert_eq!((told.would_promote, told.refusal), (Some(alias("zone1-101")), None));
    let decision = told.decision.unwrap();
    assert_eq!(decision.operation, "PlannedReparentShard");
    assert!(decision.steps.iter().any(|step| step.contains("demote zone1-0000000100")), "{decision:?}");

    let nothing = PlannedReparentShardRequest { avoid_primary: Some(alias("zone1-101")), ..request.clone() };
    let told = elector.planned_reparent(trial(nothing)).await.unwrap().into_inner();
    assert_eq!((told.would_promote, told.refusal, told.was_dry_run), (None, None, true));

    candidate.fails("GetGlobalStatusVars", tonic::Status::unavailable("it is restarting"));
    let told = elector.planned_reparent(trial(request)).await.unwrap().into_inner();
    let refusal = told.refusal.unwrap();
    assert!(refusal.code == Code::Unavailable as i32 && refusal.message.contains("zone1-0000000101"), "{refusal:?}");
    assert!(changes(&primary).is_empty() && changes(&candidate).is_empty(), "{:?}", candidate.called());
    assert!(!world.metrics().await.contains("vtorc_planned_reparent_counts{"));
}

#[tokio::test]
async fn what_the_caller_got_wrong_is_named_counted_once_and_changes_nothing() {
    let mut world = World::start().await;
    let mut elector = elector(&world).await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    let mut slash = alias("zone1-1");
    slash.cell = "../x".to_owned();
    let twice = vec![alias("zone1-101"), alias("zone1-102"), alias("zone1-101")];
    let mistakes = [
        (EmergencyReparentShardRequest { new_primary: Some(slash.clone()), ..emergency() }, vec!["new_primary", "../x"]),
        (
            EmergencyReparentShardRequest { expected_primary: Some(slash.clone()), ..emergency() },
            vec!["expected_primary", "../x"],
        ),
        (EmergencyReparentShardRequest { ignore_replicas: vec![slash], ..emergency() }, vec!["ignore_replicas[0]", "../x"]),
        (
            EmergencyReparentShardRequest { ignore_replicas: vec![Default::default()], ..emergency() },
            vec!["ignore_replicas[0] is required"],
        ),
        (EmergencyReparentShardRequest { ignore_replicas: twice, ..emergency() }, vec!["zone1-0000000101 is there twice"]),
        (
            EmergencyReparentShardRequest {
                new_primary: Some(alias("zone1-101")),
                ignore_replicas: vec![alias("zone1-101")],
                ..emergency()
            },
            vec!["zone1-0000000101", "new_primary", "ignore_replicas"],
        ),
        (
            EmergencyReparentShardRequest {
                wait_replicas_timeout: Some(vttime::Duration { seconds: -1, nanos: 0 }),
                ..emergency()
            },
            vec!["wait_replicas_timeout"],
        ),
    ];
    let mut wrong = 0;
    for (request, words) in mistakes {
        refused(world.client.emergency_reparent_shard(request.clone()).await, Code::InvalidArgument, &words);
        refused(elector.emergency_reparent(own(request.clone())).await, Code::InvalidArgument, &words);
        wrong += 2;
        assert_eq!(counted(&world).await, failures(wrong));
        // A dry run is no reparent: it is told the same and counted nowhere.
        let trial = EmergencyReparentRequest { dry_run: true, ..own(request) };
        refused(elector.emergency_reparent(trial).await, Code::InvalidArgument, &words);
        assert_eq!(counted(&world).await, failures(wrong));
    }
    let reason = format!(r#"vtelector_reparent_failures_total{{operation="emergency",reason="invalid_request"}} {wrong}"#);
    assert!(world.metrics().await.contains(&reason));
    assert!(replica.called().is_empty(), "{:?}", replica.called());
}

#[tokio::test]
async fn a_shard_that_is_not_named_or_does_not_exist_is_nowhere_counted() {
    let mut world = World::start().await;
    let mut elector = elector(&world).await;
    for (keyspace, shard, code, word) in [
        ("", "0", Code::InvalidArgument, "keyspace is required"),
        ("commerce", "", Code::InvalidArgument, "shard is required"),
        ("com/merce", "0", Code::InvalidArgument, "com/merce"),
        ("commerce", "a/b", Code::InvalidArgument, "a/b"),
        ("commerce", "9", Code::NotFound, "commerce/9"),
        ("nobody", "0", Code::NotFound, "nobody/0"),
    ] {
        let request =
            EmergencyReparentShardRequest { keyspace: keyspace.to_owned(), shard: shard.to_owned(), ..Default::default() };
        refused(world.client.emergency_reparent_shard(request.clone()).await, code, &[word]);
        for dry_run in [false, true] {
            let request = EmergencyReparentRequest { dry_run, ..own(request.clone()) };
            refused(elector.emergency_reparent(request).await, code, &[word]);
        }
    }
    refused(
        elector.emergency_reparent(EmergencyReparentRequest::default()).await,
        Code::InvalidArgument,
        &["keyspace is required"],
    );
    refused(elector.planned_reparent(PlannedReparentRequest::default()).await, Code::InvalidArgument, &["keyspace is required"]);
    assert!(counted(&world).await.is_empty());
}

#[tokio::test]
async fn what_only_a_person_can_allow_is_read_exactly_or_refused() {
    let mut world = World::start().await;
    let mut elector = elector(&world).await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    for (key, value, word) in [
        ("vtelector-accept-loss", "all", "vtelector-accept-loss"),
        ("vtelector-accept-loss", "", "names no transaction"),
        ("vtelector-accept-loss", "MariaDB/0-1-2", "not a MySQL GTID set"),
        ("vtelector-choose-side", "maybe", "vtelector-choose-side"),
        ("vtelector-choose-side", "true", "new_primary"),
        ("vtelector-allow-not-established", "1", "vtelector-allow-not-established"),
        ("vtelector-accept-losses", UUID, "vtelector-accept-losses is not known"),
        ("vtelector-mode", "abrupt", "vtelector-mode is not known"),
    ] {
        let mut request = Request::new(emergency());
        request.metadata_mut().insert(key, value.parse().unwrap());
        refused(world.client.emergency_reparent_shard(request).await, Code::InvalidArgument, &[word]);
    }
    for (accept_loss, choose_side, word) in
        [("all", false, "accept_loss"), (" ", false, "names no transaction"), ("", true, "new_primary")]
    {
        let request = EmergencyReparentRequest { accept_loss: accept_loss.to_owned(), choose_side, ..own(emergency()) };
        refused(elector.emergency_reparent(request).await, Code::InvalidArgument, &[word]);
    }
    let planned = PlannedReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
    let request = PlannedReparentRequest { request: Some(planned), mode: 7, dry_run: false };
    refused(elector.planned_reparent(request).await, Code::InvalidArgument, &["mode: 7"]);
    assert!(replica.called().is_empty(), "{:?}", replica.called());
}

#[tokio::test]
async fn a_shard_that_is_locked_is_waited_for_but_not_by_a_dry_run() {
    let (mut world, ahead, behind) = headless().await;
    let other = world.etcd.topo().await;
    let lock = other.lock_shard(&shard(), "another elector is at work", LOCK_TIMEOUT).await.unwrap();
    refused(
        world.client.emergency_reparent_shard(emergency()).await,
        Code::Unavailable,
        &["commerce/0", "another elector is at work"],
    );
    assert!(ahead.called().is_empty() && behind.called().is_empty());
    let reason = r#"vtelector_reparent_failures_total{operation="emergency",reason="lock_timeout"} 1"#;
    assert!(world.metrics().await.contains(reason) && counted(&world).await == failures(1));
    let trial = EmergencyReparentRequest { dry_run: true, ..own(emergency()) };
    let told = elector(&world).await.emergency_reparent(trial).await.unwrap().into_inner();
    assert_eq!(told.would_promote, Some(alias("zone1-101")));
    lock.unlock().await.unwrap();
}

#[tokio::test]
async fn one_too_many_is_refused_and_dry_runs_take_no_place_of_a_reparent() {
    for (reparents, previews, words) in [(0, 1, "reparents are running"), (1, 0, "dry runs")] {
        let mut world = World::with_limits(Limits { requests: 8, reparents, previews, ..Limits::default() }).await;
        let mut elector = elector(&world).await;
        for (dry_run, has_room) in [(false, reparents > 0), (true, previews > 0)] {
            let answer = elector.emergency_reparent(EmergencyReparentRequest { dry_run, ..own(emergency()) }).await;
            match has_room {
                true => assert_ne!(answer.err().map(|status| status.code()), Some(Code::ResourceExhausted)),
                false => refused(answer, Code::ResourceExhausted, &[words]),
            }
        }
        if reparents == 0 {
            refused(world.client.emergency_reparent_shard(emergency()).await, Code::ResourceExhausted, &[words]);
            let page = world.metrics().await;
            let line = r#"vtelector_grpc_requests_total{code="ResourceExhausted",method="EmergencyReparent"} 1"#;
            assert!(page.contains(line) && counted(&world).await.is_empty(), "{page}");
        }
    }
}
