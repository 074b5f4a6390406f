//! Primaries that are lost under writes while nobody is called: the elector notices, decides, acts, and converges.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cluster::{Fault, Signal, automatic, metric, print_percentiles, story::Story, write_gap};

/// What a test on a shared machine allows; the measured figures are in the measurements.
const GAP_LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_primary_that_is_lost_is_replaced_by_itself_and_comes_back_as_a_replica() {
    let mut story = Story::begin(automatic()).await;
    for fault in [Fault::MysqldKilled, Fault::MysqldFrozen, Fault::BothKilled, Fault::MysqldKilled] {
        let change = story.see_primary_lost(fault).await;
        let came = story.come_back(&change, fault).await;
        let gap = write_gap(&story.writers.acks(), &change).unwrap();
        println!("{}: write gap {gap:?}, the old primary came back {came:?}", fault.name());
        assert!(gap < GAP_LIMIT, "{}: {gap:?}", fault.name());
    }
    story.end().await;
}

/// The elector's log, which for a while is something that takes nothing.
struct Log {
    path: PathBuf,
    aside: PathBuf,
}

impl Log {
    /// Starts the elector anew, with what `make` puts in the log's place.
    async fn replaced(story: &mut Story, make: impl FnOnce(&Path)) -> Self {
        let path = story.test.folder().join("elector.log");
        let log = Self { aside: path.with_extension("aside"), path };
        story.test.kill_elector();
        std::fs::rename(&log.path, &log.aside).unwrap();
        make(&log.path);
        story.test.start_elector(&[]).unwrap();
        story.test.elector_ready().await.unwrap();
        story.settled().await;
        log
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Whoever reads it afterwards would read for ever.
        let back = std::fs::remove_file(&self.path).and_then(|()| std::fs::rename(&self.aside, &self.path));
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}

/// A pipe that is full, and that nobody reads.
fn full_pipe(path: &Path) -> File {
    const O_NONBLOCK: i32 = 0o4000;
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path).unwrap();
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    while pipe.write(b"x").is_ok() {}
    pipe
}

#[tokio::test]
async fn a_full_disk_under_the_log_and_a_pipe_that_nobody_reads_change_nothing_in_a_failover() {
    let mut story = Story::begin(automatic()).await;
    let lose = async |story: &mut Story, log: &str| {
        let change = story.see_primary_lost(Fault::MysqldKilled).await;
        story.come_back(&change, Fault::MysqldKilled).await;
        let gap = write_gap(&story.writers.acks(), &change).unwrap();
        println!("log to {log}: write gap {gap:?}");
        assert!(gap < GAP_LIMIT, "log to {log}: {gap:?}");
    };
    let lost = async |story: &Story| {
        let address = story.test.host().ip.clone();
        metric((&address, story.test.http_port), "vtelector_log_lines_lost_total ").await.unwrap()
    };
    lose(&mut story, "a file").await;
    {
        let _log = Log::replaced(&mut story, |path| std::os::unix::fs::symlink("/dev/full", path).unwrap()).await;
        lose(&mut story, "a full disk").await;
        assert!(lost(&story).await > 0);
        story.test.kill_elector();
    }
    {
        let mut pipe = None;
        let _log = Log::replaced(&mut story, |path| pipe = Some(full_pipe(path))).await;
        lose(&mut story, "a full pipe").await;
        assert_eq!(lost(&story).await, 0, "there is room for so few");
        let elector = story.test.elector().unwrap();
        elector.signal(Signal::Terminate).unwrap();
        assert!(elector.wait(Duration::from_secs(10)).await.unwrap().success(), "it ends in good order");
        story.test.kill_elector();
    }
    story.end().await;
}

/// Loses the primary so many times to each fault.
async fn measure(repetitions: usize) {
    for fault in [Fault::MysqldKilled, Fault::BothKilled, Fault::MysqldFrozen] {
        let mut story = Story::begin(automatic()).await;
        story.test.announce("");
        for _ in 0..repetitions {
            let change = story.see_primary_lost(fault).await;
            story.come_back(&change, fault).await;
        }
        let (moves, acks) = story.end().await;
        assert_eq!(moves.len(), repetitions);
        println!("{}: {repetitions} times, {} writes acknowledged, 0 lost, never two writers", fault.name(), acks.len());
        print_percentiles("write gap", moves.iter().map(|change| write_gap(&acks, change).unwrap()).collect());
    }
}

#[tokio::test]
#[ignore = "a measurement of some minutes: make measure-failover"]
async fn measure_failover() {
    let times = std::env::var("TIMES").map_or(30, |times| times.parse().expect("TIMES is a number"));
    measure(times).await;
}
