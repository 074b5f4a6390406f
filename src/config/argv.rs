//! Command lines as Go programs take them, put into the one form that our parser takes.
//!
//! A unit file of VTOrc or vtctld may say `-port 1`, `--topo_global_root=/vitess/global` or `--allow-recovery=false`, and may set flags
//! that mean nothing here. Only the first word of its command line should have to change.

use std::{collections::BTreeMap, ffi::OsString};

use super::{
    ConfigError,
    foreign::{self, Foreign},
};

/// A command line in our parser's form, and what was left out of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Normalized {
    /// Every flag as `--name=value` or `--name`, in dashes.
    pub args: Vec<OsString>,
    /// Flags of VTOrc or vtctld that have no meaning here.
    pub ignored: Vec<String>,
}

/// Whether each flag of a command takes a value as the next word.
type Flags = BTreeMap<String, bool>;

/// Rewrites the arguments of a command. `foreign` = flags of VTOrc and vtctld are accepted beside its own.
pub fn normalize(
    command: &clap::Command,
    args: impl IntoIterator<Item = OsString>,
    accept_foreign: bool,
) -> Result<Normalized, ConfigError> {
    let own: Flags = command.get_arguments().filter_map(|arg| Some((arg.get_long()?.to_owned(), takes_next_word(arg)))).collect();
    let mut out = Normalized::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some((name, value)) = arg.to_str().and_then(long_flag) else {
            let end = arg == "--";
            out.args.push(arg);
            if end {
                out.args.extend(args);
                break;
            }
            continue;
        };
        let wants_word = match own.get(&name) {
            Some(&wants_word) => wants_word,
            None if accept_foreign => match foreign::lookup(&name) {
                Some(flag) => {
                    let value = if value.is_none() && flag.takes_value { args.next() } else { value };
                    skip(flag, value, &mut out.ignored)?;
                    continue;
                }
                None => return Err(unknown(&name, &own)),
            },
            None => false,
        };
        let mut word = OsString::from(format!("--{name}"));
        if let Some(value) = if value.is_none() && wants_word { args.next() } else { value } {
            word.push("=");
            word.push(value);
        }
        out.args.push(word);
    }
    Ok(out)
}

/// A switch takes a value only behind `=`, as in Go.
fn takes_next_word(arg: &clap::Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args().is_none_or(|range| range.min_values() > 0)
}

/// Splits `--a_b=c` or `-a_b=c` into `a-b` and `c`. One letter behind one dash is a short flag and stays.
fn long_flag(arg: &str) -> Option<(String, Option<OsString>)> {
    let body = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-').filter(|body| body.len() > 1))?;
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(OsString::from(value))),
        None => (body, None),
    };
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    Some((name.replace('_', "-"), value))
}

/// A foreign flag is left out; one that would weaken what its operator asked for is refused, unless it is set to nothing.
fn skip(flag: &Foreign, value: Option<OsString>, ignored: &mut Vec<String>) -> Result<(), ConfigError> {
    let value = value.map(|v| v.to_string_lossy().into_owned()).unwrap_or_default();
    match flag.refusal {
        Some(remedy) if !value.is_empty() || !flag.takes_value => {
            Err(ConfigError::new(flag.name, &value, "not supported", remedy))
        }
        _ => {
            ignored.push(format!("--{}", flag.name));
            Ok(())
        }
    }
}

fn unknown(name: &str, own: &Flags) -> ConfigError {
    let nearest = own.keys().map(String::as_str).chain(foreign::names()).min_by_key(|candidate| distance(name, candidate));
    let remedy = match nearest {
        Some(nearest) if distance(name, nearest) <= name.len().div_ceil(3) => format!("did you mean --{nearest}?"),
        _ => "see `vtelector serve --help`".to_owned(),
    };
    ConfigError::new(name, "", "no such flag", remedy)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::config::ServeArgs;

    fn parse(line: &str) -> Result<Normalized, ConfigError> {
        let mut command = ServeArgs::augment_args(Command::new("serve"));
        command.build();
        normalize(&command, line.split_whitespace().map(OsString::from), true)
    }

    #[test]
    fn dashes_underscores_and_one_dash_are_the_same_flag() {
        for line in ["--grpc-port 7", "--grpc_port 7", "-grpc_port 7", "-grpc-port=7", "--grpc-port=7"] {
            assert_eq!(parse(line).unwrap().args, ["--grpc-port=7"], "{line}");
        }
        // A value that looks like a flag belongs to the flag before it.
        assert_eq!(parse("--cell -x --port 1").unwrap().args, ["--cell=-x", "--port=1"]);
    }

    #[test]
    fn a_switch_never_takes_the_next_word() {
        assert_eq!(parse("--allow-recovery --port 1").unwrap().args, ["--allow-recovery", "--port=1"]);
        assert_eq!(parse("--allow_recovery=false").unwrap().args, ["--allow-recovery=false"]);
    }

    #[test]
    fn flags_of_vtorc_without_meaning_here_are_left_out_with_their_values() {
        let line = "--audit_to_syslog --recovery-poll-duration 1s --sqlite-data-file=x --port 1 --stats-drop-variables a,b";
        let out = parse(line).unwrap();
        assert_eq!(out.args, ["--port=1"]);
        assert_eq!(
            out.ignored,
            ["--audit-to-syslog", "--recovery-poll-duration", "--sqlite-data-file", "--stats-drop-variables"]
        );
    }

    #[test]
    fn a_flag_that_asks_for_protection_we_do_not_have_is_refused() {
        let error = parse("--security-policy read-only").unwrap_err().to_string();
        assert!(error.contains("--security-policy read-only") && error.contains("--auth-token-file"), "{error}");
        assert_eq!(parse("--security-policy=").unwrap().ignored, ["--security-policy"]);
    }

    #[test]
    fn an_unknown_flag_is_an_error_that_names_the_nearest() {
        let error = parse("--topo-global-rot /x").unwrap_err().to_string();
        assert!(error.contains("--topo-global-rot") && error.contains("did you mean --topo-global-root?"), "{error}");
        let error = parse("--zzzzzzzzzzzz").unwrap_err().to_string();
        assert!(error.contains("--zzzzzzzzzzzz") && error.contains("--help"), "{error}");
    }

    #[test]
    fn what_follows_two_dashes_is_left_alone() {
        assert_eq!(parse("--port 1 -- --a_b -v").unwrap().args, ["--port=1", "--", "--a_b", "-v"]);
    }
}
