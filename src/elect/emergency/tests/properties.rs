//! Whatever happened to a shard under its policy's rules, and whoever of it answers: no acknowledged transaction is lost and nobody is
//! promoted without the proofs.
//!
//! A small shard lives through commits, lag, errant writes and reparents. What was acknowledged is known here and nowhere else; the election
//! sees only what the tablets that answer would say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::super::*;
use crate::{
    durability::{Enforced, Extra, Member, Policy, policy, with_extra},
    mysql::{GtidSet, Position, ServerUuid},
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

/// Who committed it first, and its number there.
type Transaction = (usize, u64);
type Set = BTreeSet<Transaction>;

#[derive(Debug, Clone)]
struct Server {
    alias: TabletAlias,
    tablet_type: TabletType,
    /// What is applied, in that order.
    binlog: Vec<Transaction>,
    /// What is received and not yet applied.
    relay: Vec<Transaction>,
    /// Whom it replicates from.
    source: Option<usize>,
    connected: bool,
}

impl Server {
    fn executed(&self) -> Set {
        self.binlog.iter().copied().collect()
    }

    fn received(&self) -> Set {
        self.binlog.iter().chain(&self.relay).copied().collect()
    }

    fn apply(&mut self, transactions: usize) {
        let applied = self.relay.drain(..transactions.min(self.relay.len()));
        self.binlog.extend(applied);
    }
}

/// Something that happens; servers by number, modulo their count.
#[derive(Debug, Clone)]
enum Event {
    Commit,
    Receive(usize, usize),
    Apply(usize, usize),
    Errant(usize),
    Connect(usize, bool),
    Reparent(usize),
}

/// What the election gets to see of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answers,
    Dead,
    Ignored,
    Silent,
    NoJournal,
    Idle,
    ApplyFails,
    FollowFails,
}

/// What it gets to see of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Dead,
    Demoted,
    Fenced,
    Ignored,
    Deleted,
}

#[derive(Debug, Clone)]
struct Life {
    policy: (&'static str, &'static str),
    servers: Vec<(bool, TabletType)>,
    events: Vec<Event>,
    fates: Vec<Fate>,
    end: End,
    named: Option<usize>,
    prevent_cross_cell: bool,
    /// Whether somebody watched the primary, and whether what was seen binds.
    seen: Option<bool>,
}

/// The shard with what nobody can ask it.
struct World {
    policy: Arc<dyn Policy>,
    servers: Vec<Server>,
    primary: usize,
    journal: Set,
    /// What the present primary committed since its promotion.
    term: Set,
    acknowledged: Set,
    /// What was written where it should not have been.
    errant: Set,
}

impl World {
    fn new(life: &Life) -> Self {
        let (name, extra) = life.policy;
        let extra = if extra.is_empty() { Extra::default() } else { extra.parse().unwrap() };
        let policy = with_extra(policy(name).unwrap(), extra, BTreeMap::new(), Enforced::Yes).unwrap();
        let server = |(n, (other_cell, tablet_type)): (usize, &(bool, TabletType))| Server {
            alias: format!("z{}-{}", 1 + u8::from(*other_cell), 100 + n).parse().unwrap(),
            tablet_type: *tablet_type,
            binlog: Vec::new(),
            relay: Vec::new(),
            source: (n != 0).then_some(0),
            connected: true,
        };
        let servers = life.servers.iter().enumerate().map(server).collect();
        let mut world = World {
            policy,
            servers,
            primary: 0,
            journal: Set::new(),
            term: Set::new(),
            acknowledged: Set::new(),
            errant: Set::new(),
        };
        world.commit(0, true);
        for n in 1..world.servers.len() {
            world.receive(n, 1);
            world.servers[n].apply(1);
        }
        world.acknowledge();
        world
    }

    fn member(&self, n: usize) -> Member {
        Member::new(self.servers[n].alias.clone(), self.servers[n].tablet_type)
    }

    fn may_ack(&self, primary: usize, replica: usize) -> bool {
        primary != replica && self.policy.may_ack(&self.member(primary), &self.member(replica))
    }

    fn acks(&self) -> usize {
        self.policy.acks_needed(&self.member(self.primary))
    }

    fn commit(&mut self, n: usize, journal: bool) -> Transaction {
        let last = self.servers[n].received().into_iter().filter(|(by, _)| *by == n).map(|(_, number)| number).max();
        let transaction = (n, last.unwrap_or(0) + 1);
        self.servers[n].binlog.push(transaction);
        if n == self.primary {
            self.term.insert(transaction);
        }
        if journal {
            self.journal.insert(transaction);
        }
        transaction
    }

