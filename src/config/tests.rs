use std::ffi::OsString;

use clap::{Args, FromArgMatches};

use super::*;

/// Parses a command line of `serve` the way the program does.
fn settings(line: &str) -> Result<(Settings, Vec<String>), String> {
    let mut command = ServeArgs::augment_args(clap::Command::new("serve").no_binary_name(true));
    command.build();
    let line = normalize(&command, line.split_whitespace().map(OsString::from), true).map_err(|e| e.to_string())?;
    let matches = command.try_get_matches_from(line.args).map_err(|e| e.to_string())?;
    let args = ServeArgs::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    Ok((Settings::try_from(&args).map_err(|e| e.to_string())?, line.ignored))
}

const TOPO: &str = "--topo-global-server-address localhost:2379 --topo-global-root /vitess/global";

#[test]
fn a_unit_file_of_vtorc_needs_one_word_changed() {
    let line = "--topo_implementation etcd2 --topo_global_server_address etcd1:2379,etcd2:2379 --topo_global_root /vitess/global/ \
        --cell zone1 --port 16000 --bind-address 10.0.0.7 --alsologtostderr --log-format text --audit-to-syslog=true \
        --audit-file-location /var/log/vtorc.log --instance-poll-time 1s --recovery-poll-duration=1s --topo-information-refresh-duration 3s \
        --clusters-to-watch commerce,customer/-80 --prevent-cross-cell-failover --allow-recovery=false --lock-timeout 45s \
        --remote-operation-timeout 10s --topo-etcd-lease-ttl 10 --wait-replicas-timeout 20s --tablet-manager-grpc-concurrency 8 \
        --shutdown-wait-time 1m --pprof-http --stats-drop-variables DiscoveryInstanceTimings -onterm_timeout 10s";
    let (settings, ignored) = settings(line).unwrap();
    assert_eq!(settings.topo.global_server_address, "etcd1:2379,etcd2:2379");
    assert_eq!(settings.topo.global_root, "/vitess/global");
    assert_eq!(settings.topo.lease_ttl, Duration::from_secs(10));
    assert_eq!(settings.http.to_string(), "10.0.0.7:16000");
    assert_eq!(settings.grpc.port, 15999);
    assert_eq!(settings.remote_operation_timeout, Duration::from_secs(10));
    assert_eq!(settings.wait_replicas_timeout, Duration::from_secs(20));
    assert_eq!(settings.shutdown_wait, Duration::from_secs(60));
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert_eq!(settings.instance_poll_time, Duration::from_secs(1));
    let watched = |shard: &str| settings.watched.includes(&shard.parse().unwrap());
    assert!(watched("commerce/0") && watched("customer/-80") && watched("customer/40-80") && !watched("customer/80-"));
    assert_eq!(ignored.len(), 9, "{ignored:?}");
}

#[test]
fn defaults_are_those_of_vitess_but_for_the_lease() {
    let (settings, ignored) = settings(TOPO).unwrap();
    assert_eq!(settings.remote_operation_timeout, Duration::from_secs(15));
    assert_eq!(settings.lock_timeout, Duration::from_secs(45));
    assert_eq!(settings.topo.lease_ttl, Duration::from_secs(5));
    assert_eq!(settings.wait_replicas_timeout, Duration::from_secs(30));
    assert_eq!(settings.ledger_root, "/vtelector");
    assert_eq!(settings.instance_poll_time, Duration::from_secs(1));
    assert!(settings.fence.is_none() && settings.watched == Watched::default());
    assert!(settings.grpc_tls.is_none() && settings.tablet_tls.is_none() && settings.topo.tls.is_none() && ignored.is_empty());
}

#[test]
fn demands_on_durability_are_told_by_keyspace() {
    let line = format!("{TOPO} --durability-extra commerce=acks:2,cells:2 --durability-extra=customer=regions:2");
    let (settings, _) = settings(&line).unwrap();
    let told: Vec<_> = settings.durability_extra.iter().map(|(keyspace, extra)| format!("{keyspace}={extra}")).collect();
    assert_eq!(told, ["commerce=acks:2,cells:2", "customer=regions:2"]);
}

#[test]
fn the_lease_is_seconds_with_or_without_the_unit_and_the_last_flag_wins() {
    for (ttl, seconds) in [("7", 7), ("7s", 7), ("1m", 60)] {
        let (settings, _) = settings(&format!("{TOPO} --topo-etcd-lease-ttl 30 --topo-etcd-lease-ttl {ttl}")).unwrap();
        assert_eq!(settings.topo.lease_ttl, Duration::from_secs(seconds));
    }
}

