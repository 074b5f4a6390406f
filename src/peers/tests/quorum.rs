//! Who has to agree before a lone elector's word counts.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::super::{Claim, Evidence, Observation, Probe, Refused, Verdict, tally};
use crate::shard::FailureClass;

fn fails(class: FailureClass) -> Probe {
    Probe::Fails { class, words: format!("{class:?}").to_lowercase() }
}

fn refused() -> Probe {
    fails(FailureClass::Refused)
}

fn silent() -> Probe {
    fails(FailureClass::Silent)
}

fn saw(manager: Probe, mysql: Probe) -> Observation {
    let writable = (mysql == Probe::Answers).then_some(true);
    Observation { manager, mysql, writable, took: Duration::from_millis(3) }
}

type Answer = Option<Result<Evidence, String>>;

fn fresh(seen: Observation) -> Answer {
    Some(Ok(Evidence { seen, age: Duration::from_millis(600) }))
}

/// Nothing of the tablet is reached.
fn dead() -> Answer {
    fresh(saw(silent(), silent()))
}

/// Its tablet manager is gone, its MySQL works.
fn headless() -> Answer {
    fresh(saw(refused(), Probe::Answers))
}

fn no_answer() -> Answer {
    Some(Err("no answer within 1s".to_owned()))
}

/// The first elector asks.
fn ask(claim: Claim, electors: &[(&str, &str, Answer)]) -> Verdict {
    let voters: BTreeMap<String, String> = electors.iter().map(|(id, cell, _)| ((*id).to_owned(), (*cell).to_owned())).collect();
    let answers = electors.iter().filter_map(|(id, _, answer)| Some(((*id).to_owned(), answer.clone()?))).collect();
    let (me, my_cell, _) = &electors[0];
    tally(claim, &"z1-101".parse().unwrap(), (me, my_cell), &voters, &answers)
}

#[test]
fn two_others_in_other_cells_confirm_a_dead_tablet_manager() {
    let verdict = ask(Claim::ManagerDead, &[("a", "z1", headless()), ("b", "z2", headless()), ("c", "z3", headless())]);
    assert_eq!((verdict.holds(), verdict.outcome()), (true, "agreed"));
    let text = verdict.to_string();
    assert!(text.starts_with("3 of 3 electors agree that z1-0000000101 has lost its tablet manager; agree: a ("), "{text}");
}

#[test]
fn a_lone_elector_is_never_confirmed() {
    for claim in [Claim::ManagerDead, Claim::PrimaryUnseen] {
        let verdict = ask(claim, &[("a", "z1", dead())]);
        assert_eq!(verdict.refused, Some(Refused::TooFewElsewhere { missing: 2 }), "{verdict}");
        let two = ask(claim, &[("a", "z1", dead()), ("b", "z2", dead())]);
        assert_eq!(two.refused, Some(Refused::TooFewElsewhere { missing: 1 }), "{two}");
        assert!(two.to_string().contains("1 more in other cells than this one's"), "{two}");
    }
}

#[test]
fn electors_of_one_cell_are_not_enough_however_many() {
    let electors: Vec<(&str, &str, Answer)> = ["a", "b", "c", "d", "e"].map(|id| (id, "z1", dead())).into();
    assert_eq!(ask(Claim::PrimaryUnseen, &electors).refused, Some(Refused::TooFewElsewhere { missing: 2 }));
    let unnamed: Vec<(&str, &str, Answer)> = ["a", "b", "c"].map(|id| (id, "", dead())).into();
    assert_eq!(
        ask(Claim::PrimaryUnseen, &unnamed).refused,
        Some(Refused::TooFewElsewhere { missing: 2 }),
        "without a cell nobody is elsewhere"
    );
}

