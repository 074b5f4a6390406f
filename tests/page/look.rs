//! What a person sees: all well, a primary that dies, a shard in full.

use serde_json::json;

use crate::{browser::Browser, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn the_one_red_thing_appears_by_itself_and_every_page_can_be_read_by_everybody() {
    let world = World::start(6).await;
    let mut browser = Browser::start().await;
    browser.window(1280, 900, false).await;
    browser.open(&world.url("/")).await;
    browser.until("Live, ").await;
    browser.check("well").await;

    // The page stays the same document: what a person has opened and where the focus stands is kept.
    browser.eval("window.kept = true; document.querySelector('details.keyspace summary').focus()").await;
    world.kill_primary(2);
    browser.until("1 shard takes no writes").await;
    browser.until("DeadPrimary").await;
    assert_eq!(browser.eval("window.kept").await, json!(true), "it was loaded anew");
    assert_eq!(browser.eval("document.activeElement.tagName").await, json!("SUMMARY"), "the focus is lost");
    assert!(browser.eval("document.title").await.as_str().unwrap().starts_with("✖ 1 shard takes no writes"));
    let top = |what: &str| format!("document.querySelector({})?.getBoundingClientRect().top", json!(what));
    let order = [top("h1.down"), top(".card.down"), top(".keyspace")];
    browser.until_true(&format!("{} < {} && {} < {}", order[0], order[1], order[1], order[2])).await;
    browser.check("down").await;

    browser.leave_by("document.querySelector('.card h2 a').click()").await;
    browser.until("What if its primary died now?").await;
    let words = browser.words().await;
    for wanted in ["DeadPrimary", "What is done", "Tablets: declared and observed", "What happened", "fleet/s00002"] {
        assert!(words.contains(wanted), "{wanted:?} is not in {words}");
    }
    browser.check("shard").await;
    let to_do = browser.eval("[...document.querySelectorAll('.card a')].find((a) => a.innerText === 'What to do').href").await;
    assert_eq!(to_do, json!(world.url("/runbook#deadprimary")));
    browser.eval("document.querySelector('#tablets-title').scrollIntoView()").await;
    browser.keep("tablets-desktop").await;
    browser.leave_by("[...document.querySelectorAll('a')].find((a) => a.innerText.startsWith('What if')).click()").await;
    let words = browser.words().await;
    for wanted in ["would become primary", "✓ complete", "chosen"] {
        assert!(words.contains(wanted), "{wanted:?} is not in {words}");
    }
    browser.check("foretold").await;

    for (path, name, wanted) in [
        ("/errant", "errant", "errant transactions"),
        ("/activity", "activity", "Recoveries of all electors"),
        ("/maintenance?scope=shard:fleet/s00001", "maintenance", "Begin maintenance"),
        ("/recoveries", "", "Switch recoveries off"),
        ("/problems#DeadPrimary", "", "emergency reparent"),
        ("/runbook", "", "Alerts that page"),
        ("/shards/fleet/s00001/reparent", "", "Which tablet shall be primary?"),
        ("/shards/fleet/s00001/acknowledge", "", "Allow another automatic promotion"),
    ] {
        browser.open(&world.url(path)).await;
        assert!(browser.words().await.contains(wanted), "{path}: {}", browser.words().await);
        browser.check(name).await;
    }
    // Alerts link to the file; an elector that stands for it leads to the entry, which is seen at once.
    browser.open(&world.url("/runbook.md#deadprimary")).await;
    let seen = "((r) => r && r.top >= 0 && r.top < innerHeight)(document.querySelector('h3:target')?.getBoundingClientRect())";
    assert_eq!(browser.eval(seen).await, json!(true), "{}", browser.eval("location.href").await);
    browser.leave_by("document.querySelector('h3:target a').click()").await;
    assert_eq!(browser.eval("document.querySelector('tr:target th').innerText").await, json!("DeadPrimary"));
    browser.no_complaints();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_alone_reach_a_shard_and_move_its_primary() {
    let world = World::start(2).await;
    let mut browser = Browser::start().await;
    browser.open(&world.url("/shards/fleet/s00001")).await;
    let reached = async |browser: &mut Browser, what: &str| {
        for _ in 0..60 {
            browser.press("Tab").await;
            let focus = "((e) => [e.innerText || e.value || '', getComputedStyle(e).outlineStyle])(document.activeElement)";
            let focus = browser.eval(focus).await;
            assert_eq!(focus[1], json!("solid"), "{} has no visible focus", focus[0]);
            if focus[0].as_str().unwrap_or_default().trim() == what {
                return;
            }
        }
        panic!("{what} is not reached by Tab");
    };
    browser.press("Tab").await;
    assert_eq!(browser.eval("document.activeElement.className").await, json!("skip"), "the way past the navigation comes first");
    for (step, next) in [("Move the primary", "Which tablet shall be primary?"), ("Preview", "would become primary")] {
        reached(&mut browser, step).await;
        browser.leave_by_key("Enter").await;
        browser.until(next).await;
    }
    let before = world.fleet.shard(1).primary();
    reached(&mut browser, "Move the primary").await;
    browser.leave_by_key("Enter").await;
    browser.until("is primary now.").await;
    assert_ne!(world.fleet.shard(1).primary(), before);

    // Whoever reads a wide table keeps their place in it while the page changes.
    browser.eval("document.querySelector('#tablets-title ~ .scroll').focus()").await;
    world.kill_primary(1);
    browser.until_true("document.querySelector('#tablets-title ~ .scroll td.fails') !== null").await;
    let label = browser.eval("document.activeElement.getAttribute('aria-label')").await;
    assert_eq!(label, json!("Facts of every tablet"), "the focus is lost");
    browser.no_complaints();
    browser.close().await;
}
