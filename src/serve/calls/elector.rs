//! Reparents with their reasons: what our own service says of them.

use super::{Context, input, record::recorded, refusal::Refusal, reparent, wish};
use crate::{
    pb::vtelector::{self as pb, EmergencyReparentRequest, PlannedReparentRequest, ReparentResponse},
    reparent::{Decision, Mode, Outcome, ProofLine, TabletDecision},
    serve::door::Caller,
    topo::{ShardId, TabletAlias},
};

/// Moves the primary of a shard that lives, or says what that would do.
pub async fn planned(context: &Context, caller: &Caller, asked: PlannedReparentRequest) -> Result<ReparentResponse, Refusal> {
    let request = asked.request.clone().unwrap_or_default();
    let id = input::shard(&request.keyspace, "request.shard", &request.shard)?;
    let wish = mode(asked.mode).and_then(|mode| wish::planned(&request, mode, context.wait_replicas_timeout));
    if !asked.dry_run {
        caller.commands("a planned reparent that is no dry run")?;
        let work = async { done(id.clone(), reparent::planned(context, &id, wish).await?) };
        return recorded(context, caller, "PlannedReparent", &asked, work).await;
    }
    let _permit = reparent::preview(context, &id).await?;
    let outcome = context.hands.planned_preview(&id, wish?).await;
    Ok(foretold(id, outcome))
}

/// Gives a shard a primary when the old one is gone, or says what that would do.
pub async fn emergency(context: &Context, caller: &Caller, asked: EmergencyReparentRequest) -> Result<ReparentResponse, Refusal> {
    let request = asked.request.clone().unwrap_or_default();
    let id = input::shard(&request.keyspace, "request.shard", &request.shard)?;
    let wish = allowed(&asked).and_then(|allowed| wish::emergency(&request, allowed, context.wait_replicas_timeout));
    if !asked.dry_run {
        caller.commands("an emergency reparent that is no dry run")?;
        let work = async { done(id.clone(), reparent::emergency(context, &id, wish).await?) };
        return recorded(context, caller, "EmergencyReparent", &asked, work).await;
    }
    let _permit = reparent::preview(context, &id).await?;
    let outcome = context.hands.emergency_preview(&id, wish?).await;
    Ok(foretold(id, outcome))
}

fn mode(number: i32) -> Result<Mode, Refusal> {
    match pb::Mode::try_from(number) {
        Ok(pb::Mode::Graceful) => Ok(Mode::Graceful),
        Ok(pb::Mode::Abrupt) => Ok(Mode::Abrupt),
        Err(_) => Err(Refusal::invalid(format!("mode: {number} is the number of no mode"))),
    }
}

fn allowed(asked: &EmergencyReparentRequest) -> Result<wish::Allowed, Refusal> {
    let lost = Some(asked.accept_loss.as_str()).filter(|text| !text.is_empty());
    Ok(wish::Allowed {
        accept_loss: lost.map(|text| wish::gtid_set("accept_loss", text)).transpose()?,
        choose_side: asked.choose_side,
        not_established: asked.allow_not_established,
    })
}

/// The answer to a reparent that was carried out; a failure is the call's.
fn done(id: ShardId, outcome: Outcome) -> Result<ReparentResponse, Refusal> {
    let promoted_primary = outcome.result?.promoted().map(Into::into);
    Ok(ReparentResponse {
        keyspace: id.keyspace,
        shard: id.shard,
        promoted_primary,
        events: reparent::said(outcome.events),
        decision: outcome.decision.map(decision),
        ..ReparentResponse::default()
    })
}

/// The answer to a dry run: that the reparent would be refused is what was asked for, not a failure of the question.
pub fn foretold(id: ShardId, outcome: Outcome) -> ReparentResponse {
    let (would_promote, refusal) = match outcome.result {
        Ok(promoted) => (promoted.promoted().map(Into::into), None),
        Err(error) => (None, Some(pb::Refusal { code: error.code() as i32, message: error.to_string() })),
    };
    ReparentResponse {
        keyspace: id.keyspace,
        shard: id.shard,
        events: reparent::said(outcome.events),
        decision: outcome.decision.map(decision),
        was_dry_run: true,
        refusal,
        would_promote,
        ..ReparentResponse::default()
    }
}

fn decision(decision: Decision) -> pb::Decision {
    pb::Decision {
        operation: decision.operation.to_owned(),
        keyspace: decision.shard.keyspace,
        shard: decision.shard.shard,
        policy: decision.policy,
        old_primary: decision.old_primary.as_ref().map(Into::into),
        elect: decision.elect.as_ref().map(Into::into),
        source: decision.source.as_ref().map(Into::into),
        proofs: decision.proofs.into_iter().map(proof).collect(),
        tablets: decision.tablets.into_iter().map(tablet).collect(),
        caveats: decision.caveats,
        steps: decision.steps,
        refusal: decision.refusal.unwrap_or_default(),
    }
}

fn proof(line: ProofLine) -> pb::Proof {
    pb::Proof { name: line.name.to_owned(), holds: line.holds, because: line.because }
}

fn tablet((alias, tablet): (TabletAlias, TabletDecision)) -> pb::TabletDecision {
    pb::TabletDecision {
        alias: Some((&alias).into()),
        r#type: tablet.tablet_type,
        reach: tablet.reach,
        received: tablet.received,
        executed: tablet.executed,
        errant: tablet.errant,
        rejected: tablet.rejected,
    }
}
