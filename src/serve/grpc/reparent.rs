//! Moving primaries: requests in vtctld's words, handed to the hands.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tonic::{Code, Request, metadata::MetadataMap};

use super::{Context, input, refusal::Refusal};
use crate::{
    pb::{
        logutil,
        vtctldata::{
            InitShardPrimaryRequest, InitShardPrimaryResponse, PlannedReparentShardRequest, PlannedReparentShardResponse,
            ReparentTabletRequest, ReparentTabletResponse,
        },
        vttime,
    },
    reparent::{MODE_KEY, Mode, Outcome, Planned, ReparentError, ReparentEvent},
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
    let mode = mode(request.metadata());
    let request = request.into_inner();
    let started = Instant::now();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let _permit = begin(context, &id).await?;
    let planned = mode
        .and_then(|mode| planned(context, &request, mode))
        .inspect_err(|_| context.metrics.planned_reparent(&id.keyspace, &id.shard, false, started.elapsed()))?;
    let _running = context.metrics.reparent_running();
    let Outcome { events, result, .. } = context.hands.planned(&id, planned).await;
    let promoted_primary = result?.promoted().map(Into::into);
    Ok(PlannedReparentShardResponse { keyspace: id.keyspace, shard: id.shard, promoted_primary, events: said(events) })
}

/// What the request asks for.
fn planned(context: &Context, request: &PlannedReparentShardRequest, mode: Mode) -> Result<Planned, Refusal> {
    let lag = input::duration("tolerable_replication_lag", request.tolerable_replication_lag.as_ref())?;
    Ok(Planned {
        new_primary: input::optional_alias("new_primary", request.new_primary.as_ref())?,
        avoid_primary: input::optional_alias("avoid_primary", request.avoid_primary.as_ref())?,
        expected_primary: input::optional_alias("expected_primary", request.expected_primary.as_ref())?,
        wait_replicas_timeout: wait(context, request.wait_replicas_timeout.as_ref())?,
        tolerable_lag: lag.filter(|lag| !lag.is_zero()),
        allow_cross_cell: request.allow_cross_cell_promotion,
        mode,
    })
}

/// How the old primary is made read-only: asked for beside the request, which has no field for it.
fn mode(metadata: &MetadataMap) -> Result<Mode, Refusal> {
    let Some(name) = metadata.get(MODE_KEY) else { return Ok(Mode::default()) };
    let wrong = || Refusal::invalid(format!("metadata {MODE_KEY}: {name:?} is no mode; write graceful or abrupt"));
    name.to_str().ok().and_then(Mode::named).ok_or_else(wrong)
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
    let wait = wait(context, request.wait_replicas_timeout.as_ref())?;
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
    if context.stopping.is_cancelled() {
        return Err(Refusal::new(Code::Unavailable, "this vtelector is stopping; ask another, or again once it is back"));
    }
    let permit = context.reparent_permits.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(Code::ResourceExhausted, format!("{} reparents are running already; try again", context.reparents_max))
    })?;
    match context.topo.shard(id).await {
        // The hands read it again under the lock; what is garbage then is a failed reparent of a shard that exists.
        Ok(_) | Err(TopoError::Garbage { .. }) => Ok(permit),
        Err(error) => Err(error.into()),
    }
}

fn wait(context: &Context, given: Option<&vttime::Duration>) -> Result<Duration, Refusal> {
    let field = "wait_replicas_timeout";
    match input::duration(field, given)? {
        None => Ok(context.wait_replicas_timeout),
        Some(Duration::ZERO) => {
            Err(Refusal::invalid(format!("{field}: nothing can be waited for in 0 s; leave it unset for the server's default")))
        }
        Some(wait) => Ok(wait),
    }
}

fn said(events: Vec<ReparentEvent>) -> Vec<logutil::Event> {
    events.into_iter().map(event).collect()
}

fn event(event: ReparentEvent) -> logutil::Event {
    let level = if event.warning { logutil::Level::Warning } else { logutil::Level::Info };
    logutil::Event { time: Some(time(event.at)), level: level as i32, value: event.text, ..logutil::Event::default() }
}

fn time(at: SystemTime) -> vttime::Time {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    vttime::Time { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() as i32 }
}
