//! What no handler can mean: the right status, a sentence, and nothing is changed.

use crate::{
    http::{self, Answer},
    scene::Scene,
};

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, words: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code, "{what}: {answer:?}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{what}: {words:?} is not in {answer:?}");
}

#[tokio::test]
async fn paths_and_queries_that_cannot_be_meant() {
    let scene = Scene::start().await;
    for (path, status, code, words) in [
        ("/api/v1", 404, "NOT_FOUND", "openapi.json"),
        ("/api/v1/", 404, "NOT_FOUND", "openapi.json"),
        ("/api/v1/shard", 404, "NOT_FOUND", "/api/v1/shard is no path"),
        ("/api/v1/shards/commerce/0/tablets", 404, "NOT_FOUND", "no path"),
        ("/api/v1/shards/../../etc/passwd", 404, "NOT_FOUND", "no path"),
        ("/api/v1/shards/commerce/80-", 404, "NOT_FOUND", "commerce/80-"),
        ("/api/v1/shards/nowhere/0", 404, "NOT_FOUND", "nowhere"),
        ("/api/v1/shards/comm%2Ferce/0", 400, "INVALID_ARGUMENT", "comm/erce"),
        ("/api/v1/shards/%ff/0", 400, "INVALID_ARGUMENT", "path"),
        ("/api/v1/shards/commerce/0?foretell=maybe", 400, "INVALID_ARGUMENT", "true or false"),
        ("/api/v1/shards/commerce/0?keyspace=other", 400, "INVALID_ARGUMENT", "keyspace is there twice"),
        ("/api/v1/shards?shards=0", 400, "INVALID_ARGUMENT", "there are keyspace, shard, only_mine"),
        ("/api/v1/shards?shard=0", 400, "INVALID_ARGUMENT", "without a keyspace"),
        ("/api/v1/shards?keyspace=%zz", 400, "INVALID_ARGUMENT", "cannot be read"),
        ("/api/v1/shards?keyspace=nowhere", 404, "NOT_FOUND", "nowhere"),
        ("/api/v1/status?x=1", 400, "INVALID_ARGUMENT", "there are none"),
        ("/api/v1/history?limit=many", 400, "INVALID_ARGUMENT", "limit"),
        ("/api/v1/history?limit=4294967296", 400, "INVALID_ARGUMENT", "limit"),
    ] {
        refused(&scene.get(path).await, status, code, words, path);
    }
    let long = format!("/api/v1/shards/{}/0", "a".repeat(20_000));
    let answer = scene.get(&long).await;
    assert!(matches!(answer.status, 400 | 404 | 414 | 431) && answer.body.len() < 60_000, "{answer:?}");
}

#[tokio::test]
async fn bodies_methods_and_types_that_cannot_be_meant() {
    let scene = Scene::start().await;
    let address = scene.world.server.http;
    let begin = "/api/v1/maintenance/begin";
    for (body, words) in [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        (r#"{"scopes": "x"}"#, "scopes"),
        (r#"{"scope": 1}"#, "cannot be meant"),
        (r#"{"scope": "shard:commerce/0", "owner": "anna", "reason": "x"}"#, "duration"),
        (r#"{"scope": "shard:commerce/0", "owner": "anna", "reason": "x", "duration": {"seconds": -5}}"#, "duration"),
        (r#"{"scope": "moon:1", "owner": "anna", "reason": "x", "duration": {"seconds": 60}}"#, "scope"),
        (r#"{"scope": "shard:commerce/0", "owner": "", "reason": "x", "duration": {"seconds": 60}}"#, "owner"),
    ] {
        refused(&http::post(address, begin, body).await, 400, "INVALID_ARGUMENT", words, body);
    }
    let deep = "[".repeat(50_000);
    refused(&http::post(address, begin, &deep).await, 400, "INVALID_ARGUMENT", "no JSON", "brackets");
    let large = format!(r#"{{"reason": "{}"}}"#, "x".repeat(2 << 20));
    let answer = http::post(address, begin, &large).await;
    assert!(answer.status == 413 && answer.body.contains("too large"), "{answer:?}");
    let body = r#"{"enabled": false, "who": "anna", "why": "x"}"#;
    for (headers, what) in [
        (&[][..], "no type"),
        (&[("Content-Type", "text/plain")], "text"),
        (&[("Content-Type", "application/x-www-form-urlencoded")], "a form"),
    ] {
        let answer = http::ask(address, "POST", "/api/v1/recoveries", headers, body).await;
        refused(&answer, 415, "INVALID_ARGUMENT", "application/json", what);
    }
    let answer = http::post(address, "/api/v1/recoveries?enabled=false", body).await;
    refused(&answer, 400, "INVALID_ARGUMENT", "into the body", "a query with a command");
    for method in ["PUT", "DELETE", "PATCH", "GET"] {
        let answer = http::ask(address, method, "/api/v1/recoveries", &[], "").await;
        refused(&answer, 405, "UNIMPLEMENTED", "use POST", method);
        assert_eq!(answer.header("allow"), "POST");
    }
    let state = scene.world.server.elector.ledger.state();
    assert!(
        state.recoveries_disabled().is_none()
            && scene.get("/api/v1/maintenance").await.json()["windows"] == serde_json::json!([])
    );
}

#[tokio::test]
async fn commands_from_elsewhere_are_refused_in_this_apis_shape() {
    let scene = Scene::start().await;
    let address = scene.world.server.http;
    let body = r#"{"enabled": false, "who": "anna", "why": "x"}"#;
    for header in [("X-Forwarded-For", "10.0.0.1"), ("Forwarded", "for=10.0.0.1")] {
        let headers = [("Content-Type", "application/json"), header];
        let answer = http::ask(address, "POST", "/api/v1/recoveries", &headers, body).await;
        refused(&answer, 403, "PERMISSION_DENIED", "", header.0);
    }
    assert!(scene.world.server.elector.ledger.state().recoveries_disabled().is_none());
    let answer =
        http::raw(address, "GET /api/v1/shards HTTP/1.1\r\nHost: localhost\r\nHost: other\r\nConnection: close\r\n\r\n").await;
    assert!(answer.status == 200 || answer.status == 400, "{answer:?}");
}
