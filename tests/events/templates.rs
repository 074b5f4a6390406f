//! What Slack and PagerDuty get, word for word, from shards that bear hostile names.

use serde_json::json;
use vtelector::{
    pb::{
        topodata::TabletAlias,
        vtelector::{Blocked, DecisionRecord, Event, LeftAlone, Problem, Recovery, event::What},
        vttime::Time,
    },
    serve::events::webhook::{line, pagerduty, slack},
};

fn event(shard: &str, what: What) -> Event {
    Event {
        at: Some(Time { seconds: 1_760_000_000, nanoseconds: 0 }),
        keyspace: "commerce".to_owned(),
        shard: shard.to_owned(),
        what: Some(what),
        sequence: 48_211_003,
        id: "1760000000000-9f3a1b2c-3".to_owned(),
        who: "elector1:15999".to_owned(),
    }
}

fn problem(why: &str, priority: &str) -> Problem {
    Problem {
        keyspace: "commerce".to_owned(),
        shard: "-80".to_owned(),
        code: "DeadPrimary".to_owned(),
        priority: priority.to_owned(),
        tablet_alias: Some(TabletAlias { cell: "zone1".to_owned(), uid: 100 }),
        why: why.to_owned(),
        remedy: "emergency reparent".to_owned(),
        since: None,
    }
}

#[test]
fn slack_gets_one_readable_line_for_each_kind() {
    let of = |what| slack(&event("-80", what))["text"].as_str().unwrap().to_owned();
    let refuses = "its port refuses connections";
    assert_eq!(
        slack(&event("-80", What::Opened(problem(refuses, "shard")))),
        json!({
            "text": ":red_circle: commerce/-80: DeadPrimary zone1-0000000100: its port refuses connections",
            "unfurl_links": false,
            "unfurl_media": false,
        })
    );
    assert_eq!(of(What::Closed(problem("", "shard"))), ":white_check_mark: commerce/-80: DeadPrimary zone1-0000000100 is gone");
    assert!(of(What::Opened(problem("", "low"))).starts_with(":large_yellow_circle:"));
    let blocked = Blocked { by: "AntiFlapping".to_owned(), reason: "two promotions within an hour".to_owned(), until: None };
    let wait = DecisionRecord {
        code: "DeadPrimary".to_owned(),
        action: "wait".to_owned(),
        blocked: Some(blocked),
        ..Default::default()
    };
    assert_eq!(
        of(What::Decided(wait)),
        ":no_entry: commerce/-80: DeadPrimary is not acted upon, AntiFlapping: two promotions within an hour"
    );
    let recovery = Recovery {
        kind: "emergency".to_owned(),
        code: "DeadPrimary".to_owned(),
        promoted: Some(TabletAlias { cell: "zone1".to_owned(), uid: 101 }),
        outcome: "done".to_owned(),
        took_ms: 350,
        ..Default::default()
    };
    assert_eq!(
        of(What::Recovered(recovery.clone())),
        ":hammer_and_wrench: commerce/-80: emergency because of DeadPrimary: done after 0.350 s, zone1-0000000101 is primary"
    );
    let failed = Recovery { outcome: "failed".to_owned(), promoted: None, failure: "the lock was lost".to_owned(), ..recovery };
    assert_eq!(
        of(What::Recovered(failed)),
        ":x: commerce/-80: emergency because of DeadPrimary: failed after 0.350 s: the lock was lost"
    );
    assert_eq!(of(What::LeftAlone(LeftAlone {})), ":information_source: commerce/-80: elector1:15999 no longer looks after it");
}

#[test]
fn a_hostile_name_calls_nobody_makes_no_link_and_stays_in_its_line() {
    let hostile = "<!channel> <https://evil.example|click & win>\r\n:red_circle: all is lost\u{0}\u{1b}[31m";
    let text = slack(&event("<!here>", What::Opened(problem(hostile, "shard"))))["text"].as_str().unwrap().to_owned();
    assert_eq!(
        text,
        ":red_circle: commerce/&lt;!here&gt;: DeadPrimary zone1-0000000100: &lt;!channel&gt; &lt;https://evil.example|click &amp; win&gt;  \
         :red_circle: all is lost  [31m"
    );
    let endless = event("-80", What::Opened(problem(&"ä".repeat(100_000), "shard")));
    assert_eq!(line(&endless).chars().count(), 1024);
    assert!(line(&endless).ends_with('…'));
}

#[test]
fn pagerduty_is_triggered_and_resolved_by_the_same_key() {
    let opened = pagerduty(&event("-80", What::Opened(problem("its \"port\"\n refuses", "shard"))), "R0UT1NG").unwrap();
    assert_eq!(
        opened,
        json!({
            "routing_key": "R0UT1NG",
            "event_action": "trigger",
            "dedup_key": "vtelector/commerce/-80/DeadPrimary/zone1-0000000100",
            "client": "vtelector",
            "payload": {
                "summary": "commerce/-80: DeadPrimary zone1-0000000100: its \"port\"  refuses",
                "source": "commerce/-80",
                "severity": "critical",
                "timestamp": "2025-10-09T08:53:20Z",
                "component": "zone1-0000000100",
                "group": "commerce",
                "class": "DeadPrimary",
                "custom_details": {
                    "why": "its \"port\"\n refuses",
                    "remedy": "emergency reparent",
                    "seen_by": "elector1:15999",
                    "sequence": "48211003",
                },
            },
        })
    );
    let closed = pagerduty(&event("-80", What::Closed(problem("", "shard"))), "R0UT1NG").unwrap();
    assert_eq!(
        closed,
        json!({
            "routing_key": "R0UT1NG",
            "event_action": "resolve",
            "dedup_key": "vtelector/commerce/-80/DeadPrimary/zone1-0000000100",
        })
    );
    let long = event(&"x".repeat(1000), What::Opened(problem("", "medium")));
    let long = pagerduty(&long, "R0UT1NG").unwrap();
    assert!(long["dedup_key"].as_str().unwrap().len() <= 255, "{long}");
    assert_eq!(long["payload"]["severity"], "warning");
    assert_eq!(pagerduty(&event("-80", What::LeftAlone(LeftAlone {})), "R0UT1NG"), None);
}
