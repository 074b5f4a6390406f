//! Who may come in, and what is refused at each face: real servers on a real etcd, real certificates. Needs the `etcd` program on the PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod certificates;
#[path = "../topo_etcd/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the topology")]
mod etcd;
#[path = "../serve_grpc/fake.rs"]
#[allow(dead_code, reason = "shared with the tests of the server")]
mod fake;
mod house;
mod limits;
mod local;
mod mutual;
mod mysql;
mod rotation;
mod secrets;
mod shape;
mod users;
#[path = "../serve_grpc/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the server")]
mod world;
