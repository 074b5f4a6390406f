//! Where log lines go: standard error, one line each.

use tracing_subscriber::EnvFilter;

use crate::{
    config::{ConfigError, LogFormat},
    log_lines::{Farewell, Lines},
    traces::Traces,
};

/// Starts the log of the process, and what listens to traces. What is answered is to be held until the process ends.
pub fn start(format: LogFormat, level: &str, traces: &Traces) -> Result<Farewell, ConfigError> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        ConfigError::new(
            "log-level",
            level,
            error.to_string(),
            "use debug, info, warn, error, or a filter such as info,vtelector::topo=debug",
        )
    })?;
    let (lines, farewell) = Lines::to(std::io::stderr()).map_err(|error| {
        ConfigError::new("log-level", level, format!("the log has no thread: {error}"), "allow this process more threads")
    })?;
    begin(format, filter, lines, traces);
    Ok(farewell)
}

#[cfg(not(feature = "otlp"))]
fn begin(format: LogFormat, filter: EnvFilter, lines: Lines, _: &Traces) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).log_internal_errors(false);
    // Only a second start in one process can fail, and then the first one's log goes on.
    let _ = match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
}

#[cfg(feature = "otlp")]
fn begin(format: LogFormat, filter: EnvFilter, lines: Lines, traces: &Traces) {
    use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

    let log = tracing_subscriber::fmt::layer().with_writer(lines).log_internal_errors(false);
    // Only a second start in one process can fail, and then the first one's log goes on.
    let _ = match format {
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter);
            tracing_subscriber::registry().with(log).with(traces.layer()).try_init()
        }
        LogFormat::Text => {
            tracing_subscriber::registry().with(log.with_ansi(false).with_filter(filter)).with(traces.layer()).try_init()
        }
    };
}
