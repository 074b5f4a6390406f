//! Durations as Go writes them, because Vitess's flags and unit files do.

use std::{fmt, str::FromStr, time::Duration};

const NS_PER_US: u64 = 1_000;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// A duration in the notation of Go's `time.ParseDuration`: `15s`, `1m30s`, `500ms`, `1.5h`, `0`. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(pub Duration);

/// Text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a duration: {rule}; write a number and a unit, such as 15s, 500ms, 1m30s or 1.5h")]
pub struct DurationError {
    given: String,
    rule: &'static str,
}

impl GoDuration {
    /// That many whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Self {
        duration.0
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse_ns(text).map(|ns| Self(Duration::from_nanos(ns))).map_err(|rule| DurationError { given: text.to_owned(), rule })
    }
}

fn parse_ns(text: &str) -> Result<u64, &'static str> {
    const TOO_LONG: &str = "it is longer than Go can hold (292 years)";
    if text.starts_with('-') {
        return Err("it is negative");
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err("it is empty");
    }
    let mut total_ns: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |c| !(c.is_ascii_digit() || c == '.'));
        let (unit, after) = split_where(after, |c| c.is_ascii_digit() || c == '.');
        total_ns = total_ns.checked_add(part_ns(number, unit)?).filter(|&ns| ns <= i64::MAX as u64).ok_or(TOO_LONG)?;
        rest = after;
    }
    Ok(total_ns)
}

fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

/// One number with its unit. The fraction is taken digit by digit, as a floating-point number would lose nanoseconds.
fn part_ns(number: &str, unit: &str) -> Result<u64, &'static str> {
    const NUMBER: &str = "a number is missing or malformed";
    let unit_ns = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => NS_PER_US,
        "ms" => NS_PER_MS,
        "s" => NS_PER_S,
        "m" => 60 * NS_PER_S,
        "h" => 3600 * NS_PER_S,
        "" => return Err("a unit is missing"),
        _ => return Err("the unit is none of ns, us, ms, s, m, h"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(NUMBER);
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| "it is too long")? };
    let mut ns = whole.checked_mul(unit_ns).ok_or("it is too long")?;
    let mut digit_ns = unit_ns;
    for digit in fraction.bytes() {
        digit_ns /= 10;
        ns = ns.saturating_add(u64::from(digit - b'0') * digit_ns);
    }
    Ok(ns)
}

impl fmt::Display for GoDuration {
    /// The form that Go prints: `1m30s`, `1h0m0s`, `500ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos() as u64;
        if ns < NS_PER_S {
            return match ns {
                0 => f.write_str("0s"),
                ns if ns < NS_PER_US => write!(f, "{ns}ns"),
                ns if ns < NS_PER_MS => write_decimal(f, ns, NS_PER_US, "µs"),
                ns => write_decimal(f, ns, NS_PER_MS, "ms"),
            };
        }
        let (hours, minutes) = (ns / (3600 * NS_PER_S), ns / (60 * NS_PER_S) % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write_decimal(f, ns % (60 * NS_PER_S), NS_PER_S, "s")
    }
}

fn write_decimal(f: &mut fmt::Formatter<'_>, ns: u64, unit_ns: u64, unit: &str) -> fmt::Result {
    let width = unit_ns.ilog10() as usize;
    let digits = format!("{:0width$}", ns % unit_ns);
    let fraction = digits.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    write!(f, "{}{dot}{fraction}{unit}", ns / unit_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read_and_printed_as_go_prints_it() {
        for (text, ns, printed) in [
            ("15s", 15 * NS_PER_S, "15s"),
            ("1m30s", 90 * NS_PER_S, "1m30s"),
            ("500ms", 500 * NS_PER_MS, "500ms"),
            ("1.5h", 5400 * NS_PER_S, "1h30m0s"),
            ("1h", 3600 * NS_PER_S, "1h0m0s"),
            ("0", 0, "0s"),
            ("+2s", 2 * NS_PER_S, "2s"),
            (".5s", 500 * NS_PER_MS, "500ms"),
            ("2.s", 2 * NS_PER_S, "2s"),
            ("1.25s", 1_250 * NS_PER_MS, "1.25s"),
            ("1500us", 1_500 * NS_PER_US, "1.5ms"),
            ("7µs", 7 * NS_PER_US, "7µs"),
            ("3ns", 3, "3ns"),
            ("0.1s", 100 * NS_PER_MS, "100ms"),
        ] {
            let duration: GoDuration = text.parse().unwrap();
            assert_eq!(duration.0, Duration::from_nanos(ns), "{text}");
            assert_eq!(duration.to_string(), printed, "{text}");
            assert_eq!(printed.parse(), Ok(duration), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_named_with_an_example() {
        for text in ["", "15", "s", "-1s", "1d", "1.2.3s", "1 s", "99999999h", "300000000000000000000s", "1ss", "."] {
            let error = text.parse::<GoDuration>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("1m30s"), "{error}");
        }
    }
}
