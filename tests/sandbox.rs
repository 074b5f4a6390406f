//! The ground that the other tests stand on: a real etcd, a real mysqld, and that nothing of them is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::{path::PathBuf, time::Duration};

use cluster::{Etcd, Mysqld, SandboxError, TempFolder, eventually, tools};

#[tokio::test]
async fn etcd_keeps_its_data_over_a_kill() {
    let folder = TempFolder::new().unwrap();
    let mut etcd = Etcd::start(&tools(), &folder.path().join("etcd")).await.unwrap();
    etcd.client().await.unwrap().put("key", "value", None).await.unwrap();
    etcd.restart().await.unwrap();
    let answer = etcd.client().await.unwrap().get("key", None).await.unwrap();
    assert_eq!(answer.kvs()[0].value_str().unwrap(), "value");
}

#[tokio::test]
async fn a_server_starts_read_only_with_no_transactions_and_the_semi_sync_plugins() {
    let folder = TempFolder::new().unwrap();
    let mut first = Mysqld::start(&tools(), &folder.path().join("1"), 1).await.unwrap();
    let mut second = Mysqld::start(&tools(), &folder.path().join("2"), 2).await.unwrap();
    for server in [&mut first, &mut second] {
        server.ready().await.unwrap();
        assert!(!server.is_writable().await.unwrap());
        assert_eq!(server.gtid_executed().await.unwrap(), "");
        let plugins = "SELECT COUNT(*) FROM information_schema.plugins WHERE plugin_name LIKE 'rpl_semi_sync_%' AND plugin_status = 'ACTIVE'";
        assert_eq!(server.value(plugins).await.unwrap(), "2");
    }
    let uuid = "SELECT @@global.server_uuid";
    assert_ne!(first.value(uuid).await.unwrap(), second.value(uuid).await.unwrap());

    // A commit survives kill -9, and the server comes back on the same port.
    first.execute("SET GLOBAL super_read_only = OFF").await.unwrap();
    first.execute("CREATE DATABASE kept").await.unwrap();
    let (port, executed) = (first.port(), first.gtid_executed().await.unwrap());
    assert_ne!(executed, "");
    first.kill();
    first.restart().unwrap();
    first.ready().await.unwrap();
    assert_eq!((first.port(), first.gtid_executed().await.unwrap()), (port, executed));
}

#[tokio::test]
async fn what_was_started_ends_with_its_owner() {
    let folder = TempFolder::new().unwrap();
    let path = folder.path().to_owned();
    let mut server = Mysqld::start(&tools(), &path.join("1"), 1).await.unwrap();
    server.ready().await.unwrap();
    let id: u32 = server.value("SELECT CAST(@@pseudo_thread_id AS CHAR)").await.unwrap().parse().unwrap();
    assert!(id > 0);
    let pid = std::fs::read_to_string(path.join("1/mysqld.pid")).unwrap();
    let process = PathBuf::from(format!("/proc/{}", pid.trim()));
    assert!(process.exists());
    drop(server);
    assert!(!process.exists());
    drop(folder);
    assert!(!path.exists());
}

#[tokio::test]
async fn waiting_ends_with_the_reason_it_was_in_vain() {
    let limit = Duration::from_millis(50);
    let error = eventually::<(), _>("the moon turning green", limit, async || Err("it is white")).await.unwrap_err();
    assert_eq!(error.to_string(), "the moon turning green: not within 50ms; at last: it is white");
    let error = eventually::<(), String>("an answer", limit, async || std::future::pending().await).await.unwrap_err();
    assert!(matches!(error, SandboxError::Late { .. }), "{error}");
}
