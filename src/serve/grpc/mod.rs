//! `vtctlservice.Vtctld` as vtctld serves it: the calls that an operator of an elector needs. Beside it `vtelector.Elector`, our own.

mod board;
mod cells;
mod elector;
mod errant;
mod guard;
mod input;
mod keyspaces;
mod ledger;
mod observe;
mod path;
mod refusal;
mod reparent;
mod replication;
mod service;
mod shards;
mod tablets;
mod validate;
mod wish;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use prost_reflect::DescriptorPool;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, ServerTlsConfig, server::TcpIncoming};

use super::{Parts, Readiness, ServeError};
use crate::{
    config::Settings,
    ledger::Ledger,
    metrics::Metrics,
    pb::{self, vtctlservice::vtctld_server::VtctldServer, vtelector::elector_server::ElectorServer},
    peers::Observer,
    recover::{Elector, Live, board::Board},
    reparent::Hands,
    sense::Senses,
    tablet::{Call, TabletManager},
    topo::Topo,
};

/// Largest message either way; Vitess's default.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Pings of an idle connection and the wait for their answer; Vitess's defaults.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Streams that one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Records that one call reads, or tablets that it asks, at the same time.
const AT_ONCE_MAX: usize = 32;

/// Waits for all, a bounded number at the same time; the answers come in the order of the questions.
async fn at_once<F: Future>(questions: impl Iterator<Item = F>) -> Vec<F::Output> {
    stream::iter(questions).buffered(AT_ONCE_MAX).collect().await
}

/// How much is done at the same time. What is more is refused with RESOURCE_EXHAUSTED, not queued.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests of any kind.
    pub requests: usize,
    /// Reparents, each of another shard: those of the same shard wait for its lock.
    pub reparents: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 512, reparents: 64 }
    }
}

/// What every call works with.
pub struct Context {
    topo: Topo,
    tablets: Arc<dyn TabletManager>,
    hands: Hands,
    senses: Arc<Senses>,
    observer: Arc<Observer>,
    metrics: Arc<Metrics>,
    remote_operation_timeout: Duration,
    lock_timeout: Duration,
    wait_replicas_timeout: Duration,
    requests_max: usize,
    schema: DescriptorPool,
    reparents_max: usize,
    reparent_permits: Arc<Semaphore>,
    stopping: CancellationToken,
    board: Arc<Board>,
    ledger: Ledger,
    live: watch::Receiver<Arc<Live>>,
    ready: Readiness,
    settings_error: watch::Receiver<Option<String>>,
    watchers: Arc<Semaphore>,
}

impl Context {
    /// No reparent is begun after `stopping`.
    pub fn new(
        settings: &Settings,
        parts: Parts,
        elector: &Elector,
        ready: Readiness,
        settings_error: watch::Receiver<Option<String>>,
        limits: Limits,
        stopping: CancellationToken,
    ) -> Result<Arc<Self>, ServeError> {
        let schema = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|e| ServeError::Schema(e.to_string()))?;
        Ok(Arc::new(Self {
            schema,
            topo: parts.hands.topo.clone(),
            tablets: parts.hands.tablets.clone(),
            hands: parts.hands,
            senses: elector.senses.clone(),
            observer: parts.observer,
            metrics: parts.metrics,
            remote_operation_timeout: settings.remote_operation_timeout,
            lock_timeout: settings.lock_timeout,
            wait_replicas_timeout: settings.wait_replicas_timeout,
            requests_max: limits.requests,
            reparents_max: limits.reparents,
            reparent_permits: Arc::new(Semaphore::new(limits.reparents)),
            stopping,
            board: elector.board.clone(),
            ledger: elector.ledger.clone(),
            live: elector.live.clone(),
            ready,
            settings_error,
            watchers: Arc::new(Semaphore::new(board::WATCHERS_MAX)),
        }))
    }

    /// Why this process is not ready to decide anything by itself; `None` = it is.
    fn not_ready(&self) -> Option<String> {
        (self.ready)()
    }

    /// The limits of one call to a tablet.
    fn call(&self) -> Call {
        Call::read(self.remote_operation_timeout)
    }
}

/// Answers until `closing`, then lets open calls end.
pub fn serve(
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    context: Arc<Context>,
    closing: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, ServeError> {
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls.timeout(HANDSHAKE_TIMEOUT)).map_err(|e| ServeError::Tls(e.to_string()))?;
    }
    let v1 = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS).build_v1()?;
    let v1alpha =
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS).build_v1alpha()?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let vtctld = VtctldServer::new(service::Vtctld::new(context.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let elector = ElectorServer::new(elector::Elector::new(context.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = server
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .layer(guard::GuardLayer::new(context.metrics.clone(), &context.schema, context.requests_max))
        .add_service(vtctld)
        .add_service(elector)
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        health_reporter.set_serving::<VtctldServer<service::Vtctld>>().await;
        health_reporter.set_serving::<ElectorServer<elector::Elector>>().await;
        let stopping = context.stopping.clone();
        let announce = async {
            stopping.cancelled().await;
            health_reporter.set_not_serving::<VtctldServer<service::Vtctld>>().await;
            health_reporter.set_not_serving::<ElectorServer<elector::Elector>>().await;
            health_reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            std::future::pending::<()>().await
        };
        let served = tokio::select! {
            served = router.serve_with_incoming_shutdown(incoming, closing.cancelled_owned()) => served,
            () = announce => Ok(()),
        };
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    })
}
