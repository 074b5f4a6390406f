//! gRPC: `vtctlservice.Vtctld` as vtctld serves it, and beside it `vtelector.Elector`, our own.

mod elector;
mod guard;
mod vtctld;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, ServerTlsConfig, server::TcpIncoming};

use super::{ServeError, calls::Context};
use crate::pb::{self, vtctlservice::vtctld_server::VtctldServer, vtelector::elector_server::ElectorServer};

/// Largest message either way; Vitess's default.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Pings of an idle connection and the wait for their answer; Vitess's defaults.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Streams that one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    let vtctld = VtctldServer::new(vtctld::Vtctld::new(context.clone()))
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
        health_reporter.set_serving::<VtctldServer<vtctld::Vtctld>>().await;
        health_reporter.set_serving::<ElectorServer<elector::Elector>>().await;
        let stopping = context.stopping.clone();
        let announce = async {
            stopping.cancelled().await;
            health_reporter.set_not_serving::<VtctldServer<vtctld::Vtctld>>().await;
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
