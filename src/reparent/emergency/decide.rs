//! The record of an emergency decision.

use std::collections::BTreeSet;

use super::{ACTION, scene::Scene};
use crate::{
    durability::RevokedBy,
    elect::{Chosen, EmergencyRejection, NoPromotion, Reach},
    reparent::decision::{Decision, ProofLine, TabletDecision},
    topo::TabletAlias,
};

/// What was decided, with all that it rests on. `locked` is known only where a lock was taken.
pub(super) fn decision(scene: &Scene, chosen: &Result<Chosen, NoPromotion>, locked: Option<bool>) -> Decision {
    let tablets = scene.tablets.iter().map(|(alias, testimony)| {
        let told = TabletDecision {
            tablet_type: testimony.tablet_type.as_str_name().to_owned(),
            reach: match &testimony.reach {
                Reach::Seen => "answers".to_owned(),
                Reach::Stopped => "its replication is proven stopped".to_owned(),
                Reach::Demoted => "demoted".to_owned(),
                Reach::Fenced => "fenced: it accepts no client".to_owned(),
                Reach::Unreached(_) if scene.wish.ignored.contains(alias) => "ignored, as asked".to_owned(),
                Reach::Unreached(reason) => format!("not reached: {reason}"),
            },
            received: testimony.received.encode(),
            executed: testimony.executed.encode(),
            errant: chosen.as_ref().ok().and_then(|chosen| chosen.errant.get(alias)).map(ToString::to_string).unwrap_or_default(),
            rejected: rejected(chosen, alias).map(ToString::to_string),
        };
        (alias.clone(), told)
    });
    Decision {
        operation: ACTION,
        shard: scene.declared.shard.clone(),
        policy: scene.declared.policy.name().to_owned(),
        old_primary: scene.old_primary().cloned(),
        elect: chosen.as_ref().ok().map(|chosen| chosen.elect.clone()),
        source: chosen.as_ref().ok().and_then(|chosen| chosen.source.clone()),
        proofs: match chosen {
            Ok(chosen) => proofs(chosen, locked),
            Err(none) => refuted(none).into_iter().collect(),
        },
        tablets: tablets.collect(),
        caveats: chosen.as_ref().map(caveats).unwrap_or_default(),
        steps: chosen.as_ref().map(|chosen| steps(scene, chosen)).unwrap_or_default(),
        refusal: chosen.as_ref().err().map(ToString::to_string),
    }
}

/// Why a tablet was not chosen.
fn rejected<'a>(chosen: &'a Result<Chosen, NoPromotion>, alias: &TabletAlias) -> Option<&'a EmergencyRejection> {
    match chosen {
        Ok(chosen) => chosen.rejected.get(alias),
        Err(NoPromotion::NobodyFit { rejected, .. }) => rejected.get(alias),
        Err(NoPromotion::NotUsable { alias: named, why } | NoPromotion::MustNot { alias: named, why }) if named == alias => {
            Some(why)
        }
        Err(_) => None,
    }
}

/// The proof that a refusal refutes, where it is about one of them.
fn refuted(none: &NoPromotion) -> Option<ProofLine> {
    let name = match none {
        NoPromotion::NotRevoked { .. } | NoPromotion::OldPrimaryUnknown { .. } | NoPromotion::UnlistedCells { .. } => "revoked",
        NoPromotion::SplitBrain { .. }
        | NoPromotion::NotASide { .. }
        | NoPromotion::WipedEvidence { .. }
        | NoPromotion::MixedFlavors { .. }
        | NoPromotion::WouldLose { .. }
        | NoPromotion::OtherLoss { .. }
        | NoPromotion::Incomplete { .. } => "complete",
        NoPromotion::NoProgress(_) => "established",
        NoPromotion::Unknown { .. }
        | NoPromotion::IgnoredUnknown { .. }
        | NoPromotion::NamedIgnored { .. }
        | NoPromotion::SideNotNamed
        | NoPromotion::MustNot { .. }
        | NoPromotion::OtherCell { .. }
        | NoPromotion::NotUsable { .. }
        | NoPromotion::InBackup { .. }
        | NoPromotion::NobodyFit { .. } => return None,
    };
    Some(ProofLine { name, holds: false, because: none.to_string() })
}

/// What a person should know.
pub(super) fn caveats(chosen: &Chosen) -> Vec<String> {
    chosen.caveats.iter().map(ToString::to_string).collect()
}

/// Why the promotion is safe, in one line.
pub(super) fn because(chosen: &Chosen) -> String {
    proofs(chosen, None).iter().map(|proof| format!("{}: {}", proof.name, proof.because)).collect::<Vec<_>>().join("; ")
}

fn proofs(chosen: &Chosen, locked: Option<bool>) -> Vec<ProofLine> {
    let proof = &chosen.proof;
    let revoked = proof.revoked.0.iter().map(|(alias, by)| match by {
        RevokedBy::AckersReached { reached } => format!("{alias} has no acker left ({} stopped)", list(reached)),
        _ => format!("{alias} is reached"),
    });
    let revoked = revoked.collect::<Vec<_>>().join(", ");
    let complete = format!("{} from {}", proof.complete.position, list(&proof.complete.held_by));
    let (established, because) = match &proof.established {
        Ok(established) if established.acks_needed == 0 => (true, "no acknowledgement is needed".to_owned()),
        Ok(established) => (true, format!("{} can acknowledge", list(&established.ackers))),
        Err(not) => (false, not.to_string()),
    };
    let mut lines = vec![
        ProofLine { name: "revoked", holds: true, because: revoked },
        ProofLine { name: "complete", holds: true, because: complete },
        ProofLine { name: "established", holds: established, because },
    ];
    if let Some(holds) = locked {
        let because = if holds { "the shard lock is ours" } else { "the shard lock is lost" };
        lines.push(ProofLine { name: "locked", holds, because: because.to_owned() });
    }
    lines
}

/// What is done, in order.
fn steps(scene: &Scene, chosen: &Chosen) -> Vec<String> {
    let elect = &chosen.elect;
    let asked: BTreeSet<_> = scene.asked().map(|(alias, _)| alias.clone()).collect();
    let (primaries, replicas): (BTreeSet<_>, BTreeSet<_>) = asked.iter().cloned().partition(|alias| scene.acts_as_primary(alias));
    let mut steps = Vec::new();
    if !primaries.is_empty() {
        steps.push(format!("demote {}; fence it where it does not answer within 400 ms", list(&primaries)));
    }
    steps.push(format!("stop the IO threads of {}, and see that they are stopped", list(&replicas)));
    if let Some(source) = &chosen.source {
        steps.push(format!("let {source} apply its relay log, then {elect} copy from it"));
    } else {
        steps.push(format!("let {elect} apply its relay log"));
    }
    if let Ok(established) = &chosen.proof.established
        && established.acks_needed > 0
    {
        steps.push(format!("point ackers at {elect} until enough have answered: {}", list(&established.ackers)));
    }
    steps.push(format!("promote {elect}, and point everybody else at it"));
    steps.push(format!("write the reparent-journal row on {elect}"));
    steps
}

fn list(aliases: &BTreeSet<TabletAlias>) -> String {
    if aliases.is_empty() {
        return "nobody".to_owned();
    }
    aliases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
