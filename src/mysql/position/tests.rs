//! Positions as tablets report them, and who may stand in for whom.

use super::*;

const U: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

fn position(text: &str) -> Position {
    Position::decode(&text.replace('U', U)).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn refusal(text: &str) -> String {
    Position::decode(text).expect_err(text).to_string()
}

#[test]
fn no_text_is_no_position_and_a_bare_flavor_is_a_known_empty_set() {
    assert_eq!(position(""), Position::None);
    assert_eq!(position("MySQL56/"), Position::Gtid(GtidSet::default()));
    assert_ne!(position(""), position("MySQL56/"));
    assert!(position("").is_zero() && position("MySQL56/").is_zero());
    assert_eq!(Position::None.encode(), "");
    assert_eq!(Position::Gtid(GtidSet::default()).encode(), "MySQL56/");
}

#[test]
fn every_flavor_is_written_back_as_it_was_read() {
    for text in ["MySQL56/U:1-5:foo:2", "MariaDB/0-1-5,1-2-7", "MariaDB/", "FilePos/vt-0000000100-bin.000001:154", "FilePos/:0"] {
        assert_eq!(position(text).encode(), text.replace('U', U));
    }
    assert_eq!(position("MySQL56/U:3:1-2,").encode(), format!("MySQL56/{U}:1-3"));
}

#[test]
fn only_a_mysql_position_has_a_gtid_set() {
    assert_eq!(position("MySQL56/U:1").gtid().map(GtidSet::count), Some(1));
    assert_eq!(position("").gtid(), None);
    assert_eq!(position("MariaDB/0-1-5").gtid(), None);
}

#[test]
fn a_text_that_is_no_position_is_refused_with_the_remedy() {
    assert_eq!(
        refusal("not-a-position"),
        "position \"not-a-position\" names no flavor: give FLAVOR/VALUE, for MySQL `MySQL56/` and a GTID set"
    );
    assert_eq!(refusal("Oracle/1"), "position flavor \"Oracle\" is unknown: it is one of MySQL56, MariaDB, FilePos");
    assert_eq!(refusal("mysql56/"), "position flavor \"mysql56\" is unknown: it is one of MySQL56, MariaDB, FilePos");
    assert_eq!(
        refusal(&format!("{U}:1-5")),
        format!("position \"{U}:1-5\" names no flavor: give FLAVOR/VALUE, for MySQL `MySQL56/` and a GTID set")
    );
    assert!(refusal("MySQL56/nonsense").contains("\"nonsense\" at byte 0, in item 1"));
    for value in
        ["", "bin.000001", "bin.000001:", "bin.000001:x", "bin.000001:+1", "bin.000001:-1", "bin:1:2", "bin:99999999999999999999"]
    {
        assert_eq!(refusal(&format!("FilePos/{value}")), format!("FilePos position {value:?} is malformed: give FILE:POSITION"));
    }
    for value in ["0", "0-1", "0-1-2-3", "0-1-x", "4294967296-1-1", "0-4294967296-1", "0--1", "0-1-99999999999999999999"] {
        assert_eq!(
            refusal(&format!("MariaDB/{value}")),
            format!("MariaDB position {value:?} is malformed: give DOMAIN-SERVER-SEQUENCE, several with commas")
        );
    }
}

#[test]
fn everyone_is_at_least_no_position_and_no_position_is_at_least_nothing_else() {
    for text in ["", "MySQL56/", "MySQL56/U:1", "MariaDB/0-1-5", "FilePos/bin.1:4"] {
        assert!(position(text).at_least(&Position::None), "{text}");
        assert_eq!(Position::None.at_least(&position(text)), text.is_empty(), "{text}");
    }
}

#[test]
fn no_position_lacks_nothing_of_an_empty_one() {
    assert!(Position::None.contains(&Position::None));
    assert!(Position::None.contains(&position("MySQL56/")));
    assert!(!Position::None.contains(&position("MySQL56/U:1")));
    assert!(position("MySQL56/").contains(&Position::None));
}

#[test]
fn sets_are_compared_by_what_they_hold() {
    let (ahead, behind) = (position("MySQL56/U:1-9"), position("MySQL56/U:1-5"));
    assert!(ahead.at_least(&behind) && ahead.contains(&behind));
    assert!(!behind.at_least(&ahead) && !behind.contains(&ahead));
    assert!(behind.at_least(&position("MySQL56/")));
}

#[test]
fn flavors_never_contain_each_other() {
    let texts = ["MySQL56/", "MySQL56/U:1", "MariaDB/0-1-5", "FilePos/bin.000001:4"];
    for (i, a) in texts.iter().enumerate().skip(1) {
        for b in texts.iter().skip(i + 1) {
            assert!(!position(a).contains(&position(b)) && !position(b).contains(&position(a)), "{a} {b}");
        }
    }
}

#[test]
fn mariadb_compares_each_domain_whoever_wrote_it() {
    let (ours, theirs) = (position("MariaDB/0-1-5"), position("MariaDB/0-2-5"));
    assert!(ours.contains(&theirs) && theirs.contains(&ours) && ours != theirs);
    assert!(position("MariaDB/0-1-6,1-1-1").contains(&ours));
    assert!(!ours.contains(&position("MariaDB/0-1-5,1-1-1")));
    assert!(!ours.contains(&position("MariaDB/0-1-6")));
    assert!(position("MariaDB/").is_zero() && !ours.is_zero());
}

#[test]
fn files_compare_by_name_as_text_and_then_by_position() {
    assert!(position("FilePos/bin.000002:4").contains(&position("FilePos/bin.000001:900")));
    assert!(position("FilePos/bin.000001:900").contains(&position("FilePos/bin.000001:90")));
    assert!(!position("FilePos/bin.000001:90").contains(&position("FilePos/bin.000001:900")));
    assert!(position("FilePos/bin.000001:90").contains(&position("FilePos/bin.000001:90")));
    // As text, 9 comes after 10: so it is in Vitess, and servers pad the number for that reason.
    assert!(position("FilePos/bin.9:4").contains(&position("FilePos/bin.10:4")));
    assert!(position("FilePos/:0").is_zero() && !position("FilePos/bin.000001:4").is_zero());
}
