//! What every family of problems asks of a view.

use std::time::Duration;

use super::{Code, Problem, Remedy, Rules};
use crate::{
    pb::topodata::TabletType,
    shard::{FailureClass, Link, Replication, ShardView, TabletStatus, TabletView},
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
    pub fn status(&self, tablet: &'a TabletView) -> Option<&'a TabletStatus> {
        self.status_since(tablet, Duration::MAX)
    }

    /// The same, and the question was sent less than `since` ago.
    pub fn status_since(&self, tablet: &'a TabletView, since: Duration) -> Option<&'a TabletStatus> {
        let seen =
            tablet.status.as_ref().filter(|seen| tablet.mysql.failing.is_none() && seen.age <= self.rules.status_max_age)?;
        (seen.age < since).then_some(&*seen.what)
    }

    /// The declared primary with its status, when that is good enough.
    pub fn primary_status(&self) -> Option<(&'a TabletAlias, &'a TabletView, &'a TabletStatus)> {
        let (alias, tablet) = self.primary?;
        Some((alias, tablet, self.status(tablet)?))
    }

    /// Whether this replica has the primary, by a status that is good enough.
    pub fn link(&self, replica: &'a TabletView) -> Link {
        self.link_since(replica, Duration::MAX)
    }

    /// The same, by a status that was asked for less than `since` ago.
    pub fn link_since(&self, replica: &'a TabletView, since: Duration) -> Link {
        let Some(status) = self.status_since(replica, since) else { return Link::Unknown };
        match (&status.replication, self.primary) {
            (Some(replication), Some((_, primary))) if primary.is_source_of(replication) => replication.link(),
            _ => Link::Elsewhere,
        }
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