#[test]
fn dead_voters_count_in_the_number_that_must_agree() {
    let mut electors =
        vec![("a", "z1", dead()), ("b", "z2", dead()), ("c", "z3", dead()), ("d", "z4", no_answer()), ("e", "z5", None)];
    assert!(ask(Claim::PrimaryUnseen, &electors).holds(), "3 of 5");
    electors.push(("f", "z6", no_answer()));
    let verdict = ask(Claim::PrimaryUnseen, &electors);
    assert_eq!(verdict.refused, Some(Refused::NoMajority { missing: 1 }), "3 of 6 is half, and not more");
    let text = verdict.to_string();
    assert!(
        text.contains("3 of 6 electors agree, 1 more would have to") && text.contains("no word from: d (no answer"),
        "{text}"
    );
}

#[test]
fn whoever_reaches_the_tablet_manager_contradicts() {
    let frozen_for_us = [
        ("a", "z1", headless()),
        ("b", "z2", headless()),
        ("c", "z3", headless()),
        ("d", "z4", fresh(saw(Probe::Answers, Probe::Answers))),
    ];
    for claim in [Claim::ManagerDead, Claim::PrimaryUnseen] {
        let verdict = ask(claim, &frozen_for_us);
        assert_eq!(verdict.refused, Some(Refused::Contradicted));
        assert!(verdict.to_string().contains("contrary: ") && verdict.contradicted.contains_key("d"), "{verdict}");
    }
}

#[test]
fn an_old_sign_of_life_contradicts_and_old_silence_proves_nothing() {
    let old = |seen| Some(Ok(Evidence { seen, age: Duration::from_secs(2) }));
    let electors = |last: Answer| [("a", "z1", dead()), ("b", "z2", dead()), ("c", "z3", last)];
    let verdict = ask(Claim::PrimaryUnseen, &electors(old(saw(silent(), silent()))));
    assert_eq!(verdict.refused, Some(Refused::TooFewElsewhere { missing: 1 }), "{verdict}");
    assert!(verdict.silent["c"].contains("2s old"), "{verdict}");
    let verdict = ask(Claim::PrimaryUnseen, &electors(old(saw(Probe::Answers, silent()))));
    assert_eq!(verdict.refused, Some(Refused::Contradicted));
}

#[test]
fn a_primary_whose_mysql_somebody_reaches_is_not_unseen() {
    for mysql in [Probe::Answers, fails(FailureClass::TooManyConnections), fails(FailureClass::Answered)] {
        let verdict = ask(
            Claim::PrimaryUnseen,
            &[("a", "z1", dead()), ("b", "z2", dead()), ("c", "z3", dead()), ("d", "z4", fresh(saw(silent(), mysql)))],
        );
        assert_eq!(verdict.refused, Some(Refused::Contradicted), "{verdict}");
    }
}

#[test]
fn who_could_not_look_does_not_agree() {
    let blind = fresh(saw(silent(), Probe::CannotTell("no account".to_owned())));
    let verdict = ask(Claim::PrimaryUnseen, &[("a", "z1", dead()), ("b", "z2", dead()), ("c", "z3", blind.clone())]);
    assert_eq!(verdict.refused, Some(Refused::TooFewElsewhere { missing: 1 }));
    let verdict = ask(Claim::ManagerDead, &[("a", "z1", headless()), ("b", "z2", blind.clone()), ("c", "z3", blind)]);
    assert!(verdict.holds(), "its MySQL is not what is asked after: {verdict}");
    let tls = fresh(saw(fails(FailureClass::Answered), Probe::Answers));
    let verdict = ask(Claim::ManagerDead, &[("a", "z1", headless()), ("b", "z2", headless()), ("c", "z3", tls)]);
    assert_eq!(verdict.refused, Some(Refused::TooFewElsewhere { missing: 1 }), "something spoke there: {verdict}");
}

#[test]
fn the_asker_has_to_see_it_itself() {
    let electors = [("a", "z1", no_answer()), ("b", "z2", dead()), ("c", "z3", dead())];
    assert_eq!(ask(Claim::PrimaryUnseen, &electors).refused, Some(Refused::OwnEvidence));
}

