//! What persons ask of the elector as such: what is sent, what is printed, and the exit code.

use super::*;

/// Command line, call, name of the request, request, answer, verdict, what is printed.
type Story = (&'static str, &'static str, &'static str, &'static str, Verdict, &'static str);

const PROBLEM: &str = r#"{"keyspace": "ks", "shard": "0", "code": "DeadPrimary", "priority": "shard",
    "tablet_alias": {"cell": "zone1", "uid": 100}, "why": "its port refuses connections", "remedy": "emergency reparent",
    "since": {"seconds": "1760000000"}}"#;

const DECISION: &str = r#"{"keyspace": "ks", "shard": "0", "action": "wait", "tablet_alias": {"cell": "zone1", "uid": 100},
    "code": "DeadPrimary", "why": "an emergency reparent is due", "since": {"seconds": "1760000001"},
    "rejected": [{"action": "emergency reparent", "why": "blocked"}],
    "blocked": {"by": "failover floor", "reason": "the last one was 2s ago", "until": {"seconds": "1760000005"}}}"#;

const WINDOW: &str = r#"{"id": "a1b2c3", "scope": "shard:ks/0", "owner": "anna", "reason": "new disks",
    "until": {"seconds": "1760003600"}}"#;

const STORIES: [Story; 11] = [
    ("problems", "Problems", "{}", r#"{"shards": "3"}"#, Verdict::Well, "shards looked after: 3, problems: 0"),
    (
        "history ks/0 --limit 5",
        "History",
        r#"{"keyspace": "ks", "shard": "0", "limit": 5}"#,
        r#"{"recoveries": [{"keyspace": "ks", "shard": "0", "code": "DeadPrimary", "kind": "emergency", "took_ms": "1350",
            "promoted": {"cell": "zone1", "uid": 101}, "old": {"cell": "zone1", "uid": 100}, "who": "e1:15999",
            "at": {"seconds": "1760000000"}, "outcome": "done", "evidence": "refused"}], "count": "9", "dropped": "2"}"#,
        Verdict::Well,
        "ENDED                     SHARD  KIND       PROBLEM      FROM              TO                TOOK     OUTCOME  BY        WHY\n\
         2025-10-09T08:53:20.000Z  ks/0   emergency  DeadPrimary  zone1-0000000100  zone1-0000000101  1.350 s  done     e1:15999  refused\n\n\
         recoveries: 9, shown: 1; 2 older ones were dropped because there were too many",
    ),
    (
        "history",
        "History",
        r#"{"limit": 100}"#,
        r#"{"unread": "no answer"}"#,
        Verdict::Well,
        "MAY NOT BE ALL: no answer\n\nrecoveries: 0, shown: 0",
    ),
    (
        "acknowledge ks --who anna --reason seen",
        "Acknowledge",
        r#"{"keyspace": "ks", "who": "anna", "why": "seen"}"#,
        r#"{"shards": ["ks/-80", "ks/80-"]}"#,
        Verdict::Well,
        "ks/-80: acknowledged\nks/80-: acknowledged\n",
    ),
    (
        "maintenance begin shard:ks/0 --for 1h --reason disks --who anna",
        "BeginMaintenance",
        r#"{"scope": "shard:ks/0", "owner": "anna", "reason": "disks", "duration": {"seconds": "3600"}}"#,
        r#"{"window": {"id": "a1b2c3", "scope": "shard:ks/0", "until": {"seconds": "1760003600"}}}"#,
        Verdict::Well,
        "maintenance a1b2c3 of shard:ks/0 until 2025-10-09T09:53:20.000Z; end it with: maintenance end a1b2c3",
    ),
    ("maintenance end a1b2c3", "EndMaintenance", r#"{"id": "a1b2c3"}"#, "{}", Verdict::Well, "maintenance a1b2c3 has ended"),
    ("maintenance list", "ListMaintenance", "{}", "{}", Verdict::Well, "no maintenance"),
    (
        "recoveries disable --reason rack --who anna",
        "SetRecoveries",
        r#"{"who": "anna", "why": "rack"}"#,
        "{}",
        Verdict::Well,
        "recoveries are disabled on all electors",
    ),
    (
        "recoveries enable --who bob",
        "SetRecoveries",
        r#"{"enabled": true, "who": "bob"}"#,
        "{}",
        Verdict::Well,
        "recoveries are enabled on all electors",
    ),
    (
        "status",
        "GetStatus",
        "{}",
        r#"{"who": "e1:15999", "version": "1", "shards": "2"}"#,
        Verdict::Well,
        "elector              e1:15999, release 1\nready                yes\nrecoveries           enabled\n\
         shards looked after  2\nproblems             0",
    ),
    (
        "status",
        "GetStatus",
        "{}",
        r#"{"who": "e1:15999", "version": "1", "not_ready": "the first look is not done", "problems": "1",
            "recoveries_disabled": {"who": "anna", "why": "rack", "since": {"seconds": "1760000000"}},
            "blocked": [{"keyspace": "ks", "shard": "0", "blocked": {"by": "failover burst", "reason": "two"}}],
            "garbage": [{"key": "/vtelector/ledger/x", "reason": "none of ours"}]}"#,
        Verdict::Finding,
        "elector              e1:15999, release 1\nready                NO: the first look is not done\n\
         recoveries           DISABLED by anna since 2025-10-09T08:53:20.000Z: rack\nshards looked after  0\nproblems             1\n\n\
         SHARD  BLOCKED BY\nks/0   failover burst: two\n\n\
         UNREADABLE IN THE LEDGER  WHY\n/vtelector/ledger/x       none of ours",
    ),
];

