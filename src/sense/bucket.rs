//! How many emergency questions the whole fleet may be asked at once.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Tokens that come back with time. Whoever finds none is refused; nobody waits.
#[derive(Debug)]
pub(super) struct Bucket {
    size: f64,
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket.
    pub fn new(size: u32, per_second: u32, now: Instant) -> Self {
        Self { size: size.into(), per_second: per_second.into(), state: Mutex::new((size.into(), now)) }
    }

    /// Takes so many, or none. More than the bucket holds are given when it is full: whoever needs so many has to be served at some time.
    pub fn take(&self, tokens: usize, now: Instant) -> bool {
        let wanted = (tokens as f64).min(self.size);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *state;
        let left = (left + now.saturating_duration_since(at).as_secs_f64() * self.per_second).min(self.size);
        let fits = left >= wanted;
        *state = (if fits { left - wanted } else { left }, now);
        fits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_served_and_what_exceeds_it_comes_back_with_time() {
        let start = Instant::now();
        let bucket = Bucket::new(10, 5, start);
        assert!(bucket.take(6, start) && bucket.take(4, start));
        assert!(!bucket.take(1, start), "empty");
        let later = start + Duration::from_millis(600);
        assert!(bucket.take(3, later) && !bucket.take(1, later), "three came back");
        let full = start + Duration::from_secs(60);
        assert!(!bucket.take(25, later) && bucket.take(25, full) && !bucket.take(1, full), "no more than it holds");
    }
}
