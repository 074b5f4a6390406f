//! Every repair on real servers: something is broken by hand, and everything is as it must be thereafter, with nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::{sync::Arc, time::Duration};

use cluster::{
    GLOBAL_ROOT, KEYSPACE, SHARD, SandboxError, TabletAlias, TestCluster, Writers, automatic, eventually, shape, writes_on,
};
use futures_util::FutureExt;
use vtelector::{
    diagnose::Repair,
    pb::{
        topodata::{Shard, Tablet, TabletType},
        vttime::Time,
    },
    reparent::{Gate, Hands, Outcome, Refusal, RepairEnd, ReparentSettings},
    tablet::{GrpcTabletManager, TabletSettings},
    topo::{ShardId, Topo, TopoSettings},
};

/// How long a shard may take to be right again.
const LIMIT: Duration = Duration::from_secs(20);

/// Who repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The test calls each repair by its name.
    Hands,
    /// The elector notices by itself.
    Elector,
}

/// The elector, unless `REPAIRS_BY=hands` wants to see each repair by itself.
fn by() -> By {
    match std::env::var("REPAIRS_BY").as_deref() {
        Ok("hands") => By::Hands,
        _ => By::Elector,
    }
}

/// A cluster with a primary and two replicas, and hands of our own.
struct Bench {
    test: TestCluster,
    primary: TabletAlias,
    replicas: [TabletAlias; 2],
    topo: Topo,
    hands: Hands,
    shard: ShardId,
}

impl Bench {
    async fn set_up(by: By) -> Self {
        let (mut test, primary) = TestCluster::start(if by == By::Elector { automatic() } else { shape() }).await;
        // What the elector says when it finds such settings.
        test.announce("semi-sync settings that could lose writes");
        let replicas = [test.after(&primary), test.after(&test.after(&primary))];
        let settings = TopoSettings {
            global_server_address: test.etcd.address(),
            global_root: GLOBAL_ROOT.to_owned(),
            tls: None,
            lease_ttl: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
        };
        let topo = Topo::connect(&settings).await.unwrap();
        let settings = ReparentSettings {
            remote_operation_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(10),
            ledger_root: "/vtelector".to_owned(),
            durability_extra: Default::default(),
            who: "the test".to_owned(),
            die_at: None,
        };
        let tablets = Arc::new(GrpcTabletManager::new(TabletSettings::default()).unwrap());
        let hands = Hands::new(topo.clone(), tablets, settings);
        let shard = ShardId::new(KEYSPACE, SHARD).unwrap();
        Self { test, primary, replicas, topo, hands, shard }
    }

    async fn sql(&self, alias: &TabletAlias, statements: &[&str]) {
        for sql in statements {
            self.test.tablet(alias).mysqld.execute(sql).await.unwrap_or_else(|error| panic!("{sql} on {alias}: {error}"));
        }
    }

    async fn value(&self, alias: &TabletAlias, sql: &str) -> String {
        self.test.tablet(alias).mysqld.value(sql).await.unwrap()
    }

    /// One column of SHOW REPLICA STATUS; nothing without a source.
    async fn replica(&self, alias: &TabletAlias, column: &str) -> Option<String> {
        let rows = self.test.tablet(alias).mysqld.query("SHOW REPLICA STATUS").await.unwrap();
        rows.first().and_then(|row| row.get::<Option<String>, _>(column)).flatten()
    }

    async fn repair(&self, alias: &TabletAlias, repair: Repair) -> RepairEnd {
        let due: Gate = Arc::new(|| async { Ok(()) }.boxed());
        let outcome = self.hands.repair(&self.shard, alias, repair, due).await;
        println!("{repair:?} of {alias} in {:?}: {}", outcome.took, outcome.end);
        outcome.end
    }

    /// It is repaired, by whoever repairs.
    async fn repaired(&self, by: By, alias: &TabletAlias, repair: Repair) {
        if by == By::Hands {
            let end = self.repair(alias, repair).await;
            assert!(matches!(end, RepairEnd::Done(_)), "{end}");
        }
    }

    async fn refused(&self, alias: &TabletAlias, repair: Repair) -> Refusal {
        match self.repair(alias, repair).await {
            RepairEnd::Refused(refusal) => refusal,
            other => panic!("{other}"),
        }
    }

