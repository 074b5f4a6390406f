//! What follows from a policy and the tablets that were reached. Every answer names the tablets that prove or refute it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Member, Policy};
use crate::{pb::topodata::TabletType, topo::TabletAlias};

/// The tablets of a shard with the types in their records.
pub type Members = BTreeMap<TabletAlias, TabletType>;

/// Why a tablet can commit nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokedBy {
    /// It was reached itself: demoted, or its replication stopped.
    Reached,
    /// So many of its possible ackers were reached that the others are fewer than it needs.
    AckersReached {
        /// The reached ones.
        reached: BTreeSet<TabletAlias>,
    },
}

/// No promotable tablet can commit on its own: each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked(pub BTreeMap<TabletAlias, RevokedBy>);

/// A promotable tablet that could still be a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRevoked {
    /// The tablet, which was not reached.
    pub tablet: TabletAlias,
    /// How many acknowledgements it needs.
    pub acks_needed: usize,
    /// The ackers that were not reached and could serve it.
    pub unreached_ackers: BTreeSet<TabletAlias>,
}

impl fmt::Display for NotRevoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tablet, acks_needed, unreached_ackers } = self;
        match acks_needed {
            0 => write!(f, "{tablet} was not reached and needs no acknowledgement to commit"),
            _ => write!(f, "{tablet} was not reached and could still be acknowledged by {}", list(unreached_ackers)),
        }
    }
}

/// The ackers that let a tablet commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    /// How many acknowledgements it needs.
    pub acks_needed: usize,
    /// Those that could give them.
    pub ackers: BTreeSet<TabletAlias>,
}

/// A tablet that could not commit as primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotEstablished {
    /// The tablet.
    pub tablet: TabletAlias,
    /// Whether the tablet itself was reached.
    pub reached: bool,
    /// The policy.
    pub policy: &'static str,
    /// How many acknowledgements it needs.
    pub acks_needed: usize,
    /// Those that could give one.
    pub ackers: BTreeSet<TabletAlias>,
    /// What is wrong with these, where they are enough.
    pub too_narrow: Option<String>,
}

impl fmt::Display for NotEstablished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tablet, reached, policy, acks_needed, ackers, too_narrow } = self;
        if !reached {
            return write!(f, "{tablet} was not reached");
        }
        if let Some(narrow) = too_narrow {
            return write!(f, "{tablet} could be acknowledged by {}, but {narrow}", list(ackers));
        }
        write!(f, "{tablet} could not commit: {policy} needs {acks_needed} acknowledgement(s) and ")?;
        if ackers.is_empty() {
            f.write_str("no tablet could give one")
        } else {
            write!(f, "only {} could give one", list(ackers))
        }
    }
}

