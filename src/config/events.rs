//! Who is told of events, and where traces go.

use std::path::PathBuf;

/// Flags of events and traces.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Events")]
pub struct EventArgs {
    /// File with the receivers of events (TOML; docs/events.md). It is read again when it changes; while it has an error, the old receivers
    /// stay
    #[arg(long, value_name = "FILE")]
    pub webhook_file: Option<PathBuf>,
    /// Collector that takes a trace of every recovery (OTLP over gRPC), such as http://localhost:4317; needs a binary built with the
    /// feature otlp
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}
