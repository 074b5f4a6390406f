//! What every family of problems asks of a view.

use std::{collections::BTreeSet, time::Duration};

use super::{Code, Problem, Remedy, Rules};
use crate::{
    pb::topodata::TabletType,
    shard::{FailureClass, Link, OfflineMode, Replication, ShardView, TabletStatus, TabletView},
    topo::TabletAlias,
};

/// A view with its rules and what follows from them at once.
pub(super) struct Facts<'a> {
    pub view: &'a ShardView,
    pub rules: &'a Rules,
    /// The declared primary, where its tablet is known.
    pub primary: Option<(&'a TabletAlias, &'a TabletView)>,
}

impl<'a> Facts<'a> {
    pub fn of(view: &'a ShardView, rules: &'a Rules) -> Self {
        let primary = view.primary().and_then(|alias| view.tablets.get_key_value(alias));
        Self { view, rules, primary }
    }

    /// Tablets that should replicate from the primary: every one of a type that does, also a former primary whose record is old.
    pub fn replicas(&self) -> impl Iterator<Item = (&'a TabletAlias, &'a TabletView)> {
        self.others().filter(|(_, tablet)| replicates(tablet) && !tablet.is_shut_down())
    }

    /// Every tablet but the primary.
    pub fn others(&self) -> impl Iterator<Item = (&'a TabletAlias, &'a TabletView)> {
        let primary = self.primary.map(|(alias, _)| alias);
        self.view.tablets.iter().filter(move |(alias, _)| Some(*alias) != primary)
    }

    /// A tablet's status that is good enough to act on: its MySQL answers, and did so lately.
    pub fn status<'t>(&self, tablet: &'t TabletView) -> Option<&'t TabletStatus> {
        self.status_since(tablet, Duration::MAX)
    }

    /// The same, and the question was sent less than `since` ago.
    pub fn status_since<'t>(&self, tablet: &'t TabletView, since: Duration) -> Option<&'t TabletStatus> {
        let seen =
            tablet.status.as_ref().filter(|seen| tablet.mysql.failing.is_none() && seen.age <= self.rules.status_max_age)?;
        let of_this_term = self.view.primary_for.is_none_or(|named| seen.age <= named);
        (seen.age < since && of_this_term).then_some(&*seen.what)
    }

    /// The declared primary with its status, when that is good enough.
    pub fn primary_status(&self) -> Option<(&'a TabletAlias, &'a TabletView, &'a TabletStatus)> {
        let (alias, tablet) = self.primary?;
        Some((alias, tablet, self.status(tablet)?))
    }

    /// Whether this replica has the primary, by a status that is good enough.
    pub fn link(&self, replica: &TabletView) -> Link {
        self.link_since(replica, Duration::MAX)
    }

    /// The same, by a status that was asked for less than `since` ago.
    pub fn link_since(&self, replica: &TabletView, since: Duration) -> Link {
        let Some(status) = self.status_since(replica, since) else { return Link::Unknown };
        match (&status.replication, self.primary) {
            (Some(replication), Some((_, primary))) if primary.is_source_of(replication) => replication.link(),
            _ => Link::Elsewhere,
        }
    }

    /// The type in the declared primary's record.
    pub fn declared_type(&self) -> Option<TabletType> {
        self.primary.map(|(_, tablet)| tablet.declared_type())
    }

    /// Whether the declared primary works well enough to have others pointed at it: it answers, nobody works in its place, and while it is
    /// read-only it follows nobody itself.
    pub fn can_be_followed(&self) -> bool {
        let Some((_, tablet, status)) = self.primary_status() else { return false };
        let answers = answers(tablet) && tablet.manager.failing.is_none() && !status.disk_stalled;
        let follows = status.read_only && status.replication.is_some();
        answers && !follows && self.declared_type() == Some(TabletType::Primary) && self.acting_instead().is_none()
    }

    /// Tablets that are writable and replicated from, beside the declared primary.
    pub fn rivals(&self) -> BTreeSet<TabletAlias> {
        let acts = |tablet: &TabletView| {
            let writable = self.status(tablet).is_some_and(|status| !status.read_only && !status.disk_stalled);
            writable && self.below(tablet).any(|(_, link)| link == Link::Up)
        };
        self.others().filter(|(_, tablet)| acts(tablet)).map(|(alias, _)| alias.clone()).collect()
    }

    /// Who works in the place of a declared primary that takes no writes.
    pub fn acting_instead(&self) -> Option<&'a TabletAlias> {
        let (_, _, status) = self.primary_status()?;
        let rivals = self.rivals();
        let mut acting = self.view.tablets.keys().filter(|alias| rivals.contains(*alias));
        acting.next().filter(|_| status.read_only && rivals.len() == 1)
    }

    /// Replicas that have the primary and acknowledge as the policy lets them.
    pub fn ackers(&self) -> BTreeSet<TabletAlias> {
        let (Some((primary, _)), Ok(policy)) = (self.primary, &self.view.keyspace.policy) else { return BTreeSet::new() };
        let of = self.view.member(primary);
        let acknowledges = |(alias, replica): &(&TabletAlias, &TabletView)| {
            let enabled =
                self.status(replica).is_some_and(|status| status.semi_sync_replica_enabled && status.semi_sync_replica_active);
            enabled && self.link(replica) == Link::Up && policy.may_ack(&of, &self.view.member(alias))
        };
        self.others().filter(acknowledges).map(|(alias, _)| alias.clone()).collect()
    }

    /// Whether enough others acknowledge without that one.
    pub fn can_spare(&self, alias: &TabletAlias) -> bool {
        let (Some((primary, _)), Ok(policy)) = (self.primary, &self.view.keyspace.policy) else { return false };
        let mut ackers = self.ackers();
        ackers.remove(alias);
        ackers.len() >= policy.acks_needed(&self.view.member(primary))
    }

    /// Tablets whose source is that one, and whether they have it.
    pub fn below(&self, source: &TabletView) -> impl Iterator<Item = (&'a TabletAlias, Link)> {
        self.view.tablets.iter().filter_map(|(alias, tablet)| {
            let replication = self.status(tablet)?.replication.as_ref()?;
            source.is_source_of(replication).then(|| (alias, replication.link()))
        })
    }

    /// Whether some replica has the primary, applies what it receives, and has no trouble of its own.
    pub fn has_healthy_replica(&self) -> bool {
        self.replicas().any(|(_, replica)| {
            let replication = self.status(replica).and_then(|status| status.replication.as_ref());
            self.link(replica) == Link::Up && replication.is_some_and(|replication| replication.sql_running)
        })
    }

    /// For how long its server is known to refuse clients, not longer than under this primary; `None` = it does not, or nobody knows.
    pub fn refuses_clients_for(&self, tablet: &TabletView) -> Option<Duration> {
        let seen = tablet.offline.as_ref().filter(|seen| seen.age <= self.rules.status_max_age)?;
        let OfflineMode::On { since } = seen.what else { return None };
        let named = self.view.primary_for.unwrap_or(Duration::MAX);
        (seen.age <= named).then(|| since.min(named))
    }

    /// Whether its replication is further behind than is reasonable.
    pub fn lags(&self, replication: &Replication) -> bool {
        replication.lag.is_some_and(|lag| lag > self.rules.reasonable_replication_lag + replication.delay)
    }
}

