//! When the tablets of a shard are looked at: all at nearly the same time, and each shard at another.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use crate::topo::ShardId;

/// A first time and a period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    first: Instant,
    period: Duration,
}

impl Rhythm {
    pub(super) fn of(shard: &ShardId, epoch: Instant, period: Duration) -> Self {
        let mut hasher = DefaultHasher::new();
        shard.hash(&mut hasher);
        let place = f64::from(u16::try_from(hasher.finish() >> 48).unwrap_or(0)) / f64::from(u16::MAX);
        Self { first: epoch + period.mul_f64(place), period }
    }

    /// The same, so much later.
    pub(super) fn later(self, by: Duration) -> Self {
        Self { first: self.first + by, ..self }
    }

    /// The next time; what was missed is not made up for.
    pub(super) fn after(&self, now: Instant) -> Instant {
        if now < self.first {
            return self.first;
        }
        let past = now - self.first;
        let laps = past.as_nanos() / self.period.as_nanos().max(1) + 1;
        self.first + self.period.saturating_mul(u32::try_from(laps).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_keep_their_rhythm_whatever_was_missed() {
        let (epoch, period) = (Instant::now(), Duration::from_secs(5));
        let (shard, other) = ("commerce/-80".parse().unwrap(), "commerce/80-".parse().unwrap());
        let rhythm = Rhythm::of(&shard, epoch, period);
        let first = rhythm.after(epoch);
        assert!(first - epoch <= period);
        assert_eq!(rhythm.after(first), first + period);
        assert_eq!(rhythm.after(first + Duration::from_secs(12)), first + 3 * period);
        assert_eq!(Rhythm::of(&shard, epoch, period).after(epoch), first, "the same for all tablets of the shard");
        assert_ne!(Rhythm::of(&other, epoch, period).after(epoch), first, "another shard's are at another time");
        assert_eq!(rhythm.later(period / 4).after(epoch), first + period / 4);
    }
}
