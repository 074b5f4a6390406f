//! The arithmetic of timeouts: whether they fit together, and how long detection and failover take with them. Pure.

use std::time::Duration;

use super::check::Check;
use crate::config::{GoDuration, LOCK_KEEPALIVE_INTERVAL, Settings};

/// What a failover takes from the decision until the new primary takes writes, where nothing has to be waited for: as measured.
const FAILOVER: Duration = Duration::from_millis(400);
/// Two refused connections in a row prove that nobody listens.
const REFUSED_TWICE: Duration = Duration::from_millis(200);
/// vtgate's default of `--buffer_window`: clients whose requests it holds notice nothing until then.
const VTGATE_BUFFER: Duration = Duration::from_secs(10);

/// Everything that follows from the settings alone.
pub fn checks(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![lease(settings), lock(settings), limits(settings), rhythm(settings)];
    checks.extend(failovers(settings));
    checks
}

fn go(duration: Duration) -> GoDuration {
    GoDuration(duration)
}

fn lease(settings: &Settings) -> Check {
    let (ttl, keepalive) = (settings.topo.lease_ttl, LOCK_KEEPALIVE_INTERVAL);
    let about = "--topo-etcd-lease-ttl";
    if ttl <= 3 * keepalive {
        let found = format!("{} does not outlive three keepalives of {}", go(ttl), go(keepalive));
        return Check::fail(about, found, "set it to 5");
    }
    let found =
        format!("{} outlives three keepalives of {}; the lock of an elector that died is free after it", go(ttl), go(keepalive));
    if ttl > 2 * VTGATE_BUFFER {
        return Check::warn(about, found, "set it to 5: a failover waits that long for a dead elector's lock");
    }
    Check::ok(about, found)
}

fn lock(settings: &Settings) -> Check {
    let (wait, ttl) = (settings.lock_timeout, settings.topo.lease_ttl);
    let about = "--lock-timeout";
    match wait > ttl {
        true => Check::ok(about, format!("{} waits longer than a dead elector's lock lives ({})", go(wait), go(ttl))),
        false => {
            let found = format!("{} gives up before a dead elector's lock is free ({})", go(wait), go(ttl));
            Check::warn(about, found, format!("set it above {}", go(ttl)))
        }
    }
}

fn limits(settings: &Settings) -> Check {
    let (every, limit) = (settings.primary_liveness_interval, settings.remote_operation_timeout);
    let about = "--primary-liveness-interval";
    let found = format!("a primary is asked every {}; a call may take {}", go(every), go(limit));
    match every {
        every if every >= limit => Check::warn(about, found, "make it shorter than --remote-operation-timeout"),
        every if every > settings.rules.dead_after => {
            Check::warn(about, found, format!("set it to 250ms: silence counts after {}", go(settings.rules.dead_after)))
        }
        _ => Check::ok(about, found),
    }
}

fn rhythm(settings: &Settings) -> Check {
    let (every, limit) = (settings.instance_poll_time, settings.remote_operation_timeout);
    let found = format!("each tablet is asked everything every {}", go(every));
    let about = "--instance-poll-time";
    match every {
        every if every > Duration::from_secs(10) => {
            Check::warn(about, found, "set it to 1s: evidence that is older than 10s tells nothing of what replicates")
        }
        every if every > limit => Check::warn(about, found, "make it shorter than --remote-operation-timeout"),
        _ => Check::ok(about, found),
    }
}

/// How long detection and failover take in each case; over what vtgate buffers, clients see errors.
fn failovers(settings: &Settings) -> Vec<Check> {
    let (every, rules) = (settings.primary_liveness_interval, &settings.rules);
    let cases = [
        ("its MySQL is killed", every + REFUSED_TWICE, ""),
        (
            "its host falls silent",
            rules.dead_after + every,
            ", where replicas' hosts can tell; else after their replica_net_timeout",
        ),
        ("its tablet manager alone dies", rules.manager_dead_for + every, ", when most electors agree"),
        ("it answers nothing but errors", rules.incapacitated_for + every, ""),
    ];
    let of_case = |(case, detected, condition): (&str, Duration, &str)| {
        let about = format!("when {case}");
        let whole = detected + FAILOVER;
        let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
        let found = format!(
            "noticed within {}, writable again within {}{condition}; {} more where another elector died with the lock",
            seconds(detected),
            seconds(whole),
            seconds(settings.topo.lease_ttl),
        );
        match whole > VTGATE_BUFFER && detected < rules.incapacitated_for {
            true => Check::warn(about, found, "vtgate buffers for 10s: shorten --primary-liveness-interval"),
            false => Check::ok(about, found),
        }
    };
    cases.into_iter().map(of_case).collect()
}

/// A tablet's own limit of silence beside ours.
pub fn net_timeout(tablet: &str, replica_net_timeout: Duration, heartbeat: Duration) -> Option<Check> {
    if replica_net_timeout.is_zero() {
        return None;
    }
    let about = format!("{tablet} replica_net_timeout");
    let found = format!("{}, heartbeat {}", go(replica_net_timeout), go(heartbeat));
    if replica_net_timeout > Duration::from_secs(60) {
        let change = "set replica_net_timeout to 8: until then a replica does not notice that its source is silent";
        return Some(Check::warn(about, found, change));
    }
    let fits = heartbeat.is_zero() || heartbeat * 2 <= replica_net_timeout + Duration::from_secs(1);
    (!fits).then(|| Check::warn(about, found, "the heartbeat has to come at least twice in that time"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{cli::doctor::check::Verdict, config::ServeArgs};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn verdicts(more: &str) -> Vec<Check> {
        let line = format!("serve --topo-global-server-address=a:1 --topo-global-root=/v {more}");
        let settings = Settings::try_from(&Line::try_parse_from(line.split_whitespace()).unwrap().args).unwrap();
        checks(&settings)
    }

    #[test]
    fn the_defaults_fit_together() {
        let checks = verdicts("");
        assert!(checks.iter().all(|check| check.verdict == Verdict::Ok), "{checks:#?}");
        assert!(
            checks.iter().any(|check| check.about.contains("silent") && check.found.contains("writable again within 2.")),
            "{checks:#?}"
        );
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_to_change() {
        for (flags, about) in [
            ("--lock-timeout=2s", "--lock-timeout"),
            ("--topo-etcd-lease-ttl=60", "--topo-etcd-lease-ttl"),
            ("--primary-liveness-interval=5s", "--primary-liveness-interval"),
            ("--primary-liveness-interval=2s --remote-operation-timeout=1s", "--primary-liveness-interval"),
            ("--instance-poll-time=60s", "--instance-poll-time"),
        ] {
            let checks = verdicts(flags);
            let found = checks.iter().find(|check| check.about == about).unwrap();
            assert!(found.verdict == Verdict::Warn && !found.change.is_empty(), "{flags}: {found:?}");
        }
    }

    #[test]
    fn a_replica_that_notices_silence_late_is_named() {
        let s = Duration::from_secs;
        assert_eq!(net_timeout("t", s(8), s(4)), None);
        assert_eq!(net_timeout("t", s(0), s(0)), None);
        assert!(net_timeout("t", s(3600), s(30)).unwrap().change.contains("8"));
        assert!(net_timeout("t", s(8), s(30)).unwrap().change.contains("heartbeat"));
    }
}
