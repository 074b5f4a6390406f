//! What operators are given beside the program: metrics, rules, dashboards, units, manifests, packages, documents. Each is held against the code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stand outside of test functions")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a measurement takes the real time; tools are awaited")]

mod bounds;
mod commands;
mod container;
mod documents;
mod kubernetes;
mod live;
mod metrics;
mod package;
mod rules;
mod runbook;
mod settings;
mod units;

use std::path::{Path, PathBuf};

/// A file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What it holds.
fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
