//! One server with its etcd, cells `zone1` and `zone2`, keyspace `commerce` and shard `commerce/0`.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Parser;
use tonic::{Code, Response, Status, transport::Channel};
use vtelector::{
    config::{ServeArgs, Settings},
    ledger::{Kind, Outcome, Recovery},
    metrics::Metrics,
    pb::{
        topodata::{self, CellInfo, Keyspace, Shard, Tablet, TabletType},
        vtctlservice::vtctld_client::VtctldClient,
        vttime,
    },
    reparent::ReparentSettings,
    serve::{Limits, MeasuredTablets, Parts, Server},
    tablet::{GrpcTabletManager, TabletSettings},
    topo::{ShardId, TabletAlias, Topo},
};

use crate::{etcd::Etcd, fake::FakeTablet};

pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Settings of a server on this etcd, as flags make them.
pub fn settings(etcd: &Etcd, more: &[&str]) -> Settings {
    let line = format!(
        "serve --topo-global-server-address={} --topo-global-root=/vitess/global --allow-recovery=false --port=0 --grpc-port=0 --bind-address=127.0.0.1 \
         --grpc-bind-address=127.0.0.1 --lock-timeout=1s --remote-operation-timeout=1s",
        etcd.address
    );
    let line = Line::try_parse_from(line.split_whitespace().chain(more.iter().copied())).unwrap();
    Settings::try_from(&line.serve).unwrap()
}

pub struct World {
    pub etcd: Etcd,
    pub topo: Topo,
    pub server: Server,
    pub client: VtctldClient<Channel>,
}

impl World {
    pub async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    /// Tablets are asked nothing but what a test asks.
    pub async fn with_limits(limits: Limits) -> Self {
        Self::with_flags(limits, &["--instance-poll-time=24h", "--primary-liveness-interval=24h"]).await
    }

    pub async fn with_flags(limits: Limits, flags: &[&str]) -> Self {
        let etcd = Etcd::start().await;
        let topo = etcd.topo().await;
        for cell in ["zone1", "zone2"] {
            let info = CellInfo { server_address: etcd.address.clone(), root: format!("/vitess/{cell}") };
            topo.create_cell_info(cell, &info).await.unwrap();
        }
        let keyspace = Keyspace { durability_policy: "semi_sync".to_owned(), ..Keyspace::default() };
        topo.create_keyspace("commerce", &keyspace).await.unwrap();
        topo.create_shard(&shard(), LOCK_TIMEOUT).await.unwrap();
        let settings = settings(&etcd, flags);
        let server = Server::start(&settings, parts(&settings, topo.clone()), limits).await.unwrap();
        let client = client(&server).await;
        Self { etcd, topo, server, client }
    }

    /// Registers a tablet of `commerce/0` that a fake plays.
    pub async fn tablet(&self, alias: &str, kind: TabletType) -> FakeTablet {
        let fake = FakeTablet::start().await;
        self.record(tablet(alias, kind, fake.port)).await;
        fake
    }

    /// Registers a tablet, and names it in the shard record when it is a primary.
    pub async fn record(&self, tablet: Tablet) {
        let (alias, term) = (tablet.alias.clone().unwrap(), tablet.primary_term_start_time);
        let alias = TabletAlias::try_from(&alias).unwrap();
        self.topo.create_tablet(&tablet).await.unwrap();
        self.topo.add_to_shard_replication(&shard(), &alias).await.unwrap();
        if tablet.r#type == TabletType::Primary as i32 {
            let mut name = |shard: &mut Shard| {
                shard.primary_alias = Some((&alias).into());
                shard.primary_term_start_time = term;
                true
            };
            self.topo.update_shard(&shard(), &mut name).await.unwrap();
        }
    }

    pub async fn metrics(&self) -> String {
        self.http("/metrics").await.1
    }

    /// The status and body of an HTTP request.
    pub async fn http(&self, path: &str) -> (u16, String) {
        get(self.server.http, path).await
    }
}

pub async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub fn parts(settings: &Settings, topo: Topo) -> Parts {
    let metrics = Arc::new(Metrics::new().unwrap());
    let tablets = MeasuredTablets::new(GrpcTabletManager::new(TabletSettings::default()).unwrap(), metrics.clone());
    let reparents = ReparentSettings {
        remote_operation_timeout: settings.remote_operation_timeout,
        lock_timeout: settings.lock_timeout,
        ledger_root: settings.ledger_root.clone(),
        durability_extra: settings.durability_extra.clone(),
        who: "test".to_owned(),
        die_at: None,
    };
    Parts::new(topo, Arc::new(tablets), reparents, metrics)
}

pub async fn client(server: &Server) -> VtctldClient<Channel> {
    VtctldClient::connect(format!("http://{}", server.grpc)).await.unwrap()
}

pub fn shard() -> ShardId {
    ShardId::new("commerce", "0").unwrap()
}

pub fn alias(text: &str) -> topodata::TabletAlias {
    (&text.parse::<TabletAlias>().unwrap()).into()
}

/// A failover of `commerce/0` that another elector made just now.
pub fn failover() -> Recovery {
    Recovery {
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
    }
}

/// A record as a vttablet writes it; a primary's term is its number in seconds.
pub fn tablet(name: &str, kind: TabletType, grpc_port: i32) -> Tablet {
    let alias = alias(name);
    let term = (kind == TabletType::Primary).then_some(vttime::Time { seconds: i64::from(alias.uid), nanoseconds: 0 });
    Tablet {
        alias: Some(alias),
        hostname: "127.0.0.1".to_owned(),
        port_map: [("grpc".to_owned(), grpc_port)].into(),
        keyspace: "commerce".to_owned(),
        shard: "0".to_owned(),
        r#type: kind as i32,
        mysql_hostname: "127.0.0.1".to_owned(),
        mysql_port: 3306,
        primary_term_start_time: term,
        ..Tablet::default()
    }
}

/// The call failed with this code, and its message has all of these words.
#[track_caller]
pub fn refused<T: Debug>(answer: Result<Response<T>, Status>, code: Code, words: &[&str]) {
    let status = answer.expect_err("it should fail");
    assert_eq!(status.code(), code, "{}", status.message());
    for word in words {
        assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
    }
}
