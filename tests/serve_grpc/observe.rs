//! What electors tell each other of a tablet, over gRPC and a real etcd.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use tonic::Code;
use vtelector::{
    pb::{
        replicationdata::FullStatus,
        tabletmanagerdata::{FullStatusResponse, PingResponse},
        topodata::TabletType,
        vtelector::{ObserveRequest, ObserveResponse, elector_client::ElectorClient, probe::Outcome},
    },
    peers::{Claim, Refused},
    serve::{Limits, Server},
    topo::TabletAlias,
};

use crate::{
    fake::FakeTablet,
    world::{World, alias, parts, refused, settings, tablet},
};

const SOON: Duration = Duration::from_secs(15);

/// Something that greets as MySQL does, for as long as the answer lives.
async fn mysql_that_greets() -> (i32, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"\x4a\0\0\0\x0a9.7.0\0").await.unwrap();
        }
    });
    (port.into(), server)
}

/// A port at which nobody listens.
async fn nobodys_port() -> i32 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().into()
}

async fn elector(world: &World, flags: &[&str]) -> Server {
    let settings = settings(&world.etcd, &[&["--instance-poll-time=24h"], flags].concat());
    Server::start(&settings, parts(&settings, world.topo.clone()), Limits::default()).await.unwrap()
}

async fn observe(world: &World, name: &str) -> Result<tonic::Response<ObserveResponse>, tonic::Status> {
    let mut client = ElectorClient::connect(format!("http://{}", world.server.grpc)).await.unwrap();
    client.observe(ObserveRequest { tablet_alias: Some(alias(name)) }).await
}

fn outcomes(seen: &ObserveResponse) -> (Outcome, Outcome) {
    (seen.manager.as_ref().unwrap().outcome(), seen.mysql.as_ref().unwrap().outcome())
}

#[tokio::test]
async fn an_elector_says_what_it_sees_of_a_tablet_by_every_channel() {
    let world = World::start().await;
    let fake = FakeTablet::start().await;
    let (mysql_port, mysql) = mysql_that_greets().await;
    let mut record = tablet("zone1-101", TabletType::Primary, fake.port);
    record.mysql_port = mysql_port;
    world.record(record).await;

    fake.answers("Ping", PingResponse { payload: "x".to_owned() });
    fake.answers("FullStatus", FullStatusResponse { status: Some(FullStatus::default()) });
    let seen = observe(&world, "zone1-101").await.unwrap().into_inner();
    assert_eq!((outcomes(&seen), seen.writable), ((Outcome::Answers, Outcome::Answers), Some(true)));

    fake.fails("FullStatus", tonic::Status::unknown("dial failed (errno 2003) (sqlstate HY000)"));
    fake.fails("Ping", tonic::Status::unknown("out of order"));
    let seen = observe(&world, "zone1-101").await.unwrap().into_inner();
    assert_eq!(outcomes(&seen), (Outcome::Answers, Outcome::Answers), "an error is an answer, and the server greets us");

    fake.leave().await;
    let seen = observe(&world, "zone1-101").await.unwrap().into_inner();
    assert_eq!((outcomes(&seen), seen.writable), ((Outcome::Refused, Outcome::Answers), None), "{seen:?}");

    drop(mysql);
    let seen = observe(&world, "zone1-101").await.unwrap().into_inner();
    assert_eq!(outcomes(&seen), (Outcome::Refused, Outcome::Refused), "{seen:?}");
    assert!(world.metrics().await.contains(r#"vtelector_observations_total{outcome="silent"} 2"#));
}

#[tokio::test]
async fn a_tablet_that_is_silent_takes_half_a_second() {
    let world = World::start().await;
    // Both take connections and say nothing.
    let (manager, mysql) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut record = tablet("zone1-101", TabletType::Primary, manager.local_addr().unwrap().port().into());
    record.mysql_port = mysql.local_addr().unwrap().port().into();
    world.record(record).await;
    let begun = Instant::now();
    let seen = observe(&world, "zone1-101").await.unwrap().into_inner();
    assert_eq!(outcomes(&seen), (Outcome::Silent, Outcome::Silent), "{seen:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_no_tablet_is_refused() {
    let world = World::start().await;
    refused(observe(&world, "zone1-999").await, Code::NotFound, &["zone1-0000000999"]);
    let mut client = ElectorClient::connect(format!("http://{}", world.server.grpc)).await.unwrap();
    refused(client.observe(ObserveRequest::default()).await, Code::InvalidArgument, &["tablet_alias"]);
}

#[tokio::test]
async fn electors_of_three_cells_confirm_a_dead_tablet_manager_and_two_do_not() {
    let world = World::with_flags(Limits::default(), &["--instance-poll-time=24h", "--cell=zone1"]).await;
    let (second, third) = (elector(&world, &["--cell=zone2"]).await, elector(&world, &["--cell=zone3"]).await);
    let peers = &world.server.elector.peers;
    let all_there = timeout(SOON, async {
        while peers.electors().len() < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    all_there.await.unwrap();
    let fake = FakeTablet::start().await;
    let mut record = tablet("zone1-101", TabletType::Primary, fake.port);
    record.mysql_port = nobodys_port().await;
    world.record(record).await;
    let primary: TabletAlias = "zone1-101".parse().unwrap();
    fake.answers("Ping", PingResponse { payload: "x".to_owned() });

    let verdict = peers.quorum(Claim::ManagerDead, &primary).await;
    assert_eq!((verdict.refused.as_ref(), verdict.contradicted.len()), (Some(&Refused::Contradicted), 3), "{verdict}");

    fake.leave().await;
    for claim in [Claim::ManagerDead, Claim::PrimaryUnseen] {
        let begun = Instant::now();
        let verdict = peers.quorum(claim, &primary).await;
        assert!(verdict.holds() && verdict.agreed.len() == 3, "{verdict}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    // It takes its leave properly and stays a voter all the same.
    assert!(third.stop(SOON).await);
    let verdict = peers.quorum(Claim::ManagerDead, &primary).await;
    assert_eq!(verdict.refused, Some(Refused::TooFewElsewhere { missing: 1 }), "{verdict}");
    assert_eq!((verdict.voters, verdict.silent.len()), (3, 1), "{verdict}");

    assert!(second.stop(SOON).await);
    let verdict = peers.quorum(Claim::ManagerDead, &primary).await;
    assert_eq!(verdict.refused, Some(Refused::NoMajority { missing: 1 }), "{verdict}");
    let metrics = world.metrics().await;
    for line in [
        r#"vtelector_quorums_total{claim="manager_dead",outcome="agreed"} 1"#,
        r#"vtelector_quorums_total{claim="manager_dead",outcome="too_few_elsewhere"} 1"#,
        "vtelector_region_members 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
