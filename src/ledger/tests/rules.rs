//! Which promotions are blocked, by which rule, and until when.

use super::*;
use crate::{
    ledger::stored::{self, Keys},
    topo::{KvEntry, WatchEvent},
};

const SECOND: Duration = Duration::from_secs(1);

/// A ledger that was read at the beginning, empty, and the entries that come.
struct Story {
    keys: Keys,
    state: LedgerState,
    revision: i64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { keys: Keys::new("/vtelector"), state: LedgerState::default(), revision: 1 };
        story.state.begin_anew(&story.keys, &[], at(0));
        story
    }

    fn entry(&mut self, recovery: &Recovery) -> KvEntry {
        self.revision += 1;
        let (key, value) = (self.keys.of_recovery(recovery, self.revision as u32), stored::encode_recovery(recovery));
        KvEntry { key, value, version: self.revision, create_revision: self.revision, lease: None }
    }

    /// The watch brings it at that second.
    fn comes(&mut self, second: u64, recovery: &Recovery) {
        let entry = self.entry(recovery);
        self.state.follow(&self.keys, &[WatchEvent::Put(entry)], at(second));
    }

    fn promoted(&mut self, seconds: &[u64]) {
        for second in seconds {
            self.comes(*second, &promotion(wall(*second)));
        }
    }

    fn acknowledged(&mut self, second: u64) {
        self.revision += 1;
        let value = stored::encode_acknowledgement("anna", "looked at it", wall(second));
        let key = "/vtelector/ledger/acknowledged/commerce/0".to_owned();
        let entry = KvEntry { key, value, version: self.revision, create_revision: self.revision, lease: None };
        self.state.follow(&self.keys, &[WatchEvent::Put(entry)], at(second));
    }

    /// The rule that blocks at that second, and the second at which it ends.
    fn block(&self, second: u64) -> Option<(Rule, u64)> {
        self.block_by(second, &FlapRules::default())
    }

    fn block_by(&self, second: u64, rules: &FlapRules) -> Option<(Rule, u64)> {
        let block = self.state.block(&shard(), at(second), rules)?;
        let until = block.until.unwrap().duration_since(wall(0)).unwrap();
        Some((block.rule, until.as_secs()))
    }
}

/// That second on both clocks.
fn at(second: u64) -> Now {
    Now { wall: wall(second), steady: SECOND * second as u32 }
}

#[test]
fn nothing_is_decided_before_the_ledger_was_read() {
    let block = LedgerState::default().block(&shard(), at(0), &FlapRules::default()).unwrap();
    assert_eq!((block.rule, block.until), (Rule::LedgerUnread, None));
    assert!(block.reason.contains("not read yet"), "{}", block.reason);
}

#[test]
fn the_next_promotion_waits_for_the_floor() {
    let mut story = Story::new();
    assert_eq!(story.block(100), None);
    story.promoted(&[100]);
    assert_eq!(story.block(100), Some((Rule::Floor, 105)));
    assert_eq!(story.block(104), Some((Rule::Floor, 105)));
    assert_eq!(story.block(105), None);
    let block = story.state.block(&shard(), at(103), &FlapRules::default()).unwrap();
    assert_eq!(
        block.reason,
        "the last automatic promotion was 3s ago (zone1-0000000101 after zone1-0000000100, by elector1:15999): the next one not \
         within 5s (--failover-floor); acknowledging lifts it"
    );
}

#[test]
fn the_third_within_a_minute_waits_until_that_minute_is_over() {
    let mut story = Story::new();
    story.promoted(&[100, 110]);
    assert_eq!(story.block(114), Some((Rule::Burst, 160)));
    assert_eq!(story.block(159), Some((Rule::Burst, 160)));
    assert_eq!(story.block(160), None);
    // The minute of the second one still counts: a third now makes two of it.
    story.promoted(&[161]);
    assert_eq!(story.block(168), Some((Rule::Burst, 170)));
    assert_eq!(story.block(170), None);
}

#[test]
fn the_seventh_within_an_hour_waits_until_that_hour_is_over() {
    let mut story = Story::new();
    story.promoted(&[100, 200, 300, 400, 500]);
    assert_eq!(story.block(700), None);
    story.promoted(&[600]);
    assert_eq!(story.block(700), Some((Rule::CapPerHour, 3700)));
    assert_eq!(story.block(3699), Some((Rule::CapPerHour, 3700)));
    assert_eq!(story.block(3700), None);
}

