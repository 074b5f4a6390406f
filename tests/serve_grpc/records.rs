//! Calls that read and write records.

use tonic::Code;
use vtelector::pb::{
    topodata::{CellInfo, KeyspaceType, Shard, TabletType},
    vtctldata::*,
};

use crate::world::{World, alias, refused, tablet};

#[tokio::test]
async fn a_cell_is_added_once_and_read_back() {
    let mut world = World::start().await;
    let info = CellInfo { server_address: world.etcd.address.clone(), root: "/vitess/zone3".to_owned() };
    let add = AddCellInfoRequest { name: "zone3".to_owned(), cell_info: Some(info.clone()) };
    world.client.add_cell_info(add.clone()).await.unwrap();
    let read = world.client.get_cell_info(GetCellInfoRequest { cell: "zone3".to_owned() }).await.unwrap().into_inner();
    assert_eq!(read.cell_info, Some(info.clone()));
    let names = world.client.get_cell_info_names(GetCellInfoNamesRequest {}).await.unwrap().into_inner().names;
    assert_eq!(names, ["zone1", "zone2", "zone3"]);

    refused(world.client.add_cell_info(add).await, Code::AlreadyExists, &["zone3"]);
    for (name, root, server_address, word) in [
        ("", "/x", "h:1", "name is required"),
        ("a/b", "/x", "h:1", "a/b"),
        ("global", "/x", "h:1", "global"),
        ("zone4", "", "h:1", "cell_info.root"),
        ("zone4", "/x", "", "cell_info.server_address"),
    ] {
        let cell_info = Some(CellInfo { server_address: server_address.to_owned(), root: root.to_owned() });
        let answer = world.client.add_cell_info(AddCellInfoRequest { name: name.to_owned(), cell_info }).await;
        refused(answer, Code::InvalidArgument, &[word]);
    }
    refused(world.client.get_cell_info(GetCellInfoRequest { cell: "zone9".to_owned() }).await, Code::NotFound, &["zone9"]);
    refused(world.client.get_cell_info(GetCellInfoRequest::default()).await, Code::InvalidArgument, &["cell is required"]);
}