fn list(aliases: &BTreeSet<TabletAlias>) -> String {
    aliases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn member(alias: &TabletAlias, tablet_type: TabletType) -> Member {
    Member::new(alias.clone(), tablet_type)
}

/// Those of `among` that may acknowledge `primary`.
pub fn ackers(policy: &dyn Policy, primary: &Member, among: &Members) -> BTreeSet<TabletAlias> {
    let may = |(alias, tablet_type): &(&TabletAlias, &TabletType)| {
        **alias != primary.alias && policy.may_ack(primary, &member(alias, **tablet_type))
    };
    among.iter().filter(may).map(|(alias, _)| alias.clone()).collect()
}

/// Whether `tablet` can commit no more, `reached` being stopped or demoted.
pub fn revoked_for(
    policy: &dyn Policy,
    tablet: &Member,
    reached: &BTreeSet<TabletAlias>,
    all: &Members,
) -> Result<RevokedBy, NotRevoked> {
    if reached.contains(&tablet.alias) {
        return Ok(RevokedBy::Reached);
    }
    let acks_needed = policy.acks_proven(tablet);
    let (stopped, left): (BTreeSet<_>, BTreeSet<_>) =
        ackers(policy, tablet, all).into_iter().partition(|acker| reached.contains(acker));
    if left.len() >= acks_needed {
        return Err(NotRevoked { tablet: tablet.alias.clone(), acks_needed, unreached_ackers: left });
    }
    Ok(RevokedBy::AckersReached { reached: stopped })
}

/// Whether no promotable tablet of `all` can commit any more, `reached` being stopped or demoted.
pub fn have_revoked(policy: &dyn Policy, reached: &BTreeSet<TabletAlias>, all: &Members) -> Result<Revoked, NotRevoked> {
    let members = all.iter().map(|(alias, tablet_type)| member(alias, *tablet_type));
    let promotable = members.filter(|tablet| policy.could_be_primary(tablet));
    promotable
        .map(|tablet| Ok((tablet.alias.clone(), revoked_for(policy, &tablet, reached, all)?)))
        .collect::<Result<_, _>>()
        .map(Revoked)
}

/// Whether `tablet` could commit as primary with the tablets in `reached`.
pub fn can_establish(policy: &dyn Policy, tablet: &Member, reached: &Members) -> Result<Established, NotEstablished> {
    let acks_needed = policy.acks_needed(tablet);
    let ackers = ackers(policy, tablet, reached);
    let itself = reached.contains_key(&tablet.alias);
    let too_narrow = policy.too_narrow(&ackers).filter(|_| ackers.len() >= acks_needed);
    if itself && ackers.len() >= acks_needed && too_narrow.is_none() {
        return Ok(Established { acks_needed, ackers });
    }
    let (tablet, policy) = (tablet.alias.clone(), policy.name());
    Err(NotEstablished { tablet, reached: itself, policy, acks_needed, ackers, too_narrow })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durability::policy;

    /// The shard of Vitess's truth table: a primary and two kinds of replicas in two cells.
    const SHARD: [(&str, &str, TabletType); 5] = [
        ("P1", "z1-1", TabletType::Primary),
        ("R2", "z1-2", TabletType::Replica),
        ("O3", "z1-3", TabletType::Rdonly),
        ("R4", "z2-4", TabletType::Replica),
        ("O5", "z2-5", TabletType::Rdonly),
    ];
    const POLICIES: [&str; 5] = ["none", "semi_sync", "cross_cell", "semi_sync_with_rdonly_ack", "cross_cell_with_rdonly_ack"];

    fn some(names: &str) -> Members {
        let wanted: Vec<&str> = names.split(' ').collect();
        let all = SHARD.into_iter().filter(|(name, ..)| names == "all" || wanted.contains(name));
        all.map(|(_, alias, tablet_type)| (alias.parse().unwrap(), tablet_type)).collect()
    }

    fn aliases(names: &str) -> BTreeSet<TabletAlias> {
        some(names).into_keys().collect()
    }

    fn p1() -> Member {
        Member::new("z1-1".parse().unwrap(), TabletType::Primary)
    }

    #[test]
    fn ackers_are_those_of_the_policy() {
        for (name, expected) in POLICIES.into_iter().zip(["", "R2 R4", "R4", "R2 O3 R4 O5", "R4 O5"]) {
            assert_eq!(ackers(policy(name).unwrap(), &p1(), &some("all")), aliases(expected), "{name}");
        }
    }

    #[test]
    fn a_single_tablet_is_revoked_as_in_the_truth_table() {
        let rows = [("R2 R4 O3", [false, true, true, false, false]), ("R4", [false, false, true, false, false])];
        for (reached, expected) in rows {
            for (name, expected) in POLICIES.into_iter().zip(expected) {
                let answer = revoked_for(policy(name).unwrap(), &p1(), &aliases(reached), &some("all"));
                assert_eq!(answer.is_ok(), expected, "{name}, reached {reached}: {answer:?}");
            }
        }
    }

    #[test]
    fn a_shard_is_revoked_as_in_the_truth_table() {
        let rows = [
            ("R2 R4", [false, true, true, false, false]),
            ("P1 O3 O5", [false, false, false, false, false]),
            ("R4", [false, false, true, false, false]),
        ];
        for (reached, expected) in rows {
            for (name, expected) in POLICIES.into_iter().zip(expected) {
                let answer = have_revoked(policy(name).unwrap(), &aliases(reached), &some("all"));
                assert_eq!(answer.is_ok(), expected, "{name}, reached {reached}: {answer:?}");
            }
        }
    }

    #[test]
    fn a_primary_is_established_as_in_the_truth_table() {
        let rows = [
            ("P1", [true, false, false, false, false]),
            ("P1 R2", [true, true, false, true, false]),
            ("P1 O3", [true, false, false, true, false]),
            ("P1 O5", [true, false, false, true, true]),
            ("R2 R4", [false, false, false, false, false]),
        ];
        for (reached, expected) in rows {
            for (name, expected) in POLICIES.into_iter().zip(expected) {
                let answer = can_establish(policy(name).unwrap(), &p1(), &some(reached));
                assert_eq!(answer.is_ok(), expected, "{name}, reached {reached}: {answer:?}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_tablets_that_stand_in_the_way() {
        let semi_sync = policy("semi_sync").unwrap();
        let not = have_revoked(semi_sync, &aliases("P1 O3 O5"), &some("all")).unwrap_err();
        assert_eq!(not.to_string(), "z1-0000000002 was not reached and could still be acknowledged by z2-0000000004");
        let not = can_establish(policy("cross_cell").unwrap(), &p1(), &some("P1 R2")).unwrap_err();
        assert_eq!(
            not.to_string(),
            "z1-0000000001 could not commit: cross_cell needs 1 acknowledgement(s) and no tablet could give one"
        );
        let not = have_revoked(policy("none").unwrap(), &aliases("R2 R4"), &some("all")).unwrap_err();
        assert_eq!(not.to_string(), "z1-0000000001 was not reached and needs no acknowledgement to commit");
    }
}
