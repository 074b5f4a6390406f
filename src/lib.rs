//! vtelector keeps every MySQL shard of a Vitess cluster writable at exactly the primary that its topology declares.
//!
//! `ARCHITECTURE.md` is the map of these modules.

pub mod mysql;
pub mod pb;
pub mod sandbox;
pub mod tablet;
pub mod topo;
