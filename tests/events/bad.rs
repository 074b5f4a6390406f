//! Receivers as bad as receivers can be, over real sockets: none of them costs the others anything, and none of them loses an event.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::digest::{Context, SHA256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use vtelector::{
    serve::events::webhook::{Secret, sign::signature},
    topo::MemoryKv,
};

use crate::{
    receiver::{Manner, Receiver},
    world::{Elector, file, recover, until},
};

/// HMAC as its definition says, from nothing but the hash.
fn hmac(key: &[u8], message: &[u8]) -> String {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let hash = |pad: u8, message: &[u8]| {
        let mut context = Context::new(&SHA256);
        context.update(&block.map(|byte| byte ^ pad));
        context.update(message);
        context.finish().as_ref().to_vec()
    };
    hash(0x5c, &hash(0x36, message)).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_signature_is_what_the_definition_says() {
    // RFC 4231, test case 2.
    let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(hmac(b"Jefe", b"what do ya want for nothing?"), known);
    let signed = signature(&Secret("s3cret".to_owned()), 1_760_000_000, br#"{"a":1}"#);
    assert_eq!(signed, format!("t=1760000000,v1={}", hmac(b"s3cret", br#"1760000000.{"a":1}"#)));
}

#[tokio::test]
async fn a_receiver_gets_json_with_number_name_and_a_signature_that_holds() {
    let receiver = Receiver::start(Manner::Takes).await;
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file(&format!(
        "[[webhook]]\nname = 'pager'\nurl = '{}'\nsecret = 's3cret'\nkinds = ['recovered']\n",
        receiver.url("/hook")
    ));
    let desk = elector.deliver_over_http(&path);
    until("a deliverer", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    recover(&elector.board, 0..1);
    until("a request", || receiver.count() == 1).await;
    let request = receiver.requests().remove(0);
    let event = elector.logged(0, 1).await.remove(0);
    assert_eq!(request.line, "POST /hook HTTP/1.1");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!((request.sequence(), &request.headers["vtelector-event-id"]), (event.sequence, &event.id));
    assert_eq!(request.json()["recovered"]["promoted"]["uid"], 101);
    assert_eq!(request.json()["id"], event.id);
    let signed = &request.headers["vtelector-signature"];
    let (time, proof) = signed.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    assert!(now_s().abs_diff(time.parse().unwrap()) < 60, "{signed}");
    let message = [time.as_bytes(), b".", &request.body].concat();
    assert_eq!(proof, hmac(b"s3cret", &message));
}

#[tokio::test]
async fn receivers_that_hang_reset_fail_redirect_drip_and_flood_cost_the_good_one_nothing_and_lose_nothing() {
    let elsewhere = Receiver::start(Manner::Takes).await;
    let location: &'static str = Box::leak(format!("Location: {}\r\n", elsewhere.url("/")).into_boxed_str());
    let manners = [
        ("good", Manner::Takes, ""),
        ("floods", Manner::Floods, ""),
        ("hangs", Manner::Hangs, "timeout"),
        ("drips", Manner::Drips, "timeout"),
        ("resets", Manner::Resets, "reset"),
        ("babbles", Manner::Babbles, "reset"),
        ("fails", Manner::Answers(500, ""), "status_5xx"),
        ("busy", Manner::Answers(429, "Retry-After: 1\r\n"), "status_429"),
        ("redirects", Manner::Answers(307, location), "redirect"),
        ("gone", Manner::Answers(410, ""), "status_4xx"),
    ];
    let (mut receivers, mut text) = (Vec::new(), String::new());
    for (name, manner, reason) in manners {
        let receiver = Receiver::start(manner).await;
        text += &format!("[[webhook]]\nname = '{name}'\nurl = '{}'\nkinds = ['recovered']\n", receiver.url("/T0KEN"));
        receivers.push((name, receiver, reason));
    }
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file(&text);
    let desk = elector.deliver_over_http(&path);
    until("deliverers", || desk.status().len() == 10 && desk.status().iter().all(|state| !state.deliverer.is_empty())).await;
    let began = tokio::time::Instant::now();
    recover(&elector.board, 0..3);
    until("three at the good one and the loud one", || receivers[..2].iter().all(|(_, receiver, _)| receiver.count() == 3)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for (name, _, reason) in &receivers[2..] {
        let metric = format!(r#"vtelector_webhook_failed_total{{reason="{reason}",receiver="{name}"}}"#);
        until(&metric, || elector.metric(&metric) >= 1.0).await;
    }
    for state in &desk.status()[2..] {
        until(&state.name, || desk.status().iter().any(|now| now.name == state.name && !now.error.is_empty())).await;
    }
    assert!(!format!("{:?}", desk.status()).contains("T0KEN"), "{:?}", desk.status());
    assert_eq!(elsewhere.count(), 0, "nothing is followed");
    // They get well. Those that said the request is wrong are asked again within half a minute.
    receivers[2..].iter().for_each(|(_, receiver, _)| receiver.behave(Manner::Takes));
    let expected: Vec<u64> = elector.logged(0, 3).await.iter().map(|event| event.sequence).collect();
    for (name, receiver, _) in &receivers {
        let all = || {
            let mut sequences: Vec<u64> = receiver.requests().iter().map(|request| request.sequence()).collect();
            sequences.dedup();
            sequences == expected
        };
        until(name, all).await;
        assert_eq!(elector.metric(&format!(r#"vtelector_webhook_lost_total{{receiver="{name}"}}"#)), 0.0);
    }
}

/// A receiver with TLS that takes everything, and the authority that signed it.
async fn with_tls(serving: &mut JoinSet<()>) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    serving.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // One that does not trust us is gone.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = vec![0; 16 << 10];
            if stream.read(&mut request).await.is_ok() {
                _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            }
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn over_tls_only_a_receiver_whose_authority_is_known_is_told_anything() {
    let mut serving = JoinSet::new();
    let (port, ca) = with_tls(&mut serving).await;
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (folder, path) = file("");
    std::fs::write(folder.path().join("ca"), ca).unwrap();
    let hook =
        |name: &str| format!("[[webhook]]\nname = '{name}'\nurl = 'https://localhost:{port}/T0KEN'\nkinds = ['recovered']\n");
    let text = format!("{}ca_file = '{}'\n{}", hook("known"), folder.path().join("ca").display(), hook("unknown"));
    std::fs::write(&path, text).unwrap();
    let desk = elector.deliver_over_http(&path);
    until("deliverers", || desk.status().iter().filter(|state| !state.deliverer.is_empty()).count() == 2).await;
    recover(&elector.board, 0..1);
    until("one at the known one", || elector.metric(r#"vtelector_webhook_delivered_total{receiver="known"}"#) == 1.0).await;
    until("an error", || desk.status().iter().any(|state| state.name == "unknown" && !state.error.is_empty())).await;
    let error = desk.status().into_iter().find(|state| state.name == "unknown").unwrap().error;
    assert!(error.contains("https://localhost:") && error.contains("certificate") && !error.contains("T0KEN"), "{error}");
    assert_eq!(elector.metric(r#"vtelector_webhook_delivered_total{receiver="unknown"}"#), 0.0);
}
