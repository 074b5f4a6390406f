//! What happened, told again: the log in etcd, whoever reads it, and receivers that are as bad as receivers can be. Needs the `etcd` program
//! on the PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bad;
#[cfg(feature = "otlp")]
#[path = "../cluster/mod.rs"]
mod cluster;
mod delivery;
#[path = "../topo_etcd/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the topology")]
mod etcd;
#[path = "../serve_grpc/fake.rs"]
#[allow(dead_code, reason = "shared with the tests of the calls")]
mod fake;
mod file;
mod log;
mod process;
mod receiver;
#[path = "../serve_grpc/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the calls")]
mod served;
mod streams;
mod templates;
#[cfg(feature = "otlp")]
mod traces;
mod world;
