//! Moving primaries: requests in vtctld's words, handed to the hands.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Request};

use super::{Context, board::time, input, refusal::Refusal, wish};
use crate::{
    pb::{
        logutil,
        vtctldata::{
            EmergencyReparentShardRequest, EmergencyReparentShardResponse, InitShardPrimaryRequest, InitShardPrimaryResponse,
            PlannedReparentShardRequest, PlannedReparentShardResponse, ReparentTabletRequest, ReparentTabletResponse,
        },
    },
    reparent::{Emergency, Operation, Outcome, Planned, ReparentError, ReparentEvent},
    topo::{ShardId, TopoError},
};

impl From<ReparentError> for Refusal {
    fn from(error: ReparentError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Moves the primary of a shard. The caller may go away: before the point of no return that undoes the reparent, later nothing stops it.
pub async fn planned_reparent_shard(
    context: &Context,
    request: Request<PlannedReparentShardRequest>,
) -> Result<PlannedReparentShardResponse, Refusal> {
    let mode = wish::mode(request.metadata());
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let wish = mode.and_then(|mode| wish::planned(&request, mode, context.wait_replicas_timeout));
    let Outcome { events, result, .. } = planned(context, &id, wish).await?;
    let promoted_primary = result?.promoted().map(Into::into);
    Ok(PlannedReparentShardResponse { keyspace: id.keyspace, shard: id.shard, promoted_primary, events: said(events) })
}

/// Gives a shard a primary when the old one is gone. The caller may go away, as in a planned reparent.
pub async fn emergency_reparent_shard(
    context: &Context,
    request: Request<EmergencyReparentShardRequest>,
) -> Result<EmergencyReparentShardResponse, Refusal> {
    let allowed = wish::Allowed::from_metadata(request.metadata());
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let wish = allowed.and_then(|allowed| wish::emergency(&request, allowed, context.wait_replicas_timeout));
    let Outcome { events, result, .. } = emergency(context, &id, wish).await?;
    let promoted_primary = result?.promoted().map(Into::into);
    Ok(EmergencyReparentShardResponse { keyspace: id.keyspace, shard: id.shard, promoted_primary, events: said(events) })
}

/// Runs a planned reparent. A wish that cannot be meant is a failed reparent of its shard.
pub async fn planned(context: &Context, id: &ShardId, wish: Result<Planned, Refusal>) -> Result<Outcome, Refusal> {
    let _permit = begin(context, id).await?;
    let wish = wish.inspect_err(|_| mistaken(context, Operation::Planned, id))?;
    let _running = context.metrics.reparent_running();
    Ok(context.hands.planned(id, wish).await)
}

/// Runs an emergency reparent. A wish that cannot be meant is a failed reparent of its shard.
pub async fn emergency(context: &Context, id: &ShardId, wish: Result<Emergency, Refusal>) -> Result<Outcome, Refusal> {
    let _permit = begin(context, id).await?;
    let wish = wish.inspect_err(|_| mistaken(context, Operation::Emergency, id))?;
    let _running = context.metrics.reparent_running();
    Ok(context.hands.emergency(id, wish).await)
}

fn mistaken(context: &Context, operation: Operation, id: &ShardId) {
    context.metrics.reparent(operation, id, Some("invalid_request"), Duration::ZERO);
}

/// Makes the first primary of a shard. Where vtctld resets the replication of every tablet when forced, nothing of that is done here:
/// a shard that has a primary is refused, forced or not.
pub async fn init_shard_primary(
    context: &Context,
    request: Request<InitShardPrimaryRequest>,
) -> Result<InitShardPrimaryResponse, Refusal> {
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let primary = input::alias("primary_elect_tablet_alias", request.primary_elect_tablet_alias.as_ref())?;
    let wait = wish::wait_replicas_timeout(request.wait_replicas_timeout.as_ref(), context.wait_replicas_timeout)?;
    let _permit = begin(context, &id).await?;
    let _running = context.metrics.reparent_running();
    let Outcome { events, result, .. } = context.hands.init_shard_primary(&id, &primary, wait).await;
    result?;
    Ok(InitShardPrimaryResponse { events: said(events) })
}

/// Points a tablet at the primary of its shard.
pub async fn reparent_tablet(
    context: &Context,
    request: Request<ReparentTabletRequest>,
) -> Result<ReparentTabletResponse, Refusal> {
    let alias = input::alias("tablet", request.into_inner().tablet.as_ref())?;
    let (shard, primary) = context.hands.reparent_tablet(&alias).await?;
    Ok(ReparentTabletResponse { keyspace: shard.keyspace, shard: shard.shard, primary: Some((&primary).into()) })
}

/// What holds before any reparent: we are not stopping, not too many run, and the shard exists. One that does not is nowhere counted.
async fn begin(context: &Context, id: &ShardId) -> Result<OwnedSemaphorePermit, Refusal> {
    let too_many = || format!("{} reparents are running already; try again", context.reparents_max);
    begun(context, id, &context.reparent_permits, too_many).await
}

/// What holds before any dry run.
pub async fn preview(context: &Context, id: &ShardId) -> Result<OwnedSemaphorePermit, Refusal> {
    begun(context, id, &context.preview_permits, || "as many dry runs of reparents are under way as may be; try again".to_owned())
        .await
}

async fn begun(
    context: &Context,
    id: &ShardId,
    permits: &Arc<Semaphore>,
    too_many: impl Fn() -> String,
) -> Result<OwnedSemaphorePermit, Refusal> {
    if context.stopping.is_cancelled() {
        return Err(Refusal::new(Code::Unavailable, "this vtelector is stopping; ask another, or again once it is back"));
    }
    let permit = permits.clone().try_acquire_owned().map_err(|_| Refusal::new(Code::ResourceExhausted, too_many()))?;
    match context.topo.shard(id).await {
        // The hands read it again under the lock; what is garbage then is a failed reparent of a shard that exists.
        Ok(_) | Err(TopoError::Garbage { .. }) => Ok(permit),
        Err(error) => Err(error.into()),
    }
}

/// The lines of an answer.
pub fn said(events: Vec<ReparentEvent>) -> Vec<logutil::Event> {
    events.into_iter().map(event).collect()
}

fn event(event: ReparentEvent) -> logutil::Event {
    let level = if event.warning { logutil::Level::Warning } else { logutil::Level::Info };
    logutil::Event { time: Some(time(event.at)), level: level as i32, value: event.text, ..logutil::Event::default() }
}
