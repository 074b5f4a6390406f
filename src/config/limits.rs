//! How much clients may ask for at once.

use super::ConfigError;

/// Smallest largest message that makes sense: an answer about a large shard has to fit.
const MESSAGE_BYTES_MIN: usize = 1 << 20;
/// Largest one, and what our own commands take: each may stand in memory several times.
pub const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Flags of these limits.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Who may come in")]
pub struct LimitArgs {
    /// Largest message that gRPC takes or sends, in bytes; the same between electors: raise it on all of them where one answer has thousands
    /// of tablets
    #[arg(long, value_name = "BYTES", default_value_t = LimitSettings::default().message_bytes)]
    pub grpc_max_message_size: usize,
    /// Connections to gRPC, and as many to HTTP; more are closed at once
    #[arg(long, value_name = "NUMBER", default_value_t = LimitSettings::default().connections)]
    pub client_connections_max: usize,
    /// Those of one client address; behind a proxy all clients have one
    #[arg(long, value_name = "NUMBER", default_value_t = LimitSettings::default().connections_of_address)]
    pub client_connections_per_address: usize,
}

/// These limits, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// Bytes of one message over gRPC.
    pub message_bytes: usize,
    /// Connections to each face.
    pub connections: usize,
    /// Those of one client address.
    pub connections_of_address: usize,
}

/// The size is Vitess's.
impl Default for LimitSettings {
    fn default() -> Self {
        Self { message_bytes: 16 << 20, connections: 1024, connections_of_address: 256 }
    }
}

impl LimitArgs {
    /// Checks them together.
    pub(super) fn settings(&self) -> Result<LimitSettings, ConfigError> {
        let Self { grpc_max_message_size: message_bytes, client_connections_max, client_connections_per_address } = *self;
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&message_bytes) {
            let problem = "answers would not fit, or take all memory";
            let remedy = format!("use {MESSAGE_BYTES_MIN} to {MESSAGE_BYTES_MAX}; 16777216 is the default");
            return Err(ConfigError::new("grpc-max-message-size", message_bytes, problem, remedy));
        }
        for (flag, number) in [
            ("client-connections-max", client_connections_max),
            ("client-connections-per-address", client_connections_per_address),
        ] {
            if number == 0 {
                return Err(ConfigError::new(flag, number, "nobody could come in", "use 1 or more"));
            }
        }
        let (connections, connections_of_address) = (client_connections_max, client_connections_per_address);
        Ok(LimitSettings { message_bytes, connections, connections_of_address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_nobody_in_is_refused() {
        let args = |message, all, one| LimitArgs {
            grpc_max_message_size: message,
            client_connections_max: all,
            client_connections_per_address: one,
        };
        for (args, flag) in [
            (args(1 << 24, 0, 1), "--client-connections-max 0"),
            (args(1 << 24, 1, 0), "--client-connections-per-address 0"),
            (args(1000, 1, 1), "--grpc-max-message-size 1000"),
            (args(2 << 30, 1, 1), "--grpc-max-message-size 2147483648"),
        ] {
            let error = args.settings().unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains("use 1"), "{error}");
        }
        assert_eq!(args(1 << 20, 2, 1).settings().map(|limits| limits.connections), Ok(2));
    }
}
