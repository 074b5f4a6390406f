//! The shard: servers that replicate, records in a topology in memory, a log of calls, faults to order.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio_util::task::TaskTracker;

use super::{
    super::{DieAt, Emergency, Hands, Outcome, Planned, ReparentSettings},
    alias,
    server::{Server, gtids},
};
use crate::{
    durability::{Member, policy},
    mysql::GtidSet,
    pb::{topodata, vttime},
    topo::{ShardId, TabletAlias, Topo},
};

/// What a tablet does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It answers that it failed, and did nothing.
    Error,
    /// It never answers, and does nothing.
    Hang,
    /// It does what was asked; the answer is lost.
    AnswerLost,
    /// It does what was asked, but only after so long.
    Late(Duration),
    /// A demotion waits for its transactions, then sleeps in the poll of its acknowledgement receiver until a replica disconnects.
    AckPoll {
        /// How long its transactions take.
        drain: Duration,
    },
    /// A promotion gets as far as the tablet's record, and fails there.
    RecordOnly,
    /// The shard lock is gone when it answers.
    ThenLockLost,
}

pub struct Inner {
    pub servers: BTreeMap<TabletAlias, Server>,
    pub calls: Vec<(TabletAlias, &'static str, String)>,
    pub violations: Vec<String>,
    pub acked: GtidSet,
    faults: BTreeMap<(TabletAlias, &'static str), (Fault, usize)>,
    pub lock_lost: bool,
    /// A server that is inside that poll answers no question about its variables.
    pub polling: Option<TabletAlias>,
    terms: i64,
    /// A change of source throws away the relay log, and that is a violation where something in it was not applied.
    pub careful: bool,
}

pub struct World {
    pub topo: Topo,
    pub shard: ShardId,
    pub policy: &'static str,
    pub inner: Arc<Mutex<Inner>>,
    pub tasks: TaskTracker,
    /// One action at a time on each tablet, as in a vttablet.
    pub actions: BTreeMap<TabletAlias, Arc<tokio::sync::Mutex<()>>>,
}

impl World {
    /// A shard whose record names the first server with a term as its primary.
    pub async fn new<const N: usize>(policy_name: &'static str, servers: [(&str, Server); N]) -> Arc<Self> {
        Self::of(policy_name, servers.map(|(name, server)| (alias(name), server)).into()).await
    }

    /// The same from a map.
    pub async fn of(policy_name: &'static str, mut servers: BTreeMap<TabletAlias, Server>) -> Arc<Self> {
        let topo = Topo::in_memory();
        let shard: ShardId = "commerce/0".parse().unwrap();
        let cells = servers.keys().map(|alias| alias.cell.as_str()).chain(["z1", "z2"]);
        for cell in cells.collect::<std::collections::BTreeSet<_>>() {
            let info = topodata::CellInfo { server_address: "memory".to_owned(), root: format!("/vitess/{cell}") };
            topo.create_cell_info(cell, &info).await.unwrap();
        }
        let keyspace = topodata::Keyspace { durability_policy: policy_name.to_owned(), ..Default::default() };
        topo.create_keyspace(&shard.keyspace, &keyspace).await.unwrap();
        topo.create_shard(&shard, Duration::from_secs(1)).await.unwrap();
        let primary = servers.iter().find(|(_, server)| server.term.is_some()).map(|(alias, _)| alias.clone());
        if let Some(primary) = &primary {
            let policy = policy(policy_name).unwrap();
            let member = |alias: &TabletAlias, server: &Server| Member::new(alias.clone(), server.tablet_type);
            let leader = member(primary, &servers[primary]);
            for (alias, server) in &mut servers {
                server.semi_sync_replica = server.source.is_some() && policy.may_ack(&leader, &member(alias, server));
                server.semi_sync_primary = alias == primary && policy.acks_needed(&leader) > 0;
            }
        }
        let actions = servers.keys().map(|alias| (alias.clone(), Arc::default())).collect();
        let inner = Inner {
            servers,
            calls: Vec::new(),
            violations: Vec::new(),
            acked: gtids(""),
            faults: BTreeMap::new(),
            lock_lost: false,
            polling: None,
            terms: 10,
            careful: false,
        };
        let world =
            Self { topo, shard, policy: policy_name, inner: Arc::new(Mutex::new(inner)), tasks: TaskTracker::new(), actions };
        let aliases: Vec<_> = world.lock().servers.keys().cloned().collect();
        for alias in aliases {
            let record = world.record(&alias);
            world.topo.create_tablet(&record).await.unwrap();
            world.topo.add_to_shard_replication(&world.shard, &alias).await.unwrap();
        }
        if let Some(primary) = &primary {
            let term = world.lock().servers[primary].term;
            publish_shard(&world.topo, &world.shard, primary, term).await;
        }
        Arc::new(world)
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn server(&self, name: &str) -> Server {
        self.lock().servers[&alias(name)].clone()
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Server)) {
        change(self.lock().servers.get_mut(&alias(name)).unwrap());
    }

    /// The next `times` calls of that kind on that tablet go wrong.
    pub fn fault(&self, name: &str, method: &'static str, fault: Fault, times: usize) {
        self.lock().faults.insert((alias(name), method), (fault, times));
    }

    pub fn record(&self, alias: &TabletAlias) -> topodata::Tablet {
        let server = self.lock().servers[alias].clone();
        topodata::Tablet {
            alias: Some(alias.into()),
            hostname: "127.0.0.1".to_owned(),
            keyspace: self.shard.keyspace.clone(),
            shard: self.shard.shard.clone(),
            r#type: server.tablet_type as i32,
            mysql_hostname: "127.0.0.1".to_owned(),
            mysql_port: alias.uid as i32,
            primary_term_start_time: server.term.map(time),
            tags: server.tags.clone(),
            ..Default::default()
        }
    }

    pub fn hands(self: &Arc<Self>) -> Hands {
        self.hands_that_die(None)
    }

    pub fn hands_that_die(self: &Arc<Self>, die_at: Option<DieAt>) -> Hands {
        let settings = ReparentSettings {
            remote_operation_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_secs(2),
            ledger_root: "/vtelector".to_owned(),
            durability_extra: BTreeMap::new(),
            who: "test".to_owned(),
            die_at,
        };
        Hands::new(self.topo.clone(), Arc::new(self.clone()), settings)
    }

    pub async fn emergency(self: &Arc<Self>, request: Emergency) -> Outcome {
        self.hands().emergency(&self.shard, request).await
    }

    pub async fn planned(self: &Arc<Self>, request: Planned) -> Outcome {
        self.hands().planned(&self.shard, request).await
    }

    /// Methods called on a tablet, reads left out.
    pub fn changes(&self, name: &str) -> Vec<String> {
        let calls = self.lock().calls.clone();
        let of = |(tablet, method, arguments): (TabletAlias, &'static str, String)| {
            (tablet == alias(name) && is_change(method, &arguments)).then(|| format!("{method} {arguments}").trim().to_owned())
        };
        calls.into_iter().filter_map(of).collect()
    }

    /// Nothing at all was changed anywhere.
    pub fn untouched(&self) -> bool {
        self.lock().calls.iter().all(|(_, method, arguments)| !is_change(method, arguments))
    }

    /// What must hold when everything is over, with that tablet as primary.
    pub async fn check(&self, primary: &str) {
        let primary = alias(primary);
        self.check_servers(&primary);
        assert!(self.lock_is_free().await, "the shard lock is free");
        let shard = self.topo.shard(&self.shard).await.unwrap().value;
        assert_eq!(shard.primary_alias, Some((&primary).into()), "the shard record");
    }

    pub fn check_servers(&self, primary: &TabletAlias) {
        let inner = self.lock();
        assert_eq!(inner.violations, Vec::<String>::new());
        let writable: Vec<_> = inner.servers.iter().filter(|(_, server)| server.writable()).map(|(alias, _)| alias).collect();
        assert_eq!(writable, [primary], "who accepts writes");
        let policy = policy(self.policy).unwrap();
        let member = |alias: &TabletAlias| Member::new(alias.clone(), inner.servers[alias].tablet_type);
        assert_eq!(
            inner.servers[primary].semi_sync_primary,
            policy.acks_needed(&member(primary)) > 0,
            "semi-sync of the primary"
        );
        assert!(inner.servers[primary].executed.contains(&inner.acked), "an acknowledged write was lost");
        for (alias, server) in inner.servers.iter().filter(|(alias, server)| **alias != *primary && server.serves()) {
            assert!(server.replicates_from(primary) && server.sql, "{alias} follows: {server:?}");
            assert_eq!(server.semi_sync_replica, policy.may_ack(&member(primary), &member(alias)), "semi-sync of {alias}");
            assert!(inner.servers[primary].executed.contains(&server.executed), "{alias} is errant");
            assert_ne!(server.tablet_type, topodata::TabletType::Primary, "{alias} is recorded as PRIMARY");
        }
    }

    /// Keys of the lock's queue.
    async fn lock_keys(&self) -> Vec<String> {
        let prefix = self.topo.global_key(&format!("keyspaces/{}/shards/{}/locks/", self.shard.keyspace, self.shard.shard));
        self.topo.global().list_keys(&prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
    }

    pub async fn lock_is_free(&self) -> bool {
        // A lock given back by dropping it is gone when its keeper has run.
        for _ in 0..20 {
            if self.lock_keys().await.is_empty() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// Somebody ends the lease under the lock.
    pub async fn take_lock_away(&self) {
        self.lock().lock_lost = true;
        for key in self.lock_keys().await {
            let entry = self.topo.global().get(&key).await.unwrap();
            if let Some(lease) = entry.and_then(|entry| entry.lease) {
                self.topo.global().lease_revoke(lease).await.unwrap();
            }
        }
    }

    /// Waits until something holds, for a minute of the test's own time.
    pub async fn comes_true(&self, holds: impl Fn(&Inner) -> bool) {
        let wait = async {
            while !holds(&self.lock()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.lock().replicate();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it never came true");
    }

    pub async fn is_locked(&self) -> bool {
        !self.lock_keys().await.is_empty()
    }

    pub fn next_fault(&self, alias: &TabletAlias, method: &'static str) -> Option<Fault> {
        let mut inner = self.lock();
        let (fault, left) = inner.faults.get_mut(&(alias.clone(), method))?;
        *left = left.checked_sub(1)?;
        Some(*fault)
    }
}

impl Inner {
    pub fn next_term(&mut self) -> i64 {
        self.terms += 1;
        self.terms
    }

    /// Everything that can flow, flows.
    pub fn replicate(&mut self) {
        for _ in 0..self.servers.len() {
            let before = self.servers.clone();
            for server in self.servers.values_mut().filter(|server| server.serves()) {
                let source = server
                    .source
                    .as_ref()
                    .filter(|_| server.io && !server.cut)
                    .and_then(|source| before.get(source))
                    .filter(|s| s.serves());
                if let Some(source) = source {
                    server.received = server.received.union(&source.executed);
                    server.rows.extend(&source.rows);
                }
                if server.sql && !server.lazy {
                    server.executed = server.executed.union(&server.received);
                }
            }
        }
    }

    /// Commits on that server if it accepts writes, and says whether a client was told so.
    pub fn write(&mut self, alias: &TabletAlias) -> bool {
        if !self.servers[alias].writable() {
            return false;
        }
        let acker = self.servers.values().any(|server| server.semi_sync_replica && server.replicates_from(alias));
        let server = self.servers.get_mut(alias).unwrap();
        if server.semi_sync_primary && !acker {
            return false;
        }
        let one = server.commit();
        self.replicate();
        self.acked = self.acked.union(&one);
        true
    }

    pub fn make_writable(&mut self, alias: &TabletAlias) {
        if !self.servers[alias].read_only {
            return;
        }
        let others: Vec<_> = self
            .servers
            .iter()
            .filter(|(other, server)| *other != alias && server.writable())
            .map(|(a, _)| a.to_string())
            .collect();
        if !others.is_empty() {
            self.violations.push(format!("{alias} became writable beside {others:?}"));
        }
        let server = self.servers.get_mut(alias).unwrap();
        (server.read_only, server.only_read_only) = (false, false);
    }
}

pub fn time(term: i64) -> vttime::Time {
    vttime::Time { seconds: 1_700_000_000 + term, nanoseconds: 0 }
}

pub async fn publish_shard(topo: &Topo, shard: &ShardId, primary: &TabletAlias, term: Option<i64>) {
    let mut change = |record: &mut topodata::Shard| {
        record.primary_alias = Some(primary.into());
        record.primary_term_start_time = term.map(time);
        true
    };
    topo.update_shard(shard, &mut change).await.unwrap();
}

/// Calls that leave something behind.
pub fn is_change(method: &str, arguments: &str) -> bool {
    match method {
        "ExecuteFetchAsDba" => !arguments.starts_with("SELECT"),
        "ReadReparentJournalInfo"
        | "FullStatus"
        | "ReplicationStatus"
        | "PrimaryPosition"
        | "GetGlobalStatusVars"
        | "WaitForPosition"
        | "RefreshState" => false,
        _ => true,
    }
}
