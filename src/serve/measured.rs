//! The topology and the tablets with a stopwatch on every call.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    metrics::Metrics,
    pb::{
        query::QueryResult,
        replicationdata::{FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::{Tablet, TabletType},
    },
    shard::Greeting,
    tablet::{Call, HealthStream, SetSource, TabletError, TabletErrorKind, TabletManager},
    topo::{EtcdKv, Kv, KvEntry, KvError, LeaseId, Listing, Stores, TabletAlias, TopoSettings, Version, Watch},
};

/// Opens etcd stores that are measured.
pub struct MeasuredStores {
    settings: TopoSettings,
    metrics: Arc<Metrics>,
}

impl MeasuredStores {
    /// Opens them with these settings.
    pub fn new(settings: TopoSettings, metrics: Arc<Metrics>) -> Self {
        Self { settings, metrics }
    }
}

impl Stores for MeasuredStores {
    fn open(&self, server_address: &str) -> Result<Arc<dyn Kv>, KvError> {
        let inner = EtcdKv::new(server_address, self.settings.tls.clone(), self.settings.request_timeout)?;
        Ok(Arc::new(MeasuredKv { inner, metrics: self.metrics.clone() }))
    }
}

struct MeasuredKv<K> {
    inner: K,
    metrics: Arc<Metrics>,
}

impl<K> MeasuredKv<K> {
    async fn timed<T>(&self, operation: &str, call: impl Future<Output = Result<T, KvError>>) -> Result<T, KvError> {
        let started = Instant::now();
        let answer = call.await;
        let result = match &answer {
            Ok(_) => "ok",
            Err(KvError::Exists { .. } | KvError::BadVersion { .. }) => "conflict",
            Err(KvError::LeaseGone { .. }) => "lease_gone",
            Err(KvError::Compacted { .. }) => "compacted",
            Err(KvError::Unreachable { .. }) => "unreachable",
            Err(KvError::Refused { .. }) => "refused",
        };
        self.metrics.topology_call(operation, result, started.elapsed());
        answer
    }
}

/// Writes the methods of the store: each is the inner store's, timed under its own name.
macro_rules! measured_kv {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl<K: Kv> Kv for MeasuredKv<K> {
            $(async fn $name(&self, $($arg: $kind),*) -> Result<$answer, KvError> {
                self.timed(stringify!($name), self.inner.$name($($arg),*)).await
            })*
        }
    };
}

measured_kv! {
    get(key: &str) -> Option<KvEntry>;
    get_at(key: &str, revision: Version) -> Option<KvEntry>;
    list(prefix: &str) -> Listing;
    list_keys(prefix: &str) -> Listing;
    create(key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Version;
    update(key: &str, value: Vec<u8>, expected: Version) -> Version;
    put(key: &str, value: Vec<u8>) -> Version;
    delete(key: &str, expected: Option<Version>) -> bool;
    put_guarded(guard: (&str, Version), key: &str, value: Vec<u8>) -> Option<Version>;
    lease_grant(ttl: Duration) -> LeaseId;
    lease_keepalive(lease: LeaseId) -> Duration;
    lease_revoke(lease: LeaseId) -> ();
    watch(prefix: &str, from: Version) -> Watch;
}

/// Tablets that are measured.
pub struct MeasuredTablets<T> {
    inner: T,
    metrics: Arc<Metrics>,
}

impl<T> MeasuredTablets<T> {
    /// Measures what is asked of `inner`.
    pub fn new(inner: T, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    async fn timed<A>(&self, method: &str, call: impl Future<Output = Result<A, TabletError>>) -> Result<A, TabletError> {
        let started = Instant::now();
        let answer = call.await;
        let result = answer.as_ref().err().map_or("ok", |error| word(error.kind));
        self.metrics.tablet_call(method, result, started.elapsed());
        answer
    }
}

fn word(kind: TabletErrorKind) -> &'static str {
    match kind {
        TabletErrorKind::Unreachable => "unreachable",
        TabletErrorKind::UnknownOutcome => "unknown_outcome",
        TabletErrorKind::MysqlDown => "mysql_down",
        TabletErrorKind::NotReplica => "not_replica",
        TabletErrorKind::Precondition => "precondition",
        TabletErrorKind::ErrantGtid => "errant_gtid",
        TabletErrorKind::AlreadyDone => "already_done",
        TabletErrorKind::Unimplemented => "unimplemented",
        TabletErrorKind::Overtaken => "overtaken",
        TabletErrorKind::Failed => "failed",
    }
}

/// Writes the methods of the tablets: each is the inner one's, timed under the name of its RPC.
macro_rules! measured_tablets {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty: $method:literal;)*) => {
        #[async_trait]
        impl<T: TabletManager> TabletManager for MeasuredTablets<T> {
            $(async fn $name(&self, tablet: &Tablet, $($arg: $kind,)* call: Call) -> Result<$answer, TabletError> {
                self.timed($method, self.inner.$name(tablet, $($arg,)* call)).await
            })*
        }
    };
}

measured_tablets! {
    ping() -> (): "Ping";
    full_status() -> FullStatus: "FullStatus";
    replication_status() -> Status: "ReplicationStatus";
    primary_status() -> PrimaryStatus: "PrimaryStatus";
    primary_position() -> String: "PrimaryPosition";
    global_status_vars(variables: &[&str]) -> BTreeMap<String, String>: "GetGlobalStatusVars";
    wait_for_position(position: &str) -> (): "WaitForPosition";
    stop_replication_and_get_status(mode: StopReplicationMode) -> StopReplicationStatus: "StopReplicationAndGetStatus";
    stop_replication() -> (): "StopReplication";
    start_replication(semi_sync: bool) -> (): "StartReplication";
    set_replication_source(set: SetSource<'_>) -> (): "SetReplicationSource";
    demote_primary(force: bool) -> PrimaryStatus: "DemotePrimary";
    undo_demote_primary(semi_sync: bool) -> (): "UndoDemotePrimary";
    promote_replica(semi_sync: bool) -> String: "PromoteReplica";
    init_primary(semi_sync: bool) -> String: "InitPrimary";
    populate_reparent_journal(time_created_ns: i64, action: &str, primary: &TabletAlias, position: &str) -> (): "PopulateReparentJournal";
    read_reparent_journal_info() -> i32: "ReadReparentJournalInfo";
    set_read_only(read_only: bool) -> (): "SetReadOnly";
    change_type(to: TabletType, semi_sync: bool) -> (): "ChangeType";
    refresh_state() -> (): "RefreshState";
    run_health_check() -> (): "RunHealthCheck";
    reset_replication_parameters() -> (): "ResetReplicationParameters";
    execute_fetch_as_dba(sql: &str, max_rows: u64) -> QueryResult: "ExecuteFetchAsDba";
    restart_replication(semi_sync: bool) -> (): "RestartReplication";
    stop_replication_minimum(position: &str, wait: Duration) -> String: "StopReplicationMinimum";
    get_replicas() -> Vec<String>: "GetReplicas";
    change_tags(tags: &BTreeMap<String, String>, replace: bool) -> BTreeMap<String, String>: "ChangeTags";
    replica_was_restarted(parent: &TabletAlias) -> (): "ReplicaWasRestarted";
    replica_was_promoted() -> (): "ReplicaWasPromoted";
    hear(of: &Tablet, wait: Duration) -> Greeting: "Hear";
    stream_health() -> HealthStream: "StreamHealth";
}
