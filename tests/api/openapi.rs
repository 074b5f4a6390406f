//! The document of the API is what the handlers do.

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;
use serde_json::Value;
use vtelector::pb;

use crate::{
    http::{self, Answer},
    scene::Scene,
};

/// What electors ask of each other is no part of the API.
const NOT_HERE: &str = "Observe";

fn committed() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn generated_document_is_the_committed_one() {
    let schema = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let document = vtelector::serve::openapi(&schema);
    if std::env::var_os("WRITE_DOCS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        return std::fs::write(path, format!("{document:#}\n")).unwrap();
    }
    assert!(document == committed(), "docs/openapi.json does not say what the code says; WRITE_DOCS=1 writes it anew");
}

/// Whether a value is as a schema says. What the schema does not use, this does not know, and says so.
fn check(value: &Value, schema: &Value, document: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere"));
        return check(value, target, document, place);
    }
    match schema["type"].as_str().unwrap_or_else(|| panic!("{place}: {schema}")) {
        "object" => {
            let fields = value.as_object().unwrap_or_else(|| panic!("{place} is {value}"));
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(name.as_str().unwrap()), "{place} has no {name}");
            }
            for (name, field) in fields {
                let inner = match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, Value::Bool(false)) => panic!("{place}: {name} is not described"),
                    (Value::Null, of_each) => of_each,
                    (described, _) => described,
                };
                check(field, inner, document, &format!("{place}.{name}"));
            }
        }
        "array" => {
            let items = value.as_array().unwrap_or_else(|| panic!("{place} is {value}"));
            items.iter().for_each(|item| check(item, &schema["items"], document, &format!("{place}[]")));
        }
        "string" => {
            let text = value.as_str().unwrap_or_else(|| panic!("{place} is {value}"));
            if matches!(schema["format"].as_str(), Some("int64" | "uint64")) {
                assert!(text.parse::<i128>().is_ok(), "{place} is {text}");
            }
            let names = schema["enum"].as_array();
            assert!(names.is_none_or(|names| names.iter().any(|name| name == text)), "{place} is {text}");
        }
        "integer" => assert!(value.is_i64() || value.is_u64(), "{place} is {value}"),
        "number" => assert!(value.is_number(), "{place} is {value}"),
        "boolean" => assert!(value.is_boolean(), "{place} is {value}"),
        other => panic!("{place}: the type {other}"),
    }
}

fn fits(answer: &Answer, operation: &Value, document: &Value, place: &str) {
    assert_eq!(answer.header("content-type"), "application/json", "{place}: {answer:?}");
    let described = &operation["responses"][answer.status.to_string()];
    let described = match described["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}")),
        None => described,
    };
    check(&answer.json(), &described["content"]["application/json"]["schema"], document, place);
}

/// A stream begins as described, and says what is wrong as everything else does.
async fn streams(address: std::net::SocketAddr, path: &str, operation: &Value, document: &Value) {
    let (head, event) = http::first_event(address, &format!("{path}?keyspace=commerce&shard=0&after_sequence=0")).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    check(&event, &operation["responses"]["200"]["content"]["text/event-stream"]["schema"], document, path);
    let known: Vec<_> = operation["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(known, ["keyspace", "shard", "after_sequence", "Last-Event-ID"]);
    for (query, header, status) in [
        ("shard=0", "0", 400),
        ("keyspaces=commerce", "0", 400),
        ("after_sequence=soon", "0", 400),
        ("keyspace=nowhere", "0", 404),
        ("keyspace=commerce", "soon", 400),
    ] {
        let answer = http::ask(address, "GET", &format!("{path}?{query}"), &[("Last-Event-ID", header)], "").await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        fits(&answer, operation, document, path);
    }
}

#[tokio::test]
async fn every_path_and_method_of_the_document_is_answered_as_described() {
    let scene = Scene::start().await;
    let address = scene.world.server.http;
    let document = http::get(address, "/api/v1/openapi.json").await.json();
    assert_eq!(document, committed());
    let mut calls = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{keyspace}", "commerce").replace("{shard}", "0");
        for (method, operation) in methods.as_object().unwrap() {
            calls.insert(operation["operationId"].as_str().unwrap().to_owned());
            for text in [&operation["summary"], &operation["description"]] {
                assert!(text.as_str().is_some_and(|text| text.len() > 5), "{path} {method}: {text}");
            }
            if operation["responses"]["200"]["content"]["text/event-stream"].is_object() {
                streams(address, &path, operation, &document).await;
            } else {
                let answer = match method.as_str() {
                    "get" => http::get(address, &path).await,
                    // Without the fields that it needs nothing is done, and that is said.
                    _ => http::post(address, &path, "{}").await,
                };
                let expected: &[u16] = if method == "get" { &[200] } else { &[200, 400] };
                assert!(expected.contains(&answer.status), "{method} {path}: {answer:?}");
                fits(&answer, operation, &document, &path);
            }
            let other = if method == "get" { "DELETE" } else { "PUT" };
            let answer = http::ask(address, other, &path, &[("Content-Type", "application/json")], "{}").await;
            assert_eq!(answer.status, 405, "{other} {path}: {answer:?}");
            assert!(answer.header("allow").contains(&method.to_uppercase()), "{path}: {answer:?}");
        }
    }
    let schema = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let service = schema.get_service_by_name("vtelector.Elector").unwrap();
    let served: BTreeSet<String> = service.methods().map(|call| call.name().to_owned()).filter(|name| name != NOT_HERE).collect();
    assert_eq!(calls, served, "every call has a path");
}

