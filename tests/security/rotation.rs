//! Certificates and users are replaced under a steady load of new connections and calls: none fails, and what is new is then seen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::Request;
use vtelector::{
    pb::vtelector::{GetStatusRequest, elector_client::ElectorClient},
    sandbox::eventually,
};

use crate::house::{House, SOON, basic, exchange};

const OLD: &str = r#"[{"Username": "anna", "Password": "old"}]"#;
/// While passwords are being replaced both hold.
const BOTH: &str = r#"[{"Username": "anna", "Password": "old"}, {"Username": "anna", "Password": "new"}]"#;
const NEW: &str = r#"[{"Username": "anna", "Password": "new"}]"#;
const FLAGS: &str = "--grpc-cert=@cert --grpc-key=@key --http-cert=@cert --http-key=@key \
    --grpc-auth-mode=static --grpc-auth-static-password-file=@users --grpc-auth-static-client-creds=@creds --client-requests-per-second=0";

async fn call(house: &House, password: &str) -> Result<(), String> {
    let mut request = Request::new(GetStatusRequest {});
    request.metadata_mut().insert("username", "anna".parse().unwrap());
    request.metadata_mut().insert("password", password.parse().unwrap());
    ElectorClient::new(house.tls(None)).get_status(request).await.map(drop).map_err(|status| format!("gRPC: {status:?}"))
}

async fn page(house: &House, password: &str) -> Result<(), String> {
    let request =
        format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n", basic("anna", password));
    let session = house.https(None).await.map_err(|error| format!("HTTP session: {error}"))?;
    let answer = exchange(session, &request).await.map_err(|error| format!("HTTP: {error}"))?;
    if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
}

/// The certificate that the HTTP server shows.
async fn shown(house: &House) -> Vec<u8> {
    house.https(None).await.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_users_change_and_no_call_fails() {
    let creds = r#"{"Username": "anna", "Password": "old"}"#;
    let house = Arc::new(House::start(&[("users", OLD), ("creds", creds)], FLAGS).await);
    let (over, is_new, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load: JoinSet<Result<(), String>> = JoinSet::new();
    for at in 0..4 {
        let (house, over, is_new, count) = (house.clone(), over.clone(), is_new.clone(), count.clone());
        load.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let password = if is_new.load(Ordering::Relaxed) { "new" } else { "old" };
                match at % 2 {
                    0 => call(&house, password).await?,
                    _ => page(&house, password).await?,
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }

    let before = shown(&house).await;
    // Three times, and each time the key comes after its certificate: in between they do not fit.
    for _ in 0..3 {
        let last = shown(&house).await;
        let (cert, key) = house.authority.sign("server");
        std::fs::write(house.file("cert"), &cert).unwrap();
        let calls = count.load(Ordering::Relaxed);
        eventually("calls between the two files", SOON, async || {
            (count.load(Ordering::Relaxed) > calls + 8).then_some(()).ok_or("too few")
        })
        .await
        .unwrap();
        std::fs::write(house.file("key"), &key).unwrap();
        eventually("the new certificate", SOON, async || (shown(&house).await != last).then_some(()).ok_or("still the old one"))
            .await
            .unwrap();
    }
    assert_ne!(shown(&house).await, before);

    std::fs::write(house.file("users"), BOTH).unwrap();
    eventually("the new password", SOON, async || page(&house, "new").await).await.unwrap();
    call(&house, "new").await.unwrap();
    is_new.store(true, Ordering::Relaxed);
    // Every call that was begun with the old password has ended when each task has made two more.
    let calls = count.load(Ordering::Relaxed);
    eventually("calls with the new one", SOON, async || {
        (count.load(Ordering::Relaxed) > calls + 16).then_some(()).ok_or("too few")
    })
    .await
    .unwrap();
    std::fs::write(house.file("users"), "[{\"Username\": \"an").unwrap();
    tokio::time::timeout(Duration::from_secs(5), async { while page(&house, "new").await.is_ok() {} })
        .await
        .expect_err("a half-written file keeps the last good one");
    std::fs::write(house.file("users"), NEW).unwrap();
    eventually("the end of the old password", SOON, async || match page(&house, "old").await {
        Err(refused) if refused.contains("401") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();

    over.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.unwrap().expect("no call fails");
    }
    assert!(count.load(Ordering::Relaxed) > 50, "{count:?} calls are no load");
}
