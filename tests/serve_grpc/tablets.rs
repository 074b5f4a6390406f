//! Calls that ask tablets.

use tonic::{Code, Status};
use vtelector::pb::{replicationdata, tabletmanagerdata as tablet_side, topodata::TabletType, vtctldata::*};

use crate::world::{World, alias, refused, tablet};

#[tokio::test]
async fn one_tablet_is_asked_and_its_answer_passed_on() {
    let mut world = World::start().await;
    let fake = world.tablet("zone1-100", TabletType::Replica).await;
    let tablet_alias = Some(alias("zone1-100"));
    fake.answers("Ping", tablet_side::PingResponse { payload: "payload".to_owned() });
    let status = replicationdata::FullStatus { server_id: 7, super_read_only: true, ..Default::default() };
    fake.answers("FullStatus", tablet_side::FullStatusResponse { status: Some(status.clone()) });

    let full = world.client.get_full_status(GetFullStatusRequest { tablet_alias: tablet_alias.clone() }).await.unwrap();
    assert_eq!(full.into_inner().status, Some(status));
    world.client.ping_tablet(PingTabletRequest { tablet_alias: tablet_alias.clone() }).await.unwrap();
    world.client.refresh_state(RefreshStateRequest { tablet_alias: tablet_alias.clone() }).await.unwrap();
    world.client.run_health_check(RunHealthCheckRequest { tablet_alias: tablet_alias.clone() }).await.unwrap();
    world.client.set_writable(SetWritableRequest { tablet_alias: tablet_alias.clone(), writable: true }).await.unwrap();
    world.client.set_writable(SetWritableRequest { tablet_alias: tablet_alias.clone(), writable: false }).await.unwrap();
    world.client.stop_replication(StopReplicationRequest { tablet_alias }).await.unwrap();
    let asked = ["FullStatus", "Ping", "RefreshState", "RunHealthCheck", "SetReadWrite", "SetReadOnly", "StopReplication"];
    assert_eq!(fake.called(), asked);
    let page = world.metrics().await;
    for line in [
        r#"vtelector_tablet_calls_total{method="Ping",result="ok"} 1"#,
        r#"vtelector_grpc_requests_total{code="Ok",method="PingTablet"} 1"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn a_tablet_that_is_unknown_or_unnamed_is_refused() {
    let mut world = World::start().await;
    let ping = |tablet_alias| PingTabletRequest { tablet_alias };
    refused(world.client.ping_tablet(ping(None)).await, Code::InvalidArgument, &["tablet_alias is required"]);
    refused(world.client.ping_tablet(ping(Some(alias("zone1-7")))).await, Code::NotFound, &["zone1-0000000007"]);
    refused(world.client.ping_tablet(ping(Some(alias("zone9-7")))).await, Code::NotFound, &["zone9"]);
    let mut slash = alias("zone1-7");
    slash.cell = "../x".to_owned();
    refused(world.client.ping_tablet(ping(Some(slash))).await, Code::InvalidArgument, &["tablet_alias", "../x"]);
}

#[tokio::test]
async fn a_tablet_that_fails_or_is_gone_is_named_with_a_code_that_says_which() {
    let mut world = World::start().await;
    let fake = world.tablet("zone1-100", TabletType::Replica).await;
    let stop = || StopReplicationRequest { tablet_alias: Some(alias("zone1-100")) };
    fake.fails("StopReplication", Status::unknown("disk full (errno 1041) (sqlstate HY000)"));
    refused(world.client.stop_replication(stop()).await, Code::Internal, &["zone1-0000000100", "StopReplication", "disk full"]);
    fake.fails("StopReplication", Status::failed_precondition("not now"));
    refused(world.client.stop_replication(stop()).await, Code::FailedPrecondition, &["zone1-0000000100", "not now"]);
    fake.leave().await;
    refused(world.client.stop_replication(stop()).await, Code::Unavailable, &["zone1-0000000100"]);
}

#[tokio::test]
async fn replication_is_started_with_the_flag_that_the_policy_asks_for() {
    let mut world = World::start().await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    let rdonly = world.tablet("zone1-102", TabletType::Rdonly).await;
    let start = |name| StartReplicationRequest { tablet_alias: Some(alias(name)) };
    refused(world.client.start_replication(start("zone1-101")).await, Code::FailedPrecondition, &["commerce/0", "no primary"]);
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    world.client.start_replication(start("zone1-101")).await.unwrap();
    world.client.start_replication(start("zone1-102")).await.unwrap();
    let flag = |fake: &crate::fake::FakeTablet| fake.last::<tablet_side::StartReplicationRequest>("StartReplication").semi_sync;
    assert_eq!((flag(&replica), flag(&rdonly)), (true, false));
}

#[tokio::test]
async fn only_replicas_change_their_type_by_hand() {
    let mut world = World::start().await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    world.record(tablet("zone1-100", TabletType::Primary, 1)).await;
    let change =
        |name, to: TabletType, dry_run| ChangeTabletTypeRequest { tablet_alias: Some(alias(name)), db_type: to as i32, dry_run };
    let dry = world.client.change_tablet_type(change("zone1-101", TabletType::Rdonly, true)).await.unwrap().into_inner();
    assert!(dry.was_dry_run && replica.called().is_empty());
    assert_eq!(dry.after_tablet.unwrap().r#type, TabletType::Rdonly as i32);
    world.client.change_tablet_type(change("zone1-101", TabletType::Rdonly, false)).await.unwrap();
    let asked: tablet_side::ChangeTypeRequest = replica.last("ChangeType");
    assert_eq!((asked.tablet_type, asked.semi_sync), (TabletType::Rdonly as i32, false), "the flag is that of the new type");
    for (name, to) in [("zone1-101", TabletType::Primary), ("zone1-100", TabletType::Replica), ("zone1-101", TabletType::Restore)]
    {
        let answer = world.client.change_tablet_type(change(name, to, false)).await;
        refused(answer, Code::FailedPrecondition, &[name.split('-').next().unwrap(), to.as_str_name(), "PlannedReparentShard"]);
    }
    assert_eq!(replica.called(), ["ChangeType"]);
}

#[tokio::test]
async fn positions_of_a_shard_come_from_all_that_answer() {
    let mut world = World::start().await;
    let primary = world.tablet("zone1-100", TabletType::Primary).await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    world.tablet("zone2-200", TabletType::Replica).await.leave().await;
    let restoring = world.tablet("zone2-201", TabletType::Restore).await;
    primary.answers("PrimaryPosition", tablet_side::PrimaryPositionResponse { position: "MySQL56/a".to_owned() });
    let status = replicationdata::Status { position: "MySQL56/b".to_owned(), io_state: 3, ..Default::default() };
    replica.answers("ReplicationStatus", tablet_side::ReplicationStatusResponse { status: Some(status.clone()) });
    let request = ShardReplicationPositionsRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned() };
    let answer = world.client.shard_replication_positions(request.clone()).await.unwrap().into_inner();
    let statuses = answer.replication_statuses;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), ["zone1-0000000100", "zone1-0000000101", "zone2-0000000200"]);
    assert_eq!(statuses["zone1-0000000100"].position, "MySQL56/a");
    assert_eq!(statuses["zone1-0000000101"], status);
    assert_eq!(statuses["zone2-0000000200"], replicationdata::Status::default(), "the one that does not answer");
    assert!(restoring.called().is_empty(), "a tablet that is being restored is left alone");

    replica.fails("ReplicationStatus", Status::unknown("no replication status (errno 100) (sqlstate HY000)"));
    refused(world.client.shard_replication_positions(request).await, Code::FailedPrecondition, &["zone1-0000000101"]);
}

