//! The fence over MySQL's own protocol, against a real mysqld: see `vtelector::mysql::fence`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::time::Duration;

use cluster::{APP, Mysqld, Signal, TempFolder, eventually, tools};
use mysql_async::{Conn, prelude::Queryable};
use tokio::{task::JoinSet, time::Instant};
use vtelector::mysql::{
    conn::{MysqlAddress, Secret},
    fence::{DirectFence, FenceAccount, FenceError},
};

const SOON: Duration = Duration::from_secs(15);
const FENCER: &str = "fencer";
const PASSWORD: &str = "f'en\\ce";

/// A primary under semi-sync without any replica: every commit hangs.
struct Lonely {
    mysqld: Mysqld,
    _folder: TempFolder,
}

impl Lonely {
    /// The fence's account has these privileges, and logs in by password over TLS or not at all.
    async fn start(privileges: &str) -> Self {
        let folder = TempFolder::new().unwrap();
        let mut mysqld = Mysqld::start(&tools(), &folder.path().join("server"), 1).await.unwrap();
        mysqld.ready().await.unwrap();
        for sql in [
            "SET GLOBAL super_read_only = OFF".to_owned(),
            "SET GLOBAL read_only = OFF".to_owned(),
            "CREATE DATABASE app".to_owned(),
            "CREATE TABLE app.t (id INT PRIMARY KEY)".to_owned(),
            format!(r"CREATE USER {FENCER}@'%' IDENTIFIED BY 'f''en\\ce' REQUIRE SSL"),
            format!("GRANT {privileges} ON *.* TO {FENCER}@'%'"),
            "SET GLOBAL rpl_semi_sync_source_enabled = ON".to_owned(),
        ] {
            mysqld.execute(&sql).await.unwrap();
        }
        Self { mysqld, _folder: folder }
    }

    fn fence(&self) -> DirectFence {
        self.fence_with(PASSWORD)
    }

    fn fence_with(&self, password: &str) -> DirectFence {
        let account = FenceAccount { user: FENCER.to_owned(), password: Secret(password.to_owned()) };
        DirectFence::new(account)
    }

    fn address(&self) -> MysqlAddress {
        MysqlAddress::Tcp { host: "127.0.0.1".to_owned(), port: self.mysqld.port() }
    }

    /// A client whose commit hangs.
    async fn hung_client(&self) -> JoinSet<Result<(), mysql_async::Error>> {
        let mut conn = Conn::new(self.mysqld.tcp_opts(APP)).await.unwrap();
        let mut client = JoinSet::new();
        client.spawn(async move { conn.query_drop("INSERT INTO app.t VALUES (1)").await });
        self.until(
            "SELECT CAST(COUNT(*) AS CHAR) FROM performance_schema.processlist WHERE state LIKE 'Waiting for semi-sync%'",
            "1",
        )
        .await;
        client
    }

    async fn until(&self, sql: &str, expected: &str) {
        eventually(sql, SOON, async || match self.mysqld.value(sql).await {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(found),
            Err(error) => Err(error.to_string()),
        })
        .await
        .unwrap();
    }
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

const OFFLINE: &str = "SELECT CAST(@@global.offline_mode AS CHAR)";
const READ_ONLY: &str = "SELECT CAST(@@global.super_read_only AS CHAR)";
const SEMI_SYNC: &str = "SELECT CAST(@@global.rpl_semi_sync_source_enabled AS CHAR)";
const GRANTS: &str = "SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_commit_hangs_is_cut_off_and_never_told_that_it_was_committed() {
    let server = Lonely::start(GRANTS).await;
    let mut hung = server.hung_client().await;
    let fence = server.fence();
    let begun = Instant::now();
    let fenced = fence.fence(server.address(), in_ms(2000)).await.unwrap();
    println!("fenced in {:?}", begun.elapsed());
    // Semi-sync takes a second to be switched off: that is not on this way.
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    let cut_off = tokio::time::timeout(SOON, hung.join_next()).await.unwrap().unwrap().unwrap();
    assert!(!matches!(cut_off, Ok(()) | Err(mysql_async::Error::Server(_))), "cut off without an answer: {cut_off:?}");
    let refused = Conn::new(server.mysqld.tcp_opts(APP)).await.unwrap_err().to_string();
    assert!(refused.contains("offline mode"), "{refused}");

