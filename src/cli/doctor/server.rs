//! Whether a MySQL server is set up as a member of a shard has to be. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::{arithmetic, check::Check};
use crate::pb::replicationdata::FullStatus;

/// What is read over the tablet manager beside the status.
pub const VARIABLES: &str = "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.global_variables WHERE VARIABLE_NAME IN \
    ('rpl_semi_sync_source_enabled', 'rpl_semi_sync_master_enabled', 'rpl_semi_sync_replica_enabled', 'rpl_semi_sync_slave_enabled', \
    'rpl_semi_sync_source_wait_no_replica', 'rpl_semi_sync_master_wait_no_slave', 'sync_binlog', 'innodb_flush_log_at_trx_commit', \
    'enforce_gtid_consistency', 'relay_log_recovery') UNION ALL SELECT 'now', CAST(UNIX_TIMESTAMP(NOW(6)) AS CHAR)";

/// Clocks may differ by this much before somebody should look: terms of primaries are wall-clock times.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// What the direct account has to be allowed.
pub const PRIVILEGES: [&str; 2] = ["SYSTEM_VARIABLES_ADMIN", "CONNECTION_ADMIN"];

/// What a tablet's status says of its server.
pub fn status(tablet: &str, full: &FullStatus, needs_semi_sync: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut demand = |is: bool, what: &str, found: String, change: &str| {
        if !is {
            checks.push(Check::fail(format!("{tablet} {what}"), found, change));
        }
    };
    demand(full.gtid_mode == "ON", "gtid_mode", full.gtid_mode.clone(), "set gtid_mode=ON and enforce_gtid_consistency=ON");
    demand(full.log_bin_enabled, "log_bin", "OFF".to_owned(), "switch the binary log on: nobody could follow it");
    demand(
        full.log_replica_updates,
        "log_replica_updates",
        "OFF".to_owned(),
        "set log_replica_updates=ON: it cannot be promoted",
    );
    if !full.binlog_format.is_empty() && full.binlog_format != "ROW" {
        let about = format!("{tablet} binlog_format");
        checks.push(Check::warn(about, full.binlog_format.clone(), "set binlog_format=ROW"));
    }
    if full.read_only && !full.super_read_only {
        let about = format!("{tablet} super_read_only");
        checks.push(Check::warn(about, "OFF while read_only is ON", "set super_read_only=ON: administrators can write there"));
    }
    let given = full.semi_sync_primary_timeout;
    if needs_semi_sync && given > 0 && given < 3_600_000 && full.semi_sync_primary_enabled {
        let about = format!("{tablet} rpl_semi_sync_source_timeout");
        let change = "set it to 1000000000000000000: after it commits are confirmed without any acknowledgement";
        checks.push(Check::fail(about, format!("{given} ms"), change));
    }
    if let Some(configuration) = &full.replication_configuration {
        let timeout = Duration::from_secs(u64::try_from(configuration.replica_net_timeout).unwrap_or(0));
        let heartbeat = Duration::try_from_secs_f64(configuration.heartbeat_interval).unwrap_or_default();
        checks.extend(arithmetic::net_timeout(tablet, timeout, heartbeat));
    }
    checks
}

/// What its variables say; `asked_at_s` is our clock in the middle of the question, in seconds since 1970.
pub fn variables(tablet: &str, values: &BTreeMap<String, String>, needs_semi_sync: bool, asked_at_s: f64) -> Vec<Check> {
    let mut checks = Vec::new();
    let has = |names: [&str; 2]| names.iter().any(|name| values.contains_key(*name));
    let is = |name: &str, wanted: &str| values.get(name).is_none_or(|value| value.eq_ignore_ascii_case(wanted));
    if needs_semi_sync {
        let plugins = [
            (["rpl_semi_sync_source_enabled", "rpl_semi_sync_master_enabled"], "semisync_source"),
            (["rpl_semi_sync_replica_enabled", "rpl_semi_sync_slave_enabled"], "semisync_replica"),
        ];
        for (names, plugin) in plugins.into_iter().filter(|(names, _)| !has(*names)) {
            let about = format!("{tablet} {plugin}");
            let change = format!("load the plugin {plugin} ({})", names[0]);
            checks.push(Check::fail(about, "the plugin is not loaded, and the durability policy needs it", change));
        }
        for name in ["rpl_semi_sync_source_wait_no_replica", "rpl_semi_sync_master_wait_no_slave"] {
            if !is(name, "ON") {
                let change = "set it to ON: commits would go on without any acknowledgement";
                checks.push(Check::fail(format!("{tablet} {name}"), "OFF", change));
            }
        }
    }
    for (name, wanted, why) in [
        ("sync_binlog", "1", "what was acknowledged may be lost with the power"),
        ("innodb_flush_log_at_trx_commit", "1", "what was acknowledged may be lost with the power"),
        ("enforce_gtid_consistency", "ON", "statements may break replication"),
        ("relay_log_recovery", "ON", "replication may break after a crash"),
    ] {
        if !is(name, wanted) {
            let found = values.get(name).cloned().unwrap_or_default();
            checks.push(Check::warn(format!("{tablet} {name}"), found, format!("set it to {wanted}: {why}")));
        }
    }
    if let Some(now) = values.get("now").and_then(|now| now.parse::<f64>().ok()) {
        checks.extend(clock(&format!("{tablet} clock"), now - asked_at_s));
    }
    checks
}

