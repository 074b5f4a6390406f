//! The policies by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use crate::{pb::topodata::TabletType, topo::TabletAlias};

/// A durability policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability policy {name:?} does not exist; set one of {}", names())]
pub struct PolicyError {
    /// What was asked for.
    pub name: String,
}

/// The tag in a tablet's record that says how willingly it is made primary.
pub const PROMOTION_RULE_TAG: &str = "vtelector_promotion_rule";

/// A tablet as a policy sees it: its alias (with the cell), and the type and the promotion rule in its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is, and in which cell.
    pub alias: TabletAlias,
    /// The type in its topology record.
    pub tablet_type: TabletType,
    /// The rule in its tag [`PROMOTION_RULE_TAG`].
    pub tagged: Option<PromotionRule>,
}

impl Member {
    /// A tablet without tags.
    pub fn new(alias: TabletAlias, tablet_type: TabletType) -> Self {
        Self { alias, tablet_type, tagged: None }
    }

    /// A tablet with the tags of its record. A rule that cannot be read makes it the last choice: whoever wrote it wanted a difference,
    /// and an emergency is no time to refuse.
    pub fn tagged(alias: TabletAlias, tablet_type: TabletType, tags: &BTreeMap<String, String>) -> Self {
        let tagged = tags.get(PROMOTION_RULE_TAG).map(|rule| rule.parse().unwrap_or(PromotionRule::PreferNot));
        Self { alias, tablet_type, tagged }
    }
}

/// A tag that names no promotion rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tag {PROMOTION_RULE_TAG}: {given:?} is no promotion rule; write must, prefer, neutral, prefer_not or must_not")]
pub struct RuleError {
    /// What the tag says.
    pub given: String,
}

impl FromStr for PromotionRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "must" => Ok(Self::Must),
            "prefer" => Ok(Self::Prefer),
            "neutral" => Ok(Self::Neutral),
            "prefer_not" => Ok(Self::PreferNot),
            "must_not" => Ok(Self::MustNot),
            _ => Err(RuleError { given: text.to_owned() }),
        }
    }
}

/// How willingly a tablet is made primary; the better one is the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PromotionRule {
    /// Always this one.
    Must,
    /// Rather this one.
    Prefer,
    /// As good as any other.
    Neutral,
    /// Only when there is nobody else.
    PreferNot,
    /// Never.
    MustNot,
}

/// What a durability policy says; everything else is derived from these three.
pub trait Policy: Send + Sync {
    /// The name in keyspace records.
    fn name(&self) -> &'static str;

    /// How willingly the policy makes this tablet primary by its type, before its tag is looked at.
    fn type_rule(&self, tablet: &Member) -> PromotionRule {
        match tablet.tablet_type {
            TabletType::Primary | TabletType::Replica => PromotionRule::Neutral,
            _ => PromotionRule::MustNot,
        }
    }

    /// How willingly this tablet is made primary. A tag orders what the type allows; it allows nothing more.
    fn promotion_rule(&self, tablet: &Member) -> PromotionRule {
        match self.type_rule(tablet) {
            PromotionRule::MustNot => PromotionRule::MustNot,
            rule => tablet.tagged.unwrap_or(rule),
        }
    }

    /// Whether this tablet may be a primary without our doing: Vitess knows nothing of tags.
    fn could_be_primary(&self, tablet: &Member) -> bool {
        self.type_rule(tablet) != PromotionRule::MustNot
    }

    /// How many acknowledgements a commit needs while this tablet is primary.
    fn acks_needed(&self, primary: &Member) -> usize;

    /// How many acknowledgements commits on the present primary are known to have waited for: what a proof may rest on.
    fn acks_proven(&self, primary: &Member) -> usize {
        self.acks_needed(primary)
    }

    /// Whether commits wait for anybody at all.
    fn acknowledges(&self) -> bool {
        let somebody = Member::new(TabletAlias { cell: String::new(), uid: 0 }, TabletType::Primary);
        self.acks_needed(&somebody) > 0
    }

    /// What is wrong with these ackers beside their number; `None` when nothing is.
    fn too_narrow(&self, _ackers: &BTreeSet<TabletAlias>) -> Option<String> {
        None
    }

