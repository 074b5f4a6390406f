//! The topology on a real etcd. Needs the `etcd` program on the PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod kv;
mod lock;
mod server;
