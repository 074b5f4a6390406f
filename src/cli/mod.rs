//! The commands of the program: one file each.

pub mod agent;
pub mod client;
pub mod demo;
mod doctor;
mod logging;
mod serve;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    config::{self, ConfigError, Layers, ServeArgs},
    traces::Traces,
};

/// Exit code of a command line or setting that cannot be; the one that clap uses.
const EXIT_USAGE: u8 = 2;

/// Keeps every MySQL shard of a Vitess cluster writable at the primary that its topology declares.
#[derive(Debug, Parser)]
#[command(name = "vtelector", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the elector: the calls of vtctld that move primaries, over gRPC, and metrics over HTTP
    Serve(Box<ServeArgs>),
    /// Manage a bare mysqld: register it in the topology and obey a tablet manager's calls
    Agent(Box<agent::AgentArgs>),
    /// Try everything that serve will need, with serve's own settings, and say what to change. Exit code 1 when something fails
    Doctor(Box<doctor::DoctorArgs>),
    /// Print what makes a shell complete these commands: put it where the shell looks for such, or source it
    Completions(CompletionsArgs),
    /// Show a small live cluster on this machine: its primary moves under writes, until Ctrl-C
    Demo(demo::DemoArgs),
    #[command(flatten)]
    Client(Box<client::ClientCommand>),
}

/// Every command with its flags.
pub fn command() -> clap::Command {
    Cli::command()
}

/// For which shell.
#[derive(Debug, Clone, clap::Args)]
struct CompletionsArgs {
    /// Name of the shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Parses the command line and runs the command. The exit code is 0, 1 (it failed), 2 (it was called wrongly) or 3 (a dry run would be refused).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (cli, ignored) = match parse(args) {
        Ok(parsed) => parsed,
        Err(Usage::Clap(error)) => {
            // To standard output for --help and --version, to standard error otherwise; nobody is left to tell when that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
        Err(Usage::Config(error)) => return usage(&error),
    };
    match cli.command {
        Command::Serve(args) => match config::Settings::try_from(&*args) {
            Ok(settings) => {
                let log = |traces: &Traces| logging::start(args.log_format, &args.log_level, traces);
                serve::run(&settings, &ignored, log).unwrap_or_else(|error| usage(&error))
            }
            Err(error) => usage(&error),
        },
        Command::Agent(args) => match logging::start(args.log_format, &args.log_level, &Traces::default()) {
            Ok(_log) => agent::main(*args),
            Err(error) => usage(&error),
        },
        Command::Doctor(args) => match config::Settings::try_from(&args.serve) {
            Ok(settings) => on_this_thread(doctor::run(&args, &settings)),
            Err(error) => usage(&error),
        },
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "vtelector", &mut script);
            // A reader that has gone away is no failure.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
            ExitCode::SUCCESS
        }
        Command::Demo(args) => on_this_thread(demo::run(&args)),
        Command::Client(command) => on_this_thread(client::run(*command)),
    }
}

fn on_this_thread(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &ConfigError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(EXIT_USAGE)
}

#[derive(Debug)]
enum Usage {
    Clap(clap::Error),
    Config(ConfigError),
}

/// Puts the flags of the command in our parser's form first, as it is called from unit files written for Go programs.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Cli, Vec<String>), Usage> {
    let mut command = command();
    command.build();
    let mut args = args.into_iter();
    let mut line: Vec<OsString> = args.by_ref().take(1).collect();
    let leading = leading_flags(&mut args, &mut line);
    let (mut ignored, mut layers) = (Vec::new(), None);
    if let Some(mut subcommand) = line.get(1).and_then(|name| command.find_subcommand(name)) {
        let mut args = args.peekable();
        // Of a group of commands, such as maintenance, the next word is the command.
        while let Some(one) = args.peek().and_then(|name| subcommand.find_subcommand(name)) {
            subcommand = one;
            line.extend(args.next());
        }
        let accept_foreign = matches!(subcommand.get_name(), "serve" | "doctor");
        let normalized = config::normalize(subcommand, leading.into_iter().chain(args), accept_foreign).map_err(Usage::Config)?;
        ignored = normalized.ignored;
        // The doctor's own flag is no setting.
        let (own, settings): (Vec<_>, Vec<_>) = normalized.args.into_iter().partition(|arg| accept_foreign && arg == "--json");
        if accept_foreign {
            let places = Layers::new(settings, |key| std::env::var(key).ok()).map_err(Usage::Config)?;
            let merged = places.merged(places.read().map_err(Usage::Config)?.as_deref()).map_err(Usage::Config)?;
            line.extend(merged.args);
            line.extend(own);
            ignored.extend(merged.ignored);
            layers = Some(places);
        } else {
            line.extend(settings);
        }
    } else {
        line.extend(leading.into_iter().chain(args));
    }
    let matches = command.try_get_matches_from_mut(line).map_err(Usage::Clap)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(Usage::Clap)?;
    match &mut cli.command {
        Command::Serve(args) => args.layers = layers,
        Command::Doctor(args) => args.serve.layers = layers,
        _ => {}
    }
    Ok((cli, ignored))
}

