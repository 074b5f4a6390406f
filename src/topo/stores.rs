//! Which store holds what: the global topology, and that of each cell where its record says it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Kv, KvError, MemoryKv, TopoError, Version, etcd::EtcdKv, keys::Root, lock::LockListener, queue::Identity};

/// How to reach the topology; the names of the flags are Vitess's.
#[derive(Debug, Clone)]
pub struct TopoSettings {
    /// `--topo-global-server-address`: endpoints of the global etcd, `host:port` with commas between.
    pub global_server_address: String,
    /// `--topo-global-root`.
    pub global_root: String,
    /// `--topo-etcd-tls-cert`, `-key`, `-ca`; TLS is used when any of them is given.
    pub tls: Option<TopoTls>,
    /// `--topo-etcd-lease-ttl`: life of the lock after its holder died.
    pub lease_ttl: Duration,
    /// Limit of one request to one endpoint. A call ends within this times the number of endpoints (at least two).
    pub request_timeout: Duration,
}

/// Files of the TLS identity towards etcd.
pub type TopoTls = crate::tls::ClientFiles;

/// Opens the store at an address. Production opens etcd; the simulation and tests open what they like.
pub trait Stores: Send + Sync + 'static {
    /// The store at `server_address` (of the global flag or of a cell's record). Need not connect yet.
    fn open(&self, server_address: &str) -> Result<Arc<dyn Kv>, KvError>;
}

struct EtcdStores {
    tls: Option<TopoTls>,
    request_timeout: Duration,
}

impl Stores for EtcdStores {
    fn open(&self, server_address: &str) -> Result<Arc<dyn Kv>, KvError> {
        Ok(Arc::new(EtcdKv::new(server_address, self.tls.clone(), self.request_timeout)?))
    }
}

/// One store in memory per address.
#[derive(Default)]
struct MemoryStores(Mutex<BTreeMap<String, Arc<MemoryKv>>>);

impl Stores for MemoryStores {
    fn open(&self, server_address: &str) -> Result<Arc<dyn Kv>, KvError> {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(stores.entry(server_address.to_owned()).or_default().clone())
    }
}

/// A store and the root of one topology in it.
#[derive(Clone)]
pub(crate) struct Store {
    pub kv: Arc<dyn Kv>,
    pub root: Root,
    address: String,
}

/// Typed access to the topology. Cheap to clone.
#[derive(Clone)]
pub struct Topo {
    inner: Arc<Inner>,
}

