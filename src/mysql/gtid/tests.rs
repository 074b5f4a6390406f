//! Stories of texts that servers, Vitess and people write, and what becomes of them.

mod properties;

use super::*;

const U: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const V: &str = "aaaaaaaa-0000-0000-0000-000000000001";

/// Writes `U` and `V` out in full.
fn spelled(text: &str) -> String {
    text.replace('U', U).replace('V', V)
}

fn set(text: &str) -> GtidSet {
    spelled(text).parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn reads_as(text: &str, canonical: &str) {
    assert_eq!(set(text).to_string(), spelled(canonical), "{text:?}");
}

/// The refusal of `text`: item number, byte, offending part, fault. The byte counts with `U` written out.
fn refusal(text: &str) -> (usize, usize, String, GtidFault) {
    match spelled(text).parse::<GtidSet>() {
        Err(GtidError::Item { number, byte, part, fault, .. }) => (number, byte, part, fault),
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn nothing_but_space_and_commas_is_the_empty_set() {
    for text in ["", " ", "\n", ",", " ,\n, ", "\t\r\n\u{b}\u{c}"] {
        reads_as(text, "");
        assert!(set(text).is_empty());
    }
    assert_eq!(set(""), GtidSet::default());
}

#[test]
fn the_text_of_a_server_reads_as_it_prints_without_its_newlines() {
    reads_as("U:1-5:7", "U:1-5:7");
    reads_as("U:1-3,\nV:9", "U:1-3,V:9");
    reads_as("U:1-3:aaaa:1:abc:1-3", "U:1-3:aaaa:1:abc:1-3");
}

#[test]
fn spaces_around_any_part_and_empty_items_do_not_matter() {
    reads_as(" U : 1 - 5 : 7 , ,\nV:\tfoo :1 ,", "U:1-5:7,V:foo:1");
    reads_as("\u{b}U:1\n-\n5\r\n", "U:1-5");
}

#[test]
fn upper_case_is_read_and_lower_case_is_printed() {
    let upper = format!("{}:TAG:1-3", U.to_uppercase());
    reads_as(&upper, "U:tag:1-3");
}

#[test]
fn servers_are_printed_in_the_order_of_their_bytes() {
    reads_as("V:1,U:1", "U:1,V:1");
}

#[test]
fn a_server_named_twice_is_one_server() {
    reads_as("U:1,V:1,U:2", "U:1-2,V:1");
    reads_as("U:tag:1,U:2,U:TAG:2", "U:2:tag:1-2");
}

#[test]
fn intervals_are_sorted_and_those_that_touch_or_overlap_become_one() {
    reads_as("U:7:1", "U:1:7");
    reads_as("U:1-5:6-9", "U:1-9");
    reads_as("U:1-9:2-3:9-12", "U:1-12");
    assert_eq!(set("U:1-5:6-9").count(), 9);
    assert_eq!(set("U:1-5:3-9").count(), 9);
    assert_eq!(set("U:1-5:6-9"), set("U:1-9"));
}

#[test]
fn an_interval_that_ends_before_it_starts_holds_nothing() {
    reads_as("U:5-3", "");
    reads_as("U:5-0", "");
    reads_as("U:5-3:7,V:2", "U:7,V:2");
    reads_as("U:tag:5-3", "");
}

#[test]
fn an_item_may_end_in_a_colon_and_hold_nothing() {
    reads_as("U:", "");
    reads_as("U:1-5:", "U:1-5");
    reads_as("U:1: ,V:1", "U:1,V:1");
}

#[test]
fn leading_zeros_do_not_change_a_number() {
    reads_as("U:000001-0005", "U:1-5");
    reads_as(&format!("U:{}7", "0".repeat(1000)), "U:7");
}

#[test]
fn the_highest_sequence_number_is_held_and_the_next_one_refused() {
    let highest = set("U:1-9223372036854775807");
    assert_eq!(highest.count(), (1 << 63) - 1);
    assert_eq!(set("U:1-9223372036854775806:9223372036854775807"), highest);
    assert_eq!(highest.subtract(&set("U:9223372036854775807")), set("U:1-9223372036854775806"));
    assert_eq!(highest.union(&set("V:1-9223372036854775807")).count(), 2 * ((1 << 63) - 1));
    for (text, part) in [
        ("U:9223372036854775808", "9223372036854775808"),
        ("U:1-9223372036854775808", "1-9223372036854775808"),
        ("U:18446744073709551617", "18446744073709551617"),
        ("U:99999999999999999999999999-1", "99999999999999999999999999-1"),
    ] {
        assert_eq!(refusal(text), (1, 37, part.to_owned(), GtidFault::TooLarge));
    }
}

#[test]
fn tags_are_printed_after_the_untagged_part_in_the_order_of_their_bytes() {
    reads_as("U:a_:1:a:1:ab:1:_:1:a0:1", "U:_:1:a:1:a0:1:a_:1:ab:1");
    reads_as("U:1:b:1:aaaa:2:b:3", "U:1:aaaa:2:b:1:3");
}

#[test]
fn a_tag_holds_for_the_intervals_after_it_until_another_tag_or_server() {
    reads_as("U:1:foo:2-3:5:bar:4,U:9", "U:1:9:bar:4:foo:2-3:5");
    reads_as("U:foo:bar:1", "U:bar:1");
    reads_as("U:foo", "");
    let longest = "a".repeat(32);
    reads_as(&format!("U:{longest}:1"), &format!("U:{longest}:1"));
}

#[test]
fn each_fault_names_the_part_and_where_it_is() {
    use GtidFault::*;
    for (text, number, byte, part, fault) in [
        ("U", 1, 0, U, NoColon),
        ("U:1, V ,", 2, 40, V, NoColon),
        ("hello", 1, 0, "hello", BadUuid),
        (":1", 1, 0, "", BadUuid),
        ("U1:1", 1, 0, "U1", BadUuid),
        ("3e11fa4771ca11e19e33c80aa9429562:1", 1, 0, "3e11fa4771ca11e19e33c80aa9429562", BadUuid),
        ("{U}:1", 1, 0, "{U}", BadUuid),
        ("3e11fa47-71ca-11e1-9e33-c80aa942956g:1", 1, 0, "3e11fa47-71ca-11e1-9e33-c80aa942956g", BadUuid),
        ("3e11fa47 -71ca-11e1-9e33-c80aa942956:1", 1, 0, "3e11fa47 -71ca-11e1-9e33-c80aa942956", BadUuid),
        ("U:1::3", 1, 39, "", EmptyPart),
        ("U::1", 1, 37, "", EmptyPart),
        ("U:tag: :1", 1, 41, " ", EmptyPart),
        ("U:0", 1, 37, "0", ZeroStart),
        ("U:1,V:0-3", 2, 76, "0-3", ZeroStart),
        ("U:-3", 1, 37, "-3", BadPart),
        ("U:3-", 1, 37, "3-", BadPart),
        ("U:+1", 1, 37, "+1", BadPart),
        ("U:1.5", 1, 37, "1.5", BadPart),
        ("U:1-5-7", 1, 37, "1-5-7", BadPart),
        ("U:1 2", 1, 37, "1 2", BadPart),
        ("U:9x:1", 1, 37, "9x", BadPart),
        ("U:a-b:1", 1, 37, "a-b", BadPart),
        ("U:ta g:1", 1, 37, "ta g", BadPart),
        ("U:été:1", 1, 37, "été", BadPart),
        ("U:1\0", 1, 37, "1\0", BadPart),
        ("U:1:2,3", 2, 41, "3", BadUuid),
        ("U:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:1", 1, 37, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", BadPart),
    ] {
        assert_eq!(refusal(text), (number, byte, spelled(part), fault), "{text:?}");
    }
}

#[test]
fn an_error_tells_a_person_what_and_where() {
    let error = spelled("U:1-3,V:x-y").parse::<GtidSet>().unwrap_err();
    assert_eq!(
        error.to_string(),
        spelled(
            "GTID set: \"x-y\" at byte 78, in item 2 (\"V:x-y\"), is neither a sequence number, nor FIRST-LAST, \
             nor a tag of up to 32 letters, digits and underscores"
        )
    );
}

#[test]
fn an_error_stays_short_however_long_the_text() {
    let error = format!("{U}:{}", "é".repeat(1_000_000)).parse::<GtidSet>().unwrap_err();
    assert!(error.to_string().len() < 600, "{error}");
    let error = "x".repeat(1_000_000).parse::<ServerUuid>().unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn a_replica_that_lags_is_contained_and_diverged_servers_are_not() {
    let (primary, lagging, errant) = (set("U:1-100"), set("U:1-90"), set("U:1-90,V:1"));
    assert!(primary.contains(&lagging) && !lagging.contains(&primary));
    assert!(!primary.contains(&errant) && !errant.contains(&primary));
    assert!(primary.contains(&primary) && primary.contains(&set("")) && set("").contains(&set("")));
    assert!(!set("").contains(&lagging));
}

#[test]
fn the_errant_transactions_are_what_is_left_without_the_source_and_what_it_has() {
    let source: ServerUuid = U.parse().unwrap();
    let replica = set("U:1-105:foo:1,V:1-3");
    assert_eq!(replica.without_server(source).subtract(&set("U:1-100,V:1-2")), set("V:3"));
    assert_eq!(replica.of_server(source), set("U:1-105:foo:1"));
}

#[test]
fn a_tag_is_a_sequence_of_its_own() {
    assert!(!set("U:1-5").contains(&set("U:foo:1")));
    assert_eq!(set("U:1-5:foo:1-5").subtract(&set("U:1-5")), set("U:foo:1-5"));
    assert!(set("U:1-5").intersect(&set("U:foo:1-5")).is_empty());
    assert_eq!(set("U:1-5").union(&set("U:foo:6")).count(), 6);
}

#[test]
fn the_last_sequence_is_that_of_the_untagged_transactions() {
    let (u, v): (ServerUuid, ServerUuid) = (U.parse().unwrap(), V.parse().unwrap());
    let set = set("U:1-5:9:foo:20");
    assert_eq!(set.last_sequence(u), Some(9));
    assert_eq!(set.last_sequence(v), None);
}

#[test]
fn a_server_uuid_reads_either_case_and_nothing_around_it() {
    let uuid: ServerUuid = U.to_uppercase().parse().unwrap();
    assert_eq!(uuid.to_string(), U);
    assert_eq!(ServerUuid::from_bytes(*uuid.as_bytes()), uuid);
    for text in
        ["", " ", "x", &format!(" {U}"), &format!("{U}\n"), &U.replace('-', ""), &U.replace('-', "_"), "é".repeat(18).as_str()]
    {
        assert_eq!(text.parse::<ServerUuid>(), Err(GtidError::Uuid { text: text.to_owned() }));
    }
}
