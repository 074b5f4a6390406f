//! The cases, each with its tablets under several names, so that no order of listing decides; and what must hold of any evidence.

pub(crate) mod cases;
mod properties;

use std::collections::{BTreeMap, BTreeSet};

use cases::{Case, Expect};

use super::*;
use crate::topo::TabletAlias;

/// A name as `Debug` begins with it.
fn name(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// Names for the tablets that list them in another order: each cell's numbers, turned by so many places or backwards.
fn names(case: &Case, turn: usize) -> BTreeMap<TabletAlias, TabletAlias> {
    let mut cells: BTreeMap<&str, Vec<&TabletAlias>> = BTreeMap::new();
    for alias in case.tablets.keys() {
        cells.entry(&alias.cell).or_default().push(alias);
    }
    let turned = cells.into_values().flat_map(|olds| {
        let mut news = olds.clone();
        news.rotate_left(turn / 2 % olds.len());
        if turn % 2 == 1 {
            news.reverse();
        }
        olds.into_iter().cloned().zip(news.into_iter().cloned()).collect::<Vec<_>>()
    });
    turned.collect()
}

fn check(case: &Case) -> Vec<String> {
    let answer = case.elect();
    let mut bad: Vec<String> = case.expect.iter().filter_map(|expect| unmet(&answer, expect)).collect();
    let refusal_expected = case.expect.iter().any(|expect| matches!(expect, Expect::Refused(_)));
    if answer.is_err() && !refusal_expected && bad.is_empty() {
        bad.push("refused".to_owned());
    }
    if let Ok(chosen) = &answer {
        bad.extend(inconsistent(case, chosen));
    }
    if !bad.is_empty() {
        bad.push(match answer {
            Ok(chosen) => format!("got {chosen:#?}"),
            Err(refusal) => format!("got {}: {refusal}", name(&refusal)),
        });
    }
    bad
}

fn unmet(answer: &Result<Chosen, NoPromotion>, expect: &Expect) -> Option<String> {
    let met = match (answer, expect) {
        (Ok(chosen), Expect::Elect(several)) => several.iter().min() == Some(&chosen.elect),
        (Ok(chosen), Expect::Source(source)) => chosen.source == *source,
        (Ok(chosen), Expect::Equals(equals)) => {
            chosen.equals.first() == Some(&chosen.elect) && chosen.equals.iter().cloned().collect::<BTreeSet<_>>() == *equals
        }
        (Ok(chosen), Expect::Complete(position)) => chosen.proof.complete.position == *position,
        (Ok(chosen), Expect::Rejected(alias, _)) if chosen.elect == *alias => true,
        (Ok(chosen), Expect::Rejected(alias, reason)) => chosen.rejected.get(alias).map(name).as_ref() == Some(reason),
        (Ok(chosen), Expect::Errant(alias, set)) => chosen.errant.get(alias) == Some(set),
        (Ok(chosen), Expect::NoCaveat) => chosen.caveats.is_empty(),
        (Ok(chosen), Expect::Caveat(wanted, text)) => {
            chosen.caveats.iter().any(|caveat| name(caveat) == *wanted && (caveat.to_string() + " ").contains(text))
        }
        (Err(refusal), Expect::Refused(wanted)) => name(refusal) == *wanted,
        (Err(refusal), Expect::Says(text)) => refusal.to_string().contains(text),
        (Err(refusal), Expect::Code(code)) => name(&refusal.code()) == *code,
        (Err(refusal), Expect::Pending(aliases)) => refusal.pending() == Some(aliases),
        (Err(NoPromotion::NobodyFit { rejected, .. }), Expect::Rejected(alias, reason)) => {
            rejected.get(alias).map(name).as_ref() == Some(reason)
        }
        _ => false,
    };
    (!met).then(|| format!("expected {expect:?}"))
}

/// What every answer must be like.
fn inconsistent(case: &Case, chosen: &Chosen) -> Vec<String> {
    let mut bad = Vec::new();
    let mut accounted: BTreeSet<_> = chosen.rejected.keys().collect();
    if !accounted.insert(&chosen.elect) || accounted.len() != case.tablets.len() {
        bad.push("not every tablet is either the elect or rejected with a reason".to_owned());
    }
    if chosen.equals.first() != Some(&chosen.elect) {
        bad.push("the elect is not the first of its equals".to_owned());
    }
    let holder = &case.tablets[chosen.source.as_ref().unwrap_or(&chosen.elect)];
    if !holder.received.contains(&chosen.proof.complete.position) {
        bad.push("neither elect nor source holds what must be complete".to_owned());
    }
    bad
}

#[test]
fn every_case_in_every_order() {
    let (cases, mut failures) = (cases::all(), Vec::new());
    for case in &cases {
        for turn in 0..8 {
            let case = case.renamed(&names(case, turn));
            let bad = check(&case);
            if !bad.is_empty() {
                failures.push(format!("{} (order {turn}):\n  {}", case.title, bad.join("\n  ")));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Before anything is stopped, the same tablets promise the same outcome.
#[test]
fn a_forecast_foretells() {
    for case in cases::all() {
        let mut forecast = case.clone();
        for tablet in forecast.tablets.values_mut().filter(|tablet| matches!(tablet.reach, Reach::Stopped | Reach::Demoted)) {
            tablet.reach = Reach::Seen;
        }
        assert_eq!(forecast.elect(), case.elect(), "{}", case.title);
    }
}

#[test]
fn there_are_enough_cases_and_each_has_a_title_of_its_own() {
    let mut titles: Vec<String> = cases::all().into_iter().map(|case| case.title).collect();
    assert!(titles.len() >= 150, "{}", titles.len());
    titles.sort();
    assert!(titles.windows(2).all(|two| two[0] != two[1]), "{titles:?}");
}