    // An administrator gets in. What hung is committed there alone, later than what the fence saw.
    server.until(SEMI_SYNC, "0").await;
    server.until(READ_ONLY, "1").await;
    server.until("SELECT CAST(COUNT(*) AS CHAR) FROM app.t", "1").await;
    let executed = server.mysqld.gtid_executed().await.unwrap().parse().unwrap();
    assert!(fenced.executed.count() > 0 && !fenced.executed.contains(&executed));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lifts_the_fence_lets_clients_in_again_to_a_server_that_stays_read_only() {
    let server = Lonely::start(GRANTS).await;
    let fence = server.fence();
    fence.fence(server.address(), in_ms(2000)).await.unwrap();
    // At once: it waits for what follows the fence, which would otherwise come after it.
    fence.unfence(&server.address(), in_ms(10_000)).await.unwrap();
    for (sql, expected) in [(OFFLINE, "0"), (READ_ONLY, "1"), (SEMI_SYNC, "0")] {
        assert_eq!(server.mysqld.value(sql).await.unwrap(), expected, "{sql}");
    }
    let mut conn = Conn::new(server.mysqld.tcp_opts(APP)).await.unwrap();
    let refused = conn.query_drop("INSERT INTO app.t VALUES (2)").await.unwrap_err().to_string();
    assert!(refused.contains("1290"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_finds_the_fence_queued_when_it_thaws_though_the_elector_is_dead() {
    let server = Lonely::start(GRANTS).await;
    let mut hung = server.hung_client().await;
    let fence = server.fence();
    let mut held = fence.hold(server.address(), in_ms(2000)).await.unwrap();
    assert!(held.is_alive(in_ms(2000)).await);
    server.mysqld.signal(Signal::Freeze).unwrap();
    let pending = fence.queue(held).unwrap();
    let unknown = pending.answer(in_ms(300)).await.unwrap_err();
    assert!(matches!(unknown, FenceError::Unknown { .. }), "{unknown}");
    let late = fence.unfence(&server.address(), in_ms(100)).await.unwrap_err();
    assert!(matches!(late, FenceError::Unknown { .. }), "an earlier fence is under way: {late}");

    // The elector dies.
    drop(fence);
    server.mysqld.signal(Signal::Thaw).unwrap();
    server.until(OFFLINE, "1").await;
    let cut_off = tokio::time::timeout(SOON, hung.join_next()).await.unwrap().unwrap().unwrap();
    assert!(!matches!(cut_off, Ok(()) | Err(mysql_async::Error::Server(_))), "cut off without an answer: {cut_off:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_that_thaws_in_time_is_confirmed() {
    let server = Lonely::start(GRANTS).await;
    let fence = server.fence();
    let held = fence.hold(server.address(), in_ms(2000)).await.unwrap();
    server.mysqld.signal(Signal::Freeze).unwrap();
    let pending = fence.queue(held).unwrap();
    server.mysqld.signal(Signal::Thaw).unwrap();
    pending.answer(Instant::now() + SOON).await.unwrap();
    assert_eq!(server.mysqld.value(OFFLINE).await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_fenced_is_said_with_the_reason_and_in_time() {
    for too_few in ["SYSTEM_VARIABLES_ADMIN", "CONNECTION_ADMIN"] {
        let server = Lonely::start(too_few).await;
        let refused = server.fence().fence(server.address(), in_ms(2000)).await.unwrap_err();
        assert!(matches!(refused, FenceError::Refused { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("errno 1227") && text.contains("SYSTEM_VARIABLES_ADMIN and CONNECTION_ADMIN"), "{text}");
        assert_eq!(server.mysqld.value(OFFLINE).await.unwrap(), "0");
    }
    let server = Lonely::start(GRANTS).await;
    let wrong = server.fence_with("wrong").fence(server.address(), in_ms(2000)).await.unwrap_err().to_string();
    assert!(wrong.contains("errno 1045") && !wrong.contains("wrong"), "{wrong}");
    assert_eq!(server.mysqld.value(OFFLINE).await.unwrap(), "0");
    // Frozen, without a connection that was open before: nothing can be sent.
    server.mysqld.signal(Signal::Freeze).unwrap();
    let begun = Instant::now();
    let silent = server.fence().fence(server.address(), in_ms(400)).await.unwrap_err();
    assert!(matches!(silent, FenceError::Unreachable { .. }) && begun.elapsed() < Duration::from_millis(800), "{silent}");
    server.mysqld.signal(Signal::Thaw).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_entered_in_clear() {
    let server = Lonely::start(GRANTS).await;
    for sql in [
        &format!("ALTER USER {FENCER}@'%' REQUIRE NONE"),
        "SET GLOBAL ssl_cert = '/none'",
        "ALTER INSTANCE RELOAD TLS NO ROLLBACK ON ERROR",
    ] {
        // The account is changed without waiting for an acknowledgement.
        server.mysqld.execute("SET GLOBAL rpl_semi_sync_source_enabled = OFF").await.unwrap();
        server.mysqld.execute(sql).await.unwrap();
    }
    let tls = "SELECT value FROM performance_schema.tls_channel_status WHERE channel = 'mysql_main' AND property = 'Enabled'";
    assert_eq!(server.mysqld.value(tls).await.unwrap(), "No");
    server.fence().fence(server.address(), in_ms(3000)).await.unwrap();
}
