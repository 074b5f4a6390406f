//! Errant GTIDs on tablets that play a script: what is said of them, and when it is said no more.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, transport::Channel};
use vtelector::{
    pb::{
        replicationdata::{self, FullStatus, PrimaryStatus},
        tabletmanagerdata::FullStatusResponse,
        topodata::TabletType,
        vtelector::{ErrantGtidsRequest, ErrantGtidsResponse, elector_client::ElectorClient},
    },
    serve::Limits,
    topo::TabletAlias,
};

use crate::{
    fake::FakeTablet,
    world::{World, refused, tablet},
};

const SOON: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

const P: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const R: &str = "bbbbbbbb-0000-0000-0000-000000000002";

/// A primary that has executed these.
fn primary(executed: &str) -> FullStatusResponse {
    said(primary_status(executed))
}

fn said(status: FullStatus) -> FullStatusResponse {
    FullStatusResponse { status: Some(status) }
}

fn primary_status(executed: &str) -> FullStatus {
    FullStatus {
        server_uuid: P.to_owned(),
        primary_status: Some(PrimaryStatus { position: format!("MySQL56/{executed}"), ..PrimaryStatus::default() }),
        ..FullStatus::default()
    }
}

/// A replica that has executed these.
fn replica(executed: &str) -> FullStatusResponse {
    let position = format!("MySQL56/{executed}");
    let status = replicationdata::Status {
        position: position.clone(),
        relay_log_position: position.clone(),
        ..replicationdata::Status::default()
    };
    let primary_status = Some(PrimaryStatus { position, ..PrimaryStatus::default() });
    said(FullStatus { read_only: true, replication_status: Some(status), primary_status, ..FullStatus::default() })
}

struct Watching {
    world: World,
    client: ElectorClient<Channel>,
}

impl Watching {
    async fn start() -> Self {
        let world = World::with_flags(Limits::default(), &["--instance-poll-time=200ms"]).await;
        let client = ElectorClient::connect(format!("http://{}", world.server.grpc)).await.unwrap();
        Self { world, client }
    }

    async fn ask(&mut self) -> ErrantGtidsResponse {
        self.client.errant_gtids(ErrantGtidsRequest::default()).await.unwrap().into_inner()
    }