/// A clock that is that far ahead of ours.
pub fn clock(about: &str, ahead_s: f64) -> Option<Check> {
    if ahead_s.abs() <= CLOCKS_DIFFER.as_secs_f64() {
        return None;
    }
    let way = if ahead_s > 0.0 { "ahead of" } else { "behind" };
    let found = format!("{:.1} s {way} ours", ahead_s.abs());
    Some(Check::warn(about, found, "let NTP set both clocks: the newest primary is told by them"))
}

/// Privileges that are missing in what `SHOW GRANTS` says; `ALL PRIVILEGES` on everything has them all.
pub fn missing_privileges(grants: &[String]) -> Vec<&'static str> {
    let everywhere: Vec<String> =
        grants.iter().map(|grant| grant.to_ascii_uppercase()).filter(|grant| grant.contains(" ON *.* ")).collect();
    let has = |privilege: &str| {
        everywhere.iter().any(|grant| {
            let (listed, _) = grant.trim_start_matches("GRANT ").split_once(" ON *.* ").unwrap_or_default();
            listed.split(',').map(str::trim).any(|one| one == privilege || one == "ALL PRIVILEGES" || one == "SUPER")
        })
    };
    PRIVILEGES.into_iter().filter(|privilege| !has(privilege)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::check::Verdict, pb::replicationdata::Configuration};

    fn healthy() -> FullStatus {
        FullStatus {
            gtid_mode: "ON".to_owned(),
            log_bin_enabled: true,
            log_replica_updates: true,
            binlog_format: "ROW".to_owned(),
            read_only: true,
            super_read_only: true,
            replication_configuration: Some(Configuration { heartbeat_interval: 4.0, replica_net_timeout: 8 }),
            ..FullStatus::default()
        }
    }

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_healthy_server_is_not_mentioned() {
        assert_eq!(status("t", &healthy(), true), []);
        let plugins = [("rpl_semi_sync_source_enabled", "OFF"), ("rpl_semi_sync_slave_enabled", "ON"), ("now", "1000.4")];
        assert_eq!(variables("t", &values(&plugins), true, 1000.0), []);
        assert_eq!(variables("t", &BTreeMap::new(), false, 0.0), []);
    }

    #[test]
    fn each_setting_that_stands_in_the_way_is_named() {
        let failing = [
            (FullStatus { gtid_mode: "OFF".to_owned(), ..healthy() }, "gtid_mode"),
            (FullStatus { log_bin_enabled: false, ..healthy() }, "log_bin"),
            (FullStatus { log_replica_updates: false, ..healthy() }, "log_replica_updates"),
            (
                FullStatus { semi_sync_primary_enabled: true, semi_sync_primary_timeout: 10_000, ..healthy() },
                "rpl_semi_sync_source_timeout",
            ),
        ];
        for (full, name) in failing {
            let checks = status("t", &full, true);
            assert!(matches!(checks.as_slice(), [one] if one.verdict == Verdict::Fail && one.about.contains(name)), "{checks:?}");
        }
        let checks = status("t", &FullStatus { super_read_only: false, binlog_format: "MIXED".to_owned(), ..healthy() }, true);
        assert!(checks.len() == 2 && checks.iter().all(|check| check.verdict == Verdict::Warn), "{checks:?}");
        let checks = variables("t", &values(&[("sync_binlog", "0"), ("rpl_semi_sync_source_wait_no_replica", "OFF")]), true, 0.0);
        assert_eq!(checks.iter().filter(|check| check.verdict == Verdict::Fail).count(), 3, "{checks:?}");
    }

    #[test]
    fn clocks_that_differ_are_named_with_the_way() {
        assert_eq!(clock("t", 1.5), None);
        assert!(clock("t", 61.0).unwrap().found.contains("61.0 s ahead"));
        assert!(variables("t", &values(&[("now", "90")]), false, 100.0)[0].found.contains("10.0 s behind"));
    }

    #[test]
    fn privileges_count_where_they_hold_everywhere() {
        let grants = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(
            missing_privileges(&grants(&[
                "GRANT USAGE ON *.* TO `v`@`%`",
                "GRANT CONNECTION_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `v`@`%`"
            ]))
            .is_empty()
        );
        assert!(missing_privileges(&grants(&["GRANT ALL PRIVILEGES ON *.* TO `v`@`%` WITH GRANT OPTION"])).is_empty());
        assert_eq!(missing_privileges(&grants(&["GRANT ALL PRIVILEGES ON `db`.* TO `v`@`%`"])), PRIVILEGES);
        assert_eq!(missing_privileges(&grants(&["GRANT CONNECTION_ADMIN ON *.* TO `v`@`%`"])), ["SYSTEM_VARIABLES_ADMIN"]);
    }
}
