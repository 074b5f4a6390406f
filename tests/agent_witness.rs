//! What agents say of a mysqld that dies, freezes, or takes nobody any more: their own one, and another tablet's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::{DBA, LIMIT, Signal, World, eventually};
use tokio::time::Instant;
use tonic::Streaming;
use vtelector::{
    pb::{
        query::{StreamHealthRequest, StreamHealthResponse},
        queryservice::query_client::QueryClient,
    },
    shard::{FailureClass, Greeting},
    tablet::{Call, TabletErrorKind, TabletManager, mysql_failure},
};

/// The agent looks five times a second, and the machine is shared.
const SOON: Duration = Duration::from_millis(1500);

/// The agent's word about its server.
struct Word(Streaming<StreamHealthResponse>);

impl Word {
    async fn of(world: &World, at: usize) -> Self {
        let address = format!("http://127.0.0.1:{}", world.record(at).await.port_map["grpc"]);
        let mut client = QueryClient::connect(address).await.unwrap();
        Self(client.stream_health(StreamHealthRequest {}).await.unwrap().into_inner())
    }

    /// Waits until the stream says that, and how long it took.
    async fn turns(&mut self, wanted: Option<FailureClass>) -> Duration {
        let since = Instant::now();
        let said = tokio::time::timeout(LIMIT, async {
            loop {
                let health = self.0.message().await.unwrap().unwrap();
                let words = health.realtime_stats.unwrap().health_error;
                if mysql_failure(&words) == wanted {
                    assert!(wanted.is_none() || !health.serving, "{words}");
                    return;
                }
            }
        });
        said.await.unwrap_or_else(|_| panic!("the stream never said {wanted:?}"));
        since.elapsed()
    }
}

/// How a status call fails, and how soon: its limit is 20 s.
async fn status_fails(world: &World, at: usize) -> (Option<FailureClass>, TabletErrorKind, Duration) {
    let record = world.record(at).await;
    let since = Instant::now();
    let error = world.tablets.full_status(&record, world.call()).await.unwrap_err();
    println!("{error} after {:?}", since.elapsed());
    (mysql_failure(&error.message), error.kind, since.elapsed())
}

async fn hear(world: &World, witness: usize, of: usize) -> Greeting {
    let call = Call::read(Duration::from_secs(2));
    let (witness, of) = (world.record(witness).await, world.record(of).await);
    world.tablets.hear(&witness, &of, Duration::from_millis(500), call).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_or_freezes_is_told_at_once_by_its_agent_and_by_others() {
    let mut world = World::with_primary(2).await;
    world.wait_writable(0, true).await;
    let mut word = Word::of(&world, 0).await;
    word.turns(None).await;
    assert_eq!(hear(&world, 1, 0).await, Greeting::Greeted);

    world.mysqld(0).signal(Signal::Freeze).unwrap();
    let (failure, kind, took) = status_fails(&world, 0).await;
    assert_eq!((failure, kind), (Some(FailureClass::Silent), TabletErrorKind::MysqlDown));
    assert!(took < SOON, "the status call waited {took:?}");
    let took = word.turns(Some(FailureClass::Silent)).await;
    println!("frozen: told {took:?} after the status call");
    assert!(took < SOON, "told after {took:?}");
    assert!(status_fails(&world, 0).await.2 < Duration::from_millis(300), "what is known is not waited for");
    assert_eq!(hear(&world, 1, 0).await, Greeting::Silent);
    world.mysqld(0).signal(Signal::Thaw).unwrap();
    let took = word.turns(None).await;
    println!("thawed: told after {took:?}");
    assert!(took < SOON, "told after {took:?}");
    assert_eq!(hear(&world, 1, 0).await, Greeting::Greeted);

    world.members[0].mysqld.kill();
    let took = word.turns(Some(FailureClass::Refused)).await;
    println!("killed: told {took:?} after its end");
    assert!(took < SOON, "told after {took:?}");
    let (failure, kind, took) = status_fails(&world, 0).await;
    assert_eq!((failure, kind), (Some(FailureClass::Refused), TabletErrorKind::MysqlDown));
    assert!(took < Duration::from_millis(300), "the status call waited {took:?}");
    assert_eq!(hear(&world, 1, 0).await, Greeting::Refused);
    world.members[0].mysqld.restart().unwrap();
    word.turns(None).await;
    world.wait_writable(0, true).await;
    assert_eq!(hear(&world, 1, 0).await, Greeting::Greeted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nobody_is_told_from_one_that_is_gone() {
    let world = World::with_primary(2).await;
    world.wait_writable(0, true).await;
    let mut word = Word::of(&world, 0).await;
    word.turns(None).await;
    // The accounts of administrators take the last place, too.
    let mut conns = Vec::new();
    let refused = loop {
        match mysql_async::Conn::new(world.mysqld(0).opts(DBA)).await {
            Ok(conn) => conns.push(conn),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("1040"), "{refused}");
    word.turns(Some(FailureClass::TooManyConnections)).await;
    let (failure, kind, _) = status_fails(&world, 0).await;
    assert_eq!((failure, kind), (Some(FailureClass::TooManyConnections), TabletErrorKind::Failed));
    assert_eq!(hear(&world, 1, 0).await, Greeting::TooManyConnections);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(hear(&world, 1, 0).await, Greeting::TooManyConnections, "the agent has let go of a connection");
    // What is open goes on: it can still be asked what it has.
    world.tablets.global_status_vars(&world.record(0).await, &["Uptime"], world.call()).await.unwrap();
    drop(conns);
    word.turns(None).await;
    eventually("a status", LIMIT, async || world.tablets.full_status(&world.record(0).await, world.call()).await).await.unwrap();
}
