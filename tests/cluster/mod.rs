//! What the tests on real servers share: a thin layer over `vtelector::sandbox`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;

pub use vtelector::sandbox::*;

/// mysqld and etcd as `deploy/tools/install` puts them below target/tools, else from `PATH`.
pub fn tools() -> Tools {
    Tools::find(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"))).unwrap_or_else(|error| panic!("{error}"))
}
