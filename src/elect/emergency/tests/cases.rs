//! Cases as data: one story a block, in files beside this one. The election runs them here; the operation may run them on scripted tablets.
//!
//! ```text
//! == E-005 equal received sets: whoever has executed more
//! policy semi_sync                      # or: policy semi_sync acks:2,cells:2 enforced
//! shard z1-100                          # the recorded primary; "new" where there never was one, "deleted" where its record is gone
//! z1-100 PRIMARY down                   # a tablet per line, see `Case::tablet`
//! z1-101 A:1-100 exec=A:1-40 src=A
//! z1-102 A:1-100 exec=A:1-99 src=A
//! wish named=z1-102                     # see `Case::wish`; without this line a person's call that wishes for nothing
//! seen A:1-101 binding                  # what was seen of the old primary
//! unlisted z3                           # a cell whose tablets cannot be listed
//! -> elect z1-102                       # "z1-101 = z1-102": equally good, the lower alias wins
//! -> rejected z1-101 Outranked
//! ```
//!
//! Letters stand for servers. What is not expected is free, except that a refusal must be expected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::super::*;
use crate::{
    durability::{Enforced, Extra, PROMOTION_RULE_TAG, Policy, policy, with_extra},
    mysql::{GtidSet, Position, ServerUuid},
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// The files.
pub(crate) const FILES: [(&str, &str); 5] = [
    ("vitess", include_str!("cases/vitess.txt")),
    ("revoked", include_str!("cases/revoked.txt")),
    ("histories", include_str!("cases/histories.txt")),
    ("choice", include_str!("cases/choice.txt")),
    ("strict", include_str!("cases/strict.txt")),
];

/// What a case expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// One of these, by alias the lowest.
    Elect(Vec<TabletAlias>),
    /// The source; `None` when the elect needs none.
    Source(Option<TabletAlias>),
    /// The equals in any order.
    Equals(BTreeSet<TabletAlias>),
    /// What must be complete.
    Complete(Position),
    /// A tablet's reason, by name.
    Rejected(TabletAlias, String),
    /// A tablet's errant transactions.
    Errant(TabletAlias, GtidSet),
    /// A caveat, by name, and what its text must hold.
    Caveat(String, String),
    /// No caveat at all.
    NoCaveat,
    /// The refusal, by name.
    Refused(String),
    /// What the refusal must say; an alias in braces is a tablet's.
    Says(String),
    /// The refusal's gRPC code.
    Code(String),
    /// Tablets that are to apply first.
    Pending(BTreeSet<TabletAlias>),
}

/// One story.
#[derive(Clone)]
pub(crate) struct Case {
    pub title: String,
    pub policy_name: String,
    /// What our settings add to that policy.
    pub extra: Extra,
    pub policy: Arc<dyn Policy>,
    pub primary: Option<TabletAlias>,
    pub had_primary: bool,
    pub tablets: BTreeMap<TabletAlias, Testimony>,
    pub unlisted: BTreeMap<String, String>,
    pub seen: Option<SeenPrimary>,
    pub wish: EmergencyWish,
    pub expect: Vec<Expect>,
}

/// Every case of every file.
pub(crate) fn all() -> Vec<Case> {
    let blocks = FILES.iter().flat_map(|(file, text)| text.split("\n== ").skip(1).map(move |block| (file, block)));
    blocks.map(|(file, block)| Case::parse(file, block)).collect()
}

/// `A` stands for the server whose UUID is made of that letter.
pub(crate) fn server(letter: &str) -> ServerUuid {
    let low = letter.to_lowercase();
    assert!(letter.len() == 1 && ("a"..="f").contains(&low.as_str()), "{letter:?} is no letter from A to F");
    format!("{}-0000-4000-8000-00000000000{low}", low.repeat(8)).parse().unwrap()
}

/// `A:1-10,B:3` as a set.
pub(crate) fn gtids(text: &str) -> GtidSet {
    let items = text.split(',').filter(|item| !item.is_empty()).map(|item| {
        let (letter, rest) = item.split_once(':').unwrap_or_else(|| panic!("{item:?} is no GTID"));
        format!("{}:{rest}", server(letter))
    });
    items.collect::<Vec<_>>().join(",").parse().unwrap()
}

/// `A:1-10,B:3`; `blank` is a known empty set, `unknown` no position; `file:120` and `maria:0-1-5` are other flavors.
pub(crate) fn position(text: &str) -> Position {
    match text.split_once(':') {
        None if text == "blank" => Position::Gtid(GtidSet::default()),
        None if text == "unknown" => Position::None,
        Some(("file", offset)) => Position::decode(&format!("FilePos/binlog.000001:{offset}")).unwrap(),
        Some(("maria", domains)) => Position::decode(&format!("MariaDB/{domains}")).unwrap(),
        _ => Position::Gtid(gtids(text)),
    }
}

fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn aliases<B: FromIterator<TabletAlias>>(text: &str) -> B {
    text.split_whitespace().filter(|word| *word != "=").map(alias).collect()
}