    fn receive(&mut self, n: usize, transactions: usize) {
        let Some(source) = self.servers[n].source.filter(|source| *source == self.primary && self.servers[n].connected) else {
            return;
        };
        let held = self.servers[n].received();
        let missing: Vec<_> =
            self.servers[source].binlog.iter().filter(|t| !held.contains(t)).take(transactions).copied().collect();
        self.servers[n].relay.extend(missing);
    }

    /// A client hears of a commit once enough ackers have received it from the primary.
    fn acknowledge(&mut self) {
        let ackers: Vec<usize> = (0..self.servers.len())
            .filter(|n| self.servers[*n].source == Some(self.primary) && self.may_ack(self.primary, *n))
            .collect();
        let held: Vec<Set> = ackers.iter().map(|n| self.servers[*n].received()).collect();
        let enough = self.term.iter().filter(|t| held.iter().filter(|held| held.contains(t)).count() >= self.acks());
        self.acknowledged.extend(enough.copied().collect::<Vec<_>>());
    }

    /// A reparent that is right: whoever is promoted has everything that was acknowledged and nothing errant. Who has more cannot follow.
    fn reparent(&mut self, n: usize) {
        let received = self.servers[n].received();
        let fits = self.servers[n].source == Some(self.primary) && self.servers[n].tablet_type == TabletType::Replica;
        if n == self.primary || !fits || !received.is_superset(&self.acknowledged) || !received.is_disjoint(&self.errant) {
            return;
        }
        let relay = self.servers[n].relay.len();
        self.servers[n].apply(relay);
        for (other, server) in self.servers.iter_mut().enumerate() {
            let follows = other != n && server.received().iter().all(|t| t.0 == n || received.contains(t));
            if follows && (server.connected || other == self.primary) {
                server.source = Some(n);
            }
        }
        self.servers[self.primary].tablet_type = TabletType::Replica;
        self.servers[n].source = None;
        self.primary = n;
        self.term.clear();
        self.commit(n, true);
    }

    fn live(&mut self, event: &Event) {
        let count = self.servers.len();
        match event {
            Event::Commit => drop(self.commit(self.primary, false)),
            Event::Receive(n, transactions) => self.receive(n % count, *transactions),
            Event::Apply(n, transactions) => self.servers[n % count].apply(*transactions),
            Event::Errant(n) if n % count != self.primary => {
                let transaction = self.commit(n % count, false);
                self.errant.insert(transaction);
            }
            Event::Errant(_) => {}
            Event::Connect(n, connected) => self.servers[n % count].connected = *connected,
            Event::Reparent(n) => self.reparent(n % count),
        }
        self.acknowledge();
    }

    /// What a server says when it is asked after the stop.
    fn testimony(&self, n: usize, life: &Life) -> Testimony {
        let server = &self.servers[n];
        let fate = if n == self.primary { Fate::Answers } else { life.fates[n % life.fates.len()] };
        let is_replica = server.source.is_some();
        let end = (n == self.primary).then_some(life.end);
        let reach = match (fate, end) {
            (Fate::Dead, _) | (_, Some(End::Dead)) => Reach::Unreached("no answer".to_owned()),
            (_, Some(End::Fenced)) => Reach::Fenced,
            _ if is_replica => Reach::Stopped,
            _ => Reach::Demoted,
        };
        let silent = fate == Fate::Silent || matches!(reach, Reach::Unreached(_) | Reach::Fenced);
        let says = |set: Set| if silent { Position::None } else { Position::Gtid(gtids(&set)) };
        let rows = server.executed().intersection(&self.journal).count();
        Testimony {
            tablet_type: if n == self.primary { TabletType::Primary } else { server.tablet_type },
            tags: BTreeMap::new(),
            is_replica,
            received: says(server.received()),
            executed: says(server.executed()),
            source_uuid: server.source.map(uuid),
            server_uuid: (!matches!(reach, Reach::Unreached(_))).then(|| uuid(n)),
            journal_rows: if fate == Fate::NoJournal { Err("no table".to_owned()) } else { Ok(i32::try_from(rows).unwrap()) },
            was_replicating: is_replica && fate != Fate::Idle,
            sql_running: true,
            sql_delay: Duration::ZERO,
            backup_running: false,
            mysql: None,
            buffer_pool_pages: 0,
            apply_failed: (fate == Fate::ApplyFails && !server.relay.is_empty()).then(|| "Error 1062".to_owned()),
            follow_failed: (fate == Fate::FollowFails).then(|| "refused".to_owned()),
            unfit: None,
            reach,
        }
    }
}

fn uuid(n: usize) -> ServerUuid {
    ServerUuid::from_bytes([u8::try_from(n + 1).unwrap(); 16])
}

fn gtids(set: &Set) -> GtidSet {
    set.iter().map(|(n, number)| format!("{}:{number}", uuid(*n))).collect::<Vec<_>>().join(",").parse().unwrap()
}

