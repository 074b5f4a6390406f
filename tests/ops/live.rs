//! The commands that documents show, asked of a real elector over a real etcd; and how soon it answers.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use vtelector::sandbox::{Etcd, Process, TempFolder, Tools, eventually, free_port};

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

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    // HTTP/1.0: no chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Running {
    /// Waits until it answers `path` with 200; how long that took from its start.
    async fn answers(&self, path: &str) -> Duration {
        loop {
            if self.get(path).is_some_and(|answer| answer.split(' ').nth(1) == Some("200")) {
                return self.started.elapsed();
            }
            assert!(self.started.elapsed() < START_LIMIT, "{path} is not answered");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn get(&self, path: &str) -> Option<String> {
        get(self.http, path)
    }

    fn ask(&self, args: &[String]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vtelector"));
        command.args(args).env("VTELECTOR_SERVER", format!("127.0.0.1:{}", self.grpc)).env("USER", "me");
        command.output().unwrap()
    }
}

/// Commands that do not end by themselves, or want no elector.
const NOT_ASKED: [&str; 5] = ["serve", "agent", "demo", "doctor", "events"];

/// The words after `vtelector`, asked of our own elector, where they are a question or an order for one.
fn asked_of_us(line: &str) -> Option<Vec<String>> {
    let mut words = commands::words(line).split_off(1);
    if let Some(place) = words.iter().position(|word| word == "--server") {
        words.drain(place..(place + 2).min(words.len()));
    }
    let is_one = words.first().is_some_and(|first| !first.starts_with('-') && !NOT_ASKED.contains(&first.as_str()));
    // In running text a name of a command stands without what it needs.
    (is_one && commands::understood(&format!("vtelector {}", words.join(" "))).is_ok()).then_some(words)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_documents_are_answered() {
    let elector = start(Path::new(env!("CARGO_BIN_EXE_vtelector"))).await;
    elector.answers("/readyz").await;
    let cell = format!("add-cell-info zone1 --root /vitess/zone1 --server-address {}", elector.etcd.address());
    for line in [cell.as_str(), "create-keyspace commerce", "create-shard commerce/0"] {
        let output = elector.ask(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut asked = BTreeSet::new();
    for (document, line) in commands::all() {
        let Some(words) = asked_of_us(&line) else { continue };
        if !asked.insert(words.clone()) {
            continue;
        }
        let output = elector.ask(&words);
        let (said, code) = (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code());
        // 1: something is wrong, or refused, as there is no tablet; 3: a dry run says so; 2 would be a command line that cannot be.
        assert!(matches!(code, Some(0 | 1 | 3)) && !said.contains("panicked"), "{document}: {line}: {code:?} {said}");
        assert!(!said.contains("UNIMPLEMENTED") && !said.contains("cannot be reached"), "{document}: {line}: {said}");
    }
    let named = |name: &str| asked.iter().any(|words| words[0] == name);
    for name in ["explain", "planned-reparent-shard", "emergency-reparent-shard", "acknowledge", "maintenance", "recoveries"] {
        assert!(named(name), "{name} is in no document: {asked:?}");
    }
    assert!(asked.len() > 30, "only {} commands were asked", asked.len());
}

/// The real Prometheus that comes in the package of promtool.
fn prometheus() -> PathBuf {
    let own = path("target/tools/prometheus/usr/bin/prometheus");
    let all = std::env::var_os("PATH").unwrap();
    let found = std::iter::once(own).chain(std::env::split_paths(&all).map(|folder| folder.join("prometheus")));
    found.into_iter().find(|program| program.exists()).expect("no prometheus: `make tools` brings it")
}

/// What is configured for VTOrc says where to ask, and nothing else: its port and its path.
fn configuration(http: u16) -> String {
    format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\n\
         rule_files: [{}]\n\
         scrape_configs: [{{job_name: vtorc, static_configs: [{{targets: ['127.0.0.1:{http}']}}]}}]\n",
        path("deploy/prometheus/vtelector.rules.yml").display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_that_was_made_for_vtorc_reads_us_and_our_rules() {
    let elector = start(Path::new(env!("CARGO_BIN_EXE_vtelector"))).await;
    elector.answers("/readyz").await;
    let folder = TempFolder::new().unwrap();
    let (file, data, port) = (folder.path().join("prometheus.yml"), folder.path().join("data"), free_port().unwrap());
    std::fs::write(&file, configuration(elector.http)).unwrap();
    let args = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", data.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let log = folder.path().join("prometheus.log");
    let _prometheus = Process::start("prometheus", &prometheus(), &args, &[], &log).unwrap();
    let ask = async |question: &str| -> Result<serde_json::Value, String> {
        let answer = get(port, question).ok_or_else(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
        let said: serde_json::Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
        Ok(said["data"].clone())
    };
    let of = async |question: &str| ask(&format!("/api/v1/query?query={question}")).await.map(|data| data["result"].clone());
    eventually("it is scraped", START_LIMIT, async || match of("up").await? {
        up if up[0]["value"][1] == "1" => Ok(()),
        up => Err(up.to_string()),
    })
    .await
    .unwrap();
    let without_labels = super::metrics::OF_VTORC.iter().filter(|(_, kind, labels)| labels.is_empty() && *kind != "histogram");
    let known = ask("/api/v1/metadata").await.unwrap();
    let mut read = 0;
    for (name, kind, _) in without_labels {
        assert_eq!(known[name][0]["type"], *kind, "{name}: {}", known[name]);
        assert_eq!(of(name).await.unwrap()[0]["metric"]["job"], "vtorc", "{name}");
        read += 1;
    }
    assert!(read > 10, "{read} names");
    eventually("each rule was evaluated", START_LIMIT, async || {
        let rules = ask("/api/v1/rules").await?;
        let all: Vec<&serde_json::Value> =
            rules["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array()).flatten().collect();
        match all.len() > 30 && all.iter().all(|rule| rule["health"] == "ok") {
            true => Ok(()),
            false => Err(rules.to_string()),
        }
    })
    .await
    .unwrap();
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
