//! What is wrong with a shard, from what was seen of it (pure).

pub mod errant;
mod problem;

pub use problem::{Code, Ground, Priority, Problem, Remedy, Repair, Rules};