    async fn settled(&self) {
        self.test.settled(&self.primary, LIMIT).await.unwrap();
        self.test.no_errant(&self.primary).await.unwrap();
    }

    /// Transactions that nobody but `alias` and the primary can have, the primary not for long: its binary logs are purged. What the
    /// replica has received and then loses does not come back.
    async fn received_and_not_applied(&self, alias: &TabletAlias) -> String {
        self.test.delay(alias, 3600).await.unwrap();
        let new = self
            .write(&["CREATE DATABASE kept", "CREATE TABLE kept.t (n INT PRIMARY KEY)", "INSERT INTO kept.t VALUES (1)"])
            .await;
        self.receives(alias, &new).await;
        new
    }

    /// Writes on the primary; the transactions.
    async fn write(&self, statements: &[&str]) -> String {
        let executed = async || self.test.tablet(&self.primary).mysqld.gtid_executed().await.unwrap();
        let before = executed().await;
        self.sql(&self.primary, statements).await;
        self.value(&self.primary, &format!("SELECT GTID_SUBTRACT('{}', '{before}')", executed().await)).await
    }

    /// Waits until a replica has received these.
    async fn receives(&self, alias: &TabletAlias, gtids: &str) {
        eventually("the replica receiving them", LIMIT, async || {
            let received = self.replica(alias, "Retrieved_Gtid_Set").await.unwrap_or_default().replace('\n', "");
            match self.value(&self.primary, &format!("SELECT GTID_SUBSET('{gtids}', '{received}')")).await.as_str() {
                "1" => Ok(()),
                _ => Err(SandboxError::Wrong(vec![format!("{received} lacks some of {gtids}")])),
            }
        })
        .await
        .unwrap();
    }

    async fn purge(&self) {
        let log = self.value(&self.primary, "SHOW BINARY LOG STATUS").await;
        self.sql(&self.primary, &["FLUSH BINARY LOGS"]).await;
        let now = self.value(&self.primary, "SHOW BINARY LOG STATUS").await;
        assert_ne!(log, now);
        // The dump threads may read the last event of the old one still.
        eventually("the binary logs purged", LIMIT, async || {
            self.sql(&self.primary, &[&format!("PURGE BINARY LOGS TO '{now}'")]).await;
            match self.test.tablet(&self.primary).mysqld.query("SHOW BINARY LOGS").await?.len() {
                1 => Ok(()),
                more => Err(SandboxError::Wrong(vec![format!("{more} binary logs")])),
            }
        })
        .await
        .unwrap();
    }

    /// What it received and had not applied is still there to be applied.
    async fn kept(&self, alias: &TabletAlias, gtids: &str) {
        assert_eq!(self.replica(alias, "Last_IO_Error").await.as_deref(), Some(""), "what it lacks is purged");
        self.test.delay(alias, 0).await.unwrap();
        eventually("everything applied", LIMIT, async || {
            let missing = self.test.missing(gtids, alias).await?;
            if missing.is_empty() { Ok(()) } else { Err(SandboxError::Wrong(vec![missing])) }
        })
        .await
        .unwrap();
    }

    async fn point_at(&self, alias: &TabletAlias, source: &TabletAlias) {
        let port = self.test.tablet(source).mysqld.port();
        let change = format!("CHANGE REPLICATION SOURCE TO SOURCE_PORT = {port}");
        self.sql(alias, &["STOP REPLICA IO_THREAD", &change, "START REPLICA IO_THREAD"]).await;
    }
}

#[tokio::test]
async fn a_read_only_primary_is_made_writable_with_its_semi_sync_settings_right() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let writers = Writers::start(&bench.test, &bench.primary).await.unwrap();
    writes_on(&writers, &bench.primary).await;
    bench.sql(&bench.primary, &["SET GLOBAL super_read_only = ON", "SET GLOBAL rpl_semi_sync_source_timeout = 1000"]).await;
    bench.repaired(by, &bench.primary, Repair::MakeWritable).await;
    writes_on(&writers, &bench.primary).await;
    assert_eq!(
        bench.value(&bench.primary, "SELECT CAST(@@global.rpl_semi_sync_source_timeout AS CHAR)").await,
        "1000000000000000000"
    );
    bench.settled().await;
    bench.test.nothing_lost(&writers.finish().await).await;
    bench.test.finish();
}

