//! Errant transactions: what a tablet has and the primary of its shard does not (pure).
//!
//! The tablet's own set is read first and the primary's after it, so that whatever the tablet had from the primary is in the primary's
//! set. Two things remain that only look like it, and both pass: a transaction that the primary has sent and not yet committed (with
//! semi-sync a replica has it before the primary does), and one of a new primary of which the topology does not know yet. Therefore a
//! transaction is errant when it stood out in two looks in a row, and not while it can be a commit of the primary that still waits.
//!
//! From whom the tablet replicates does not matter: the rule is the same for one with the wrong source, with none, and for a former
//! primary.

use std::sync::Arc;

use crate::{
    mysql::{GtidSet, ServerUuid},
    topo::TabletAlias,
};

/// Whom the topology names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPrimary {
    /// The tablet.
    pub alias: TabletAlias,
    /// Start of its term: seconds and nanoseconds of its own clock.
    pub term: Option<(i64, i32)>,
}

/// What the declared primary said of itself, after the tablet had answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryFacts {
    /// Its server UUID.
    pub uuid: Option<ServerUuid>,
    /// What it has executed.
    pub executed: Arc<GtidSet>,
    /// Why it is no primary in fact, whatever the topology says; such as `it is read-only`.
    pub not_acting: Option<&'static str>,
    /// Whether commits of its clients wait for an acknowledgement, read before `executed`. `None` = not asked, or no answer.
    pub commits_wait: Option<bool>,
}

/// One look at one tablet.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// Whom the topology named before the tablet was asked.
    pub declared_before: &'a DeclaredPrimary,
    /// Everything that the tablet has received or executed.
    pub has: &'a GtidSet,
    /// The primary's answer, or why there is none.
    pub primary: Result<&'a PrimaryFacts, &'a str>,
    /// Whom the topology named after the primary had answered.
    pub declared_after: Result<&'a DeclaredPrimary, &'a Unknown>,
    /// What stood out in the last look that came to a judgement; `None` when this is the first.
    pub stood_out: Option<&'a GtidSet>,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What the tablet has and the primary does not: evidence for the next look.
    pub stands_out: GtidSet,
    /// What is errant; empty = clean. `None` = something stands out for the first time, and nothing was known before.
    pub errant: Option<GtidSet>,
}

/// Why nothing can be said of a tablet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It is new here.
    #[error("it was not looked at yet")]
    NotYet,
    /// Something stands out, but was seen only once.
    #[error("{count} transactions stand out and were seen only once so far")]
    SeenOnce {
        /// How many.
        count: u128,
    },
    /// Whom the topology names now is not known.
    #[error("the topology cannot be read: {0}")]
    Topology(String),
    /// There is nothing to compare with.
    #[error("its shard has no primary")]
    NoPrimary,
    /// The primary changed while the tablet was looked at.
    #[error("the primary changed from {from} to {to} meanwhile")]
    PrimaryChanged {
        /// Before.
        from: TabletAlias,
        /// After.
        to: TabletAlias,
    },
    /// The primary did not say what it has.
    #[error("the primary {primary} did not answer: {reason}")]
    PrimarySilent {
        /// The tablet.
        primary: TabletAlias,
        /// Why.
        reason: String,
    },
    /// The topology names one that is no primary in fact: perhaps another has just been promoted.
    #[error("the primary {primary} does not act as one: {how}")]
    PrimaryNotActing {
        /// The tablet.
        primary: TabletAlias,
        /// What it does.
        how: &'static str,
    },
    /// The tablet did not answer.
    #[error("it did not answer: {0}")]
    Silent(String),
    /// The tablet's record says that it was shut down.
    #[error("it is shut down")]
    ShutDown,
    /// A position that is no GTID set of MySQL.
    #[error("its position is no set of GTIDs: {0}")]
    NoGtids(String),
}

