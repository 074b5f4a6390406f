//! Where log lines go: standard error, one line each.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts the log of the process. A filter that cannot be read is replaced by `info`, with a warning.
pub fn start(format: LogFormat, level: &str) {
    let (filter, mistake) = match EnvFilter::builder().parse(level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
    if let Err(error) = started {
        eprintln!("the log was started before: {error}");
    }
    if let Some(error) = mistake {
        tracing::warn!(level, %error, "--log-level cannot be read; info is used");
    }
}
