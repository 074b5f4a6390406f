//! What breaks, and whether the tablet can have received the call.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tonic::Code;

use super::fake::{Answer, FakeTablet, client, tablet_at, within_ms};
use crate::tablet::{TabletError, TabletErrorKind, TabletManager};

/// An empty SETTINGS frame: what a server says first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// SETTINGS with MAX_CONCURRENT_STREAMS = 0.
const SETTINGS_NO_STREAMS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
/// GOAWAY without error; the last stream that will be looked at is 0.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Length of the client's HTTP/2 preface.
const PREFACE_BYTES: usize = 24;

/// What a hand-made server does after it has read a whole request.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Say(&'static [u8]),
}

/// A listener that says `first` to whom it accepts, reads up to the request's message, and does `then`.
async fn hand_made(first: &'static [u8], then: Then) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(first).await.unwrap();
            if !read_request(&mut stream).await {
                continue;
            }
            match then {
                Then::Close => {}
                Then::Reset => stream.set_zero_linger().unwrap(),
                Then::Say(bytes) => {
                    stream.write_all(bytes).await.unwrap();
                    kept.push(stream);
                }
            }
        }
    });
    (port, tasks)
}

/// Reads frames until the one with a message (DATA); false when the client leaves before.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut buffer = vec![0; PREFACE_BYTES];
    if stream.read_exact(&mut buffer).await.is_err() {
        return false;
    }
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return false;
        }
        buffer.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
        if stream.read_exact(&mut buffer).await.is_err() {
            return false;
        }
        if head[3] == 0 {
            return true;
        }
    }
}

async fn failure(port: u16) -> TabletError {
    client().demote_primary(&tablet_at(port), false, within_ms(1000)).await.unwrap_err()
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_closed_port_fails_at_once_and_nothing_was_sent() {
    let begun = Instant::now();
    let error = failure(closed_port().await).await;
    assert_eq!((error.kind, error.code), (TabletErrorKind::Unreachable, Code::Unavailable), "{error}");
    assert!(error.message.contains("refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn dropped_packets_cost_the_connect_timeout() {
    // A full accept queue makes Linux drop further connection attempts without an answer.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(150), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 10, "the queue never fills");
    }
    let begun = Instant::now();
    let error = failure(address.port()).await;
    assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
    assert!(error.message.contains("no answer to the connection attempt"), "{error}");
    assert!((290..900).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_frozen_process_accepts_but_gets_no_request() {
    // The kernel accepts for a process that sleeps.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = failure(frozen.local_addr().unwrap().port()).await;
    assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
    assert!(error.message.contains("process behind it is silent"), "{error}");

    // It thaws: whatever had been sent would be here now, and would be carried out.
    let (mut stream, _) = frozen.accept().await.unwrap();
    stream.write_all(&SETTINGS).await.unwrap_or(());
    let read = tokio::time::timeout(Duration::from_secs(5), read_request(&mut stream)).await;
    assert_eq!(read, Ok(false), "a request was waiting for the frozen process");
}

#[tokio::test]
async fn what_is_no_tablet_gets_no_request() {
    for (first, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "not HTTP/2"),
        (&b"J\0\0\0\x0a9.7.4\0"[..], "not HTTP/2"),
        (&b"\x15\x03\x03\0\x02\x02\x46\0\0"[..], "not HTTP/2"),
    ] {
        let (port, _server) = hand_made(first, Then::Close).await;
        let error = failure(port).await;
        assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_listener_that_hangs_up_gets_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while listener.accept().await.is_ok() {} });
    let error = failure(port).await;
    assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_tablet_that_opens_no_stream_has_received_nothing() {
    let (port, _server) = hand_made(&SETTINGS_NO_STREAMS, Then::Close).await;
    let error = failure(port).await;
    assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_leaves_the_outcome_unknown() {
    let ways = [Then::Close, Then::Reset, Then::Say(b"this is no frame, but it is long enough for one"), Then::Say(&GOAWAY)];
    for then in ways {
        let (port, _server) = hand_made(&SETTINGS, then).await;
        let error = failure(port).await;
        assert_eq!(error.kind, TabletErrorKind::UnknownOutcome, "{error}");
        assert!(error.message.starts_with(&format!("sent to 127.0.0.1:{port}, but then: ")), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_grpc_leaves_the_outcome_unknown() {
    let fake = FakeTablet::start().await;
    let client = client();
    for answer in [Answer::Http(502), Answer::Http(200), Answer::Message(vec![0x12, 0xff]), Answer::Message(vec![])] {
        fake.answer(answer);
        let error = client.demote_primary(&fake.tablet(), false, within_ms(5000)).await.unwrap_err();
        assert_eq!(error.kind, TabletErrorKind::UnknownOutcome, "{error}");
    }
}

#[tokio::test]
async fn a_tablet_killed_in_mid_call_leaves_the_outcome_unknown() {
    let fake = FakeTablet::start().await;
    fake.answer(Answer::Silence);
    let (client, tablet) = (client(), fake.tablet());
    let call = client.demote_primary(&tablet, false, within_ms(10_000));
    let kill = async {
        fake.has_received(1).await;
        fake.stop().await;
    };
    let begun = Instant::now();
    let (result, ()) = tokio::join!(call, kill);
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.code), (TabletErrorKind::UnknownOutcome, Code::Unavailable), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2), "noticed by the closed connection, not by the deadline");

    let error = client.demote_primary(&tablet, false, within_ms(1000)).await.unwrap_err();
    assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_deadline_missed_after_sending_leaves_the_outcome_unknown() {
    let fake = FakeTablet::start().await;
    fake.answer(Answer::Silence);
    let begun = Instant::now();
    let error = client().demote_primary(&fake.tablet(), false, within_ms(200)).await.unwrap_err();
    assert_eq!((error.kind, error.code), (TabletErrorKind::UnknownOutcome, Code::DeadlineExceeded), "{error}");
    assert!((200..600).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}
