//! Every operation against the plainest thing that could be right: a `BTreeSet` of single transactions.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::mysql::gtid::interval::MAX_SEQUENCE;
use crate::mysql::gtid::{GtidError, GtidSet, ServerUuid};
use crate::mysql::position::Position;

/// One transaction: server, tag (empty for none), sequence number.
type Transaction = (ServerUuid, &'static str, u64);
type Model = BTreeSet<Transaction>;

const TAGS: [&str; 4] = ["", "a", "a_b9", "zz"];

/// A sloppy text, and what it means.
#[derive(Debug, Clone)]
struct Sample {
    text: String,
    model: Model,
}

/// One interval as somebody might write it: under the current tag or a new one, near either end of the numbers, perhaps backwards.
#[derive(Debug, Clone)]
struct Part {
    new_tag: Option<usize>,
    first: u64,
    last: u64,
}

fn server(n: u8) -> ServerUuid {
    // The letters give the case of the text something to play with.
    ServerUuid::from_bytes([0xab, n, 0xcd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xef])
}

fn part() -> impl Strategy<Value = Part> {
    let start = prop_oneof![9 => 1..40u64, 1 => MAX_SEQUENCE - 20..=MAX_SEQUENCE];
    (prop::option::weighted(0.3, 1..TAGS.len()), start, 0..8u64).prop_map(|(new_tag, first, reach)| Part {
        new_tag,
        first,
        last: (first + reach).saturating_sub(2).min(MAX_SEQUENCE),
    })
}

fn item() -> impl Strategy<Value = Sample> {
    let space = prop::sample::select(vec!["", "", "", " ", "\n", "\t "]);
    (0..4u8, any::<bool>(), space, prop::collection::vec(part(), 0..6)).prop_map(|(n, upper, space, parts)| {
        let server = server(n);
        let mut tag = "";
        let mut model = Model::new();
        let mut text = format!("{space}{server}{space}:");
        for part in parts {
            if let Some(new_tag) = part.new_tag {
                tag = TAGS[new_tag];
                text += &format!("{space}{tag}{space}:");
            }
            let Part { first, last, .. } = part;
            text += &if first == last { format!("{first}{space}:") } else { format!("{first}{space}-{space}{last}:") };
            model.extend((first..=last).map(|sequence| (server, tag, sequence)));
        }
        Sample { text: if upper { text.to_uppercase() } else { text }, model }
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    let comma = prop::sample::select(vec![",", ", ", ",\n", " ,, "]);
    (comma, prop::collection::vec(item(), 0..8)).prop_map(|(comma, items)| Sample {
        text: items.iter().map(|item| item.text.as_str()).collect::<Vec<_>>().join(comma),
        model: items.into_iter().flat_map(|item| item.model).collect(),
    })
}

/// The canonical text, one transaction after the other.
fn print(model: &Model) -> String {
    let mut text = String::new();
    let mut before: Option<Transaction> = None;
    let mut transactions = model.iter().copied().peekable();
    while let Some((server, tag, first)) = transactions.next() {
        let mut last = first;
        while transactions.next_if_eq(&(server, tag, last + 1)).is_some() {
            last += 1;
        }
        match before {
            Some((same, _, _)) if same == server => {}
            Some(_) => text += &format!(",{server}"),
            None => text += &server.to_string(),
        }
        if !tag.is_empty() && before.is_none_or(|(s, t, _)| (s, t) != (server, tag)) {
            text += &format!(":{tag}");
        }
        text += &if first == last { format!(":{first}") } else { format!(":{first}-{last}") };
        before = Some((server, tag, last));
    }
    text
}

fn parse(sample: &Sample) -> GtidSet {
    sample.text.parse().unwrap_or_else(|error| panic!("{:?}: {error}", sample.text))
}

proptest! {
    #[test]
    fn a_sloppy_text_reads_as_its_transactions(a in sample()) {
        let set = parse(&a);
        prop_assert_eq!(set.to_string(), print(&a.model));
        prop_assert_eq!(set.is_empty(), a.model.is_empty());
        prop_assert_eq!(set.count(), a.model.len() as u128);
    }

    #[test]
    fn what_is_printed_reads_back_equal(a in sample()) {
        let set = parse(&a);
        prop_assert_eq!(&set.to_string().parse::<GtidSet>().unwrap(), &set);
        let position = Position::Gtid(set);
        prop_assert_eq!(Position::decode(&position.encode()).unwrap(), position);
    }

    #[test]
    fn two_sets_combine_like_their_transactions(a in sample(), b in sample()) {
        let (x, y) = (parse(&a), parse(&b));
        prop_assert_eq!(x.union(&y).to_string(), print(&(&a.model | &b.model)));
        prop_assert_eq!(x.subtract(&y).to_string(), print(&(&a.model - &b.model)));
        prop_assert_eq!(x.intersect(&y).to_string(), print(&(&a.model & &b.model)));
        prop_assert_eq!(x.contains(&y), a.model.is_superset(&b.model));
        prop_assert_eq!(x == y, a.model == b.model);
    }

    #[test]
    fn a_set_contains_what_was_taken_from_it(a in sample(), b in sample()) {
        // Random sets rarely contain each other, so here they are made to.
        let (x, y) = (parse(&a), parse(&b));
        prop_assert!(x.contains(&x.intersect(&y)) && x.union(&y).contains(&x) && x.contains(&x.subtract(&y)));
        prop_assert_eq!(x.intersect(&y).contains(&x), a.model.is_subset(&b.model));
        prop_assert_eq!(x.subtract(&y).union(&x.intersect(&y)), x);
    }

    #[test]
    fn one_server_is_split_off_with_all_its_tags(a in sample(), n in 0..4u8) {
        let set = parse(&a);
        let server = server(n);
        let (own, others): (Model, Model) = a.model.iter().partition(|(uuid, _, _)| *uuid == server);
        prop_assert_eq!(set.of_server(server).to_string(), print(&own));
        prop_assert_eq!(set.without_server(server).to_string(), print(&others));
        let last = own.iter().filter(|(_, tag, _)| tag.is_empty()).map(|(_, _, sequence)| *sequence).max();
        prop_assert_eq!(set.last_sequence(server), last);
    }

    #[test]
    fn a_damaged_text_is_read_or_refused_where_it_is_damaged(
        a in sample(), at in any::<prop::sample::Index>(), junk in "[0-9a-zA-Z:,\\- \\n_{é\\x00\\x0b]{0,3}", cut in 0..3usize,
    ) {
        let mut characters: Vec<char> = a.text.chars().collect();
        let at = at.index(characters.len() + 1);
        let end = (at + cut).min(characters.len());
        characters.splice(at..end, junk.chars());
        reads_or_refuses(&characters.into_iter().collect::<String>())?;
    }

    #[test]
    fn garbage_is_read_or_refused(text in prop_oneof!["\\PC*", "(?s).*", "[0-9a-fA-FMySQLilePos/:,\\- \\n_]{0,120}"]) {
        reads_or_refuses(&text)?;
    }
}

/// No panic; what is read is canonical; what is refused is pointed at.
fn reads_or_refuses(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<GtidSet>() {
        Ok(set) => prop_assert_eq!(set.to_string().parse::<GtidSet>(), Ok(set)),
        Err(error) => {
            prop_assert!(error.to_string().len() < 2000);
            let GtidError::Item { number, byte, item, part, .. } = error else { panic!("{error}") };
            let (item, part) = (item.trim_end_matches('…'), part.trim_end_matches('…'));
            prop_assert!(text[byte..].starts_with(part), "{:?} at {}", part, byte);
            prop_assert!(text.split(',').nth(number - 1).is_some_and(|place| place.contains(item)));
        }
    }
    if let Ok(uuid) = text.parse::<ServerUuid>() {
        prop_assert_eq!(uuid.to_string(), text.to_lowercase());
    }
    for text in [text.to_owned(), format!("MySQL56/{text}"), format!("MariaDB/{text}"), format!("FilePos/{text}")] {
        if let Ok(position) = Position::decode(&text) {
            prop_assert_eq!(Position::decode(&position.encode()), Ok(position.clone()));
            prop_assert!(position.at_least(&position) && position.contains(&position));
        }
    }
    Ok(())
}
