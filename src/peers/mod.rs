//! Several electors: who is there, who looks after which shard, and what the others see of a tablet.

mod ownership;

pub use ownership::Ownership;
