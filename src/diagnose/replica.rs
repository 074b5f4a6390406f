//! Replicas: whether they answer, what they follow, whether they replicate, and what they have that nobody else has.

use super::{
    Code, Problem, Remedy, Repair,
    facts::{Facts, is_replica_type, names, problem, report, secs},
};
use crate::{
    pb::topodata::TabletType,
    shard::{IoError, IoState, Link, Replication, SqlError, TabletStatus, TabletView, is_disk_full, is_file_system_read_only},
    topo::TabletAlias,
};

/// Problems of single replicas. DRAINED, BACKUP and RESTORE tablets are left alone, and those that were shut down on purpose.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let analysed = facts.replicas().filter(|(_, tablet)| is_replica_type(tablet.declared_type()));
    analysed.flat_map(|(alias, tablet)| Replica { facts, alias, tablet }.problems()).collect()
}

struct Replica<'a> {
    facts: &'a Facts<'a>,
    alias: &'a TabletAlias,
    tablet: &'a TabletView,
}

impl Replica<'_> {
    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        found.extend(self.out_of_sight());
        found.extend(self.errant());
        let Some(status) = self.facts.status(self.tablet) else { return found };
        found.extend(self.writable(status));
        found.extend(self.offline(status));
        if self.facts.primary.is_none() {
            return found;
        }
        let rebuild = self.needs_rebuild(status);
        let to_be_rebuilt = rebuild.is_some();
        found.extend(rebuild);
        match &status.replication {
            None => found.push(self.connect(Code::NotConnectedToPrimary, "it has no source".to_owned(), to_be_rebuilt)),
            Some(replication) => {
                found.extend(self.source(replication, to_be_rebuilt));
                found.extend(self.threads(replication, to_be_rebuilt));
                found.extend(self.settings(status, replication));
            }
        }
        found
    }

    fn report(&self, code: Code, why: impl Into<String>) -> Problem {
        report(code, self.alias, why)
    }

    fn out_of_sight(&self) -> Option<Problem> {
        let failing = self.tablet.mysql.failing.as_ref()?;
        match &self.tablet.status {
            None => Some(self.report(Code::InvalidReplica, format!("it has never answered: {}", failing.words))),
            Some(_) if failing.since < self.facts.rules.silent_for => None,
            Some(_) => {
                let why = format!("its MySQL does not answer for {}: {}", secs(failing.since), failing.words);
                Some(self.report(Code::UnreachableReplica, why))
            }
        }
    }

    /// Whether it has transactions that the primary lacks: such a tablet refuses to follow.
    fn is_errant(&self) -> bool {
        self.tablet.errant.as_ref().is_some_and(|errant| !errant.is_empty())
    }

    fn errant(&self) -> Option<Problem> {
        let errant = self.tablet.errant.as_ref().filter(|errant| !errant.is_empty())?;
        let why = format!("it has transactions that the primary lacks: {errant}");
        let spare = self.facts.can_spare(self.alias);
        let (why, remedy) = match self.facts.rules.drain_errant && self.facts.can_be_followed() {
            true if spare => (why, Remedy::Fix(Repair::Drain)),
            true => (format!("{why}; without it too few replicas acknowledge, so it is not drained"), Remedy::Report),
            false => (why, Remedy::Report),
        };
        Some(problem(Code::ErrantGTIDDetected, self.alias, why, remedy))
    }

    /// A replica that takes writes, unless it is what really works, or may have been promoted this moment.
    fn writable(&self, status: &TabletStatus) -> Option<Problem> {
        if status.read_only || status.disk_stalled {
            return None;
        }
        let (why, remedy) = match () {
            () if self.facts.primary.is_none() => ("it takes writes, and nobody knows the primary", Remedy::Report),
            () if self.facts.acting_instead().is_some() => ("it takes writes in the declared primary's place", Remedy::Report),
            () if status.tablet_type == TabletType::Primary => ("it takes writes, and believes to be primary", Remedy::Report),
            () => ("it takes writes", Remedy::Fix(Repair::MakeReadOnly)),
        };
        Some(problem(Code::ReplicaIsWritable, self.alias, why, remedy))
    }

    /// A replica that lets no client in. MySQL does not say who wanted that: a fence of a failover that is over, or a person.
    fn offline(&self, status: &TabletStatus) -> Option<Problem> {
        let lasts = self.facts.refuses_clients_for(self.tablet)?;
        let hindrance = match () {
            () if !status.read_only => "it takes writes",
            () if self.facts.link(self.tablet) != Link::Up => "it does not follow the primary",
            () if self.is_errant() => "it has transactions that the primary lacks",
            () if !self.facts.can_be_followed() => "the declared primary does not work as one",
            () if lasts < self.facts.rules.offline_for => "it has not lasted long enough",
            () => {
                let why = format!("it is in offline_mode for {} and follows the primary", secs(lasts));
                return Some(problem(Code::ReplicaIsOffline, self.alias, why, Remedy::Fix(Repair::LiftFence)));
            }
        };
        let why = format!("it is in offline_mode for {}; left as it is: {hindrance}", secs(lasts));
        Some(self.report(Code::ReplicaIsOffline, why))
    }

    /// The primary has purged what it lacks: pointing it there again and again helps nobody.
    fn needs_rebuild(&self, status: &TabletStatus) -> Option<Problem> {
        let (primary, _, of_primary) = self.facts.primary_status()?;
        if self.facts.link(self.tablet) == Link::Up {
            return None;
        }
        let purged = of_primary.purged.as_ref().zip(status.received.as_ref());
        let lacks = purged.map(|(purged, received)| purged.subtract(received)).filter(|lacks| !lacks.is_empty());
        if let Some(lacks) = lacks {
            return Some(self.report(Code::ReplicaNeedsRebuild, format!("{primary} has purged what it lacks: {lacks}")));
        }
        let error = &status.replication.as_ref()?.io_error;
        let follows = self.facts.link(self.tablet) == Link::Broken;
        (follows && IoError::of(error) == IoError::Purged).then(|| self.report(Code::ReplicaNeedsRebuild, error.clone()))
    }

    /// Pointed at the primary, if that is one that can be followed, and if it could follow at all.
    fn connect(&self, code: Code, why: String, to_be_rebuilt: bool) -> Problem {
        let hindrance = match () {
            () if !self.facts.can_be_followed() => "the declared primary does not work as one",
            () if self.is_errant() => "it has transactions that the primary lacks",
            () if to_be_rebuilt => "the primary has purged what it lacks",
            () if self.facts.status(self.tablet).is_some_and(|status| !status.read_only) => "it takes writes",
            () => return problem(code, self.alias, why, Remedy::Fix(Repair::Connect)),
        };
        self.report(code, format!("{why}; left as it is: {hindrance}"))
    }

    fn source(&self, replication: &Replication, to_be_rebuilt: bool) -> Option<Problem> {
        let (_, primary) = self.facts.primary?;
        let at_its_address = primary.is_at(&replication.source_host, replication.source_port);
        if at_its_address || (primary.is_source_of(replication) && (replication.link() == Link::Up || primary.is_shut_down())) {
            return None;
        }
        match self.facts.view.tablet_at(&replication.source_host, replication.source_port) {
            Some(other) => Some(self.connect(Code::ConnectedToWrongPrimary, format!("its source is {other}"), to_be_rebuilt)),
            None if primary.is_shut_down() => None,
            None if primary.is_source_of(replication) => {
                let why = format!(
                    "its source is the primary at {}:{}, where it is no more",
                    replication.source_host, replication.source_port
                );
                Some(self.connect(Code::ConnectedToWrongPrimary, why, to_be_rebuilt))
            }
            None => {
                let why = format!(
                    "its source is {}:{}, which no tablet's record names",
                    replication.source_host, replication.source_port
                );
                Some(self.connect(Code::ReplicaOfUnknownServer, why, to_be_rebuilt))
            }
        }
    }

    /// Threads of a replica of the primary: what stopped is started, unless it would stop again.
    fn threads(&self, replication: &Replication, to_be_rebuilt: bool) -> Option<Problem> {
        let here =
            |primary: &TabletView| primary.is_at(&replication.source_host, replication.source_port) || primary.is_shut_down();
        let (_, primary) = self.facts.primary.filter(|(_, primary)| primary.is_source_of(replication) && here(primary))?;
        let (io, sql) = (&replication.io_error, &replication.sql_error);
        let sql_stopped = !replication.sql_running;
        let disk = [io, sql].into_iter().find(|text| is_disk_full(text) || is_file_system_read_only(text));
        if let Some(text) = disk.filter(|_| replication.io != IoState::Running || sql_stopped) {
            return Some(self.report(Code::ReplicaDiskFull, text.clone()));
        }
        if replication.link() == Link::Broken && !to_be_rebuilt {
            let passes = IoError::of(io) == IoError::Other && replication.io == IoState::Stopped;
            if !passes {
                return Some(self.report(Code::ReplicationBroken, io.clone()));
            }
        }
        if sql_stopped && SqlError::of(sql) == SqlError::Incurable {
            return Some(self.report(Code::ReplicationBroken, sql.clone()));
        }
        let stopped = match (replication.io == IoState::Stopped, sql_stopped) {
            (true, true) => "both threads are stopped",
            (true, false) => "its IO thread is stopped",
            (false, true) => "its SQL thread is stopped",
            (false, false) => return None,
        };
        let error = [io, sql].into_iter().find(|text| !text.is_empty()).map_or_else(String::new, |text| format!(": {text}"));
        let hindrance = match () {
            () if to_be_rebuilt => "the primary has purged what it lacks",
            () if replication.backup_running => "a backup is being taken",
            () if !self.facts.can_be_followed() => "the declared primary does not work as one",
            () if primary.is_shut_down() => "its primary was shut down",
            () => {
                return Some(problem(
                    Code::ReplicationStopped,
                    self.alias,
                    format!("{stopped}{error}"),
                    Remedy::Fix(Repair::StartReplication),
                ));
            }
        };
        Some(self.report(Code::ReplicationStopped, format!("{stopped}{error}; left as it is: {hindrance}")))
    }

    fn settings(&self, status: &TabletStatus, replication: &Replication) -> Vec<Problem> {
        let mut found = Vec::new();
        let twice = (status.heartbeat * 2).as_secs_f64().round();
        if !status.replica_net_timeout.is_zero() && twice != status.replica_net_timeout.as_secs_f64() {
            let why = format!("heartbeat {:?}, replica_net_timeout {:?}", status.heartbeat, status.replica_net_timeout);
            let fix = self.facts.can_be_followed() && !self.is_errant();
            let remedy = if fix { Remedy::Fix(Repair::FixHeartbeat) } else { Remedy::Report };
            found.push(problem(Code::ReplicaMisconfigured, self.alias, why, remedy));
        }
        if replication.has_filters {
            found.push(self.report(Code::ReplicationFilters, "filters leave transactions out: it cannot be promoted"));
        }
        if !replication.auto_position {
            found.push(self.report(Code::ReplicaWithoutAutoPosition, "it replicates by file and position"));
        }
        if self.facts.lags(replication) {
            let lag = replication.lag.unwrap_or_default();
            found.push(self.report(Code::LaggingReplica, format!("it is {} behind", secs(lag))));
        }
        found.extend(self.intermediate());
        found
    }

    fn intermediate(&self) -> Option<Problem> {
        let below: Vec<&TabletAlias> = self.facts.below(self.tablet).map(|(alias, _)| alias).collect();
        (!below.is_empty()).then(|| self.report(Code::IntermediatePrimary, format!("{} replicate from it", names(below))))
    }
}
