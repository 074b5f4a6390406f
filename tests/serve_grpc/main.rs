//! `vtelector serve` on a real etcd, with tablets that play a script. Needs the `etcd` program on the PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod emergencies;
mod errant;
#[path = "../topo_etcd/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the topology")]
mod etcd;
mod fake;
mod faults;
mod observe;
mod operators;
mod process;
mod records;
mod reload;
mod reparents;
mod tablets;
mod tls;
mod traffic;
mod world;