#[tokio::test]
async fn a_shard_is_validated_by_its_records_and_its_tablets() {
    let mut world = World::start().await;
    let validate = |ping_tablets| ValidateShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ping_tablets };
    let results = async |world: &mut World, ping| world.client.validate_shard(validate(ping)).await.unwrap().into_inner().results;
    assert_eq!(results(&mut world, false).await, ["no tablet of commerce/0 is of type PRIMARY"]);
    let primary = world.tablet("zone1-100", TabletType::Primary).await;
    let replica = world.tablet("zone1-101", TabletType::Replica).await;
    assert!(results(&mut world, false).await.is_empty());
    for fake in [&primary, &replica] {
        fake.answers("Ping", tablet_side::PingResponse { payload: "payload".to_owned() });
    }
    let mut status = replicationdata::Status {
        source_host: "127.0.0.1".to_owned(),
        source_port: 3306,
        io_state: 3,
        sql_state: 3,
        ..Default::default()
    };
    replica.answers("ReplicationStatus", tablet_side::ReplicationStatusResponse { status: Some(status.clone()) });
    assert!(results(&mut world, true).await.is_empty());
    (status.source_port, status.sql_state, status.last_sql_error) = (3307, 1, "duplicate key".to_owned());
    replica.answers("ReplicationStatus", tablet_side::ReplicationStatusResponse { status: Some(status) });
    let found = results(&mut world, true).await;
    assert!(found.len() == 2 && found[0].contains("3307") && found[1].contains("duplicate key"), "{found:?}");
    replica.leave().await;
    let found = results(&mut world, true).await;
    assert!(found.len() == 1 && found[0].contains("zone1-0000000101"), "{found:?}");
    refused(
        world.client.validate_shard(ValidateShardRequest { shard: "9".to_owned(), ..validate(false) }).await,
        Code::NotFound,
        &["commerce/9"],
    );
}
