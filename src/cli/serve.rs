//! `vtelector serve`: builds the parts, starts the faces, stops them when told.

use std::{process::ExitCode, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{GoDuration, Settings},
    metrics::Metrics,
    serve::{Limits, Parts, Server},
    topo::Topo,
};

/// Runs until SIGTERM or SIGINT. A second signal ends at once.
pub fn run(settings: &Settings, ignored: &[String]) -> ExitCode {
    if !ignored.is_empty() {
        tracing::info!(flags = ignored.join(" "), "flags of VTOrc or vtctld that have no meaning here are not used");
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    let code = runtime.block_on(serve(settings)).unwrap_or_else(|error| failed(&error.to_string()));
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    code
}

fn failed(error: &str) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

async fn serve(settings: &Settings) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let started =
        async { Ok::<_, Box<dyn std::error::Error>>(Server::start(settings, parts(settings).await?, Limits::default()).await?) };
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
    let topo = Topo::connect(&settings.topo).await?;
    let tablets = todo!();
    Ok(Parts { topo, tablets, metrics })
}
