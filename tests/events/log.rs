//! What comes into the log, how often it is written, and what of it goes again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use vtelector::{
    diagnose::Code,
    ledger::Outcome,
    pb::vtelector::event::What,
    serve::events::EVENTS_MAX,
    topo::{Kv, MemoryKv},
};

use crate::{
    etcd::Etcd,
    world::{Alive, Elector, Mortal, ROOT, SOON, dead, decision, now, problem, recover, recovery, report, shard, until},
};

fn words(event: &vtelector::pb::vtelector::Event) -> String {
    match event.what.as_ref().unwrap() {
        What::Opened(problem) => format!("{} opened", problem.code),
        What::Closed(problem) => format!("{} closed", problem.code),
        What::Decided(decision) => decision.action.clone(),
        What::Recovered(recovery) => format!("recovery {}", recovery.outcome),
        other => format!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_may_want_to_be_told_comes_into_the_log_in_order_and_noise_does_not() {
    let kv = Arc::new(MemoryKv::default());
    let elector = Elector::alone(kv.clone());
    let told = |action: &str, by: Option<&str>| {
        let mut report = report("commerce/0", now(), vec![dead()]);
        report.decision = decision(now(), action, by);
        elector.board.publish(report);
    };
    told("reread", None);
    told("wait", Some("BackingOff"));
    told("wait", Some("AntiFlapping"));
    told("ask the witnesses", None);
    told("wait", Some("AntiFlapping"));
    told("emergency reparent", None);
    elector.board.recovered(&recovery("commerce/0", Outcome::AlreadyDone));
    elector.board.recovered(&recovery("commerce/0", Outcome::Failed("the lock was lost".to_owned())));
    elector.board.publish(report("commerce/0", now(), Vec::new()));
    let events = elector.logged(0, 5).await;
    let found: Vec<String> = events.iter().map(words).collect();
    assert_eq!(found, ["DeadPrimary opened", "wait", "emergency reparent", "recovery failed", "DeadPrimary closed"]);
    assert!(events.windows(2).all(|two| two[0].sequence < two[1].sequence), "{events:?}");
    assert!(events.iter().all(|event| event.who == "elector1:15999" && !event.id.is_empty()));
    assert_eq!(elector.log.status().unwritten, 0);
    // A restart of the elector: the same log, the same numbers and names.
    let again = Elector::alone(kv);
    assert_eq!(again.logged(0, 5).await, events);
}

#[tokio::test(start_paused = true)]
async fn three_electors_that_see_the_same_tell_it_once_and_the_survivor_tells_that_it_is_over() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
    let alive = Alive::default();
    let [first, second] = ["a:1", "b:1"].map(|who| Elector::start(kv.clone(), who, &alive));
    tokio::time::sleep(Duration::from_secs(7)).await;
    let third = Elector::start(kv.clone(), "c:1", &alive);
    first.board.publish(report("commerce/0", now(), vec![dead()]));
    let opened = first.logged(0, 1).await;
    // Their looks are not at the same moment, as those of electors never are.
    for other in [&second, &third] {
        other.logged(0, 1).await;
        other.board.publish(report("commerce/0", now(), vec![dead()]));
        // The others see it end before the one who told of it: that one has the word.
        other.board.publish(report("commerce/0", now(), Vec::new()));
    }
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(second.logged(0, 1).await, opened);
    // The first one dies, and never says that it is over: whoever looks after the shard does.
    first.stop.cancel();
    alive.lock().unwrap().insert("a:1".to_owned(), false);
    let events = second.logged(0, 2).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(second.logged(0, 2).await.len(), 2, "told once, not by each");
    assert_eq!((words(&events[1]).as_str(), events[1].who == "a:1"), ("DeadPrimary closed", false));
}

#[tokio::test(start_paused = true)]
async fn an_elector_that_leaves_a_shard_says_so_and_its_successor_closes_what_it_opened() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
    let alive = Alive::default();
    let [first, second] = ["a:1", "b:1"].map(|who| Elector::start(kv.clone(), who, &alive));
    first.board.publish(report("commerce/0", now(), vec![dead()]));
    first.logged(0, 1).await;
    first.board.forget(&shard("commerce/0"), now());
    first.board.forget(&shard("commerce/1"), now());
    second.logged(0, 2).await;
    second.board.publish(report("commerce/0", now(), Vec::new()));
    let events = second.logged(0, 3).await;
    assert!(matches!(events[1].what, Some(What::LeftAlone(_))));
    assert_eq!((events.len(), words(&events[2]), events[2].who.as_str()), (3, "DeadPrimary closed".to_owned(), "b:1"));
}

