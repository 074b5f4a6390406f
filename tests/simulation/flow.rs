//! Replication: what flows between the servers in one tick.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

use super::{
    mysqld::{Io, Process},
    net::Node,
    world::State,
};

/// A replica notices that its source's process is gone after so long, in milliseconds.
const NOTICED_MS: (u64, u64) = (110, 220);
/// From START REPLICA to a running IO thread, in milliseconds.
const CONNECTED_MS: (u64, u64) = (30, 60);

/// MySQL's error numbers for a connection that cannot be made, and one that is lost.
pub const CR_CONN_HOST_ERROR: u32 = 2003;
/// A server in offline mode throws its replicas out.
pub const ER_OFFLINE: u32 = 3032;
const CR_SERVER_LOST: u32 = 2013;

pub fn step(state: &mut State, now: Instant) {
    for host in 0..state.hosts.len() {
        switch_source_off(state, host, now);
        if !state.hosts[host].mysqld.runs() {
            continue;
        }
        send(state, host, now);
        connect(state, host, now);
        receive(state, host, now);
        state.hosts[host].mysqld.apply();
        take_acks(state, host, now);
    }
}

fn switch_source_off(state: &mut State, host: usize, now: Instant) {
    let mysqld = &mut state.hosts[host].mysqld;
    if !mysqld.runs() {
        return;
    }
    let Some(at) = mysqld.source_off_at else { return };
    // The receiver wakes when a replica's connection closes.
    if at <= now || mysqld.acked.is_empty() {
        (mysqld.source_off_at, mysqld.source_enabled) = (None, false);
        mysqld.commit_what_may();
    }
}

/// The source's side: what is new in its binary log goes to whoever is connected.
fn send(state: &mut State, host: usize, now: Instant) {
    let (binlog, boot, offline) = {
        let mysqld = &state.hosts[host].mysqld;
        (mysqld.binlog, mysqld.boot, mysqld.offline)
    };
    let mut acking = Vec::new();
    for replica in 0..state.hosts.len() {
        let them = &state.hosts[replica].mysqld;
        let Io::Running { acks, source_boot, lost: None, .. } = them.io else { continue };
        if offline || them.source != Some(host) || source_boot != boot || them.process == Process::Dead {
            continue;
        }
        acking.extend(acks.then_some(replica));
        if !them.sent.contains(&binlog) {
            let arrives = now + state.between(Node::Host(host), Node::Host(replica));
            let them = &mut state.hosts[replica].mysqld;
            them.sent.join(&binlog);
            them.events.push_back((arrives, binlog));
        }
    }
    let mysqld = &mut state.hosts[host].mysqld;
    mysqld.acked.retain(|replica, _| acking.contains(replica));
    for replica in acking {
        mysqld.acked.entry(replica).or_insert(0);
    }
}

/// The replica's side of the connection.
fn connect(state: &mut State, host: usize, now: Instant) {
    let Some(source) = state.hosts[host].mysqld.source else { return };
    let reaches = state.net.reaches(Node::Host(host), Node::Host(source));
    let (process, boot, offline) = {
        let them = &state.hosts[source].mysqld;
        (them.process, them.boot, them.offline)
    };
    let rng = &mut state.rng;
    let mysqld = &mut state.hosts[host].mysqld;
    let retry = mysqld.connect_retry;
    let failed = |errno| Io::Connecting { trying: None, next: now + retry, errno };
    mysqld.io = match mysqld.io {
        Io::Stopped => Io::Stopped,
        Io::Running { lost: Some(at), .. } if at <= now => Io::Connecting { trying: None, next: now, errno: CR_SERVER_LOST },
        Io::Running { heard, acks, source_boot, lost: None } => {
            let gone = reaches && (process == Process::Dead || boot != source_boot || offline);
            let heard = if reaches && process == Process::Running { now } else { heard };
            if now - heard >= mysqld.net_timeout {
                mysqld.events.clear();
                Io::Connecting { trying: None, next: now, errno: CR_SERVER_LOST }
            } else {
                Io::Running { heard, acks, source_boot, lost: gone.then(|| now + between(rng, NOTICED_MS)) }
            }
        }
        running @ Io::Running { .. } => running,
        Io::Connecting { trying: None, next, errno } if next <= now => Io::Connecting { trying: Some(now), next, errno },
        waiting @ Io::Connecting { trying: None, .. } => waiting,
        Io::Connecting { trying: Some(since), next, errno } => match (reaches, process) {
            (true, Process::Dead) => failed(CR_CONN_HOST_ERROR),
            (true, Process::Running) if offline => failed(ER_OFFLINE),
            (true, Process::Running) if now - since >= between(rng, CONNECTED_MS) => {
                mysqld.sent = mysqld.received;
                mysqld.events.clear();
                // What the source skips, because this replica has it, counts as acknowledged.
                mysqld.events.push_back((now, mysqld.received));
                Io::Running { heard: now, acks: mysqld.replica_enabled, source_boot: boot, lost: None }
            }
            _ if now - since >= mysqld.net_timeout => failed(CR_SERVER_LOST),
            _ => Io::Connecting { trying: Some(since), next, errno },
        },
    };
}

fn between(rng: &mut StdRng, ms: (u64, u64)) -> Duration {
    Duration::from_millis(rng.random_range(ms.0..ms.1))
}

fn receive(state: &mut State, host: usize, now: Instant) {
    let mysqld = &state.hosts[host].mysqld;
    let (Some(source), Io::Running { acks, lost, .. }) = (mysqld.source, mysqld.io) else { return };
    if lost.is_some() || !state.net.reaches(Node::Host(host), Node::Host(source)) || mysqld.disk_full {
        return;
    }
    let mut new = false;
    let mysqld = &mut state.hosts[host].mysqld;
    while let Some((at, events)) = mysqld.events.front().copied().filter(|(at, _)| *at <= now) {
        let _ = at;
        mysqld.events.pop_front();
        mysqld.received.join(&events);
        new = true;
    }
    if new && acks {
        let sequence = mysqld.received.0[source];
        let arrives = now + state.between(Node::Host(host), Node::Host(source));
        state.hosts[source].mysqld.acks.push_back((arrives, host, sequence));
    }
}

fn take_acks(state: &mut State, host: usize, now: Instant) {
    let mut left = std::collections::VecDeque::new();
    while let Some((at, replica, sequence)) = state.hosts[host].mysqld.acks.pop_front() {
        if at > now || !state.net.reaches(Node::Host(host), Node::Host(replica)) {
            left.push_back((at, replica, sequence));
            continue;
        }
        if let Some(last) = state.hosts[host].mysqld.acked.get_mut(&replica) {
            *last = sequence.max(*last);
        }
    }
    state.hosts[host].mysqld.acks = left;
    state.hosts[host].mysqld.commit_what_may();
}
