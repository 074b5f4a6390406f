//! The ledger on a store that fails.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use vtelector::{
    ledger::{Clock, FlapRules, Kind, Ledger, LedgerState, Outcome, Recovery},
    topo::Kv,
};

use crate::faulty::{Mode, World, commerce};

const SOON: Duration = Duration::from_secs(60);

async fn when(ledger: &Ledger, what: &str, holds: impl FnMut(&Arc<LedgerState>) -> bool) {
    let mut changes = ledger.changes();
    let found = timeout(SOON, changes.wait_for(holds)).await;
    assert!(found.is_ok(), "never came: {what}; {:?}", ledger.state().unread());
}

fn promotion(ledger: &Ledger) -> Recovery {
    Recovery {
        shard: commerce(),
        code: "DeadPrimary".to_owned(),
        kind: Kind::Emergency,
        promoted: Some("zone1-101".parse().unwrap()),
        old: None,
        who: "test".to_owned(),
        at: ledger.now().wall,
        took: Duration::ZERO,
        outcome: Outcome::Done,
        evidence: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_could_not_be_written_counts_at_once_and_is_written_once_when_the_store_is_back() {
    for mode in [Mode::Down, Mode::DeafToWrites] {
        let world = World::default();
        let topo = world.topo().await;
        let open = |who: &str| Ledger::start(&topo, "/vtelector", who, Clock::of_this_machine(), &CancellationToken::new());
        let (ours, other) = (open("ours"), open("other"));
        when(&ours, "a first reading", |state| state.unread().is_none()).await;
        world.set("global", mode);
        ours.record(promotion(&ours)).await.unwrap_err();
        assert!(ours.state().block(&commerce(), ours.now(), &FlapRules::default()).is_some(), "{mode:?}");
        sleep(Duration::from_secs(12)).await;
        world.set("global", Mode::Up);
        when(&other, "the recovery", |state| state.history(other.now(), |_| true).len() == 1).await;
        when(&ours, "a current ledger", |state| state.unread().is_none()).await;
        sleep(Duration::from_secs(12)).await;
        let kept = world.store("global").inner.list_keys("/vtelector/ledger/recoveries/").await.unwrap();
        assert_eq!(kept.entries.len(), 1, "{mode:?}");
        assert_eq!(ours.state().history(ours.now(), |_| true).len(), 1, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_ledger_is_current_within_seconds_and_nothing_is_lost_meanwhile() {
    let world = World::default();
    let topo = world.topo().await;
    let open = |who: &str| Ledger::start(&topo, "/vtelector", who, Clock::of_this_machine(), &CancellationToken::new());
    let (ours, other) = (open("ours"), open("other"));
    when(&ours, "a first reading", |state| state.unread().is_none()).await;
    other.set_recoveries(false, "anna", "rack move").await.unwrap();
    when(&ours, "the switch", |state| state.recoveries_disabled().is_some()).await;
    world.set("global", Mode::Down);
    when(&ours, "the outage", |state| state.unread().is_some()).await;
    sleep(Duration::from_secs(30)).await;
    assert!(ours.state().recoveries_disabled().is_some(), "what was last read holds");
    let error = ours.set_recoveries(true, "bob", "").await.unwrap_err().to_string();
    assert!(error.contains("switching recoveries on"), "{error}");
    world.set("global", Mode::Up);
    let began = Instant::now();
    when(&ours, "a current ledger", |state| state.unread().is_none()).await;
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(ours.state().recoveries_disabled().is_some());
}
