//! `vtelector doctor` beside a running elector, and before there is anything; and what completes commands in a shell.

use std::time::Duration;

use tokio::{process::Command, time::timeout};
use vtelector::topo::Kv;

use crate::{etcd::Etcd, scene::Scene};

async fn run(line: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vtelector")).args(line.split_whitespace()).output();
    let output = timeout(Duration::from_secs(60), output).await.unwrap().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), said)
}

fn doctor(etcd: &Etcd, more: &str) -> String {
    format!(
        "doctor --topo-global-server-address={} --topo-global-root=/vitess/global --remote-operation-timeout=2s {more}",
        etcd.address
    )
}

#[tokio::test]
async fn each_thing_that_stands_in_the_way_is_a_line_with_what_to_change() {
    let scene = Scene::start().await;
    // Flags of VTOrc that mean nothing here are taken as by serve.
    let (code, said) = run(&doctor(&scene.world.etcd, "--recovery_poll_duration=1s --cell=zone1")).await;
    assert_eq!(code, 1, "{said}");
    let address = &scene.world.etcd.address;
    for words in [
        format!("ok    global etcd {address}"),
        format!("ok    etcd of zone1 {address}"),
        format!("ok    etcd of zone2 {address}"),
        "ok    a lock in the global etcd".to_owned(),
        "ok    when its MySQL is killed".to_owned(),
        "FAIL  tablet zone2-0000000200".to_owned(),
        "warn  an account for MySQL".to_owned(),
    ] {
        assert!(said.lines().any(|line| line.starts_with(&words)), "{words}\nis missing in\n{said}");
    }
    assert!(said.contains(" -> see that its vttablet runs") && said.trim().ends_with("failed"), "{said}");
    let left = scene.world.etcd.kv().list("/vtelector/doctor/").await.unwrap();
    assert_eq!(left.entries, [], "its own key is gone");

    let (code, said) = run(&doctor(&scene.world.etcd, "--json --cell=nowhere")).await;
    let checks: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let failed: Vec<&str> = checks
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["verdict"] == "FAIL")
        .filter_map(|check| check["about"].as_str())
        .collect();
    assert!(
        code == 1 && failed.contains(&"--cell") && failed.iter().any(|about| about.contains("zone2-0000000200")),
        "{failed:?}"
    );
}

#[tokio::test]
async fn without_etcd_it_says_so_and_ends() {
    let mut etcd = Etcd::start().await;
    etcd.kill().await;
    let (code, said) = run(&doctor(&etcd, "--primary-liveness-interval=5s")).await;
    assert_eq!(code, 1, "{said}");
    for words in ["FAIL  global etcd", "FAIL  a lock in the global etcd", "FAIL  topology", "warn  --primary-liveness-interval"] {
        assert!(said.lines().any(|line| line.starts_with(words)), "{words}\nis missing in\n{said}");
    }
}

#[tokio::test]
async fn settings_that_cannot_be_are_a_mistake_in_the_call() {
    let (code, said) = run("doctor --topo-global-root=/v").await;
    assert!(code == 2 && said.contains("--topo-global-server-address"), "{code} {said}");
    let (code, said) = run("doctor --topo-global-server-address=a:1 --topo-global-root=/v --grpc-cert=/nowhere").await;
    assert!(code == 2 && said.contains("--grpc"), "{code} {said}");
}

#[tokio::test]
async fn shells_can_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, said) = run(&format!("completions {shell}")).await;
        assert_eq!(code, 0, "{shell}");
        for word in ["planned-reparent-shard", "explain", "doctor", "foretell", "topo-global-root"] {
            assert!(said.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(run("completions cmd").await.0, 2);
}
