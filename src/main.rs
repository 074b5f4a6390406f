//! Entry: parse, start tracing, hand over to a command.

fn main() {}
