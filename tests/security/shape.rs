//! Whoever refuses below `/api/v1`, the door, the guard or a handler: the shape is the one that the API's document describes.

use std::time::Duration;

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use vtelector::serve::Limits;

use crate::{
    house::{Answer, House, basic, read, send},
    users::house_of_users,
};

const COMMAND: &str = "/api/v1/recoveries";
const BODY: &str = r#"{"enabled": true, "who": "anna"}"#;

/// The answer is this refusal, and the document says so of the path.
#[track_caller]
fn refuses(answer: &Answer, path: &str, method: &str, status: u16, code: &str) {
    assert!(answer.status == status && answer.head.contains("content-type: application/json"), "{status} expected: {answer:?}");
    let told: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let error = told["error"].as_object().unwrap_or_else(|| panic!("{answer:?}"));
    assert!(told.as_object().unwrap().len() == 1 && error.len() == 2, "{answer:?}");
    assert_eq!(error["code"], code, "{answer:?}");
    assert!(error["message"].as_str().is_some_and(|words| words.len() > 5 && !words.ends_with('\n')), "{answer:?}");
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let described = &document["paths"][path][method]["responses"][status.to_string()];
    assert_eq!(described["$ref"], format!("#/components/responses/{status}"), "{path} {method}");
    let headers = &document["components"]["responses"][status.to_string()]["headers"];
    for name in headers.as_object().into_iter().flat_map(|headers| headers.keys()) {
        assert!(answer.head.contains(&format!("{}: ", name.to_lowercase())), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn who_may_not_come_in_or_may_not_do_this() {
    let house = house_of_users().await;
    for path in ["/api/v1/status", "/api/v1/events", "/api/v1/commands"] {
        refuses(&house.get(path, "").await, path, "get", 401, "UNAUTHENTICATED");
        refuses(&house.get(path, &basic("anna", "b1")).await, path, "get", 401, "UNAUTHENTICATED");
    }
    refuses(&house.post(COMMAND, "", BODY).await, COMMAND, "post", 401, "UNAUTHENTICATED");
    refuses(&house.post(COMMAND, &basic("bert", "b1"), BODY).await, COMMAND, "post", 403, "PERMISSION_DENIED");
    let cross_site = format!("{}Sec-Fetch-Site: cross-site\r\n", basic("anna", "a1"));
    refuses(&house.post(COMMAND, &cross_site, BODY).await, COMMAND, "post", 403, "PERMISSION_DENIED");
    // What is no path of the API, and no path at all, tells nobody whether it is one.
    for path in ["/api/v1", "/api/v1/nothing"] {
        let refused = house.get(path, "").await;
        assert!(refused.status == 401 && refused.body.starts_with(r#"{"error""#), "{refused:?}");
    }
    for path in ["/", "/api/v1x", "/api/problems"] {
        let refused = house.get(path, "").await;
        assert!(refused.status == 401 && refused.head.contains("content-type: text/plain"), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_too_slow_or_too_much() {
    let impatient = |limits| Limits { body_wait: Duration::from_secs(1), ..limits };
    let house = House::with_limits(&[], "", impatient).await;
    let head = format!(
        "POST {COMMAND} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: "
    );
    let large = send(house.server.http, &format!("{head}100000\r\n\r\n")).await;
    refuses(&large, COMMAND, "post", 413, "RESOURCE_EXHAUSTED");
    let mut slow = TcpStream::connect(house.server.http).await.unwrap();
    slow.write_all(format!("{head}100\r\n\r\nhalf").as_bytes()).await.unwrap();
    refuses(&read(slow).await.unwrap(), COMMAND, "post", 408, "DEADLINE_EXCEEDED");
    let text = "Content-Type: text/plain\r\n";
    let request =
        format!("POST {COMMAND} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{text}Content-Length: 2\r\n\r\n{{}}");
    refuses(&send(house.server.http, &request).await, COMMAND, "post", 415, "INVALID_ARGUMENT");

    let house = House::start(&[], "--client-requests-per-second=2").await;
    let mut refused = 0;
    for _ in 0..20 {
        let answer = house.get("/api/v1/status", "").await;
        if answer.status != 200 {
            refuses(&answer, "/api/v1/status", "get", 429, "RESOURCE_EXHAUSTED");
            refused += 1;
        }
    }
    assert!(refused > 0, "none of 20 was refused");
}
