//! Who becomes primary in a planned reparent.
//!
//! The rules are those of Vitess's planned reparenter, with three differences on the safe side: a named tablet must be promotable by its
//! type, a tablet in backup is never elected, and the same filters hold for one candidate as for many.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{NoCandidate, Rejection};
use crate::{
    durability::{Established, Member, Members, Policy, PromotionRule, can_establish},
    mysql::Position,
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// What is known of a tablet's replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// Everything received, applied or not.
    pub received: Position,
    /// What is applied.
    pub executed: Position,
    /// How far it lags; `None` when it cannot tell.
    pub lag: Option<Duration>,
    /// Whether it is taking a backup.
    pub backup_running: bool,
}

/// The answer to "how do you replicate".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It replicates, or could.
    Replica(Replication),
    /// It has no source. Its position counts only while nobody is primary; else it is [`Position::None`], behind everybody.
    NotReplica(Position),
    /// It did not say.
    Unknown(String),
}

/// A tablet that might be elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The type in its record.
    pub tablet_type: TabletType,
    /// The promotion rule in its tag.
    pub tagged: Option<PromotionRule>,
    /// Whether it answered at all.
    pub reached: bool,
    /// Its replication.
    pub status: Status,
    /// Pages in its buffer pool: a warm server is the better primary.
    pub buffer_pool_pages: u64,
}

/// Everything the election looks at.
pub struct Evidence<'a> {
    /// The shard.
    pub shard: &'a ShardId,
    /// Its durability policy.
    pub policy: &'a dyn Policy,
    /// The primary in the shard record.
    pub recorded_primary: Option<&'a TabletAlias>,
    /// Every tablet of the shard.
    pub tablets: &'a BTreeMap<TabletAlias, Candidate>,
}

/// What the caller wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// This tablet and no other.
    pub named: Option<TabletAlias>,
    /// Not this one.
    pub avoid: Option<TabletAlias>,
    /// No candidate with more lag.
    pub tolerable_lag: Option<Duration>,
    /// Candidates of any cell.
    pub allow_cross_cell: bool,
}

/// The candidate, why it can commit, and why nobody else was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    /// Who becomes primary.
    pub elect: TabletAlias,
    /// The ackers that it will have.
    pub established: Established,
    /// Everybody else.
    pub rejected: BTreeMap<TabletAlias, Rejection>,
}

/// Elects the primary. The same evidence gives the same answer.
pub fn elect_planned(evidence: &Evidence<'_>, wish: &Wish) -> Result<Elected, NoCandidate> {
    check_named(evidence, wish)?;
    let mut rejected = BTreeMap::new();
    let mut candidates = Vec::new();
    for (alias, candidate) in evidence.tablets {
        if let Some(why) = reject_by_record(evidence, wish, alias, candidate) {
            rejected.insert(alias.clone(), why);
        } else if let Status::Unknown(reason) = &candidate.status {
            return Err(NoCandidate::StatusFailed { alias: alias.clone(), reason: reason.clone() });
        } else if let Some(why) = reject_by_status(wish, candidate) {
            rejected.insert(alias.clone(), why);
        } else {
            candidates.push(alias);
        }
    }
    let mut able = Vec::new();
    let mut unable = None;
    for alias in candidates {
        match can_establish(evidence.policy, &member(evidence, alias), &reached(evidence)) {
            Ok(established) => able.push((alias, established)),
            Err(not) => {
                rejected.insert(alias.clone(), Rejection::NotEstablished(not.clone()));
                unable.get_or_insert(not);
            }
        }
    }
    let among: Vec<&TabletAlias> = able.iter().map(|(alias, _)| *alias).collect();
    able.sort_by_cached_key(|(alias, _)| rank(evidence, alias, &among));
    let mut able = able.into_iter();
    match (able.next(), unable) {
        (Some((elect, established)), _) => {
            rejected.extend(able.map(|(alias, _)| (alias.clone(), why_not(evidence, elect, alias))));
            Ok(Elected { elect: elect.clone(), established, rejected })
        }
        (None, Some(not)) => Err(NoCandidate::NoProgress(not)),
        (None, None) => Err(NoCandidate::AllRejected { shard: evidence.shard.clone(), rejected }),
    }
}

/// A name is a wish, not a bypass: the tablet must exist and be promotable.
fn check_named(evidence: &Evidence<'_>, wish: &Wish) -> Result<(), NoCandidate> {
    let Some(alias) = &wish.named else { return Ok(()) };
    let Some(candidate) = evidence.tablets.get(alias) else {
        return Err(NoCandidate::Unknown { alias: alias.clone(), shard: evidence.shard.clone() });
    };
    match evidence.policy.promotion_rule(&member(evidence, alias)) {
        PromotionRule::MustNot
            if candidate.tagged == Some(PromotionRule::MustNot) && evidence.policy.could_be_primary(&member(evidence, alias)) =>
        {
            Err(NoCandidate::TaggedMustNot { alias: alias.clone() })
        }
        PromotionRule::MustNot => Err(NoCandidate::MustNot { alias: alias.clone(), tablet_type: candidate.tablet_type }),
        _ => Ok(()),
    }
}

