//! Stores in memory with a switch each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vtelector::{pb::topodata, topo::*};

/// How a store behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Up,
    /// Every call fails at once, every watch ends.
    Down,
    /// Every call stays without an answer for two seconds and then fails; watches see nothing.
    Silent,
    /// Calls are carried out, but the answers to writes are lost.
    DeafToWrites,
}

pub struct FaultyKv {
    pub inner: MemoryKv,
    pub mode: watch::Sender<Mode>,
    address: String,
    tasks: TaskTracker,
}

impl FaultyKv {
    fn unreachable(&self, operation: &str, unknown_outcome: bool) -> KvError {
        let reason = "switched off by the test".to_owned();
        KvError::Unreachable { operation: operation.to_owned(), endpoints: self.address.clone(), reason, unknown_outcome }
    }

    async fn pass(&self, operation: &str) -> Result<(), KvError> {
        let mode = *self.mode.borrow();
        match mode {
            Mode::Up | Mode::DeafToWrites => Ok(()),
            Mode::Down => Err(self.unreachable(operation, false)),
            Mode::Silent => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Err(self.unreachable(operation, true))
            }
        }
    }

    fn answer<T>(&self, operation: &str, done: Result<T, KvError>) -> Result<T, KvError> {
        if *self.mode.borrow() == Mode::DeafToWrites { Err(self.unreachable(operation, true)) } else { done }
    }
}

#[async_trait]
impl Kv for FaultyKv {
    async fn get(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        self.pass(&format!("reading {key}")).await?;
        self.inner.get(key).await
    }
    async fn get_at(&self, key: &str, revision: Version) -> Result<Option<KvEntry>, KvError> {
        self.pass(&format!("reading {key}")).await?;
        self.inner.get_at(key, revision).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, KvError> {
        self.pass(&format!("listing {prefix}")).await?;
        self.inner.list(prefix).await
    }
    async fn list_keys(&self, prefix: &str) -> Result<Listing, KvError> {
        self.pass(&format!("listing {prefix}")).await?;
        self.inner.list_keys(prefix).await
    }
    async fn create(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Version, KvError> {
        self.pass(&format!("creating {key}")).await?;
        self.answer("creating", self.inner.create(key, value, lease).await)
    }
    async fn update(&self, key: &str, value: Vec<u8>, expected: Version) -> Result<Version, KvError> {
        self.pass(&format!("updating {key}")).await?;
        self.answer("updating", self.inner.update(key, value, expected).await)
    }
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Version, KvError> {
        self.pass(&format!("writing {key}")).await?;
        self.answer("writing", self.inner.put(key, value).await)
    }
    async fn delete(&self, key: &str, expected: Option<Version>) -> Result<bool, KvError> {
        self.pass(&format!("deleting {key}")).await?;
        self.answer("deleting", self.inner.delete(key, expected).await)
    }
    async fn put_guarded(&self, guard: (&str, Version), key: &str, value: Vec<u8>) -> Result<Option<Version>, KvError> {
        self.pass(&format!("writing {key}")).await?;
        self.answer("writing", self.inner.put_guarded(guard, key, value).await)
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        self.pass("granting a lease").await?;
        self.inner.lease_grant(ttl).await
    }
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        self.pass("keeping a lease alive").await?;
        self.inner.lease_keepalive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        self.pass("revoking a lease").await?;
        self.inner.lease_revoke(lease).await
    }
    async fn watch(&self, prefix: &str, from: Version) -> Result<Watch, KvError> {
        self.pass(&format!("watching {prefix}")).await?;
        let mut inner = self.inner.watch(prefix, from).await?;
        let (sender, events) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let (mut mode, stopped) = (self.mode.subscribe(), stop.clone());
        self.tasks.spawn(async move {
            loop {
                let event = tokio::select! {
                    () = stopped.cancelled() => return,
                    _ = mode.wait_for(|mode| *mode == Mode::Down) => return,
                    event = inner.events.recv() => event,
                };
                let Some(event) = event else { return };
                if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() || sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        Ok(Watch::new(events, stop.drop_guard()))
    }
}

/// One switchable store per address.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<BTreeMap<String, Arc<FaultyKv>>>>);

impl World {
    pub fn store(&self, address: &str) -> Arc<FaultyKv> {
        let make = || {
            let (mode, _) = watch::channel(Mode::Up);
            Arc::new(FaultyKv { inner: MemoryKv::default(), mode, address: address.to_owned(), tasks: TaskTracker::new() })
        };
        self.0.lock().unwrap().entry(address.to_owned()).or_insert_with(make).clone()
    }

    pub fn set(&self, address: &str, mode: Mode) {
        self.store(address).mode.send_replace(mode);
    }

    pub fn opened(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    /// A topology with the cells zone1 and zone2 at stores of these names, and the shard commerce/0.
    pub async fn topo(&self) -> Topo {
        let settings = TopoSettings {
            global_server_address: "global".to_owned(),
            global_root: "/vitess/global".to_owned(),
            tls: None,
            lease_ttl: Duration::from_secs(5),
            request_timeout: Duration::from_secs(1),
        };
        let topo = Topo::with_stores(Box::new(self.clone()), &settings).unwrap();
        for cell in ["zone1", "zone2"] {
            topo.create_cell_info(cell, &cell_at(cell, cell)).await.unwrap();
        }
        topo.create_keyspace("commerce", &topodata::Keyspace::default()).await.unwrap();
        topo.create_shard(&commerce(), Duration::from_secs(1)).await.unwrap();
        topo
    }
}

impl Stores for World {
    fn open(&self, server_address: &str) -> Result<Arc<dyn Kv>, KvError> {
        Ok(self.store(server_address))
    }
}

pub fn commerce() -> ShardId {
    "commerce/0".parse().unwrap()
}

pub fn cell_at(cell: &str, address: &str) -> topodata::CellInfo {
    topodata::CellInfo { server_address: address.to_owned(), root: format!("/vitess/{cell}") }
}

pub fn tablet(alias: &str) -> topodata::Tablet {
    let alias: TabletAlias = alias.parse().unwrap();
    topodata::Tablet {
        alias: Some((&alias).into()),
        hostname: "host1".to_owned(),
        keyspace: "commerce".to_owned(),
        shard: "0".to_owned(),
        r#type: topodata::TabletType::Replica.into(),
        ..Default::default()
    }
}

/// Registers a tablet as its own process does.
pub async fn register(topo: &Topo, alias: &str) -> TabletAlias {
    let alias_parsed: TabletAlias = alias.parse().unwrap();
    topo.create_tablet(&tablet(alias)).await.unwrap();
    topo.add_to_shard_replication(&commerce(), &alias_parsed).await.unwrap();
    alias_parsed
}
