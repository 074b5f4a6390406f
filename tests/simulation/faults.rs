//! What goes wrong, and how it is over: each fault mends itself some time later, as a supervisor or a person would mend it.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use vtelector::pb::topodata::TabletType;

use super::{
    manager::{Flavour, Manager},
    mysqld::Process,
    net::Node,
    world::{State, World},
};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)* }
        impl Fault {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

faults! {
    /// The primary's mysqld is killed, and started again after a while.
    PrimaryKilled,
    /// It is stopped, and goes on after a while.
    PrimaryFrozen,
    /// No packet from or to the primary's host.
    PrimarySilent,
    /// The primary's tablet manager dies; its mysqld works.
    ManagerDead,
    /// It stands still for 3 s.
    ManagerFrozen,
    /// mysqld of the primary is restarted at once.
    PrimaryRestarted,
    ReplicaKilled,
    ReplicaLagging,
    ReplicaErrant,
    ReplicaSqlStopped,
    /// The first elector and the primary's host do not reach each other.
    ElectorPrimaryCut,
    /// The first elector and the replicas' hosts do not reach each other.
    ElectorReplicasCut,
    ReplicaPrimaryCut,
    /// A fifth of the first elector's packets is lost, and the others come up to 300 ms late.
    ElectorLossy,
    EtcdDown,
    EtcdSlow,
    ElectorKilled,
    ElectorPaused,
    /// A person runs PlannedReparentShard.
    PlannedByPerson,
    ReplicaWritable,
    PrimaryReadOnly,
    /// A replica's record is deleted, and written again by its tablet.
    RecordDeleted,
    /// A replica's record says PRIMARY with an old term.
    StaleRecord,
    /// A tablet's clock is one hour ahead or behind.
    ClockOff,
}

/// What a fault brings is waited for that long at least.
const LEAST: Duration = Duration::from_secs(6);

/// How long the longer faults last.
const WHILE: Duration = Duration::from_secs(15);

impl Fault {
    /// Makes it happen now, and sees to its end.
    pub fn strike(self, world: &Arc<World>) {
        let primary = world.primary();
        let replica = world.random_replica(primary);
        world.lasts(LEAST);
        world.note(format!("FAULT {self:?} (primary {}, replica {})", world.alias(primary), world.alias(replica)));
        match self {
            Self::PrimaryKilled => kill_mysqld(world, primary, WHILE),
            Self::ReplicaKilled => kill_mysqld(world, replica, WHILE),
            Self::PrimaryRestarted => kill_mysqld(world, primary, Duration::from_millis(1500)),
            Self::PrimaryFrozen => freeze_mysqld(world, primary, WHILE),
            Self::PrimarySilent => silence(world, primary, WHILE),
            Self::ManagerDead => kill_manager(world, primary, WHILE),
            Self::ManagerFrozen => freeze_manager(world, primary, Duration::from_secs(3)),
            Self::ReplicaLagging => lag(world, replica),
            Self::ReplicaErrant => {
                let mysqld = &mut world.lock().hosts[replica].mysqld;
                mysqld.executed.0[replica] += 1;
                (mysqld.binlog, mysqld.received) = (mysqld.executed, {
                    let mut all = mysqld.received;
                    all.join(&mysqld.executed);
                    all
                });
            }
            Self::ReplicaSqlStopped => world.lock().hosts[replica].mysqld.sql = false,
            Self::ElectorPrimaryCut => cut(world, vec![Node::Elector(0)], vec![Node::Host(primary)], WHILE),
            Self::ElectorReplicasCut => {
                let replicas = (0..world.shape.tablets).filter(|host| *host != primary).map(Node::Host).collect();
                cut(world, vec![Node::Elector(0)], replicas, WHILE);
            }
            Self::ReplicaPrimaryCut => cut(world, vec![Node::Host(replica)], vec![Node::Host(primary)], WHILE),
            Self::ElectorLossy => disturb(world, WHILE),
            Self::EtcdDown => {
                world.lock().etcd_up = false;
                later(world, Duration::from_secs(30), |world| world.lock().etcd_up = true);
            }
            Self::EtcdSlow => {
                world.lock().etcd_delay = Some(Duration::from_millis(600));
                later(world, WHILE, |world| world.lock().etcd_delay = None);
            }
            Self::ElectorKilled => seat(world, Node::Elector(0), Process::Dead, WHILE),
            Self::ElectorPaused => seat(world, Node::Elector(0), Process::Frozen, Duration::from_secs(10)),
            Self::PlannedByPerson => super::person::plan(world),
            Self::ReplicaWritable => world.lock().hosts[replica].mysqld.open(),
            Self::PrimaryReadOnly => world.lock().hosts[primary].mysqld.close(),
            Self::RecordDeleted => super::person::delete_record(world, replica),
            Self::StaleRecord => super::person::stale_record(world, replica),
            Self::ClockOff => {
                let hour: i64 = if world.random(|rng| rng.random_bool(0.5)) { 3_600_000 } else { -3_600_000 };
                world.lock().hosts[replica].clock_error_ms += hour;
            }
        }
    }
}

impl World {
    /// Who is primary by the tablets' own word; the newest one.
    pub fn primary(&self) -> usize {
        let state = self.lock();
        let term = |host: &usize| {
            let manager = &state.hosts[*host].manager;
            (manager.tablet_type == TabletType::Primary)
                .then_some(manager.term)
                .flatten()
                .map(|term| (term.seconds, term.nanoseconds))
        };
        (0..state.hosts.len()).max_by_key(term).unwrap_or(0)
    }

    /// Something is not over before that.
    pub fn lasts(&self, time: Duration) {
        let state = &mut *self.lock();
        state.mended_at = state.mended_at.max(Instant::now() + time);
    }

    /// Waits until every fault is over.
    pub async fn mended(&self) {
        let at = self.lock().mended_at;
        sleep_until(at + Duration::from_secs(1)).await;
    }

    /// The primary's mysqld dies, for good or until somebody starts it.
    pub fn lose_primary(&self) -> usize {
        let primary = self.primary();
        self.note(format!("mysqld of {} is killed", self.alias(primary)));
        self.lock().hosts[primary].mysqld.die();
        primary
    }

    fn random_replica(&self, primary: usize) -> usize {
        let others: Vec<usize> = (0..self.shape.tablets).filter(|host| *host != primary).collect();
        others[self.random(|rng| rng.random_range(0..others.len()))]
    }
}

fn later(world: &Arc<World>, after: Duration, mend: impl FnOnce(&Arc<World>) + Send + 'static) {
    let weak = Arc::downgrade(world);
    world.lasts(after);
    world.goes_on(async move {
        sleep(after).await;
        if let Some(world) = weak.upgrade() {
            mend(&world);
        }
    });
}

fn kill_mysqld(world: &Arc<World>, host: usize, back_after: Duration) {
    world.lock().hosts[host].mysqld.die();
    later(world, back_after, move |world| {
        world.note(format!("mysqld of {} is started", world.alias(host)));
        world.lock().hosts[host].mysqld.start();
    });
}

fn freeze_mysqld(world: &Arc<World>, host: usize, thawed_after: Duration) {
    {
        let mysqld = &mut world.lock().hosts[host].mysqld;
        if mysqld.process != Process::Running {
            return;
        }
        (mysqld.process, mysqld.frozen_at) = (Process::Frozen, Instant::now());
    }
    later(world, thawed_after, move |world| {
        world.note(format!("mysqld of {} goes on", world.alias(host)));
        let mysqld = &mut world.lock().hosts[host].mysqld;
        if mysqld.process == Process::Frozen {
            mysqld.process = Process::Running;
        }
    });
}

fn silence(world: &Arc<World>, host: usize, heard_after: Duration) {
    world.lock().net.silence(Node::Host(host));
    later(world, heard_after, move |world| {
        world.note(format!("the host of {} is heard again", world.alias(host)));
        world.lock().net.hear_again(Node::Host(host));
    });
}

fn kill_manager(world: &Arc<World>, host: usize, back_after: Duration) {
    {
        let manager = &mut world.lock().hosts[host].manager;
        manager.process = Process::Dead;
        manager.life.cancel();
    }
    later(world, back_after, move |world| {
        world.note(format!("the tablet manager of {} is started", world.alias(host)));
        let world = world.clone();
        let start = world.clone();
        world.goes_on(async move { start_manager(&start, host).await });
    });
}

/// A tablet manager comes back as its records say.
async fn start_manager(world: &Arc<World>, host: usize) {
    let topo = world.topo(Node::Host(host));
    let (alias, shard) = (world.alias(host), world.shard.clone());
    let (record, shard) = loop {
        if let (Ok(record), Ok(shard)) = (topo.tablet(&alias).await, topo.shard(&shard).await) {
            break (record.value, shard.value);
        }
        sleep(Duration::from_secs(1)).await;
    };
    // A primary whose manager died before it was published goes on by its record, where that has the later term.
    let later = super::guard::newer(record.primary_term_start_time.as_ref(), shard.primary_term_start_time.as_ref());
    let is_primary = shard.primary_alias == Some((&alias).into()) || later;
    let state = &mut *world.lock();
    let host = &mut state.hosts[host];
    let (seen, boot) = (host.manager.revision, host.mysqld.boot);
    host.manager = Manager::new(world.shape.flavour);
    host.manager.known_boot = boot;
    host.manager.revision = seen;
    if is_primary && record.r#type() == TabletType::Primary {
        (host.manager.tablet_type, host.manager.term) = (TabletType::Primary, record.primary_term_start_time);
    }
    if world.shape.flavour == Flavour::Agent && host.mysqld.runs() {
        // It takes its server out of service until the topology has been read under the lock.
        host.mysqld.close();
    }
    host.manager.unsettled = true;
    host.manager.life = CancellationToken::new();
}

