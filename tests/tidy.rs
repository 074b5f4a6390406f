//! Holds the sources to the rules of CONTRIBUTING.md, so that nobody has to argue about them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file longer than this is more than one room.
const FILE_LINES_MAX: usize = 700;

/// Functions should end by line 70; a table of cases may need a little more.
const FUNCTION_LINES_MAX: usize = 90;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing that ends in {ending} below {}", folder.display());
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let all = ["src", "tests", "benches"].map(|folder| files_below(&root().join(folder), ".rs"));
    all.concat().into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The part of a source that ships: what stands before its tests.
fn shipped<'a>(path: &Path, text: &'a str) -> &'a str {
    let is_test =
        path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches") || path.ends_with("tests.rs");
    if is_test { "" } else { text.split("#[cfg(test)]\nmod ").next().unwrap_or(text) }
}

fn report(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let body = line.trim_start();
            let is_function =
                ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(super) fn ", "pub(crate) fn ", "pub(super) async fn "]
                    .iter()
                    .any(|head| body.starts_with(head));
            if !is_function || body.ends_with(';') {
                continue;
            }
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == end).unwrap_or(0);
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{}: a function of {length} lines", path.display(), start + 1));
            }
        }
    }
    report("a file has one subject and a function one thought", long);
}

#[test]
fn the_mind_does_no_io_and_reads_no_clock() {
    let banned = ["tokio", "tonic::", "etcd_client", "mysql_async", "SystemTime", "Instant", "rand::", "std::fs", "std::net"];
    // An error of the mind may carry the gRPC code that it becomes.
    let allowed = ["tonic::Code"];
    let mut found = Vec::new();
    let mind = ["src/diagnose", "src/durability", "src/elect", "src/mysql/gtid", "src/mysql/position"]
        .map(|folder| files_below(&root().join(folder), ".rs"));
    for path in mind.concat().into_iter().chain([root().join("src/mysql/gtid.rs"), root().join("src/mysql/position.rs")]) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in shipped(&path, &text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let code = allowed.iter().fold(code.to_owned(), |code, word| code.replace(word, ""));
            if let Some(word) = banned.iter().find(|word| code.contains(**word)) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    report("decisions are replayed from recordings: evidence and time go in, a decision comes out", found);
}

#[test]
fn what_ships_does_not_panic_on_purpose_and_prints_only_from_commands() {
    let banned = [".unwrap()", "todo!(", "unimplemented!(", "dbg!("];
    let mut found = Vec::new();
    for (path, text) in sources() {
        let is_command = path.starts_with(root().join("src/cli"));
        for (number, line) in shipped(&path, &text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let prints = !is_command && (code.contains("println!(") || code.contains("print!("));
            if let Some(word) = banned.iter().find(|word| code.contains(**word)).or(prints.then_some(&"println!")) {
                // A row of mysql_async is taken apart by a method of that name.
                if *word == ".unwrap()" && code.contains("row.unwrap()") {
                    continue;
                }
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    report("an error is a value, and standard output belongs to commands", found);
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    // Put together here, so that this file does not find itself.
    let banned = [["/ho", "me/"], ["/ro", "ot/"], ["/wo", "rk/"], ["deb.deb", "ian.org"], ["static.cra", "tes.io"]]
        .map(|parts| parts.concat());
    let mut found = Vec::new();
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/proof.md",
        "docs/fleet.md",
        "docs/from-orchestrator.md",
        "docs/from-vtorc.md",
        "docs/install.md",
        "docs/metrics.md",
        "docs/operate.md",
        "docs/problems.md",
        "docs/runbook.md",
        "docs/settings.md",
        "docs/upgrade.md",
        "Makefile",
        "Cargo.toml",
        "build.rs",
        ".ci/run",
        ".cargo/protoc",
        "deploy/tools/install",
        "deploy/deb/build",
        "deploy/container/Containerfile",
        "deploy/kubernetes/common.yaml",
        "deploy/kubernetes/elector-zone1.yaml",
        "deploy/prometheus/prometheus.yml",
        "deploy/prometheus/vtelector.rules.yml",
        "deploy/systemd/vtelector.service",
        "deploy/systemd/vtelector-agent.service",
    ];
    let documents = documents
        .map(|name| (root().join(name), fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))));
    for (path, text) in sources().into_iter().chain(documents) {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = banned.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    report("the repository is the same on every machine", found);
}

#[test]
fn protos_bear_the_names_that_vitess_gives_them() {
    for name in
        ["topodata", "replicationdata", "tabletmanagerdata", "tabletmanagerservice", "vtctldata", "vtctlservice", "queryservice"]
    {
        let text = fs::read_to_string(root().join(format!("proto/{name}.proto"))).unwrap_or_else(|e| panic!("{name}.proto: {e}"));
        assert!(text.contains(&format!("\npackage {name};\n")), "{name}.proto has another package");
    }
}