#[tokio::test]
async fn questions_with_everything_in_them_are_answered_as_described() {
    let scene = Scene::start().await;
    let document = committed();
    for (path, operation) in [
        ("/api/v1/shards?keyspace=commerce&shard=0", "/api/v1/shards"),
        ("/api/v1/shards/commerce/0?foretell=true&limit=3", "/api/v1/shards/{keyspace}/{shard}"),
        ("/api/v1/tablets?only_troubled=true", "/api/v1/tablets"),
        ("/api/v1/problems?keyspace=commerce", "/api/v1/problems"),
        ("/api/v1/errant-gtids?only_mine=1", "/api/v1/errant-gtids"),
        ("/api/v1/history?limit=5", "/api/v1/history"),
    ] {
        let answer = scene.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        fits(&answer, &document["paths"][operation]["get"], &document, path);
    }
    let shard = scene.get("/api/v1/shards/commerce/0?foretell=true").await.json();
    assert_eq!(shard["tablets"].as_array().unwrap().len(), 3);
    assert_eq!((&shard["foretold"]["was_dry_run"], &shard["summary"]["tablets"]), (&true.into(), &3.into()));
    let tablet = &shard["tablets"][1];
    assert_eq!(
        (&tablet["errant"], &tablet["semi_sync"]["replica_enabled"]),
        (&format!("{}:1-3", crate::scene::R).into(), &false.into())
    );
}

#[tokio::test]
async fn commands_are_done_and_seen_in_the_answers_to_questions() {
    let scene = Scene::start().await;
    let address = scene.world.server.http;
    let document = committed();
    let body = r#"{"scope": "shard:commerce/0", "owner": "anna", "reason": "new disks", "duration": {"seconds": 7200}}"#;
    let begun = http::post(address, "/api/v1/maintenance/begin", body).await;
    fits(&begun, &document["paths"]["/api/v1/maintenance/begin"]["post"], &document, "begin");
    let id = begun.json()["window"]["id"].as_str().unwrap().to_owned();
    let listed = scene.get("/api/v1/maintenance").await.json();
    assert_eq!((&listed["windows"][0]["id"], &listed["windows"][0]["owner"]), (&id.as_str().into(), &"anna".into()));
    let ended = http::post(address, "/api/v1/maintenance/end", &format!(r#"{{"id": "{id}"}}"#)).await;
    assert_eq!(ended.status, 200, "{ended:?}");
    let again = http::post(address, "/api/v1/maintenance/end", &format!(r#"{{"id": "{id}"}}"#)).await;
    assert_eq!((again.status, again.json()["error"]["code"].as_str()), (404, Some("NOT_FOUND")));
    let body = r#"{"enabled": false, "who": "anna", "why": "rack move"}"#;
    assert_eq!(http::post(address, "/api/v1/recoveries", body).await.status, 200);
    let status = scene.until("/api/v1/status", "a switch", |answer| answer.body.contains("rack move")).await;
    fits(&status, &document["paths"]["/api/v1/status"]["get"], &document, "status");
    let body = r#"{"request": {"keyspace": "commerce", "shard": "0"}, "dry_run": true}"#;
    let foretold = http::post(address, "/api/v1/reparents/emergency", body).await;
    fits(&foretold, &document["paths"]["/api/v1/reparents/emergency"]["post"], &document, "emergency");
    assert_eq!(foretold.json()["was_dry_run"], true, "{foretold:?}");
}