    /// Whether this replica acknowledges this primary's transactions.
    fn may_ack(&self, primary: &Member, replica: &Member) -> bool;
}

/// Policies without acknowledgements: `none`, and Vitess's `test`, which prefers one alias and is present in production binaries.
struct Async {
    name: &'static str,
    preferred: Option<(&'static str, u32)>,
}

impl Policy for Async {
    fn name(&self) -> &'static str {
        self.name
    }

    fn type_rule(&self, tablet: &Member) -> PromotionRule {
        match tablet.tablet_type {
            _ if self.preferred == Some((tablet.alias.cell.as_str(), tablet.alias.uid)) => PromotionRule::Prefer,
            TabletType::Primary | TabletType::Replica => PromotionRule::Neutral,
            _ => PromotionRule::MustNot,
        }
    }

    fn acks_needed(&self, _primary: &Member) -> usize {
        0
    }

    fn may_ack(&self, _primary: &Member, _replica: &Member) -> bool {
        false
    }
}

/// One acknowledgement, by REPLICA tablets, and perhaps RDONLY ones, and perhaps only those of another cell than the primary's.
struct SemiSync {
    name: &'static str,
    other_cell: bool,
    rdonly: bool,
}

impl Policy for SemiSync {
    fn name(&self) -> &'static str {
        self.name
    }

    fn acks_needed(&self, _primary: &Member) -> usize {
        1
    }

    fn may_ack(&self, primary: &Member, replica: &Member) -> bool {
        let fits = match replica.tablet_type {
            TabletType::Primary | TabletType::Replica => true,
            TabletType::Rdonly => self.rdonly,
            _ => false,
        };
        fits && (!self.other_cell || primary.alias.cell != replica.alias.cell)
    }
}

static POLICIES: [&dyn Policy; 6] = [
    &Async { name: "none", preferred: None },
    &SemiSync { name: "semi_sync", other_cell: false, rdonly: false },
    &SemiSync { name: "cross_cell", other_cell: true, rdonly: false },
    &SemiSync { name: "semi_sync_with_rdonly_ack", other_cell: false, rdonly: true },
    &SemiSync { name: "cross_cell_with_rdonly_ack", other_cell: true, rdonly: true },
    &Async { name: "test", preferred: Some(("zone2", 200)) },
];

/// The policy of that name; no name means `none`, as in Vitess.
pub fn policy(name: &str) -> Result<&'static dyn Policy, PolicyError> {
    let wanted = if name.is_empty() { "none" } else { name };
    POLICIES.into_iter().find(|policy| policy.name() == wanted).ok_or_else(|| PolicyError { name: name.to_owned() })
}

fn names() -> String {
    POLICIES.map(|policy| policy.name()).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(alias: &str, tablet_type: TabletType) -> Member {
        Member::new(alias.parse().unwrap(), tablet_type)
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_exist() {
        let error = policy("semisync").err().unwrap().to_string();
        assert!(error.contains("\"semisync\"") && error.contains("cross_cell_with_rdonly_ack"), "{error}");
        assert_eq!(policy("").unwrap().name(), "none");
    }

    #[test]
    fn only_primary_and_replica_records_may_be_promoted() {
        for policy in POLICIES {
            for raw in 0..=10 {
                let Ok(tablet_type) = TabletType::try_from(raw) else { continue };
                let expected = match tablet_type {
                    TabletType::Primary | TabletType::Replica => PromotionRule::Neutral,
                    _ => PromotionRule::MustNot,
                };
                assert_eq!(policy.promotion_rule(&member("z1-1", tablet_type)), expected, "{} {tablet_type:?}", policy.name());
            }
        }
    }

    #[test]
    fn the_test_policy_prefers_its_one_tablet() {
        let preferred = member("zone2-200", TabletType::Replica);
        assert_eq!(policy("test").unwrap().promotion_rule(&preferred), PromotionRule::Prefer);
        assert_eq!(policy("none").unwrap().promotion_rule(&preferred), PromotionRule::Neutral);
        assert!(PromotionRule::Prefer < PromotionRule::Neutral);
    }
}
