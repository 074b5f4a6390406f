//! vtelector keeps every MySQL shard of a Vitess cluster writable at exactly the primary that its topology declares.
//!
//! `ARCHITECTURE.md` is the map of these modules.

pub mod agent;
pub mod cli;
pub mod config;
mod connect;
mod credentials;
pub mod diagnose;
pub mod durability;
pub mod elect;
pub mod ledger;
mod log_lines;
pub mod metrics;
pub mod mysql;
pub mod pb;
pub mod peers;
pub mod recover;
pub mod reparent;
mod rotating;
pub mod sandbox;
mod secret;
pub mod sense;
pub mod serve;
pub mod shard;
pub mod tablet;
mod text;
pub mod tls;
pub mod topo;
pub mod traces;
