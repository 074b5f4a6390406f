//! What documents tell people to type is what the program takes.

use std::ffi::OsString;

use super::{path, read};

/// The documents with commands in them.
fn documents() -> Vec<String> {
    let mut all = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(path("docs")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            all.push(format!("docs/{name}"));
        }
    }
    all.sort();
    all
}

/// Lines in fenced blocks, with those that end in a backslash joined; and code in the text.
fn commands(document: &str) -> Vec<String> {
    let (mut found, mut fenced, mut begun) = (Vec::new(), false, String::new());
    for line in read(document).lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let line = line.split(" # ").next().unwrap().trim();
            begun = format!("{begun} {}", line.trim_end_matches('\\').trim());
            if !line.ends_with('\\') {
                found.push(std::mem::take(&mut begun).trim().to_owned());
            }
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let named = |command: &str| command.starts_with("vtelector ") && !command.contains("<") && !command.contains("...");
    found.into_iter().filter(|command| named(command)).collect()
}

/// Every command of every document.
pub fn all() -> Vec<(String, String)> {
    let each =
        |document: String| commands(&document).into_iter().map(move |command| (document.clone(), command)).collect::<Vec<_>>();
    documents().into_iter().flat_map(each).collect()
}

/// Words that stand for something.
fn filled_in(word: &str) -> String {
    let word = word.trim_matches(['[', ']']);
    let filled = match word {
        "ALIAS" => "zone1-101",
        "KEYSPACE/SHARD" => "commerce/0",
        "KEYSPACE" => "commerce",
        "SHARD" => "0",
        "CELL" => "zone1",
        "DURATION" => "1h",
        "GTIDSET" => "3e11fa47-71ca-11e1-9e33-c80aa9429562:1",
        other => other,
    };
    filled.trim_matches('"').to_owned()
}

/// Quoted text is one word.
pub fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in command.split('"').enumerate() {
        if place % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(filled_in));
        }
    }
    words
}

pub fn understood(line: &str) -> Result<(), String> {
    let mut command = vtelector::cli::command();
    command.build();
    let mut line = words(line);
    let server: Option<usize> = line.iter().position(|word| word == "--server").filter(|place| *place == 1);
    if let Some(place) = server {
        line.drain(place..place + 2);
    }
    let mut at = 1;
    let mut subcommand = &command;
    while let Some(next) = line.get(at).and_then(|name| subcommand.find_subcommand(name)) {
        subcommand = next;
        at += 1;
    }
    if at == 1 {
        return if line.get(1).is_none_or(|word| word.starts_with('-')) { Ok(()) } else { Err("no such command".to_owned()) };
    }
    if at == line.len() && ["serve", "agent"].contains(&line[1].as_str()) {
        return Ok(());
    }
    let flags = line.split_off(at).into_iter().map(OsString::from);
    let flags = vtelector::config::normalize(subcommand, flags, line[1] == "serve").map_err(|error| error.to_string())?.args;
    let has_name = subcommand.get_arguments().any(|arg| arg.get_long() == Some("who"));
    let mut whole: Vec<OsString> = line.into_iter().map(OsString::from).chain(flags).collect();
    if has_name && std::env::var_os("USER").is_none() && !whole.iter().any(|word| word.to_string_lossy().starts_with("--who")) {
        whole.push("--who=me".into());
    }
    command.try_get_matches_from_mut(whole).map(|_| ()).or_else(|error| match error.kind() {
        clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion => Ok(()),
        _ => Err(error.to_string()),
    })
}

#[test]
fn every_command_that_a_document_shows_is_one() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (document, command) in all() {
        count += 1;
        if let Err(error) = understood(&command) {
            wrong.push(format!("{document}: {command}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 50, "only {count} commands were found");
}

#[test]
fn a_wrong_command_is_noticed() {
    for wrong in [
        "vtelector no-such-thing",
        "vtelector problems --no-such-flag",
        "vtelector history commerce/0 commerce/1 x",
        "vtelector serve --portt 7",
    ] {
        assert!(understood(wrong).is_err(), "{wrong}");
    }
}
