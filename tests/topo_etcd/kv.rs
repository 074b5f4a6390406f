//! One suite of promises, kept by both stores.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use vtelector::topo::{Kv, KvEntry, KvError, MemoryKv, Watch, WatchEvent};

use crate::server::Etcd;

const SOON: Duration = Duration::from_secs(10);

/// Runs each promise on the store in memory and on etcd, as two tests.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(std::sync::Arc::new(super::MemoryKv::default())).await;
            })*
        }
        mod etcd {
            $(#[tokio::test]
            async fn $promise() {
                let etcd = super::Etcd::start().await;
                super::$promise(std::sync::Arc::new(etcd.kv())).await;
            })*
        }
    };
}

promises! {
    a_key_is_created_once
    an_update_needs_the_version_that_was_read
    a_delete_with_a_version_needs_that_version
    a_listing_is_sorted_and_knows_its_revision
    an_older_version_can_be_read
    a_guarded_write_needs_its_guard
    keys_die_with_their_lease
    a_lease_lives_as_long_as_it_is_kept_alive
    a_revoked_lease_takes_its_keys_along
    a_watch_replays_what_was_missed_and_goes_on
    a_watch_sees_a_lease_end
    zero_bytes_are_a_value
}

async fn get(kv: &Arc<impl Kv>, key: &str) -> Option<KvEntry> {
    kv.get(key).await.unwrap()
}

/// The next change that a watch sees.
async fn change(watch: &mut Watch) -> WatchEvent {
    loop {
        match timeout(SOON, watch.events.recv()).await.unwrap().unwrap() {
            WatchEvent::Progress(_) => {}
            event => return event,
        }
    }
}

async fn a_key_is_created_once(kv: Arc<impl Kv>) {
    assert_eq!(get(&kv, "/a").await, None);
    let version = kv.create("/a", b"1".to_vec(), None).await.unwrap();
    let entry = get(&kv, "/a").await.unwrap();
    let expected = KvEntry { key: "/a".into(), value: b"1".to_vec(), version, create_revision: version, lease: None };
    assert_eq!(entry, expected);
    let error = kv.create("/a", b"2".to_vec(), None).await.unwrap_err();
    assert!(matches!(&error, KvError::Exists { key } if key == "/a"), "{error}");
    assert_eq!(get(&kv, "/a").await.unwrap().value, b"1");
}

async fn an_update_needs_the_version_that_was_read(kv: Arc<impl Kv>) {
    let first = kv.put("/a", b"1".to_vec()).await.unwrap();
    let second = kv.update("/a", b"2".to_vec(), first).await.unwrap();
    assert!(second > first);
    let error = kv.update("/a", b"3".to_vec(), first).await.unwrap_err();
    assert!(matches!(error, KvError::BadVersion { .. }), "{error}");
    let entry = get(&kv, "/a").await.unwrap();
    assert_eq!((entry.value.as_slice(), entry.version, entry.create_revision), (b"2".as_slice(), second, first));
    assert!(kv.delete("/a", None).await.unwrap());
    let error = kv.update("/a", b"3".to_vec(), second).await.unwrap_err();
    assert!(matches!(error, KvError::BadVersion { .. }), "a key that is gone has no version: {error}");
}

async fn a_delete_with_a_version_needs_that_version(kv: Arc<impl Kv>) {
    let first = kv.put("/a", b"1".to_vec()).await.unwrap();
    let second = kv.put("/a", b"2".to_vec()).await.unwrap();
    assert!(matches!(kv.delete("/a", Some(first)).await, Err(KvError::BadVersion { .. })));
    assert!(kv.delete("/a", Some(second)).await.unwrap());
    assert!(!kv.delete("/a", Some(second)).await.unwrap());
    assert!(!kv.delete("/a", None).await.unwrap());
}

async fn a_listing_is_sorted_and_knows_its_revision(kv: Arc<impl Kv>) {
    for key in ["/b/2", "/b/10", "/b", "/bc", "/a"] {
        kv.put(key, key.as_bytes().to_vec()).await.unwrap();
    }
    let last = kv.put("/b/1", b"/b/1".to_vec()).await.unwrap();
    let listing = kv.list("/b/").await.unwrap();
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((keys, listing.revision), (vec!["/b/1", "/b/10", "/b/2"], last));
    assert_eq!(listing.entries[0].value, b"/b/1");
    let listing = kv.list_keys("/b").await.unwrap();
    assert_eq!(listing.entries.len(), 5);
    assert!(listing.entries.iter().all(|entry| entry.value.is_empty() && entry.version > 0));
    let nothing = kv.list("/c").await.unwrap();
    assert!(nothing.entries.is_empty() && nothing.revision == last);
}

async fn an_older_version_can_be_read(kv: Arc<impl Kv>) {
    let first = kv.put("/a", b"1".to_vec()).await.unwrap();
    let second = kv.put("/a", b"2".to_vec()).await.unwrap();
    kv.delete("/a", None).await.unwrap();
    assert_eq!(kv.get_at("/a", first).await.unwrap().unwrap().value, b"1");
    assert_eq!(kv.get_at("/a", second).await.unwrap().unwrap().value, b"2");
    assert_eq!(kv.get_at("/a", second + 1).await.unwrap(), None);
    assert_eq!(kv.get_at("/other", first).await.unwrap(), None);
    let error = kv.get_at("/a", second + 1000).await.unwrap_err().to_string();
    assert!(error.contains("future revision") && error.contains("/a"), "{error}");
}

