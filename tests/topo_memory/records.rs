//! Typed records: what is found, what is refused, what survives.

use std::time::Duration;

use prost::Message;
use vtelector::{pb::topodata, topo::*};

use crate::faulty::{Mode, World, cell_at, commerce, register, tablet};

const WAIT: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_named_with_its_key() {
    let world = World::default();
    let topo = world.topo().await;
    let absent = [
        (topo.keyspace("sales").await.err().unwrap(), "keyspace sales", "/vitess/global/keyspaces/sales/Keyspace"),
        (topo.shards("sales").await.err().unwrap(), "keyspace sales", "/vitess/global/keyspaces/sales/Keyspace"),
        (topo.shard(&"commerce/80-".parse().unwrap()).await.err().unwrap(), "shard commerce/80-", "/commerce/shards/80-/Shard"),
        (topo.cell_info("zone9").await.err().unwrap(), "cell zone9", "/vitess/global/cells/zone9/CellInfo"),
        (
            topo.tablet(&"zone1-7".parse().unwrap()).await.err().unwrap(),
            "tablet zone1-0000000007",
            "/vitess/zone1/tablets/zone1-0000000007/Tablet",
        ),
        (topo.tablet(&"zone9-7".parse().unwrap()).await.err().unwrap(), "cell zone9", "/vitess/global/cells/zone9/CellInfo"),
        (topo.delete_tablet(&"zone1-7".parse().unwrap()).await.err().unwrap(), "tablet zone1-0000000007", "/zone1/tablets/"),
        (topo.update_shard(&"commerce/80-".parse().unwrap(), &mut |_| true).await.err().unwrap(), "shard commerce/80-", "/80-/"),
        (topo.create_shard(&"sales/0".parse().unwrap(), WAIT).await.err().unwrap(), "keyspace sales", "/keyspaces/sales"),
        (topo.path("/zone1/nothing", 0).await.err().unwrap(), "path /zone1/nothing", "/vitess/zone1/nothing"),
    ];
    for (error, what, key) in absent {
        assert!(error.is_not_found(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(key), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_under_a_key_is_named_and_left_alone() {
    let world = World::default();
    let topo = world.topo().await;
    let key = topo.global_key("keyspaces/commerce/shards/0/Shard");
    topo.global().put(&key, b"\xff\xff\xff".to_vec()).await.unwrap();
    for error in [
        topo.shard(&commerce()).await.err().unwrap(),
        topo.shards("commerce").await.err().unwrap(),
        topo.update_shard(&commerce(), &mut |_| true).await.err().unwrap(),
        topo.shard_tablets(&commerce()).await.err().unwrap(),
    ] {
        let text = error.to_string();
        assert!(matches!(error, TopoError::Garbage { .. }), "{text}");
        assert!(text.contains(&key) && text.contains("3 bytes") && text.contains("no Shard record"), "{text}");
    }
    assert_eq!(topo.global().get(&key).await.unwrap().unwrap().value, b"\xff\xff\xff");
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_are_refused_before_anything_is_read() {
    let world = World::default();
    let topo = world.topo().await;
    world.set("global", Mode::Down);
    let bad = ShardId { keyspace: "commerce".into(), shard: "../../cells".into() };
    assert!(matches!(topo.shard(&bad).await, Err(TopoError::Name(_))));
    assert!(matches!(topo.lock_shard(&bad, "a", WAIT).await.err(), Some(TopoError::Name(_))));
    assert!(matches!(topo.keyspace("a/b").await, Err(TopoError::Name(_))));
    assert!(matches!(topo.cell_info("global").await, Err(TopoError::Name(_))));
    assert!(matches!(topo.create_tablet(&topodata::Tablet::default()).await, Err(TopoError::Name(_))));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_made_once_and_keeps_what_we_do_not_know() {
    let world = World::default();
    let topo = world.topo().await;
    let alias = register(&topo, "zone1-100").await;
    let key = "/vitess/zone1/tablets/zone1-0000000100/Tablet";
    let store = world.store("zone1");
    // A field of a later release, in the record and in its alias.
    let mut later = tablet("zone1-100");
    later.alias = None;
    let mut bytes = later.encode_to_vec();
    bytes.extend([0x0a, 0x0c, 0x0a, 0x05, b'z', b'o', b'n', b'e', b'1', 0x10, 100, 0xf0, 0x01, 7]);
    bytes.extend([0xf8, 0x3f, 0x01]);
    store.inner.put(key, bytes).await.unwrap();

    let before = topo.tablet(&alias).await.unwrap();
    assert_eq!(before.value.alias, Some((&alias).into()));
    let after = topo
        .update_tablet(&alias, &mut |tablet| {
            tablet.mysql_port = 3306;
            true
        })
        .await
        .unwrap();
    assert!(after.version > before.version);
    let stored = store.inner.get(key).await.unwrap().unwrap();
    assert_eq!(stored.version, after.version);
    assert!(
        stored.value.ends_with(&[0xf8, 0x3f, 0x01]) && stored.value.windows(3).any(|w| w == [0xf0, 0x01, 7]),
        "{:x?}",
        stored.value
    );
    assert_eq!(topo.tablet(&alias).await.unwrap().value.mysql_port, 3306);

    // A change that decides against it writes nothing.
    let same = topo.update_tablet(&alias, &mut |_| false).await.unwrap();
    assert_eq!((same.version, same.value), (after.version, after.value));
}

#[tokio::test(start_paused = true)]
async fn a_change_begins_anew_when_somebody_else_was_faster_but_not_for_ever() {
    let world = World::default();
    let topo = world.topo().await;
    let key = topo.global_key("keyspaces/commerce/shards/0/Shard");
    // Somebody writes between our read and our write, three times.
    let store = world.store("global");
    let mut asked = 0;
    let race = |asked: usize, times: usize| {
        if asked <= times {
            let faster = topodata::Shard { is_primary_serving: true, ..Default::default() }.encode_to_vec();
            futures_util::FutureExt::now_or_never(store.inner.put(&key, faster)).unwrap().unwrap();
        }
    };
    let done = topo
        .update_shard(&commerce(), &mut |shard| {
            asked += 1;
            race(asked, 3);
            shard.is_primary_serving = false;
            true
        })
        .await
        .unwrap();
    assert!(!done.value.is_primary_serving);
    assert_eq!(asked, 4);

    let mut asked = 0;
    let error = topo
        .update_shard(&commerce(), &mut |_| {
            asked += 1;
            race(asked, usize::MAX);
            true
        })
        .await
        .unwrap_err();
    assert_eq!(asked, 20);
    assert!(error.to_string().contains("updating shard commerce/0") && error.to_string().contains("somebody else"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_reported_as_unknown() {
    let world = World::default();
    let topo = world.topo().await;
    world.set("global", Mode::DeafToWrites);
    let error = topo
        .update_shard(&commerce(), &mut |shard| {
            shard.is_primary_serving = false;
            true
        })
        .await
        .unwrap_err();
    assert!(matches!(&error, TopoError::Kv { source: KvError::Unreachable { unknown_outcome: true, .. }, .. }), "{error:?}");
    world.set("global", Mode::Up);
    assert!(!topo.shard(&commerce()).await.unwrap().value.is_primary_serving, "this time it was written");
}

#[tokio::test(start_paused = true)]
async fn a_keyspace_is_changed_under_its_lock() {
    let world = World::default();
    let topo = world.topo().await;
    let locks = topo.global_key("keyspaces/commerce/locks") + "/";
    let store = world.store("global");
    let mut held_by = String::new();
    let keyspace = topo
        .update_keyspace("commerce", "SetKeyspaceDurabilityPolicy", WAIT, &mut |keyspace| {
            let listing = futures_util::FutureExt::now_or_never(store.inner.list(&locks)).unwrap().unwrap();
            held_by = String::from_utf8(listing.entries[0].value.clone()).unwrap();
            keyspace.durability_policy = "semi_sync".to_owned();
            true
        })
        .await
        .unwrap();
    assert!(held_by.contains("\"Action\": \"SetKeyspaceDurabilityPolicy\""), "{held_by}");
    assert_eq!(topo.keyspace("commerce").await.unwrap().value, keyspace);
    assert!(store.inner.list(&locks).await.unwrap().entries.is_empty(), "the lock is free again");
    let error = topo.create_keyspace("commerce", &topodata::Keyspace::default()).await.unwrap_err();
    assert!(matches!(&error, TopoError::Exists { what } if what == "keyspace commerce"));

    // Somebody else has it.
    let lease = store.inner.lease_grant(Duration::from_secs(60)).await.unwrap();
    store.inner.create(&format!("{locks}{lease}"), held_by.into_bytes(), Some(lease)).await.unwrap();
    let error = topo.create_shard(&"commerce/-80".parse().unwrap(), WAIT).await.unwrap_err();
    assert!(error.to_string().contains("keyspace commerce is locked by SetKeyspaceDurabilityPolicy"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_replication_graph_holds_each_tablet_once() {
    let world = World::default();
    let topo = world.topo().await;
    let (shard, alias) = (commerce(), "zone1-100".parse().unwrap());
    assert_eq!(topo.shard_replication("zone1", &shard).await.unwrap().nodes, []);
    topo.remove_from_shard_replication(&shard, &alias).await.unwrap();
    topo.add_to_shard_replication(&shard, &alias).await.unwrap();
    topo.add_to_shard_replication(&shard, &"zone1-101".parse().unwrap()).await.unwrap();
    // Somebody left a duplicate.
    let key = "/vitess/zone1/keyspaces/commerce/shards/0/ShardReplication";
    let store = world.store("zone1");
    let mut graph = topo.shard_replication("zone1", &shard).await.unwrap();
    graph.nodes.push(graph.nodes[0].clone());
    store.inner.put(key, graph.encode_to_vec()).await.unwrap();
    topo.add_to_shard_replication(&shard, &alias).await.unwrap();
    let uids = async || {
        let nodes = topo.shard_replication("zone1", &shard).await.unwrap().nodes;
        nodes.into_iter().map(|node| node.tablet_alias.unwrap().uid).collect::<Vec<_>>()
    };
    assert_eq!(uids().await, [100, 101]);
    let version = store.inner.get(key).await.unwrap().unwrap().version;
    topo.add_to_shard_replication(&shard, &alias).await.unwrap();
    assert_eq!(store.inner.get(key).await.unwrap().unwrap().version, version, "nothing to do, nothing written");
    topo.remove_from_shard_replication(&shard, &alias).await.unwrap();
    topo.remove_from_shard_replication(&shard, &"zone1-101".parse().unwrap()).await.unwrap();
    assert_eq!(store.inner.get(key).await.unwrap().unwrap().value, b"", "an empty graph is zero bytes, and stays");
}

#[tokio::test(start_paused = true)]
async fn the_tablets_of_a_shard_come_from_its_primary_and_every_graph() {
    let world = World::default();
    let topo = world.topo().await;
    let shard = commerce();
    for alias in ["zone1-100", "zone1-101", "zone2-200"] {
        register(&topo, alias).await;
    }
    // The primary stands in no graph; one tablet belongs elsewhere, one has no record, one has no cell.
    topo.create_tablet(&tablet("zone2-201")).await.unwrap();
    topo.create_tablet(&topodata::Tablet { shard: "80-".into(), ..tablet("zone2-202") }).await.unwrap();
    for alias in ["zone2-202", "zone1-103"] {
        topo.add_to_shard_replication(&shard, &alias.parse().unwrap()).await.unwrap();
    }
    let primary: TabletAlias = "zone2-201".parse().unwrap();
    topo.update_shard(&shard, &mut |shard| {
        shard.primary_alias = Some((&primary).into());
        true
    })
    .await
    .unwrap();

    let found = topo.shard_tablets(&shard).await.unwrap();
    let names: Vec<_> = found.tablets.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["zone1-0000000100", "zone1-0000000101", "zone2-0000000200", "zone2-0000000201"]);
    assert!(found.unreadable_cells.is_empty(), "{:?}", found.unreadable_cells);
    let dangling: Vec<_> = found.dangling.iter().map(|(alias, reason)| format!("{alias}: {reason}")).collect();
    assert_eq!(dangling.len(), 2);
    assert!(dangling[0].starts_with("zone1-0000000103: ") && dangling[0].contains("does not exist"), "{dangling:?}");
    assert_eq!(dangling[1], "zone2-0000000202: its record belongs to shard commerce/80-");
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_cannot_be_read_makes_the_answer_partial_and_no_more() {
    let world = World::default();
    let topo = world.topo().await;
    register(&topo, "zone1-100").await;
    let lost = register(&topo, "zone2-200").await;
    topo.update_shard(&commerce(), &mut |shard| {
        shard.primary_alias = Some((&lost).into());
        true
    })
    .await
    .unwrap();
    for mode in [Mode::Down, Mode::Silent] {
        world.set("zone2", mode);
        let began = tokio::time::Instant::now();
        let found = topo.shard_tablets(&commerce()).await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(2), "one limit, not one per tablet: {:?}", began.elapsed());
        assert_eq!(found.tablets.keys().map(ToString::to_string).collect::<Vec<_>>(), ["zone1-0000000100"]);
        assert!(found.dangling.is_empty(), "unknown is not absent: {:?}", found.dangling);
        let reason = found.unreadable_cells["zone2"].to_string();
        assert!(reason.contains("zone2") && reason.contains("switched off"), "{reason}");
    }
    world.set("zone2", Mode::Up);
    world.store("zone2").inner.put("/vitess/zone2/tablets/zone2-0000000200/Tablet", vec![0xff]).await.unwrap();
    let found = topo.shard_tablets(&commerce()).await.unwrap();
    assert!(
        matches!(found.unreadable_cells["zone2"], TopoError::Garbage { .. }),
        "a tablet that cannot be read is unknown as well"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_moves_is_followed_and_cells_at_one_address_share_a_store() {
    let world = World::default();
    let topo = world.topo().await;
    let alias = register(&topo, "zone1-100").await;
    let key = topo.global_key("cells/zone1/CellInfo");
    topo.global().put(&key, cell_at("zone1", "elsewhere").encode_to_vec()).await.unwrap();
    assert!(topo.tablet(&alias).await.unwrap_err().is_not_found(), "there is nothing yet at the new place");
    register(&topo, "zone1-100").await;
    assert_eq!(world.store("elsewhere").inner.list("/vitess/zone1/tablets/").await.unwrap().entries.len(), 1);
    // Another root at the same address.
    let moved = topodata::CellInfo { root: "zone1".into(), ..cell_at("zone1", "elsewhere") };
    topo.global().put(&key, moved.encode_to_vec()).await.unwrap();
    register(&topo, "zone1-100").await;
    assert!(world.store("elsewhere").inner.get("zone1/tablets/zone1-0000000100/Tablet").await.unwrap().is_some());
    // A cell inside the global store.
    topo.create_cell_info("zone3", &cell_at("zone3", "global")).await.unwrap();
    register(&topo, "zone3-300").await;
    assert!(topo.global().get("/vitess/zone3/tablets/zone3-0000000300/Tablet").await.unwrap().is_some());
    assert_eq!(world.opened(), ["elsewhere", "global", "zone1"], "no store is opened before it is used, nor twice");
}

#[tokio::test(start_paused = true)]
async fn a_path_is_a_folder_or_a_file() {
    let world = World::default();
    let topo = world.topo().await;
    register(&topo, "zone1-100").await;
    let folder = |names: &[&str]| TopoPath::Folder(names.iter().map(ToString::to_string).collect());
    assert_eq!(topo.path("/", 0).await.unwrap(), folder(&["global", "zone1", "zone2"]));
    assert_eq!(topo.path("/global", 0).await.unwrap(), folder(&["cells", "keyspaces"]));
    assert_eq!(topo.path("/global/keyspaces/commerce", 0).await.unwrap(), folder(&["Keyspace", "shards"]));
    assert_eq!(topo.path("/zone1/tablets/", 0).await.unwrap(), folder(&["zone1-0000000100"]));
    let record = topo.tablet(&"zone1-100".parse().unwrap()).await.unwrap();
    let file = TopoPath::File { value: record.value.encode_to_vec(), version: record.version };
    let path = "/zone1/tablets/zone1-0000000100/Tablet";
    assert_eq!(topo.path(path, 0).await.unwrap(), file);
    topo.update_tablet(&"zone1-100".parse().unwrap(), &mut |tablet| {
        tablet.mysql_port = 1;
        true
    })
    .await
    .unwrap();
    assert_ne!(topo.path(path, 0).await.unwrap(), file);
    assert_eq!(topo.path(path, record.version).await.unwrap(), file, "as it was");
    assert!(topo.path("/zone9/tablets", 0).await.unwrap_err().to_string().contains("cell zone9"));
    assert!(topo.path("/zone1/../global/cells", 0).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn cell_aliases_are_listed() {
    let world = World::default();
    let topo = world.topo().await;
    let region = topodata::CellsAlias { cells: vec!["zone1".into(), "zone2".into()] };
    topo.global().put(&topo.global_key("cells_aliases/east/CellsAlias"), region.encode_to_vec()).await.unwrap();
    assert_eq!(topo.cells_aliases().await.unwrap().into_iter().collect::<Vec<_>>(), [("east".to_owned(), region)]);
}

#[tokio::test(start_paused = true)]
async fn a_watched_shard_shows_its_record_and_its_locks() {
    let world = World::default();
    let topo = world.topo().await;
    let (record, mut watch) = topo.watch_shard(&commerce()).await.unwrap();
    assert!(record.value.is_primary_serving);
    let lock = topo.lock_shard(&commerce(), "watched", WAIT).await.unwrap();
    let changed = topo
        .update_shard(&commerce(), &mut |shard| {
            shard.is_primary_serving = false;
            true
        })
        .await
        .unwrap();
    lock.unlock().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match watch.events.recv().await.unwrap() {
            WatchEvent::Put(entry) => format!("put {}", entry.key.rsplit('/').nth(1).unwrap()),
            WatchEvent::Delete { key, .. } => format!("delete {}", key.rsplit('/').nth(1).unwrap()),
            WatchEvent::Progress(_) => continue,
        });
    }
    assert_eq!(seen, ["put locks", "put 0", "delete locks"]);
    assert_eq!(topo.shard(&commerce()).await.unwrap().version, changed.version);
}
