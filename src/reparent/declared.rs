//! What the topology says of a shard, read under its lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{ReparentError, run::Run};
use crate::{
    durability::{Enforced, Member, PROMOTION_RULE_TAG, Policy, PromotionRule, policy, with_extra},
    pb::{
        topodata::{Tablet, TabletType},
        vttime,
    },
    topo::{ShardId, TabletAlias},
};

/// Start of a primary's term: seconds and nanoseconds of the promoted tablet's clock.
pub(super) type Term = (i64, i32);

/// The term in a record.
pub(super) fn term(time: Option<&vttime::Time>) -> Option<Term> {
    time.map(|time| (time.seconds, time.nanoseconds))
}

/// The declared shard.
pub(super) struct Declared {
    pub shard: ShardId,
    pub primary: Option<TabletAlias>,
    /// The term in the shard record: absent until the shard has its first primary.
    pub term: Option<Term>,
    /// The keyspace's policy, with what our settings demand beyond it.
    pub policy: Arc<dyn Policy>,
    pub sidecar: String,
    pub tablets: BTreeMap<TabletAlias, Tablet>,
    /// Cells whose tablets are unknown, with the reasons; empty when all could be read.
    pub unreadable: String,
    /// Tablets that the replication graph names and that have no record, with the reasons: their servers may live, and acknowledge.
    pub dangling: BTreeMap<TabletAlias, String>,
    /// The same, each with its reason.
    pub unreadable_cells: BTreeMap<String, String>,
}

/// Types whose tablets a planned reparent cannot do without.
fn is_essential(tablet_type: TabletType) -> bool {
    matches!(tablet_type, TabletType::Primary | TabletType::Replica)
}

/// Types whose tablets hold their action lock for hours: nobody waits for them.
fn is_occupied(tablet_type: TabletType) -> bool {
    matches!(tablet_type, TabletType::Backup | TabletType::Restore)
}

/// The policy of that name with what our settings demand of the keyspace. Nobody has read yet how many acknowledgements the present primary
/// waits for.
async fn full_policy(run: &Run, name: &str) -> Result<Arc<dyn Policy>, ReparentError> {
    let keyspace = &run.shard.keyspace;
    let base = policy(name).map_err(|source| ReparentError::UnknownPolicy { keyspace: keyspace.clone(), source })?;
    let extra = run.hands.settings.durability_extra.get(keyspace).copied().unwrap_or_default();
    let regions = if extra.regions > 0 { regions(run).await? } else { BTreeMap::new() };
    with_extra(base, extra, regions, Enforced::No).map_err(|source| ReparentError::Extra { keyspace: keyspace.clone(), source })
}

/// Each cell's region: the CellsAlias that names it.
async fn regions(run: &Run) -> Result<BTreeMap<String, String>, ReparentError> {
    let aliases = run.hands.topo.cells_aliases().await?;
    let cells = aliases.into_iter().flat_map(|(region, alias)| alias.cells.into_iter().map(move |cell| (cell, region.clone())));
    Ok(cells.collect())
}

impl Declared {
    /// Reads everything. Nothing is changed by it.
    pub async fn read(run: &mut Run) -> Result<Self, ReparentError> {
        let (topo, shard) = (run.hands.topo.clone(), run.shard.clone());
        let (record, keyspace, found) =
            tokio::try_join!(topo.shard(&shard), topo.keyspace(&shard.keyspace), topo.shard_tablets(&shard))?;
        let policy = full_policy(run, &keyspace.value.durability_policy).await?;
        for (alias, reason) in &found.dangling {
            run.warn(format!("{alias} is not asked: {reason}"));
        }
        for (alias, tablet) in &found.tablets {
            if let Some(Err(error)) = tablet.tags.get(PROMOTION_RULE_TAG).map(|rule| rule.parse::<PromotionRule>()) {
                run.warn(format!("{alias} is taken only when there is nobody else: {error}"));
            }
        }
        let unreadable_cells = found.unreadable_cells.iter().map(|(cell, error)| (cell.clone(), error.to_string()));
        let unreadable_cells: BTreeMap<_, _> = unreadable_cells.collect();
        let unreadable = unreadable_cells.iter().map(|(cell, error)| format!("{cell} ({error})")).collect::<Vec<_>>().join(", ");
        if !unreadable.is_empty() {
            run.warn(format!("tablets of these cells are unknown and are not pointed at the new primary: {unreadable}"));
        }
        let primary = record.value.primary_alias.as_ref().filter(|alias| !alias.cell.is_empty());
        let primary = primary.map(TabletAlias::try_from).transpose().map_err(crate::topo::TopoError::from)?;
        let sidecar = match keyspace.value.sidecar_db_name.as_str() {
            "" => "_vt".to_owned(),
            name => name.to_owned(),
        };
        let term = term(record.value.primary_term_start_time.as_ref());
        Ok(Self {
            shard,
            primary,
            term,
            policy,
            sidecar,
            tablets: found.tablets,
            dangling: found.dangling,
            unreadable,
            unreadable_cells,
        })
    }

