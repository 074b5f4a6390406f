//! Readers of the log: over gRPC and as server-sent events, from a number on, without a hole.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, transport::Channel};
use vtelector::{
    diagnose::Code as ProblemCode,
    pb::vtelector::{GetStatusRequest, WatchEventsRequest, elector_client::ElectorClient, event::What},
    serve::Limits,
};

use crate::{
    served::{World, refused},
    world::{SOON, printer, problem, recover, report},
};

const QUIET: &[&str] = &["--instance-poll-time=24h", "--primary-liveness-interval=24h"];

async fn client(world: &World) -> ElectorClient<Channel> {
    ElectorClient::connect(format!("http://{}", world.server.grpc)).await.unwrap()
}

fn after(sequence: u64) -> WatchEventsRequest {
    WatchEventsRequest { after_sequence: Some(sequence), ..WatchEventsRequest::default() }
}

async fn logged(world: &World, count: u64) {
    let mut changes = world.server.events.changes();
    let enough = async {
        while world.server.events.status().events < count {
            changes.changed().await.unwrap();
        }
    };
    timeout(SOON, enough).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_comes_back_again_and_again_while_things_happen_misses_nothing_and_sees_nothing_twice() {
    let world = World::start().await;
    let board = world.server.elector.board.clone();
    let mut happens = JoinSet::new();
    happens.spawn(async move {
        for number in 0..2000 {
            recover(&board, number..number + 1);
            sleep(Duration::from_millis(1)).await;
        }
    });
    let (mut seen, mut readings) = (Vec::<u64>::new(), 0);
    let end = Instant::now() + SOON;
    while seen.len() < 2000 {
        assert!(Instant::now() < end, "only {}", seen.len());
        let last = seen.last().copied().unwrap_or_default();
        let mut events = client(&world).await.watch_events(after(last)).await.unwrap().into_inner();
        readings += 1;
        // Each reading leaves after another number of events, in the middle of whatever goes on.
        for _ in 0..(readings * 7) % 90 + 1 {
            let Ok(event) = timeout(Duration::from_millis(700), events.message()).await else { break };
            seen.push(event.unwrap().unwrap().sequence);
        }
    }
    happens.join_next().await.unwrap().unwrap();
    let (all, _) = world.server.events.after(0, usize::MAX, |_| true);
    let all: Vec<u64> = all.iter().map(|event| event.sequence).collect();
    assert!(readings > 20, "{readings} readings");
    assert_eq!(seen, all);
}

/// A reader of server-sent events, byte by byte.
struct Sse {
    lines: Lines<BufReader<TcpStream>>,
}

/// One event, as it was written.
#[derive(Debug, Default)]
struct Frame {
    id: String,
    event: String,
    data: String,
}

impl Sse {
    async fn open(world: &World, path: &str, headers: &str) -> (u16, Self) {
        let mut stream = TcpStream::connect(world.server.http).await.unwrap();
        // HTTP/1.0: no chunks between the lines.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await.unwrap().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
        (status, Self { lines })
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut frame = Frame::default();
        loop {
            let line = timeout(SOON, self.lines.next_line()).await.expect("nothing came").unwrap()?;
            match line.split_once(": ") {
                Some(("id", id)) => frame.id = id.to_owned(),
                Some(("event", event)) => frame.event = event.to_owned(),
                Some(("data", data)) => frame.data = data.to_owned(),
                _ if line.is_empty() && !frame.event.is_empty() => return Some(frame),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn server_sent_events_bear_numbers_resume_after_the_last_one_and_end_with_a_reason() {
    let world = World::start().await;
    let (status, mut live) = Sse::open(&world, "/api/v1/events", "").await;
    assert_eq!(status, 200);
    let board = world.server.elector.board.clone();
    let dead = problem(ProblemCode::DeadPrimary, "zone1-100", "line one\nline two");
    board.publish(report("sales/0", std::time::SystemTime::now(), vec![dead]));
    recover(&board, 0..3);
    let first = live.next().await.unwrap();
    assert_eq!(first.event, "opened");
    let (events, _) = world.server.events.after(0, 10, |_| true);
    assert_eq!(first.data, printer().value(&events[0]).unwrap().to_string(), "the same JSON as everywhere");
    assert_eq!(first.id, events[0].sequence.to_string());
    logged(&world, 4).await;

    // A reader that comes back says what it has seen; that counts more than the address, which never changes.
    let back = format!("Last-Event-ID: {}\r\n", first.id);
    let (_, mut resumed) = Sse::open(&world, "/api/v1/events?after_sequence=0", &back).await;
    let next = resumed.next().await.unwrap();
    assert_eq!((next.event.as_str(), live.next().await.unwrap().id), ("recovered", next.id.clone()));
    let (_, mut of_sales) = Sse::open(&world, "/api/v1/events?keyspace=commerce&shard=1&after_sequence=0", "").await;
    assert!(of_sales.next().await.is_none(), "a shard that is not there is no stream: it has a status");

    for (path, headers, status, words) in [
        ("/api/v1/events", "Last-Event-ID: yesterday\r\n", 400, "Last-Event-ID"),
        ("/api/v1/events?after_sequence=-1", "", 400, "after_sequence"),
        ("/api/v1/events?since=1", "", 400, "since"),
        ("/api/v1/events?keyspace=nowhere", "", 404, "nowhere"),
        ("/api/v1/events?shard=0", "", 400, "keyspace"),
    ] {
        let (found, mut body) = Sse::open(&world, path, headers).await;
        let body = body.lines.next_line().await.unwrap().unwrap();
        assert!(found == status && body.contains(words), "{path}: {found} {body}");
    }

    let World { server, .. } = world;
    let mut stopping = JoinSet::new();
    stopping.spawn(server.stop(Duration::from_secs(1)));
    let last = loop {
        let frame = resumed.next().await.unwrap();
        if frame.event == "end" {
            break frame;
        }
    };
    assert!(last.data.contains("the elector stops"), "{}", last.data);
    assert!(timeout(SOON, stopping.join_next()).await.unwrap().unwrap().unwrap());
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off_with_a_reason_and_holds_no_place() {
    let limits = Limits { reader_takes_within: Duration::from_millis(300), ..Limits::default() };
    let world = World::with_flags(limits, QUIET).await;
    for round in 0..10 {
        recover(&world.server.elector.board, 0..1000);
        logged(&world, (round + 1) * 1000).await;
    }
    let (_, mut slow) = Sse::open(&world, "/api/v1/events?after_sequence=0", "").await;
    // As many readers as there is room for; the slow one holds its place until it is cut off, though it never hears of that.
    let mut readers = Vec::new();
    let end = Instant::now() + SOON;
    while readers.len() < 64 {
        match Sse::open(&world, "/api/v1/events", "").await {
            (200, reader) => readers.push(reader),
            (status, _) => assert!(status == 429 && Instant::now() < end, "{status} for reader {}", readers.len()),
        }
        sleep(Duration::from_millis(5)).await;
    }
    let (status, _) = Sse::open(&world, "/api/v1/events", "").await;
    assert_eq!(status, 429);
    refused(client(&world).await.watch_events(after(0)).await, Code::ResourceExhausted, &["64 readers"]);
    drop(readers);
    let mut count = 0;
    let last = loop {
        match slow.next().await.unwrap() {
            frame if frame.event == "end" => break frame,
            _ => count += 1,
        }
    };
    assert!(count < 10_000, "it was not slow");
    assert!(last.data.contains("no event was taken"), "{}", last.data);
}

#[tokio::test]
async fn a_reader_from_before_the_log_is_told_of_the_gap_and_an_etcd_that_is_away_is_said() {
    let mut world = World::start().await;
    recover(&world.server.elector.board, 0..2);
    logged(&world, 2).await;
    let (events, _) = world.server.events.after(0, 10, |_| true);
    // What a pruner leaves behind.
    let note = format!(r#"{{"count": 7, "floor": {}}}"#, events[0].sequence);
    world.topo.global().put("/vtelector/events/dropped", note.into_bytes()).await.unwrap();
    let floor = async {
        while world.server.events.floor() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, floor).await.unwrap();
    let mut stream = client(&world).await.watch_events(after(1)).await.unwrap().into_inner();
    let gap = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(gap.what, Some(What::Dropped(_))) && gap.sequence == events[0].sequence, "{gap:?}");
    let next = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next, events[1]);
    let status = client(&world).await.get_status(GetStatusRequest {}).await.unwrap().into_inner().event_log.unwrap();
    assert_eq!((status.events, status.dropped, status.newest_sequence), (2, 7, events[1].sequence));

    world.etcd.kill().await;
    let unread = async {
        while world.server.events.unread().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, unread).await.unwrap();
    let (status, _) = Sse::open(&world, "/api/v1/events", "").await;
    assert_eq!(status, 503);
    refused(client(&world).await.watch_events(after(0)).await, Code::Unavailable, &["log of events", "try again"]);
}