fn freeze_manager(world: &Arc<World>, host: usize, thawed_after: Duration) {
    let set = move |world: &Arc<World>, from: Process, to: Process| {
        let manager = &mut world.lock().hosts[host].manager;
        if manager.process == from {
            manager.process = to;
        }
    };
    set(world, Process::Running, Process::Frozen);
    later(world, thawed_after, move |world| set(world, Process::Frozen, Process::Running));
}

fn lag(world: &Arc<World>, host: usize) {
    world.lock().hosts[host].mysqld.apply_per_tick = Some(0);
    later(world, Duration::from_secs(8), move |world| world.lock().hosts[host].mysqld.apply_per_tick = None);
}

fn cut(world: &Arc<World>, from: Vec<Node>, to: Vec<Node>, healed_after: Duration) {
    let each = move |state: &mut State, change: fn(&mut super::net::Net, Node, Node)| {
        from.iter().for_each(|from| to.iter().for_each(|to| change(&mut state.net, *from, *to)));
    };
    each(&mut world.lock(), super::net::Net::cut);
    later(world, healed_after, move |world| each(&mut world.lock(), super::net::Net::heal));
}

/// Loss and jitter between the first elector and everything.
pub fn disturb(world: &Arc<World>, calm_after: Duration) {
    world.lock().net.disturb(Node::Elector(0), 0.2, Duration::from_millis(300));
    later(world, calm_after, |world| world.lock().net.calm(Node::Elector(0)));
}

fn seat(world: &Arc<World>, node: Node, process: Process, back_after: Duration) {
    let Some(seat) = world.lock().seats.get_mut(&node).map(|seat| std::mem::replace(&mut seat.process, process)) else { return };
    if seat != Process::Running {
        return;
    }
    if process == Process::Dead {
        super::electors::die(world, node);
    }
    later(world, back_after, move |world| {
        world.note(format!("{node:?} is back"));
        super::electors::back(world, node, process);
    });
}
