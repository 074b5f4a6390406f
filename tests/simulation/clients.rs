//! The clients: they commit every few milliseconds wherever they may, and remember what they were told.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use vtelector::pb::topodata::TabletType;

use super::{
    manager::Flavour,
    mysqld::Process,
    net::Node,
    world::{Ack, Shape, State},
};

/// Between two commits of a server's clients, in milliseconds.
const PAUSE_MS: (u64, u64) = (4, 16);
/// Commits under way on one server.
const WAITING_MAX: usize = 3;

pub fn step(state: &mut State, now: Instant, shape: &Shape) {
    for host in 0..state.hosts.len() {
        hear(state, host, now, shape);
        if state.hosts[host].write_next > now || !state.writing {
            continue;
        }
        let pause = Duration::from_millis(state.rng.random_range(PAUSE_MS.0..PAUSE_MS.1));
        state.hosts[host].write_next = now + pause;
        let reached = is_reached(state, host, shape);
        let mysqld = &mut state.hosts[host].mysqld;
        if reached && mysqld.accepts_writes() && mysqld.waiting.len() < WAITING_MAX {
            mysqld.begin(Some(now));
        }
    }
}

/// What the clients are told of is told for good.
fn hear(state: &mut State, host: usize, now: Instant, shape: &Shape) {
    if !state.hosts[host].mysqld.runs() {
        return;
    }
    let reached = is_reached(state, host, shape);
    let done = std::mem::take(&mut state.hosts[host].mysqld.done);
    for committed in done {
        if let (Some(asked), true) = (committed.asked, reached) {
            state.acks.push(Ack { server: host, sequence: committed.sequence, asked, at: now });
            state.hosts[host].last_ack = Some(now);
        }
    }
}

/// Applications write to primaries: to a vttablet's query service, or beside an agent straight to its MySQL.
fn is_reached(state: &State, host: usize, shape: &Shape) -> bool {
    let them = &state.hosts[host];
    let manager = &them.manager;
    state.net.reaches(Node::Clients, Node::Host(host))
        && manager.tablet_type == TabletType::Primary
        && match shape.flavour {
            Flavour::Agent => true,
            Flavour::Vttablet => manager.serving && manager.process == Process::Running,
        }
}
