//! A collector that takes what an elector's recoveries say, over OTLP as anybody would: real etcd, real mysqld, the program itself.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Request, Response, Status, body::Body, server::UnaryService};

use crate::{
    cluster::{Fault, KEYSPACE, SHARD, automatic, eventually, free_port, story::Story, write_gap},
    world::SOON,
};

/// The code of a status that is a failure.
const ERROR: i32 = 2;

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
    #[prost(fixed64, tag = "7")]
    start_ns: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Ended>,
}

#[derive(Clone, PartialEq, Message)]
struct Ended {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
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

/// Serves the collector at that port until it is dropped.
async fn serve(collector: &Collector, port: u16) -> JoinSet<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let taking = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let (server, mut serving) = (tonic::transport::Server::builder().add_service(collector.clone()), JoinSet::new());
    serving.spawn(async move { server.serve_with_incoming(taking).await.unwrap() });
    serving
}

/// A span with all that lies beneath it, each level in order of time: `name(child child)`.
fn tree(all: &[Span], of: &Span) -> String {
    let mut children: Vec<&Span> = all.iter().filter(|span| span.parent_span_id == of.span_id).collect();
    assert!(children.iter().all(|child| child.trace_id == of.trace_id), "{all:?}");
    children.sort_by_key(|child| child.start_ns);
    let names: Vec<String> = children.into_iter().map(|child| tree(all, child)).collect();
    if names.is_empty() { of.name.clone() } else { format!("{}({})", of.name, names.join(" ")) }
}

impl Collector {
    /// Waits until it has a span without parent of which this is so.
    async fn root(&self, what: &str, is_so: impl Fn(&Span) -> bool) -> (Span, String) {
        eventually(what, SOON, async || {
            let all = self.0.lock().unwrap().clone();
            let found = all.iter().find(|span| span.parent_span_id.is_empty() && is_so(span));
            found.map(|span| (span.clone(), tree(&all, span))).ok_or_else(|| format!("{all:?}"))
        })
        .await
        .unwrap()
    }
}

#[tokio::test]
async fn a_collector_gets_what_an_elector_does_step_by_step_and_one_that_is_away_changes_nothing() {
    let (collector, port) = (Collector::default(), free_port().unwrap());
    let mut shape = automatic();
    shape.elector_flags.push(format!("--otlp-endpoint=http://127.0.0.1:{port}"));
    let mut story = Story::begin(shape).await;
    let fault = Fault::MysqldKilled;
    let lose = async |story: &mut Story| {
        let change = story.see_primary_lost(fault).await;
        story.come_back(&change, fault).await;
        let gap = write_gap(&story.writers.acks(), &change).unwrap();
        assert!(gap < Duration::from_secs(5), "{gap:?}");
        change
    };
    lose(&mut story).await;
    assert!(collector.0.lock().unwrap().is_empty(), "nobody listens yet");
    let _serving = serve(&collector, port).await;

    let change = lose(&mut story).await;
    let from = change.from.to_string();
    // Of the one before, the last steps may still come: they were sent after somebody listened.
    let is_failover = |span: &Span| span.name == "emergency reparent" && span.attributes().get("tablet") == Some(&from.as_str());
    let (recovery, steps) = collector.root("the failover", is_failover).await;
    assert_eq!(steps, "emergency reparent(emergency(lock survey stop apply promote follow finish))");
    let facts = recovery.attributes();
    assert_eq!((facts["keyspace"], facts["shard"], facts["outcome"]), (KEYSPACE, SHARD, "done"), "{recovery:?}");
    assert!(recovery.status.as_ref().is_none_or(|status| status.code == 0), "{recovery:?}");

    let (from, to) = (story.primary.clone(), story.test.after(&story.primary));
    let change = story.test.move_to(&from, &to).await;
    (story.primary, _) = (to, story.moves.push(change));
    let of = |name: &'static str, outcome: &'static str| {
        move |span: &Span| span.name == name && span.attributes().get("outcome") == Some(&outcome)
    };
    let (_, steps) = collector.root("a person's reparent", of("planned", "done")).await;
    assert_eq!(steps, "planned(lock survey catch-up demote apply promote follow finish)");

    story.test.reparent(&"zone1-999".parse().unwrap()).await.unwrap_err();
    story.test.announce("zone1-0000000999");
    let failed = |span: &Span| span.name == "planned" && span.status.as_ref().is_some_and(|status| status.code == ERROR);
    let (refused, steps) = collector.root("a reparent that failed", failed).await;
    assert_eq!(steps, "planned(lock not finished)");
    assert!(refused.status.unwrap().message.contains("zone1-0000000999"));
    story.end().await;
}