#[test]
fn who_is_no_voter_does_not_count() {
    let voters = BTreeMap::from([("a".to_owned(), "z1".to_owned())]);
    let answers = ["a", "b", "c"].map(|id| (id.to_owned(), dead().unwrap())).into();
    let verdict = tally(Claim::PrimaryUnseen, &"z1-101".parse().unwrap(), ("a", "z1"), &voters, &answers);
    assert_eq!((verdict.voters, verdict.agreed.len(), verdict.holds()), (1, 1, false));
}

fn probe() -> impl Strategy<Value = Probe> {
    use FailureClass::*;
    prop_oneof![
        2 => Just(Probe::Answers),
        4 => prop::sample::select(vec![Refused, Closed, Silent, TooManyConnections, Answered]).prop_map(fails),
        1 => Just(Probe::CannotTell("x".to_owned())),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let evidence = (probe(), probe(), 0..3000_u64).prop_map(|(manager, mysql, age_ms)| {
        Some(Ok(Evidence { seen: saw(manager, mysql), age: Duration::from_millis(age_ms) }))
    });
    prop_oneof![6 => Just(dead()), 2 => evidence, 1 => Just(no_answer()), 1 => Just(None)]
}

fn electors() -> impl Strategy<Value = Vec<(String, String, Answer)>> {
    let cell = prop::sample::select(vec!["", "z1", "z2", "z3"]);
    prop::collection::vec((cell, answer()), 1..9).prop_map(|electors| {
        electors.into_iter().enumerate().map(|(n, (cell, answer))| (format!("e{n}"), cell.to_owned(), answer)).collect()
    })
}

fn asked(claim: Claim, electors: &[(String, String, Answer)]) -> Verdict {
    let electors: Vec<(&str, &str, Answer)> =
        electors.iter().map(|(id, cell, answer)| (id.as_str(), cell.as_str(), answer.clone())).collect();
    ask(claim, &electors)
}

proptest! {
    #[test]
    fn what_is_confirmed_was_seen_by_enough_and_denied_by_nobody(electors in electors(), headless in any::<bool>()) {
        let claim = if headless { Claim::ManagerDead } else { Claim::PrimaryUnseen };
        let verdict = asked(claim, &electors);
        if verdict.holds() {
            prop_assert!(electors.len() >= 3);
            prop_assert!(2 * verdict.agreed.len() > electors.len());
            let cell = |id: &String| electors.iter().find(|(other, ..)| other == id).unwrap().1.clone();
            let mine = &electors[0].1;
            prop_assert!(verdict.agreed.keys().filter(|id| !cell(id).is_empty() && cell(id) != *mine).count() >= 2);
            for (_, _, answer) in &electors {
                if let Some(Ok(Evidence { seen, age })) = answer {
                    prop_assert!(seen.manager != Probe::Answers);
                    prop_assert!(headless || seen.mysql != Probe::Answers);
                    prop_assert!(*age < Duration::from_secs(2) || verdict.agreed.len() < electors.len());
                }
            }
        }
        prop_assert_eq!(verdict.agreed.len() + verdict.contradicted.len() + verdict.silent.len(), electors.len());
    }

    #[test]
    fn silence_never_turns_a_refusal_into_agreement(mut electors in electors(), which in any::<prop::sample::Index>()) {
        let before = asked(Claim::PrimaryUnseen, &electors);
        let which = which.index(electors.len());
        let denied = matches!(&electors[which].2, Some(Ok(evidence)) if before.contradicted.contains_key(&electors[which].0) && evidence.age < Duration::MAX);
        electors[which].2 = no_answer();
        let after = asked(Claim::PrimaryUnseen, &electors);
        prop_assert!(before.holds() || !after.holds() || denied);
    }

    #[test]
    fn one_more_dead_voter_never_helps(electors in electors()) {
        let before = asked(Claim::PrimaryUnseen, &electors);
        let more: Vec<_> = electors.into_iter().chain([("dead".to_owned(), "z9".to_owned(), no_answer())]).collect();
        prop_assert!(before.holds() || !asked(Claim::PrimaryUnseen, &more).holds());
    }
}
