//! docs/runbook.md has an entry for everything that can wake a person.

use std::collections::{BTreeMap, BTreeSet};

use vtelector::diagnose::Code;

use super::{read, rules::alerts};

/// The entries, by heading.
fn entries() -> BTreeMap<String, String> {
    let text = read("docs/runbook.md");
    let mut parts = text.split("\n### ");
    parts.next();
    let mut entries = BTreeMap::new();
    for part in parts {
        let (name, body) = part.split_once('\n').unwrap();
        let body = body.split("\n## ").next().unwrap();
        assert!(entries.insert(name.to_owned(), body.to_owned()).is_none(), "{name} stands there twice");
    }
    entries
}

#[test]
fn every_alert_and_every_problem_has_an_entry_and_nothing_else_has() {
    let found: BTreeSet<String> = entries().into_keys().collect();
    let wanted: BTreeSet<String> = alerts().into_iter().chain(Code::ALL.iter().map(|code| code.name().to_owned())).collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    let strange: Vec<_> = found.difference(&wanted).collect();
    assert!(missing.is_empty() && strange.is_empty(), "missing {missing:?}, strange {strange:?}");
}

#[test]
fn every_entry_says_what_it_means_where_to_look_what_to_do_and_what_not() {
    for (name, body) in entries() {
        for part in ["- Means: ", "- Look: ", "- Do: ", "- Do not: "] {
            assert_eq!(body.matches(part).count(), 1, "{name}: {part}");
        }
    }
}
