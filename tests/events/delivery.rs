//! At least once, in order, by one elector at a time, for as long as the log keeps an event. Hours pass in milliseconds here.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use vtelector::{
    ledger::Outcome,
    serve::events::{
        EVENTS_MAX,
        webhook::{Failure, LEASE},
    },
    topo::{Kv, MemoryKv},
};

use crate::world::{Alive, Elector, Mortal, ROOT, Script, dead, file, now, recover, recovery, report, until};

const PAGER: &str = "[[webhook]]\nname = 'pager'\nurl = 'http://pager.example/T0KEN'\nsecret = 's3cret'\nkinds = ['recovered']\n";

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_receiver_that_answers_500_for_a_day_gets_every_event_in_order_when_it_is_well() {
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file(PAGER);
    let script = Script::failing(true);
    let desk = elector.deliver(&path, script.clone());
    until("a deliverer", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    for hour in 0..24 {
        recover(&elector.board, hour * 10..hour * 10 + 10);
        sleep(HOUR).await;
    }
    let state = desk.status().remove(0);
    assert_eq!((state.pending, state.deliverer.as_str()), (240, "elector1:15999"));
    assert!(state.failures > 100 && state.error.contains("500"), "{state:?}");
    // It is asked once a minute or more often, and not much more.
    assert!((24 * 60..24 * 60 * 3).contains(&script.tried()), "{} tries in a day", script.tried());
    let lag_s = elector.metric(r#"vtelector_webhook_lag_seconds{receiver="pager"}"#);
    assert!((86_000.0..87_000.0).contains(&lag_s), "{lag_s}");
    assert_eq!(elector.metric(r#"vtelector_webhook_pending_events{receiver="pager"}"#), 240.0);
    script.mend();
    until("all of them", || script.sequences().len() == 240).await;
    let expected: Vec<u64> = elector.logged(0, 240).await.iter().map(|event| event.sequence).collect();
    assert_eq!(script.sequences(), expected, "each once, in order");
    until("nothing pending", || desk.status()[0].pending == 0).await;
    let state = desk.status().remove(0);
    assert_eq!((state.failures, state.error.as_str()), (0, ""));
    assert_eq!(elector.metric(r#"vtelector_webhook_delivered_total{receiver="pager"}"#), 240.0);
    assert_eq!(elector.metric(r#"vtelector_webhook_lost_total{receiver="pager"}"#), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_says_the_request_is_wrong_is_asked_less_often_and_loses_nothing() {
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file(PAGER);
    let script = Script::failing(false);
    let desk = elector.deliver(&path, script.clone());
    until("a deliverer", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    recover(&elector.board, 0..3);
    sleep(24 * HOUR).await;
    assert!((24 * 5..24 * 14).contains(&script.tried()), "{} tries in a day", script.tried());
    script.mend();
    sleep(Duration::from_secs(601)).await;
    assert_eq!(script.sequences().len(), 3);
    // One that asks to be left alone for a while is.
    let busy =
        Failure { reason: "status_429", text: String::new(), is_passing: true, retry_after: Some(Duration::from_secs(300)) };
    *script.fails.lock().unwrap() = Some(busy);
    let before = script.tried();
    recover(&elector.board, 3..4);
    sleep(HOUR).await;
    assert!((11..=13).contains(&(script.tried() - before)), "{} tries in an hour", script.tried() - before);
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_log_before_it_was_taken_is_counted_and_the_rest_is_delivered() {
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file(PAGER);
    let script = Script::failing(true);
    let desk = elector.deliver(&path, script.clone());
    until("a deliverer", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    recover(&elector.board, 0..100);
    until("all in the log", || desk.status()[0].pending == 100).await;
    elector.jump(Duration::from_secs(8 * 24 * 3600));
    until("an empty log", || elector.log.status().events == 0).await;
    recover(&elector.board, 100..105);
    script.mend();
    until("what is left", || script.sequences().len() == 5).await;
    assert_eq!(elector.metric(r#"vtelector_webhook_lost_total{receiver="pager"}"#), 100.0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_events_that_wait_cost_no_memory_beyond_the_log() {
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    let (_folder, path) = file(PAGER);
    let script = Script::failing(true);
    let desk = elector.deliver(&path, script.clone());
    until("a deliverer", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    let before_kb = resident_kb();
    for round in 1..=10 {
        recover(&elector.board, 0..1000);
        elector.logged(0, round * 1000).await;
    }
    until("all pending", || desk.status()[0].pending == 10_000).await;
    let with_log_kb = resident_kb();
    sleep(HOUR).await;
    let after_kb = resident_kb();
    println!(
        "10,000 undelivered: {before_kb} kB, {with_log_kb} kB with the log in store and memory, {after_kb} kB after an hour of failures"
    );
    assert!(after_kb < with_log_kb + 16 * 1024, "{with_log_kb} kB, then {after_kb} kB");
    assert!(elector.log.status().events <= EVENTS_MAX as u64);
    script.mend();
    until("all of them", || script.sequences().len() == 10_000).await;
    let sequences = script.sequences();
    assert!(sequences.windows(2).all(|two| two[0] < two[1]));
}

#[tokio::test(start_paused = true)]
async fn where_a_receiver_stood_that_is_gone_is_forgotten_after_a_week_and_a_quiet_one_is_not() {
    let (kv, alive) = (Arc::new(MemoryKv::default()), Alive::default());
    let mortal = Arc::new(Mortal::new(kv.clone()));
    let (one, other) = (Elector::start(mortal.clone(), "a:1", &alive), Elector::start(kv.clone(), "b:1", &alive));
    let (_folder, path) = file(&format!("{PAGER}[[webhook]]\nname = 'audit'\nurl = 'http://audit.example'\n"));
    let _desk = one.deliver(&path, Arc::new(Script::default()));
    let known_after = async |time: Duration| {
        sleep(time).await;
        let cursors = kv.list_keys(&format!("{ROOT}/events/cursors/")).await.unwrap().entries;
        cursors.iter().map(|entry| entry.key.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let days_pass = |days: u32| [&one, &other].map(|elector| elector.jump(HOUR * 24 * days));
    let (minute, both) = (Duration::from_secs(60), "audit pager");
    assert_eq!(known_after(minute).await, both);
    days_pass(8);
    assert_eq!(known_after(minute).await, both, "nothing happened, and somebody delivers");
    std::fs::write(&path, PAGER).unwrap();
    mortal.die();
    assert_eq!(known_after(minute).await, both, "nobody has delivered for a minute");
    mortal.live();
    days_pass(6);
    assert_eq!(known_after(minute).await, both, "one is gone for six days");
    days_pass(2);
    assert_eq!(known_after(minute).await, "pager");
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_two_electors_one_delivers_and_the_other_takes_over_where_it_died() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
    let alive = Alive::default();
    let (_folder, path) = file(PAGER);
    let first = Elector::start(kv.clone(), "a:1", &alive);
    let (one, two) = (Arc::new(Script::default()), Arc::new(Script::default()));
    let desk = first.deliver(&path, one.clone());
    until("the first to deliver", || desk.status().first().is_some_and(|state| state.deliverer == "a:1")).await;
    let second = Elector::start(kv.clone(), "b:1", &alive);
    let other = second.deliver(&path, two.clone());
    recover(&first.board, 0..5);
    recover(&second.board, 5..10);
    until("ten at the first", || one.sequences().len() == 10).await;
    sleep(Duration::from_secs(60)).await;
    assert!(two.sequences().is_empty());
    assert_eq!(other.status()[0].deliverer, "a:1", "the other one knows who does");
    // It stops in good order: what it has delivered is written down, and the other goes on at once.
    first.stop.cancel();
    until("the second to deliver", || other.status()[0].deliverer == "b:1").await;
    recover(&second.board, 10..12);
    until("two at the second", || two.sequences().len() == 2).await;
    let all = [one.sequences(), two.sequences()].concat();
    let logged: Vec<u64> = second.logged(0, 12).await.iter().map(|event| event.sequence).collect();
    assert_eq!(all, logged, "each once");
}

#[tokio::test(start_paused = true)]
async fn an_elector_that_dies_between_post_and_cursor_has_it_delivered_twice_under_the_same_name() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
    let alive = Alive::default();
    let (_folder, path) = file(PAGER);
    let mortal = Arc::new(Mortal::new(kv.clone()));
    let first = Elector::start(mortal.clone(), "a:1", &alive);
    let (one, two) = (Arc::new(Script::default()), Arc::new(Script::default()));
    let desk = first.deliver(&path, one.clone());
    until("the first to deliver", || desk.status().first().is_some_and(|state| state.deliverer == "a:1")).await;
    recover(&first.board, 0..1);
    until("one taken and written down", || one.sequences() == [desk.status()[0].delivered_sequence]).await;
    // The receiver takes the second one, and nothing that the elector does comes to anything after that.
    let die = mortal.clone();
    one.when_taken(move || die.die());
    one.refuse(true);
    recover(&first.board, 1..3);
    first.logged(0, 3).await;
    one.mend();
    until("another taken", || one.sequences().len() >= 2).await;
    first.stop.cancel();
    let second = Elector::start(kv.clone(), "b:1", &alive);
    let _other = second.deliver(&path, two.clone());
    let began = Instant::now();
    until("two at the second", || two.sequences().len() == 2).await;
    assert!(began.elapsed() <= LEASE + Duration::from_secs(6), "{:?}", began.elapsed());
    let ids = |script: &Script| script.taken.lock().unwrap().iter().map(|message| message.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&one)[1], ids(&two)[0], "the same name, so that the receiver knows it again");
    let logged: Vec<u64> = second.logged(0, 3).await.iter().map(|event| event.sequence).collect();
    assert_eq!((one.sequences()[0], two.sequences()), (logged[0], logged[1..].to_vec()), "none is missing");
}

#[tokio::test(start_paused = true)]
async fn a_deliverer_whose_lease_is_gone_stops_and_its_late_cursor_does_not_count() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
    let alive = Alive::default();
    let (_folder, path) = file(PAGER);
    let [first, second] = ["a:1", "b:1"].map(|who| Elector::start(kv.clone(), who, &alive));
    let (one, two) = (Script::failing(true), Arc::new(Script::default()));
    let desk = first.deliver(&path, one.clone());
    until("the first to deliver", || desk.status().first().is_some_and(|state| state.deliverer == "a:1")).await;
    recover(&first.board, 0..4);
    until("a try", || one.tried() > 0).await;
    let other = second.deliver(&path, two.clone());
    // Somebody revokes its lease, as etcd does with that of an elector that was cut off.
    let deliverer = kv.get(&format!("{ROOT}/events/deliverers/pager")).await.unwrap().unwrap();
    kv.lease_revoke(deliverer.lease.unwrap()).await.unwrap();
    until("the second to deliver", || {
        other.status().first().is_some_and(|state| state.deliverer == "b:1") || two.sequences().len() == 4
    })
    .await;
    until("four at the second", || two.sequences().len() == 4).await;
    one.mend();
    sleep(HOUR).await;
    assert!(one.sequences().is_empty(), "the first one has stopped");
    recover(&first.board, 4..5);
    until("the fifth at the second", || two.sequences().len() == 5).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_receiver_is_told_what_happens_from_now_on_and_filters_hold() {
    let elector = Elector::alone(Arc::new(MemoryKv::default()));
    recover(&elector.board, 0..50);
    elector.logged(0, 50).await;
    let (_folder, path) = file(
        "[[webhook]]\nname = 'pager'\nurl = 'http://pager.example/'\nkinds = ['opened', 'closed', 'recovered']\npriorities = ['shard']\n\
         keyspaces = ['customer']\n",
    );
    let script = Arc::new(Script::default());
    let desk = elector.deliver(&path, script.clone());
    until("a deliverer", || desk.status().first().is_some_and(|state| !state.deliverer.is_empty())).await;
    elector.board.publish(report("commerce/0", now(), vec![dead()]));
    elector.board.publish(report("customer/0", now(), vec![dead()]));
    elector.board.recovered(&recovery("customer/0", Outcome::Done));
    let minor = vtelector::diagnose::Code::ReplicationStopped;
    elector.board.publish(report("customer/0", now(), vec![crate::world::problem(minor, "zone1-101", "")]));
    elector.logged(0, 55).await;
    until("what is its", || script.sequences().len() == 3 && desk.status()[0].pending == 0).await;
    let bodies: Vec<serde_json::Value> =
        script.taken.lock().unwrap().iter().map(|message| serde_json::from_slice(&message.body).unwrap()).collect();
    assert!(bodies.iter().all(|body| body["keyspace"] == "customer"), "{bodies:?}");
    assert_eq!(bodies[0]["opened"]["code"], "DeadPrimary");
    assert_eq!(bodies[1]["recovered"]["outcome"], "done");
    assert_eq!(bodies[2]["closed"]["code"], "DeadPrimary");
    assert_eq!(bodies[0]["sequence"].as_str().unwrap().parse::<u64>().unwrap(), script.sequences()[0]);
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_was_put_back_to_an_older_state_costs_no_event() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::default());
    let cursor = r#"{"sequence": 999999999000}"#;
    kv.put(&format!("{ROOT}/events/cursors/pager"), cursor.as_bytes().to_vec()).await.unwrap();
    let elector = Elector::alone(kv);
    recover(&elector.board, 0..3);
    let (_folder, path) = file(PAGER);
    let script = Arc::new(Script::default());
    let _desk = elector.deliver(&path, script.clone());
    until("all of the log", || script.sequences().len() == 3).await;
}
