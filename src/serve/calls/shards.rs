//! Shards: their records and their replication graphs.

use tonic::Request;

use super::{Context, at_once, input, refusal::Refusal};
use crate::{
    pb::{
        topodata,
        vtctldata::{
            self, CreateShardRequest, CreateShardResponse, FindAllShardsInKeyspaceRequest, FindAllShardsInKeyspaceResponse,
            GetShardReplicationRequest, GetShardReplicationResponse, GetShardRequest, GetShardResponse,
        },
    },
    topo::{ShardId, TopoError},
};

/// Makes a shard, and its keyspace where asked.
pub async fn create_shard(context: &Context, request: Request<CreateShardRequest>) -> Result<CreateShardResponse, Refusal> {
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard_name", &request.shard_name)?;
    if request.include_parent {
        match context.topo.create_keyspace(&id.keyspace, &topodata::Keyspace::default()).await {
            Err(TopoError::Exists { .. }) if request.force => {}
            made => made?,
        }
    }
    let keyspace = context.topo.keyspace(&id.keyspace).await?.value;
    let shard_already_exists = match context.topo.create_shard(&id, context.lock_timeout).await {
        Ok(()) => false,
        Err(TopoError::Exists { .. }) if request.force => true,
        Err(error) => return Err(error.into()),
    };
    let shard = context.topo.shard(&id).await?.value;
    Ok(CreateShardResponse {
        keyspace: Some(vtctldata::Keyspace { name: id.keyspace.clone(), keyspace: Some(keyspace) }),
        shard: Some(named(&id, shard)),
        shard_already_exists,
    })
}

/// Every shard of a keyspace, by name.
pub async fn find_all_shards_in_keyspace(
    context: &Context,
    request: Request<FindAllShardsInKeyspaceRequest>,
) -> Result<FindAllShardsInKeyspaceResponse, Refusal> {
    let request = request.into_inner();
    let shards = context.topo.shards(input::keyspace("keyspace", &request.keyspace)?).await?;
    Ok(FindAllShardsInKeyspaceResponse {
        shards: shards.into_iter().map(|(id, shard)| (id.shard.clone(), named(&id, shard))).collect(),
    })
}

/// One shard.
pub async fn get_shard(context: &Context, request: Request<GetShardRequest>) -> Result<GetShardResponse, Refusal> {
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard_name", &request.shard_name)?;
    let shard = context.topo.shard(&id).await?.value;
    Ok(GetShardResponse { shard: Some(named(&id, shard)) })
}

/// The replication graph of a shard in the cells asked for, or in all.
pub async fn get_shard_replication(
    context: &Context,
    request: Request<GetShardReplicationRequest>,
) -> Result<GetShardReplicationResponse, Refusal> {
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let cells = if request.cells.is_empty() { context.topo.cells().await? } else { request.cells };
    for cell in &cells {
        input::cell("cells", cell)?;
    }
    context.topo.shard(&id).await?;
    let id = &id;
    let graphs = at_once(cells.into_iter().map(|cell| async move {
        let graph = context.topo.shard_replication(&cell, id).await?;
        Ok((cell, graph))
    }));
    Ok(GetShardReplicationResponse { shard_replication_by_cell: graphs.await.into_iter().collect::<Result<_, Refusal>>()? })
}

fn named(id: &ShardId, shard: topodata::Shard) -> vtctldata::Shard {
    vtctldata::Shard { keyspace: id.keyspace.clone(), name: id.shard.clone(), shard: Some(shard) }
}
