//! What our settings demand beyond the policy in a keyspace record, which keeps a Vitess name. It only ever adds (safety rules, section 5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use super::{Member, Policy, PromotionRule};
use crate::topo::TabletAlias;

/// Demands on the acknowledgements of a keyspace's primaries. Zero demands nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extra {
    /// So many acknowledgements for a commit: MySQL's wait count.
    pub acks: usize,
    /// Tablets that may acknowledge in so many different cells. MySQL does not choose whose acknowledgement it waits for, so this is a
    /// demand on who can be promoted.
    pub cells: usize,
    /// The same for regions: the cells of one CellsAlias are one region, a cell in none is its own.
    pub regions: usize,
}

/// Demands that cannot be read, or not be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtraError {
    /// Not of the form.
    #[error("{given:?} is no demand on durability: {problem}; write acks:2, cells:2 or regions:2, with commas between several")]
    Form {
        /// What was given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The policy asks nobody for an acknowledgement.
    #[error(
        "durability policy {policy} asks nobody for an acknowledgement, so {extra} cannot be added; set semi_sync or another policy that does"
    )]
    NoAckers {
        /// The policy.
        policy: &'static str,
        /// What was to be added.
        extra: Extra,
    },
}

impl FromStr for Extra {
    type Err = ExtraError;

    fn from_str(text: &str) -> Result<Self, ExtraError> {
        let error = |problem: String| ExtraError::Form { given: text.to_owned(), problem };
        let mut extra = Extra::default();
        for item in text.split(',') {
            let (name, number) = item.split_once(':').ok_or_else(|| error(format!("{item:?} has no number")))?;
            let field = match name {
                "acks" => &mut extra.acks,
                "cells" => &mut extra.cells,
                "regions" => &mut extra.regions,
                _ => return Err(error(format!("there is no {name:?}"))),
            };
            if *field != 0 {
                return Err(error(format!("{name} stands there twice")));
            }
            // MySQL's own limit of rpl_semi_sync_source_wait_for_replica_count.
            *field = number
                .parse()
                .ok()
                .filter(|number| (1..=65535).contains(number))
                .ok_or_else(|| error(format!("{number:?} is no number from 1 to 65535")))?;
        }
        Ok(extra)
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [("acks", self.acks), ("cells", self.cells), ("regions", self.regions)];
        let set: Vec<String> = fields.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}:{n}")).collect();
        f.write_str(&set.join(","))
    }
}

/// Whether the present primary is known to have waited for the demanded acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enforced {
    /// Its wait count was read since its promotion, and it was enough: proofs may rest on it.
    Yes,
    /// It may have waited only for as many as Vitess asks for.
    No,
}

/// A Vitess policy with what our settings add.
struct Stricter {
    base: &'static dyn Policy,
    extra: Extra,
    regions: BTreeMap<String, String>,
    enforced: Enforced,
}

impl Policy for Stricter {
    fn name(&self) -> &'static str {
        self.base.name()
    }

    fn type_rule(&self, tablet: &Member) -> PromotionRule {
        self.base.type_rule(tablet)
    }

    fn acks_needed(&self, primary: &Member) -> usize {
        self.base.acks_needed(primary).max(self.extra.acks)
    }

    fn acks_proven(&self, primary: &Member) -> usize {
        match self.enforced {
            Enforced::Yes => self.acks_needed(primary),
            Enforced::No => self.base.acks_proven(primary),
        }
    }

    fn may_ack(&self, primary: &Member, replica: &Member) -> bool {
        self.base.may_ack(primary, replica)
    }

    fn too_narrow(&self, ackers: &BTreeSet<TabletAlias>) -> Option<String> {
        let cells: BTreeSet<&String> = ackers.iter().map(|acker| &acker.cell).collect();
        let regions: BTreeSet<&String> = cells.iter().map(|cell| self.regions.get(*cell).unwrap_or(cell)).collect();
        let short = |what: &str, found: usize, wanted: usize| {
            (found < wanted).then(|| format!("they stand in {found} {what}, and {wanted} are demanded"))
        };
        short("cell(s)", cells.len(), self.extra.cells).or_else(|| short("region(s)", regions.len(), self.extra.regions))
    }
}

