//! Compiles our own protobuf files in pure Rust: no protoc program is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// The services; the messages they use are imported by them.
const ROOTS: [&str; 5] =
    ["tabletmanagerservice.proto", "vtctlservice.proto", "queryservice.proto", "vtelector.proto", "vtelectoragent.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(ROOTS, ["proto"])?;
    // Reflection and the preservation of unknown fields read the descriptors at run time.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut prost = tonic_prost_build::Config::new();
    // Sorted maps make the bytes and the printed form of a message the same in every run.
    prost.btree_map(["."]);
    // The client prints any answer as JSON by its name.
    prost.enable_type_names();
    tonic_prost_build::configure().include_file("vitess.rs").compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
