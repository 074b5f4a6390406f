//! A fleet of 3,333 shards on one page.

use std::time::{Duration, Instant as Clock};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    browser::Browser,
    world::{SOON, World},
};

const SHARDS: usize = 3333;
const PAGE_BYTES_MAX: usize = 1_000_000;
const OPEN_PAGES: usize = 100;

/// What is here is built for tests: a released binary paints no later.
const FIRST_PAINT_MAX_MS: f64 = 1000.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_fleet_is_painted_within_a_second() {
    let world = World::with_flags(1, &["--instance-poll-time=1s", "--clusters-to-watch=fleet"]).await;
    world.declare("large", SHARDS).await;
    world.until("/", "3,333 shards").await;
    let page = world.get("/").await.body;
    assert!(page.len() < PAGE_BYTES_MAX, "{} bytes", page.len());
    assert_eq!(page.matches("<tr").count() - page.matches("<thead").count() - 1, SHARDS + 1, "rows of shards, and one elector");
    let mut browser = Browser::start().await;
    // The first page of a browser pays for the browser.
    browser.open(&world.url("/problems")).await;
    browser.open(&world.url("/")).await;
    // A page may be loaded before anything of it was painted.
    let entry = "performance.getEntriesByName('first-contentful-paint')[0]";
    browser.until_true(&format!("{entry} !== undefined")).await;
    let painted = browser.eval(&format!("{entry}.startTime")).await;
    println!("page              {} kB, first paint after {painted} ms", page.len() / 1000);
    assert!(painted.as_f64().unwrap() < FIRST_PAINT_MAX_MS, "{painted} ms");
    browser.check("").await;
    browser.open(&world.url("/?keyspace=large&text=s0333")).await;
    assert!(browser.words().await.contains("s03332"));
    assert_eq!(browser.eval("document.querySelectorAll('.keyspace tbody tr').length").await, json!(3));
    browser.no_complaints();
    browser.close().await;
}

/// Processor time of this process, which is elector, tablets and readers at once.
fn used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // The state is no number: user and system time are the 11th and 12th after it, in hundredths of a second.
    Duration::from_millis((fields[10] + fields[11]) * 10)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; make measure-page runs it"]
async fn measure_page() {
    // Tablets are asked seldom, so that what pages cost is not lost in what asking costs.
    let world = World::with_flags(SHARDS, &["--instance-poll-time=30s", "--primary-liveness-interval=30s"]).await;
    let well = format!("All {},{} shards are well", SHARDS / 1000, SHARDS % 1000);
    let began = Clock::now();
    while !world.get("/").await.body.contains(&well) {
        assert!(began.elapsed() < 3 * SOON, "{}", world.get("/").await.body.chars().take(4000).collect::<String>());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut took = Vec::new();
    for _ in 0..20 {
        // What is shown is kept for a second: each of these is made anew.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let began = Clock::now();
        let page = world.get("/").await;
        took.push((began.elapsed(), page.body.len()));
    }
    took.sort();
    // Also where tablets are asked as seldom as here.
    let all = format!("{0} of {0} replicate", 2 * SHARDS);
    assert!(world.get("/").await.body.contains(&all), "{all}");
    println!("page of {SHARDS}      {} kB, made and sent in p50 {:?}, max {:?}", took[10].1 / 1000, took[10].0, took[19].0);

    let seconds = 20;
    let (alone, began) = (used(), Clock::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let alone = (used() - alone).as_secs_f64() / began.elapsed().as_secs_f64();
    let mut readers = JoinSet::new();
    for _ in 0..OPEN_PAGES {
        let address = world.server.http;
        readers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut told = vec![0; 1 << 16];
            while stream.read(&mut told).await.is_ok_and(|read| read > 0) {}
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (open, began) = (used(), Clock::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let open = (used() - open).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("without a page    {:.1} % of a core, tablets included", alone * 100.0);
    println!("{OPEN_PAGES} open pages    {:.1} % of a core more", (open - alone) * 100.0);
    readers.shutdown().await;

    world.kill_primary(1234);
    let mut browser = Browser::start().await;
    browser.open(&world.url("/")).await;
    browser.until("takes no writes").await;
    browser.check("one-of-3333").await;
    browser.close().await;
}