#[tokio::test]
async fn a_keyspace_is_made_with_a_policy_that_exists() {
    let mut world = World::start().await;
    let create = CreateKeyspaceRequest {
        name: "customer".to_owned(),
        durability_policy: "cross_cell".to_owned(),
        sidecar_db_name: "_vt".to_owned(),
        ..CreateKeyspaceRequest::default()
    };
    let made = world.client.create_keyspace(create.clone()).await.unwrap().into_inner().keyspace.unwrap();
    let read = world.client.get_keyspace(GetKeyspaceRequest { keyspace: "customer".to_owned() }).await.unwrap();
    assert_eq!(read.into_inner().keyspace, Some(made.clone()));
    assert_eq!(made.keyspace.unwrap().durability_policy, "cross_cell");
    let all = world.client.get_keyspaces(GetKeyspacesRequest {}).await.unwrap().into_inner().keyspaces;
    assert_eq!(all.iter().map(|keyspace| keyspace.name.as_str()).collect::<Vec<_>>(), ["commerce", "customer"]);

    refused(world.client.create_keyspace(create.clone()).await, Code::AlreadyExists, &["customer"]);
    let other = CreateKeyspaceRequest { force: true, durability_policy: "none".to_owned(), ..create };
    let kept = world.client.create_keyspace(other).await.unwrap().into_inner().keyspace.unwrap().keyspace.unwrap();
    assert_eq!(kept.durability_policy, "cross_cell", "force keeps what is there");

    let bad = |change: fn(&mut CreateKeyspaceRequest)| {
        let mut request = CreateKeyspaceRequest { name: "new".to_owned(), ..CreateKeyspaceRequest::default() };
        change(&mut request);
        request
    };
    let snapshot = KeyspaceType::Snapshot as i32;
    assert_eq!(snapshot, 1);
    for (request, word) in [
        (bad(|r| r.name = String::new()), "name is required"),
        (bad(|r| r.name = "a b".to_owned()), "a b"),
        (bad(|r| r.durability_policy = "semisync".to_owned()), "semi_sync_with_rdonly_ack"),
        (bad(|r| r.r#type = 7), "7"),
        (bad(|r| r.r#type = 1), "base_keyspace"),
    ] {
        refused(world.client.create_keyspace(request).await, Code::InvalidArgument, &[word]);
    }
    refused(world.client.get_keyspace(GetKeyspaceRequest { keyspace: "nope".to_owned() }).await, Code::NotFound, &["nope"]);
}

#[tokio::test]
async fn the_policy_of_a_keyspace_is_changed_and_emergencies_are_switched_off() {
    let mut world = World::start().await;
    let mut set = SetKeyspaceDurabilityPolicyRequest { keyspace: "commerce".to_owned(), durability_policy: "none".to_owned() };
    let keyspace = world.client.set_keyspace_durability_policy(set.clone()).await.unwrap().into_inner().keyspace.unwrap();
    assert_eq!(keyspace.durability_policy, "none");
    for unknown in ["", "bogus"] {
        set.durability_policy = unknown.to_owned();
        refused(world.client.set_keyspace_durability_policy(set.clone()).await, Code::InvalidArgument, &["durability_policy"]);
    }
    let missing = SetKeyspaceDurabilityPolicyRequest { keyspace: "nope".to_owned(), durability_policy: "none".to_owned() };
    refused(world.client.set_keyspace_durability_policy(missing).await, Code::NotFound, &["nope"]);

    // `0` stands for the keyspace; a part of it has a switch of its own.
    let create = CreateShardRequest { keyspace: "commerce".to_owned(), shard_name: "-80".to_owned(), ..Default::default() };
    world.client.create_shard(create).await.unwrap();
    for shard in ["0", "-80"] {
        let request =
            SetVtorcEmergencyReparentRequest { keyspace: "commerce".to_owned(), shard: shard.to_owned(), disable: true };
        world.client.set_vtorc_emergency_reparent(request).await.unwrap();
    }
    let keyspace = world.topo.keyspace("commerce").await.unwrap().value;
    assert!(keyspace.vtorc_state.unwrap().disable_emergency_reparent);
    assert_eq!(keyspace.durability_policy, "none", "the rest of the record is kept");
    assert_eq!(world.topo.shard(&crate::world::shard()).await.unwrap().value.vtorc_state, None);
    let part = world.topo.shard(&"commerce/-80".parse().unwrap()).await.unwrap().value;
    assert!(part.vtorc_state.unwrap().disable_emergency_reparent);
    let missing = SetVtorcEmergencyReparentRequest { keyspace: "commerce".to_owned(), shard: "80-".to_owned(), disable: true };
    refused(world.client.set_vtorc_emergency_reparent(missing).await, Code::NotFound, &["commerce/80-"]);
}

#[tokio::test]
async fn a_shard_is_made_with_its_range_and_found_in_its_keyspace() {
    let mut world = World::start().await;
    let create = CreateShardRequest { keyspace: "customer".to_owned(), shard_name: "-80".to_owned(), ..Default::default() };
    refused(world.client.create_shard(create.clone()).await, Code::NotFound, &["customer"]);
    let create = CreateShardRequest { include_parent: true, ..create };
    let made = world.client.create_shard(create.clone()).await.unwrap().into_inner();
    let record = made.shard.clone().unwrap().shard.unwrap();
    assert_eq!(record.key_range.unwrap().end, [0x80]);
    assert!(record.is_primary_serving && !made.shard_already_exists);
    let again = world.client.create_shard(CreateShardRequest { force: true, ..create.clone() }).await.unwrap().into_inner();
    assert!(again.shard_already_exists);
    refused(
        world.client.create_shard(CreateShardRequest { include_parent: false, ..create }).await,
        Code::AlreadyExists,
        &["customer/-80"],
    );

    let find = FindAllShardsInKeyspaceRequest { keyspace: "customer".to_owned() };
    let found = world.client.find_all_shards_in_keyspace(find).await.unwrap().into_inner().shards;
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("-80".to_owned(), made.shard.clone().unwrap())]);
    let get = GetShardRequest { keyspace: "customer".to_owned(), shard_name: "-80".to_owned() };
    assert_eq!(world.client.get_shard(get).await.unwrap().into_inner().shard, made.shard);

    for (keyspace, shard_name, code, word) in [
        ("nope", "0", Code::NotFound, "nope"),
        ("commerce", "1", Code::NotFound, "commerce/1"),
        ("", "0", Code::InvalidArgument, "keyspace is required"),
        ("commerce", "", Code::InvalidArgument, "shard_name is required"),
        ("commerce", "a/b", Code::InvalidArgument, "a/b"),
    ] {
        let get = GetShardRequest { keyspace: keyspace.to_owned(), shard_name: shard_name.to_owned() };
        refused(world.client.get_shard(get).await, code, &[word]);
    }
    let find = FindAllShardsInKeyspaceRequest { keyspace: "nope".to_owned() };
    refused(world.client.find_all_shards_in_keyspace(find).await, Code::NotFound, &["nope"]);
}

#[tokio::test]
async fn a_primary_of_the_past_is_shown_as_unknown() {
    let mut world = World::start().await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    world.record(tablet("zone2-200", TabletType::Primary, 1)).await;
    world.record(tablet("zone2-201", TabletType::Replica, 1)).await;
    let of_shard = GetTabletsRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
    let all = GetTabletsRequest::default();
    for request in [of_shard.clone(), all.clone()] {
        let tablets = world.client.get_tablets(request).await.unwrap().into_inner().tablets;
        let shown: Vec<_> =
            tablets.iter().map(|t| (t.alias.as_ref().unwrap().uid, TabletType::try_from(t.r#type).unwrap())).collect();
        assert_eq!(shown, [(100, TabletType::Unknown), (200, TabletType::Primary), (201, TabletType::Replica)]);
    }
    let uids =
        |tablets: Vec<vtelector::pb::topodata::Tablet>| tablets.iter().map(|t| t.alias.as_ref().unwrap().uid).collect::<Vec<_>>();
    for (request, wanted) in [
        (GetTabletsRequest { cells: vec!["zone2".to_owned()], ..all.clone() }, vec![200, 201]),
        (GetTabletsRequest { tablet_type: TabletType::Replica as i32, ..of_shard.clone() }, vec![201]),
        (GetTabletsRequest { tablet_aliases: vec![alias("zone1-100")], ..of_shard.clone() }, vec![100]),
        // What is gone is left out; what cannot be read as well, unless that is forbidden.
        (
            GetTabletsRequest { tablet_aliases: vec![alias("zone1-100"), alias("zone1-7")], strict: true, ..all.clone() },
            vec![100],
        ),
        (GetTabletsRequest { cells: vec!["zone2".to_owned(), "zone9".to_owned()], ..all.clone() }, vec![200, 201]),
    ] {
        assert_eq!(uids(world.client.get_tablets(request).await.unwrap().into_inner().tablets), wanted);
    }
    for (request, code, word) in [
        (
            GetTabletsRequest { cells: vec!["zone2".to_owned(), "zone9".to_owned()], strict: true, ..all.clone() },
            Code::NotFound,
            "zone9",
        ),
        (GetTabletsRequest { keyspace: "nope".to_owned(), ..all.clone() }, Code::NotFound, "nope"),
        (GetTabletsRequest { tablet_type: 77, ..all.clone() }, Code::InvalidArgument, "77"),
    ] {
        refused(world.client.get_tablets(request).await, code, &[word]);
    }
}

#[tokio::test]
async fn a_tablet_is_deleted_with_its_place_in_the_graph_and_a_primary_only_on_purpose() {
    let mut world = World::start().await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    world.record(tablet("zone1-101", TabletType::Replica, 1)).await;
    let delete = |names: &[&str], allow_primary| DeleteTabletsRequest {
        tablet_aliases: names.iter().map(|n| alias(n)).collect(),
        allow_primary,
    };
    // One mistake among several, and nothing is deleted.
    refused(world.client.delete_tablets(delete(&["zone1-101", "zone1-7"], false)).await, Code::NotFound, &["zone1-0000000007"]);
    refused(
        world.client.delete_tablets(delete(&["zone1-101", "zone1-100"], false)).await,
        Code::FailedPrecondition,
        &["zone1-0000000100", "allow_primary"],
    );
    refused(world.client.delete_tablets(delete(&[], false)).await, Code::InvalidArgument, &["tablet_aliases"]);
    assert_eq!(world.topo.cell_tablets("zone1").await.unwrap().len(), 2);

    world.client.delete_tablets(delete(&["zone1-101"], false)).await.unwrap();
    let graph = GetShardReplicationRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), cells: vec![] };
    let graphs = world.client.get_shard_replication(graph).await.unwrap().into_inner().shard_replication_by_cell;
    assert_eq!(graphs.keys().collect::<Vec<_>>(), ["zone1", "zone2"]);
    assert_eq!(graphs["zone1"].nodes.len(), 1);

    world.client.delete_tablets(delete(&["zone1-100"], true)).await.unwrap();
    let record: Shard = world.topo.shard(&crate::world::shard()).await.unwrap().value;
    assert_eq!(record.primary_alias, None);
    assert!(record.primary_term_start_time.unwrap().seconds > 100, "a term that makes a living primary step down");
    assert!(world.topo.cell_tablets("zone1").await.unwrap().is_empty());
    let locks = world.topo.global().list_keys("/vitess/global/keyspaces/commerce/shards/0/locks/").await.unwrap();
    assert!(locks.entries.is_empty(), "the lock was given back");
}

#[tokio::test]
async fn a_path_shows_folders_and_records() {
    let mut world = World::start().await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    let at = |path: &str, as_json| GetTopologyPathRequest { path: path.to_owned(), version: 0, as_json };
    let mut show = async |request| world.client.get_topology_path(request).await.map(|answer| answer.into_inner().cell.unwrap());
    assert_eq!(show(at("/", false)).await.unwrap().children, ["global", "zone1", "zone2"]);
    assert_eq!(show(at("/global/keyspaces", false)).await.unwrap().children, ["commerce"]);
    let shard = show(at("/global/keyspaces/commerce/shards/0/Shard", false)).await.unwrap();
    assert!(shard.data.contains("primary_alias") && shard.data.contains("zone1") && shard.version > 0, "{}", shard.data);
    let json = show(at("/zone1/tablets/zone1-0000000100/Tablet", true)).await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&json.data).unwrap();
    assert_eq!((&json["alias"]["uid"], &json["type"], &json["port_map"]["grpc"]), (&100.into(), &"PRIMARY".into(), &1.into()));
    // As it was before the primary was named.
    let before = GetTopologyPathRequest { version: shard.version - 1, ..at("/global/keyspaces/commerce/shards/0/Shard", false) };
    assert!(!show(before).await.unwrap().data.contains("primary_alias"));

    for (path, code, word) in [
        ("", Code::InvalidArgument, "path"),
        ("global/keyspaces", Code::InvalidArgument, "global/keyspaces"),
        ("/zone9/tablets", Code::NotFound, "zone9"),
        ("/global/nope", Code::NotFound, "nope"),
    ] {
        let status = show(at(path, false)).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(word), "{path}: {status}");
    }
    world.topo.global().put("/vitess/global/keyspaces/commerce/shards/0/Shard", vec![0xff; 9]).await.unwrap();
    let garbage = world.client.get_topology_path(at("/global/keyspaces/commerce/shards/0/Shard", true)).await;
    refused(garbage, Code::DataLoss, &["shards/0/Shard", "9 bytes"]);
}