#[test]
fn a_setting_that_cannot_be_is_named_with_value_and_remedy() {
    for (flags, wants) in [
        ("--topo-etcd-lease-ttl 3", ["--topo-etcd-lease-ttl 3s", "kept alive every 1s", "use 4 or more"]),
        ("--topo-etcd-lease-ttl 3600", ["--topo-etcd-lease-ttl 1h0m0s", "died", "use 600 or less"]),
        ("--topo-etcd-lease-ttl 5500ms", ["--topo-etcd-lease-ttl", "5500ms", "whole number of seconds"]),
        ("--topo-implementation zk2", ["--topo-implementation zk2", "only etcd", "use etcd2"]),
        ("--topo-global-server-address etcd1", ["--topo-global-server-address etcd1", "no address", "host:port"]),
        ("--topo-global-server-address=", ["--topo-global-server-address", "missing", "host:port"]),
        ("--topo-global-root=", ["--topo-global-root", "missing", "use /vitess/global"]),
        ("--cell global", ["--cell global", "not a valid cell", "cell in which"]),
        ("--bind-address 1.2.3.4:80", ["--bind-address 1.2.3.4:80", "not an address", "port has a flag"]),
        ("--port 70000", ["--port", "70000", "65535"]),
        ("--port 7000 --grpc-port 7000", ["--grpc-port 7000", "--port", "its own port"]),
        ("--lock-timeout 45", ["--lock-timeout", "a unit is missing", "1m30s"]),
        ("--lock-timeout -1s", ["--lock-timeout", "negative", "1m30s"]),
        ("--remote-operation-timeout 1ms", ["--remote-operation-timeout 1ms", "too short", "use 100ms or more"]),
        ("--instance-poll-time 1ms", ["--instance-poll-time 1ms", "too short", "use 100ms or more"]),
        ("--cells-to-watch zone1,a/b", ["--cells-to-watch a/b", "not a valid cell", "with commas between"]),
        ("--clusters-to-watch commerce/80-40", ["--clusters-to-watch commerce/80-40", "key range", "KEYSPACE/KEYRANGE"]),
        ("--allow-recovery=maybe", ["--allow-recovery", "maybe", "true or false"]),
        ("--grpc-cert Cargo.toml", ["--grpc-cert Cargo.toml", "no PEM file", "-----BEGIN"]),
        ("--grpc-key no-such-file", ["--grpc-key no-such-file", "No such file", "can read"]),
        ("--durability-extra acks:2", ["--durability-extra acks:2", "names no keyspace", "KEYSPACE=acks:2,cells:2"]),
        ("--durability-extra a/b=acks:2", ["--durability-extra a/b=acks:2", "not a valid keyspace name", "each keyspace once"]),
        ("--durability-extra ks=ack:2", ["--durability-extra ks=ack:2", "there is no \"ack\"", "acks:2"]),
        (
            "--durability-extra ks=acks:2 --durability-extra ks=cells:2",
            ["ks=cells:2", "ks stands there twice", "each keyspace once"],
        ),
        ("--ledger-root /", ["--ledger-root /", "root of etcd", "use /vtelector"]),
        ("--log-format xml", ["--log-format", "xml", "json"]),
    ] {
        let error = settings(&format!("{TOPO} {flags}")).unwrap_err();
        for want in wants {
            assert!(error.contains(want), "{flags}: {want:?} is not in {error:?}");
        }
    }
}

#[test]
fn half_of_tls_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("a.pem");
    std::fs::write(&pem, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let pem = pem.display();
    for (flags, want) in [
        (format!("--grpc-cert {pem}"), "give --grpc-key"),
        (format!("--grpc-key {pem}"), "give --grpc-cert"),
        (format!("--grpc-ca {pem}"), "let everybody in"),
        (format!("--http-ca {pem}"), "give --http-cert"),
        (format!("--tablet-manager-grpc-cert {pem}"), "give --tablet-manager-grpc-key"),
        (format!("--tablet-manager-grpc-cert {pem} --tablet-manager-grpc-key {pem}"), "give --tablet-manager-grpc-ca"),
    ] {
        let error = settings(&format!("{TOPO} {flags}")).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
    let (settings, _) = settings(&format!("{TOPO} --grpc-cert {pem} --grpc-key {pem} --tablet-manager-grpc-ca {pem}")).unwrap();
    assert!(settings.grpc_tls.is_some() && settings.tablet_tls.is_some());
}

#[test]
fn a_lock_that_is_given_up_before_a_dead_holder_loses_it_is_warned_about() {
    let (settings, _) = settings(&format!("{TOPO} --lock-timeout 2s")).unwrap();
    assert!(settings.warnings[0].contains("--lock-timeout 2s") && settings.warnings[0].contains("5s"));
}

#[test]
fn each_rule_of_anti_flapping_has_a_flag_and_zero_switches_it_off() {
    use crate::ledger::{Burst, FlapRules};
    let (defaults, _) = settings(TOPO).unwrap();
    assert_eq!(defaults.flap, FlapRules::default());
    let line = format!("{TOPO} --failover-floor=0 --failover-burst=0 --failover-cap-per-hour=0");
    assert_eq!(settings(&line).unwrap().0.flap, FlapRules { floor: Duration::ZERO, burst: None, cap_per_hour: 0 });
    let line = format!("{TOPO} --failover-floor 10s --failover_burst 3/90s --failover-cap-per-hour 4");
    let burst = Some(Burst { count: 3, within: Duration::from_secs(90) });
    assert_eq!(settings(&line).unwrap().0.flap, FlapRules { floor: Duration::from_secs(10), burst, cap_per_hour: 4 });
    for (flag, words) in [
        ("--failover-floor=25h", "without a primary"),
        ("--failover-floor=-1s", "negative"),
        ("--failover-burst=2", "no / in it"),
        ("--failover-burst=0/1m", "2/1m"),
        ("--failover-burst=2/25h", "without a primary"),
        ("--failover-cap-per-hour=-1", "--failover-cap-per-hour"),
    ] {
        let error = settings(&format!("{TOPO} {flag}")).unwrap_err();
        assert!(error.contains(words) && error.contains("--failover-"), "{flag}: {error}");
    }
}
