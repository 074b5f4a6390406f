//! What persons see and switch, through the program's own commands: problems, decisions, history, maintenance, the global switch, events.

use std::time::{Duration, SystemTime};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, transport::Channel};
use vtelector::{
    diagnose::{Code as ProblemCode, Problem, Remedy},
    ledger::{Kind, Outcome, Recovery, Rule},
    pb::{
        vtelector::{elector_client::ElectorClient, *},
        vttime,
    },
    recover::board::{DecisionRecord, ShardReport},
    topo::{Kv, ShardId},
};

use crate::world::{World, refused, shard};

const SOON: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Runs a command of the program against the world's server; its exit code and what it printed.
async fn run(world: &World, line: &str) -> (i32, String) {
    let words = line.split_whitespace().map(|word| word.replace('_', " "));
    let output =
        Command::new(env!("CARGO_BIN_EXE_vtelector")).args(words).env("VTELECTOR_SERVER", world.server.grpc.to_string()).output();
    let output = timeout(SOON, output).await.unwrap().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), said)
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + SOON;
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < end, "{what}: {last}"),
        }
        sleep(POLL).await;
    }
}

async fn ready(world: &World) {
    until("a server that is ready", async || match world.http("/readyz").await {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

async fn own_client(world: &World) -> ElectorClient<Channel> {
    ElectorClient::connect(format!("http://{}", world.server.grpc)).await.unwrap()
}

fn promotion() -> Recovery {
    Recovery {
        shard: shard(),
        code: "DeadPrimary".to_owned(),
        kind: Kind::Emergency,
        promoted: Some("zone1-101".parse().unwrap()),
        old: Some("zone1-100".parse().unwrap()),
        who: "another:15999".to_owned(),
        at: SystemTime::now(),
        took: Duration::from_millis(350),
        outcome: Outcome::Done,
        evidence: "its port refuses connections".to_owned(),
    }
}

/// A shard that the topology of these tests does not have, so that no supervisor speaks of it.
fn elsewhere() -> ShardId {
    "sales/0".parse().unwrap()
}

fn report(action: &str, problems: Vec<Problem>) -> ShardReport {
    let decision = DecisionRecord {
        at: SystemTime::now(),
        action: action.to_owned(),
        tablet: Some("zone1-100".parse().unwrap()),
        code: None,
        why: "the test says so".to_owned(),
        rejected: Vec::new(),
        blocked: None,
    };
    ShardReport { shard: elsewhere(), problems, decision }
}

fn dead_primary() -> Problem {
    let tablet = Some("zone1-100".parse().unwrap());
    Problem { code: ProblemCode::DeadPrimary, tablet, why: "its port refuses connections".to_owned(), remedy: Remedy::Report }
}

#[tokio::test]
async fn maintenance_is_begun_listed_and_ended_and_names_what_exists() {
    let world = World::start().await;
    ready(&world).await;
    let (code, said) = run(&world, "maintenance begin shard:commerce/0 --for 2h --reason new_disks --who anna").await;
    assert_eq!(code, 0, "{said}");
    let id = said.trim().rsplit(' ').next().unwrap().to_owned();
    let window = world.server.elector.ledger.state().maintenance(&shard(), None, SystemTime::now()).cloned().unwrap();
    assert_eq!((window.id.as_str(), window.owner.as_str(), window.reason.as_str()), (id.as_str(), "anna", "new disks"));
    let lasts = window.until.duration_since(SystemTime::now()).unwrap();
    assert!(lasts > Duration::from_secs(7190) && lasts <= Duration::from_secs(7200), "{lasts:?}");
    let (code, said) = run(&world, "maintenance list").await;
    assert!(code == 0 && said.contains(&id) && said.contains("shard:commerce/0") && said.contains("new disks"), "{said}");
    let (code, said) = run(&world, &format!("maintenance end {id}")).await;
    assert!(code == 0 && said.contains("has ended"), "{said}");
    assert_eq!(run(&world, "maintenance list").await.1.trim(), "no maintenance");
    let (code, said) = run(&world, &format!("maintenance end {id}")).await;
    assert!(code == 1 && said.contains("NotFound") && said.contains(&id), "{said}");
    for scope in ["shard:commerce/80-", "keyspace:nowhere", "cell:zone9", "tablet:zone1-999"] {
        let (code, said) = run(&world, &format!("maintenance begin {scope} --for 2h --reason x --who anna")).await;
        assert!(code == 1 && said.contains("NotFound"), "{scope}: {said}");
    }
    let (code, said) = run(&world, "maintenance begin cell:zone1 --for 721h --reason x --who anna").await;
    assert!(code == 1 && said.contains("InvalidArgument") && said.contains("721h0m0s"), "{said}");
}

#[tokio::test]
async fn recoveries_are_switched_off_with_a_reason_and_everybody_sees_it() {
    let world = World::start().await;
    ready(&world).await;
    let (code, said) = run(&world, "recoveries disable --reason rack_move --who anna").await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&world, "status").await;
    assert!(code == 1 && said.contains("DISABLED by anna") && said.contains("rack move"), "{said}");
    let kept = world.etcd.kv().get("/vtelector/ledger/recoveries-disabled").await.unwrap();
    assert!(kept.is_some(), "it survives every elector");
    assert_eq!(run(&world, "recoveries enable --who bob").await.0, 0);
    let (_, said) = run(&world, "status").await;
    assert!(said.contains("recoveries           enabled"), "{said}");
}

#[tokio::test]
async fn a_block_is_shown_with_its_rule_and_its_end_and_a_person_lifts_it() {
    let world = World::start().await;
    ready(&world).await;
    let ledger = world.server.elector.ledger.clone();
    ledger.record(promotion()).await.unwrap();
    ledger.record(promotion()).await.unwrap();
    let (code, said) = run(&world, "status").await;
    assert!(code == 1 && said.contains("commerce/0") && said.contains("failover burst, until 2"), "{said}");
    let (code, said) = run(&world, "history commerce/0").await;
    assert!(code == 0 && said.contains("zone1-0000000101") && said.contains("recoveries: 2, shown: 2"), "{said}");
    let (_, said) = run(&world, "history --limit 1").await;
    assert!(said.contains("recoveries: 2, shown: 1"), "{said}");
    let (code, said) = run(&world, "acknowledge commerce --who anna --reason seen").await;
    assert_eq!((code, said.trim()), (0, "commerce/0: acknowledged"));
    let (_, said) = run(&world, "status").await;
    assert!(!said.contains("failover burst"), "{said}");
    let (_, said) = run(&world, "acknowledge commerce --who anna").await;
    assert_eq!(said.trim(), "nothing to acknowledge");
}

#[tokio::test]
async fn problems_decisions_and_events_come_from_the_board() {
    let world = World::start().await;
    let board = world.server.elector.board.clone();
    let mut watcher = Command::new(env!("CARGO_BIN_EXE_vtelector"))
        .args(["events", "--server", &world.server.grpc.to_string()])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    // Nobody knows when it listens: the board changes until it has told so.
    let mut told = String::new();
    until("an event", async || {
        board.publish(report("wait", vec![dead_primary()]));
        board.publish(report("nothing", Vec::new()));
        match timeout(POLL, lines.next_line()).await {
            Ok(line) if line.as_ref().is_ok_and(|line| line.as_ref().is_some_and(|line| line.contains("sales/0"))) => {
                told = line.unwrap().unwrap();
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(told.contains("problem: DeadPrimary zone1-0000000100") || told.contains("decision: wait"), "{told}");

    board.publish(report("wait", vec![dead_primary()]));
    let (code, said) = run(&world, "problems").await;
    assert!(code == 1 && said.contains("DeadPrimary") && said.contains("its port refuses connections"), "{said}");
    let (code, said) = run(&world, "decisions --json").await;
    assert!(code == 0 && said.contains("the test says so") && said.contains("\"action\": \"wait\""), "{said}");
    board.forget(&elsewhere(), SystemTime::now());
    let (_, said) = run(&world, "problems").await;
    assert!(!said.contains("sales/0"), "{said}");
}

#[tokio::test]
async fn a_reader_of_events_that_is_too_slow_is_cut_off_and_told_so() {
    let world = World::start().await;
    let board = world.server.elector.board.clone();
    let mut events = own_client(&world).await.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    for number in 0..20_000 {
        board.publish(report(if number % 2 == 0 { "wait" } else { "nothing" }, Vec::new()));
    }
    let cut_off = async {
        loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return status,
            }
        }
    };
    let status = timeout(SOON, cut_off).await.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("events were missed"), "{}", status.message());
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_field_and_changes_nothing() {
    let world = World::start().await;
    ready(&world).await;
    let mut client = own_client(&world).await;
    let begin = |scope: &str, owner: &str, reason: &str, seconds: i64| BeginMaintenanceRequest {
        scope: scope.to_owned(),
        owner: owner.to_owned(),
        reason: reason.to_owned(),
        duration: Some(vttime::Duration { seconds, nanos: 0 }),
    };
    for (request, words) in [
        (begin("commerce/0", "anna", "x", 60), ["scope", "tablet:zone1-101"]),
        (begin("shard:commerce/0", " ", "x", 60), ["owner", "required"]),
        (begin("shard:commerce/0", "anna", "", 60), ["reason", "required"]),
        (begin("shard:commerce/0", "anna", "x", 0), ["duration", "has to end"]),
        (begin("shard:commerce/0", "anna", "x", -5), ["duration", "-5"]),
        (begin("shard:commerce/0", "anna", &"x".repeat(1001), 60), ["reason", "1001"]),
    ] {
        refused(client.begin_maintenance(request).await, Code::InvalidArgument, &words);
    }
    let switch = |why: &str| SetRecoveriesRequest { enabled: false, who: "anna".to_owned(), why: why.to_owned() };
    refused(client.set_recoveries(switch("")).await, Code::InvalidArgument, &["why", "required"]);
    let nobody = SetRecoveriesRequest { who: String::new(), ..switch("x") };
    refused(client.set_recoveries(nobody).await, Code::InvalidArgument, &["who", "required"]);
    let acknowledge = |keyspace: &str, shard: &str| AcknowledgeRequest {
        keyspace: keyspace.to_owned(),
        shard: shard.to_owned(),
        who: "anna".to_owned(),
        why: String::new(),
    };
    refused(client.acknowledge(acknowledge("", "")).await, Code::InvalidArgument, &["keyspace"]);
    refused(client.acknowledge(acknowledge("commerce", "80-")).await, Code::NotFound, &["80-"]);
    let end = EndMaintenanceRequest { id: "../recoveries-disabled".to_owned() };
    refused(client.end_maintenance(end).await, Code::InvalidArgument, &["id"]);
    let nowhere = WatchEventsRequest { keyspace: "nowhere".to_owned(), ..WatchEventsRequest::default() };
    refused(client.watch_events(nowhere).await, Code::NotFound, &["nowhere"]);
    let kept = world.etcd.kv().list_keys("/vtelector/ledger/").await.unwrap();
    assert!(kept.entries.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn the_ledger_outlives_etcds_absence_and_strange_values() {
    let mut world = World::start().await;
    ready(&world).await;
    assert_eq!(world.http("/livez").await.0, 200);
    let ledger = world.server.elector.ledger.clone();
    ledger.record(promotion()).await.unwrap();
    let garbage = "/vtelector/ledger/maintenance/x";
    world.etcd.kv().put(garbage, b"\xff".to_vec()).await.unwrap();
    until("the strange value in the status", async || match run(&world, "status").await {
        (1, said) if said.contains(garbage) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    world.etcd.kill().await;
    until("a server that is not ready", async || match world.http("/readyz").await {
        (503, why) if why.contains("the ledger cannot be read") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(world.http("/livez").await.0, 200);
    // What happens meanwhile counts at once and is written later.
    ledger.record(promotion()).await.unwrap_err();
    let rules = vtelector::ledger::FlapRules::default();
    let block = |rule: Rule| ledger.state().block(&shard(), ledger.now(), &rules).is_some_and(|block| block.rule == rule);
    assert!(block(Rule::Burst));
    let (code, said) = run(&world, "recoveries disable --reason x --who anna --timeout 20s").await;
    assert!(code == 1 && said.contains("Unavailable"), "{said}");

    world.etcd.restart().await;
    ready(&world).await;
    let kv = world.etcd.kv();
    until("both recoveries in etcd", async || match kv.list_keys("/vtelector/ledger/recoveries/").await.unwrap().entries.len() {
        2 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    assert!(block(Rule::Burst));
    assert!(ledger.state().recoveries_disabled().is_none());
}
