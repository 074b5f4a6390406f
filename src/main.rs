//! Entry: parse, start tracing, hand over to a command.

use std::process::ExitCode;

fn main() -> ExitCode {
    vtelector::cli::run(std::env::args_os())
}
