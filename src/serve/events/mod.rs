//! What happened, told again: a log in etcd that every elector writes and reads, by number; whoever reads it live; and receivers to whom it
//! is brought.
//!
//! The board tells what this elector sees. The [`Scribe`](scribe) writes of that what somebody may want to be told, in batches below one key
//! each. Every elector follows the keys, so that all hold the same log; an event's number is the revision of its batch and its place in it.
//! Nothing of a recovery waits for any of this.

pub mod head;
mod json;
mod log;
mod prune;
mod scribe;
mod state;
mod stored;
pub mod webhook;

pub use json::{JsonError, Printer};
pub use log::{EventLog, LogSettings};
pub use prune::{BYTES_MAX, EVENTS_MAX, KEPT_FOR};
pub use scribe::{Alive, QUEUE_MAX, WRITE_EVERY};