/// A life, the evidence left of it, and the answer. Whoever is asked to apply first does, as the operation would.
fn elect(life: &Life) -> (World, BTreeMap<TabletAlias, Testimony>, EmergencyWish, Result<Chosen, NoPromotion>) {
    let mut world = World::new(life);
    life.events.iter().for_each(|event| world.live(event));
    let mut wish =
        EmergencyWish { allow_unfenced: true, prevent_cross_cell: life.prevent_cross_cell, ..EmergencyWish::default() };
    wish.named = life.named.map(|n| world.servers[n % world.servers.len()].alias.clone());
    let ignored = (0..world.servers.len()).filter(|n| match *n == world.primary {
        true => life.end == End::Ignored,
        false => life.fates[n % life.fates.len()] == Fate::Ignored,
    });
    wish.ignored = ignored.map(|n| world.servers[n].alias.clone()).collect();
    let seen = life.seen.map(|binding| {
        let position = if binding { gtids(&world.acknowledged) } else { gtids(&world.servers[world.primary].executed()) };
        SeenPrimary { position: position.into(), binding: binding && world.acks() > 0 }
    });
    let primary = world.servers[world.primary].alias.clone();
    let deleted = life.end == End::Deleted;
    let (shard, policy): (ShardId, _) = ("commerce/0".parse().unwrap(), world.policy.clone());
    let mut apply = BTreeSet::new();
    loop {
        for server in world.servers.iter_mut().filter(|server| apply.contains(&server.alias)) {
            server.apply(usize::MAX);
        }
        let told = (0..world.servers.len()).filter(|n| !deleted || *n != world.primary);
        let tablets: BTreeMap<_, _> = told.map(|n| (world.servers[n].alias.clone(), world.testimony(n, life))).collect();
        wish.ignored.retain(|alias| tablets.contains_key(alias));
        wish.named = wish.named.filter(|alias| tablets.contains_key(alias));
        let evidence = EmergencyEvidence {
            shard: &shard,
            policy: &*policy,
            primary: (!deleted).then_some(&primary),
            had_primary: true,
            tablets: &tablets,
            unlisted_cells: &BTreeMap::new(),
            seen: seen.as_ref(),
        };
        let answer = elect_emergency(&evidence, &wish);
        match answer.as_ref().err().and_then(NoPromotion::pending) {
            Some(pending) if !pending.is_subset(&apply) => apply.extend(pending.iter().cloned()),
            _ => return (world, tablets, wish, answer),
        }
    }
}

/// What is wrong with a promotion, by what only the world knows.
fn wrong(world: &World, tablets: &BTreeMap<TabletAlias, Testimony>, wish: &EmergencyWish, chosen: &Chosen) -> Option<String> {
    let primary = &world.servers[world.primary].alias;
    let reached = |alias: &TabletAlias| {
        !wish.ignored.contains(alias) && tablets.get(alias).is_some_and(|tablet| !matches!(tablet.reach, Reach::Unreached(_)))
    };
    let unreached_ackers =
        (0..world.servers.len()).filter(|n| world.may_ack(world.primary, *n) && !reached(&world.servers[*n].alias)).count();
    let admitted =
        chosen.caveats.contains(&Caveat::NotFenced(primary.clone())) || chosen.caveats.contains(&Caveat::OldPrimaryUnknown);
    if !reached(primary) && unreached_ackers >= world.acks() && !(world.acks() == 0 && admitted) {
        return Some(format!("{primary} could still commit"));
    }
    let holder = chosen.source.as_ref().unwrap_or(&chosen.elect);
    let becomes = tablets[holder].received.gtid().unwrap().union(tablets[&chosen.elect].received.gtid().unwrap());
    let must_have = match world.acks() {
        // Nobody waited for anybody: nothing that still exists and came from a primary may be lost.
        0 => world
            .acknowledged
            .iter()
            .copied()
            .filter(|t| {
                let holds = |server: &&Server| reached(&server.alias) && server.received().contains(t);
                world.servers.iter().filter(holds).any(|server| tablets[&server.alias].received != Position::None)
            })
            .collect(),
        _ => world.acknowledged.clone(),
    };
    if !becomes.contains(&gtids(&must_have)) {
        return Some(format!("{} lost", gtids(&must_have).subtract(&becomes)));
    }
    let elect = (0..world.servers.len()).find(|n| world.servers[*n].alias == chosen.elect).unwrap();
    let ackers = (0..world.servers.len()).filter(|n| world.may_ack(elect, *n)).filter(|n| {
        let alias = &world.servers[*n].alias;
        let Some(tablet) = tablets.get(alias).filter(|_| reached(alias)) else { return false };
        let follows = tablet.received.gtid().is_some_and(|received| becomes.contains(received));
        follows && tablet.follow_failed.is_none() && (tablet.was_replicating || !tablet.is_replica)
    });
    let needed = world.policy.acks_needed(&world.member(elect));
    let found = ackers.count();
    (found < needed).then(|| format!("{} could not commit: {found} of {needed} ackers", chosen.elect))
}

