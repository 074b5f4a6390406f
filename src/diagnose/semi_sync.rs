//! Semi-sync as the policy wants it, switched in an order in which no write ever waits for nobody.

use super::{
    Code, Ground, Problem, Remedy, Repair,
    facts::{Facts, is_replica_type, names, problem, report},
};
use crate::{
    durability::Policy,
    shard::{Link, TabletStatus, TabletView},
    topo::TabletAlias,
};

/// A finite timeout below that lets a primary go on without an acknowledgement while people are still awake (safety rules, section 4).
const TIMEOUT_MIN_MS: u64 = 3_600_000;

/// Problems of semi-sync on the declared primary and its replicas.
pub(super) fn problems(facts: &Facts) -> Vec<Problem> {
    let (Some((alias, _, status)), Ok(policy)) = (facts.primary_status(), &facts.view.keyspace.policy) else { return Vec::new() };
    if status.disk_stalled {
        return Vec::new();
    }
    let needed = policy.acks_needed(&facts.view.member(alias));
    let primary = Primary { facts, alias, status, policy: &**policy, needed };
    let mut found = Vec::new();
    found.extend(primary.commits_hang());
    found.extend(primary.switched());
    found.extend(primary.settings());
    found.extend(primary.too_few());
    let replicas = facts.replicas().filter(|(_, tablet)| is_replica_type(tablet.declared_type()));
    found.extend(replicas.filter_map(|(replica, tablet)| primary.replica(replica, tablet)));
    found
}

struct Primary<'a> {
    facts: &'a Facts<'a>,
    alias: &'a TabletAlias,
    status: &'a TabletStatus,
    policy: &'a dyn Policy,
    needed: usize,
}

impl Primary<'_> {
    fn enough_ackers(&self) -> bool {
        self.facts.ackers().len() >= self.needed
    }

    /// Commits hang though replicas that may acknowledge have the primary: it is the primary's fault. With too few of them it is theirs,
    /// and mending them mends it.
    fn commits_hang(&self) -> Option<Problem> {
        let (clients, wait) = (self.status.semi_sync_clients, self.status.semi_sync_wait_count);
        let short = self.status.semi_sync_primary_enabled && self.status.semi_sync_primary_active && clients < wait;
        let waits = format!("it waits for {wait} acknowledgement(s), and {clients} replica(s) are connected that give one");
        let ackers = self.facts.ackers();
        match self.status.semi_sync_blocked {
            true if self.needed > 0 && ackers.len() >= self.needed.max(wait as usize) => {
                let why = format!("commits hang, though {} have it and may acknowledge", names(&ackers));
                Some(problem(Code::PrimarySemiSyncBlocked, self.alias, why, Remedy::Emergency(Ground::PrimaryIncapable)))
            }
            true => Some(report(Code::LockedSemiSyncPrimary, self.alias, format!("commits hang: {waits}"))),
            false if short => Some(report(Code::LockedSemiSyncPrimaryHypothesis, self.alias, waits)),
            false => None,
        }
    }

    fn switched(&self) -> Option<Problem> {
        let follow = self.facts.can_be_followed();
        let fix = |code, why: &str| Some(problem(code, self.alias, why, Remedy::Fix(Repair::SemiSyncPrimary)));
        match (self.needed > 0, self.status.semi_sync_primary_enabled) {
            (true, false) if follow && self.enough_ackers() => {
                fix(Code::PrimarySemiSyncMustBeSet, "semi-sync is off, and the policy wants it")
            }
            (true, false) => {
                let why = "semi-sync is off, and the policy wants it; too few replicas would acknowledge yet";
                Some(report(Code::PrimarySemiSyncMustBeSet, self.alias, why))
            }
            (false, true) if follow => fix(Code::PrimarySemiSyncMustNotBeSet, "semi-sync is on, and the policy wants none"),
            (false, true) => {
                Some(report(Code::PrimarySemiSyncMustNotBeSet, self.alias, "semi-sync is on, and the policy wants none"))
            }
            _ => None,
        }
    }

    /// What would let a commit go unacknowledged is set right as soon as that stalls no write; what waits for too many is reported.
    fn settings(&self) -> Option<Problem> {
        if self.needed == 0 || !self.status.semi_sync_primary_enabled {
            return None;
        }
        let (timeout_ms, wait) = (self.status.semi_sync_timeout_ms, self.status.semi_sync_wait_count as usize);
        let mut wrong = Vec::new();
        if timeout_ms < TIMEOUT_MIN_MS {
            wrong.push(format!("after {timeout_ms} ms it goes on without an acknowledgement"));
        }
        if wait != self.needed {
            wrong.push(format!("it waits for {wait} acknowledgement(s), the policy wants {}", self.needed));
        }
        let too_weak = timeout_ms < TIMEOUT_MIN_MS || wait < self.needed;
        let can = too_weak && self.facts.can_be_followed() && self.enough_ackers();
        let remedy = if can { Remedy::Fix(Repair::SemiSyncPrimary) } else { Remedy::Report };
        (!wrong.is_empty()).then(|| problem(Code::PrimarySemiSyncMisconfigured, self.alias, wrong.join("; "), remedy))
    }

    fn too_few(&self) -> Option<Problem> {
        let ackers = self.facts.ackers();
        let why = match self.policy.too_narrow(&ackers) {
            _ if self.needed == 0 => return None,
            _ if ackers.len() < self.needed => {
                format!("{} acknowledge(s), and the policy wants {}: {}", ackers.len(), self.needed, names(&ackers))
            }
            Some(narrow) => format!("{} acknowledge: {narrow}", names(&ackers)),
            None => return None,
        };
        Some(report(Code::NotEnoughAckers, self.alias, why))
    }

    /// A replica's side: on before the primary's, off after it.
    fn replica(&self, alias: &TabletAlias, tablet: &TabletView) -> Option<Problem> {
        let status = self.facts.status(tablet)?;
        let follows =
            status.replication.as_ref().zip(self.facts.primary).is_some_and(|(replication, (_, p))| p.is_source_of(replication));
        if !follows {
            return None;
        }
        let view = self.facts.view;
        let wanted = self.needed > 0 && self.policy.may_ack(&view.member(self.alias), &view.member(alias));
        let fix = |code, why: &str| Some(problem(code, alias, why, Remedy::Fix(Repair::SemiSyncReplica)));
        match (wanted, status.semi_sync_replica_enabled) {
            (true, false) if self.facts.can_be_followed() => {
                fix(Code::ReplicaSemiSyncMustBeSet, "it is to acknowledge, and does not")
            }
            (true, false) => Some(report(Code::ReplicaSemiSyncMustBeSet, alias, "it is to acknowledge, and does not")),
            // Switched on after its IO thread had connected: that takes effect with the next connection.
            (true, true)
                if !status.semi_sync_replica_active && self.facts.link(tablet) == Link::Up && self.facts.can_be_followed() =>
            {
                fix(Code::ReplicaSemiSyncMustBeSet, "it is to acknowledge, and its connection does not do so yet")
            }
            (false, true) => {
                let waits = self.status.semi_sync_primary_enabled;
                let why = "it acknowledges, and is not to";
                match self.facts.can_be_followed() && (!waits || (self.needed > 0 && self.enough_ackers())) {
                    true => fix(Code::ReplicaSemiSyncMustNotBeSet, why),
                    false => Some(report(Code::ReplicaSemiSyncMustNotBeSet, alias, format!("{why}; the primary still needs it"))),
                }
            }
            _ => None,
        }
    }
}