/// What speaks against a tablet before it is asked anything.
fn reject_by_record(evidence: &Evidence<'_>, wish: &Wish, alias: &TabletAlias, candidate: &Candidate) -> Option<Rejection> {
    if let Some(named) = &wish.named {
        return (named != alias).then_some(Rejection::NotNamed);
    }
    if wish.avoid.as_ref() == Some(alias) {
        return Some(Rejection::Avoided);
    }
    match candidate.tablet_type {
        TabletType::Replica => {}
        TabletType::Primary => return Some(Rejection::RecordedPrimary),
        other => return Some(Rejection::MustNot(other)),
    }
    if candidate.tagged == Some(PromotionRule::MustNot) {
        return Some(Rejection::TaggedMustNot);
    }
    match evidence.recorded_primary {
        Some(primary) if !wish.allow_cross_cell && primary.cell != alias.cell => {
            Some(Rejection::OtherCell { primary: primary.cell.clone() })
        }
        _ if !candidate.reached => Some(Rejection::NotReached),
        _ => None,
    }
}

/// What its replication status says against a tablet. Unknown lag is forgiven to a named tablet: it has to catch up in any case.
fn reject_by_status(wish: &Wish, candidate: &Candidate) -> Option<Rejection> {
    let Status::Replica(replication) = &candidate.status else { return None };
    match (replication.lag, wish.tolerable_lag) {
        _ if replication.backup_running => Some(Rejection::InBackup),
        (None, None) if wish.named.is_some() => None,
        (None, _) => Some(Rejection::LagUnknown),
        (Some(lag), Some(tolerable)) if lag > tolerable => Some(Rejection::Lags { lag, tolerable }),
        _ => None,
    }
}

fn member(evidence: &Evidence<'_>, alias: &TabletAlias) -> Member {
    let (tablet_type, tagged) =
        evidence.tablets.get(alias).map_or((TabletType::Unknown, None), |candidate| (candidate.tablet_type, candidate.tagged));
    Member { alias: alias.clone(), tablet_type, tagged }
}

/// The tablets that answered: an acker that does not answer acknowledges nothing.
fn reached(evidence: &Evidence<'_>) -> Members {
    let reached = evidence.tablets.iter().filter(|(_, candidate)| candidate.reached);
    reached.map(|(alias, candidate)| (alias.clone(), candidate.tablet_type)).collect()
}

/// Received and executed position of a candidate.
fn progress<'a>(evidence: &'a Evidence<'_>, alias: &TabletAlias) -> (&'a Position, &'a Position) {
    match evidence.tablets.get(alias).map(|candidate| &candidate.status) {
        Some(Status::Replica(replication)) => (&replication.received, &replication.executed),
        Some(Status::NotReplica(executed)) => (executed, executed),
        Some(Status::Unknown(_)) | None => (&Position::None, &Position::None),
    }
}

/// Whether `a` is strictly further ahead: by what was received, and only where that is equal by what is executed.
fn ahead(a: (&Position, &Position), b: (&Position, &Position)) -> bool {
    let at_least = |a: (&Position, &Position), b: (&Position, &Position)| {
        if a.0 == b.0 { a.1.at_least(b.1) } else { a.0.at_least(b.0) }
    };
    at_least(a, b) && !at_least(b, a)
}

/// Positions are only partly ordered, and sorting by a partial order depends on the input's order. The number of candidates that are
/// ahead is a total order which agrees with it.
fn rank<'a>(
    evidence: &Evidence<'_>,
    alias: &'a TabletAlias,
    among: &[&TabletAlias],
) -> (usize, PromotionRule, Reverse<u64>, &'a TabletAlias) {
    let own = progress(evidence, alias);
    let ahead_of_it = among.iter().filter(|other| ahead(progress(evidence, other), own)).count();
    let pool = evidence.tablets.get(alias).map_or(0, |candidate| candidate.buffer_pool_pages);
    (ahead_of_it, evidence.policy.promotion_rule(&member(evidence, alias)), Reverse(pool), alias)
}

fn why_not(evidence: &Evidence<'_>, elect: &TabletAlias, alias: &TabletAlias) -> Rejection {
    if ahead(progress(evidence, elect), progress(evidence, alias)) { Rejection::Behind } else { Rejection::Outranked }
}
