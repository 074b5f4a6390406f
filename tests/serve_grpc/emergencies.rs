//! Emergency reparents as their caller sees them, in vtctld's words and in our own.

use tonic::{Code, Request, transport::Channel};
use vtelector::{
    pb::{
        topodata::TabletType,
        vtctldata::{EmergencyReparentShardRequest, PlannedReparentShardRequest},
        vtelector::{EmergencyReparentRequest, PlannedReparentRequest, elector_client::ElectorClient},
        vttime,
    },
    serve::Limits,
};

use crate::world::{World, alias, refused};

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
    page.lines().filter(|line| line.starts_with("vtelector_emergency_reparent_total")).map(str::to_owned).collect()
}

fn failures(number: usize) -> [String; 1] {
    [format!(r#"vtelector_emergency_reparent_total{{keyspace="commerce",result="failure",shard="0"}} {number}"#)]
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
async fn one_too_many_is_refused_dry_runs_too() {
    let mut world = World::with_limits(Limits { requests: 8, reparents: 0 }).await;
    let mut elector = elector(&world).await;
    refused(world.client.emergency_reparent_shard(emergency()).await, Code::ResourceExhausted, &["reparents"]);
    for dry_run in [false, true] {
        let request = EmergencyReparentRequest { dry_run, ..own(emergency()) };
        refused(elector.emergency_reparent(request).await, Code::ResourceExhausted, &["reparents"]);
    }
    let page = world.metrics().await;
    let line = r#"vtelector_grpc_requests_total{code="ResourceExhausted",method="EmergencyReparent"} 2"#;
    assert!(page.contains(line) && counted(&world).await.is_empty(), "{page}");
}