impl Case {
    fn parse(file: &str, block: &str) -> Self {
        let mut lines =
            block.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty());
        let mut case = Case {
            title: format!("{file}: {}", lines.next().unwrap()),
            policy_name: "none".to_owned(),
            extra: Extra::default(),
            policy: strict("none", Extra::default(), Enforced::No),
            primary: None,
            had_primary: false,
            tablets: BTreeMap::new(),
            unlisted: BTreeMap::new(),
            seen: None,
            wish: EmergencyWish { allow_unfenced: true, ..EmergencyWish::default() },
            expect: Vec::new(),
        };
        for line in lines {
            case.line(line);
        }
        assert!(!case.tablets.is_empty() && !case.expect.is_empty(), "{}: no tablets or nothing expected", case.title);
        case
    }

    fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{}: cannot read {line:?}", self.title));
        let rest = rest.trim();
        match word {
            "policy" => self.policy(rest),
            "shard" => {
                self.had_primary = rest != "new";
                self.primary = (!matches!(rest, "new" | "deleted")).then(|| alias(rest));
            }
            "seen" => {
                let (at, binding) = rest.split_once(' ').map_or((rest, false), |(at, word)| (at, word == "binding"));
                self.seen = Some(SeenPrimary { position: position(at), binding });
            }
            "unlisted" => {
                self.unlisted.insert(rest.to_owned(), "its etcd does not answer".to_owned());
            }
            "wish" => rest.split_whitespace().for_each(|word| self.wish(word)),
            "->" => self.expect(rest),
            _ => {
                self.tablets.insert(alias(word), tablet(rest));
            }
        }
    }

    fn policy(&mut self, text: &str) {
        let mut words = text.split_whitespace();
        self.policy_name = words.next().unwrap().to_owned();
        self.extra = words.next().map_or(Extra::default(), |extra| extra.parse().unwrap());
        let enforced = if words.next() == Some("enforced") { Enforced::Yes } else { Enforced::No };
        self.policy = strict(&self.policy_name, self.extra, enforced);
    }

    fn wish(&mut self, word: &str) {
        let wish = &mut self.wish;
        match word.split_once('=').unwrap_or((word, "")) {
            ("named", name) => wish.named = Some(alias(name)),
            ("ignore", name) => drop(wish.ignored.insert(alias(name))),
            ("accept_loss", set) => wish.accept_loss = Some(gtids(set)),
            ("prevent_cross_cell", _) => wish.prevent_cross_cell = true,
            ("choose_side", _) => wish.choose_side = true,
            ("allow_not_established", _) => wish.allow_not_established = true,
            ("fenced_only", _) => wish.allow_unfenced = false,
            _ => panic!("no such wish: {word:?}"),
        }
    }

    fn expect(&mut self, line: &str) {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let two = || rest.split_once(' ').unwrap_or((rest, ""));
        self.expect.push(match what {
            "elect" => Expect::Elect(aliases(rest)),
            "source" => Expect::Source((rest != "none").then(|| alias(rest))),
            "equals" => Expect::Equals(aliases(rest)),
            "complete" => Expect::Complete(position(rest)),
            "rejected" => Expect::Rejected(alias(two().0), two().1.to_owned()),
            "errant" => Expect::Errant(alias(two().0), gtids(two().1)),
            "caveat" if rest == "none" => Expect::NoCaveat,
            "caveat" => Expect::Caveat(two().0.to_owned(), two().1.to_owned()),
            "refused" => Expect::Refused(rest.to_owned()),
            "says" => Expect::Says(rest.to_owned()),
            "code" => Expect::Code(rest.to_owned()),
            "pending" => Expect::Pending(aliases(rest)),
            _ => panic!("no such expectation: {line:?}"),
        });
    }

    /// The same case with other names for its tablets.
    pub(crate) fn renamed(&self, names: &BTreeMap<TabletAlias, TabletAlias>) -> Self {
        let new = |old: &TabletAlias| names.get(old).cloned().unwrap_or_else(|| old.clone());
        let mut case = self.clone();
        case.primary = self.primary.as_ref().map(new);
        case.tablets = self.tablets.iter().map(|(alias, tablet)| (new(alias), tablet.clone())).collect();
        case.wish.named = self.wish.named.as_ref().map(new);
        case.wish.ignored = self.wish.ignored.iter().map(new).collect();
        for expect in &mut case.expect {
            match expect {
                Expect::Elect(several) => several.iter_mut().for_each(|alias| *alias = new(alias)),
                Expect::Source(Some(alias)) | Expect::Rejected(alias, _) | Expect::Errant(alias, _) => *alias = new(alias),
                Expect::Equals(set) | Expect::Pending(set) => *set = set.iter().map(new).collect(),
                Expect::Says(text) | Expect::Caveat(_, text) => {
                    let filled = text.split('{').map(|part| match part.split_once('}') {
                        Some((name, rest)) => format!("{}{rest}", new(&alias(name))),
                        None => part.to_owned(),
                    });
                    *text = filled.collect();
                }
                _ => {}
            }
        }
        case
    }

    /// The same case where nobody has read how many acknowledgements the primary waited for.
    pub(crate) fn unread(&self) -> Self {
        Case { policy: strict(&self.policy_name, self.extra, Enforced::No), ..self.clone() }
    }

    /// What the election says of it.
    pub(crate) fn elect(&self) -> Result<Chosen, NoPromotion> {
        let shard: ShardId = "commerce/0".parse().unwrap();
        let evidence = EmergencyEvidence {
            shard: &shard,
            policy: &*self.policy,
            primary: self.primary.as_ref(),
            had_primary: self.had_primary,
            tablets: &self.tablets,
            unlisted_cells: &self.unlisted,
            seen: self.seen.as_ref(),
        };
        elect_emergency(&evidence, &self.wish)
    }
}

