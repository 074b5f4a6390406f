//! What HTTP answers: VTOrc's paths, our own API, and several electors as one. Real servers on a real etcd, with tablets that play a script.
//! Needs the `etcd` program on the PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod doctor;
mod electors;
#[path = "../topo_etcd/server.rs"]
#[allow(dead_code, reason = "shared with the tests of the topology")]
mod etcd;
#[path = "../serve_grpc/fake.rs"]
#[allow(dead_code, reason = "shared with the tests of gRPC")]
mod fake;
mod http;
mod input;
mod openapi;
mod scene;
mod vtorc;
#[path = "../serve_grpc/world.rs"]
#[allow(dead_code, reason = "shared with the tests of gRPC")]
mod world;
