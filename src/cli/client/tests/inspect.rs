//! Shards and the explanation of one: what is sent, what a person reads, and the exit code.

use super::*;

fn reply(name: &str, json: &str) -> Fake {
    Fake::Message(message_of("vtelector", name, json))
}

#[tokio::test]
async fn shards_are_a_table_with_the_silent_below() {
    let server = FakeTablet::start().await;
    let json = r#"{"shards": [
        {"keyspace": "ks", "shard": "-80", "state": "OK", "primary": {"cell": "zone1", "uid": 100}, "replicas": 2, "replicating": 2,
         "durability_policy": "semi_sync", "evidence_age_ms": "1234", "elector": "e1:15999", "mine": true},
        {"keyspace": "ks", "shard": "80-", "state": "DOWN", "replicas": 2, "elector": "e1:15999", "problems": 2,
         "worst": {"code": "DeadPrimary", "tablet_alias": {"cell": "zone1", "uid": 200}}, "in_maintenance": true},
        {"keyspace": "lost", "shard": "0", "tablets": 3, "durability_policy": "none"}],
        "silent": [{"elector": "e2:15999", "reason": "no answer within 1s"}]}"#;
    server.answer(reply("ShardsResponse", json));
    let answer = ask(&server.address.to_string(), "shards ks").await.unwrap();
    let sent = server.received().pop().unwrap();
    assert_eq!(sent.path, "/vtelector.Elector/Shards");
    assert_eq!(sent.message, message_of("vtelector", "ShardsRequest", r#"{"keyspace": "ks"}"#));
    assert_eq!(answer.verdict, Verdict::Finding);
    for line in [
        "ks/-80  ok                    zone1-0000000100  2 of 2       semi_sync  1.2 s old  e1:15999  -",
        "ks/80-  DOWN, in maintenance  -                 0 of 2       -          -          e1:15999  DeadPrimary zone1-0000000200 and 1 more",
        "lost/0  unknown               -                 -            none       -          -         -",
        "e2:15999        no answer within 1s",
        "shards: 3; down: 1, degraded: 0, unknown: 1",
    ] {
        assert!(answer.words.lines().any(|found| found == line), "{line}\nis missing in\n{}", answer.words);
    }
}

#[tokio::test]
async fn an_explanation_says_what_is_wrong_what_was_decided_and_what_stands_in_the_way() {
    let server = FakeTablet::start().await;
    let json = r#"{"summary": {"keyspace": "ks", "shard": "0", "state": "DOWN", "primary": {"cell": "zone1", "uid": 100},
            "primary_hostname": "h1", "durability_policy": "semi_sync", "elector": "e1:15999", "replicas": 1},
        "tablets": [
            {"alias": {"cell": "zone1", "uid": 100}, "declared_type": "PRIMARY", "read_only": false, "channels": [
                {"name": "MySQL", "works": false, "failing_for_ms": "2500", "failure": "refused", "words": "nobody listens"}]},
            {"alias": {"cell": "zone1", "uid": 101}, "declared_type": "REPLICA", "observed_type": "REPLICA", "version": "8.0.36",
             "super_read_only": true, "status_age_ms": "900", "errant": "aaaa:1-3", "replication": {"source": "h1:3306",
             "source_alias": {"cell": "zone1", "uid": 100}, "io_thread": "connecting", "sql_running": true, "lag_ms": "7000"}}],
        "problems": [{"code": "DeadPrimary", "priority": "shard", "tablet_alias": {"cell": "zone1", "uid": 100},
            "remedy": "emergency reparent", "why": "its port refuses connections"}],
        "decisions": [{"action": "wait", "why": "a promotion was just now",
            "rejected": [{"action": "emergency reparent", "why": "the floor of 5s"}],
            "blocked": {"by": "failover floor", "reason": "the last one was 2s ago"}}],
        "maintenance": [{"id": "a1", "scope": "shard:ks/0", "owner": "anna", "reason": "new disks"}],
        "recoveries_disabled": {"who": "bob", "why": "rack move"}, "emergency_disabled": true,
        "unread": ["cell zone9: no answer"]}"#;
    server.answer(reply("ExplainResponse", json));
    let answer = ask(&server.address.to_string(), "explain ks/0 --limit 3").await.unwrap();
    let sent = server.received().pop().unwrap();
    let request = message_of("vtelector", "ExplainRequest", r#"{"keyspace": "ks", "shard": "0", "limit": 3}"#);
    assert_eq!((sent.path.as_str(), sent.message.to_vec()), ("/vtelector.Elector/Explain", request));
    assert_eq!(answer.verdict, Verdict::Finding);
    for words in [
        "state        DOWN",
        "recoveries are DISABLED by bob since -: rack move",
        "emergency reparents are forbidden here",
        "maintenance a1 of shard:ks/0 until - by anna: new disks",
        "could not be read: cell zone9: no answer",
        "zone1-0000000101  replica   replica  8.0.36  super read-only  zone1-0000000100  connecting, running  7.0 s  0.9 s ago",
        "zone1-0000000100  MySQL    never      2.5 s      refused: nobody listens",
        "zone1-0000000100  primary   -        -       was writable",
        "zone1-0000000101  aaaa:1-3",
        "shard     DeadPrimary  zone1-0000000100  -      emergency reparent  its port refuses connections",
        "not: emergency reparent",
        "BLOCKED by failover floor: the last one was 2s ago",
    ] {
        assert!(answer.words.contains(words), "{words}\nis missing in\n{}", answer.words);
    }
}

#[tokio::test]
async fn a_healthy_shard_is_said_to_be() {
    let server = FakeTablet::start().await;
    server.answer(reply("ExplainResponse", r#"{"summary": {"keyspace": "ks", "shard": "0", "state": "OK"}}"#));
    let answer = ask(&server.address.to_string(), "explain ks/0 --foretell").await.unwrap();
    assert_eq!(answer.verdict, Verdict::Well);
    assert!(answer.words.contains("NO PROBLEM IS OPEN"), "{}", answer.words);
    let sent = server.received().pop().unwrap().message;
    assert_eq!(
        sent,
        message_of("vtelector", "ExplainRequest", r#"{"keyspace": "ks", "shard": "0", "foretell": true, "limit": 10}"#)
    );
    for (line, words) in [("explain ks", "KEYSPACE/SHARD"), ("explain ks/0 --limit 0", "--limit"), ("shards ks/", "shard")] {
        assert!(refused_by_parser(line).contains(words), "{line}");
    }
}

#[tokio::test]
async fn commands_are_listed_with_who_asked() {
    let server = FakeTablet::start().await;
    let json = r#"{"commands": [{"at": {"seconds": "1760000000"}, "caller": "anna", "proven_by": "certificate", "from": "10.0.0.1",
        "call": "BeginMaintenance", "target": "shard:ks/0", "outcome": "done"}]}"#;
    server.answer(reply("CommandsResponse", json));
    let answer = ask(&server.address.to_string(), "commands ks --limit 5").await.unwrap();
    let sent = server.received().pop().unwrap();
    let request = message_of("vtelector", "CommandsRequest", r#"{"keyspace": "ks", "limit": 5}"#);
    assert_eq!((sent.path.as_str(), sent.message.to_vec()), ("/vtelector.Elector/Commands", request));
    let line = "2025-10-09T08:53:20.000Z  BeginMaintenance  shard:ks/0  anna  certificate  10.0.0.1  done     -";
    assert!(answer.words.lines().any(|found| found == line), "{}", answer.words);
    server.answer(reply("CommandsResponse", "{}"));
    assert_eq!(ask(&server.address.to_string(), "commands").await.unwrap().words, "nobody asked for anything");
}