#[tokio::test(start_paused = true)]
async fn three_hundred_failovers_at_once_cost_etcd_a_few_writes_and_no_event_is_missing() {
    let kv = Arc::new(MemoryKv::default());
    let elector = Elector::alone(kv.clone());
    elector.logged(0, 0).await;
    let before = kv.list("/").await.unwrap().revision;
    let began = tokio::time::Instant::now();
    // What a supervisor tells of one failover: a death, two replicas that lost their source, four decisions, three recoveries.
    for number in 0..300 {
        let name = format!("commerce/{number}");
        let lost = |tablet| problem(Code::ReplicationStopped, tablet, "its IO thread has no connection to its source");
        let mut seen = report(&name, now(), vec![dead(), lost("zone1-101"), lost("zone1-102")]);
        for action in ["reread", "emergency reparent", "start replication of zone1-101", "start replication of zone1-102"] {
            seen.decision = decision(now(), action, None);
            elector.board.publish(seen.clone());
            tokio::task::yield_now().await;
        }
        (0..3).for_each(|_| elector.board.recovered(&recovery(&name, Outcome::Done)));
        elector.board.publish(report(&name, now(), Vec::new()));
        tokio::task::yield_now().await;
    }
    let events = elector.logged(0, 300 * 12).await;
    let (writes, took) = (kv.list("/").await.unwrap().revision - before, began.elapsed());
    println!("300 failovers: {} events in {writes} writes within {took:?}", events.len());
    assert_eq!(events.len(), 300 * 12);
    assert!(writes <= 30, "{writes} writes for 3600 events");
    assert!(took <= Duration::from_secs(10), "{took:?}");
    assert_eq!(elector.metric("vtelector_events_written_total"), 3600.0);
    assert_eq!(elector.metric("vtelector_events_unwritten_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_bounded_in_number_and_in_age_and_what_had_to_go_early_is_counted() {
    let kv = Arc::new(MemoryKv::default());
    let elector = Elector::alone(kv.clone());
    for round in 0..22 {
        recover(&elector.board, 0..1000);
        elector.logged(0, (round + 1) * 1000).await;
    }
    until("the log to be pruned", || elector.log.status().events <= EVENTS_MAX as u64).await;
    let status = elector.log.status();
    assert_eq!(status.events + status.dropped, 22_000);
    assert!(status.oldest_sequence > elector.log.floor() && elector.log.floor() > 0, "{status:?}");
    assert_eq!(elector.metric("vtelector_event_log_dropped_events"), status.dropped as f64);
    // Eight days later everything is too old; that is no loss.
    elector.jump(Duration::from_secs(8 * 24 * 3600));
    until("an empty log", || elector.log.status().events == 0).await;
    assert_eq!(elector.log.status().dropped, status.dropped);
    assert_eq!(kv.list_keys(&format!("{ROOT}/events/log/")).await.unwrap().entries.len(), 0);
}

#[tokio::test]
async fn an_etcd_that_is_away_slows_nobody_and_what_happened_is_in_the_log_when_it_is_back() {
    let mut etcd = Etcd::start().await;
    let elector = Elector::alone(Arc::new(etcd.kv()));
    elector.board.publish(report("commerce/0", SystemTime::now(), vec![dead()]));
    let opened = elector.logged(0, 1).await;
    etcd.kill().await;
    let began = std::time::SystemTime::now();
    recover(&elector.board, 0..1000);
    elector.board.publish(report("commerce/0", SystemTime::now(), Vec::new()));
    assert!(began.elapsed().unwrap() < Duration::from_secs(1), "the board waits for nobody");
    etcd.restart().await;
    let events = elector.logged(0, 1002).await;
    assert_eq!(events.len(), 1002, "each once, though writes were tried again");
    assert_eq!((events[0].clone(), words(&events[1001]).as_str()), (opened[0].clone(), "DeadPrimary closed"));
    assert!(events.windows(2).all(|two| two[0].sequence < two[1].sequence));
    assert_eq!(elector.metric("vtelector_events_unwritten_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn long_texts_are_cut_and_a_value_that_means_nothing_is_left_out() {
    let kv = Arc::new(MemoryKv::default());
    kv.put(&format!("{ROOT}/events/log/0000000000001-0000aaaa"), b"\xff\xff garbage".to_vec()).await.unwrap();
    kv.put(&format!("{ROOT}/events/cursors/pager"), b"{".to_vec()).await.unwrap();
    let elector = Elector::alone(kv);
    let endless = problem(Code::DeadPrimary, "zone1-100", &"ä".repeat(100_000));
    elector.board.publish(report("commerce/0", now(), vec![endless]));
    let events = elector.logged(0, 1).await;
    let Some(What::Opened(problem)) = &events[0].what else { panic!("{events:?}") };
    assert!(problem.why.len() <= 2048 && problem.why.starts_with('ä'), "{} bytes", problem.why.len());
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_while_the_log_is_first_read_waits_for_it_and_not_for_ever() {
    let mortal = Arc::new(Mortal::new(Arc::new(MemoryKv::default())));
    mortal.die();
    let elector = Elector::alone(mortal.clone());
    let limit = Duration::from_secs(1);
    let (asked, why) = (tokio::time::Instant::now(), elector.log.readable(limit).await.unwrap_err());
    assert!(asked.elapsed() == limit && why.contains("not read yet"), "{:?}: {why}", asked.elapsed());
    mortal.live();
    elector.log.readable(SOON).await.unwrap();
    let asked = tokio::time::Instant::now();
    elector.log.readable(limit).await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO);
}
