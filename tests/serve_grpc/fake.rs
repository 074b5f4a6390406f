//! A tablet manager on loopback that answers what a story tells it, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, Request, Response},
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tower::Service;

type Answers = BTreeMap<&'static str, Result<Vec<u8>, Status>>;

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<Answers>>,
    calls: Arc<Mutex<Vec<(String, Bytes)>>>,
}

/// A running fake.
pub struct FakeTablet {
    pub port: i32,
    script: Script,
    leaving: CancellationToken,
    tasks: JoinSet<()>,
}

impl FakeTablet {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let script = Script::default();
        let leaving = CancellationToken::new();
        let server = Server::builder().add_service(script.clone());
        let server = server.serve_with_incoming_shutdown(TcpIncoming::from(listener), leaving.clone().cancelled_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        Self { port, script, leaving, tasks }
    }

    /// Closes its connections and its port.
    pub async fn leave(mut self) {
        self.leaving.cancel();
        self.tasks.join_next().await;
    }

    /// From now on this method answers this.
    pub fn answers(&self, method: &'static str, answer: impl Message) {
        self.script.answers.lock().unwrap().insert(method, Ok(answer.encode_to_vec()));
    }

    /// From now on this method fails.
    pub fn fails(&self, method: &'static str, status: Status) {
        self.script.answers.lock().unwrap().insert(method, Err(status));
    }

    /// The methods that were called, in order.
    pub fn called(&self) -> Vec<String> {
        self.script.calls.lock().unwrap().iter().map(|(method, _)| method.clone()).collect()
    }

    /// The last request to a method.
    pub fn last<M: Message + Default>(&self, method: &str) -> M {
        let calls = self.script.calls.lock().unwrap();
        let (_, request) = calls.iter().rev().find(|(called, _)| called == method).expect("it was called");
        M::decode(request.clone()).unwrap()
    }
}

impl NamedService for Script {
    const NAME: &'static str = "tabletmanagerservice.TabletManager";
}

impl Service<Request<Body>> for Script {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let script = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            // Five bytes stand before a message: whether it is compressed, and its length.
            script.calls.lock().unwrap().push((method.clone(), body.slice(5.min(body.len())..)));
            let answer = script.answers.lock().unwrap().get(method.as_str()).cloned();
            Ok(match answer {
                Some(Ok(message)) => ok(&message),
                Some(Err(status)) => status.into_http(),
                None => ok(&[]),
            })
        })
    }
}

fn ok(message: &[u8]) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let body = Full::new(frame.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
