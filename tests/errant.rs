//! Errant GTIDs on real MySQL: seen where they are, never where they are not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::time::Duration;

use cluster::{TabletAlias, TestCluster, Writers, eventually, shape};
use mysql_async::prelude::Queryable;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};
use vtelector::pb::vtelector::{ErrantGtidsRequest, ErrantGtidsResponse, elector_client::ElectorClient};

/// A look, and a second one that confirms it, with much to spare.
const SOON: Duration = Duration::from_secs(20);

/// A cluster whose elector looks at every tablet ten times a second.
async fn watched() -> (TestCluster, TabletAlias) {
    let mut shape = shape();
    shape.elector_flags.push("--instance-poll-time=100ms".to_owned());
    TestCluster::start(shape).await
}

async fn ask(cluster: &TestCluster) -> ErrantGtidsResponse {
    let mut client = ElectorClient::connect(format!("http://127.0.0.1:{}", cluster.grpc_port)).await.unwrap();
    client.errant_gtids(ErrantGtidsRequest::default()).await.unwrap().into_inner()
}

async fn metrics(cluster: &TestCluster) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", cluster.http_port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// Waits until both replicas are judged and these tablets are errant with these sets.
async fn until_errant(cluster: &TestCluster, expected: &[(&TabletAlias, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(alias, set)| (alias.uid, (*set).to_owned())).collect();
    eventually("the errant tablets", SOON, async || {
        let answer = ask(cluster).await;
        let found: Vec<_> =
            answer.errant.iter().map(|tablet| (tablet.tablet_alias.as_ref().unwrap().uid, tablet.errant.clone())).collect();
        if found == expected && answer.judged == 2 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await
    .unwrap();
}

/// One transaction on a replica, as somebody makes it who should not.
async fn stray_write(cluster: &TestCluster, alias: &TabletAlias, database: &str) -> String {
    let mysqld = &cluster.tablet(alias).mysqld;
    mysqld.execute("SET GLOBAL super_read_only = OFF").await.unwrap();
    mysqld.execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    mysqld.execute("SET GLOBAL super_read_only = ON").await.unwrap();
    mysqld.value("SELECT @@global.server_uuid").await.unwrap()
}

/// Gives a server transactions that it does not have, without their content.
async fn inject(cluster: &TestCluster, alias: &TabletAlias, gtid: &str) {
    let mut conn = cluster.tablet(alias).mysqld.connect().await.unwrap();
    for sql in [format!("SET gtid_next = '{gtid}'"), "BEGIN".into(), "COMMIT".into(), "SET gtid_next = 'AUTOMATIC'".into()] {
        conn.query_drop(sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_write_is_errant_whatever_the_replica_replicates_from_and_ends_when_the_primary_has_it() {
    let (mut cluster, primary) = watched().await;
    let stray = cluster.after(&primary);
    let other = cluster.after(&stray);
    cluster.announce(format!("tablet={stray} "));
    until_errant(&cluster, &[]).await;

    let uuid = stray_write(&cluster, &stray, "stray").await;
    let set = format!("{uuid}:1");
    until_errant(&cluster, &[(&stray, &set)]).await;
    let page = metrics(&cluster).await;
    for line in [
        format!("vtorc_current_errant_gtid_count{{tablet_alias=\"{stray}\"}} 1"),
        "vtorc_errant_gtid_tablet_count 1".to_owned(),
        format!("vtelector_errant_gtid_transactions{{keyspace=\"commerce\",shard=\"0\",tablet=\"{stray}\"}} 1"),
        format!("vtelector_errant_gtid_transactions{{keyspace=\"commerce\",shard=\"0\",tablet=\"{other}\"}} 0"),
    ] {
        assert!(page.contains(&line), "{line} is not in {page}");
    }

    // It replicates from nobody, and has a tagged transaction more.
    let mysqld = &cluster.tablet(&stray).mysqld;
    mysqld.execute("STOP REPLICA").await.unwrap();
    mysqld.execute("RESET REPLICA ALL").await.unwrap();
    inject(&cluster, &stray, &format!("{uuid}:tag:5")).await;
    until_errant(&cluster, &[(&stray, &format!("{set}:tag:5"))]).await;

    for gtid in [set, format!("{uuid}:tag:5")] {
        inject(&cluster, &primary, &gtid).await;
    }
    until_errant(&cluster, &[]).await;
    let page = metrics(&cluster).await;
    assert!(!page.contains("vtorc_current_errant_gtid_count{") && page.contains("vtorc_errant_gtid_tablet_count 0"), "{page}");
    cluster.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_moves_of_the_primary_make_no_healthy_tablet_errant() {
    let (cluster, mut primary) = watched().await;
    let writers = Writers::start(&cluster, &primary).await.unwrap();
    for _ in 0..4 {
        let next = cluster.after(&primary);
        cluster.move_to(&primary, &next).await;
        primary = next;
        let written = writers.count();
        eventually("writes after a move", SOON, async || (writers.count() > written + 20).then_some(()).ok_or("too few"))
            .await
            .unwrap();
    }
    writers.finish().await;
    until_errant(&cluster, &[]).await;
    // A tablet that was flagged for a moment would have left a warning behind.
    cluster.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_hangs_for_its_acknowledgement_is_not_errant() {
    let (cluster, primary) = watched().await;
    let (acker, reader) = (cluster.after(&primary), cluster.after(&cluster.after(&primary)));
    until_errant(&cluster, &[]).await;
    // The reader receives and does not acknowledge; the acker is gone.
    let reads = &cluster.tablet(&reader).mysqld;
    for sql in ["STOP REPLICA", "SET GLOBAL rpl_semi_sync_replica_enabled = OFF", "START REPLICA"] {
        reads.execute(sql).await.unwrap();
    }
    cluster.tablet(&acker).mysqld.execute("STOP REPLICA").await.unwrap();
    let conn = cluster.tablet(&primary).mysqld.connect().await.unwrap();
    let uuid = cluster.tablet(&primary).mysqld.value("SELECT @@global.server_uuid").await.unwrap();
    let mut hung = JoinSet::new();
    hung.spawn(async move {
        let mut conn = conn;
        conn.query_drop("CREATE DATABASE hung").await
    });
    let ahead = async || {
        let executed = cluster.tablet(&primary).mysqld.gtid_executed().await?;
        let sql = format!("SELECT GTID_SUBTRACT(@@global.gtid_executed, '{executed}')");
        let ahead = cluster.tablet(&reader).mysqld.value(&sql).await?;
        if ahead.starts_with(&uuid) { Ok(()) } else { Err(SandboxWrong(ahead).into()) }
    };
    eventually::<_, Box<dyn std::error::Error>>("the reader ahead of the primary", SOON, ahead).await.unwrap();
    // Long enough for many looks. A tablet that is flagged stays so.
    let flagged = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            let answer = ask(&cluster).await;
            assert!(answer.errant.is_empty(), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(flagged.await.is_err());
    assert!(hung.try_join_next().is_none(), "its commit hangs still");
    cluster.tablet(&acker).mysqld.execute("START REPLICA").await.unwrap();
    hung.join_next().await.unwrap().unwrap().unwrap();
    until_errant(&cluster, &[]).await;
    cluster.finish();
}

#[derive(Debug, thiserror::Error)]
#[error("it is ahead by {0:?}")]
struct SandboxWrong(String);