#[test]
fn zero_switches_each_rule_off() {
    let mut story = Story::new();
    story.promoted(&[100, 100, 100, 100, 100, 100, 100]);
    let all = FlapRules::default();
    let no_cap = FlapRules { cap_per_hour: 0, ..all };
    assert_eq!(story.block_by(100, &all), Some((Rule::CapPerHour, 3700)));
    assert_eq!(story.block_by(100, &no_cap), Some((Rule::Burst, 160)));
    assert_eq!(story.block_by(100, &FlapRules { burst: None, ..no_cap }), Some((Rule::Floor, 105)));
    assert_eq!(story.block_by(100, &FlapRules { burst: None, floor: Duration::ZERO, ..no_cap }), None);
}

#[test]
fn only_completed_promotions_of_the_same_shard_count() {
    let mut story = Story::new();
    let done = promotion(wall(100));
    story.comes(100, &Recovery { shard: "commerce/80-".parse().unwrap(), ..done.clone() });
    story.comes(100, &Recovery { promoted: None, outcome: Outcome::Failed("not revoked".to_owned()), ..done.clone() });
    story.comes(100, &Recovery { outcome: Outcome::AlreadyDone, ..done.clone() });
    story.comes(100, &Recovery { kind: Kind::Repair, promoted: None, ..done.clone() });
    story.comes(100, &Recovery { kind: Kind::Resume, promoted: None, ..done.clone() });
    assert_eq!(story.block(100), None);
    story.comes(100, &Recovery { kind: Kind::Resume, ..done });
    assert_eq!(story.block(100), Some((Rule::Floor, 105)));
}

#[test]
fn acknowledging_lifts_what_was_before_and_nothing_after() {
    let mut story = Story::new();
    story.promoted(&[100, 110]);
    story.acknowledged(112);
    assert_eq!(story.block(112), None);
    assert_eq!(story.state.acknowledgement(&shard()).unwrap().who, "anna");
    assert_eq!(story.state.unacknowledged(at(112)).count(), 0);
    story.promoted(&[113]);
    assert_eq!(story.block(113), Some((Rule::Floor, 118)));
    assert_eq!(story.state.unacknowledged(at(113)).collect::<Vec<_>>(), [&shard()]);
}

#[test]
fn acknowledging_with_a_clock_that_is_behind_lifts_all_the_same() {
    let mut story = Story::new();
    story.promoted(&[100]);
    story.revision += 1;
    let value = stored::encode_acknowledgement("anna", "", wall(0));
    let key = "/vtelector/ledger/acknowledged/commerce/0".to_owned();
    let entry = KvEntry { key, value, version: story.revision, create_revision: story.revision, lease: None };
    story.state.follow(&story.keys, &[WatchEvent::Put(entry)], at(101));
    assert_eq!(story.block(101), None);
}

#[test]
fn what_we_see_come_is_judged_by_our_own_clock_alone() {
    for wrong_by in ["an hour ahead", "an hour behind"] {
        let mut story = Story::new();
        let recorded = if wrong_by == "an hour ahead" { wall(4000 + 3600) } else { wall(4000 - 3600) };
        story.comes(4000, &promotion(recorded));
        assert_eq!(story.block(4003), Some((Rule::Floor, 4005)), "{wrong_by}");
        assert_eq!(story.block(4005), None, "{wrong_by}");
    }
    // Our own wall clock jumps as well: nothing is lifted, and nothing lasts longer.
    let mut story = Story::new();
    story.promoted(&[100]);
    for jumped in [wall(0), wall(100_000)] {
        let rules = FlapRules::default();
        let now = |second: u32| Now { wall: jumped, steady: SECOND * second };
        let block = story.state.block(&shard(), now(103), &rules).unwrap();
        assert_eq!(block.until, Some(jumped + 2 * SECOND));
        assert_eq!(story.state.block(&shard(), now(105), &rules), None);
    }
}

/// What an elector finds in the ledger when it starts at second 1000.
fn found_at_start(recorded: SystemTime) -> Story {
    let mut story = Story::new();
    let entry = story.entry(&promotion(recorded));
    story.state = LedgerState::default();
    story.state.begin_anew(&story.keys, &[entry], at(1000));
    story
}

#[test]
fn an_elector_that_restarts_knows_the_age_of_what_it_finds_from_the_wall_clock() {
    assert_eq!(found_at_start(wall(998)).block(1001), Some((Rule::Floor, 1003)));
    assert_eq!(found_at_start(wall(990)).block(1001), None);
}

#[test]
fn an_entry_from_the_future_blocks_for_no_longer_than_the_rule() {
    let story = found_at_start(wall(1_000_000));
    assert_eq!(story.block(1000), Some((Rule::Floor, 1005)));
    assert_eq!(story.block(1004), Some((Rule::Floor, 1005)));
    assert_eq!(story.block(1005), None);
    // Nor does it when our clock is set back after we found it.
    let now = Now { wall: wall(0), steady: SECOND * 1005 };
    assert_eq!(found_at_start(wall(999)).state.block(&shard(), now, &FlapRules::default()), None);
}

