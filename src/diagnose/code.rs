//! The names of problems, and the order in which they are taken.

use std::fmt;

use super::Priority;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident $priority:ident),+ $(,)?) => {
        /// The name of a problem: VTOrc's where it has one, else one in its style.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Code {
            /// Every code, in the order in which equal priorities are taken.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name in metrics, logs and answers.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii()),+ }
            }

            /// The code of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.name() == name)
            }

            /// How urgent it is.
            pub fn priority(self) -> Priority {
                match self { $(Self::$name => Priority::$priority),+ }
            }
        }
    };
}

codes! {
    /// The primary's own tablet says that its disk hangs.
    PrimaryDiskStalled Shard,
    /// The primary is dead; there is no replica.
    DeadPrimaryWithoutReplicas Shard,
    /// The primary is dead, as all its replicas confirm.
    DeadPrimary Shard,
    /// The primary and every replica are out of sight: dead, or it is we who are cut off.
    DeadPrimaryAndReplicas Shard,
    /// The primary is dead, as those replicas confirm that can be asked.
    DeadPrimaryAndSomeReplicas Shard,
    /// The primary's tablet manager is dead and its MySQL takes connections: vtgate cannot write.
    PrimaryTabletDead Shard,
    /// The primary greets and answers nothing, or nothing but errors.
    IncapacitatedPrimary Shard,
    /// The primary says that its file system is read-only.
    PrimaryFileSystemReadOnly Shard,
    /// The primary says that its disk is full.
    PrimaryDiskFull Shard,
    /// Another tablet than the declared one is what works as primary.
    WrongPrimary Shard,
    /// Several tablets are writable and replicated from.
    SeveralPrimaries Shard,
    /// The declared primary has a source.
    PrimaryHasPrimary Shard,
    /// Commits hang on the primary though enough replicas that may acknowledge are connected.
    PrimarySemiSyncBlocked Shard,
    /// The shard never had a primary.
    ClusterHasNoPrimary Shard,
    /// The shard had a primary, and no tablet's record says PRIMARY.
    PrimaryTabletDeleted Shard,
    /// Keyspace or shard record cannot be read: nothing is decided.
    TopologyUnreadable Critical,
    /// The keyspace names no durability policy, or one that does not exist.
    NoDurabilityPolicy Critical,
    /// Two records claim to be primary with the same term.
    ContradictingPrimaries Critical,
    /// A primary's term begins in the future: somebody's clock is wrong, and until then nobody else can be promoted.
    PrimaryTermInFuture Critical,
    /// A server lacks what it had executed before: its binary logs were reset, or its data was replaced.
    PositionsWentBackwards Critical,
    /// The primary has never answered since this elector watches it.
    InvalidPrimary Critical,
    /// The primary does not answer, and nothing yet proves it dead.
    UnreachablePrimary Critical,
    /// The same; some replicas do not replicate for reasons of their own.
    UnreachablePrimaryWithBrokenReplicas Critical,
    /// The same; every replica lags, so that none may have noticed.
    UnreachablePrimaryWithLaggingReplicas Critical,
    /// The primary takes no further connection.
    PrimaryTooManyConnections Critical,
    /// A replica cannot connect to the primary: the early warning.
    ReplicaFailingToConnectToPrimary Critical,
    /// A read-only primary lacks transactions that replicas were sent.
    PrimaryLostTransactions Critical,
    /// Semi-sync waits for more replicas than are connected, and commits hang.
    LockedSemiSyncPrimary Critical,
    /// The declared primary refuses writes.
    PrimaryIsReadOnly High,
    /// The declared primary refuses every client (`offline_mode`).
    PrimaryIsOffline High,
    /// A record still says PRIMARY with an older term.
    StaleTopoPrimary High,
    /// The shard record does not name the newest primary.
    UnpublishedPrimary High,
    /// A former primary is back with transactions that nobody else has.
    ReturnedPrimaryIsErrant High,
    /// Some cell's tablets cannot be read.
    PartialView High,
    /// The primary's own type is another than its record's.
    PrimaryCurrentTypeMismatch Medium,
    /// A replica takes writes.
    ReplicaIsWritable Medium,
    /// A replica refuses every client (`offline_mode`).
    ReplicaIsOffline Medium,
    /// A replica's own type is another than its record's.
    ReplicaCurrentTypeMismatch Medium,
    /// A replica has transactions that the primary lacks.
    ErrantGTIDDetected Medium,
    /// The primary has purged what a replica lacks: only a rebuild helps.
    ReplicaNeedsRebuild Medium,
    /// Replication failed with an error that a restart does not cure.
    ReplicationBroken Medium,
    /// A replica says that its disk is full or its file system read-only.
    ReplicaDiskFull Medium,
    /// A replica without a source.
    NotConnectedToPrimary Medium,
    /// A replica of another tablet than the primary.
    ConnectedToWrongPrimary Medium,
    /// A replica of a server that no tablet's record names.
    ReplicaOfUnknownServer Medium,
    /// A thread of a replica is stopped.
    ReplicationStopped Medium,
    /// A replica that the policy wants to acknowledge does not.
    ReplicaSemiSyncMustBeSet Medium,
    /// The primary does not wait for acknowledgements that the policy demands; switched after its replicas.
    PrimarySemiSyncMustBeSet Medium,
    /// The primary waits for acknowledgements that the policy does not want; switched before its replicas.
    PrimarySemiSyncMustNotBeSet Medium,
    /// A replica acknowledges that must not.
    ReplicaSemiSyncMustNotBeSet Medium,
    /// The primary would go on without an acknowledgement, or waits for another number than the policy's.
    PrimarySemiSyncMisconfigured Medium,
    /// A replica's heartbeat does not fit its `replica_net_timeout`.
    ReplicaMisconfigured Medium,
    /// A replica leaves transactions out.
    ReplicationFilters Medium,
    /// A replica does not replicate by GTID positions.
    ReplicaWithoutAutoPosition Medium,
    /// Semi-sync waits for more replicas than are connected; nobody is known to hang yet.
    LockedSemiSyncPrimaryHypothesis Medium,
    /// The primary's only replica does not replicate.
    PrimarySingleReplicaNotReplicating Medium,
    /// The primary's only replica does not answer.
    PrimarySingleReplicaDead Medium,
    /// The primary answers much slower than it usually does.
    SlowPrimary Medium,
    /// No replica of the primary replicates.
    AllPrimaryReplicasNotReplicating Low,
    /// No replica of the primary replicates; some do not answer.
    AllPrimaryReplicasNotReplicatingOrDead Low,
    /// A replica has never answered since this elector watches it.
    InvalidReplica Low,
    /// A replica answered before and does not now.
    UnreachableReplica Low,
    /// A replica that other replicas replicate from.
    IntermediatePrimary Low,
    /// A replica that other replicas replicate from does not answer, and they have lost it.
    DeadIntermediatePrimary Low,
    /// A replica is further behind than is reasonable.
    LaggingReplica Low,
    /// Fewer replicas acknowledge than the policy needs if this primary is to be lost safely.
    NotEnoughAckers Low,
    /// No replica keeps a binary log of what it applies: none can be promoted and followed.
    NoLoggingReplicas Low,
    /// Tablets log in different binary log formats.
    MixedBinlogFormats Low,
    /// Tablets run different release series of MySQL.
    MixedVersions Low,
    /// Tablets have different GTID modes, or one that is not ON.
    GtidModesDiffer Low,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
