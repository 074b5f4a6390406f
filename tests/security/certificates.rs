//! Client certificates, on gRPC and HTTP.

use tonic::{Code, Status, transport::Channel};
use vtelector::pb::vtelector::{GetStatusRequest, SetRecoveriesRequest, elector_client::ElectorClient};

use crate::house::{Authority, House, exchange};

const GET: &str = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

async fn question(channel: Channel) -> Result<(), Status> {
    ElectorClient::new(channel).get_status(GetStatusRequest {}).await.map(drop)
}

async fn command(channel: Channel) -> Result<(), Status> {
    let request = SetRecoveriesRequest { enabled: true, who: "somebody".to_owned(), why: "because".to_owned() };
    ElectorClient::new(channel).set_recoveries(request).await.map(drop)
}

#[tokio::test]
async fn a_certificates_subject_is_its_role_at_each_face_and_strangers_are_refused() {
    let flags = "--grpc-cert=@cert --grpc-key=@key --grpc-ca=@ca --http-cert=@cert --http-key=@key --http-ca=@ca \
        --grpc-auth-mode=mtls --grpc-auth-mtls-allowed-substrings=CN=dba:CN=elector --grpc-auth-mtls-reader-substrings=CN=monitor";
    let house = House::start(&[], flags).await;
    let ours = |name: &str| Some(house.authority.sign(name));

    command(house.tls(ours("dba-anna"))).await.unwrap();
    question(house.tls(ours("monitor"))).await.unwrap();
    let refused = command(house.tls(ours("monitor"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("SetRecoveries needs the role operator"), "{refused}");
    let refused = question(house.tls(ours("guest"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("guest") && refused.message().contains("--grpc-auth-mtls-allowed-substrings"),
        "{refused}"
    );

    let strangers = [None, Some(Authority::new().sign("dba-anna")), Some(house.authority.expired("dba-anna"))];
    for stranger in strangers.clone() {
        question(house.tls(stranger)).await.expect_err("no session without a certificate that holds");
    }
    for stranger in strangers.into_iter().skip(1) {
        let refused = async { exchange(house.https(Some(stranger.unwrap())).await?, GET).await };
        refused.await.expect_err("no session with a certificate that does not hold");
    }
    let https = async |identity| exchange(house.https(identity).await.unwrap(), GET).await.unwrap();
    https(None).await.says(403, "connect with a client certificate");
    https(ours("guest")).await.says(403, "neither an operator's nor a reader's");
    https(ours("monitor")).await.says(200, "version");

    let post = |body: &str| {
        format!(
            "POST /api/v1/recoveries HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let post = post(r#"{"enabled": true, "who": "somebody"}"#);
    let refused = exchange(house.https(ours("monitor")).await.unwrap(), &post).await.unwrap();
    refused.says(403, "needs the role operator");
    exchange(house.https(ours("elector")).await.unwrap(), &post).await.unwrap().says(200, "");
    let page = exchange(house.https(ours("monitor")).await.unwrap(), &GET.replace("/api/v1/status", "/metrics")).await.unwrap();
    assert!(page.body.contains("vtelector_unprotected{face=\"grpc\"} 0"), "{}", page.body);
    assert!(page.body.contains("vtelector_unprotected{face=\"http\"} 0"));
    assert!(page.body.contains("vtelector_tls_not_after_seconds{use=\"grpc\"} 2524608000"), "2050 begins");
}

#[tokio::test]
async fn an_authority_alone_lets_in_its_clients_as_operators() {
    let house = House::start(&[], "--grpc-cert=@cert --grpc-key=@key --grpc-ca=@ca").await;
    command(house.tls(Some(house.authority.sign("anybody")))).await.unwrap();
    question(house.tls(None)).await.unwrap_err();
    let page = house.metrics("").await;
    assert!(page.contains("vtelector_unprotected{face=\"grpc\"} 0") && page.contains("vtelector_unprotected{face=\"http\"} 1"));
}