    /// Waits for an answer that is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&ErrantGtidsResponse) -> bool) -> ErrantGtidsResponse {
        let end = Instant::now() + SOON;
        loop {
            let answer = self.ask().await;
            if is_so(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{what}: {answer:#?}");
            sleep(POLL).await;
        }
    }
}

#[tokio::test]
async fn a_write_on_a_replica_is_named_and_counted_until_the_primary_has_it() {
    let mut watching = Watching::start().await;
    let leader = watching.world.tablet("zone1-100", TabletType::Primary).await;
    let follower = watching.world.tablet("zone2-200", TabletType::Rdonly).await;
    leader.answers("FullStatus", primary(&format!("{P}:1-10")));
    follower.answers("FullStatus", replica(&format!("{P}:1-9")));
    watching.until("a clean replica", |answer| answer.judged == 1 && answer.errant.is_empty()).await;
    assert!(watching.world.metrics().await.contains("vtorc_errant_gtid_tablet_count 0"));

    follower.answers("FullStatus", replica(&format!("{P}:1-9,{R}:1-2:tag:7")));
    let answer = watching.until("an errant replica", |answer| !answer.errant.is_empty()).await;
    let errant = &answer.errant[0];
    assert_eq!((errant.errant.as_str(), errant.count), (format!("{R}:1-2:tag:7").as_str(), 3));
    assert_eq!(errant.tablet_alias.as_ref().unwrap().uid, 200);
    assert_eq!(errant.compared_with.as_ref().unwrap().uid, 100);
    let page = watching.world.metrics().await;
    for line in [
        r#"vtorc_current_errant_gtid_count{tablet_alias="zone2-0000000200"} 3"#,
        "vtorc_errant_gtid_tablet_count 1",
        r#"vtelector_errant_gtid_transactions{keyspace="commerce",shard="0",tablet="zone2-0000000200"} 3"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }

    leader.answers("FullStatus", primary(&format!("{P}:1-10,{R}:1-2:tag:7")));
    watching.until("a clean replica again", |answer| answer.judged == 1 && answer.errant.is_empty()).await;
    let page = watching.world.metrics().await;
    assert!(!page.contains("vtorc_current_errant_gtid_count{") && page.contains("vtorc_errant_gtid_tablet_count 0"), "{page}");
}

#[tokio::test]
async fn a_verdict_outlives_the_primarys_silence_and_ends_with_the_tablet() {
    let mut watching = Watching::start().await;
    let leader = watching.world.tablet("zone1-100", TabletType::Primary).await;
    let follower = watching.world.tablet("zone1-101", TabletType::Replica).await;
    leader.answers("FullStatus", primary(&format!("{P}:1-10")));
    follower.answers("FullStatus", replica(&format!("{P}:1-9,{R}:1")));
    watching.until("an errant replica", |answer| !answer.errant.is_empty()).await;

    leader.fails("FullStatus", Status::unavailable("it is gone"));
    let answer = watching.until("a stale verdict", |answer| !answer.unjudged.is_empty()).await;
    assert_eq!((answer.errant.len(), answer.judged), (1, 0));
    let reason = &answer.unjudged[0].reason;
    assert!(reason.contains("zone1-0000000100") && reason.contains("it is gone"), "{reason}");
    let unknown = r#"vtelector_errant_gtid_unknown{keyspace="commerce",shard="0",tablet="zone1-0000000101"} 1"#;
    assert!(watching.world.metrics().await.contains(unknown));

    // A primary that does not act as one proves nothing either: another may have been promoted a moment ago.
    leader.answers("FullStatus", said(FullStatus { read_only: true, ..primary_status(&format!("{P}:1-10")) }));
    let is_so = |answer: &ErrantGtidsResponse| answer.unjudged.iter().any(|tablet| tablet.reason.contains("it is read-only"));
    watching.until("no verdict", is_so).await;

    let gone: TabletAlias = "zone1-101".parse().unwrap();
    watching.world.topo.delete_tablet(&gone).await.unwrap();
    watching.until("nothing", |answer| *answer == ErrantGtidsResponse::default()).await;
    let page = watching.world.metrics().await;
    assert!(!page.contains("zone1-0000000101") && page.contains("vtorc_errant_gtid_tablet_count 0"), "{page}");
}

#[tokio::test]
async fn a_tablet_that_never_answers_slows_no_other() {
    let mut watching = Watching::start().await;
    // It accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = i32::from(silent.local_addr().unwrap().port());
    for uid in 300..340 {
        watching.world.record(tablet(&format!("zone1-{uid}"), TabletType::Replica, port)).await;
    }
    let leader = watching.world.tablet("zone1-100", TabletType::Primary).await;
    let follower = watching.world.tablet("zone1-101", TabletType::Replica).await;
    leader.answers("FullStatus", primary(&format!("{P}:1-10")));
    follower.answers("FullStatus", replica(&format!("{P}:1-10")));
    let is_so = |answer: &ErrantGtidsResponse| answer.judged == 1 && answer.unjudged.iter().all(|t| t.reason.contains("answer"));
    let answer = watching.until("all looked at", is_so).await;
    assert_eq!(answer.unjudged.len(), 40);
    let looks = |follower: &FakeTablet| follower.called().len();
    let (before, called) = (Instant::now(), looks(&follower));
    timeout(SOON, async {
        while looks(&follower) < called + 10 {
            sleep(POLL).await;
        }
    })
    .await
    .unwrap();
    assert!(before.elapsed() < Duration::from_secs(5), "ten looks at a living tablet took {:?}", before.elapsed());
}

#[tokio::test]
async fn one_reading_of_the_primary_serves_all_its_replicas() {
    let mut watching = Watching::start().await;
    let leader = watching.world.tablet("zone1-100", TabletType::Primary).await;
    leader.answers("FullStatus", primary(&format!("{P}:1-10")));
    let mut followers = Vec::new();
    for uid in 101..121 {
        let follower = watching.world.tablet(&format!("zone1-{uid}"), TabletType::Replica).await;
        follower.answers("FullStatus", replica(&format!("{P}:1-10")));
        followers.push(follower);
    }
    watching.until("all judged", |answer| answer.judged == 20).await;
    let asked = |followers: &[FakeTablet]| followers.iter().map(|follower| follower.called().len()).sum::<usize>();
    let (before, primary_before) = (asked(&followers), leader.called().len());
    timeout(SOON, async {
        while asked(&followers) < before + 200 {
            sleep(POLL).await;
        }
    })
    .await
    .unwrap();
    let readings = leader.called().len() - primary_before;
    assert!(readings < 100, "{readings} readings of the primary for 200 looks");
}

#[tokio::test]
async fn a_wrong_filter_is_named() {
    let mut watching = Watching::start().await;
    let mut ask = async |keyspace: &str, shard: &str| {
        let request = ErrantGtidsRequest { keyspace: keyspace.to_owned(), shard: shard.to_owned(), only_mine: false };
        watching.client.errant_gtids(request).await
    };
    refused(ask("", "0").await, Code::InvalidArgument, &["shard", "without a keyspace"]);
    refused(ask("a b", "").await, Code::InvalidArgument, &["keyspace", "a b"]);
    refused(ask("nowhere", "").await, Code::NotFound, &["nowhere"]);
    refused(ask("commerce", "80-").await, Code::NotFound, &["commerce/shards/80-"]);
    assert_eq!(ask("commerce", "0").await.unwrap().into_inner(), ErrantGtidsResponse::default());
}
