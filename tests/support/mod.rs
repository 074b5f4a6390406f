//! A shard on real etcd and real mysqld, each server with an agent in this process, called over gRPC.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so here")]

#[path = "../cluster/mod.rs"]
mod cluster;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vtelector::{
    agent::{self, AgentSettings, ReplicationAccount},
    mysql::conn::{MysqlAddress, MysqlSettings, Secret},
    pb::{
        query::StreamHealthRequest,
        queryservice::query_client::QueryClient,
        topodata::{CellInfo, Keyspace, Tablet, TabletType},
    },
    tablet::{Call, GrpcTabletManager, SetSource, TabletManager, TabletSettings},
    topo::{ShardId, TabletAlias, Topo, TopoSettings},
};

pub use cluster::*;

/// Nothing in these tests takes that long.
pub const LIMIT: Duration = Duration::from_secs(20);

/// One server, its agent, and how to stop that.
pub struct Member {
    pub alias: TabletAlias,
    pub mysqld: Mysqld,
    data_dir: PathBuf,
    agent: Option<(CancellationToken, JoinSet<()>)>,
}

/// A shard of keyspace `ks` with policy `semi_sync`.
pub struct World {
    pub etcd: Etcd,
    pub topo: Topo,
    pub tablets: Arc<GrpcTabletManager>,
    pub shard: ShardId,
    pub members: Vec<Member>,
    // Dropped last: the servers' data.
    _folder: TempFolder,
}

impl World {
    /// Servers and agents of one cell, registered; nobody is primary.
    pub async fn start(members: u32) -> World {
        let folder = TempFolder::new().unwrap();
        let tools = tools();
        let etcd = Etcd::start(&tools, &folder.path().join("etcd")).await.unwrap();
        let topo = Topo::connect(&topo_settings(&etcd)).await.unwrap();
        let cell = CellInfo { server_address: etcd.address(), root: "/vitess/zone1".to_owned() };
        topo.create_cell_info("zone1", &cell).await.unwrap();
        let keyspace = Keyspace { durability_policy: "semi_sync".to_owned(), ..Keyspace::default() };
        topo.create_keyspace("ks", &keyspace).await.unwrap();
        let tablets = Arc::new(GrpcTabletManager::new(TabletSettings::default()).unwrap());
        let shard = ShardId::new("ks", "0").unwrap();
        let mut world = World { etcd, topo, tablets, shard, members: Vec::new(), _folder: folder };
        for id in 1..=members {
            let folder = world._folder.path().join(format!("m{id}"));
            let mysqld = Mysqld::start(&tools, &folder, id).await.unwrap();
            let alias = TabletAlias::new("zone1", 100 + id).unwrap();
            world.members.push(Member { alias, mysqld, data_dir: folder.join("agent"), agent: None });
        }
        for at in 0..world.members.len() {
            world.members[at].mysqld.ready().await.unwrap();
            world.start_agent(at).await;
        }
        world
    }

    /// The same, with the first member as primary and the others following it.
    pub async fn with_primary(members: u32) -> World {
        let world = World::start(members).await;
        let primary = world.record(0).await;
        world.tablets.init_primary(&primary, members > 1, world.call()).await.unwrap();
        for at in 1..world.members.len() {
            world.follow(at, 0).await;
        }
        world.wait_shard_primary(0).await;
        world
    }

    pub fn call(&self) -> Call {
        Call { timeout: LIMIT, lock_revision: None }
    }

    pub async fn start_agent(&mut self, at: usize) {
        let member = &self.members[at];
        let settings = AgentSettings {
            alias: member.alias.clone(),
            shard: self.shard.clone(),
            start_type: TabletType::Replica,
            tags: [("rack".to_owned(), "r1".to_owned())].into(),
            hostname: "127.0.0.1".to_owned(),
            grpc: "127.0.0.1:0".parse().unwrap(),
            grpc_tls: None,
            mysql: MysqlSettings {
                address: MysqlAddress::Socket(member.mysqld.socket()),
                user: DBA.to_owned(),
                password: Secret::default(),
                connect_timeout: Duration::from_secs(2),
            },
            mysql_port: None,
            replication: ReplicationAccount {
                user: REPLICATION.to_owned(),
                password: Secret(REPLICATION.to_owned()),
                ..ReplicationAccount::default()
            },
            ledger_root: "/vtelector".to_owned(),
            data_dir: member.data_dir.clone(),
            remote_operation_timeout: Duration::from_secs(15),
            lock_timeout: Duration::from_secs(15),
            health_check_interval: Duration::from_millis(500),
        };
        let shutdown = CancellationToken::new();
        let topo = Topo::connect(&topo_settings(&self.etcd)).await.unwrap();
        let running = agent::start(settings, topo, self.tablets.clone(), shutdown.clone()).await.unwrap();
        let mut owner = JoinSet::new();
        owner.spawn(running.stopped());
        self.members[at].agent = Some((shutdown, owner));
    }

