//! What is too large, too slow or too much, at each face.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::Code;
use vtelector::{
    pb::{
        vtctldata::{GetKeyspaceRequest, GetKeyspacesRequest},
        vtctlservice::vtctld_client::VtctldClient,
    },
    serve::Limits,
};

use crate::house::{House, SOON, read, send};

const POST: &str =
    "POST /api/v1/recoveries HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";

fn impatient(limits: Limits) -> Limits {
    Limits { headers_wait: Duration::from_secs(1), body_wait: Duration::from_secs(1), ..limits }
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_a_sentence() {
    let house = House::start(&[], "").await;
    let words = "the body is too large; 64 KiB are taken";
    send(house.server.http, &format!("{POST}Content-Length: 100000\r\n\r\n")).await.says(413, words);
    // Its length is not told beforehand.
    let chunk = format!("{:x}\r\n{}\r\n", 40_000, "x".repeat(40_000));
    send(house.server.http, &format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}")).await.says(413, words);
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    assert_eq!(house.get("/livez", &long).await.status, 431);
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(house.get("/livez", &many).await.status, 431);

    let mut client = VtctldClient::new(house.plain());
    let refused = client.get_keyspace(GetKeyspaceRequest { keyspace: "x".repeat(17 << 20) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("16777216"), "{refused}");
    client.get_keyspaces(GetKeyspacesRequest {}).await.expect("the next one is answered");
}

#[tokio::test]
async fn how_large_a_message_may_be_is_a_setting() {
    let house = House::start(&[], "--grpc-max-message-size=20971520").await;
    let mut client = VtctldClient::new(house.plain());
    let refused = client.get_keyspace(GetKeyspaceRequest { keyspace: "x".repeat(21 << 20) }).await.unwrap_err();
    assert!(refused.code() == Code::OutOfRange && refused.message().contains("20971520"), "{refused}");
    let taken = client.get_keyspace(GetKeyspaceRequest { keyspace: "x".repeat(17 << 20) }).await.unwrap_err();
    assert_eq!(taken.code(), Code::InvalidArgument, "it was read: {taken}");
}

#[tokio::test]
async fn connections_of_all_addresses_together_are_bounded() {
    let house = House::start(&[], "--client-connections-max=2").await;
    let _held = [TcpStream::connect(house.server.http).await.unwrap(), TcpStream::connect(house.server.http).await.unwrap()];
    let mut answer = Vec::new();
    let mut refused = TcpStream::connect(house.server.http).await.unwrap();
    timeout(SOON, refused.read_to_end(&mut answer)).await.expect("closed at once").ok();
    assert!(String::from_utf8_lossy(&answer).contains("too many connections"), "{answer:?}");
}

#[tokio::test]
async fn who_is_too_slow_is_cut_off_and_holds_up_nobody() {
    let house = House::with_limits(&[], "", impatient).await;
    let begun = async |text: &str| {
        let mut stream = TcpStream::connect(house.server.http).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    };
    let slow = [begun("").await, begun("GET /livez HTTP/1.1\r\nHost: loc").await];
    let half_a_body = begun(&format!("{POST}Content-Length: 100\r\n\r\nhalf")).await;
    house.get("/livez", "").await.says(200, "ok");
    for mut stream in slow {
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it is cut off").ok();
    }
    read(half_a_body).await.unwrap().says(408, "the body did not come in time");
}

#[tokio::test]
async fn one_address_does_not_take_every_connection() {
    let house = House::start(&[], "--client-connections-per-address=3").await;
    for (address, words) in [(house.server.http, "HTTP/1.1 503"), (house.server.grpc, "too many connections")] {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let mut answer = Vec::new();
        let mut refused = TcpStream::connect(address).await.unwrap();
        timeout(SOON, refused.read_to_end(&mut answer)).await.expect("closed at once").ok();
        let said = String::from_utf8_lossy(&answer).into_owned();
        assert!(said.contains(words) && said.contains("close some, and retry"), "{said:?}");
        drop(held);
    }
    // Places are free again as soon as the server has seen that they are.
    let end = Instant::now() + SOON;
    let page = loop {
        let page = house.metrics("").await;
        if page.contains("# TYPE vtelector_connections_refused_total") {
            break page;
        }
        assert!(Instant::now() < end, "{page}");
    };
    for face in ["grpc", "http"] {
        let counted = format!("vtelector_connections_refused_total{{face=\"{face}\",reason=\"too_many_of_address\"}} ");
        assert!(page.contains(&counted), "{page}");
    }
}

#[tokio::test]
async fn who_asks_too_often_is_told_so() {
    let house = House::start(&[], "--client-requests-per-second=2").await;
    let mut refused = 0;
    for _ in 0..20 {
        let answer = house.get("/livez", "").await;
        if answer.status != 200 {
            answer.says(429, "too many requests from this address in a second");
            assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
            refused += 1;
        }
    }
    assert!(refused > 0, "none of 20 was refused");
    let mut client = VtctldClient::new(house.plain());
    let mut last = None;
    for _ in 0..20 {
        last = last.or(client.get_keyspaces(GetKeyspacesRequest {}).await.err());
    }
    let refused = last.expect("none of 20 was refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("--client-requests-per-second"), "{refused}");
}
