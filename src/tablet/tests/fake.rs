//! A gRPC server, mostly a tablet, that records what it is asked and answers what it is told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tonic::{Status, body::Body};

use crate::{
    pb::topodata,
    tablet::{Call, GrpcTabletManager, TabletSettings},
};

/// What the fake tablet does with a call.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A message and status OK.
    Message(Vec<u8>),
    /// An error.
    Status(Status),
    /// An HTTP response that knows nothing of gRPC.
    Http(u16),
    /// Nothing, ever.
    Silence,
}

/// One call as it arrived.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Answer>>,
    received: Mutex<Vec<Received>>,
    arrived: Notify,
    connections: AtomicUsize,
}

/// A running fake tablet; dropping it cuts its connections.
pub(crate) struct FakeTablet {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl FakeTablet {
    pub(crate) async fn start() -> Self {
        Self::start_on("127.0.0.1:0", None).await
    }

    pub(crate) async fn start_on(address: &str, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, tls, shared.clone()));
        Self { address, shared, tasks }
    }

    /// The next call gets this answer; without one it gets an empty message.
    pub(crate) fn answer(&self, answer: Answer) {
        self.shared.script.lock().unwrap().push_back(answer);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until so many calls have arrived.
    pub(crate) async fn has_received(&self, calls: usize) {
        while self.shared.received.lock().unwrap().len() < calls {
            tokio::time::timeout(Duration::from_secs(5), self.shared.arrived.notified()).await.unwrap();
        }
    }

    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    pub(crate) fn tablet(&self) -> topodata::Tablet {
        tablet_at(self.address.port())
    }
}

/// Its connections end with this task.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    // A client that leaves in mid-connection is what some tests are about.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let frame = body.collect().await.unwrap().to_bytes();
    let (path, message) = (head.uri.path().to_owned(), frame.slice(5..));
    shared.received.lock().unwrap().push(Received { path, headers: head.headers, message });
    let answer = shared.script.lock().unwrap().pop_front();
    shared.arrived.notify_one();
    Ok(match answer.unwrap_or(Answer::Message(Vec::new())) {
        Answer::Message(message) => with_message(&message),
        Answer::Status(status) => status.into_http(),
        Answer::Http(code) => Response::builder().status(code).body(Body::empty()).unwrap(),
        Answer::Silence => std::future::pending().await,
    })
}

fn with_message(message: &[u8]) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = http_body_util::Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

/// The record of a tablet whose grpc port is this one.
pub(crate) fn tablet_at(port: u16) -> topodata::Tablet {
    topodata::Tablet {
        alias: Some(topodata::TabletAlias { cell: "zone1".to_owned(), uid: 101 }),
        hostname: "127.0.0.1".to_owned(),
        port_map: [("grpc".to_owned(), i32::from(port))].into(),
        r#type: topodata::TabletType::Replica.into(),
        ..Default::default()
    }
}

/// A client that gives a connection 300 ms.
pub(crate) fn client() -> GrpcTabletManager {
    GrpcTabletManager::new(TabletSettings { connect_timeout: Duration::from_millis(300), ..TabletSettings::default() }).unwrap()
}

/// A call with this limit.
pub(crate) fn within_ms(limit_ms: u64) -> Call {
    Call::read(Duration::from_millis(limit_ms))
}
