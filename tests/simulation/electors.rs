//! The electors under test: what ships, put together as the server does, with the world's network, topology and clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use vtelector::{
    diagnose::Rules,
    ledger::Clock,
    metrics::Metrics,
    mysql::conn::MysqlAddress,
    peers::{Ask, Listen, Observation, Observer, PeerSettings},
    recover::{Elector, ElectorSettings, Live},
    sense::SenseSettings,
    shard::Greeting,
    topo::TabletAlias,
};

use super::{
    mysqld::Process,
    net::Node,
    person,
    remote::{Remote, knock},
    world::{Seat, World},
};

/// A restarted elector is another process at the same address.
const NEXT_LIFE: usize = 10;

/// A running elector of the world.
pub struct Seated {
    pub elector: Option<Elector>,
    pub metrics: Arc<Metrics>,
    observer: Arc<Observer>,
}

/// How the electors reach each other and the servers.
struct Wire {
    world: Arc<World>,
    node: Node,
}

fn address(node: Node) -> String {
    match node {
        Node::Elector(number) => format!("elector{}:15999", number % NEXT_LIFE),
        other => format!("{other:?}"),
    }
}

#[async_trait]
impl Ask for Wire {
    async fn observe(
        &self,
        elector: &vtelector::peers::Elector,
        tablet: &TabletAlias,
        limit: Duration,
    ) -> Result<Observation, String> {
        let found = self
            .world
            .electors()
            .iter()
            .rev()
            .find(|(node, _)| address(**node) == elector.address)
            .map(|(node, them)| (*node, them.observer.clone()));
        let (there, observer) = found.ok_or("no such elector")?;
        let round = async {
            self.world.gets_on(self.node).await;
            self.world.travel(self.node, there).await;
            self.world.gets_on(there).await;
            let seen = observer.observe(tablet).await.map_err(|error| error.to_string())?;
            self.world.travel(there, self.node).await;
            Ok(seen)
        };
        timeout(limit, round).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

#[async_trait]
impl Listen for Wire {
    async fn greeting(&self, address: &MysqlAddress, deadline: Instant) -> Greeting {
        let MysqlAddress::Tcp { host, .. } = address else { return Greeting::CannotTell("no address".to_owned()) };
        let Some(host) = host.parse().ok().and_then(|alias: TabletAlias| self.world.host_of(&alias)) else {
            return Greeting::CannotTell("no such host".to_owned());
        };
        timeout_at(deadline, knock(&self.world, self.node, host)).await.unwrap_or(Greeting::Silent)
    }
}

/// Starts an elector in a seat of its own.
pub fn start(world: &Arc<World>, node: Node) {
    world.lock().seats.insert(node, Seat { process: Process::Running });
    let number = match node {
        Node::Elector(number) => number % NEXT_LIFE,
        _ => 0,
    };
    let wire = Arc::new(Wire { world: world.clone(), node });
    let hands = person::hands(world, node);
    let remote = Arc::new(Remote { world: world.clone(), node });
    let observer = Arc::new(Observer::listening_by(&hands.topo, remote, wire.clone()));
    let live = Live {
        rules: Rules::default(),
        flap: world.shape.flap,
        allow_recovery: world.shape.allow_recovery,
        allow_emergency: true,
        prevent_cross_cell: false,
        allow_unfenced: false,
        tolerable_lag: None,
        wait_replicas_timeout: Duration::from_secs(30),
    };
    let clock = world.clone();
    let settings = ElectorSettings {
        sense: SenseSettings {
            status_interval: Duration::from_secs(1),
            primary_liveness_interval: Duration::from_millis(250),
            liveness_per_second_max: 4000,
            remote_operation_timeout: Duration::from_secs(15),
            watched: Default::default(),
            durability_extra: BTreeMap::new(),
        },
        peers: PeerSettings {
            ledger_root: "/vtelector".to_owned(),
            address: address(node),
            who: address(node),
            cell: format!("zone{}", 1 + number % 3),
            watched: Default::default(),
        },
        ask: wire,
        observer: observer.clone(),
        direct: None,
        live: watch::Sender::new(Arc::new(live)).subscribe(),
        clock: Clock::new(Arc::new(move || clock.wall())),
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let locks = metrics.locks.clone();
    hands.topo.listen_to_locks(Arc::new(move |event| locks.event(event)));
    let elector = Elector::start(hands, metrics.clone(), settings, &CancellationToken::new());
    world.electors().insert(node, Seated { elector: Some(elector), metrics, observer });
}

/// The process is gone: nothing of it reaches anybody any more.
pub fn die(world: &Arc<World>, node: Node) {
    let seated = world.electors().get_mut(&node).and_then(|seated| seated.elector.take());
    drop(seated);
}

/// A frozen process goes on; a dead one is started anew.
pub fn back(world: &Arc<World>, node: Node, was: Process) {
    match (was, node) {
        (Process::Frozen, _) => {
            world.lock().seats.insert(node, Seat { process: Process::Running });
        }
        (_, Node::Elector(number)) => start(world, Node::Elector(number + NEXT_LIFE)),
        _ => {}
    }
}
