//! What the tests on real servers share: a thin layer over `vtelector::sandbox`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod story;

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tonic::Status;

pub use vtelector::{sandbox::*, topo::TabletAlias};

/// How long records and servers may take to be as they must be after a call has answered.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// mysqld and etcd as `deploy/tools/install` puts them below target/tools, else from `PATH`.
pub fn tools() -> Tools {
    Tools::find(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"))).unwrap_or_else(|error| panic!("{error}"))
}

/// Three tablets in two cells under `semi_sync`, and an elector that acts by itself. A series of kills is no life: nothing blocks the
/// next failover (safety rules, section 10).
pub fn automatic() -> Shape {
    let series = ["--failover-floor=0", "--failover-burst=0", "--failover-cap-per-hour=0"].map(String::from);
    Shape { elector_flags: series.into(), ..Shape::new(env!("CARGO_BIN_EXE_vtelector").into(), tools()) }
}

/// The same with an elector that does only what it is called for.
pub fn shape() -> Shape {
    Shape { elector_flags: vec!["--allow-recovery=false".to_owned()], ..automatic() }
}

/// A number on an elector's page of metrics.
pub async fn metric(address: (&str, u16), name: &str) -> Result<i64, String> {
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Ok::<_, std::io::Error>(page)
    };
    let page = read.await.map_err(|error| error.to_string())?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.ok_or_else(|| format!("{name} is not on the page"))
}

/// A gap is measured between writes: so many must be acknowledged around every move.
const AROUND: usize = 20;

/// Waits until that server has acknowledged some more writes.
pub async fn writes_on(writers: &Writers, alias: &TabletAlias) {
    let count = || writers.acks().iter().filter(|ack| ack.server == alias.uid).count();
    let target = count() + AROUND;
    eventually(&format!("writes acknowledged by {alias}"), Duration::from_secs(15), async || match count() {
        count if count >= target => Ok(()),
        count => Err(format!("{} are missing", target - count)),
    })
    .await
    .unwrap();
}

/// The value that so many percent do not exceed.
pub fn print_percentiles(name: &str, mut values: Vec<Duration>) {
    values.sort();
    let at = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1].as_millis();
    println!(
        "{name:<10} p50 {:>5} ms   p90 {:>5} ms   p99 {:>5} ms   max {:>5} ms   n {}",
        at(50),
        at(90),
        at(99),
        at(100),
        values.len()
    );
}

/// A cluster whose vtelector processes may log no warning that the test has not announced. A test that fails leaves the
/// folder with the logs behind and prints its path.
pub struct TestCluster {
    cluster: Cluster,
    announced: Vec<String>,
    finished: bool,
}

impl TestCluster {
    /// Starts it, with the first tablet of the shape as the primary.
    pub async fn start(shape: Shape) -> (Self, TabletAlias) {
        let (cluster, primary) = Cluster::with_primary(shape).await.unwrap_or_else(|error| panic!("{error}"));
        let test = Self { cluster, announced: Vec::new(), finished: false };
        test.settled(&primary, SETTLE_LIMIT).await.unwrap();
        (test, primary)
    }

    /// Lines of level WARN or ERROR that contain this text are meant to be there.
    pub fn announce(&mut self, text: impl Into<String>) {
        self.announced.push(text.into());
    }

    /// Moves the primary, and panics unless everything is right thereafter.
    pub async fn move_to(&self, from: &TabletAlias, to: &TabletAlias) -> Move {
        let change = self.try_move(from, to).await.unwrap_or_else(|status| panic!("{from} to {to}: {status}"));
        self.settled(to, SETTLE_LIMIT).await.unwrap();
        self.no_errant(to).await.unwrap();
        change
    }

    /// Moves the primary.
    pub async fn try_move(&self, from: &TabletAlias, to: &TabletAlias) -> Result<Move, Status> {
        let called = Instant::now();
        self.reparent(to).await?;
        Ok(Move { from: from.clone(), to: to.clone(), called, answered: Instant::now() })
    }

    /// Every acknowledged row is on every server.
    pub async fn nothing_lost(&self, acks: &[Ack]) {
        for (alias, tablet) in &self.tablets {
            let what = format!("every acknowledged row on {alias}");
            eventually(&what, SETTLE_LIMIT, async || match lost(acks, &tablet.mysqld).await {
                Ok(missing) if missing.is_empty() => Ok(()),
                Ok(missing) => Err(format!("{} of {} are missing, such as {:?}", missing.len(), acks.len(), missing[0])),
                Err(error) => Err(error.to_string()),
            })
            .await
            .unwrap();
        }
    }

    /// The end of a test that went well so far.
    pub fn finish(mut self) {
        let complaints = self.cluster.complaints();
        let is_announced = |line: &&String| self.announced.iter().any(|text| line.contains(text.as_str()));
        let surprises: Vec<_> = complaints.iter().filter(|line| !is_announced(line)).collect();
        assert!(surprises.is_empty(), "warnings that nobody announced: {surprises:#?}");
        self.finished = true;
    }
}

impl Deref for TestCluster {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if !self.finished {
            self.cluster.keep_folder();
            eprintln!("the data and logs of this test: {}", self.cluster.folder().display());
            for line in self.cluster.complaints() {
                eprintln!("  {line}");
            }
        }
    }
}