/// Judges one look.
pub fn judge(evidence: &Evidence<'_>) -> Result<Look, Unknown> {
    let primary = evidence.declared_before.alias.clone();
    let after = evidence.declared_after.map_err(Clone::clone)?;
    if after != evidence.declared_before {
        return Err(Unknown::PrimaryChanged { from: primary, to: after.alias.clone() });
    }
    let facts = match evidence.primary {
        Ok(facts) => facts,
        Err(reason) => return Err(Unknown::PrimarySilent { primary, reason: reason.to_owned() }),
    };
    if let Some(how) = facts.not_acting {
        return Err(Unknown::PrimaryNotActing { primary, how });
    }
    let stands_out = evidence.has.subtract(&facts.executed);
    let errant = match evidence.stood_out {
        None if stands_out.is_empty() => Some(GtidSet::default()),
        None => None,
        Some(stood_out) => Some(without_commits_that_wait(stands_out.intersect(stood_out), facts)),
    };
    Ok(Look { stands_out, errant })
}

/// A transaction of the primary's own that it has not committed is in its binary log as long as its commit waits, however long that is.
fn without_commits_that_wait(suspects: GtidSet, primary: &PrimaryFacts) -> GtidSet {
    match (primary.commits_wait, primary.uuid) {
        (Some(false), _) | (_, None) => suspects,
        (Some(true) | None, Some(uuid)) => suspects.without_server(uuid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = "aaaaaaaa-0000-0000-0000-000000000001";
    const Q: &str = "bbbbbbbb-0000-0000-0000-000000000002";
    const R: &str = "cccccccc-0000-0000-0000-000000000003";

    fn set(text: &str) -> GtidSet {
        text.replace("P:", &format!("{P}:")).replace("Q:", &format!("{Q}:")).replace("R:", &format!("{R}:")).parse().unwrap()
    }

    fn declared(uid: u32, term: i64) -> DeclaredPrimary {
        DeclaredPrimary { alias: TabletAlias { cell: "zone1".into(), uid }, term: Some((term, 0)) }
    }

    /// A primary with UUID P that holds `executed`; nobody waits there.
    fn primary(executed: &str) -> PrimaryFacts {
        let uuid = Some(P.parse().unwrap());
        PrimaryFacts { uuid, executed: set(executed).into(), not_acting: None, commits_wait: Some(false) }
    }

    /// Looks at one tablet again and again, as the watch does.
    #[derive(Default)]
    struct Story {
        stood_out: Option<GtidSet>,
    }

    impl Story {
        fn look(&mut self, has: &str, primary: &PrimaryFacts) -> Option<GtidSet> {
            let (before, after) = (declared(100, 1), declared(100, 1));
            let (has, stood_out) = (set(has), self.stood_out.take());
            let evidence = Evidence {
                declared_before: &before,
                has: &has,
                primary: Ok(primary),
                declared_after: Ok(&after),
                stood_out: stood_out.as_ref(),
            };
            let look = judge(&evidence).unwrap();
            self.stood_out = Some(look.stands_out);
            look.errant
        }
    }

    #[test]
    fn a_replica_that_lags_is_clean_at_the_first_look() {
        assert_eq!(Story::default().look("P:1-90", &primary("P:1-100")), Some(set("")));
        assert_eq!(Story::default().look("", &primary("P:1-100")), Some(set("")));
    }

    #[test]
    fn a_write_on_a_replica_is_errant_in_the_second_look_whoever_its_source_is() {
        // Connected to the primary, to a wrong source that writes as Q, or to nobody: what it has is what counts.
        for has in ["P:1-99,R:1-3", "P:1-99,Q:7,R:1-3"] {
            let mut story = Story::default();
            assert_eq!(story.look(has, &primary("P:1-100")), None, "perhaps it only looks like it");
            let errant = story.look(has, &primary("P:1-101")).unwrap();
            assert_eq!(errant, set(has).subtract(&set("P:1-101")));
        }
    }

    #[test]
    fn a_former_primary_is_errant_with_what_it_committed_alone() {
        let (new, has) = (primary("Q:1-50,P:1-10"), "Q:1-52");
        let mut story = Story::default();
        story.look(has, &new);
        assert_eq!(story.look(has, &new), Some(set("Q:51-52")));
    }

    #[test]
    fn a_transaction_that_the_primary_commits_a_moment_later_is_not_errant() {
        let mut story = Story::default();
        assert_eq!(story.look("P:1-100", &primary("P:1-100")), Some(set("")));
        assert_eq!(story.look("P:1-101", &primary("P:1-100")), Some(set("")), "acknowledged by this replica, not committed yet");
        assert_eq!(story.look("P:1-102", &primary("P:1-101")), Some(set("")), "each time another one");
    }

    #[test]
    fn a_commit_that_hangs_for_an_acknowledgement_is_not_errant_however_long_it_hangs() {
        let hangs = PrimaryFacts { commits_wait: Some(true), ..primary("P:1-100") };
        let unsure = PrimaryFacts { commits_wait: None, ..primary("P:1-100") };
        let mut story = Story::default();
        story.look("P:1-100", &hangs);
        for facts in [&hangs, &hangs, &unsure, &hangs] {
            assert_eq!(story.look("P:1-101,R:1", facts).unwrap().of_server(P.parse().unwrap()), set(""));
        }
        assert_eq!(story.look("P:1-101,R:1", &hangs), Some(set("R:1")), "another server's are errant all the same");
        // Nobody waits any more, and still the primary does not have it: it lost it in a crash.
        assert_eq!(story.look("P:1-101,R:1", &primary("P:1-100")), Some(set("P:101,R:1")));
    }

    #[test]
    fn a_transaction_of_a_primary_that_the_topology_does_not_know_yet_passes() {
        let mut story = Story::default();
        // Q was promoted a moment ago, and the topology still names P.
        assert_eq!(story.look("P:1-100,Q:1", &primary("P:1-100")), None);
        let promoted = PrimaryFacts { uuid: Some(Q.parse().unwrap()), ..primary("P:1-100,Q:1-5") };
        assert_eq!(story.look("P:1-100,Q:1-4", &promoted), Some(set("")));
    }

    #[test]
    fn tagged_transactions_count_like_others() {
        let mut story = Story::default();
        let (has, p) = ("P:1-100:blue:1-4,R:red:1", primary("P:1-100:blue:1-2"));
        story.look(has, &p);
        assert_eq!(story.look(has, &p), Some(set("P:blue:3-4,R:red:1")));
    }

    #[test]
    fn it_is_clean_as_soon_as_the_primary_has_them_or_the_tablet_was_rebuilt() {
        let mut story = Story::default();
        story.look("P:1-100,R:1-2", &primary("P:1-100"));
        assert_eq!(story.look("P:1-100,R:1-2", &primary("P:1-100")), Some(set("R:1-2")));
        assert_eq!(story.look("P:1-100,R:1-2", &primary("P:1-100,R:1")), Some(set("R:2")));
        assert_eq!(story.look("P:1-100,R:1-2", &primary("P:1-100,R:1-2")), Some(set("")));
        story.look("P:1-100,R:3", &primary("P:1-100,R:1-2"));
        story.look("P:1-100,R:3", &primary("P:1-100,R:1-2"));
        assert_eq!(story.look("P:1-90", &primary("P:1-100,R:1-2")), Some(set("")));
    }

    #[test]
    fn nothing_is_said_without_the_primary_that_the_topology_names_now() {
        let (has, facts, first) = (set("R:1"), primary("P:1"), declared(100, 1));
        let say = |primary: Result<&PrimaryFacts, &str>, after: Result<&DeclaredPrimary, &Unknown>| {
            let evidence = Evidence { declared_before: &first, has: &has, primary, declared_after: after, stood_out: Some(&has) };
            judge(&evidence)
        };
        assert!(say(Ok(&facts), Ok(&first)).is_ok());
        // Another tablet, and the same one in another term.
        for other in [declared(101, 2), declared(100, 2)] {
            assert!(matches!(say(Ok(&facts), Ok(&other)), Err(Unknown::PrimaryChanged { .. })));
        }
        assert_eq!(say(Ok(&facts), Err(&Unknown::NoPrimary)), Err(Unknown::NoPrimary));
        assert!(matches!(say(Err("connection refused"), Ok(&first)), Err(Unknown::PrimarySilent { .. })));
        let demoted = PrimaryFacts { not_acting: Some("it is read-only"), ..facts.clone() };
        let error = say(Ok(&demoted), Ok(&first)).unwrap_err().to_string();
        assert_eq!(error, "the primary zone1-0000000100 does not act as one: it is read-only");
    }
}
