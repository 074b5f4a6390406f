//! Settings that change while the server runs.

use std::time::{Duration, SystemTime};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use vtelector::{
    ledger::{Clock, Kind, Ledger, Outcome, Recovery},
    pb::{
        topodata::{CellInfo, Keyspace},
        vtelector::{GetStatusRequest, GetStatusResponse, ShardsRequest, elector_client::ElectorClient},
    },
    sandbox::{TempFolder, eventually},
};

use crate::{
    etcd::Etcd,
    process::{signal, started},
    world::{LOCK_TIMEOUT, get, shard},
};

const SOON: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// A shard that was promoted just now, by another elector.
async fn promoted(etcd: &Etcd) {
    let topo = etcd.topo().await;
    let info = CellInfo { server_address: etcd.address.clone(), root: "/vitess/zone1".to_owned() };
    topo.create_cell_info("zone1", &info).await.unwrap();
    topo.create_keyspace("commerce", &Keyspace::default()).await.unwrap();
    topo.create_shard(&shard(), LOCK_TIMEOUT).await.unwrap();
    let ledger = Ledger::start(&topo, "/vtelector", "another", Clock::of_this_machine(), &CancellationToken::new());
    let recovery = Recovery {
        shard: shard(),
        code: "DeadPrimary".to_owned(),
        kind: Kind::Emergency,
        promoted: Some("zone1-101".parse().unwrap()),
        old: None,
        who: "another".to_owned(),
        at: SystemTime::now(),
        took: Duration::ZERO,
        outcome: Outcome::Done,
        evidence: String::new(),
    };
    ledger.record(recovery).await.unwrap();
}

#[tokio::test]
async fn a_file_that_changes_is_taken_without_a_restart_and_one_with_an_error_is_shown_and_not_taken() {
    let etcd = Etcd::start().await;
    promoted(&etcd).await;
    let folder = TempFolder::new().unwrap();
    let file = folder.path().join("vtelector.toml");
    let fixed = format!(
        "topo-global-server-address = {:?}\ntopo_global_root = \"/vitess/global\"\nallow-recovery = false\n",
        etcd.address
    );
    let write = |more: &str| std::fs::write(&file, format!("{fixed}{more}")).unwrap();
    write("failover-floor = \"1h\"\n");
    let line =
        format!("--config-file {} --port 0 --grpc-port 0 --bind-address 127.0.0.1 --grpc-bind-address 127.0.0.1", file.display());
    let (process, serving, _) = started(&line).await;
    let address = |field: &str| serving[field].as_str().unwrap().to_owned();
    let mut client = ElectorClient::connect(format!("http://{}", address("grpc"))).await.unwrap();
    let mut until = async |what: &str, is_so: &dyn Fn(&GetStatusResponse) -> bool| {
        let end = Instant::now() + SOON;
        loop {
            let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what}: {status:#?}");
            sleep(POLL).await;
        }
    };
    let metric = async || get(address("http").parse().unwrap(), "/metrics").await.1;

    let status = until("a block by the file's rule", &|status| !status.blocked.is_empty()).await;
    let blocked = status.blocked[0].blocked.clone().unwrap();
    assert!(blocked.by == "failover floor" && blocked.reason.contains("1h0m0s"), "{blocked:?}");

    write("failover-floor = \"soon\"\n");
    let status = until("the error", &|status| !status.settings_error.is_empty()).await;
    assert!(status.settings_error.contains("failover-floor") && status.settings_error.contains("vtelector.toml"), "{status:?}");
    assert!(!status.blocked.is_empty(), "the old settings stay in force");
    assert!(metric().await.contains("vtelector_settings_file_error 1"));

    write("failover-floor = 0\nfailover-burst = \"0\"\n");
    signal(&process, "HUP").await;
    until("no block and no error", &|status| status.blocked.is_empty() && status.settings_error.is_empty()).await;
    assert!(metric().await.contains("vtelector_settings_file_error 0"));

    std::fs::remove_file(&file).unwrap();
    let status = until("the file's absence", &|status| !status.settings_error.is_empty()).await;
    assert!(status.blocked.is_empty(), "what was last taken stays in force");
}

/// Calls over new connections, until the file has changed often enough; the first failure, or how many there were.
async fn load(grpc: String, http: std::net::SocketAddr, over: CancellationToken) -> Result<usize, String> {
    let mut count = 0;
    while !over.is_cancelled() {
        let mut client = ElectorClient::connect(format!("http://{grpc}")).await.map_err(|error| error.to_string())?;
        client.get_status(GetStatusRequest {}).await.map_err(|status| format!("{status:?}"))?;
        client.shards(ShardsRequest::default()).await.map_err(|status| format!("{status:?}"))?;
        let (code, body) = get(http, "/api/v1/shards").await;
        if code != 200 {
            return Err(format!("{code}: {body}"));
        }
        count += 3;
    }
    Ok(count)
}

#[tokio::test]
async fn a_file_that_changes_again_and_again_with_errors_in_between_fails_no_call() {
    let etcd = Etcd::start().await;
    promoted(&etcd).await;
    let folder = TempFolder::new().unwrap();
    let file = folder.path().join("vtelector.toml");
    let fixed = format!(
        "topo-global-server-address = {:?}\ntopo-global-root = \"/vitess/global\"\nallow-recovery = false\n",
        etcd.address
    );
    let valid = |seconds: usize| format!("{fixed}failover-floor = \"{seconds}s\"\n");
    std::fs::write(&file, valid(1000)).unwrap();
    let line = format!(
        "--config-file {} --port 0 --grpc-port 0 --bind-address 127.0.0.1 --grpc-bind-address 127.0.0.1 --client-requests-per-second 0",
        file.display()
    );
    let (process, serving, _) = started(&line).await;
    let address = |field: &str| serving[field].as_str().unwrap().to_owned();
    let (grpc, http) = (address("grpc"), address("http").parse().unwrap());
    let (over, mut calls) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..3 {
        calls.spawn(load(grpc.clone(), http, over.clone()));
    }
    let mut client = ElectorClient::connect(format!("http://{grpc}")).await.unwrap();
    let broken = [
        format!("{fixed}failover-floor = \"soon\"\n").into_bytes(),
        format!("{fixed}failover-flo").into_bytes(),
        format!("{fixed}no-such-flag = 1\n").into_bytes(),
        b"\xff\xfe\0 no text at all".to_vec(),
        Vec::new(),
    ];
    for round in 1..=15 {
        for (content, is_valid) in [(valid(1000 + round).into_bytes(), true), (broken[round % broken.len()].clone(), false)] {
            std::fs::write(&file, &content).unwrap();
            signal(&process, "HUP").await;
            eventually("the file looked at", SOON, async || {
                let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
                let config: serde_json::Value = serde_json::from_str(&get(http, "/api/config").await.1).unwrap();
                let floor = config["failover-floor"] == format!("{}s", 1000 + round).as_str();
                let said = status.settings_error.is_empty() == is_valid;
                // With an error the last good value stays in force.
                if floor && said { Ok(()) } else { Err(format!("{:?} {config}", status.settings_error)) }
            })
            .await
            .unwrap_or_else(|error| panic!("round {round}, {:?}: {error}", String::from_utf8_lossy(&content)));
        }
    }
    over.cancel();
    let mut count = 0;
    while let Some(ended) = calls.join_next().await {
        count += ended.unwrap().expect("no call fails");
    }
    assert!(count > 100, "{count} calls are no load");
}
