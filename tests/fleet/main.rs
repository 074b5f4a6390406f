//! A large fleet, simulated, and an elector that watches it: what that costs, and how fast it acts. `make measure-fleet` runs it.
#![allow(clippy::unwrap_used, reason = "helpers of tests stand outside of test functions")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a measurement takes the real time, and ends with its process"
)]

mod fleet;
mod page;
mod shard;
mod wire;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use etcd_client::GetOptions;
use fleet::{CELL, Fleet};
use page::Page;
use tokio::{net::TcpListener, time::sleep};
use vtelector::{
    sandbox::{Etcd, Process, TempFolder, Tools, eventually, free_port},
    topo::{Topo, TopoSettings},
};

/// Starting to watch everybody may take that long.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Whoever is not recovered by then is reported as such.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// What electors do after promotions, and tell of, takes that long.
const AFTERWARDS: Duration = Duration::from_secs(5);

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Open files of this process at most: one connection for each tablet goes through it, and one through the elector.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

fn start_elector(etcd: &str, http_port: u16, log: &Path) -> Process {
    let raise = r#"ulimit -n "$(ulimit -Hn)" && exec "$@""#;
    let mut args = vec!["-c".to_owned(), raise.to_owned(), "sh".to_owned(), env!("CARGO_BIN_EXE_vtelector").to_owned()];
    for (flag, value) in [
        ("serve", String::new()),
        ("--topo-global-server-address", etcd.to_owned()),
        ("--topo-global-root", "/vitess/global".to_owned()),
        ("--cell", CELL.to_owned()),
        ("--bind-address", "127.0.0.1".to_owned()),
        ("--port", http_port.to_string()),
        ("--grpc-bind-address", "127.0.0.1".to_owned()),
        ("--grpc-port", free_port().unwrap().to_string()),
        ("--log-format", "text".to_owned()),
    ] {
        args.extend([flag.to_owned(), value].into_iter().filter(|part| !part.is_empty()));
    }
    Process::start("elector", Path::new("/bin/sh"), &args, &[], log).unwrap()
}

/// The log of events at one moment.
struct Logged {
    at: Clock,
    writes: i64,
    bytes: usize,
}

impl Logged {
    /// Prints what was written since.
    fn show(&self, what: &str, now: &Self) {
        let (writes, bytes, took) = (now.writes - self.writes, now.bytes - self.bytes, now.at - self.at);
        let rate = writes as f64 / took.as_secs_f64();
        println!("events, {what:<10}{writes} writes, {rate:.1} a second; {bytes} bytes");
    }
}

struct Watched {
    fleet: Arc<Fleet>,
    /// They divide the shards among themselves.
    electors: Vec<Process>,
    /// Of the first.
    http_port: u16,
    // Ended after the elector.
    etcd: Etcd,
    _folder: TempFolder,
}