/// Whether tablets of that record replicate: a former primary does, or will.
pub(super) fn replicates(tablet: &TabletView) -> bool {
    is_replica_type(tablet.declared_type()) || tablet.declared_type() == TabletType::Primary
}

/// Types that are analysed as replicas: those that Vitess connects to a primary.
pub(super) fn is_replica_type(of: TabletType) -> bool {
    matches!(of, TabletType::Replica | TabletType::Rdonly | TabletType::Spare | TabletType::Experimental)
}

/// Whether it answers now: it did, and nothing has failed since.
pub(super) fn answers(tablet: &TabletView) -> bool {
    tablet.mysql.works()
}

/// A problem of a tablet.
pub(super) fn problem(code: Code, tablet: &TabletAlias, why: impl Into<String>, remedy: Remedy) -> Problem {
    Problem { code, tablet: Some(tablet.clone()), why: why.into(), remedy }
}

/// A problem that is only reported.
pub(super) fn report(code: Code, tablet: &TabletAlias, why: impl Into<String>) -> Problem {
    problem(code, tablet, why, Remedy::Report)
}

/// Seconds for a person.
pub(super) fn secs(age: Duration) -> String {
    format!("{:.1} s", age.as_secs_f64())
}

/// Several names for a person.
pub(super) fn names<'t>(aliases: impl IntoIterator<Item = &'t TabletAlias>) -> String {
    let all: Vec<String> = aliases.into_iter().map(ToString::to_string).collect();
    if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
}

/// How a failure is told.
pub(super) fn how(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Refused => "nobody listens there",
        FailureClass::Closed => "the connection was closed",
        FailureClass::TooManyConnections => "it takes no further connection",
        FailureClass::Silent => "no answer in time",
        FailureClass::Answered => "it answers with an error",
    }
}
