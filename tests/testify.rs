//! Replicas that only their IO threads can speak for, as those of vttablets: on real servers, which are frozen, dead, or well.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use support::{LIMIT, Signal, World, eventually};
use tokio::time::Instant;
use vtelector::{
    pb::{
        query::QueryResult,
        replicationdata::{FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::{Tablet, TabletType},
    },
    reparent::{Emergency, Hands, Outcome, ReparentError, ReparentSettings, Verdict},
    shard::Greeting,
    tablet::{Call, GrpcTabletManager, SetSource, TabletError, TabletManager},
    topo::TabletAlias,
};

/// Tablets that do not know the witness's call: the trait's own answer says so.
struct Vttablets(Arc<GrpcTabletManager>);

macro_rules! passed_on {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl TabletManager for Vttablets {
            $(async fn $name(&self, tablet: &Tablet, $($arg: $kind,)* call: Call) -> Result<$answer, TabletError> {
                self.0.$name(tablet, $($arg,)* call).await
            })*
        }
    };
}

passed_on! {
    ping() -> ();
    full_status() -> FullStatus;
    replication_status() -> Status;
    primary_status() -> PrimaryStatus;
    primary_position() -> String;
    global_status_vars(variables: &[&str]) -> BTreeMap<String, String>;
    wait_for_position(position: &str) -> ();
    stop_replication_and_get_status(mode: StopReplicationMode) -> StopReplicationStatus;
    stop_replication() -> ();
    start_replication(semi_sync: bool) -> ();
    set_replication_source(set: SetSource<'_>) -> ();
    demote_primary(force: bool) -> PrimaryStatus;
    undo_demote_primary(semi_sync: bool) -> ();
    promote_replica(semi_sync: bool) -> String;
    init_primary(semi_sync: bool) -> String;
    populate_reparent_journal(time_created_ns: i64, action: &str, primary: &TabletAlias, position: &str) -> ();
    read_reparent_journal_info() -> i32;
    set_read_only(read_only: bool) -> ();
    change_type(to: TabletType, semi_sync: bool) -> ();
    refresh_state() -> ();
    run_health_check() -> ();
    reset_replication_parameters() -> ();
    execute_fetch_as_dba(sql: &str, max_rows: u64) -> QueryResult;
}

fn hands(world: &World) -> Hands {
    let settings = ReparentSettings {
        remote_operation_timeout: Duration::from_secs(15),
        lock_timeout: Duration::from_secs(15),
        ledger_root: "/vtelector".to_owned(),
        durability_extra: BTreeMap::new(),
        who: "test".to_owned(),
        die_at: None,
    };
    Hands::new(world.topo.clone(), Arc::new(Vttablets(world.tablets.clone())), settings)
}

/// What was said, how long it took, and how it ended. Whoever is greeted by nobody is replaced.
struct Heard {
    greetings: BTreeMap<TabletAlias, Greeting>,
    after: Duration,
    outcome: Outcome,
}

async fn testify(world: &World) -> Heard {
    let said = Arc::new(Mutex::new((BTreeMap::new(), Duration::ZERO)));
    let (kept, begun) = (said.clone(), Instant::now());
    let verdict: Verdict = Arc::new(move |greetings| {
        *kept.lock().unwrap() = (greetings.clone(), begun.elapsed());
        let lives = greetings.values().any(|greeting| *greeting == Greeting::Greeted);
        let wish = Emergency {
            new_primary: None,
            ignore_replicas: Default::default(),
            expected_primary: None,
            wait_replicas_timeout: LIMIT,
            prevent_cross_cell: false,
            wait_for_all_tablets: false,
            accept_loss: None,
            choose_side: false,
            allow_not_established: false,
            allow_unfenced: false,
            seen: None,
            is_dead: false,
        };
        Box::pin(async move { if lives { Err("it answers".to_owned()) } else { Ok(wish) } })
    });
    let due = Arc::new(|| -> futures_util::future::BoxFuture<'static, Result<(), String>> { Box::pin(async { Ok(()) }) });
    let outcome = hands(world).testify(&world.shard, &world.members[0].alias, due, verdict).await;
    let (greetings, after) = said.lock().unwrap().clone();
    println!("{greetings:?} after {after:?}, all over after {:?}", begun.elapsed());
    for event in &outcome.events {
        println!("  {}", event.text);
    }
    Heard { greetings, after, outcome }
}

async fn timeouts_are_as_before(world: &World) {
    for at in 1..3 {
        assert_eq!(world.mysqld(at).value("SELECT @@global.replica_net_timeout").await.unwrap(), "60", "member {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_is_given_away_by_the_io_threads_of_its_replicas() {
    let world = World::with_primary(3).await;
    world.wait_writable(0, true).await;
    world.mysqld(0).signal(Signal::Freeze).unwrap();
    let heard = testify(&world).await;
    assert!(heard.greetings.len() == 2 && heard.greetings.values().all(|greeting| *greeting == Greeting::Silent));
    assert!(heard.after < Duration::from_secs(2), "{:?}", heard.after);
    let promoted = heard.outcome.result.unwrap();
    assert_eq!(promoted.old_primary.as_ref(), Some(&world.members[0].alias));
    timeouts_are_as_before(&world).await;
    world.mysqld(0).signal(Signal::Thaw).unwrap();
    let (new, other) = if promoted.primary == world.members[1].alias { (1, 2) } else { (2, 1) };
    world.wait_writable(new, true).await;
    world.wait_replicating(other, new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_well_hardly_feels_it() {
    let world = World::with_primary(3).await;
    world.wait_writable(0, true).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    world.write(0, "CREATE TABLE app.t (n INT PRIMARY KEY)").await.unwrap();
    let writes = async {
        let mut slowest = Duration::ZERO;
        for n in 0..60 {
            let since = Instant::now();
            world.write(0, &format!("INSERT INTO app.t VALUES ({n})")).await.unwrap();
            slowest = slowest.max(since.elapsed());
        }
        slowest
    };
    let (heard, slowest) = tokio::join!(testify(&world), writes);
    println!("the slowest write took {slowest:?}");
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    assert!(matches!(heard.outcome.result, Err(ReparentError::NotDue { .. })));
    assert!(heard.greetings.values().any(|greeting| *greeting == Greeting::Greeted));
    timeouts_are_as_before(&world).await;
    for at in 1..3 {
        world.wait_replicating(at, 0).await;
        // The thread that reads was started with the timeout that the server has.
        let gone = "SELECT COUNT(*) FROM performance_schema.replication_connection_status WHERE SERVICE_STATE = 'ON'";
        eventually("its IO thread", LIMIT, async || match world.mysqld(at).value(gone).await {
            Ok(count) if count == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_needs_no_bounce() {
    let mut world = World::with_primary(3).await;
    world.wait_writable(0, true).await;
    world.write(0, "CREATE DATABASE app").await.unwrap();
    for at in 1..3 {
        eventually("a copy of everything", LIMIT, async || match world.mysqld(at).value("SHOW DATABASES LIKE 'app'").await {
            Ok(name) if name == "app" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
    world.members[0].mysqld.kill();
    eventually("the replicas' complaint", LIMIT, async || {
        for at in 1..3 {
            let status =
                world.tablets.replication_status(&world.record(at).await, world.call()).await.map_err(|e| e.to_string())?;
            if status.last_io_error.is_empty() {
                return Err(format!("member {at} has lost nothing"));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let heard = testify(&world).await;
    assert!(heard.greetings.values().all(|greeting| matches!(greeting, Greeting::Refused | Greeting::Silent)));
    assert!(heard.after < Duration::from_millis(700), "{:?}", heard.after);
    heard.outcome.result.unwrap();
    timeouts_are_as_before(&world).await;
}
