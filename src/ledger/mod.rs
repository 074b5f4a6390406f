//! What all electors remember together, in etcd below `--ledger-root`.

mod recovery;

pub use recovery::{Kind, Outcome, Recovery};