struct Inner {
    stores: Box<dyn Stores>,
    global: Store,
    /// One entry per cell in use. Cells at the same address share one store.
    cells: Mutex<BTreeMap<String, Store>>,
    lease_ttl: Duration,
    identity: Identity,
    lock_listener: OnceLock<LockListener>,
    /// Owns the tasks that keep locks alive and give them back. There is one per lock.
    tasks: TaskTracker,
    /// Ends what waits in those tasks when the last clone is dropped or [`Topo::shutdown`] is called.
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Topo {
    /// Connects to etcd; fails when the global topology does not answer, or when a TLS file cannot be used.
    pub async fn connect(settings: &TopoSettings) -> Result<Self, TopoError> {
        let stores = EtcdStores { tls: settings.tls.clone(), request_timeout: settings.request_timeout };
        let topo = Self::with_stores(Box::new(stores), settings)?;
        let global = topo.global_store();
        let doing = format!("connecting to the global topology below {:?}", settings.global_root);
        global.kv.list_keys(&global.root.folder("cells")).await.map_err(TopoError::kv(doing))?;
        Ok(topo)
    }

    /// A topology in memory, with one store per server address. Made within a tokio runtime, on whose clock its leases run.
    pub fn in_memory() -> Self {
        let settings = TopoSettings {
            global_server_address: "memory".to_owned(),
            global_root: "/vitess/global".to_owned(),
            tls: None,
            lease_ttl: Duration::from_secs(5),
            request_timeout: Duration::from_secs(1),
        };
        let stores = MemoryStores::default();
        let global =
            Store { kv: Arc::new(MemoryKv::default()), root: Root::new(&settings.global_root), address: "memory".into() };
        Self::new(Box::new(stores), global, settings.lease_ttl)
    }

    /// A topology on stores of the caller's making; nothing is read yet.
    pub fn with_stores(stores: Box<dyn Stores>, settings: &TopoSettings) -> Result<Self, TopoError> {
        let address = settings.global_server_address.clone();
        let kv = stores.open(&address).map_err(TopoError::kv("opening the global topology"))?;
        Ok(Self::new(stores, Store { kv, root: Root::new(&settings.global_root), address }, settings.lease_ttl))
    }

    fn new(stores: Box<dyn Stores>, global: Store, lease_ttl: Duration) -> Self {
        let (cells, tasks, stop) = (Mutex::default(), TaskTracker::new(), CancellationToken::new());
        let (identity, lock_listener) = (Identity::of_this_process(), OnceLock::new());
        Self { inner: Arc::new(Inner { stores, global, cells, lease_ttl, identity, lock_listener, tasks, stop }) }
    }

    /// Gives back every lock that is still held and waits until that is done, at most `limit`. Locks taken later are lost at once.
    pub async fn shutdown(&self, limit: Duration) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(limit, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "some topology locks were not given back; they end with their leases");
        }
    }

    /// The global store, for full keys of our own such as those below `/vtelector`.
    pub fn global(&self) -> Arc<dyn Kv> {
        self.inner.global.kv.clone()
    }

    /// The full key in the global store of a path such as `keyspaces/commerce`, the global root put in front.
    pub fn global_key(&self, path: &str) -> String {
        self.inner.global.root.key(path)
    }

    pub(crate) fn global_store(&self) -> Store {
        self.inner.global.clone()
    }

    pub(crate) fn lease_ttl(&self) -> Duration {
        self.inner.lease_ttl
    }

    /// The name of this host.
    pub fn hostname(&self) -> &str {
        &self.inner.identity.host
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    pub(super) fn lock_listener(&self) -> &OnceLock<LockListener> {
        &self.inner.lock_listener
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// The store of a cell, as its record says now: the record is read on every use, so a cell that moved is followed.
    pub(crate) async fn cell_store(&self, cell: &str) -> Result<Store, TopoError> {
        match self.cell_info(cell).await {
            Ok(info) => self.store_of(cell, &info),
            Err(error) => {
                if error.is_not_found() {
                    self.forget_cell(cell);
                }
                Err(error)
            }
        }
    }

    /// The store of a cell with this record.
    pub(crate) fn store_of(&self, cell: &str, info: &crate::pb::topodata::CellInfo) -> Result<Store, TopoError> {
        let inner = &*self.inner;
        let (root, address) = (Root::new(&info.root), info.server_address.as_str());
        let mut cells = inner.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = cells.get(cell).filter(|store| store.address == address && store.root == root) {
            return Ok(store.clone());
        }
        let shared = std::iter::once(&inner.global).chain(cells.values()).find(|store| store.address == address);
        let kv = match shared {
            Some(store) => store.kv.clone(),
            None => inner.stores.open(address).map_err(TopoError::kv(format!("opening the topology of cell {cell}")))?,
        };
        let store = Store { kv, root, address: address.to_owned() };
        cells.insert(cell.to_owned(), store.clone());
        Ok(store)
    }

    fn forget_cell(&self, cell: &str) {
        self.inner.cells.lock().unwrap_or_else(PoisonError::into_inner).remove(cell);
    }

    /// What stands under a path such as `/global/keyspaces` or `/zone1/tablets/zone1-0000000100/Tablet`, at a store revision
    /// (0 = now): the children of a folder, or the bytes of a file. A folder has children only as of now, as in Vitess.
    pub async fn path(&self, path: &str, revision: Version) -> Result<TopoPath, TopoError> {
        let (cell, rest) = path.strip_prefix('/').unwrap_or(path).split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        if path.trim_matches('/').is_empty() {
            let mut names = self.cells().await?;
            names.insert(0, "global".to_owned());
            return Ok(TopoPath::Folder(names));
        }
        if rest.split('/').any(|part| part == "..") {
            return Err(TopoError::NotFound { what: format!("path {path}"), key: rest.to_owned() });
        }
        let store = if cell == "global" { self.global_store() } else { self.cell_store(cell).await? };
        let doing = || TopoError::kv(format!("reading the topology path {path}"));
        let (key, folder) = (store.root.key(rest), store.root.folder(rest));
        let file = match revision {
            _ if rest.trim_matches('/').is_empty() => None,
            0 => store.kv.get(&key).await.map_err(doing())?,
            _ => store.kv.get_at(&key, revision).await.map_err(doing())?,
        };
        if let Some(file) = file {
            return Ok(TopoPath::File { value: file.value, version: file.version });
        }
        let listing = if revision == 0 { store.kv.list_keys(&folder).await.map_err(doing())? } else { Default::default() };
        let names = super::keys::children(&folder, listing.entries.iter().map(|entry| entry.key.as_str()));
        if names.is_empty() {
            return Err(TopoError::NotFound { what: format!("path {path}"), key });
        }
        Ok(TopoPath::Folder(names))
    }
}

/// What stands under a topology path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopoPath {
    /// Names of what is below.
    Folder(Vec<String>),
    /// A record's bytes and version.
    File {
        /// The stored bytes.
        value: Vec<u8>,
        /// Revision of the last write.
        version: Version,
    },
}
