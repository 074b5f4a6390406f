//! The electors' seats.

use std::sync::Arc;

use super::{
    mysqld::Process,
    net::Node,
    world::{Seat, World},
};

/// Gives an elector a seat in the world.
pub fn sit(world: &World, node: Node) {
    world.lock().seats.insert(node, Seat { process: Process::Running });
}

/// A frozen process goes on; a dead one is started anew.
pub fn back(world: &Arc<World>, node: Node, was: Process) {
    if was == Process::Frozen {
        sit(world, node);
    }
}
