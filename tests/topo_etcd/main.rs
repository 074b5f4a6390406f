//! The topology on a real etcd. Needs the `etcd` program on the PATH.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod failover;
mod kv;
mod lock;
mod proxy;
mod server;
mod tls;
mod watcher;
