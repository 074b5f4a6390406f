//! Replication of a shard's tablets: positions, and starting, stopping, re-pointing one by hand.

use tonic::{Code, Request};

use super::{Context, at_once, input, refusal::Refusal, tablets};
use crate::{
    pb::{
        replicationdata::Status,
        topodata::{Tablet, TabletType},
        vtctldata::{
            ShardReplicationPositionsRequest, ShardReplicationPositionsResponse, StopReplicationRequest, StopReplicationResponse,
        },
    },
    tablet::{TabletError, TabletErrorKind},
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
