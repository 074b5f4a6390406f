//! docs/settings.md lists every flag of `serve` and `agent`, as the parser knows them.

use vtelector::config::LIVE;

use super::documents::{generated, table};

/// The names of these flags are Vitess's, and so is what they mean; where the default is another one, the document says so.
const VITESS: [&str; 52] = [
    "allow-emergency-reparent",
    "allow-recovery",
    "bind-address",
    "cell",
    "cells-to-watch",
    "change-tablets-with-errant-gtid-to-drained",
    "clusters-to-watch",
    "config-file",
    "enable-primary-disk-stalled-recovery",
    "grpc-auth-mode",
    "grpc-auth-mtls-allowed-substrings",
    "grpc-auth-static-client-creds",
    "grpc-auth-static-password-file",
    "grpc-bind-address",
    "grpc-ca",
    "grpc-cert",
    "grpc-crl",
    "grpc-enable-optional-tls",
    "grpc-key",
    "grpc-max-message-size",
    "grpc-port",
    "grpc-server-ca",
    "init-keyspace",
    "init-shard",
    "init-tablet-type",
    "init-tags",
    "instance-poll-time",
    "lock-timeout",
    "log-format",
    "log-level",
    "port",
    "prevent-cross-cell-failover",
    "reasonable-replication-lag",
    "remote-operation-timeout",
    "security-policy",
    "shutdown-wait-time",
    "tablet-hostname",
    "tablet-manager-grpc-ca",
    "tablet-manager-grpc-cert",
    "tablet-manager-grpc-crl",
    "tablet-manager-grpc-key",
    "tablet-manager-grpc-server-name",
    "tablet-path",
    "tolerable-replication-lag",
    "topo-etcd-lease-ttl",
    "topo-etcd-tls-ca",
    "topo-etcd-tls-cert",
    "topo-etcd-tls-key",
    "topo-global-root",
    "topo-global-server-address",
    "topo-implementation",
    "wait-replicas-timeout",
];

fn rows(name: &str) -> String {
    let mut all = vtelector::cli::command();
    all.build();
    let command = all.find_subcommand(name).unwrap();
    let flags = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    let shown = flags.filter(|(long, arg)| !matches!(*long, "help" | "version") && !arg.is_hide_set());
    let mut rows: Vec<Vec<String>> = shown
        .map(|(long, arg)| {
            let value = arg.get_value_names().and_then(<[_]>::first).map(|name| format!(" {name}")).unwrap_or_default();
            let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
            let changes = if name == "serve" && LIVE.contains(&long) { "live" } else { "restart" };
            let whose = if VITESS.contains(&long) { "Vitess" } else { "ours" };
            let default = match defaults.join(",") {
                none if none.is_empty() => String::new(),
                some => format!("`{some}`"),
            };
            // The process list shows variables of the environment, never their values here: clap is not asked for them.
            let meaning = arg.get_help().map(|help| help.to_string().replace('\n', " ")).unwrap_or_default();
            let heading = arg.get_help_heading().unwrap_or("Process").to_owned();
            vec![heading, format!("`--{long}{value}`"), default, changes.to_owned(), whose.to_owned(), meaning]
        })
        .collect();
    rows.sort();
    table(&["about", "flag", "default", "change", "name", "meaning"], rows)
}

#[test]
fn the_generated_reference_lists_every_flag() {
    generated("docs/settings.md", "serve", &rows("serve"));
    generated("docs/settings.md", "agent", &rows("agent"));
}
