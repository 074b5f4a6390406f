//! Keyspaces: their records, and what they say about durability and emergencies.

use tonic::Request;

use super::{Context, at_once, input, refusal::Refusal};
use crate::{
    durability,
    pb::{
        topodata::{Keyspace, KeyspaceType},
        vtctldata::{
            self, CreateKeyspaceRequest, CreateKeyspaceResponse, GetKeyspaceRequest, GetKeyspaceResponse, GetKeyspacesRequest,
            GetKeyspacesResponse, SetKeyspaceDurabilityPolicyRequest, SetKeyspaceDurabilityPolicyResponse,
            SetVtorcEmergencyReparentRequest, SetVtorcEmergencyReparentResponse,
        },
        vtorcdata,
    },
    topo::{ShardId, TopoError},
};

/// Every keyspace.
pub async fn get_keyspaces(context: &Context, _: Request<GetKeyspacesRequest>) -> Result<GetKeyspacesResponse, Refusal> {
    let names = context.topo.keyspaces().await?;
    let read = at_once(names.into_iter().map(|name| async move {
        match context.topo.keyspace(&name).await {
            Ok(keyspace) => Ok(Some(named(&name, keyspace.value))),
            // Deleted since the names were listed.
            Err(TopoError::NotFound { .. }) => Ok(None),
            Err(error) => Err(Refusal::from(error)),
        }
    }));
    let keyspaces: Vec<Option<_>> = read.await.into_iter().collect::<Result<_, _>>()?;
    Ok(GetKeyspacesResponse { keyspaces: keyspaces.into_iter().flatten().collect() })
}

/// One keyspace.
pub async fn get_keyspace(context: &Context, request: Request<GetKeyspaceRequest>) -> Result<GetKeyspaceResponse, Refusal> {
    let request = request.into_inner();
    let name = input::keyspace("keyspace", &request.keyspace)?;
    let keyspace = context.topo.keyspace(name).await?.value;
    Ok(GetKeyspaceResponse { keyspace: Some(named(name, keyspace)) })
}

/// Makes a keyspace. The VSchema and what vtgate reads are written by the first tablet that starts in it, as with a keyspace
/// that a tablet makes.
pub async fn create_keyspace(
    context: &Context,
    request: Request<CreateKeyspaceRequest>,
) -> Result<CreateKeyspaceResponse, Refusal> {
    let request = request.into_inner();
    let name = input::keyspace("name", &request.name)?;
    if !request.durability_policy.is_empty() {
        check_policy(&request.durability_policy)?;
    }
    match KeyspaceType::try_from(request.r#type) {
        Ok(KeyspaceType::Normal) => {}
        Ok(KeyspaceType::Snapshot) => {
            input::keyspace("base_keyspace", &request.base_keyspace)?;
            if request.snapshot_time.is_none() {
                return Err(Refusal::invalid("snapshot_time is required for a keyspace of type SNAPSHOT"));
            }
        }
        Err(_) => return Err(Refusal::invalid(format!("type: {} is the number of no keyspace type", request.r#type))),
    }
    let record = Keyspace {
        keyspace_type: request.r#type,
        base_keyspace: request.base_keyspace.clone(),
        snapshot_time: request.snapshot_time,
        durability_policy: request.durability_policy.clone(),
        sidecar_db_name: request.sidecar_db_name.clone(),
        ..Keyspace::default()
    };
    let keyspace = match context.topo.create_keyspace(name, &record).await {
        Ok(()) => record,
        Err(TopoError::Exists { .. }) if request.force => context.topo.keyspace(name).await?.value,
        Err(error) => return Err(error.into()),
    };
    Ok(CreateKeyspaceResponse { keyspace: Some(named(name, keyspace)) })
}

/// Changes who must acknowledge a transaction; it binds the next reparent, and each tablet at its next change.
pub async fn set_keyspace_durability_policy(
    context: &Context,
    request: Request<SetKeyspaceDurabilityPolicyRequest>,
) -> Result<SetKeyspaceDurabilityPolicyResponse, Refusal> {
    let request = request.into_inner();
    let name = input::keyspace("keyspace", &request.keyspace)?;
    check_policy(&request.durability_policy)?;
    context.topo.keyspace(name).await?;
    let mut change = |keyspace: &mut Keyspace| {
        let differs = keyspace.durability_policy != request.durability_policy;
        keyspace.durability_policy.clone_from(&request.durability_policy);
        differs
    };
    let keyspace = context.topo.update_keyspace(name, "SetKeyspaceDurabilityPolicy", context.lock_timeout, &mut change).await?;
    Ok(SetKeyspaceDurabilityPolicyResponse { keyspace: Some(keyspace) })
}

/// Switches VTOrc's emergency reparents off or on: for the keyspace when the shard is empty, `0` or `-`, else for that shard.
pub async fn set_vtorc_emergency_reparent(
    context: &Context,
    request: Request<SetVtorcEmergencyReparentRequest>,
) -> Result<SetVtorcEmergencyReparentResponse, Refusal> {
    let request = request.into_inner();
    let (name, disable) = (input::keyspace("keyspace", &request.keyspace)?, request.disable);
    context.topo.keyspace(name).await?;
    if matches!(request.shard.as_str(), "" | "0" | "-") {
        let mut change = |keyspace: &mut Keyspace| {
            let state = keyspace.vtorc_state.get_or_insert_with(vtorcdata::Keyspace::default);
            std::mem::replace(&mut state.disable_emergency_reparent, disable) != disable
        };
        context.topo.update_keyspace(name, "SetVtorcEmergencyReparent", context.lock_timeout, &mut change).await?;
    } else {
        let shard: ShardId = input::shard(name, "shard", &request.shard)?;
        // The write is conditional on the version that was read, so the keyspace lock would add nothing to it.
        let mut change = |shard: &mut crate::pb::topodata::Shard| {
            let state = shard.vtorc_state.get_or_insert_with(vtorcdata::Shard::default);
            std::mem::replace(&mut state.disable_emergency_reparent, disable) != disable
        };
        context.topo.update_shard(&shard, &mut change).await?;
    }
    Ok(SetVtorcEmergencyReparentResponse {})
}

fn named(name: &str, keyspace: Keyspace) -> vtctldata::Keyspace {
    vtctldata::Keyspace { name: name.to_owned(), keyspace: Some(keyspace) }
}

/// The name of a policy that reparents know.
fn check_policy(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid("durability_policy is required: name a policy, such as semi_sync"));
    }
    durability::policy(name).map_err(|e| Refusal::invalid(format!("durability_policy: {e}")))?;
    Ok(())
}