const POLICIES: [(&str, &str); 7] = [
    ("none", ""),
    ("semi_sync", ""),
    ("semi_sync", "acks:2"),
    ("cross_cell", ""),
    ("semi_sync_with_rdonly_ack", ""),
    ("cross_cell_with_rdonly_ack", ""),
    ("semi_sync", "acks:2,cells:2"),
];

fn events(faults: bool) -> impl Strategy<Value = Vec<Event>> {
    let replication = prop_oneof![
        4 => Just(Event::Commit),
        8 => (0..6usize, 1..4usize).prop_map(|(n, transactions)| Event::Receive(n, transactions)),
        4 => (0..6usize, 1..4usize).prop_map(|(n, transactions)| Event::Apply(n, transactions)),
    ];
    let faulty = prop_oneof![
        6 => replication.clone(),
        1 => (0..6usize).prop_map(Event::Errant),
        1 => (0..6usize, any::<bool>()).prop_map(|(n, connected)| Event::Connect(n, connected)),
        1 => (0..6usize).prop_map(Event::Reparent),
    ];
    let event = if faults { faulty.boxed() } else { replication.boxed() };
    prop::collection::vec(event, 0..40)
}

fn life(faults: bool) -> impl Strategy<Value = Life> {
    let kind = prop_oneof![5 => Just(TabletType::Replica), 1 => Just(TabletType::Rdonly)];
    let servers = prop::collection::vec((any::<bool>(), kind), 2..6).prop_map(|mut servers| {
        servers[0].1 = TabletType::Replica;
        servers
    });
    let fate = prop_oneof![
        12 => Just(Fate::Answers),
        2 => Just(Fate::Dead),
        1 => prop::sample::select(vec![Fate::Ignored, Fate::Silent, Fate::NoJournal, Fate::Idle, Fate::ApplyFails, Fate::FollowFails]),
    ];
    let fate = if faults { fate.boxed() } else { Just(Fate::Answers).boxed() };
    let end = prop::sample::select(match faults {
        true => vec![End::Dead, End::Dead, End::Demoted, End::Demoted, End::Fenced, End::Ignored, End::Deleted],
        false => vec![End::Dead, End::Demoted],
    });
    let wishes = (prop::option::weighted(0.2, 0..6usize), prop::bool::weighted(0.2));
    let wishes = wishes.prop_map(move |wishes| if faults { wishes } else { (None, false) });
    let seen = prop::option::weighted(0.3, any::<bool>());
    (prop::sample::select(POLICIES.to_vec()), servers, events(faults), prop::collection::vec(fate, 6), end, wishes, seen)
        .prop_map(|(policy, servers, events, fates, end, (named, prevent_cross_cell), seen)| Life {
            policy,
            servers,
            events,
            fates,
            end,
            named,
            prevent_cross_cell,
            seen,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1000), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_promotion_never_loses_an_acknowledged_transaction_and_never_lacks_a_proof(life in life(true)) {
        let (world, tablets, wish, answer) = elect(&life);
        if let Ok(chosen) = answer {
            let wrong = wrong(&world, &tablets, &wish, &chosen);
            prop_assert!(wrong.is_none(), "{}\n{tablets:#?}\n{chosen:#?}", wrong.unwrap());
        }
    }

    /// Where only the primary is gone, nobody wrote where he should not, and somebody could be established, somebody is promoted.
    #[test]
    fn a_healthy_shard_always_gets_a_primary(life in life(false)) {
        let (world, _, _, answer) = elect(&life);
        let others = || (0..world.servers.len()).filter(|n| *n != world.primary || life.end == End::Demoted);
        let establishable = others().filter(|n| world.servers[*n].tablet_type == TabletType::Replica).any(|n| {
            let ackers: BTreeSet<_> = others().filter(|other| world.may_ack(n, *other)).map(|n| world.servers[n].alias.clone()).collect();
            ackers.len() >= world.policy.acks_needed(&world.member(n)) && world.policy.too_narrow(&ackers).is_none()
        });
        prop_assert_eq!(answer.is_ok(), establishable, "{:?}", answer);
    }
}

/// The first property says nothing where everything is refused.
#[test]
fn many_of_the_faulty_lives_end_in_a_promotion() {
    let (mut runner, strategy) = (TestRunner::deterministic(), life(true));
    let mut promoted = 0;
    for _ in 0..1000 {
        let life = strategy.new_tree(&mut runner).unwrap().current();
        promoted += usize::from(elect(&life).3.is_ok());
    }
    assert!(promoted > 200, "{promoted} of 1000");
}
