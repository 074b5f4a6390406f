//! Names and reasons that others have written, in a real browser. The unit tests of the page put them into every field.

use serde_json::json;
use vtelector::{
    ledger::Scope,
    pb::topodata::{Tablet, TabletType},
    topo::{ShardId, TabletAlias},
};

use crate::{browser::Browser, fleet::KEYSPACE, world::World};

const HOSTILE: &str = "\"'><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\u{202e}javascript:alert(1)\nx";

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_written_stays_text() {
    let world = World::start(2).await;
    let alias = TabletAlias { cell: "zone1".to_owned(), uid: 777 };
    let tablet = Tablet {
        alias: Some((&alias).into()),
        hostname: format!("{HOSTILE}{}", "x".repeat(10_000)),
        mysql_hostname: HOSTILE.to_owned(),
        mysql_port: 3306,
        port_map: [("grpc".to_owned(), 1)].into(),
        keyspace: KEYSPACE.to_owned(),
        shard: "s00001".to_owned(),
        r#type: TabletType::Replica.into(),
        ..Tablet::default()
    };
    world.fleet.topo.create_tablet(&tablet).await.unwrap();
    let shard = ShardId::new(KEYSPACE, "s00001").unwrap();
    world.fleet.topo.add_to_shard_replication(&shard, &alias).await.unwrap();
    let ledger = &world.server.elector.ledger;
    ledger.set_recoveries(false, HOSTILE, HOSTILE).await.unwrap();
    let lasting = std::time::Duration::from_secs(3600);
    ledger.begin_maintenance(Scope::Shard(shard), HOSTILE, HOSTILE, lasting).await.unwrap();

    world.until("/shards/fleet/s00001", "zone1-0000000777").await;
    let mut browser = Browser::start().await;
    let search = "/?text=%22%3E%3Cscript%3Ewindow.pwned%3D1%3C%2Fscript%3E";
    for path in [
        "/",
        "/shards/fleet/s00001",
        "/maintenance",
        "/recoveries",
        "/errant",
        search,
        "/%3Cscript%3Ewindow.pwned=1%3C/script%3E",
    ] {
        browser.open(&world.url(path)).await;
        browser.check("").await;
        assert_eq!(browser.eval("[typeof window.pwned, document.images.length]").await, json!(["undefined", 0]), "{path}");
        let scripts = browser.eval("[...document.scripts].every((s) => s.src.startsWith(location.origin + '/page/'))").await;
        assert_eq!(scripts, json!(true), "{path}");
        assert!(!browser.words().await.contains('\u{202e}'), "{path} lets text run backwards");
    }
    browser.open(&world.url("/maintenance")).await;
    assert!(browser.words().await.contains("<script>window.pwned=1</script>"), "it is shown as it is");
    browser.close().await;
}
