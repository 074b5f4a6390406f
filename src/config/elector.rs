//! What the elector may do by itself, and its limits; VTOrc's names where it has them.

use super::{ConfigError, GoDuration, flags::go_bool};
use crate::diagnose::Rules;

/// Flags of the elector's own actions.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Recoveries")]
pub struct ElectorArgs {
    /// Act on problems; without it everything is watched and reported, and only a person's calls change anything
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_recovery: bool,
    /// Make emergency reparents without being asked
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_emergency_reparent: bool,
    /// Promote nobody in another cell than the old primary's without being asked
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub prevent_cross_cell_failover: bool,
    /// Under durability policy none: fail over although the old primary may still take writes
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_unfenced_failover: bool,
    /// Fail over when a primary's own tablet says that its disk hangs
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_primary_disk_stalled_recovery: bool,
    /// Make replicas with errant GTIDs DRAINED
    #[arg(long, value_name = "BOOL", value_parser = go_bool, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub change_tablets_with_errant_gtid_to_drained: bool,
    /// Move a primary that answers so many times slower than it usually does; 0 only reports it
    #[arg(long, value_name = "TIMES", default_value = "0")]
    pub slow_primary_takeover: u32,
    /// A replica that lags more is not elected in a move of our own; 0 = no limit
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub tolerable_replication_lag: GoDuration,
    /// A replica that lags more is a problem
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub reasonable_replication_lag: GoDuration,
}

impl ElectorArgs {
    /// The limits of the diagnosis.
    pub fn rules(&self) -> Result<Rules, ConfigError> {
        let defaults = Rules::default();
        let slow_primary_factor = match self.slow_primary_takeover {
            0 => None,
            1 => {
                let remedy = "use 2 or more, or 0 to have it reported only";
                return Err(ConfigError::new("slow-primary-takeover", 1, "every primary is as slow as it usually is", remedy));
            }
            times => Some(times),
        };
        Ok(Rules {
            reasonable_replication_lag: self.reasonable_replication_lag.0,
            recover_stalled_disk: self.enable_primary_disk_stalled_recovery,
            drain_errant: self.change_tablets_with_errant_gtid_to_drained,
            slow_primary_factor,
            ..defaults
        })
    }
}
