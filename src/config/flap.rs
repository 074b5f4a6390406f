//! Limits of anti-flapping.

use std::time::Duration;

use super::{ConfigError, GoDuration};
use crate::ledger::{BurstError, FlapRules};

/// Longest time that a rule may look back.
const BACK_MAX: Duration = Duration::from_secs(24 * 3600);

/// Flags of anti-flapping.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Recoveries")]
pub struct FlapArgs {
    /// After an automatic promotion, no other one in the same shard before this; 0 = no such rule
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub failover_floor: GoDuration,
    /// So many automatic promotions of a shard within such a time; the next one waits until it is over; 0 = no such rule
    #[arg(long, value_name = "COUNT/DURATION", default_value = "2/1m")]
    pub failover_burst: String,
    /// So many automatic promotions of a shard within an hour; 0 = no such rule
    #[arg(long, value_name = "COUNT", default_value = "6")]
    pub failover_cap_per_hour: u32,
}

impl FlapArgs {
    /// The rules.
    pub fn rules(&self) -> Result<FlapRules, ConfigError> {
        let too_long = |flag: &str, value: &dyn std::fmt::Display| {
            let remedy = format!("use {} or less; to have no promotions at all, switch recoveries off", GoDuration(BACK_MAX));
            ConfigError::new(flag, value, "a shard would be without a primary for that long", remedy)
        };
        if self.failover_floor.0 > BACK_MAX {
            return Err(too_long("failover-floor", &self.failover_floor));
        }
        let burst = match self.failover_burst.as_str() {
            "0" => None,
            text => {
                let wrong = |error: BurstError| {
                    ConfigError::new("failover-burst", text, error.to_string(), "write it as 2/1m, or 0 for no such rule")
                };
                Some(text.parse().map_err(wrong)?)
            }
        };
        if let Some(burst) = burst.filter(|burst: &crate::ledger::Burst| burst.within > BACK_MAX) {
            return Err(too_long("failover-burst", &burst));
        }
        Ok(FlapRules { floor: self.failover_floor.0, burst, cap_per_hour: self.failover_cap_per_hour })
    }
}
