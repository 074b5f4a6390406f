//! Real servers: hyper's, over a pipe.

use std::{convert::Infallible, future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::timeout};

use super::super::{Client, Driver, End, Exchange, Part, Request as Call, Socket, encode_head};

const LIMIT: Duration = Duration::from_secs(20);

/// Message parts of the endless answer.
const PART: usize = 100_000;

type Body = BoxBody<Bytes, Infallible>;

/// Echoes, with words about what it saw; `/endless` never ends.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/endless" {
        let parts = stream::iter(0u8..).map(|part| Ok(Frame::data(Bytes::from(vec![part; PART]))));
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(parts))));
    }
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.uri.authority().unwrap(), "10.0.0.1:15100");
    let body = body.collect().await.unwrap().to_bytes();
    let words = format!("{} bytes, and all is well \u{e9}", body.len());
    let trailers = HeaderMap::from_iter([
        ("grpc-status".parse().unwrap(), "0".parse().unwrap()),
        ("grpc-message".parse().unwrap(), words.into_bytes().try_into().unwrap()),
    ]);
    let body = Full::new(body).with_trailers(future::ready(Some(Ok(trailers))));
    Ok(Response::builder().header("x-made-up", "for the other one's table").body(BodyExt::boxed(body)).unwrap())
}

/// A connection to a server; both end with the tasks.
async fn connect(configure: impl FnOnce(&mut Builder<TokioExecutor>)) -> (Client, JoinSet<()>) {
    let (ours, theirs) = tokio::io::duplex(10_000);
    let mut builder = Builder::new(TokioExecutor::new());
    configure(&mut builder);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(builder.serve_connection(TokioIo::new(theirs), service_fn(answer)).await) });
    let (client, mut driver) = Driver::new(Socket::Memory(ours));
    poll_fn(|cx| driver.poll_greeting(cx)).await.unwrap();
    tasks.spawn(async move { drop(driver.await) });
    (client, tasks)
}

fn start(client: &Client, path: &'static str, body: Vec<u8>, whole: bool) -> Exchange {
    let head = encode_head(false, "10.0.0.1:15100", path, [("te", &b"trailers"[..])].into_iter());
    let answer_bytes_max = whole.then_some(16 << 20);
    client.start(Call { head, body: Bytes::from(body), answer_bytes_max }).unwrap()
}

/// Sends so many bytes of this value and expects them back.
async fn echo(client: &Client, value: u8, bytes: usize) {
    let mut exchange = start(client, "/a.B/Echo", vec![value; bytes], true);
    let (status, body, end) = timeout(LIMIT, exchange.whole()).await.expect("an answer");
    assert_eq!((status, body.len()), (200, bytes));
    assert!(body.iter().all(|byte| *byte == value));
    let End::Trailers(fields) = end else { panic!("{end:?}") };
    assert_eq!(fields.grpc["grpc-status"], "0");
    assert_eq!(fields.grpc["grpc-message"].as_bytes(), format!("{bytes} bytes, and all is well \u{e9}").as_bytes());
}

#[tokio::test]
async fn two_hundred_calls_share_a_connection() {
    let (client, _tasks) = connect(|_| {}).await;
    future::join_all((0..200).map(|call| echo(&client, call as u8, 1 + call * 100))).await;
}

#[tokio::test]
async fn calls_wait_for_their_turn_where_the_server_allows_few() {
    let (client, _tasks) = connect(|builder| _ = builder.max_concurrent_streams(3)).await;
    future::join_all((0..50).map(|call| echo(&client, call, 1000))).await;
}

#[tokio::test]
async fn fifteen_megabytes_go_both_ways_beside_small_calls() {
    let (client, _tasks) = connect(|_| {}).await;
    tokio::join!(echo(&client, 1, 15 << 20), echo(&client, 2, 15 << 20), echo(&client, 3, 10), echo(&client, 4, 100_000));
}

#[tokio::test]
async fn the_smallest_windows_only_take_longer() {
    let tiny = |builder: &mut Builder<TokioExecutor>| {
        builder.initial_stream_window_size(10).initial_connection_window_size(65_535);
    };
    let (client, _tasks) = connect(tiny).await;
    tokio::join!(echo(&client, 1, 3000), echo(&client, 2, 3000), echo(&client, 3, 1));
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_the_connection_to_the_others() {
    let (client, _tasks) = connect(|builder| _ = builder.max_concurrent_streams(1)).await;
    let endless = start(&client, "/endless", vec![0], true);
    let waiting = start(&client, "/a.B/Echo", vec![0], true);
    drop(waiting);
    drop(endless);
    echo(&client, 1, 10).await;
}

#[tokio::test]
async fn a_reader_that_takes_its_time_stops_only_its_own_stream() {
    let (client, _tasks) = connect(|_| {}).await;
    let mut endless = start(&client, "/endless", vec![0], false);
    assert!(timeout(LIMIT, endless.begun()).await.unwrap().is_none());
    // Meanwhile the stream's window fills up.
    echo(&client, 1, 5 << 20).await;
    let mut read = 0;
    let mut longest = 0;
    while read < 5 << 20 {
        let part = timeout(LIMIT, endless.part()).await.unwrap();
        let Part::Data(data) = part else { panic!("{part:?}") };
        assert!(data.iter().enumerate().all(|(at, byte)| *byte == ((read + at) / PART) as u8), "in order and whole");
        read += data.len();
        longest = longest.max(data.len());
    }
    assert!(longest <= 1 << 20, "no more is kept than the window allows: {longest}");
    echo(&client, 2, 10).await;
}

#[tokio::test]
async fn a_server_that_ends_answers_no_new_call() {
    let (client, mut tasks) = connect(|_| {}).await;
    let mut endless = start(&client, "/endless", vec![0], false);
    assert!(endless.begun().await.is_none());
    tasks.shutdown().await;
    while !matches!(timeout(LIMIT, endless.part()).await.unwrap(), Part::End(End::Broken(_))) {}
    assert!(!client.is_open());
    let head = encode_head(false, "a", "/b", [].into_iter());
    assert!(client.start(Call { head, body: Bytes::from_static(b"x"), answer_bytes_max: None }).is_err());
}