#[tokio::test]
async fn a_writable_replica_is_made_read_only() {
    let by = by();
    let bench = Bench::set_up(by).await;
    bench.sql(&bench.replicas[0], &["SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = OFF"]).await;
    bench.repaired(by, &bench.replicas[0], Repair::MakeReadOnly).await;
    bench.settled().await;
    assert_eq!(bench.value(&bench.replicas[0], "SELECT CAST(@@global.super_read_only AS CHAR)").await, "1");
    bench.test.finish();
}

#[tokio::test]
async fn a_standalone_tablet_is_connected_and_an_errant_or_hopelessly_lagging_one_is_not() {
    let by = by();
    let mut bench = Bench::set_up(by).await;
    // The agents say of themselves that they do not replicate.
    bench.test.announce("errant");
    let [one, two] = bench.replicas.clone();
    bench.sql(&one, &["STOP REPLICA", "RESET REPLICA ALL"]).await;
    bench.repaired(by, &one, Repair::Connect).await;
    bench.settled().await;

    bench.sql(&two, &["STOP REPLICA", "RESET REPLICA ALL"]).await;
    bench.test.write_errant(&two).await.unwrap();
    let refusal = bench.refused(&two, Repair::Connect).await;
    let Refusal::Errant { errant, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!(errant.count(), 1);
    assert_eq!(bench.replica(&two, "Source_Port").await, None, "it was attached");

    bench.sql(&one, &["STOP REPLICA"]).await;
    bench.sql(&one, &["RESET REPLICA ALL"]).await;
    if by == By::Hands {
        // Nobody acknowledges: only what needs no acknowledgement is written.
        bench.sql(&bench.primary, &["SET GLOBAL rpl_semi_sync_source_enabled = OFF", "CREATE DATABASE gone"]).await;
        bench.purge().await;
        let refusal = bench.refused(&one, Repair::Connect).await;
        assert!(matches!(refusal, Refusal::NeedsRebuild { .. }), "{refusal}");
        assert_eq!(bench.replica(&one, "Source_Port").await, None, "it was attached");
    }
    bench.test.finish();
}

#[tokio::test]
async fn a_replica_of_a_replica_is_connected_and_keeps_what_it_received() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let [one, two] = bench.replicas.clone();
    let new = bench.received_and_not_applied(&two).await;
    bench.point_at(&two, &one).await;
    bench.purge().await;
    bench.repaired(by, &two, Repair::Connect).await;
    bench.settled().await;
    bench.kept(&two, &new).await;
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn a_relay_log_that_cannot_be_applied_is_not_thrown_away() {
    let bench = Bench::set_up(By::Hands).await;
    let [one, two] = bench.replicas.clone();
    // A row that the replica has already, and a relay log behind it.
    bench.sql(&bench.primary, &["CREATE DATABASE stuck", "CREATE TABLE stuck.t (n INT PRIMARY KEY)"]).await;
    eventually("the table", LIMIT, async || bench.test.tablet(&two).mysqld.query("SELECT * FROM stuck.t").await).await.unwrap();
    bench.sql(&two, &["SET GLOBAL super_read_only = OFF"]).await;
    let mut conn = bench.test.tablet(&two).mysqld.connect().await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut conn, "SET sql_log_bin = 0").await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut conn, "INSERT INTO stuck.t VALUES (1)").await.unwrap();
    bench.sql(&two, &["SET GLOBAL super_read_only = ON"]).await;
    let new = bench.write(&["INSERT INTO stuck.t VALUES (1)", "INSERT INTO stuck.t VALUES (2)"]).await;
    eventually("its SQL thread stopped", LIMIT, async || match bench.replica(&two, "Replica_SQL_Running").await.as_deref() {
        Some("No") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    bench.point_at(&two, &one).await;
    bench.receives(&two, &new).await;
    let received = bench.replica(&two, "Retrieved_Gtid_Set").await;
    let refusal = bench.refused(&two, Repair::Connect).await;
    let Refusal::Unapplied { unapplied, reason, .. } = &refusal else { panic!("{refusal}") };
    assert!(unapplied.count() >= 1 && !reason.is_empty(), "{refusal}");
    assert_eq!(bench.replica(&two, "Retrieved_Gtid_Set").await, received);
    eventually("it goes on as it was", LIMIT, async || match bench.replica(&two, "Replica_IO_Running").await.as_deref() {
        Some("Yes") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    // A person mends it, and it is connected.
    mysql_async::prelude::Queryable::query_drop(&mut conn, "SET GLOBAL super_read_only = OFF").await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut conn, "DELETE FROM stuck.t WHERE n = 1").await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut conn, "SET GLOBAL super_read_only = ON").await.unwrap();
    bench.repaired(By::Hands, &two, Repair::Connect).await;
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn stopped_replication_is_started_and_keeps_what_it_received() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let two = bench.replicas[1].clone();
    let new = bench.received_and_not_applied(&two).await;
    bench.sql(&two, &["STOP REPLICA"]).await;
    bench.purge().await;
    bench.repaired(by, &two, Repair::StartReplication).await;
    bench.settled().await;
    bench.kept(&two, &new).await;
    // One thread alone.
    bench.sql(&two, &["STOP REPLICA SQL_THREAD"]).await;
    bench.repaired(by, &two, Repair::StartReplication).await;
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn a_heartbeat_is_mended_and_the_relay_log_kept() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let two = bench.replicas[1].clone();
    let new = bench.received_and_not_applied(&two).await;
    let change = "CHANGE REPLICATION SOURCE TO SOURCE_HEARTBEAT_PERIOD = 3";
    bench.sql(&two, &["STOP REPLICA IO_THREAD", change, "SET GLOBAL replica_net_timeout = 8", "START REPLICA IO_THREAD"]).await;
    bench.purge().await;
    bench.repaired(by, &two, Repair::FixHeartbeat).await;
    let period = "SELECT CAST(HEARTBEAT_INTERVAL AS CHAR) FROM performance_schema.replication_connection_configuration";
    eventually("the heartbeat", LIMIT, async || match bench.value(&two, period).await {
        period if period.starts_with("4.0") => Ok(()),
        other => Err(other),
    })
    .await
    .unwrap();
    bench.settled().await;
    bench.kept(&two, &new).await;
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn a_primary_forgets_its_source() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let port = bench.test.tablet(&bench.replicas[0]).mysqld.port();
    let change = format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'vt_repl', \
         SOURCE_PASSWORD = 'vt_repl', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1"
    );
    bench.sql(&bench.primary, &[&change, "START REPLICA"]).await;
    bench.repaired(by, &bench.primary, Repair::ForgetSource).await;
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn semi_sync_is_switched_on_from_the_replicas_to_the_primary() {
    let by = by();
    let bench = Bench::set_up(by).await;
    bench
        .sql(
            &bench.primary,
            &["SET GLOBAL rpl_semi_sync_source_enabled = OFF", "SET GLOBAL rpl_semi_sync_source_wait_point = AFTER_COMMIT"],
        )
        .await;
    for replica in &bench.replicas {
        let off = "SET GLOBAL rpl_semi_sync_replica_enabled = OFF";
        bench.sql(replica, &[off, "STOP REPLICA IO_THREAD", "START REPLICA IO_THREAD"]).await;
    }
    if by == By::Hands {
        let refusal = bench.refused(&bench.primary, Repair::SemiSyncPrimary).await;
        assert!(matches!(refusal, Refusal::TooFewAckers { acking: 0, .. }), "{refusal}");
        bench.repaired(by, &bench.replicas[0], Repair::SemiSyncReplica).await;
        bench.repaired(by, &bench.primary, Repair::SemiSyncPrimary).await;
        bench.repaired(by, &bench.replicas[1], Repair::SemiSyncReplica).await;
    }
    bench.settled().await;
    eventually("acknowledged writes again", LIMIT, async || {
        match bench.value(&bench.primary, "SELECT @@global.rpl_semi_sync_source_wait_point").await {
            point if point == "AFTER_SYNC" => Ok(()),
            other => Err(other),
        }
    })
    .await
    .unwrap();
    bench.test.finish();
}

#[tokio::test]
async fn a_second_primary_of_an_older_term_becomes_a_replica() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let one = bench.replicas[0].clone();
    bench
        .sql(&one, &["STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = OFF"])
        .await;
    let mut older = |record: &mut Tablet| {
        record.set_type(TabletType::Primary);
        record.primary_term_start_time = Some(Time { seconds: 1_000_000_000, nanoseconds: 0 });
        true
    };
    bench.topo.update_tablet(&one, &mut older).await.unwrap();
    bench.repaired(by, &one, Repair::RetirePrimary).await;
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn a_tablet_takes_the_type_that_is_recorded() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let one = bench.replicas[0].clone();
    for wanted in [TabletType::Rdonly, TabletType::Replica] {
        let mut change = |record: &mut Tablet| {
            record.set_type(wanted);
            true
        };
        bench.topo.update_tablet(&one, &mut change).await.unwrap();
        bench.repaired(by, &one, Repair::AlignType).await;
        let acks = if wanted == TabletType::Replica { "1" } else { "0" };
        eventually("the type in force", LIMIT, async || {
            match bench.value(&one, "SELECT CAST(@@global.rpl_semi_sync_replica_enabled AS CHAR)").await {
                on if on == acks => Ok(()),
                other => Err(format!("a {} has semi-sync at {other}", wanted.as_str_name())),
            }
        })
        .await
        .unwrap();
    }
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn an_errant_replica_is_drained() {
    let mut bench = Bench::set_up(By::Hands).await;
    bench.test.announce("errant");
    let one = bench.replicas[0].clone();
    bench.test.write_errant(&one).await.unwrap();
    bench.repaired(By::Hands, &one, Repair::Drain).await;
    assert_eq!(bench.topo.tablet(&one).await.unwrap().value.r#type(), TabletType::Drained);
    assert!(matches!(bench.refused(&bench.primary, Repair::Drain).await, Refusal::Role { .. }));
    bench.test.finish();
}

#[tokio::test]
async fn the_shard_record_names_the_primary_again_and_clients_are_let_in() {
    let by = by();
    let bench = Bench::set_up(by).await;
    let mut older = |shard: &mut Shard| {
        shard.primary_alias = Some((&bench.replicas[0]).into());
        shard.primary_term_start_time = Some(Time { seconds: 1_000_000_000, nanoseconds: 0 });
        true
    };
    bench.topo.update_shard(&bench.shard, &mut older).await.unwrap();
    if by == By::Hands {
        // Its own tablet may be faster.
        assert!(bench.repair(&bench.primary, Repair::PublishPrimary).await.is_right());
    }
    bench.settled().await;
    bench.sql(&bench.replicas[1], &["SET GLOBAL offline_mode = ON"]).await;
    bench.repaired(by, &bench.replicas[1], Repair::LiftFence).await;
    eventually("clients let in", LIMIT, async || {
        match bench.value(&bench.replicas[1], "SELECT CAST(@@global.offline_mode AS CHAR)").await {
            off if off == "0" => Ok(()),
            on => Err(on),
        }
    })
    .await
    .unwrap();
    bench.settled().await;
    bench.test.finish();
}

#[tokio::test]
async fn the_primary_moves_to_the_one_that_is_declared_and_nothing_is_lost() {
    let by = by();
    let mut bench = Bench::set_up(by).await;
    let (working, declared) = (bench.primary.clone(), bench.replicas[0].clone());
    // Before a planned move the tablets are asked for workflows, of which an agent has no table.
    bench.test.announce("_vt.vreplication");
    // Its term begins a second after the one that stood there, as declared below: the clock is not there yet.
    bench.test.announce("behind the newest primary term");
    let writers = Writers::start(&bench.test, &working).await.unwrap();
    writes_on(&writers, &working).await;
    let term = bench.topo.tablet(&working).await.unwrap().value.primary_term_start_time.unwrap();
    let mut newer = |record: &mut Tablet| {
        record.set_type(TabletType::Primary);
        record.primary_term_start_time = Some(Time { seconds: term.seconds + 1, ..term });
        true
    };
    bench.topo.update_tablet(&declared, &mut newer).await.unwrap();
    if by == By::Hands {
        let due: Gate = Arc::new(|| async { Ok(()) }.boxed());
        let Outcome { result, events, .. } = bench.hands.take_over_if(&bench.shard, &declared, due).await;
        let promoted = result.unwrap_or_else(|error| panic!("{error} {events:#?}"));
        assert_eq!(promoted.primary, declared);
    }
    bench.primary = declared.clone();
    bench.settled().await;
    writes_on(&writers, &declared).await;
    bench.test.nothing_lost(&writers.finish().await).await;
    bench.test.finish();
}
