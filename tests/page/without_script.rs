//! Everything without JavaScript: maintenance is begun and ended, recoveries are switched, a primary is moved after a preview.

use serde_json::json;

use crate::{browser::Browser, world::World};

async fn fill(browser: &mut Browser, name: &str, value: &str) {
    browser.eval(&format!("document.querySelector('[name={name}]').value = {}", json!(value))).await;
}

async fn send(browser: &mut Browser, button: &str) {
    let found = format!("[...document.querySelectorAll('button')].find((b) => b.innerText.trim() === {})", json!(button));
    browser.leave_by(&format!("{found}.click()")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_without_scripts_can_do_everything() {
    let world = World::start(2).await;
    let mut browser = Browser::start().await;
    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.open(&world.url("/")).await;
    let words = browser.words().await;
    assert!(words.contains("All 2 shards are well") && words.contains("As of "), "{words}");
    assert_eq!(browser.eval("document.querySelector('noscript meta') !== null").await, json!(true));

    browser.open(&world.url("/?text=s00001")).await;
    assert!(!browser.words().await.contains("s00000"));
    browser.open(&world.url("/maintenance?scope=shard:fleet/s00001")).await;
    for (field, value) in [("reason", "new disks"), ("lasting", "2h"), ("who", "anna")] {
        fill(&mut browser, field, value).await;
    }
    send(&mut browser, "Begin").await;
    let words = browser.words().await;
    assert!(words.contains("Maintenance of shard:fleet/s00001 has begun") && words.contains("new disks"), "{words}");
    browser.open(&world.url("/shards/fleet/s00001")).await;
    assert!(browser.words().await.contains("new disks"));
    browser.open(&world.url("/maintenance")).await;
    send(&mut browser, "End").await;
    assert!(browser.words().await.contains("Maintenance has ended."));

    browser.open(&world.url("/recoveries")).await;
    fill(&mut browser, "who", "anna").await;
    fill(&mut browser, "why", "network works").await;
    send(&mut browser, "Switch off").await;
    browser.open(&world.url("/")).await;
    let words = browser.words().await;
    assert!(words.contains("Recoveries are switched off") && words.contains("network works"), "{words}");
    browser.check("switched-off").await;

    browser.open(&world.url("/shards/fleet/s00000/reparent?new_primary=zone1-102&mode=graceful")).await;
    assert!(
        browser.words().await.contains("Move the primary from zone1-0000000100 to zone1-0000000102?"),
        "{}",
        browser.words().await
    );
    browser.check("preview").await;
    send(&mut browser, "Move the primary").await;
    assert!(browser.words().await.contains("zone1-0000000102 is primary now."), "{}", browser.words().await);
    assert_eq!(world.fleet.shard(0).primary(), 2);
    browser.no_complaints();
    browser.close().await;
}
