//! The program itself: events that it sees in a shard whose primary is away, written, told and brought, over a kill.

use std::{
    collections::BTreeSet,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};
use vtelector::{
    pb::{topodata::TabletType, vtelector::event::What},
    serve::Limits,
};

use crate::{
    receiver::{Manner, Receiver},
    served::{World, tablet},
    world::{SOON, file, until},
};

/// A running `vtelector serve`, and everything that it has said.
struct Serve {
    process: Child,
    said: Arc<Mutex<String>>,
    grpc: String,
    _reading: JoinSet<()>,
}

impl Serve {
    async fn start(world: &World, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vtelector"));
        command.args(["serve", "--topo-global-root=/vitess/global", "--cell=zone1", "--port=0", "--grpc-port=0"]);
        command.args([
            "--bind-address=127.0.0.1",
            "--grpc-bind-address=127.0.0.1",
            "--allow-recovery=false",
            "--log-format=json",
        ]);
        command.arg(format!("--topo-global-server-address={}", world.etcd.address)).args(flags);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (said, mut reading) = (Arc::<Mutex<String>>::default(), JoinSet::new());
        let writes = said.clone();
        reading.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                *writes.lock().unwrap() += &(line + "\n");
            }
        });
        let mut grpc = String::new();
        until("a line that says where it serves", || {
            let said = said.lock().unwrap().clone();
            let serving = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let found = serving.into_iter().find(|line| line["message"] == "serving");
            grpc = found.map(|line| line["grpc"].as_str().unwrap().to_owned()).unwrap_or_default();
            !grpc.is_empty()
        })
        .await;
        Self { process, said, grpc, _reading: reading }
    }
}

#[tokio::test]
async fn a_dead_primary_is_told_once_over_a_kill_and_no_secret_is_in_the_log() {
    // The world's own elector looks elsewhere: only the processes see the shard.
    let world = World::with_flags(Limits::default(), &["--clusters-to-watch=elsewhere"]).await;
    let receiver = Receiver::start(Manner::Takes).await;
    let (_folder, path) = file(&format!(
        "[[webhook]]\nname = 'pager'\nurl = '{}'\nsecret = 'S3CRET'\nkinds = ['opened']\n",
        receiver.url("/T0KEN")
    ));
    let flag = format!("--webhook-file={}", path.display());
    // The receiver is there before anything happens: it is told of what comes.
    let mut first = Serve::start(&world, &[&flag]).await;
    until("a deliverer", || first.said.lock().unwrap().contains("this elector delivers events")).await;
    // A port where nobody listens.
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    until("a problem at the receiver", || receiver.count() > 0).await;
    let told = receiver.requests()[0].json();
    assert_eq!((told["keyspace"].as_str(), told["shard"].as_str()), (Some("commerce"), Some("0")), "{told}");
    first.process.kill().await.unwrap();
    // The receiver's file has an error now; the elector works all the same.
    std::fs::write(&path, "[[webhook]]\nname = 'pager'\nurl = 'S3CRET'\nsecret = 'S3CRET'\n").unwrap();
    let second = Serve::start(&world, &[&flag]).await;
    until("a line of the file", || second.said.lock().unwrap().contains("webhooks cannot be taken")).await;
    let mut events = Command::new(env!("CARGO_BIN_EXE_vtelector"))
        .args(["events", "--after=0", "--server", &second.grpc])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let number = told["sequence"].as_str().unwrap();
    let line = loop {
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        if line.starts_with(number) {
            break line;
        }
    };
    assert!(line.contains("commerce/0") && line.contains(told["opened"]["code"].as_str().unwrap()), "{line}");
    std::fs::write(&path, format!("[[webhook]]\nname = 'pager'\nurl = '{}'\nkinds = ['opened']\n", receiver.url("/T0KEN")))
        .unwrap();
    until("delivery again", || second.said.lock().unwrap().contains("this elector delivers events")).await;
    // Whoever comes back finds the problem in the log, and tells of it no second time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut open = BTreeSet::new();
    for event in world.server.events.after(0, usize::MAX, |_| true).0 {
        match event.what.unwrap() {
            What::Opened(problem) => assert!(open.insert(problem.code.clone()), "{} is told twice", problem.code),
            What::Closed(problem) => assert!(open.remove(&problem.code), "{} was not there", problem.code),
            _ => {}
        }
    }
    assert!(!open.is_empty());
    for said in [&first.said, &second.said] {
        let said = said.lock().unwrap().clone();
        assert!(!said.contains("T0KEN") && !said.contains("S3CRET"), "{said}");
        assert!(said.contains("without TLS"), "{said}");
    }
}

#[tokio::test]
async fn a_binary_without_traces_says_so() {
    let line = ["serve", "--topo-global-server-address=h:1", "--topo-global-root=/v", "--otlp-endpoint=http://localhost:4317"];
    let output = Command::new(env!("CARGO_BIN_EXE_vtelector")).args(line).output();
    let output = timeout(SOON, output).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if cfg!(feature = "otlp") {
        assert!(!said.contains("--otlp-endpoint"), "{said}");
    } else {
        assert!(said.contains("--otlp-endpoint http://localhost:4317") || said.contains("otlp-endpoint"), "{said}");
        assert!(said.contains("built without traces") && said.contains("--features otlp"), "{said}");
    }
}
