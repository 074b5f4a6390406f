//! `vtelector serve`: builds the parts, starts the faces, stops them when told.

use std::{process::ExitCode, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{ConfigError, GoDuration, Settings},
    log_lines::Farewell,
    metrics::Metrics,
    mysql::{fence::DirectFence, tls::MysqlTls},
    reparent::{DieAt, ReparentSettings},
    serve::{Limits, MeasuredStores, MeasuredTablets, Parts, Server},
    tablet::GrpcTabletManager,
    topo::Topo,
    traces::Traces,
};

/// Runs until SIGTERM or SIGINT. A second signal ends at once. `start_log` starts the log, with what listens to traces.
pub fn run(
    settings: &Settings,
    ignored: &[String],
    start_log: impl FnOnce(&Traces) -> Result<Farewell, ConfigError>,
) -> Result<ExitCode, ConfigError> {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _log = start_log(&Traces::default())?;
            return Ok(failed(&format!("the runtime cannot start: {error}")));
        }
    };
    let traces = runtime.block_on(async { traces(settings) })?;
    let _log = start_log(&traces)?;
    if !ignored.is_empty() {
        tracing::info!(flags = ignored.join(" "), "flags of VTOrc or vtctld that have no meaning here are not used");
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let code = runtime.block_on(async {
        let code = serve(settings).await.unwrap_or_else(|error| failed(&error.to_string()));
        traces.stop().await;
        code
    });
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    Ok(code)
}

/// Where traces go, where somebody collects them.
#[cfg(feature = "otlp")]
fn traces(settings: &Settings) -> Result<Traces, ConfigError> {
    let Some(endpoint) = &settings.events.otlp_endpoint else { return Ok(Traces::default()) };
    Traces::to(endpoint).map_err(|error| ConfigError::new("otlp-endpoint", endpoint, error.to_string(), "write http://HOST:4317"))
}

/// This binary was built without.
#[cfg(not(feature = "otlp"))]
fn traces(_: &Settings) -> Result<Traces, ConfigError> {
    Ok(Traces::default())
}

fn failed(error: &str) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

async fn serve(settings: &Settings) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let started = async {
        Ok::<_, Box<dyn std::error::Error>>(
            Server::start(settings, parts(settings).await?, Limits::from(&settings.limits)).await?,
        )
    };
    let mut server = tokio::select! {
        server = started => server?,
        () = asked_to_stop(&mut terminate, &mut interrupt) => return Ok(ExitCode::SUCCESS),
    };
    tracing::info!(
        grpc = %server.grpc, http = %server.http, cell = settings.cell, topology = settings.topo.global_server_address,
        root = settings.topo.global_root, version = env!("CARGO_PKG_VERSION"), "serving"
    );
    tokio::select! {
        () = asked_to_stop(&mut terminate, &mut interrupt) => {}
        () = server.ended() => return Ok(failed("a listener ended by itself")),
    }
    let wait = settings.shutdown_wait;
    tracing::info!(wait = %GoDuration(wait), "stopping: no new reparent begins, running ones may end; a second signal ends at once");
    tokio::select! {
        ended = server.stop(wait) => match ended {
            true => Ok(ExitCode::SUCCESS),
            false => Ok(failed("a reparent was still running: the next planned reparent of its shard finishes it, once the lease has expired")),
        },
        () = asked_to_stop(&mut terminate, &mut interrupt) => Ok(failed("a second signal: ended at once")),
    }
}

async fn asked_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn parts(settings: &Settings) -> Result<Parts, Box<dyn std::error::Error>> {
    let metrics = Arc::new(Metrics::new()?);
    let topo = Topo::with_stores(Box::new(MeasuredStores::new(settings.topo.clone(), metrics.clone())), &settings.topo)?;
    // Better to end now, for a supervisor to see, than to serve without a topology.
    topo.cells().await?;
    let tablets = GrpcTabletManager::new(settings.tablets())?;
    let tablets = Arc::new(MeasuredTablets::new(tablets, metrics.clone()));
    let die_at = std::env::var("VTELECTOR_DIE_AT").ok().map(|at| at.parse::<DieAt>()).transpose()?;
    if let Some(at) = die_at {
        tracing::warn!(?at, "VTELECTOR_DIE_AT is set: this process aborts at that step of its first reparent");
    }
    let mysql_tls = settings.mysql_tls.as_ref().map(MysqlTls::load).transpose()?;
    let fence = settings.fence.clone().map(|account| DirectFence::new(account).tls(mysql_tls));
    let settings = ReparentSettings {
        remote_operation_timeout: settings.remote_operation_timeout,
        lock_timeout: settings.lock_timeout,
        ledger_root: settings.ledger_root.clone(),
        durability_extra: settings.durability_extra.clone(),
        who: who(settings.grpc.port),
        die_at,
    };
    let mut parts = Parts::new(topo, tablets, settings, metrics);
    if let Some(fence) = fence {
        parts.hands = parts.hands.fence(Arc::new(fence));
    }
    Ok(parts)
}

/// This process, for a person who reads the journal.
fn who(port: u16) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}:{port}", if host.is_empty() { "unknown-host" } else { host })
}
