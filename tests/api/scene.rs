//! A shard that has something to tell: a primary, a replica that does not replicate and is errant, and one that does not answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use vtelector::{
    pb::{
        replicationdata::{Configuration, FullStatus, PrimaryStatus, Status},
        tabletmanagerdata::FullStatusResponse,
        topodata::TabletType,
    },
    serve::Limits,
};

use crate::{
    fake::FakeTablet,
    http,
    world::{World, tablet},
};

pub const P: &str = "aaaaaaaa-0000-0000-0000-000000000001";
pub const R: &str = "bbbbbbbb-0000-0000-0000-000000000002";
const SOON: Duration = Duration::from_secs(20);

/// A world with that shard; nothing is recovered by itself.
pub struct Scene {
    pub world: World,
    _tablets: Vec<FakeTablet>,
}

fn server(uuid: &str, id: u32, position: &str) -> FullStatus {
    FullStatus {
        server_id: id,
        server_uuid: uuid.to_owned(),
        version: "8.0.36".to_owned(),
        version_comment: "MySQL Community Server - GPL".to_owned(),
        primary_status: Some(PrimaryStatus { position: format!("MySQL56/{position}"), ..PrimaryStatus::default() }),
        gtid_mode: "ON".to_owned(),
        binlog_format: "ROW".to_owned(),
        binlog_row_image: "FULL".to_owned(),
        log_bin_enabled: true,
        log_replica_updates: true,
        replication_configuration: Some(Configuration { heartbeat_interval: 4.0, replica_net_timeout: 8 }),
        ..FullStatus::default()
    }
}

impl Scene {
    pub async fn start() -> Self {
        let world = World::with_flags(Limits::default(), &["--instance-poll-time=200ms"]).await;
        let primary = world.tablet("zone1-100", TabletType::Primary).await;
        let replica = FakeTablet::start().await;
        let mut record = tablet("zone1-101", TabletType::Replica, replica.port);
        record.mysql_port = 3308;
        world.record(record).await;
        let status = FullStatus { semi_sync_primary_enabled: true, ..server(P, 1, &format!("{P}:1-10")) };
        primary.answers("FullStatus", FullStatusResponse { status: Some(FullStatus { tablet_type: 1, ..status }) });
        let position = format!("MySQL56/{P}:1-9,{R}:1-3");
        let replication = Status {
            position: position.clone(),
            relay_log_position: position,
            source_host: "127.0.0.1".to_owned(),
            source_port: 3306,
            source_user: "vt_repl".to_owned(),
            source_uuid: P.to_owned(),
            io_state: 3,
            sql_state: 1,
            last_sql_error: "duplicate <key>".to_owned(),
            replication_lag_seconds: 42,
            ..Status::default()
        };
        let status = FullStatus {
            read_only: true,
            super_read_only: true,
            tablet_type: 2,
            replication_status: Some(replication),
            ..server(R, 2, &format!("{P}:1-9,{R}:1-3"))
        };
        replica.answers("FullStatus", FullStatusResponse { status: Some(status) });
        // Nobody listens there.
        let mut silent = tablet("zone2-200", TabletType::Replica, 1);
        silent.mysql_port = 3307;
        world.record(silent).await;
        let scene = Self { world, _tablets: vec![primary, replica] };
        scene.until("/debug/health", "everything looked at", |answer| answer.status == 200).await;
        scene.until("/api/errant-gtids", "an errant replica", |answer| answer.body.contains("zone1-0000000101")).await;
        scene
    }

    pub async fn get(&self, path: &str) -> http::Answer {
        http::get(self.world.server.http, path).await
    }

    /// Asks until the answer is so.
    pub async fn until(&self, path: &str, what: &str, is_so: impl Fn(&http::Answer) -> bool) -> http::Answer {
        let end = Instant::now() + SOON;
        loop {
            let answer = self.get(path).await;
            if is_so(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{what}: {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}
