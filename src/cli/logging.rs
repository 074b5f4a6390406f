//! Where log lines go: standard error, one line each.

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

/// Starts the log of the process.
pub fn start(format: LogFormat, level: &str) -> Result<(), ConfigError> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        ConfigError::new(
            "log-level",
            level,
            error.to_string(),
            "use debug, info, warn, error, or a filter such as info,vtelector::topo=debug",
        )
    })?;
    // Whoever reads our standard error may go away; the default would complain about that on standard error, and panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // Only a second start in one process can fail, and then the first one's log goes on.
    let _ = match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
    Ok(())
}
