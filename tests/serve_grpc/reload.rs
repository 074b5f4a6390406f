//! Settings that change while the server runs.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    process::Child,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use vtelector::{
    ledger::{Clock, Ledger},
    pb::{
        topodata::{CellInfo, Keyspace},
        vtelector::{GetStatusRequest, GetStatusResponse, ShardsRequest, elector_client::ElectorClient},
    },
    sandbox::{TempFolder, eventually},
};

use crate::{
    etcd::Etcd,
    process::{signal, started},
    world::{LOCK_TIMEOUT, failover, get, shard},
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
    ledger.record(failover()).await.unwrap();
}

/// A running elector with a file of settings, and a shard that its rules block.
struct Following {
    process: Child,
    grpc: String,
    http: SocketAddr,
    file: PathBuf,
    /// What stands in the file before all else.
    fixed: String,
    _folder: TempFolder,
    _etcd: Etcd,
}

impl Following {
    async fn start(more: &str) -> Self {
        let (etcd, folder) = (Etcd::start().await, TempFolder::new().unwrap());
        promoted(&etcd).await;
        let file = folder.path().join("vtelector.toml");
        let fixed = format!(
            "topo-global-server-address = {:?}\ntopo_global_root = \"/vitess/global\"\nallow-recovery = false\n",
            etcd.address
        );
        std::fs::write(&file, format!("{fixed}{more}")).unwrap();
        let line = format!(
            "--config-file {} --port 0 --grpc-port 0 --bind-address 127.0.0.1 --grpc-bind-address 127.0.0.1 \
             --client-requests-per-second 0",
            file.display()
        );
        let (process, serving, _) = started(&line).await;
        let address = |field: &str| serving[field].as_str().unwrap().to_owned();
        let (grpc, http) = (address("grpc"), address("http").parse().unwrap());
        Self { process, grpc, http, file, fixed, _folder: folder, _etcd: etcd }
    }

    fn write(&self, more: &str) {
        std::fs::write(&self.file, format!("{}{more}", self.fixed)).unwrap();
    }

    async fn client(&self) -> ElectorClient<Channel> {
        ElectorClient::connect(format!("http://{}", self.grpc)).await.unwrap()
    }
}

#[tokio::test]
async fn a_file_that_changes_is_taken_without_a_restart_and_one_with_an_error_is_shown_and_not_taken() {
    let elector = Following::start("failover-floor = \"1h\"\n").await;
    let mut client = elector.client().await;
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
    let metric = async || get(elector.http, "/metrics").await.1;

    let status = until("a block by the file's rule", &|status| !status.blocked.is_empty()).await;
    let blocked = status.blocked[0].blocked.clone().unwrap();
    assert!(blocked.by == "failover floor" && blocked.reason.contains("1h0m0s"), "{blocked:?}");

    elector.write("failover-floor = \"soon\"\n");
    let status = until("the error", &|status| !status.settings_error.is_empty()).await;
    assert!(status.settings_error.contains("failover-floor") && status.settings_error.contains("vtelector.toml"), "{status:?}");
    assert!(!status.blocked.is_empty(), "the old settings stay in force");
    assert!(metric().await.contains("vtelector_settings_file_error 1"));

    elector.write("failover-floor = 0\nfailover-burst = \"0\"\n");
    signal(&elector.process, "HUP").await;
    until("no block and no error", &|status| status.blocked.is_empty() && status.settings_error.is_empty()).await;
    assert!(metric().await.contains("vtelector_settings_file_error 0"));

    std::fs::remove_file(&elector.file).unwrap();
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
    let valid = |seconds: usize| format!("failover-floor = \"{seconds}s\"\n");
    let elector = Following::start(&valid(1000)).await;
    let (grpc, http) = (elector.grpc.clone(), elector.http);
    let (over, mut calls) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..3 {
        calls.spawn(load(grpc.clone(), http, over.clone()));
    }
    let mut client = elector.client().await;
    let broken = [
        elector.fixed.clone() + "failover-floor = \"soon\"\n",
        elector.fixed.clone() + "failover-flo",
        elector.fixed.clone() + "no-such-flag = 1\n",
        "no settings at all".to_owned(),
        String::new(),
    ];
    for round in 1..=15 {
        for (content, is_valid) in
            [(elector.fixed.clone() + &valid(1000 + round), true), (broken[round % broken.len()].clone(), false)]
        {
            std::fs::write(&elector.file, &content).unwrap();
            signal(&elector.process, "HUP").await;
            eventually("the file looked at", SOON, async || {
                let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
                let config: serde_json::Value = serde_json::from_str(&get(http, "/api/config").await.1).unwrap();
                let floor = config["failover-floor"] == format!("{}s", 1000 + round).as_str();
                let said = status.settings_error.is_empty() == is_valid;
                // With an error the last good value stays in force.
                if floor && said { Ok(()) } else { Err(format!("{:?} {config}", status.settings_error)) }
            })
            .await
            .unwrap_or_else(|error| panic!("round {round}, {content:?}: {error}"));
        }
    }
    over.cancel();
    let mut count = 0;
    while let Some(ended) = calls.join_next().await {
        count += ended.unwrap().expect("no call fails");
    }
    assert!(count > 100, "{count} calls are no load");
}