/// A policy with what our settings add. `regions` tells each cell's region.
///
/// # Errors
/// A policy without acknowledgements: nothing can be added to none.
pub fn with_extra(
    base: &'static dyn Policy,
    extra: Extra,
    regions: BTreeMap<String, String>,
    enforced: Enforced,
) -> Result<Arc<dyn Policy>, ExtraError> {
    if extra != Extra::default() && !base.acknowledges() {
        return Err(ExtraError::NoAckers { policy: base.name(), extra });
    }
    Ok(Arc::new(Stricter { base, extra, regions, enforced }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        durability::{Members, can_establish, policy, revoked_for},
        pb::topodata::TabletType,
    };

    fn shard(aliases: &str) -> Members {
        aliases.split(' ').map(|alias| (alias.parse().unwrap(), TabletType::Replica)).collect()
    }

    fn strict(extra: &str, enforced: Enforced) -> Arc<dyn Policy> {
        let regions = [("z1", "east"), ("z2", "east"), ("z3", "west")].map(|(cell, region)| (cell.to_owned(), region.to_owned()));
        with_extra(policy("semi_sync").unwrap(), extra.parse().unwrap(), regions.into(), enforced).unwrap()
    }

    fn establishes(extra: &str, reached: &str) -> Result<(), String> {
        let primary = Member::new("z1-1".parse().unwrap(), TabletType::Replica);
        let reached = shard(&format!("z1-1 {reached}"));
        can_establish(&*strict(extra, Enforced::No), &primary, &reached).map(drop).map_err(|not| not.to_string())
    }

    #[test]
    fn a_demand_reads_as_it_prints_and_nothing_else_is_taken() {
        for text in ["acks:2", "acks:2,cells:2", "regions:3", "acks:1,cells:2,regions:2"] {
            assert_eq!(text.parse::<Extra>().unwrap().to_string(), text);
        }
        for (text, problem) in [
            ("", "has no number"),
            ("acks", "has no number"),
            ("acks:0", "\"0\" is no number from 1"),
            ("acks:2,acks:3", "acks stands there twice"),
            ("ack:2", "there is no \"ack\""),
            ("cells:-1", "no number"),
            ("cells:2,", "has no number"),
        ] {
            let error = text.parse::<Extra>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("acks:2"), "{text}: {error}");
        }
    }

    #[test]
    fn two_acknowledgements_need_two_ackers_and_two_cells_need_ackers_in_both() {
        assert!(establishes("acks:2", "z1-2 z1-3").is_ok());
        let error = establishes("acks:2", "z1-2").unwrap_err();
        assert!(error.contains("needs 2 acknowledgement(s) and only z1-0000000002"), "{error}");
        assert!(establishes("cells:2", "z1-2 z2-3").is_ok());
        let error = establishes("cells:2", "z1-2 z1-3").unwrap_err();
        assert!(error.contains("stand in 1 cell(s), and 2 are demanded"), "{error}");
        assert!(establishes("regions:2", "z1-2 z3-3").is_ok());
        let error = establishes("regions:2", "z1-2 z2-3").unwrap_err();
        assert!(error.contains("stand in 1 region(s), and 2 are demanded"), "{error}");
    }

    /// With two acknowledgements each transaction is on two ackers, so one may be missing; but only where the server really waited for two.
    #[test]
    fn a_proof_rests_on_a_wait_count_only_once_it_was_read() {
        let primary = Member::new("z1-1".parse().unwrap(), TabletType::Primary);
        let (all, reached) = (shard("z1-1 z1-2 z1-3 z1-4"), ["z1-2", "z1-3"].map(|alias| alias.parse().unwrap()).into());
        assert!(revoked_for(&*strict("acks:2", Enforced::Yes), &primary, &reached, &all).is_ok());
        let not = revoked_for(&*strict("acks:2", Enforced::No), &primary, &reached, &all).unwrap_err();
        assert_eq!(not.acks_needed, 1);
    }

    #[test]
    fn nothing_is_added_to_a_policy_without_acknowledgements() {
        let add = |extra: Extra| with_extra(policy("none").unwrap(), extra, BTreeMap::new(), Enforced::No).map(drop);
        let error = add("acks:2".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("policy none") && error.contains("acks:2") && error.contains("set semi_sync"), "{error}");
        assert_eq!(add(Extra::default()), Ok(()));
    }
}
