//! What all electors remember together, in the global etcd below `--ledger-root`: finished recoveries, and with them what automatic
//! promotions are blocked by; what persons acknowledged; maintenance windows; whether recoveries are switched off. It survives restarts,
//! and every elector has it in memory, as new as its watch.
//!
//! The clocks of electors may differ and jump. What appears while we watch counts from that moment by our own steady clock; only what was
//! written before we looked is judged by the wall clock, and never blocks for longer than a rule lasts after we first saw it.

mod book;
mod commands;
mod error;
mod flap;
mod prune;
mod recovery;
mod state;
mod stored;
mod window;

#[cfg(test)]
mod tests;

pub use book::{Clock, Ledger};
pub use commands::{Command, Commands};
pub use error::LedgerError;
pub use flap::{Block, Burst, BurstError, FlapRules, Rule};
pub use recovery::{Kind, Outcome, Recovery};
pub use state::{Acknowledgement, Kept, LedgerState, Now};
pub use window::{Scope, ScopeError, Switch, WINDOW_MAX, Window};