    /// Refuses where the shard record names another primary than the caller expected.
    pub fn check_expected(&self, expected: Option<&TabletAlias>) -> Result<(), ReparentError> {
        match expected {
            Some(expected) if self.primary.as_ref() != Some(expected) => Err(ReparentError::ExpectedPrimaryMismatch {
                shard: self.shard.clone(),
                expected: expected.clone(),
                found: self.primary.clone(),
            }),
            _ => Ok(()),
        }
    }

    pub fn tablet(&self, alias: &TabletAlias) -> Option<&Tablet> {
        self.tablets.get(alias)
    }

    pub fn tablet_type(&self, alias: &TabletAlias) -> TabletType {
        self.tablet(alias).map_or(TabletType::Unknown, Tablet::r#type)
    }

    pub fn member(&self, alias: &TabletAlias) -> Member {
        match self.tablet(alias) {
            Some(tablet) => Member::tagged(alias.clone(), tablet.r#type(), &tablet.tags),
            None => Member::new(alias.clone(), TabletType::Unknown),
        }
    }

    pub fn is_essential(&self, alias: &TabletAlias) -> bool {
        is_essential(self.tablet_type(alias))
    }

    pub fn is_occupied(&self, alias: &TabletAlias) -> bool {
        is_occupied(self.tablet_type(alias))
    }

    /// Tablets recorded as PRIMARY with their terms.
    fn recorded_primaries(&self) -> impl Iterator<Item = (&TabletAlias, Option<Term>)> {
        let primaries = self.tablets.iter().filter(|(_, tablet)| tablet.r#type() == TabletType::Primary);
        primaries.map(|(alias, tablet)| (alias, term(tablet.primary_term_start_time.as_ref())))
    }

    /// The primary by the tablets' own records: the newest term; nobody when that is tied (the shard record lags behind).
    pub fn current_primary(&self) -> Option<&TabletAlias> {
        let newest = self.recorded_primaries().map(|(_, term)| term).max()?;
        let mut newest = self.recorded_primaries().filter(|(_, term)| *term == newest);
        match (newest.next(), newest.next()) {
            (Some((alias, _)), None) => Some(alias),
            _ => None,
        }
    }

    /// Tablets that are recorded as PRIMARY although another has a newer term: they may be writable.
    pub fn stale_primaries(&self, current: &TabletAlias) -> BTreeSet<TabletAlias> {
        self.recorded_primaries().map(|(alias, _)| alias).filter(|alias| *alias != current).cloned().collect()
    }

    /// The newest term that any record knows: a new primary's must be newer still.
    pub fn newest_term(&self) -> Option<Term> {
        self.recorded_primaries().filter_map(|(_, term)| term).chain(self.term).max()
    }

    /// Whether commits on this primary wait for acknowledgements.
    pub fn semi_sync_primary(&self, primary: &TabletAlias) -> bool {
        self.policy.acks_needed(&self.member(primary)) > 0
    }

    /// Whether this replica acknowledges that primary.
    pub fn semi_sync_replica(&self, primary: &TabletAlias, replica: &TabletAlias) -> bool {
        self.policy.may_ack(&self.member(primary), &self.member(replica))
    }
}
