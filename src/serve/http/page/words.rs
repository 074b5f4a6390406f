//! Numbers, times and tablets as a person reads them.
//!
//! Ages are coarse on purpose: a page is sent anew only when its words have changed, and an age that ticks every second tells nobody more.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use crate::{
    pb::{topodata, vttime},
    topo::TabletAlias,
};

use super::text;

/// `zone1-0000000100`; one that no topology would take is shown as it is.
pub fn alias(alias: Option<&topodata::TabletAlias>) -> String {
    match alias {
        None => "none".to_owned(),
        Some(alias) => TabletAlias { cell: text::name(&alias.cell).into_owned(), uid: alias.uid }.to_string(),
    }
}

/// `1 shard`, `3,333 shards`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(number), if number == 1 { one } else { many })
}

/// `3,333`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// How old something is.
pub fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..2 => "< 2 s".to_owned(),
        2..5 => "< 5 s".to_owned(),
        5..10 => "< 10 s".to_owned(),
        10..60 => format!("{} s", s / 10 * 10),
        60..3600 => format!("{} min", s / 60),
        3600..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", thousands(s / 86_400)),
    }
}

/// How old evidence is. What is younger than ten seconds is as good as any: electors ask every few seconds.
pub fn evidence(ms: Option<u64>) -> String {
    ms.map_or_else(|| "never heard".to_owned(), |ms| age(ms.max(9999)))
}

/// How long something took.
pub fn took(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// A moment, in UTC as everything in the logs.
pub fn moment(time: Option<&vttime::Time>) -> String {
    let stamp = time.and_then(|time| Timestamp::from_second(time.seconds).ok());
    stamp.map_or_else(|| "at an unknown time".to_owned(), |stamp| stamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Now, as [`moment`] has it.
pub fn now(now: SystemTime) -> String {
    moment(Some(&vttime::Time { seconds: seconds(now), nanoseconds: 0 }))
}

/// `2026-11-21 03:12:07 UTC, 3 min ago`, or `..., in 3 min`.
pub fn since(time: Option<&vttime::Time>, now: SystemTime) -> String {
    let Some(time) = time else { return moment(None) };
    let passed = seconds(now).saturating_sub(time.seconds);
    let words = age(passed.unsigned_abs().saturating_mul(1000));
    match passed {
        0.. => format!("{}, {words} ago", moment(Some(time))),
        _ => format!("{}, in {words}", moment(Some(time))),
    }
}

/// When a block or a window ends.
pub fn until(time: Option<&vttime::Time>, now: SystemTime) -> String {
    match time {
        None => "until a person ends it".to_owned(),
        Some(time) => format!("until {}", since(Some(time), now)),
    }
}

fn seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_and_ages_are_read_at_a_glance() {
        assert_eq!((count(1, "shard", "shards"), count(3333, "shard", "shards")), ("1 shard".into(), "3,333 shards".into()));
        assert_eq!(thousands(1_234_567), "1,234,567");
        let ages: Vec<String> = [0, 1999, 2000, 9999, 34_000, 61_000, 7_200_000, u64::MAX].map(age).to_vec();
        assert_eq!(ages, ["< 2 s", "< 2 s", "< 5 s", "< 10 s", "30 s", "1 min", "2 h", "213,503,982,334 days"]);
        assert_eq!([None, Some(3), Some(10_000)].map(evidence), ["never heard", "< 10 s", "10 s"]);
        assert_eq!([999, 1234, 61_000].map(took), ["999 ms", "1.2 s", "1 min 1 s"]);
    }

    #[test]
    fn a_moment_says_how_far_away_it_is_and_a_wild_one_is_no_panic() {
        let at = |seconds| Some(vttime::Time { seconds, nanoseconds: 0 });
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(since(at(940).as_ref(), now), "1970-01-01 00:15:40 UTC, 1 min ago");
        assert_eq!(until(at(1120).as_ref(), now), "until 1970-01-01 00:18:40 UTC, in 2 min");
        assert_eq!(until(None, now), "until a person ends it");
        for wild in [i64::MIN, i64::MAX] {
            assert!(since(at(wild).as_ref(), now).starts_with("at an unknown time"));
        }
    }
}
