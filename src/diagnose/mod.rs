//! What is wrong with a shard, from what was seen of it (pure).

pub mod errant;
