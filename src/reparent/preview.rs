//! The record of a planned reparent's decision.

use super::{
    Branch, Mode, Planned, ReparentError,
    decision::{Decision, ProofLine, TabletDecision},
    declared::Declared,
    observed::Observed,
    plan,
};
use crate::{
    elect::{Candidate, Elected, Status},
    topo::TabletAlias,
};

const OPERATION: &str = "PlannedReparentShard";

fn empty(declared: &Declared) -> Decision {
    Decision {
        operation: OPERATION,
        shard: declared.shard.clone(),
        policy: declared.policy.name().to_owned(),
        old_primary: declared.current_primary().or(declared.primary.as_ref()).cloned(),
        elect: None,
        source: None,
        proofs: Vec::new(),
        tablets: Default::default(),
        caveats: Vec::new(),
        steps: Vec::new(),
        refusal: None,
    }
}

/// There is nothing to do.
pub(super) fn nothing(declared: &Declared, primary: &TabletAlias) -> Decision {
    let steps = vec![format!("nothing: {primary} is primary, and it is not the one to avoid")];
    Decision { elect: Some(primary.clone()), steps, ..empty(declared) }
}

/// What would be done, or why not.
pub(super) fn decision(
    declared: &Declared,
    request: &Planned,
    elected: Result<&(Observed, Elected, Branch), &ReparentError>,
) -> Decision {
    let (observed, elected, branch) = match elected {
        Ok((observed, elected, branch)) => (observed, elected, *branch),
        Err(error) => return Decision { refusal: Some(error.to_string()), ..empty(declared) },
    };
    let tablets = observed.candidates(declared).into_iter().map(|(alias, candidate)| {
        let rejected = elected.rejected.get(&alias).map(ToString::to_string);
        let told = tablet(declared, &alias, &candidate, rejected);
        (alias, told)
    });
    let ackers = elected.established.ackers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let because = match elected.established.acks_needed {
        0 => "no acknowledgement is needed".to_owned(),
        needed => format!("{needed} of {ackers} acknowledge"),
    };
    let established = ProofLine { name: "established", holds: true, because };
    let tablets = tablets.collect();
    let steps = steps(declared, observed, request, &elected.elect, branch);
    Decision { elect: Some(elected.elect.clone()), proofs: vec![established], tablets, steps, ..empty(declared) }
}

fn tablet(declared: &Declared, alias: &TabletAlias, candidate: &Candidate, rejected: Option<String>) -> TabletDecision {
    let (received, executed) = match &candidate.status {
        Status::Replica(replication) => (replication.received.encode(), replication.executed.encode()),
        Status::NotReplica(executed) => (executed.encode(), executed.encode()),
        Status::Unknown(_) => Default::default(),
    };
    let reach = match (&candidate.reached, &candidate.status) {
        (true, Status::Unknown(reason)) => format!("answers, but: {reason}"),
        (true, _) => "answers".to_owned(),
        (false, _) => "not reached".to_owned(),
    };
    let tablet_type = declared.tablet_type(alias).as_str_name().to_owned();
    TabletDecision { tablet_type, reach, received, executed, errant: String::new(), rejected }
}

fn steps(declared: &Declared, observed: &Observed, request: &Planned, elect: &TabletAlias, branch: Branch) -> Vec<String> {
    let last = [format!("promote {elect}, and point everybody else at it"), format!("write the reparent-journal row on {elect}")];
    let first = match (branch, declared.current_primary()) {
        (Branch::Graceful, Some(old)) => {
            let mut steps = vec![format!("let {elect} catch up with {old}")];
            steps.push(match (request.mode, plan::nudged(declared, observed, old, elect)) {
                (Mode::Abrupt, _) => format!("make {old} read-only at once: running transactions fail"),
                (Mode::Graceful, Some(spare)) => {
                    format!("demote {old}: running transactions may finish; stop replication of {spare} for a moment, which wakes {old}")
                }
                (Mode::Graceful, None) => format!("demote {old}: running transactions may finish"),
            });
            steps.push(format!("let {elect} apply everything up to there"));
            steps
        }
        (Branch::Potential, _) => vec!["make every tablet read-only: nobody is clearly the primary".to_owned()],
        _ => Vec::new(),
    };
    first.into_iter().chain(last).collect()
}
