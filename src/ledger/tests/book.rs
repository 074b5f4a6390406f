//! Two electors over one etcd in memory.

use std::sync::{Arc, Mutex};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::topo::Topo;

const SOON: Duration = Duration::from_secs(300);

/// A wall clock that stands where a test puts it.
#[derive(Clone)]
struct WallClock(Arc<Mutex<SystemTime>>);

impl WallClock {
    fn at(time: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(time)))
    }

    fn jump(&self, time: SystemTime) {
        *self.0.lock().unwrap() = time;
    }

    fn clock(&self) -> Clock {
        let time = self.0.clone();
        Clock::new(Arc::new(move || *time.lock().unwrap()))
    }
}

fn open(topo: &Topo, who: &str, clock: &WallClock) -> Ledger {
    Ledger::start(topo, "/vtelector", who, clock.clock(), &CancellationToken::new())
}

async fn when(ledger: &Ledger, what: &str, holds: impl FnMut(&Arc<LedgerState>) -> bool) -> Arc<LedgerState> {
    let mut changes: watch::Receiver<Arc<LedgerState>> = ledger.changes();
    let found = timeout(SOON, changes.wait_for(holds)).await.ok().map(|state| state.unwrap().clone());
    found.unwrap_or_else(|| panic!("never came: {what}; unread: {:?}", ledger.state().unread()))
}

async fn read(ledger: &Ledger) {
    when(ledger, "a first reading", |state| state.unread().is_none()).await;
}

fn block(ledger: &Ledger) -> Option<Rule> {
    ledger.state().block(&shard(), ledger.now(), &FlapRules::default()).map(|block| block.rule)
}

#[tokio::test(start_paused = true)]
async fn what_one_elector_records_blocks_the_other_and_one_write_does_it() {
    let (topo, clock) = (Topo::in_memory(), WallClock::at(wall(0)));
    let (one, other) = (open(&topo, "one", &clock), open(&topo, "other", &clock));
    assert_eq!(block(&one), Some(Rule::LedgerUnread));
    read(&one).await;
    read(&other).await;
    let before = topo.global().list("/").await.unwrap().revision;
    one.record(promotion(clock.clock().now().wall)).await.unwrap();
    assert_eq!(topo.global().list("/").await.unwrap().revision, before + 1);
    assert_eq!(block(&one), Some(Rule::Floor));
    when(&other, "the record", |state| state.history(one.now(), |_| true).len() == 1).await;
    assert_eq!(block(&other), Some(Rule::Floor));

    other.acknowledge(&shard(), "anna", "looked at it").await.unwrap();
    assert_eq!(block(&other), None);
    when(&one, "the acknowledgement", |state| state.acknowledgement(&shard()).is_some()).await;
    assert_eq!(block(&one), None);
}

#[tokio::test(start_paused = true)]
async fn a_block_survives_every_elector_and_ends_when_it_would_have() {
    let (topo, clock) = (Topo::in_memory(), WallClock::at(wall(0)));
    let first = open(&topo, "first", &clock);
    read(&first).await;
    first.record(promotion(wall(0))).await.unwrap();
    drop(first);
    clock.jump(wall(2));
    let second = open(&topo, "second", &clock);
    read(&second).await;
    assert_eq!(block(&second), Some(Rule::Floor));
    // The wall clock stands still; the steady one goes on.
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(block(&second), None);
}

#[tokio::test(start_paused = true)]
async fn maintenance_and_the_switch_are_seen_by_all_and_ended_by_anybody() {
    let (topo, clock) = (Topo::in_memory(), WallClock::at(wall(0)));
    let (one, other) = (open(&topo, "one", &clock), open(&topo, "other", &clock));
    read(&one).await;
    read(&other).await;
    let hour = Duration::from_secs(3600);
    let window = one.begin_maintenance(Scope::Shard(shard()), "anna", "new disks", hour).await.unwrap();
    assert_eq!((window.from, window.until), (wall(0), wall(3600)));
    let seen = when(&other, "the window", |state| state.maintenance(&shard(), None, wall(1)).is_some()).await;
    assert_eq!(seen.maintenance(&shard(), None, wall(3599)), Some(&window));
    assert_eq!(seen.maintenance(&shard(), None, wall(3600)), None);
    assert_eq!(other.end_maintenance(&window.id).await.unwrap(), Some(window.clone()));
    when(&one, "its end", |state| state.windows(wall(1)).count() == 0).await;
    let error = one.end_maintenance(&window.id).await.unwrap_err().to_string();
    assert!(error.contains(&window.id) && error.contains("was ended"), "{error}");

    one.set_recoveries(false, "anna", "rack move").await.unwrap();
    let seen = when(&other, "the switch", |state| state.recoveries_disabled().is_some()).await;
    assert_eq!(seen.recoveries_disabled().unwrap().who, "anna");
    other.set_recoveries(true, "bob", "done").await.unwrap();
    when(&one, "it is on again", |state| state.recoveries_disabled().is_none()).await;
    other.set_recoveries(true, "bob", "twice does no harm").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_elector_prunes_and_what_was_dropped_is_counted() {
    let (topo, clock) = (Topo::in_memory(), WallClock::at(wall(0)));
    let kv = topo.global();
    let keys = crate::ledger::stored::Keys::new("/vtelector");
    // What many electors wrote within a week, one more than is kept, and one that is too old.
    for number in 0..=10_000_u32 {
        let recovery = promotion(wall(8 * 24 * 3600 - 1));
        kv.put(&keys.of_recovery(&recovery, number), crate::ledger::stored::encode_recovery(&recovery)).await.unwrap();
    }
    let old = promotion(wall(0));
    kv.put(&keys.of_recovery(&old, 0), crate::ledger::stored::encode_recovery(&old)).await.unwrap();
    clock.jump(wall(8 * 24 * 3600));
    let (one, other) = (open(&topo, "one", &clock), open(&topo, "other", &clock));
    for ledger in [&one, &other] {
        let state = when(ledger, "a pruned ledger", |state| state.dropped() == 1).await;
        assert_eq!(state.history(ledger.now(), |_| true).len(), 10_000);
    }
    // Nothing is left of whoever did it, and the next look finds nothing to do.
    assert_eq!(kv.get(&keys.pruner()).await.unwrap(), None);
    let before = kv.list_keys("/").await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(kv.list_keys("/").await.unwrap().revision, before);
}

#[tokio::test(start_paused = true)]
async fn an_elector_that_stops_leaves_no_task() {
    let (topo, clock, stop) = (Topo::in_memory(), WallClock::at(wall(0)), CancellationToken::new());
    let ledger = Ledger::start(&topo, "/vtelector", "one", clock.clock(), &stop);
    read(&ledger).await;
    stop.cancel();
    assert!(ledger.stopped(SOON).await);
}
