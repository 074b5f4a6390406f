//! The commands that documents show, asked of a real elector over a real etcd; and how soon it answers.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use vtelector::sandbox::{Etcd, Process, TempFolder, Tools, free_port};

use super::{commands, path};

const START_LIMIT: Duration = Duration::from_secs(30);

/// An elector with nothing to look after.
struct Running {
    grpc: u16,
    http: u16,
    started: Instant,
    _elector: Process,
    etcd: Etcd,
    _folder: TempFolder,
}

async fn start(program: &Path) -> Running {
    let folder = TempFolder::new().unwrap();
    let tools = Tools::find(Some(&path("target/tools"))).unwrap();
    let etcd = Etcd::start(&tools, &folder.path().join("etcd")).await.unwrap();
    let (grpc, http) = (free_port().unwrap(), free_port().unwrap());
    let mut args = vec!["serve".to_owned()];
    for (flag, value) in [
        ("topo-global-server-address", etcd.address()),
        ("topo-global-root", "/vitess/global".to_owned()),
        ("cell", "zone1".to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("port", http.to_string()),
        ("grpc-bind-address", "127.0.0.1".to_owned()),
        ("grpc-port", grpc.to_string()),
        ("advertise-address", "127.0.0.1".to_owned()),
    ] {
        args.push(format!("--{flag}={value}"));
    }
    let started = Instant::now();
    let elector = Process::start("elector", program, &args, &[], &folder.path().join("elector.log")).unwrap();
    Running { grpc, http, started, _elector: elector, etcd, _folder: folder }
}

impl Running {
    /// Waits until it answers `path` with 200; how long that took from its start.
    async fn answers(&self, path: &str) -> Duration {
        loop {
            if self.get(path).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return self.started.elapsed();
            }
            assert!(self.started.elapsed() < START_LIMIT, "{path} is not answered");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn ask(&self, args: &[String]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vtelector"));
        command.args(args).env("VTELECTOR_SERVER", format!("127.0.0.1:{}", self.grpc)).env("USER", "me");
        command.output().unwrap()
    }
}

/// Commands that only read, and end.
const READ_ONLY: [&str; 14] = [
    "status",
    "problems",
    "decisions",
    "history",
    "errant-gtids",
    "explain",
    "shards",
    "maintenance list",
    "get-tablets",
    "get-shard",
    "get-keyspace",
    "get-cell-info",
    "shard-replication-positions",
    "completions",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_documents_that_only_read_are_answered() {
    let elector = start(Path::new(env!("CARGO_BIN_EXE_vtelector"))).await;
    elector.answers("/readyz").await;
    let cell = format!("add-cell-info zone1 --root /vitess/zone1 --server-address {}", elector.etcd.address());
    for line in [cell.as_str(), "create-keyspace commerce", "create-shard commerce/0"] {
        let output = elector.ask(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut asked = 0;
    for (document, line) in commands::all() {
        let words = commands::words(&line);
        let reads = READ_ONLY.iter().any(|head| words[1..].join(" ").starts_with(head));
        if !reads || words.iter().any(|word| word == "--server") {
            continue;
        }
        asked += 1;
        let output = elector.ask(&words[1..]);
        let (said, code) = (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code());
        // 1: something is wrong, as there is no tablet; 2 would be a command line that cannot be.
        assert!(matches!(code, Some(0 | 1)) && !said.contains("panicked"), "{document}: {line}: {code:?} {said}");
        assert!(!said.contains("UNIMPLEMENTED") && !said.contains("cannot be reached"), "{document}: {line}: {said}");
    }
    assert!(asked > 15, "only {asked} commands were asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make measure-start"]
async fn measure_start() {
    let own = || PathBuf::from(env!("CARGO_BIN_EXE_vtelector"));
    let program = std::env::var_os("PROGRAM").map_or_else(own, PathBuf::from);
    let folder = TempFolder::new().unwrap();
    let bare = folder.path().join("bare");
    let size = |file: &Path| std::fs::metadata(file).unwrap().len() as f64 / 1e6;
    let stripped = Command::new("strip").arg("-o").arg(&bare).arg(&program).status().is_ok_and(|status| status.success());
    let without = if stripped { format!(", {:.1} MB without what a debugger wants", size(&bare)) } else { String::new() };
    println!("{}: {:.1} MB{without}", program.file_name().unwrap().display(), size(&program));
    for _ in 0..3 {
        let elector = start(&program).await;
        let alive = elector.answers("/livez").await;
        let ready = elector.answers("/readyz").await;
        println!("from start to /livez {alive:?}, to /readyz {ready:?}");
    }
}