/// vtctldclient's users write `--server HOST:PORT` before the command: such flags are taken out, up to the command, which goes to `line`.
fn leading_flags(args: &mut impl Iterator<Item = OsString>, line: &mut Vec<OsString>) -> Vec<OsString> {
    let mut leading = Vec::new();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        if !text.starts_with('-') || matches!(&*text, "-h" | "--help" | "-V" | "--version") {
            line.push(arg);
            break;
        }
        leading.push(arg);
        if !text.contains('=') && text.trim_start_matches('-') != "json" {
            leading.extend(args.next());
        }
    }
    leading
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_client_answers_to_the_names_of_vtctldclient() {
        let line = "vtelector PlannedReparentShard commerce/0 --new_primary zone1-101 --wait-replicas-timeout=1m30s";
        let (cli, _) = parse(line.split(' ').map(OsString::from)).unwrap();
        let Command::Client(command) = cli.command else { panic!("not a call") };
        assert!(matches!(*command, client::ClientCommand::PlannedReparentShard(_)));
        assert!(parse(["vtelector", "get-tablet", "zone1"].map(OsString::from)).is_err());
    }

    #[test]
    fn flags_of_the_connection_may_stand_before_the_command() {
        for line in ["--server h:1 --json GetTablets", "-server=h:1 --json GetTablets", "GetTablets --server h:1 --json"] {
            let (cli, _) = parse(format!("vtelector {line}").split(' ').map(OsString::from)).unwrap();
            let Command::Client(command) = cli.command else { panic!("not a call") };
            assert!(
                format!("{command:?}").contains("server: \"h:1\"") && format!("{command:?}").contains("json: true"),
                "{command:?}"
            );
        }
        let Err(Usage::Clap(version)) = parse(["vtelector", "--version"].map(OsString::from)) else { panic!("no version") };
        assert_eq!(version.kind(), clap::error::ErrorKind::DisplayVersion);
        assert!(parse(["vtelector", "--server"].map(OsString::from)).is_err());
    }

    #[test]
    fn a_command_of_a_group_takes_flags_in_front_and_in_go_spelling() {
        for line in ["--server h:1 maintenance end a1", "maintenance end -server=h:1 a1", "maintenance end a1 --server h:1"] {
            let (cli, _) = parse(format!("vtelector {line}").split(' ').map(OsString::from)).unwrap();
            let Command::Client(command) = cli.command else { panic!("not a call") };
            assert!(matches!(*command, client::ClientCommand::Maintenance(_)), "{command:?}");
            assert!(format!("{command:?}").contains("server: \"h:1\""), "{command:?}");
        }
        assert!(parse("vtelector maintenance stop a1".split(' ').map(OsString::from)).is_err());
    }

    #[test]
    fn serve_takes_go_flags_and_says_what_it_does_not_use() {
        let line = "vtelector serve -port 7 --topo_global_root /v --allow-recovery=false --recovery-poll-duration 1s";
        let (cli, ignored) = parse(line.split(' ').map(OsString::from)).unwrap();
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        assert_eq!((args.port, args.topo.topo_global_root.as_str(), args.elector.allow_recovery), (7, "/v", false));
        assert_eq!(ignored, ["--recovery-poll-duration"]);
    }
}
