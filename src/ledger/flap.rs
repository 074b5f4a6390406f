//! Anti-flapping: how soon a shard may have another automatic promotion (safety rules, section 10). Pure.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::config::GoDuration;

const HOUR: Duration = Duration::from_secs(3600);

/// How often a shard may have an automatic promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlapRules {
    /// `--failover-floor` (5 s): the next one not before that; zero = no such rule.
    pub floor: Duration,
    /// `--failover-burst` (2/1m): at most so many within so long; `None` = no such rule.
    pub burst: Option<Burst>,
    /// `--failover-cap-per-hour` (6): at most so many within an hour; 0 = no such rule.
    pub cap_per_hour: u32,
}

/// At most so many within so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// How many; at least 1.
    pub count: u32,
    /// Within which time; never zero.
    pub within: Duration,
}

/// Text that is no burst.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BurstError {
    reason: String,
}

/// Which rule blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The ledger was not read yet: nobody knows what happened before.
    LedgerUnread,
    /// `--failover-floor`.
    Floor,
    /// `--failover-burst`.
    Burst,
    /// `--failover-cap-per-hour`.
    CapPerHour,
}

/// Why a shard may not have an automatic promotion now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The rule; where several block, the one that ends last.
    pub rule: Rule,
    /// When it ends by itself, by our wall clock; `None` only for [`Rule::LedgerUnread`], which ends when etcd answers.
    pub until: Option<SystemTime>,
    /// What was counted, for a person.
    pub reason: String,
}

impl Default for FlapRules {
    fn default() -> Self {
        let burst = Some(Burst { count: 2, within: Duration::from_secs(60) });
        Self { floor: Duration::from_secs(5), burst, cap_per_hour: 6 }
    }
}

impl FlapRules {
    /// The rule that blocks for longest, and for how long still; `ages` are those of the promotions that count, in any order.
    pub fn blocking(&self, ages: &[Duration]) -> Option<(Rule, Duration)> {
        let mut ages = ages.to_vec();
        ages.sort();
        // The newest `count` of them lie within the time as long as the oldest of those does.
        let left = |count: u32, within: Duration| {
            let oldest = ages.get(usize::try_from(count).ok()?.checked_sub(1)?)?;
            within.checked_sub(*oldest).filter(|left| !left.is_zero())
        };
        let floor = left(1, self.floor).map(|left| (Rule::Floor, left));
        let burst = self.burst.and_then(|burst| left(burst.count, burst.within)).map(|left| (Rule::Burst, left));
        let cap = left(self.cap_per_hour, HOUR).map(|left| (Rule::CapPerHour, left));
        [floor, burst, cap].into_iter().flatten().max_by_key(|(_, left)| *left)
    }

    /// What a rule says, for a person.
    pub fn words(&self, rule: Rule) -> String {
        match rule {
            Rule::LedgerUnread => "what was recorded before has to be read first".to_owned(),
            Rule::Floor => format!("the next one not within {} (--failover-floor)", GoDuration(self.floor)),
            Rule::Burst => {
                let burst = self.burst.map(|burst| burst.to_string()).unwrap_or_default();
                format!("no more than {burst} (--failover-burst)")
            }
            Rule::CapPerHour => format!("no more than {} an hour (--failover-cap-per-hour)", self.cap_per_hour),
        }
    }
}

impl Rule {
    /// Its name in metrics, logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::LedgerUnread => "ledger unread",
            Self::Floor => "failover floor",
            Self::Burst => "failover burst",
            Self::CapPerHour => "failover cap per hour",
        }
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, GoDuration(self.within))
    }
}

impl FromStr for Burst {
    type Err = BurstError;

    fn from_str(text: &str) -> Result<Self, BurstError> {
        let error = |reason: String| BurstError { reason };
        let (count, within) = text.split_once('/').ok_or_else(|| error("there is no / in it".to_owned()))?;
        let count: u32 = count.parse().map_err(|_| error(format!("{count:?} is no number")))?;
        let within: GoDuration = within.parse().map_err(|wrong: crate::config::DurationError| error(wrong.to_string()))?;
        if count == 0 || within.0.is_zero() {
            return Err(error("neither part may be 0".to_owned()));
        }
        Ok(Self { count, within: within.0 })
    }
}