fn strict(name: &str, extra: Extra, enforced: Enforced) -> Arc<dyn Policy> {
    with_extra(policy(name).unwrap(), extra, BTreeMap::new(), enforced).unwrap()
}

/// A tablet: a type (REPLICA), how it was reached (a replica is `stopped`, a `nonrepl` server `demoted`; or `down`, `fenced`, `seen`), a
/// position, and what else there is to say. Where it does not say so, it has executed what it received, and its journal has one row.
fn tablet(words: &str) -> Testimony {
    let mut tablet = Testimony {
        tablet_type: TabletType::Replica,
        tags: BTreeMap::new(),
        reach: Reach::Stopped,
        is_replica: true,
        received: Position::None,
        executed: Position::None,
        source_uuid: None,
        server_uuid: None,
        journal_rows: Ok(1),
        was_replicating: true,
        sql_running: true,
        sql_delay: Duration::ZERO,
        backup_running: false,
        mysql: None,
        buffer_pool_pages: 0,
        apply_failed: None,
        follow_failed: None,
        unfit: None,
    };
    for word in words.split_whitespace() {
        describe(&mut tablet, word);
    }
    tablet
}

fn describe(tablet: &mut Testimony, word: &str) {
    match word.split_once('=').unwrap_or((word, "")) {
        ("down", _) => {
            *tablet =
                Testimony { reach: Reach::Unreached("no answer".into()), journal_rows: Err("no answer".into()), ..tablet.clone() }
        }
        ("fenced", _) => {
            (tablet.reach, tablet.is_replica) = (Reach::Fenced, false);
            (tablet.received, tablet.executed) = (Position::None, Position::None);
        }
        ("seen", _) => tablet.reach = Reach::Seen,
        ("nonrepl", _) => (tablet.reach, tablet.is_replica, tablet.was_replicating) = (Reach::Demoted, false, false),
        ("exec", at) => tablet.executed = position(at),
        ("src", letter) => tablet.source_uuid = Some(server(letter)),
        ("uuid", letter) => tablet.server_uuid = Some(server(letter)),
        ("journal", "unreadable") => tablet.journal_rows = Err("Table '_vt.reparent_journal' doesn't exist".to_owned()),
        ("journal", rows) => tablet.journal_rows = Ok(rows.parse().unwrap()),
        ("idle", _) => (tablet.was_replicating, tablet.sql_running) = (false, false),
        ("sql_stopped", _) => tablet.sql_running = false,
        ("delay", seconds) => tablet.sql_delay = Duration::from_secs(seconds.parse().unwrap()),
        ("backup", _) => tablet.backup_running = true,
        ("rule", rule) => drop(tablet.tags.insert(PROMOTION_RULE_TAG.to_owned(), rule.to_owned())),
        ("pool", pages) => tablet.buffer_pool_pages = pages.parse().unwrap(),
        ("apply_failed", _) => tablet.apply_failed = Some("Error 1062: duplicate entry".to_owned()),
        ("follow_failed", _) => tablet.follow_failed = Some("connection refused".to_owned()),
        ("unfit", _) => tablet.unfit = Some("its clock is 3 s behind the newest primary term".to_owned()),
        ("version", text) => {
            let mut parts = text.split('.').map(|part| part.parse().unwrap());
            let mut next = || parts.next().unwrap();
            mysql(tablet).version = Some((next(), next(), next()));
        }
        ("no_log_bin", _) => mysql(tablet).log_bin = false,
        ("no_gtids", _) => mysql(tablet).gtid_mode_on = false,
        ("purged", set) => mysql(tablet).purged = gtids(set),
        (kind, "") if TabletType::from_str_name(kind).is_some() => tablet.tablet_type = TabletType::from_str_name(kind).unwrap(),
        (at, "") => {
            tablet.received = position(at);
            if tablet.executed == Position::None {
                tablet.executed = position(at);
            }
        }
        _ => panic!("cannot read {word:?}"),
    }
}

fn mysql(tablet: &mut Testimony) -> &mut MysqlFacts {
    let usual = MysqlFacts { version: None, log_bin: true, gtid_mode_on: true, purged: GtidSet::default() };
    tablet.mysql.get_or_insert(usual)
}
