//! Flags of VTOrc 24 and vtctld 24 that `vtelector serve` accepts and does not use, so that their unit files start it unchanged.

/// A flag of VTOrc or vtctld.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its name, in dashes, without the two in front.
    pub name: &'static str,
    /// Whether it takes a value; a switch does not.
    pub takes_value: bool,
    /// Why it cannot be left out silently, and what to do instead.
    pub refusal: Option<&'static str>,
}

/// Finds a foreign flag by its name in dashes.
pub fn lookup(name: &str) -> Option<&'static Foreign> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The names of all of them.
pub fn names<'a>() -> impl Iterator<Item = &'a str> {
    FLAGS.iter().map(|flag| flag.name)
}

const fn value(name: &'static str) -> Foreign {
    Foreign { name, takes_value: true, refusal: None }
}

const fn switch(name: &'static str) -> Foreign {
    Foreign { name, takes_value: false, refusal: None }
}

const fn refused(name: &'static str, remedy: &'static str) -> Foreign {
    Foreign { name, takes_value: true, refusal: Some(remedy) }
}

const NO_CRL: &str = "revocation lists are not read: leave it out and replace the authority that signed the revoked certificate";
const NO_POLICY: &str =
    "HTTP is not protected by it: leave it out and use --grpc-auth-mode static, --auth-token-file or --http-ca";

const FLAGS: &[Foreign] = &[
    refused("grpc-crl", NO_CRL),
    refused("tablet-manager-grpc-crl", NO_CRL),
    refused("security-policy", NO_POLICY),
    value("action-timeout"),
    switch("alsologtostderr"),
    value("audit-file-location"),
    value("audit-purge-duration"),
    switch("audit-to-backend"),
    switch("audit-to-syslog"),
    value("backend-read-concurrency"),
    value("backend-write-concurrency"),
    value("backup-engine-implementation"),
    value("backup-storage-block-size"),
    switch("backup-storage-compress"),
    value("backup-storage-implementation"),
    value("backup-storage-number-blocks"),
    switch("catch-sigpipe"),
    value("config-file-not-found-handling"),
    value("config-name"),
    value("config-path"),
    value("config-persistence-min-interval"),
    value("config-type"),
    value("consul-auth-static-file"),
    value("datadog-agent-host"),
    value("datadog-agent-port"),
    switch("disable-active-reparents"),
    value("discovery-workers"),
    switch("emit-stats"),
    value("file-backup-storage-root"),
    value("gcs-backup-storage-bucket"),
    value("gcs-backup-storage-root"),
    value("grpc-compression"),
    value("grpc-dial-concurrency-limit"),
    switch("grpc-enable-orca-metrics"),
    switch("grpc-enable-tracing"),
    value("grpc-initial-conn-window-size"),
    value("grpc-initial-window-size"),
    value("grpc-keepalive-time"),
    value("grpc-keepalive-timeout"),
    value("grpc-max-connection-age"),
    value("grpc-max-connection-age-grace"),
    switch("grpc-prometheus"),
    value("grpc-server-ca"),
    value("grpc-server-initial-conn-window-size"),
    value("grpc-server-initial-window-size"),
    value("grpc-server-keepalive-enforcement-policy-min-time"),
    switch("grpc-server-keepalive-enforcement-policy-permit-without-stream"),
    value("grpc-server-keepalive-time"),
    value("grpc-server-keepalive-timeout"),
    value("jaeger-agent-host"),
    value("keep-logs"),
    value("keep-logs-by-mtime"),
    value("lameduck-period"),
    value("log-backtrace-at"),
    value("log-dir"),
    switch("log-err-stacks"),
    value("log-link"),
    value("log-rotate-max-size"),
    switch("log-structured"),
    switch("logtostderr"),
    value("max-stack-size"),
    value("mysql-server-version"),
    value("onclose-timeout"),
    value("onterm-timeout"),
    value("opentsdb-uri"),
    value("pid-file"),
    value("pprof"),
    switch("pprof-http"),
    switch("proxy-tablets"),
    value("purge-logs-interval"),
    value("recovery-poll-duration"),
    value("s3-backup-aws-endpoint"),
    value("s3-backup-aws-region"),
    value("s3-backup-storage-bucket"),
    value("s3-backup-storage-root"),
    value("schema-change-check-interval"),
    value("schema-change-controller"),
    value("schema-change-dir"),
    value("schema-change-replicas-timeout"),
    value("schema-change-user"),
    value("service-map"),
    value("snapshot-topology-interval"),
    value("sql-max-length-errors"),
    value("sql-max-length-ui"),
    value("sqlite-data-file"),
    value("stats-backend"),
    value("stats-combine-dimensions"),
    value("stats-common-tags"),
    value("stats-drop-variables"),
    value("stats-emit-period"),
    value("stderrthreshold"),
    value("table-refresh-interval"),
    value("tablet-dir"),
    value("tablet-grpc-ca"),
    value("tablet-grpc-cert"),
    value("tablet-grpc-crl"),
    value("tablet-grpc-key"),
    value("tablet-grpc-server-name"),
    value("tablet-health-keep-alive"),
    value("tablet-manager-grpc-concurrency"),
    value("tablet-manager-grpc-connpool-size"),
    value("tablet-manager-protocol"),
    value("tablet-protocol"),
    value("tablet-refresh-interval"),
    switch("tablet-refresh-known-tablets"),
    value("tablet-url-template"),
    value("topo-information-refresh-duration"),
    value("topo-read-concurrency"),
    value("tracer"),
    switch("tracing-enable-logging"),
    value("tracing-sampling-rate"),
    value("tracing-sampling-type"),
    value("vmodule"),
    switch("vtctld-sanitize-log-messages"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args, Command};

    use super::*;
    use crate::config::ServeArgs;

    #[test]
    fn no_foreign_flag_hides_one_of_ours_or_comes_twice() {
        let own = ServeArgs::augment_args(Command::new("serve"));
        let own: BTreeSet<_> = own.get_arguments().filter_map(|arg| arg.get_long()).collect();
        let mut seen = BTreeSet::new();
        for name in names() {
            assert!(!own.contains(name), "--{name} is ours");
            assert!(seen.insert(name), "--{name} is listed twice");
        }
    }
}
