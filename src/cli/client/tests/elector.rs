//! The calls that only vtelector serves.

use super::*;

/// Command line, call, name of the request, request, answer, verdict, what is printed.
type Story = (&'static str, &'static str, &'static str, &'static str, &'static str, Verdict, &'static str);

const DECISION: &str = r#"{"operation": "EmergencyReparentShard", "keyspace": "ks", "shard": "0", "policy": "semi_sync",
    "old_primary": {"cell": "zone1", "uid": 100}, "elect": {"cell": "zone1", "uid": 101}, "source": {"cell": "zone1", "uid": 103},
    "proofs": [{"name": "revoked", "holds": true, "because": "zone1-0000000101 and zone1-0000000103 are stopped"},
        {"name": "complete", "holds": true, "because": "zone1-0000000103 has everything"}],
    "tablets": [{"alias": {"cell": "zone1", "uid": 100}, "type": "PRIMARY", "reach": "not reached: FullStatus: refused",
            "rejected": "it was not reached: FullStatus: refused"},
        {"alias": {"cell": "zone1", "uid": 101}, "type": "REPLICA", "reach": "stopped", "received": "a:1-9", "executed": "a:1-9"},
        {"alias": {"cell": "zone1", "uid": 103}, "type": "RDONLY", "reach": "stopped", "received": "a:1-10", "executed": "a:1-8",
            "errant": "b:1", "rejected": "RDONLY is never promoted"}],
    "steps": ["stop the replicas", "promote zone1-0000000101"], "caveats": ["zone1-0000000100 is not fenced"]}"#;

const DECIDED: &str = "\
operation          EmergencyReparentShard
policy             semi_sync
old primary        zone1-0000000100
new primary        zone1-0000000101
copies first from  zone1-0000000103

PROOF     HOLDS  BECAUSE
revoked   yes    zone1-0000000101 and zone1-0000000103 are stopped
complete  yes    zone1-0000000103 has everything

TABLET            TYPE     REACHED      WHY NOT
zone1-0000000100  primary  not reached  it was not reached: FullStatus: refused
zone1-0000000101  replica  stopped      (the new primary)
zone1-0000000103  rdonly   stopped      RDONLY is never promoted

TABLET                      POSITION
zone1-0000000101  received  a:1-9
                  executed  all of it
zone1-0000000103  received  a:1-10
                  executed  a:1-8
                  ERRANT    b:1

STEPS
1. stop the replicas
2. promote zone1-0000000101

CAVEATS
1. zone1-0000000100 is not fenced

ks/0: zone1-0000000101 would become primary
nothing was changed";

#[tokio::test]
async fn a_dry_run_shows_the_whole_decision() {
    let server = FakeTablet::start().await;
    let reply = format!(
        r#"{{"keyspace": "ks", "shard": "0", "was_dry_run": true, "decision": {DECISION},
        "would_promote": {{"cell": "zone1", "uid": 101}}}}"#
    );
    server.answer(Fake::Message(message_of("vtelector", "ReparentResponse", &reply)));
    let answer = ask(&server.address.to_string(), "emergency-reparent-shard ks/0 --dry-run").await.unwrap();
    assert_eq!((answer.words.as_str(), answer.verdict), (DECIDED, Verdict::Well));
}

