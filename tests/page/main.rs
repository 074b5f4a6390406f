//! The page in a real browser, before a real elector over a real etcd, whose tablets are simulated. Needs `etcd` and `chromium` on the PATH.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "what is shared with the measurement of a fleet takes the real time, and ends with its process"
)]

mod answers;
mod browser;
mod callers;
mod electors;
#[path = "../topo_etcd/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the topology")]
mod etcd;
#[path = "../fleet/fleet.rs"]
#[allow(dead_code, reason = "shared with the measurement of a fleet")]
mod fleet;
mod hostile;
mod look;
mod measure;
#[path = "../fleet/shard.rs"]
#[allow(dead_code, reason = "shared with the measurement of a fleet")]
mod shard;
#[path = "../fleet/wire.rs"]
mod wire;
mod without_script;
mod world;
