//! gRPC: `vtctlservice.Vtctld` as vtctld serves it, and beside it `vtelector.Elector`, our own.

mod elector;
mod guard;
mod vtctld;

use std::{future::Future, sync::Arc, time::Duration};

use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{
    ServeError,
    calls::Context,
    door::Door,
    listen::{Gate, Stream},
};
use crate::pb::{self, vtctlservice::vtctld_server::VtctldServer, vtelector::elector_server::ElectorServer};

/// Pings of an idle connection and the wait for their answer; Vitess's defaults.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Streams that one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// Largest list of headers of a request.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Answers until `closing`, then lets open calls end. `message_bytes` is the largest message either way.
pub fn serve(
    gate: Gate,
    door: Arc<Door>,
    context: Arc<Context>,
    message_bytes: usize,
    closing: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, ServeError> {
    let v1 = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS).build_v1()?;
    let v1alpha =
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS).build_v1alpha()?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let vtctld = VtctldServer::new(vtctld::Vtctld::new(context.clone()))
        .max_decoding_message_size(message_bytes)
        .max_encoding_message_size(message_bytes);
    let elector = ElectorServer::new(elector::Elector::new(context.clone()))
        .max_decoding_message_size(message_bytes)
        .max_encoding_message_size(message_bytes);
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .http2_max_header_list_size(Some(HEADER_BYTES_MAX))
        .layer(guard::GuardLayer::new(context.metrics.clone(), door, &context.schema, context.requests_max))
        .add_service(vtctld)
        .add_service(elector)
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha);
    let (arrivals, taking) = gate.open(closing.clone());
    let incoming = ReceiverStream::new(arrivals).map(Ok::<Stream, std::convert::Infallible>);
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
            // Without more to take it is over when the last connection is.
            served = async {
                let (served, ()) = tokio::join!(router.serve_with_incoming_shutdown(incoming, closing.cancelled_owned()), taking);
                served
            } => served,
            () = announce => Ok(()),
        };
        if let Err(error) = served {
            tracing::error!(%error, "gRPC ended");
        }
    })
}