async fn a_guarded_write_needs_its_guard(kv: Arc<impl Kv>) {
    let held = kv.create("/lock", b"me".to_vec(), None).await.unwrap();
    let written = kv.put_guarded(("/lock", held), "/intent", b"1".to_vec()).await.unwrap().unwrap();
    kv.put("/lock", b"still me".to_vec()).await.unwrap();
    assert!(kv.put_guarded(("/lock", held), "/intent", b"2".to_vec()).await.unwrap().unwrap() > written);
    kv.delete("/lock", None).await.unwrap();
    assert_eq!(kv.put_guarded(("/lock", held), "/intent", b"3".to_vec()).await.unwrap(), None);
    kv.create("/lock", b"another".to_vec(), None).await.unwrap();
    assert_eq!(kv.put_guarded(("/lock", held), "/intent", b"4".to_vec()).await.unwrap(), None);
    assert_eq!(get(&kv, "/intent").await.unwrap().value, b"2");
}

async fn keys_die_with_their_lease(kv: Arc<impl Kv>) {
    let lease = kv.lease_grant(Duration::from_secs(1)).await.unwrap();
    let version = kv.create("/leased", b"1".to_vec(), Some(lease)).await.unwrap();
    assert_eq!(get(&kv, "/leased").await.unwrap().lease, Some(lease));
    let mut watch = kv.watch("/leased", version + 1).await.unwrap();
    assert!(matches!(change(&mut watch).await, WatchEvent::Delete { .. }));
    assert_eq!(get(&kv, "/leased").await, None);
    let gone = |error: KvError| assert!(matches!(error, KvError::LeaseGone { lease: of } if of == lease), "{error}");
    gone(kv.lease_keepalive(lease).await.unwrap_err());
    gone(kv.create("/leased", b"2".to_vec(), Some(lease)).await.unwrap_err());
    kv.lease_revoke(lease).await.unwrap();
}

async fn a_lease_lives_as_long_as_it_is_kept_alive(kv: Arc<impl Kv>) {
    let lease = kv.lease_grant(Duration::from_millis(1500)).await.unwrap();
    kv.create("/leased", b"1".to_vec(), Some(lease)).await.unwrap();
    // Twice the life of the lease.
    for _ in 0..8 {
        assert_eq!(kv.lease_keepalive(lease).await.unwrap(), Duration::from_secs(2), "leases count whole seconds");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(get(&kv, "/leased").await.is_some());
}

async fn a_revoked_lease_takes_its_keys_along(kv: Arc<impl Kv>) {
    let lease = kv.lease_grant(Duration::from_secs(60)).await.unwrap();
    kv.create("/leased/1", b"1".to_vec(), Some(lease)).await.unwrap();
    kv.create("/leased/2", b"2".to_vec(), Some(lease)).await.unwrap();
    // A later write without the lease frees a key from it.
    kv.put("/leased/2", b"mine".to_vec()).await.unwrap();
    kv.lease_revoke(lease).await.unwrap();
    kv.lease_revoke(lease).await.unwrap();
    assert_eq!(get(&kv, "/leased/1").await, None);
    assert_eq!(get(&kv, "/leased/2").await.unwrap().value, b"mine");
}

async fn a_watch_replays_what_was_missed_and_goes_on(kv: Arc<impl Kv>) {
    let first = kv.put("/w/a", b"1".to_vec()).await.unwrap();
    kv.put("/other", b"1".to_vec()).await.unwrap();
    let second = kv.put("/w/b", b"2".to_vec()).await.unwrap();
    let mut watch = kv.watch("/w/", first).await.unwrap();
    let put = |key: &str, value: &[u8], version, create_revision| {
        WatchEvent::Put(KvEntry { key: key.into(), value: value.to_vec(), version, create_revision, lease: None })
    };
    assert_eq!(change(&mut watch).await, put("/w/a", b"1", first, first));
    assert_eq!(change(&mut watch).await, put("/w/b", b"2", second, second));
    let third = kv.put("/w/a", b"3".to_vec()).await.unwrap();
    assert_eq!(change(&mut watch).await, put("/w/a", b"3", third, first));
    kv.delete("/w/b", None).await.unwrap();
    assert_eq!(change(&mut watch).await, WatchEvent::Delete { key: "/w/b".into(), version: third + 1 });
    // A watch of what is still to come.
    let mut later = kv.watch("/w/", third + 2).await.unwrap();
    let fourth = kv.put("/w/c", b"4".to_vec()).await.unwrap();
    assert_eq!(change(&mut later).await, put("/w/c", b"4", fourth, fourth));
}

async fn a_watch_sees_a_lease_end(kv: Arc<impl Kv>) {
    let lease = kv.lease_grant(Duration::from_secs(60)).await.unwrap();
    let version = kv.create("/leased", b"1".to_vec(), Some(lease)).await.unwrap();
    let mut watch = kv.watch("/leased", version + 1).await.unwrap();
    kv.lease_revoke(lease).await.unwrap();
    assert_eq!(change(&mut watch).await, WatchEvent::Delete { key: "/leased".into(), version: version + 1 });
}

async fn zero_bytes_are_a_value(kv: Arc<impl Kv>) {
    kv.put("/empty", Vec::new()).await.unwrap();
    assert_eq!(get(&kv, "/empty").await.unwrap().value, b"");
    assert!(matches!(kv.create("/empty", b"1".to_vec(), None).await, Err(KvError::Exists { .. })));
}
