//! What each gRPC method asks of its caller.

use super::Role;

/// Methods that change nothing.
const READERS: [&str; 33] = [
    "/vtctlservice.Vtctld/FindAllShardsInKeyspace",
    "/vtctlservice.Vtctld/GetCellInfo",
    "/vtctlservice.Vtctld/GetCellInfoNames",
    "/vtctlservice.Vtctld/GetFullStatus",
    "/vtctlservice.Vtctld/GetKeyspace",
    "/vtctlservice.Vtctld/GetKeyspaces",
    "/vtctlservice.Vtctld/GetShard",
    "/vtctlservice.Vtctld/GetShardReplication",
    "/vtctlservice.Vtctld/GetTablet",
    "/vtctlservice.Vtctld/GetTablets",
    "/vtctlservice.Vtctld/GetTopologyPath",
    "/vtctlservice.Vtctld/PingTablet",
    "/vtctlservice.Vtctld/ShardReplicationPositions",
    "/vtctlservice.Vtctld/ValidateShard",
    "/vtelector.Elector/Commands",
    "/vtelector.Elector/Decisions",
    "/vtelector.Elector/ErrantGtids",
    "/vtelector.Elector/Explain",
    "/vtelector.Elector/GetStatus",
    "/vtelector.Elector/History",
    "/vtelector.Elector/ListMaintenance",
    "/vtelector.Elector/Observe",
    "/vtelector.Elector/Problems",
    "/vtelector.Elector/Shards",
    "/vtelector.Elector/Tablets",
    "/vtelector.Elector/WatchEvents",
    // A dry run changes nothing; the call itself looks whether it is one.
    "/vtelector.Elector/EmergencyReparent",
    "/vtelector.Elector/PlannedReparent",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// What supervisors ask without proving anything.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// What a caller of the method has to be. What is not known changes something.
pub fn role_for(path: &str) -> Role {
    if READERS.contains(&path) { Role::Reader } else { Role::Operator }
}

/// Whether nobody has to prove anything for it.
pub fn is_open(path: &str) -> bool {
    path.starts_with(HEALTH)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::pb;

    /// Methods that change something, and those that are not served.
    const OPERATORS: &str = "
        Acknowledge BeginMaintenance EndMaintenance SetRecoveries
        AddCellInfo ChangeTabletType CreateKeyspace CreateShard DeleteTablets EmergencyReparentShard InitShardPrimary PlannedReparentShard
        RefreshState ReparentTablet RunHealthCheck SetKeyspaceDurabilityPolicy SetVtorcEmergencyReparent SetWritable StartReplication
        StopReplication
        AddCellsAlias ChangeTabletTags CheckThrottler DeleteCellInfo DeleteCellsAlias DeleteKeyspace DeleteShards ExecuteFetchAsDBA
        ExecuteHook GetCellsAliases GetSrvKeyspaceNames GetSrvKeyspaces GetThrottlerStatus GetVersion RebuildKeyspaceGraph
        RefreshStateByShard SetShardIsPrimaryServing SetShardTabletControl ShardReplicationAdd ShardReplicationFix ShardReplicationRemove
        SleepTablet TabletExternallyReparented UpdateCellInfo UpdateCellsAlias Validate ValidateKeyspace";

    #[test]
    fn every_method_has_a_role_that_somebody_chose() {
        let schema = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let services = schema.services().filter(|s| ["vtctlservice.Vtctld", "vtelector.Elector"].contains(&s.full_name()));
        let paths: BTreeSet<String> = services
            .flat_map(|s| {
                s.methods().map(move |m| format!("/{}/{}", m.parent_service().full_name(), m.name())).collect::<Vec<_>>()
            })
            .collect();
        let operators: BTreeSet<&str> = OPERATORS.split_whitespace().collect();
        let is_operators = |path: &str| operators.contains(path.rsplit('/').next().unwrap());
        let undecided: Vec<_> = paths.iter().filter(|path| !READERS.contains(&path.as_str()) && !is_operators(path)).collect();
        assert!(undecided.is_empty(), "say in this file who may call {undecided:?}");
        let gone: Vec<_> = READERS.iter().filter(|path| !path.starts_with("/grpc.") && !paths.contains(**path)).collect();
        assert!(gone.is_empty(), "these are no methods: {gone:?}");
        assert!(paths.iter().all(|path| (role_for(path) == Role::Operator) == is_operators(path)));
    }

    #[test]
    fn what_is_not_known_is_for_operators() {
        for path in
            ["/vtelector.Elector/LaterMethod", "/evil/Explain", "", "/vtelector.Elector/Explain/", "//vtelector.Elector/Explain"]
        {
            assert_eq!(role_for(path), Role::Operator, "{path}");
        }
        assert!(is_open("/grpc.health.v1.Health/Check") && !is_open("/vtelector.Elector/Explain"));
    }
}