impl Watched {
    async fn start(tablets: usize) -> Self {
        let folder = TempFolder::new().unwrap();
        let tools = Tools::find(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"))).unwrap();
        let etcd = Etcd::start(&tools, &folder.path().join("etcd")).await.unwrap();
        let settings = TopoSettings {
            global_server_address: etcd.address(),
            global_root: "/vitess/global".to_owned(),
            tls: None,
            lease_ttl: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
        };
        let topo = Topo::connect(&settings).await.unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fleet = Fleet::declare(tablets / shard::TABLETS, port, topo, &etcd.address()).await;
        tokio::spawn(wire::serve(fleet.clone(), listener));
        let log = std::env::var_os("FLEET_LOG").map_or(folder.path().join("elector.log"), Into::into);
        let (mut electors, mut http_ports) = (Vec::new(), Vec::new());
        for _ in 0..number("FLEET_ELECTORS", 1) {
            let http_port = free_port().unwrap();
            electors.push(start_elector(&etcd.address(), http_port, &log));
            http_ports.push(http_port);
        }
        Self { fleet, electors, http_port: http_ports[0], etcd, _folder: folder }
    }

    async fn page(&self) -> Result<Page, String> {
        Page::read(self.http_port).await
    }

    /// How many changes etcd has seen.
    async fn revision(&self) -> i64 {
        let answer = self.etcd.client().await.unwrap().get("nothing", None).await.unwrap();
        answer.header().unwrap().revision()
    }

    /// What stands in the log of events: one write is one key, and none of them leaves it while this runs.
    async fn logged(&self) -> Logged {
        let all = GetOptions::new().with_prefix();
        let answer = self.etcd.client().await.unwrap().get("/vtelector/events/log/", Some(all)).await.unwrap();
        Logged {
            at: Clock::now(),
            writes: answer.count(),
            bytes: answer.kvs().iter().map(|kv| kv.key().len() + kv.value().len()).sum(),
        }
    }

    /// Waits until every tablet was asked twice.
    async fn complete(&self, tablets: usize) -> Duration {
        let began = Clock::now();
        eventually("a look at everybody", START_LIMIT, async || {
            let answers = self.page().await?.sum("vtelector_evidence_age_seconds_count");
            if answers as usize >= tablets { Ok(()) } else { Err(format!("{answers} answers of {tablets} tablets")) }
        })
        .await
        .unwrap();
        began.elapsed()
    }

    /// What it costs to watch everybody while nothing happens.
    async fn rest(&self, seconds: u64) {
        let usage = || self.electors.iter().map(|elector| elector.usage().unwrap()).collect::<Vec<_>>();
        let logged = self.logged().await;
        let (before, page, began) = (usage(), self.page().await.unwrap(), Clock::now());
        sleep(Duration::from_secs(seconds)).await;
        let (after, page_then, took) = (usage(), self.page().await.unwrap(), began.elapsed());
        let rate = |name: &str| (page_then.sum(name) - page.sum(name)) / took.as_secs_f64();
        for ((_, used), (memory, used_then)) in before.into_iter().zip(after) {
            println!("cores used        {:.2}", (used_then - used).as_secs_f64() / took.as_secs_f64());
            println!("memory            {} MB", memory >> 20);
        }
        println!("full answers      {:.0} a second", rate("vtelector_evidence_age_seconds_count"));
        println!("liveness asked    {:.0} a second", rate("vtelector_liveness_questions_total"));
        println!("emergencies       {:.1} a second", rate("vtelector_emergency_rereads_total"));
        let age = |percent| page_then.quantile(&page, "vtelector_evidence_age_seconds", percent);
        println!("evidence age      p50 {} s   p99 {} s", age(0.5), age(0.99));
        logged.show("at rest", &self.logged().await);
    }

    /// Kills the primaries of these shards at once; how long each was without one, and how many still are.
    async fn kill(&self, shards: std::ops::Range<usize>) -> (Vec<Duration>, usize) {
        let began = tokio::time::Instant::now();
        for shard in shards.clone() {
            let mut shard = self.fleet.shard(shard);
            let primary = shard.primary();
            shard.kill(primary);
        }
        let promoted = || shards.clone().filter_map(|shard| self.fleet.shard(shard).promoted).map(|(at, _)| at - began);
        let all = shards.len();
        let _ = eventually("everybody recovered", RECOVERY_LIMIT, async || {
            if promoted().count() == all { Ok(()) } else { Err("no".to_owned()) }
        })
        .await;
        let mut took: Vec<Duration> = promoted().collect();
        took.sort();
        let missing = all - took.len();
        (took, missing)
    }
}

fn show(what: &str, (took, missing): &(Vec<Duration>, usize)) {
    let at = |percent: usize| took.get((took.len() * percent).div_ceil(100).max(1) - 1).map_or(0, Duration::as_millis);
    println!(
        "{what:<17} p50 {} ms   p99 {} ms   max {} ms   n {}   not recovered {missing}",
        at(50),
        at(99),
        at(100),
        took.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; make measure-fleet runs it"]
async fn measure_fleet() {
    let (tablets, seconds) = (number("FLEET_TABLETS", 10_000), number("FLEET_SECONDS", 20));
    let (needed, limit) = (tablets + 1000, open_files());
    assert!(limit >= needed, "{needed} open files are needed and {limit} allowed: ulimit -n {needed}");
    let watched = Watched::start(tablets).await;
    let tablets = watched.fleet.len() * shard::TABLETS;
    println!("tablets           {tablets} in {} shards", watched.fleet.len());
    println!("all seen after    {:.1} s", watched.complete(tablets).await.as_secs_f64());
    watched.rest(seconds as u64).await;
    show("one killed", &watched.kill(0..1).await);
    let many = number("FLEET_KILLED", 300).min(watched.fleet.len() / 3);
    let (revision, logged) = (watched.revision().await, watched.logged().await);
    let result = watched.kill(1..1 + many).await;
    show("killed at once", &result);
    println!("changes in etcd   {} for each, the tablets' own included", (watched.revision().await - revision) / many as i64);
    // What comes after the promotions, and the last batch.
    sleep(AFTERWARDS).await;
    logged.show("killed", &watched.logged().await);
    let (memory, _) = watched.electors[0].usage().unwrap();
    println!("memory after it   {} MB", memory >> 20);
    assert_eq!(result.1, 0, "some shards have no primary");
    drop(watched.etcd);
}
