//! The shard as a whole: who replicates at all, and what would stand in the way of a promotion.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Code, Problem,
    facts::{Facts, is_replica_type, names, report},
};
use crate::{
    shard::{Link, TabletStatus, TabletView},
    topo::TabletAlias,
};

/// Warnings about the shard's structure; nothing here is done by a program.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(nobody_replicates(facts));
    found.extend(dead_intermediates(facts));
    found.extend(facts.view.tablets.iter().filter_map(|(alias, tablet)| went_backwards(alias, tablet)));
    if let Some((alias, _)) = facts.primary {
        found.extend(differences(facts, alias));
    }
    found
}

/// The primary answers, and none of its replicas replicates.
fn nobody_replicates(facts: &Facts) -> Option<Problem> {
    let (alias, primary) = facts.primary.filter(|(_, primary)| primary.mysql.works())?;
    let replicas: Vec<(&TabletAlias, &TabletView)> =
        facts.replicas().filter(|(_, tablet)| is_replica_type(tablet.declared_type())).collect();
    let valid: Vec<&TabletStatus> = replicas.iter().filter_map(|(_, tablet)| facts.status(tablet)).collect();
    let replicates = |status: &&&TabletStatus| {
        let replication = status.replication.as_ref();
        replication.is_some_and(|one| primary.is_source_of(one) && one.link() == Link::Up && one.sql_running)
    };
    if valid.iter().any(|status| replicates(&status)) {
        return None;
    }
    let code = match (replicas.len(), valid.len()) {
        (0, _) => return None,
        (1, 0) => Code::PrimarySingleReplicaDead,
        (1, _) => Code::PrimarySingleReplicaNotReplicating,
        (_, 0) => return None,
        (n, v) if n == v => Code::AllPrimaryReplicasNotReplicating,
        _ => Code::AllPrimaryReplicasNotReplicatingOrDead,
    };
    Some(report(code, alias, format!("of {} replica(s) {} answer(s), and none replicates from it", replicas.len(), valid.len())))
}

/// A replica that does not answer, and that others replicated from and have lost. They are pointed at the primary; it stays reported.
fn dead_intermediates(facts: &Facts) -> Vec<Problem> {
    let dead = facts.replicas().filter(|(_, tablet)| tablet.mysql.failing.is_some());
    let lost = dead.filter_map(|(alias, tablet)| {
        let below: Vec<(&TabletAlias, Link)> = facts.below(tablet).collect();
        let all_lost = !below.is_empty() && below.iter().all(|(_, link)| *link == Link::Lost);
        all_lost
            .then(|| report(Code::DeadIntermediatePrimary, alias, format!("lost by {}", names(below.iter().map(|(of, _)| *of)))))
    });
    lost.collect()
}

/// Reported also while it does not answer: what it says of itself when it is back is not what it said before.
fn went_backwards(alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
    let vanished = &tablet.vanished;
    let why = || format!("it lacks {} transaction(s) that it had executed before: {vanished}", vanished.count());
    (!vanished.is_empty()).then(|| report(Code::PositionsWentBackwards, alias, why()))
}

fn differences(facts: &Facts, primary: &TabletAlias) -> Vec<Problem> {
    let known: Vec<(&TabletAlias, &TabletStatus)> = facts
        .view
        .tablets
        .iter()
        .filter(|(alias, tablet)| *alias == primary || is_replica_type(tablet.declared_type()))
        .filter_map(|(alias, tablet)| Some((alias, facts.status(tablet).filter(|status| !status.disk_stalled)?)))
        .collect();
    let logging: Vec<_> = known.iter().copied().filter(|(_, status)| status.log_bin && status.log_replica_updates).collect();
    let mut found = Vec::new();
    let mut replicas = known.iter().filter(|(alias, _)| *alias != primary).peekable();
    if replicas.peek().is_some() && logging.iter().all(|(alias, _)| *alias == primary) {
        found.push(report(Code::NoLoggingReplicas, primary, "no replica keeps a binary log of what it applies"));
    }
    let mut differ = |code, groups: BTreeMap<String, BTreeSet<TabletAlias>>, alone: bool| {
        if groups.len() > 1 || alone {
            let told: Vec<String> = groups.iter().map(|(value, of)| format!("{value}: {}", names(of))).collect();
            found.push(report(code, primary, told.join("; ")));
        }
    };
    differ(Code::MixedBinlogFormats, grouped(&logging, |status| status.binlog_format.clone()), false);
    differ(Code::MixedVersions, grouped(&logging, |status| series(&status.version)), false);
    let modes = grouped(&known, |status| status.gtid_mode.clone());
    let off = modes.keys().any(|mode| mode != "ON");
    differ(Code::GtidModesDiffer, modes, off);
    found
}

fn grouped(
    of: &[(&TabletAlias, &TabletStatus)],
    by: impl Fn(&TabletStatus) -> String,
) -> BTreeMap<String, BTreeSet<TabletAlias>> {
    let mut groups: BTreeMap<String, BTreeSet<TabletAlias>> = BTreeMap::new();
    for (alias, status) in of {
        groups.entry(by(status)).or_default().insert((*alias).clone());
    }
    groups
}

/// `8.0.36` is of the series 8.0.
fn series(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}
