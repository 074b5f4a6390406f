//! The program itself: its flags, its exit codes, its signals.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use vtelector::pb::{vtctldata::GetKeyspacesRequest, vtctlservice::vtctld_client::VtctldClient};

use crate::{etcd::Etcd, world::get};

const SOON: Duration = Duration::from_secs(20);

fn serve(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vtelector"));
    command.arg("serve").args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts it and reads its log up to the line that says where it listens.
pub async fn started(line: &str) -> (Child, serde_json::Value, Vec<String>) {
    let mut process = serve(line).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut before = Vec::new();
    let serving = async {
        while let Some(line) = log.next_line().await.unwrap() {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "serving" {
                return event;
            }
            before.push(line);
        }
        panic!("it ended: {before:?}");
    };
    let serving = timeout(SOON, serving).await.unwrap();
    (process, serving, before)
}

pub async fn signal(process: &Child, name: &str) {
    let pid = process.id().unwrap().to_string();
    assert!(Command::new("kill").args([format!("-{name}"), pid]).status().await.unwrap().success());
}

#[tokio::test]
async fn a_command_line_of_vtorc_serves_and_ends_with_0_when_told() {
    let etcd = Etcd::start().await;
    let (mut process, serving, log) = started(&format!(
        "-topo_implementation etcd2 -topo_global_server_address {} --topo-global-root=/vitess/global --cell zone1 --port 0 --grpc-port 0 \
         --bind-address 127.0.0.1 --grpc_bind_address 127.0.0.1 --allow-recovery=false --instance-poll-time 1s --recovery-poll-duration 1s --audit-to-syslog \
         --lock-timeout 30s --log-format json",
        etcd.address
    ))
    .await;
    assert!(log.iter().any(|line| line.contains("--recovery-poll-duration --audit-to-syslog")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{log:?}");
    let address = |field: &str| serving[field].as_str().unwrap().to_owned();
    let mut client = VtctldClient::connect(format!("http://{}", address("grpc"))).await.unwrap();
    client.get_keyspaces(GetKeyspacesRequest {}).await.unwrap();
    let (code, page) = get(address("http").parse().unwrap(), "/metrics").await;
    assert!(code == 200 && page.contains(r#"vtelector_topology_calls_total{operation="list_keys",result="ok"}"#), "{page}");
    signal(&process, "TERM").await;
    let status = timeout(SOON, process.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "an open connection does not keep it");
}

#[tokio::test]
async fn what_cannot_be_served_ends_with_2_or_1_and_a_reason() {
    let etcd = Etcd::start().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let topo = format!(
        "--topo-global-server-address {} --topo-global-root /vitess/global --bind-address 127.0.0.1 --grpc-bind-address 127.0.0.1",
        etcd.address
    );
    let nobody = crate::etcd::free_port();
    for (line, code, words) in [
        (format!("{topo} --topo-global-rot x"), 2, vec!["--topo-global-rot", "--topo-global-root"]),
        (format!("{topo} --lock-timeout 45"), 2, vec!["--lock-timeout", "45"]),
        (format!("{topo} --topo-etcd-lease-ttl 2"), 2, vec!["--topo-etcd-lease-ttl 2s", "use 4 or more"]),
        (format!("{topo} --log-level shout=loud"), 2, vec!["--log-level shout=loud"]),
        (format!("{topo} --grpc-auth-mode mtls"), 2, vec!["--grpc-auth-mode mtls", "--grpc-ca"]),
        (format!("{topo} --port 0 --grpc-port {port}"), 1, vec!["--grpc-port", "in use"]),
        (
            format!("--topo-global-server-address 127.0.0.1:{nobody} --topo-global-root /v --port 0 --grpc-port 0"),
            1,
            vec!["no answer", "127.0.0.1"],
        ),
    ] {
        let output = timeout(SOON, serve(&line).output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        for word in words {
            assert!(said.contains(word), "{line}: {word:?} is not in {said}");
        }
    }
}
