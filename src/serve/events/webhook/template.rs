//! What is written to a receiver: the event itself, a message for Slack, an alert for PagerDuty. Pure.

use std::str::FromStr;

use serde_json::{Value, json};

use crate::{
    pb::{
        topodata,
        vtelector::{DecisionRecord, Event, Problem, Recovery, event::What},
    },
    serve::events::head::WordError,
    topo::TabletAlias,
};

/// Longest message for a person, in characters; PagerDuty takes 1024 of a summary.
const MESSAGE_CHARS_MAX: usize = 1024;

/// The forms in which events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// The event as it is.
    Json,
    /// A message of an incoming webhook of Slack.
    Slack,
    /// An alert of PagerDuty's Events API v2.
    PagerDuty,
}

impl Template {
    const ALL: [Self; 3] = [Self::Json, Self::Slack, Self::PagerDuty];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Slack => "slack",
            Self::PagerDuty => "pagerduty",
        }
    }
}

impl FromStr for Template {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let unknown = || WordError::new(text, &Self::ALL.map(Self::name));
        Self::ALL.into_iter().find(|template| template.name() == text).ok_or_else(unknown)
    }
}

/// One line for a person: what happened to which shard.
pub fn line(event: &Event) -> String {
    let shard = format!("{}/{}", event.keyspace, event.shard);
    let text = match &event.what {
        Some(What::Opened(problem)) => format!("{shard}: {}: {}", named(problem), problem.why),
        Some(What::Closed(problem)) => format!("{shard}: {} is gone", named(problem)),
        Some(What::Decided(decision)) => format!("{shard}: {}", decided(decision)),
        Some(What::Recovered(recovery)) => format!("{shard}: {}", recovered(recovery)),
        Some(What::LeftAlone(_)) => format!("{shard}: {} no longer looks after it", event.who),
        Some(What::Dropped(_)) => "events were dropped from the log".to_owned(),
        None => format!("{shard}: something that this release does not know"),
    };
    // A name or an error text of somebody else's must stay in its line.
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

fn named(problem: &Problem) -> String {
    match alias(problem.tablet_alias.as_ref()) {
        Some(alias) => format!("{} {alias}", problem.code),
        None => problem.code.clone(),
    }
}

fn decided(decision: &DecisionRecord) -> String {
    match &decision.blocked {
        Some(blocked) => format!("{} is not acted upon, {}: {}", decision.code, blocked.by, blocked.reason),
        None => match alias(decision.tablet_alias.as_ref()) {
            Some(alias) => format!("{} because of {alias}: {}", decision.action, decision.why),
            None => format!("{}: {}", decision.action, decision.why),
        },
    }
}

fn recovered(recovery: &Recovery) -> String {
    let took = format!("{}.{:03} s", recovery.took_ms / 1000, recovery.took_ms % 1000);
    let promoted = alias(recovery.promoted.as_ref()).map(|alias| format!(", {alias} is primary")).unwrap_or_default();
    let failure = if recovery.failure.is_empty() { String::new() } else { format!(": {}", recovery.failure) };
    format!("{} because of {}: {} after {took}{promoted}{failure}", recovery.kind, recovery.code, recovery.outcome)
}

fn alias(alias: Option<&topodata::TabletAlias>) -> Option<String> {
    alias.map(|alias| {
        TabletAlias::try_from(alias).map_or_else(|_| format!("{}-{}", alias.cell, alias.uid), |alias| alias.to_string())
    })
}

/// The body for Slack: one message.
pub fn slack(event: &Event) -> Value {
    let sign = match &event.what {
        Some(What::Opened(problem)) if is_urgent(&problem.priority) => ":red_circle:",
        Some(What::Opened(_)) => ":large_yellow_circle:",
        Some(What::Closed(_)) => ":white_check_mark:",
        Some(What::Decided(decision)) if decision.blocked.is_some() => ":no_entry:",
        Some(What::Recovered(recovery)) if recovery.outcome == "failed" => ":x:",
        Some(What::Recovered(_)) => ":hammer_and_wrench:",
        _ => ":information_source:",
    };
    // Slack reads these three as markup; whoever names a shard `<!channel>` calls nobody.
    let text = line(event).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": format!("{sign} {text}"), "unfurl_links": false, "unfurl_media": false })
}

fn is_urgent(priority: &str) -> bool {
    matches!(priority, "shard" | "critical")
}

/// The body for PagerDuty: a problem that opened triggers an alert, the same problem gone resolves it.
pub fn pagerduty(event: &Event, routing_key: &str) -> Option<Value> {
    let (problem, action) = match &event.what {
        Some(What::Opened(problem)) => (problem, "trigger"),
        Some(What::Closed(problem)) => (problem, "resolve"),
        _ => return None,
    };
    let shard = format!("{}/{}", event.keyspace, event.shard);
    let tablet = alias(problem.tablet_alias.as_ref());
    let dedup_key = dedup_key(&shard, &problem.code, tablet.as_deref());
    if action == "resolve" {
        return Some(json!({ "routing_key": routing_key, "event_action": action, "dedup_key": dedup_key }));
    }
    let severity = match problem.priority.as_str() {
        "shard" | "critical" => "critical",
        "high" => "error",
        "medium" => "warning",
        _ => "info",
    };
    let at = event.at.as_ref().and_then(|at| jiff::Timestamp::from_second(at.seconds).ok());
    Some(json!({
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": dedup_key,
        "client": "vtelector",
        "payload": {
            "summary": line(event),
            "source": shard,
            "severity": severity,
            "timestamp": at.map(|at| at.to_string()),
            "component": tablet,
            "group": event.keyspace,
            "class": problem.code,
            "custom_details": {
                "why": problem.why,
                "remedy": problem.remedy,
                "seen_by": event.who,
                "sequence": event.sequence.to_string(),
            },
        },
    }))
}

/// PagerDuty takes 255 characters: names that are longer go in as their hash.
fn dedup_key(shard: &str, code: &str, tablet: Option<&str>) -> String {
    let key = format!("vtelector/{shard}/{code}/{}", tablet.unwrap_or("-"));
    if key.chars().count() <= 255 {
        return key;
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    format!("vtelector/{}", super::sign::hex(hash.as_ref()))
}