#[tokio::test]
async fn each_command_asks_for_what_it_says_and_shows_what_comes() {
    let server = FakeTablet::start().await;
    let address = server.address.to_string();
    for (line, call, request, reply, verdict, printed) in STORIES {
        server.answer(Fake::Message(message_of("vtelector", &format!("{call}Response"), reply)));
        let answer = ask(&address, line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        let sent = server.received().pop().unwrap();
        assert_eq!(sent.path, format!("/vtelector.Elector/{call}"), "{line}");
        assert_eq!(sent.message, message_of("vtelector", &format!("{call}Request"), request), "{line}");
        assert_eq!((answer.words.as_str(), answer.verdict), (printed, verdict), "{line}");
        answer.json().unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[tokio::test]
async fn problems_stand_beside_what_is_done_about_them() {
    let server = FakeTablet::start().await;
    let address = server.address.to_string();
    let reply = format!(r#"{{"problems": [{PROBLEM}], "decisions": [{DECISION}], "shards": "1"}}"#);
    server.answer(Fake::Message(message_of("vtelector", "ProblemsResponse", &reply)));
    let answer = ask(&address, "problems ks/0").await.unwrap();
    let printed = "\
SHARD  PRIORITY  PROBLEM      TABLET            SINCE                     WHY
ks/0   shard     DeadPrimary  zone1-0000000100  2025-10-09T08:53:20.000Z  its port refuses connections

SHARD  IS DONE  TABLET            SINCE                     WHY
ks/0   wait     zone1-0000000100  2025-10-09T08:53:21.000Z  an emergency reparent is due; BLOCKED by failover floor, until \
2025-10-09T08:53:25.000Z: the last one was 2s ago

shards looked after: 1, problems: 1";
    assert_eq!((answer.words.as_str(), answer.verdict), (printed, Verdict::Finding));

    let silent = r#"[{"elector": "e2:15999", "reason": "no answer within 1s"}]"#;
    let reply = format!(r#"{{"decisions": [{DECISION}], "shards": "1", "count": "7", "silent": {silent}}}"#);
    server.answer(Fake::Message(message_of("vtelector", "DecisionsResponse", &reply)));
    let answer = ask(&address, "decisions").await.unwrap();
    assert!(
        answer.words.contains("not: emergency reparent")
            && answer.words.contains("no answer within 1s")
            && answer.words.ends_with("shards looked after: 1, decisions: 1, the newest of 7"),
        "{}",
        answer.words
    );

    server.answer(Fake::Message(message_of("vtelector", "ListMaintenanceResponse", &format!(r#"{{"windows": [{WINDOW}]}}"#))));
    let answer = ask(&address, "maintenance list").await.unwrap();
    let printed = "MAINTENANCE  OF          UNTIL                     OWNER  REASON\n\
                   a1b2c3       shard:ks/0  2025-10-09T09:53:20.000Z  anna   new disks";
    assert_eq!(answer.words, printed);
}

#[tokio::test]
async fn an_event_is_one_line_of_words_or_of_json() {
    let server = FakeTablet::start().await;
    let lines = async |line: &str| {
        let event = format!(r#"{{"at": {{"seconds": "1760000000"}}, "keyspace": "ks", "shard": "0", "opened": {PROBLEM}}}"#);
        server.answer(Fake::Message(message_of("vtelector", "Event", &event)));
        let words = ["vtelector"].into_iter().chain(line.split_whitespace());
        let ClientCommand::Events(with) = Line::try_parse_from(words).unwrap().command else { panic!("{line}: no events") };
        let connection = Connection { server: server.address.to_string(), ..with.connection };
        let mut told = Vec::new();
        let ended = crate::cli::client::operate::events(&connection, with.own, |line| {
            told.push(line);
            Ok(())
        });
        ended.await.unwrap();
        told
    };
    let words = "2025-10-09T08:53:20.000Z  ks/0  problem: DeadPrimary zone1-0000000100: its port refuses connections";
    assert_eq!(lines("events ks").await, [words]);
    let json = lines("events --json").await;
    assert!(json[0].starts_with('{') && json[0].contains(r#""code":"DeadPrimary""#) && !json[0].contains('\n'), "{json:?}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    for (line, words) in [
        ("maintenance begin shard:ks/0 --reason x --who a", "--for"),
        ("maintenance begin shard:ks/0 --for 1h --who a", "--reason"),
        ("maintenance begin ks/0 --for 1h --reason x --who a", "tablet:zone1-101"),
        ("maintenance begin shard:ks/0 --for 1d --reason x --who a", "1d"),
        ("recoveries disable --who a", "--reason"),
        ("acknowledge --who a", "KEYSPACE"),
        ("history --limit 0", "--limit"),
        ("maintenance", "begin"),
    ] {
        let error = refused_by_parser(line);
        assert!(error.contains(words), "{line}: {error}");
    }
}
