//! The way to the collector.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::TARGET;

/// Spans that may wait for the collector: of more, the new ones are dropped. A failover has some ten.
const SPANS_MAX: usize = 8192;
const BATCH_MAX: usize = 512;
/// How often what waits is sent.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// The collector has so long to take it.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// At the end, the last spans have so long.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where traces go.
#[derive(Debug, Default)]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
}

/// What keeps traces from being sent.
#[derive(Debug, thiserror::Error)]
#[error("traces: {0}")]
pub struct Failed(#[from] ExporterBuildError);

impl Traces {
    /// Sends to that collector. Called within a tokio runtime, which carries the connection.
    pub fn to(endpoint: &str) -> Result<Self, Failed> {
        let exporter = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(TAKEN_WITHIN).build()?;
        let limits = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let sender =
            BatchSpanProcessor::builder(Heard { exporter, is_away: AtomicBool::new(false) }).with_batch_config(limits).build();
        let resource = Resource::builder()
            .with_service_name("vtelector")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { provider: Some(SdkTracerProvider::builder().with_span_processor(sender).with_resource(resource).build()) })
    }

    /// What listens to the spans.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let tracer = self.provider.as_ref()?.tracer("vtelector");
        let layer = tracing_opentelemetry::layer().with_location(false).with_threads(false).with_target(false).with_level(false);
        Some(layer.with_tracer(tracer).with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE)))
    }

    /// Sends what is left.
    pub async fn stop(self) {
        let Some(provider) = self.provider else { return };
        // It waits for its thread; that must not be one of ours.
        let last = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FAREWELL));
        if !matches!(tokio::time::timeout(FAREWELL * 2, last).await, Ok(Ok(Ok(())))) {
            tracing::info!("the last traces were not sent");
        }
    }
}

/// Says once when the collector goes away, and once when it is back.
#[derive(Debug)]
struct Heard {
    exporter: OtlpExporter,
    is_away: AtomicBool,
}

impl SpanExporter for Heard {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        match (&sent, self.is_away.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::info!(%error, "the collector takes no traces: they are dropped until it does"),
            (Ok(()), true) => tracing::info!("the collector takes traces again"),
            (Err(_), true) | (Ok(()), false) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
