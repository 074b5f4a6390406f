//! A collector that takes what a recovery's spans say, over OTLP as anybody would.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tonic::{Request, Response, Status, body::Body, server::UnaryService};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;
use vtelector::{
    pb::topodata::TabletType,
    reparent::{Mode, Planned},
    sandbox::free_port,
    traces::{self, Traces},
};

use crate::served::{World, parts, settings, shard, tablet};

/// Of `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`, as far as this test looks.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes, tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes, tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes, tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Taken {}

impl Span {
    fn attributes(&self) -> BTreeMap<&str, &str> {
        let text = |attribute: &Attribute| attribute.value.as_ref().and_then(|value| value.text.as_ref()).is_some();
        let found = self.attributes.iter().filter(|attribute| text(attribute));
        found.map(|a| (a.key.as_str(), a.value.as_ref().unwrap().text.as_deref().unwrap())).collect()
    }
}

/// Takes every span.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl UnaryService<Export> for Collector {
    type Response = Taken;
    type Future = BoxFuture<'static, Result<Response<Taken>, Status>>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Box::pin(async { Ok(Response::new(Taken {})) })
    }
}

impl tonic::server::NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl tower::Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::<Taken, Export>::default());
            Ok(grpc.unary(own, request).await)
        })
    }
}

/// A recovery of a shard whose only tablet does not answer, traced to that collector; what it came to.
async fn recover(world: &World, endpoint: String) -> String {
    let traces = Traces::to(&endpoint).unwrap();
    let listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(traces.layer()));
    let settings = settings(&world.etcd, &[]);
    let hands = parts(&settings, world.topo.clone()).hands;
    let wish = Planned {
        new_primary: None,
        avoid_primary: None,
        expected_primary: None,
        wait_replicas_timeout: Duration::from_secs(1),
        tolerable_lag: None,
        allow_cross_cell: true,
        mode: Mode::Graceful,
    };
    let span = traces::recovery(&shard(), "ClusterHasNoPrimary", "elect the first primary", None);
    let outcome = hands.planned(&shard(), wish).instrument(span.clone()).await;
    let error = outcome.result.unwrap_err().to_string();
    traces::ended(&span, "failed", Some(&error));
    drop((span, listening));
    let began = Instant::now();
    traces.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    error
}

#[tokio::test]
async fn a_collector_gets_a_recovery_with_its_steps_and_one_that_is_away_changes_nothing() {
    let (collector, mut serving) = (Collector::default(), JoinSet::new());
    let world = World::start().await;
    // A port where nobody listens.
    world.record(tablet("zone1-101", TabletType::Replica, 1)).await;
    let nobody = free_port().unwrap();
    let without = recover(&world, format!("http://127.0.0.1:{nobody}")).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let taking = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(collector.clone());
    serving.spawn(async move { server.serve_with_incoming(taking).await.unwrap() });
    assert_eq!(recover(&world, endpoint).await, without);

    let all = collector.0.lock().unwrap().clone();
    let recovery = all.iter().find(|span| span.attributes().contains_key("code")).unwrap_or_else(|| panic!("{all:?}"));
    let facts = recovery.attributes();
    assert_eq!((facts["keyspace"], facts["shard"], facts["outcome"]), ("commerce", "0", "failed"), "{recovery:?}");
    assert!(recovery.parent_span_id.is_empty() && recovery.name == "elect the first primary", "{recovery:?}");
    let children = |of: &Span| -> Vec<Span> { all.iter().filter(|span| span.parent_span_id == of.span_id).cloned().collect() };
    let operations = children(recovery);
    assert_eq!(operations.len(), 1, "{all:?}");
    assert_eq!((operations[0].name.as_str(), operations[0].attributes()["shard"]), ("planned", "0"));
    let steps: Vec<String> = children(&operations[0]).into_iter().map(|step| step.name).collect();
    assert_eq!(steps, ["lock", "not finished"]);
    assert!(all.iter().all(|span| span.trace_id == recovery.trace_id));
}
