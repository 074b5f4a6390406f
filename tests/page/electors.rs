//! Two electors that divide the shards: the page of one shows what the other looks after. And what only one of them has to tell.

use serde_json::json;

use crate::{
    browser::Browser,
    world::{SOON, World},
};

/// The first shard in the tables that this elector looks after, as `/shards/fleet/s00000`.
fn shard_of(elector: &str) -> String {
    let row =
        format!("[...document.querySelectorAll('.keyspace tbody tr')].find((r) => r.cells[5].innerText === {})", json!(elector));
    format!("({row})?.querySelector('a').pathname")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_one_elector_follows_a_shard_of_another() {
    let world = World::start(12).await;
    let other = world.another("elector-2:15999").await;
    let mut browser = Browser::start().await;
    browser.open(&world.url("/")).await;
    let (ours, theirs) = (shard_of("elector-1:15999"), shard_of("elector-2:15999"));
    browser.until_true(&format!("{ours} !== undefined && {theirs} !== undefined")).await;
    browser.until("All 12 shards are well").await;
    let path = browser.eval(&theirs).await.as_str().unwrap().to_owned();
    world.kill_primary(path.rsplit('s').next().unwrap().parse().unwrap());
    browser.until("1 shard takes no writes").await;
    browser.check("").await;

    browser.leave_by("document.querySelector('.card h2 a').click()").await;
    browser.until("Live, ").await;
    let words = browser.words().await;
    for wanted in ["DeadPrimary", "elector-2:15999", "Tablets: declared and observed"] {
        assert!(words.contains(wanted), "{wanted:?} is not in {words}");
    }
    assert_eq!(browser.eval("location.pathname").await, json!(path));
    browser.no_complaints();

    // It goes, and its shard changes hands: the page stays open and tells of it again.
    browser.eval("window.kept = true").await;
    assert!(other.stop(SOON).await);
    let elector = "[...document.querySelectorAll('dt')].find((one) => one.innerText === 'Elector')?.nextElementSibling.innerText";
    browser.until_true(&format!("{elector} === 'elector-1:15999'")).await;
    browser.until("DeadPrimary").await;
    browser.until("Live, ").await;
    assert_eq!(browser.eval("window.kept").await, json!(true), "it was loaded anew");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablet_with_transactions_of_its_own_stands_on_the_page_of_errant_ones() {
    let world = World::start(2).await;
    let mut browser = Browser::start().await;
    browser.open(&world.url("/errant")).await;
    browser.until("No tablet has errant transactions").await;
    world.write_errant(1, 2, 3);
    browser.until("1 tablet has errant transactions").await;
    let row = browser.eval("[...document.querySelectorAll('main tbody tr')[0].cells].map((cell) => cell.innerText)").await;
    assert_eq!((&row[0], &row[1], &row[2]), (&json!("zone1-0000000112"), &json!("fleet/s00001"), &json!("3")), "{row}");
    assert!(row[3].as_str().unwrap().ends_with(":1-3") && row[4] == json!("zone1-0000000110"), "{row}");
    browser.check("errant-tablet").await;
    browser.leave_by("document.querySelector('main tbody a').click()").await;
    browser.until("ErrantGTIDDetected").await;
    browser.check("").await;
    browser.no_complaints();
    browser.close().await;
}
