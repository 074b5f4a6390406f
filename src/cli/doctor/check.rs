//! What was checked and what came of it. Pure.

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// As it should be.
    #[serde(rename = "ok")]
    Ok,
    /// It works, and something should be changed.
    #[serde(rename = "warn")]
    Warn,
    /// It does not work.
    #[serde(rename = "FAIL")]
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How it ended.
    pub verdict: Verdict,
    /// Of what: an endpoint, a tablet, a setting.
    pub about: String,
    /// What was found.
    pub found: String,
    /// What to change; empty = nothing.
    pub change: String,
}

impl Check {
    /// All is well.
    pub fn ok(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, about: about.into(), found: found.into(), change: String::new() }
    }

    /// It works; `change` says what would be better.
    pub fn warn(about: impl Into<String>, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, about: about.into(), found: found.into(), change: change.into() }
    }

    /// It does not work; `change` says what to do.
    pub fn fail(about: impl Into<String>, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, about: about.into(), found: found.into(), change: change.into() }
    }
}

/// One line a check, and the sum at the end.
pub fn lines(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.about.chars().count()).max().unwrap_or_default().min(60);
    let line = |check: &Check| {
        let change = if check.change.is_empty() { String::new() } else { format!(" -> {}", check.change) };
        let line = format!("{:<4}  {:<width$}  {}{change}", check.verdict.word(), check.about, check.found);
        // What a server says must not move the reader's cursor.
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
    };
    let count = |verdict: Verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let sum = format!("{} ok, {} warnings, {} failed", count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail));
    checks.iter().map(line).chain([sum]).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_found_and_what_to_change() {
        let checks =
            [Check::ok("etcd a:1", "answers in 1 ms"), Check::fail("tablet zone1-0000000101", "refused\n\u{1b}[2J", "start it")];
        let text = lines(&checks);
        assert!(text.starts_with("ok    etcd a:1                 answers in 1 ms\nFAIL  tablet"), "{text}");
        assert!(text.contains("refused  [2J -> start it") && text.ends_with("1 ok, 0 warnings, 1 failed"), "{text}");
    }
}
