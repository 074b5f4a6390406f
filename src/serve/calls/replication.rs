//! Replication of a shard's tablets: positions, and starting, stopping, re-pointing one by hand.

use tonic::{Code, Request};

use super::{Context, at_once, input, refusal::Refusal, tablets};
use crate::{
    durability::{self, Member},
    pb::{
        replicationdata::Status,
        topodata::{Tablet, TabletType},
        vtctldata::{
            ShardReplicationPositionsRequest, ShardReplicationPositionsResponse, StartReplicationRequest,
            StartReplicationResponse, StopReplicationRequest, StopReplicationResponse,
        },
    },
    tablet::{TabletError, TabletErrorKind},
    topo::{ShardId, TabletAlias},
};

/// Where every tablet of a shard stands. A tablet that does not answer has an entry with an empty status.
pub async fn shard_replication_positions(
    context: &Context,
    request: Request<ShardReplicationPositionsRequest>,
) -> Result<ShardReplicationPositionsResponse, Refusal> {
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let mut found = context.topo.shard_tablets(&id).await?;
    if !found.unreadable_cells.is_empty() {
        let cells: Vec<String> = found.unreadable_cells.iter().map(|(cell, error)| format!("{cell} ({error})")).collect();
        return Err(Refusal::new(
            Code::Unavailable,
            format!("tablets of {id} may be missing: cells not readable: {}", cells.join(", ")),
        ));
    }
    found.tablets.retain(|_, tablet| has_position(tablet));
    let asked = at_once(found.tablets.into_iter().map(|(alias, tablet)| async move {
        match position(context, &tablet).await {
            Ok(status) => Ok((alias.to_string(), status, tablet)),
            Err(TabletError { kind: TabletErrorKind::Unreachable | TabletErrorKind::UnknownOutcome, .. }) => {
                Ok((alias.to_string(), Status::default(), tablet))
            }
            Err(error) => Err(Refusal::from(error)),
        }
    }));
    let mut answer = ShardReplicationPositionsResponse::default();
    for asked in asked.await {
        let (alias, status, tablet) = asked?;
        answer.replication_statuses.insert(alias.clone(), status);
        answer.tablet_map.insert(alias, tablet);
    }
    Ok(answer)
}

/// Tablets that are backed up, restored or drained are busy with something else.
fn has_position(tablet: &Tablet) -> bool {
    use TabletType::{Experimental, Primary, Rdonly, Replica, Spare};
    matches!(TabletType::try_from(tablet.r#type), Ok(Primary | Replica | Rdonly | Spare | Experimental))
}

/// A primary has a position and nothing to say about replication.
async fn position(context: &Context, tablet: &Tablet) -> Result<Status, TabletError> {
    if tablet.r#type != TabletType::Primary as i32 {
        return context.tablets.replication_status(tablet, context.call()).await;
    }
    let position = context.tablets.primary_position(tablet, context.call()).await?;
    Ok(Status { position, ..Status::default() })
}

/// Stops both replication threads of a tablet.
pub async fn stop_replication(
    context: &Context,
    request: Request<StopReplicationRequest>,
) -> Result<StopReplicationResponse, Refusal> {
    let (alias, tablet) = tablets::named(context, request.into_inner().tablet_alias.as_ref()).await?;
    context.tablets.stop_replication(&tablet, context.call()).await?;
    tracing::info!(%alias, "a person stopped replication");
    Ok(StopReplicationResponse {})
}

/// Starts both replication threads of a tablet, with the semi-sync side that the policy asks of it.
pub async fn start_replication(
    context: &Context,
    request: Request<StartReplicationRequest>,
) -> Result<StartReplicationResponse, Refusal> {
    let (alias, tablet) = tablets::named(context, request.into_inner().tablet_alias.as_ref()).await?;
    let semi_sync = acknowledges(context, &alias, &tablet, tablet.r#type).await?;
    context.tablets.start_replication(&tablet, semi_sync, context.call()).await?;
    tracing::info!(%alias, semi_sync, "a person started replication");
    Ok(StartReplicationResponse {})
}

/// Whether a tablet, once of type `as_type`, acknowledges the transactions of its shard's primary. Refused where there is no such primary.
pub async fn acknowledges(context: &Context, alias: &TabletAlias, tablet: &Tablet, as_type: i32) -> Result<bool, Refusal> {
    let shard = ShardId::new(&tablet.keyspace, &tablet.shard)?;
    let recorded = context.topo.shard(&shard).await?.value.primary_alias;
    let Some(primary_alias) = input::optional_alias("primary_alias of the shard record", recorded.as_ref())? else {
        return Err(Refusal::precondition(format!("{shard} has no primary; make one first (PlannedReparentShard)")));
    };
    let primary = context.topo.tablet(&primary_alias).await?.value;
    if primary.r#type != TabletType::Primary as i32 || (&primary.keyspace, &primary.shard) != (&tablet.keyspace, &tablet.shard) {
        let kind = TabletType::try_from(primary.r#type).map_or("unknown", |kind| kind.as_str_name());
        let is = format!("{} of {}/{}", kind, primary.keyspace, primary.shard);
        let message = format!(
            "the record of {shard} names {primary_alias} as primary, whose own record says {is}; wait for one to follow, or reparent"
        );
        return Err(Refusal::precondition(message));
    }
    let keyspace = context.topo.keyspace(&shard.keyspace).await?.value;
    let policy = durability::policy(&keyspace.durability_policy)
        .map_err(|e| Refusal::precondition(format!("keyspace {}: {e}", shard.keyspace)))?;
    let tablet_type = TabletType::try_from(as_type).unwrap_or(TabletType::Unknown);
    let replica = Member::new(alias.clone(), tablet_type);
    Ok(policy.may_ack(&Member::new(primary_alias, TabletType::Primary), &replica))
}
