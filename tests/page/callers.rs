//! Whoever has to sign in: what a reader sees, what an operator may do, and that it bears their name.

use serde_json::json;
use vtelector::sandbox::TempFolder;

use crate::{
    browser::Browser,
    world::{OFTEN, World},
};

const USERS: &str = r#"[{"Username": "anna", "Password": "a1"}, {"Username": "bert", "Password": "b1", "Role": "reader"}]"#;

/// Two shards behind a door that takes users.
async fn world(folder: &TempFolder) -> World {
    let [users, creds] = ["users", "creds"].map(|name| folder.path().join(name));
    std::fs::write(&users, USERS).unwrap();
    std::fs::write(&creds, r#"{"Username": "anna", "Password": "a1"}"#).unwrap();
    let flags = [
        OFTEN.to_owned(),
        "--grpc-auth-mode=static".to_owned(),
        format!("--grpc-auth-static-password-file={}", users.display()),
        format!("--grpc-auth-static-client-creds={}", creds.display()),
    ];
    let mut world = World::with_flags(2, &flags.each_ref().map(String::as_str)).await;
    // anna:a1
    world.proof = "Authorization: Basic YW5uYTphMQ==\r\n".to_owned();
    world.until("/", "All 2 shards are well").await;
    world
}

async fn buttons(browser: &mut Browser) -> Vec<String> {
    let all = browser.eval("[...document.querySelectorAll('main button, main a.button')].map((one) => one.innerText)").await;
    all.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_looks_at_everything_and_an_operator_acts_under_their_own_name() {
    let folder = TempFolder::new().unwrap();
    let world = world(&folder).await;
    let mut stranger = Browser::start().await;
    stranger.open(&world.url("/")).await;
    let told = stranger
        .eval("[performance.getEntriesByType('navigation')[0]?.responseStatus, document.body?.innerText, location.href]")
        .await;
    assert!(told[0] == json!(401) && !told[1].as_str().unwrap_or_default().contains("shards"), "{told}");
    stranger.close().await;

    let mut reader = Browser::start().await;
    reader.open(&world.url_as("bert:b1", "/shards/fleet/s00001")).await;
    assert!(reader.words().await.contains("bert, reader"));
    assert_eq!(buttons(&mut reader).await, ["What if its primary died now?", "What if its primary were moved?"]);
    reader.until("Live, ").await;
    for (path, words) in [("/recoveries", "Recoveries"), ("/maintenance", "None is open."), ("/errant", "errant")] {
        reader.open(&world.url(path)).await;
        assert!(reader.words().await.contains(words), "{path}: {}", reader.words().await);
        assert_eq!(buttons(&mut reader).await, Vec::<String>::new(), "{path}");
        reader.check("").await;
    }
    reader.open(&world.url("/shards/fleet/s00001/reparent?new_primary=zone1-112")).await;
    let words = reader.words().await;
    assert!(words.contains("zone1-0000000112 would become primary") && words.contains("An operator can do it."), "{words}");
    assert_eq!(buttons(&mut reader).await, Vec::<String>::new());
    reader.check("").await;
    reader.no_complaints();
    let post = "fetch('/recoveries', {method: 'POST', body: new URLSearchParams({enabled: 'false', who: 'x', why: 'x'})})";
    assert_eq!(reader.eval(&format!("{post}.then((answer) => answer.status)")).await, json!(403));

    // The reader's page stays open while the operator works.
    reader.open(&world.url("/")).await;
    let mut operator = Browser::start().await;
    operator.open(&world.url_as("anna:a1", "/maintenance?scope=shard:fleet/s00001")).await;
    assert!(operator.words().await.contains("anna, operator"));
    assert_eq!(operator.eval("document.querySelector('[name=who]')").await, json!(null), "the name is known");
    operator.eval("document.querySelector('[name=reason]').value = 'new disks'").await;
    operator.leave_by("[...document.querySelectorAll('button')].find((one) => one.innerText === 'Begin').click()").await;
    let words = operator.words().await;
    assert!(words.contains("Maintenance of shard:fleet/s00001 has begun") && words.contains("anna"), "{words}");
    reader.until("new disks (anna)").await;
    operator.open(&world.url("/shards/fleet/s00001")).await;
    operator.until("anna asked for BeginMaintenance: done").await;
    operator.check("").await;
    operator.no_complaints();
    operator.close().await;
    reader.close().await;
}