#[test]
fn a_listing_after_an_outage_makes_nothing_younger() {
    let mut story = Story::new();
    let entry = story.entry(&promotion(wall(5)));
    story.state.follow(&story.keys, &[WatchEvent::Put(entry.clone())], at(100));
    story.state.broken("no answer".to_owned());
    assert_eq!((story.state.unread(), story.block(103)), (Some("no answer"), Some((Rule::Floor, 105))));
    story.state.begin_anew(&story.keys, &[entry], at(104));
    assert_eq!((story.state.unread(), story.block(104)), (None, Some((Rule::Floor, 105))));
    assert_eq!(story.block(105), None);
}

#[test]
fn a_promotion_of_our_own_counts_before_etcd_has_it_and_through_a_listing_without_it() {
    let mut story = Story::new();
    let recovery = promotion(wall(100));
    let entry = story.entry(&recovery);
    story.state.remember(entry.key.clone(), recovery, at(100));
    story.state.begin_anew(&story.keys, &[], at(101));
    assert_eq!(story.block(101), Some((Rule::Floor, 105)));
    assert_eq!(story.state.unwritten().len(), 1);
    story.state.put(&story.keys, &entry, at(103), true);
    assert_eq!((story.block(103), story.state.unwritten().len()), (Some((Rule::Floor, 105)), 0));
    assert_eq!(story.state.history(at(103), |_| true).len(), 1);
}

#[test]
fn a_burst_is_a_number_and_a_time() {
    assert_eq!("3/90s".parse(), Ok(Burst { count: 3, within: 90 * SECOND }));
    assert_eq!("2/1m".parse::<Burst>().unwrap().to_string(), "2/1m0s");
    for (text, words) in [("2", "no /"), ("x/1m", "\"x\" is no number"), ("2/1", "not a duration"), ("0/1m", "0"), ("2/0s", "0")]
    {
        let error = text.parse::<Burst>().unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn maintenance_covers_what_it_names_and_ends_by_itself() {
    let mut story = Story::new();
    let mut begin = |id: &str, scope: &str, until: u64| {
        let window = Window {
            id: id.to_owned(),
            scope: scope.parse().unwrap(),
            owner: "anna".to_owned(),
            reason: "new disks".to_owned(),
            from: wall(0),
            until: wall(until),
        };
        story.revision += 1;
        let key = format!("/vtelector/ledger/maintenance/{id}");
        let version = story.revision;
        let entry = KvEntry { key, value: stored::encode_window(&window), version, create_revision: version, lease: None };
        story.state.follow(&story.keys, &[WatchEvent::Put(entry)], at(0));
    };
    begin("a", "tablet:zone1-101", 10);
    begin("b", "shard:customer/-80", 20);
    begin("c", "keyspace:customer", 30);
    begin("d", "cell:zone2", 40);
    let open = |shard: &str, tablet: Option<&str>, second: u64| {
        let (shard, tablet) = (shard.parse().unwrap(), tablet.map(|tablet| tablet.parse().unwrap()));
        story.state.maintenance(&shard, tablet.as_ref(), wall(second)).map(|window| window.id.clone())
    };
    let (none, is) = (None, |id: &str| Some(id.to_owned()));
    assert_eq!(open("commerce/0", None, 0), none);
    assert_eq!(open("commerce/0", Some("zone1-101"), 9), is("a"));
    assert_eq!(open("commerce/0", Some("zone1-101"), 10), none);
    assert_eq!(open("commerce/0", Some("zone1-102"), 0), none);
    assert_eq!(open("commerce/0", Some("zone2-200"), 39), is("d"));
    assert_eq!(open("customer/-80", None, 0), is("c"));
    assert_eq!(open("customer/80-", Some("zone1-1"), 29), is("c"));
    assert_eq!(open("customer/80-", None, 30), none);
    assert_eq!(story.state.windows(wall(15)).count(), 3);
}

#[test]
fn a_scope_says_what_kind_of_thing_it_names() {
    for text in ["tablet:zone1-0000000101", "shard:commerce/-80", "keyspace:commerce", "cell:zone1"] {
        assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
    }
    for text in ["", "commerce", "host:a", "tablet:zone1", "shard:commerce", "keyspace:a b", "cell:"] {
        let error = text.parse::<Scope>().unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?}")) && error.contains("tablet:zone1-101"), "{error}");
    }
}
