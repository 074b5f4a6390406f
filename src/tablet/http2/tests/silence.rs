//! The driver over a pipe whose other end is a test: what it writes, and when it gives up.

use std::{future::poll_fn, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    super::{Client, Driver, Ended, Socket},
    *,
};
use crate::shard::FailureClass;

/// A greeted connection, the server's end of it, and the driver's.
async fn connect(buffer_bytes: usize) -> (Client, DuplexStream, JoinHandle<Ended>) {
    let (ours, mut theirs) = tokio::io::duplex(buffer_bytes);
    let (client, mut driver) = Driver::new(Socket::Memory(ours));
    theirs.write_all(&SETTINGS).await.unwrap();
    poll_fn(|cx| driver.poll_greeting(cx)).await.unwrap();
    (client, theirs, TaskTracker::new().spawn(driver))
}

/// Reads frames until one of this type; its payload.
async fn next(stream: &mut DuplexStream, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; Head::parse(&head).length];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == kind {
            return payload;
        }
    }
}

async fn skip_preface(stream: &mut DuplexStream) {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, PREFACE);
}

async fn ended(driver: JoinHandle<Ended>) -> Ended {
    timeout(Duration::from_secs(60), driver).await.expect("an end").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_in_mid_call_is_given_up_after_a_ping() {
    let (client, mut peer, driver) = connect(10_000).await;
    skip_preface(&mut peer).await;
    let begun = Instant::now();
    let mut exchange = client.start(request(5, None)).unwrap();
    let opaque = next(&mut peer, 6).await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    // It answers once, and a while later never again.
    peer.write_all(&frame_of(6, 1, 0, &opaque)).await.unwrap();
    next(&mut peer, 6).await;
    let Some(End::Broken(lost)) = exchange.begun().await else { panic!() };
    assert_eq!((lost.class, begun.elapsed().as_secs()), (FailureClass::Silent, 30));
    assert!(matches!(ended(driver).await, Ended::Broken(Lost { class: FailureClass::Silent, .. })));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_pinged_without_a_call() {
    let (client, mut peer, _driver) = connect(10_000).await;
    skip_preface(&mut peer).await;
    drop(client.start(request(5, None)).unwrap());
    assert!(timeout(Duration::from_secs(3600), next(&mut peer, 6)).await.is_err());
    assert!(client.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_makes_nothing_grow() {
    let (client, _peer, driver) = connect(100).await;
    let exchanges: Vec<_> = (0..100).map(|_| client.start(request(100_000, Some(10))).unwrap()).collect();
    let (sent, waiting) = exchanges.into_iter().partition::<Vec<_>, _>(|exchange| exchange.was_sent());
    assert!(sent.is_empty() && waiting.len() == 100);
    for mut exchange in waiting {
        let (_, _, end) = exchange.whole().await;
        assert!(matches!(end, End::Broken(Lost { class: FailureClass::Silent, .. }) | End::NotProcessed(_)), "{end:?}");
    }
    assert!(matches!(ended(driver).await, Ended::Broken(_)));
}

#[tokio::test]
async fn a_connection_that_ends_within_a_frame_is_broken() {
    let (client, mut peer, driver) = connect(10_000).await;
    peer.write_all(&frame_of(6, 0, 0, b"12345678")[..12]).await.unwrap();
    drop(peer);
    let Ended::Broken(lost) = ended(driver).await else { panic!() };
    assert_eq!(lost.reason, "the connection was closed in the middle of a frame");
    assert!(!client.is_open());
}

#[tokio::test]
async fn a_farewell_ends_an_idle_connection() {
    let (client, mut peer, driver) = connect(10_000).await;
    peer.write_all(&frame_of(7, 0, 0, &[0; 8])).await.unwrap();
    assert!(matches!(ended(driver).await, Ended::Closed));
    assert!(!client.is_open());
}

#[tokio::test]
async fn who_breaks_the_rules_is_told() {
    let (_client, mut peer, driver) = connect(10_000).await;
    skip_preface(&mut peer).await;
    peer.write_all(&frame_of(0, 0, 5, b"x")).await.unwrap();
    assert_eq!(next(&mut peer, 7).await, [0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(matches!(ended(driver).await, Ended::Broken(_)));
}
