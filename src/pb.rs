//! The generated protobuf modules, nothing else. One module per proto package.
#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

include!(concat!(env!("OUT_DIR"), "/vitess.rs"));

/// The encoded descriptors of every message and service in this module.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