    /// As SIGTERM does.
    pub async fn stop_agent(&mut self, at: usize) {
        let (shutdown, mut owner) = self.members[at].agent.take().unwrap();
        shutdown.cancel();
        owner.join_next().await.unwrap().unwrap();
    }

    pub async fn record(&self, at: usize) -> Tablet {
        self.topo.tablet(&self.members[at].alias).await.unwrap().value
    }

    pub fn mysqld(&self, at: usize) -> &Mysqld {
        &self.members[at].mysqld
    }

    pub async fn follow(&self, at: usize, parent: usize) {
        self.try_follow(at, parent, 0).await.unwrap();
    }

    pub async fn try_follow(&self, at: usize, parent: usize, time_created_ns: i64) -> Result<(), vtelector::tablet::TabletError> {
        let set = SetSource {
            parent: &self.members[parent].alias,
            time_created_ns,
            force_start: true,
            wait_position: "",
            semi_sync: true,
            heartbeat_interval_s: 0.0,
        };
        self.tablets.set_replication_source(&self.record(at).await, set, self.call()).await
    }

    /// A row through an ordinary account, which is refused on a read-only server.
    pub async fn write(&self, at: usize, sql: &str) -> Result<(), mysql_async::Error> {
        use mysql_async::prelude::Queryable;
        let mut conn = mysql_async::Conn::new(self.mysqld(at).tcp_opts(APP)).await?;
        conn.query_drop(sql).await?;
        conn.disconnect().await
    }

    pub async fn wait_shard_primary(&self, at: usize) {
        let wanted = vtelector::pb::topodata::TabletAlias::from(&self.members[at].alias);
        eventually("the shard record", LIMIT, async || {
            let shard = self.topo.shard(&self.shard).await.map_err(|e| e.to_string())?.value;
            if shard.primary_alias.as_ref() == Some(&wanted) { Ok(()) } else { Err(format!("it says {:?}", shard.primary_alias)) }
        })
        .await
        .unwrap();
    }

    pub async fn wait_writable(&self, at: usize, wanted: bool) {
        eventually(&format!("writable = {wanted}"), LIMIT, async || match self.mysqld(at).is_writable().await {
            Ok(writable) if writable == wanted => Ok(()),
            Ok(writable) => Err(format!("writable = {writable}")),
            Err(error) => Err(error.to_string()),
        })
        .await
        .unwrap();
    }

    pub async fn wait_replicating(&self, at: usize, parent: usize) {
        let port = i32::from(self.mysqld(parent).port());
        eventually("replication", LIMIT, async || {
            let tablet = self.record(at).await;
            let now = self.tablets.replication_status(&tablet, self.call()).await.map_err(|e| e.to_string())?;
            let right = now.source_port == port && now.io_state == 3 && now.sql_state == 3;
            if right { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await
        .unwrap();
    }
}

fn topo_settings(etcd: &Etcd) -> TopoSettings {
    TopoSettings {
        global_server_address: etcd.address(),
        global_root: "/vitess/global".to_owned(),
        tls: None,
        lease_ttl: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
    }
}

/// Waits until its health stream gives this reason for not serving.
pub async fn wait_health(world: &World, at: usize, text: &str) {
    let address = format!("http://127.0.0.1:{}", world.record(at).await.port_map["grpc"]);
    let mut client = QueryClient::connect(address).await.unwrap();
    let mut stream = client.stream_health(StreamHealthRequest {}).await.unwrap().into_inner();
    let said = tokio::time::timeout(LIMIT, async {
        loop {
            let health = stream.message().await.unwrap().unwrap();
            let error = health.realtime_stats.unwrap().health_error;
            if error.contains(text) {
                assert!(!health.serving);
                return;
            }
        }
    });
    said.await.unwrap_or_else(|_| panic!("its health never said {text:?}"));
}
