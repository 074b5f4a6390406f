//! etcd at the other end of the network: the shipped store in memory, slow, silent or down as ordered.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vtelector::topo::{Kv, KvEntry, KvError, LeaseId, Listing, MemoryKv, Stores, Topo, TopoSettings, Version, Watch};

use super::{net::Node, world::World};

/// What one request waits for.
const REQUEST: Duration = Duration::from_secs(1);
/// A connection that is refused is tried again that soon by nobody here.
const REFUSED: Duration = Duration::from_millis(5);

/// How soon the end of a watch is noticed.
const LOOK: Duration = Duration::from_millis(100);

struct NetKv {
    world: Weak<World>,
    inner: Arc<MemoryKv>,
    node: Node,
}

struct NetStores {
    world: Weak<World>,
    inner: Arc<MemoryKv>,
    node: Node,
}

pub fn topo(world: &Arc<World>, node: Node) -> Topo {
    let settings = TopoSettings {
        global_server_address: "etcd".to_owned(),
        global_root: "/vitess/global".to_owned(),
        tls: None,
        lease_ttl: Duration::from_secs(5),
        request_timeout: REQUEST,
    };
    let stores = NetStores { world: Arc::downgrade(world), inner: world.kv.clone(), node };
    Topo::with_stores(Box::new(stores), &settings).unwrap()
}

impl Stores for NetStores {
    fn open(&self, _: &str) -> Result<Arc<dyn Kv>, KvError> {
        Ok(Arc::new(NetKv { world: self.world.clone(), inner: self.inner.clone(), node: self.node }))
    }
}

impl NetKv {
    fn unreachable(&self, operation: &str, unknown_outcome: bool) -> KvError {
        let reason = if unknown_outcome { "no answer in time" } else { "connection refused" }.to_owned();
        KvError::Unreachable { operation: operation.to_owned(), endpoints: "etcd".to_owned(), reason, unknown_outcome }
    }

    /// There, done, and back.
    async fn ask<T>(&self, operation: &str, does: impl Future<Output = Result<T, KvError>>) -> Result<T, KvError> {
        let Some(world) = self.world.upgrade() else { return std::future::pending().await };
        world.gets_on(self.node).await;
        let mut sent = false;
        let round = async {
            world.travel(self.node, Node::Etcd).await;
            let (up, delay) = {
                let state = world.lock();
                (state.etcd_up, state.etcd_delay)
            };
            if !up {
                sleep(REFUSED).await;
                return Err(self.unreachable(operation, false));
            }
            if let Some(delay) = delay {
                sleep(world.random(|rng| delay.mul_f64(rand::RngExt::random::<f64>(rng)))).await;
            }
            sent = true;
            let done = does.await;
            world.travel(Node::Etcd, self.node).await;
            done
        };
        let done = timeout(REQUEST, round).await;
        world.gets_on(self.node).await;
        done.unwrap_or_else(|_| Err(self.unreachable(operation, sent)))
    }
}

#[async_trait]
impl Kv for NetKv {
    async fn get(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        self.ask("reading", self.inner.get(key)).await
    }
    async fn get_at(&self, key: &str, revision: Version) -> Result<Option<KvEntry>, KvError> {
        self.ask("reading", self.inner.get_at(key, revision)).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, KvError> {
        self.ask("listing", self.inner.list(prefix)).await
    }
    async fn list_keys(&self, prefix: &str) -> Result<Listing, KvError> {
        self.ask("listing", self.inner.list_keys(prefix)).await
    }
    async fn create(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Version, KvError> {
        self.ask("creating", self.inner.create(key, value, lease)).await
    }
    async fn update(&self, key: &str, value: Vec<u8>, expected: Version) -> Result<Version, KvError> {
        self.ask("updating", self.inner.update(key, value, expected)).await
    }
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Version, KvError> {
        self.ask("writing", self.inner.put(key, value)).await
    }
    async fn delete(&self, key: &str, expected: Option<Version>) -> Result<bool, KvError> {
        self.ask("deleting", self.inner.delete(key, expected)).await
    }
    async fn put_guarded(&self, guard: (&str, Version), key: &str, value: Vec<u8>) -> Result<Option<Version>, KvError> {
        self.ask("writing", self.inner.put_guarded(guard, key, value)).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        self.ask("granting a lease", self.inner.lease_grant(ttl)).await
    }
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        self.ask("keeping a lease alive", self.inner.lease_keepalive(lease)).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        self.ask("revoking a lease", self.inner.lease_revoke(lease)).await
    }
    async fn watch(&self, prefix: &str, from: Version) -> Result<Watch, KvError> {
        let mut inner = self.ask("watching", self.inner.watch(prefix, from)).await?;
        let Some(world) = self.world.upgrade() else { return std::future::pending().await };
        let (sender, events) = mpsc::channel(1024);
        let (stop, node) = (CancellationToken::new(), self.node);
        let stopped = stop.clone();
        let weak = self.world.clone();
        world.goes_on(async move {
            let feed = async {
                while let Some(event) = inner.events.recv().await {
                    let Some(world) = weak.upgrade() else { return };
                    if !world.lock().etcd_up {
                        return;
                    }
                    world.travel(Node::Etcd, node).await;
                    world.gets_on(node).await;
                    // The reader has gone, or stands still: its watch ends.
                    if sender.try_send(event).is_err() {
                        return;
                    }
                }
            };
            let down = async {
                if let Some(world) = weak.upgrade() {
                    let is_lost = |state: &super::world::State| !state.etcd_up || state.net.is_given_up(node, Node::Etcd);
                    while !is_lost(&world.lock()) {
                        sleep(LOOK).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = down => {}
                () = sender.closed() => {}
                () = feed => {}
            }
        });
        Ok(Watch::new(events, stop.drop_guard()))
    }
}
