//! How fast a tablet answers now, and how fast it usually does: two histograms that forget.

use std::time::Duration;

use crate::shard::Pace;

/// Bounds double: 64 us, 128 us, ... 33 s.
const BUCKETS: usize = 20;
const FIRST: Duration = Duration::from_micros(64);

/// Answers whose weight is left in each: about a minute's and an hour's at one a second.
const NOW_ANSWERS: f32 = 60.0;
const USUAL_ANSWERS: f32 = 3600.0;
/// Nothing is said before so many answers: an usual pace wants a past.
const ANSWERS_MIN: u16 = 300;

/// The pace of one tablet.
#[derive(Debug, Default)]
pub(super) struct PaceMeter {
    now: [f32; BUCKETS],
    usual: [f32; BUCKETS],
    answers: u16,
}

impl PaceMeter {
    /// One answer took so long.
    pub fn answered(&mut self, took: Duration) {
        let bucket = bucket_of(took);
        for (histogram, answers) in [(&mut self.now, NOW_ANSWERS), (&mut self.usual, USUAL_ANSWERS)] {
            histogram.iter_mut().for_each(|weight| *weight *= 1.0 - 1.0 / answers);
            histogram[bucket] += 1.0;
        }
        self.answers = self.answers.saturating_add(1);
    }

    /// Both medians; `None` before there is a past.
    pub fn pace(&self) -> Option<Pace> {
        (self.answers >= ANSWERS_MIN).then(|| Pace { now: median(&self.now), usual: median(&self.usual) })
    }
}

fn bucket_of(took: Duration) -> usize {
    (0..BUCKETS - 1).find(|&bucket| took <= FIRST * (1 << bucket)).unwrap_or(BUCKETS - 1)
}

/// The upper bound of the bucket in which half of the weight is reached.
fn median(histogram: &[f32; BUCKETS]) -> Duration {
    let half = histogram.iter().sum::<f32>() / 2.0;
    let mut below = 0.0;
    let bucket = histogram.iter().position(|weight| {
        below += weight;
        below >= half
    });
    FIRST * (1 << bucket.unwrap_or(BUCKETS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_became_slow_shows_against_its_own_past() {
        let (mut meter, fast, slow) = (PaceMeter::default(), Duration::from_micros(900), Duration::from_millis(40));
        for _ in 0..299 {
            meter.answered(fast);
        }
        assert_eq!(meter.pace(), None, "too little past");
        meter.answered(fast);
        let pace = meter.pace().unwrap();
        assert_eq!(pace.now, pace.usual);
        for _ in 0..60 {
            meter.answered(slow);
        }
        let pace = meter.pace().unwrap();
        assert!(pace.now >= slow && pace.usual < 2 * fast, "{pace:?}");
    }

    #[test]
    fn one_slow_answer_changes_nothing() {
        let mut meter = PaceMeter::default();
        (0..400).for_each(|_| meter.answered(Duration::from_millis(1)));
        let before = meter.pace();
        meter.answered(Duration::from_secs(100));
        assert_eq!(meter.pace(), before);
    }
}
