//! What happens when something is wrong with etcd, the request, or the load.

use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use vtelector::{pb::vtctldata::*, serve::Limits};

use crate::world::{World, alias, refused};

/// Two endpoints' worth of one request's limit each, and some.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test]
async fn without_etcd_every_call_ends_soon_and_says_so() {
    let mut world = World::start().await;
    let looked = async { while world.http("/debug/health").await.0 != 200 {} };
    timeout(BOUND, looked).await.expect("it is well after its first look, as VTOrc");
    for frozen in [true, false] {
        if frozen {
            world.etcd.signal("STOP").await
        } else {
            world.etcd.kill().await
        }
        let started = Instant::now();
        refused(world.client.get_keyspaces(GetKeyspacesRequest {}).await, Code::Unavailable, &[&world.etcd.address.clone()]);
        let planned =
            PlannedReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
        refused(world.client.planned_reparent_shard(planned).await, Code::Unavailable, &[]);
        assert!(started.elapsed() < 2 * BOUND, "{:?}", started.elapsed());
        let (code, body) = timeout(BOUND, world.http("/debug/health")).await.unwrap();
        assert!(code == 500 && body.contains("\"Healthy\": false"), "{code} {body}");
        assert_eq!(world.http("/healthz").await.0, 200, "restarting us would not mend etcd");
        if frozen {
            world.etcd.signal("CONT").await;
        }
    }
    world.etcd.restart().await;
    let back = async { while world.client.get_keyspaces(GetKeyspacesRequest {}).await.is_err() {} };
    timeout(BOUND, back).await.expect("it finds etcd again by itself");
}

#[tokio::test]
async fn that_it_lives_is_told_while_everybody_else_waits() {
    let world = World::start().await;
    let looked = async { while world.http("/debug/health").await.0 != 200 {} };
    timeout(BOUND, looked).await.expect("it is well after its first look");
    world.etcd.signal("STOP").await;
    // More of them than are answered at the same time, and all of them wait for etcd.
    let mut waiting: FuturesUnordered<_> = (0..40).map(|_| world.http("/debug/health")).collect();
    let alive = async {
        for _ in 0..100 {
            assert_eq!(world.http("/livez").await.0, 200);
        }
    };
    tokio::select! {
        first = waiting.next() => panic!("{first:?} came before"),
        () = alive => {}
    }
    world.etcd.signal("CONT").await;
}

#[tokio::test]
async fn garbage_under_a_key_is_named() {
    let mut world = World::start().await;
    world.topo.global().put("/vitess/global/keyspaces/commerce/Keyspace", b"\xff\xff\xff\xff".to_vec()).await.unwrap();
    let get = GetKeyspaceRequest { keyspace: "commerce".to_owned() };
    refused(world.client.get_keyspace(get).await, Code::DataLoss, &["keyspaces/commerce/Keyspace", "4 bytes"]);
    refused(world.client.get_keyspaces(GetKeyspacesRequest {}).await, Code::DataLoss, &["keyspaces/commerce/Keyspace"]);
}

#[tokio::test]
async fn a_reparent_of_a_shard_that_does_not_exist_is_nowhere_counted_and_a_mistaken_one_is() {
    let mut world = World::start().await;
    let planned = |shard: &str| PlannedReparentShardRequest {
        keyspace: "commerce".to_owned(),
        shard: shard.to_owned(),
        ..Default::default()
    };
    refused(world.client.planned_reparent_shard(planned("9")).await, Code::NotFound, &["commerce/9"]);
    refused(world.client.planned_reparent_shard(planned("")).await, Code::InvalidArgument, &["shard is required"]);
    assert!(!world.metrics().await.contains("vtorc_planned_reparent_counts{"));

    let mut slash = alias("zone1-1");
    slash.cell = "a/b".to_owned();
    let mistaken = PlannedReparentShardRequest { new_primary: Some(slash), ..planned("0") };
    refused(world.client.planned_reparent_shard(mistaken).await, Code::InvalidArgument, &["new_primary", "a/b"]);
    let line = r#"vtorc_planned_reparent_counts{keyspace="commerce",result="failure",shard="0"} 1"#;
    assert!(world.metrics().await.contains(line));
}

#[tokio::test]
async fn a_method_that_is_not_served_says_what_to_use() {
    let mut world = World::start().await;
    refused(world.client.validate(ValidateRequest::default()).await, Code::Unimplemented, &["Validate ", "ValidateShard"]);
    let mut raw = tonic::client::Grpc::new(
        tonic::transport::Endpoint::new(format!("http://{}", world.server.grpc)).unwrap().connect_lazy(),
    );
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<ValidateRequest, ValidateResponse>::default();
    let path = "/vtctlservice.Vtctld/ApplySchema".parse().unwrap();
    let answer = raw.unary(tonic::Request::new(ValidateRequest::default()), path, codec).await;
    refused(answer, Code::Unimplemented, &["ApplySchema", "vtctld"]);
    assert!(world.metrics().await.contains(r#"vtelector_grpc_requests_total{code="Unimplemented",method="other"} 1"#));
}

#[tokio::test]
async fn a_request_that_is_too_large_or_one_too_many_is_refused() {
    let mut world = World::with_limits(Limits { requests: 1, reparents: 0, ..Limits::default() }).await;
    let huge = GetKeyspaceRequest { keyspace: "x".repeat(17 << 20) };
    let status = world.client.get_keyspace(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let planned = PlannedReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
    refused(world.client.planned_reparent_shard(planned).await, Code::ResourceExhausted, &["reparents"]);

    // A frozen etcd keeps the one request that is allowed busy.
    world.etcd.signal("STOP").await;
    let (mut first, mut second) = (world.client.clone(), world.client.clone());
    let (a, b) = tokio::join!(first.get_keyspaces(GetKeyspacesRequest {}), second.get_keyspaces(GetKeyspacesRequest {}));
    world.etcd.signal("CONT").await;
    let mut codes = [a.unwrap_err().code(), b.unwrap_err().code()];
    codes.sort_by_key(|code| *code as i32);
    assert_eq!(codes, [Code::ResourceExhausted, Code::Unavailable]);
}

#[tokio::test]
async fn a_callers_deadline_ends_its_call() {
    let mut world = World::start().await;
    world.etcd.signal("STOP").await;
    let mut request = tonic::Request::new(GetKeyspacesRequest {});
    request.set_timeout(Duration::from_millis(100));
    let started = Instant::now();
    world.client.get_keyspaces(request).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    world.etcd.signal("CONT").await;
}

#[tokio::test]
async fn health_and_reflection_tell_what_is_served() {
    let world = World::start().await;
    let channel = tonic::transport::Endpoint::new(format!("http://{}", world.server.grpc)).unwrap().connect_lazy();
    for service in ["", "vtctlservice.Vtctld", "vtelector.Elector"] {
        let check = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
        assert_eq!(answer.status, tonic_health::ServingStatus::Serving as i32, "{service}");
    }
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut answers =
        ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    for name in ["vtctlservice.Vtctld", "vtelector.Elector"] {
        assert!(services.service.iter().any(|service| service.name == name), "{services:?}");
    }
}
