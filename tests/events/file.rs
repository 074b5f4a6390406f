//! The file of webhooks: what is refused, what is re-read, and what nobody gets to see of it.

use std::{fs, sync::Arc, time::Duration};

use tokio::time::sleep;
use vtelector::{
    serve::events::webhook::{RECEIVERS_MAX, read},
    topo::MemoryKv,
};

use crate::world::{Elector, Script, file, recover, until};

#[test]
fn what_cannot_be_meant_is_refused_with_the_name_the_field_and_what_to_write() {
    let hook = |more: &str| format!("[[webhook]]\nname = 'pager'\n{more}");
    let many = (0..=RECEIVERS_MAX).map(|n| format!("[[webhook]]\nname='n{n}'\nurl='http://h/'\n")).collect::<String>();
    let cases: Vec<(String, &[&str])> = vec![
        ("[[webhook]\nname = 1".to_owned(), &["line 1"]),
        ("\n\n[[webhook]]\nnaem = 'x'".to_owned(), &["naem"]),
        ("webhooks = 1".to_owned(), &["webhooks"]),
        (hook(""), &["pager", "url", "missing"]),
        (hook("url = 'pager.example'"), &["url", "https://HOST/PATH"]),
        (hook("url = 'ftp://pager.example/'"), &["http and https"]),
        (hook("url = 'http://u:p@pager.example/'"), &["no user and password"]),
        (hook("url = 'http://h/'\nurl_file = '/nowhere'"), &["url", "not both"]),
        (hook("url_file = '/nowhere/at/all'"), &["url_file", "/nowhere/at/all"]),
        (hook("url = 'http://h/'\nsecret = 7"), &["quotation marks"]),
        (hook("url = 'http://h/'\nsecret = ''"), &["secret", "empty"]),
        (hook("url = 'http://h/'\ntemplate = 'teams'"), &["template", "\"teams\"", "json, slack, pagerduty"]),
        (hook("template = 'pagerduty'"), &["secret", "routing key"]),
        (hook("template = 'pagerduty'\nsecret = 'x'\nkinds = ['recovered']"), &["kinds", "opened and closed"]),
        (hook("url = 'http://h/'\nkinds = ['everything']"), &["kinds", "\"everything\"", "opened, closed"]),
        (hook("url = 'http://h/'\nkinds = []"), &["asks for nothing"]),
        (hook("url = 'http://h/'\npriorities = ['urgent']"), &["priorities", "shard, critical"]),
        (hook("url = 'http://h/'\nkeyspaces = ['a/b']"), &["keyspaces", "a/b"]),
        (hook("url = 'http://h/'\nca_file = '/nowhere'"), &["ca_file"]),
        ("[[webhook]]\nname = '../x'\nurl = 'http://h/'".to_owned(), &["name", "a-z"]),
        (format!("{0}{0}", hook("url = 'http://h/'\n")), &["pager", "twice"]),
        (many, &["33 webhooks", "32"]),
        ("x".repeat(300_000), &["bytes"]),
    ];
    for (text, words) in cases {
        let (_folder, path) = file(&text);
        let error = read(&path).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} says nothing of {word:?}; the file: {}", &text[..text.len().min(200)]);
        }
    }
    assert!(read(std::path::Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
}

#[test]
fn neither_an_error_nor_a_printed_receiver_shows_a_secret() {
    for broken in [
        "[[webhook]]\nname = 'pager'\nurl = 'http://h/HIDDEN'\nsecret = 'HIDDEN\n",
        "[[webhook]]\nname = 'pager'\nurl = 'http://h/HIDDEN'\nsecret = ['HIDDEN']\n",
        "[[webhook]]\nname = 'pager'\nurl = 'http://h/HIDDEN'\nsecret = 'HIDDEN' 'HIDDEN'\n",
        "[[webhook]]\nname = 'pager'\nurl = 'gopher://h/HIDDEN'\nsecret = 'HIDDEN'\n",
        "[[webhook]]\nname = 'pager'\nurl = 'http://h/ HIDDEN'\n",
    ] {
        let (_folder, path) = file(broken);
        let error = read(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("HIDDEN"), "{error}");
    }
    let (folder, path) = file("[[webhook]]\nname = 'pager'\nurl = 'https://h.example:8443/HIDDEN'\nsecret_file = 'SECRET'\n");
    fs::write(folder.path().join("secret"), "HIDDEN\n").unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("SECRET", folder.path().join("secret").to_str().unwrap());
    fs::write(&path, text).unwrap();
    let receivers = read(&path).unwrap();
    assert!(!format!("{receivers:?}").contains("HIDDEN"), "{receivers:?}");
    assert_eq!(receivers[0].target, "https://h.example:8443");
    assert_eq!(receivers[0].secret.as_ref().unwrap().0, "HIDDEN", "the end of the line is none of it");
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_again_and_one_with_an_error_keeps_the_old_receivers() {
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file("");
    let script = Arc::new(Script::default());
    let desk = elector.deliver(&path, script.clone());
    sleep(Duration::from_secs(5)).await;
    assert!(desk.status().is_empty() && desk.error().is_none());
    fs::write(&path, "[[webhook]]\nname = 'pager'\nurl = 'http://h/'\nkinds = ['recovered']\n").unwrap();
    until("a receiver", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    recover(&elector.board, 0..1);
    until("one event", || script.sequences().len() == 1).await;
    fs::write(&path, "[[webhook]]\nname = 'pager'\nurl = 'nonsense'\n").unwrap();
    until("an error", || desk.error().is_some()).await;
    assert!(desk.error().unwrap().contains("pager"));
    assert_eq!(elector.metric("vtelector_webhook_file_error"), 1.0);
    recover(&elector.board, 1..2);
    until("the old one goes on", || script.sequences().len() == 2).await;
    fs::remove_file(&path).unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(desk.error().unwrap().contains("webhooks.toml"), "a file that is gone is an error too");
    fs::write(&path, "[[webhook]]\nname = 'other'\nurl = 'http://h/'\n").unwrap();
    until("another receiver", || desk.status().first().is_some_and(|state| state.name == "other")).await;
    assert!(desk.error().is_none());
    assert_eq!(elector.metric("vtelector_webhook_file_error"), 0.0);
}