const STORIES: [Story; 7] = [
    (
        "EmergencyReparentShard ks/0 --dry-run --wait-replicas-timeout 1s",
        "EmergencyReparent",
        "EmergencyReparentRequest",
        r#"{"dry_run": true, "request": {"keyspace": "ks", "shard": "0", "wait_replicas_timeout": {"seconds": "1"}}}"#,
        r#"{"keyspace": "ks", "shard": "0", "was_dry_run": true, "refusal": {"code": 9, "message": "zone1-0000000102 could still commit"},
            "decision": {"operation": "EmergencyReparentShard", "proofs": [{"name": "revoked", "because": "zone1-0000000102"}],
            "tablets": [{"alias": {"cell": "zone1", "uid": 102}, "type": "REPLICA", "reach": "not reached: it hangs"}]}}"#,
        Verdict::WouldBeRefused,
        "operation    EmergencyReparentShard\npolicy       -\nold primary  -\nnew primary  -\n\n\
         PROOF    HOLDS  BECAUSE\nrevoked  NO     zone1-0000000102\n\n\
         TABLET            TYPE     REACHED      WHY NOT\nzone1-0000000102  replica  not reached  it hangs\n\n\
         ks/0: WOULD BE REFUSED, FailedPrecondition: zone1-0000000102 could still commit\nnothing was changed",
    ),
    (
        "emergency-reparent-shard ks/0 --new-primary zone1-102 --accept-loss u:1-5 --choose-side --allow-not-established",
        "EmergencyReparent",
        "EmergencyReparentRequest",
        r#"{"accept_loss": "u:1-5", "choose_side": true, "allow_not_established": true, "request": {"keyspace": "ks", "shard": "0",
            "new_primary": {"cell": "zone1", "uid": 102}, "wait_replicas_timeout": {"seconds": "15"}}}"#,
        r#"{"keyspace": "ks", "shard": "0", "promoted_primary": {"cell": "zone1", "uid": 102}, "events": [{"value": "promoted"}]}"#,
        Verdict::Well,
        "-  promoted\nks/0: zone1-0000000102 is primary",
    ),
    (
        "planned-reparent-shard ks/0 --dry-run --abrupt",
        "PlannedReparent",
        "PlannedReparentRequest",
        r#"{"dry_run": true, "mode": "ABRUPT", "request": {"keyspace": "ks", "shard": "0", "wait_replicas_timeout": {"seconds": "15"},
            "tolerable_replication_lag": {}}}"#,
        r#"{"keyspace": "ks", "shard": "0", "was_dry_run": true}"#,
        Verdict::Well,
        "ks/0: nothing to do\nnothing was changed",
    ),
    (
        "errant-gtids",
        "ErrantGtids",
        "ErrantGtidsRequest",
        "{}",
        r#"{"judged": "3"}"#,
        Verdict::Well,
        "judged: 3, errant: 0, not known: 0",
    ),
    (
        "errant-gtids ks",
        "ErrantGtids",
        "ErrantGtidsRequest",
        r#"{"keyspace": "ks"}"#,
        r#"{"judged": "1", "errant": [{"keyspace": "ks", "shard": "0", "tablet_alias": {"cell": "zone1", "uid": 102}, "errant": "b:1-3",
            "count": "3", "compared_with": {"cell": "zone1", "uid": 101}, "age_ms": "1050"}]}"#,
        Verdict::Finding,
        "TABLET            SHARD  ERRANT  COMPARED WITH     AGE      TRANSACTIONS\n\
         zone1-0000000102  ks/0   3       zone1-0000000101  1.050 s  b:1-3\n\njudged: 1, errant: 1, not known: 0",
    ),
    (
        "ErrantGtids ks/-80",
        "ErrantGtids",
        "ErrantGtidsRequest",
        r#"{"keyspace": "ks", "shard": "-80"}"#,
        r#"{"unjudged": [{"keyspace": "ks", "shard": "-80", "tablet_alias": {"cell": "zone1", "uid": 102}, "reason": "no answer"}]}"#,
        Verdict::Finding,
        "TABLET            SHARD   ERRANT  COMPARED WITH  AGE  TRANSACTIONS\n\
         zone1-0000000102  ks/-80  ?       -              -    not known: no answer\n\njudged: 0, errant: 0, not known: 1",
    ),
    (
        "planned-reparent-shard ks/0 --dry-run",
        "PlannedReparent",
        "PlannedReparentRequest",
        r#"{"dry_run": true, "request": {"keyspace": "ks", "shard": "0", "wait_replicas_timeout": {"seconds": "15"},
            "tolerable_replication_lag": {}}}"#,
        r#"{"keyspace": "ks", "shard": "0", "was_dry_run": true, "refusal": {"code": 14, "message": "no answer from zone1"}}"#,
        Verdict::WouldBeRefused,
        "ks/0: WOULD BE REFUSED, Unavailable: no answer from zone1\nnothing was changed",
    ),
];

#[tokio::test]
async fn what_only_vtelector_knows_is_asked_of_its_own_service() {
    let server = FakeTablet::start().await;
    let address = server.address.to_string();
    for (line, call, name, request, reply, verdict, printed) in STORIES {
        let kind = if call == "ErrantGtids" { "ErrantGtidsResponse" } else { "ReparentResponse" };
        server.answer(Fake::Message(message_of("vtelector", kind, reply)));
        let answer = ask(&address, line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        let sent = server.received().pop().unwrap();
        assert_eq!(sent.path, format!("/vtelector.Elector/{call}"), "{line}");
        assert_eq!(sent.message, message_of("vtelector", name, request), "{line}");
        assert_eq!((answer.words.as_str(), answer.verdict), (printed, verdict), "{line}");
        answer.json().unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[tokio::test]
async fn a_vtctld_is_not_asked_without_the_option_that_it_does_not_know() {
    let server = FakeTablet::start().await;
    for option in ["--dry-run", "--accept-loss u:1", "--allow-not-established", "--new-primary zone1-1 --choose-side"] {
        server.answer(Fake::Status(Status::unimplemented("unknown service vtelector.Elector")));
        let error = ask(&server.address.to_string(), &format!("emergency-reparent-shard ks/0 {option}")).await.err().unwrap();
        assert!(matches!(error, ClientError::NotOurs(_)) && error.to_string().contains("nothing was done"), "{error}");
        assert_eq!(server.received().pop().unwrap().path, "/vtelector.Elector/EmergencyReparent");
    }
}

#[test]
fn scripts_tell_a_refusal_from_a_failure() {
    let codes = [Verdict::Well, Verdict::Finding, Verdict::WouldBeRefused].map(Verdict::exit_code);
    assert_eq!(codes, [0, 1, 3]);
}
