//! What stands in etcd: there and back, foreign bytes, and what is pruned.

use super::*;
use crate::{
    ledger::{
        prune::{KEPT_FOR, Plan, plan},
        stored::{self, Key, Keys},
    },
    topo::{KvEntry, WatchEvent},
};

fn keys() -> Keys {
    Keys::new("/vtelector/")
}

fn entry(key: &str, value: impl Into<Vec<u8>>, version: i64) -> KvEntry {
    KvEntry { key: key.to_owned(), value: value.into(), version, create_revision: version, lease: None }
}

fn at(second: u64) -> Now {
    Now { wall: wall(second), steady: Duration::from_secs(second) }
}

#[test]
fn what_is_written_comes_back() {
    let done = promotion(wall(7));
    let failed = Outcome::Failed("zone1-0000000102 could still commit".to_owned());
    for recovery in [
        done.clone(),
        Recovery { outcome: failed, promoted: None, ..done.clone() },
        Recovery { outcome: Outcome::AlreadyDone, kind: Kind::ElectFirst, old: None, ..done.clone() },
    ] {
        assert_eq!(stored::decode_recovery(&stored::encode_recovery(&recovery)).unwrap(), recovery);
    }
    let key = keys().of_recovery(&done, 0xab);
    assert_eq!(key, "/vtelector/ledger/recoveries/commerce/0/1760000007000-000000ab");
    assert_eq!(keys().parse(&key).unwrap(), Key::Recovery(shard()));
    for kind in [Key::Acknowledged(shard()), Key::Window("a1".to_owned()), Key::Switch, Key::Dropped] {
        assert_eq!(keys().parse(&keys().of(&kind)).unwrap(), kind);
    }
}

#[test]
fn a_text_of_any_length_is_cut_between_two_characters() {
    let recovery = Recovery { evidence: "ä".repeat(100_000), ..promotion(wall(0)) };
    let kept = stored::decode_recovery(&stored::encode_recovery(&recovery)).unwrap().evidence;
    assert_eq!(kept.len(), 4096);
}

#[test]
fn bytes_that_mean_nothing_are_named_and_change_nothing() {
    let (keys, mut state) = (keys(), LedgerState::default());
    let good = promotion(wall(100));
    let key = keys.of_recovery(&good, 1);
    state.begin_anew(&keys, &[entry(&key, stored::encode_recovery(&good), 5)], at(100));
    let rules = FlapRules::default();
    assert_eq!(state.block(&shard(), at(101), &rules).unwrap().rule, Rule::Floor);

    let newer = br#"{"version": 2, "anything": []}"#.to_vec();
    let alias = String::from_utf8(stored::encode_recovery(&good)).unwrap().replace("zone1-0000000101", "nobody");
    let strange = [
        (key.as_str(), b"\xff\xfe".to_vec(), "no JSON"),
        (key.as_str(), newer, "version 2"),
        (key.as_str(), alias.into_bytes(), "nobody"),
        ("/vtelector/ledger/recoveries/commerce", Vec::new(), "none of the ledger's"),
        ("/vtelector/ledger/acknowledged/a b/0", Vec::new(), "a b"),
        ("/vtelector/ledger/maintenance/x", br#"{"version": 1}"#.to_vec(), "missing field"),
        ("/vtelector/ledger/dropped", b"7".to_vec(), "no JSON"),
        ("/vtelector/ledger/", Vec::new(), "none of the ledger's"),
    ];
    for (key, value, words) in strange {
        state.follow(&keys, &[WatchEvent::Put(entry(key, value, 6))], at(101));
        assert!(state.garbage()[key].contains(words), "{key}: {}", state.garbage()[key]);
        assert_eq!(state.block(&shard(), at(101), &rules).unwrap().rule, Rule::Floor, "{key}: the block is lost");
    }
    let count = state.garbage().len();
    state.follow(&keys, &[WatchEvent::Put(entry(&key, stored::encode_recovery(&good), 7))], at(101));
    assert_eq!(state.garbage().len(), count - 1);
    state.follow(&keys, &[WatchEvent::Delete { key, version: 8 }], at(101));
    assert_eq!(state.block(&shard(), at(101), &rules), None);
}

#[test]
fn the_global_switch_is_off_while_its_key_is_there_whatever_it_holds() {
    let (keys, mut state) = (keys(), LedgerState::default());
    let key = keys.of(&Key::Switch);
    state.begin_anew(&keys, &[entry(&key, "{", 5)], at(0));
    let switch = state.recoveries_disabled().unwrap();
    assert!(switch.why.contains(&key) && switch.since.is_none(), "{switch:?}");
    assert!(state.garbage().contains_key(&key));
    state.follow(&keys, &[WatchEvent::Put(entry(&key, stored::encode_switch("anna", "rack move", wall(9)), 6))], at(9));
    let read = Switch { who: "anna".to_owned(), why: "rack move".to_owned(), since: Some(wall(9)) };
    assert_eq!((state.recoveries_disabled(), state.garbage().len()), (Some(&read), 0));
    // A listing in which it is not any more: it is on.
    state.begin_anew(&keys, &[], at(10));
    assert_eq!(state.recoveries_disabled(), None);
}

#[test]
fn a_window_written_by_hand_ends_when_the_longest_would() {
    let window = |until: u64| Window {
        id: "x".to_owned(),
        scope: Scope::Cell("zone1".to_owned()),
        owner: String::new(),
        reason: String::new(),
        from: wall(0),
        until: wall(until),
    };
    let read = stored::decode_window("x", &stored::encode_window(&window(1 << 40))).unwrap();
    assert_eq!(read.until, wall(0) + WINDOW_MAX);
}

#[test]
fn what_is_old_is_pruned_and_of_what_is_too_much_the_oldest() {
    let (keys, mut state) = (keys(), LedgerState::default());
    let week_s = KEPT_FOR.as_secs();
    let recoveries: Vec<(String, Vec<u8>)> = [0, 10, week_s, week_s + 1, week_s + 2]
        .map(|second| promotion(wall(second)))
        .map(|recovery| (keys.of_recovery(&recovery, 0), stored::encode_recovery(&recovery)))
        .into();
    let entries: Vec<KvEntry> = (recoveries.iter().enumerate())
        // The last by its time was written first.
        .map(|(number, (key, value))| entry(key, value.clone(), if number == 4 { 1 } else { 10 + number as i64 }))
        .collect();
    state.begin_anew(&keys, &entries, at(0));
    let plan =
        |max: usize, deleted: usize| plan(&state, &keys, Now { wall: wall(week_s + 5), steady: Duration::ZERO }, max, deleted);
    let key = |number: usize| recoveries[number].0.clone();
    assert_eq!(plan(4, 100), Plan { expired: vec![key(0)], overflow: vec![] });
    assert_eq!(plan(2, 100), Plan { expired: vec![key(0)], overflow: vec![key(4), key(1)] });
    assert_eq!(plan(2, 2), Plan { expired: vec![key(0)], overflow: vec![key(4)] });
    assert_eq!(plan(2, 1), Plan { expired: vec![key(0)], overflow: vec![] });
}
