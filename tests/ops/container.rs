//! deploy/container: an image cannot be built where no base image can be pulled, so its recipe is read. The rules are those of common linters.

use super::{path, read};

/// Instructions with their arguments; continued lines joined, comments left out.
fn instructions() -> Vec<(String, String)> {
    let text = read("deploy/container/Containerfile").replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

#[test]
fn every_instruction_is_one() {
    let known = ["FROM", "WORKDIR", "COPY", "RUN", "LABEL", "USER", "EXPOSE", "ENTRYPOINT", "CMD"];
    for (name, rest) in instructions() {
        assert!(known.contains(&name.as_str()) && !rest.is_empty(), "{name} {rest}");
        if name == "ENTRYPOINT" || name == "CMD" {
            let words: Vec<String> = serde_json::from_str(&rest).expect("a list: a shell is not there");
            assert!(!words.is_empty());
        }
    }
}

#[test]
fn what_ships_has_no_shell_runs_as_nobody_and_writes_nothing() {
    let all = instructions();
    let stages: Vec<usize> = all.iter().enumerate().filter(|(_, (name, _))| name == "FROM").map(|(place, _)| place).collect();
    assert_eq!(stages.len(), 2, "one stage builds, one ships");
    for place in &stages {
        let image = all[*place].1.split_whitespace().next().unwrap();
        let (name, tag) = image.rsplit_once(':').expect("a tag");
        assert!(tag != "latest" && name.contains('.'), "{image}: whose image, and which?");
    }
    let shipped = &all[stages[1]..];
    assert!(
        shipped[0].1.contains("distroless") && !shipped.iter().any(|(name, _)| ["RUN", "ADD", "VOLUME"].contains(&name.as_str()))
    );
    let user = shipped.iter().rev().find(|(name, _)| name == "USER").unwrap();
    let (uid, gid) = user.1.split_once(':').unwrap();
    assert!(uid.parse::<u32>().unwrap() > 0 && gid.parse::<u32>().unwrap() > 0);
    let copied = shipped.iter().find(|(name, _)| name == "COPY").unwrap();
    assert!(copied.1.contains("--chown=0:0") && copied.1.contains("--chmod=0755"), "whoever runs may not change the program");
}

#[test]
fn it_is_built_with_the_release_that_the_project_asks_for() {
    let manifest = read("Cargo.toml");
    let needed = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"').to_owned();
    assert!(read("deploy/container/Containerfile").contains(&format!("rust:{needed}-")), "{needed}");
    assert!(path("Cargo.lock").exists(), "--locked needs it");
}
