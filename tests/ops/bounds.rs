//! How many series a shard can bring about, and what a scrape of a large fleet costs.

use std::{collections::BTreeMap, time::Duration, time::Instant};

use vtelector::{
    diagnose::{Code, Priority, Problem, Remedy},
    metrics::{Metrics, ZEROS_MAX},
    reparent::Operation,
    topo::{ShardId, TabletAlias},
};

use super::read;

/// Tablets of each shard here.
const TABLETS: usize = 3;
/// Why something is not done, in metrics.
const REASONS: [&str; 7] = [
    "NoRecoveryAction",
    "GlobalRecoveriesDisabled",
    "EmergencyReparentShardDisabled",
    "AntiFlapping",
    "Maintenance",
    "TrafficSwitch",
    "BackingOff",
];
/// VTOrc's names of recoveries.
const KINDS: [&str; 13] = [
    "CheckAndRecoverGenericProblem",
    "RecoverPrimaryTabletDeleted",
    "RecoverDeadPrimary",
    "RecoverIncapacitatedPrimary",
    "GracefulTakeover",
    "ElectNewPrimary",
    "FixPrimary",
    "RecoverPrimaryHasPrimary",
    "ReconcileStaleTopoPrimary",
    "RecoverErrantGTIDDetected",
    "PublishPrimary",
    "LiftFence",
    "FixReplica",
];

fn shard(number: usize) -> ShardId {
    ShardId::new("commerce", &format!("{number:04x}-{:04x}", number + 1)).unwrap()
}

fn tablet(shard: usize, number: usize) -> TabletAlias {
    TabletAlias { cell: "zone1".to_owned(), uid: (shard * TABLETS + number + 1) as u32 }
}

/// What every shard that is watched has, also when all is well.
fn watch(metrics: &Metrics, shards: usize) {
    let by_shard: BTreeMap<ShardId, usize> = (0..shards).map(|number| (shard(number), TABLETS)).collect();
    metrics.sense.watched(&by_shard, &[("zone1".to_owned(), shards * TABLETS)].into());
    for number in 0..shards {
        let id = shard(number);
        metrics.recover.emergency_disabled(&id, false);
        for replica in 1..TABLETS {
            metrics.errant.set(&id.keyspace, &id.shard, &tablet(number, replica).to_string(), Some(0), false);
        }
    }
}

fn problem(code: Code, tablet: TabletAlias) -> Problem {
    Problem { code, tablet: Some(tablet), why: String::new(), remedy: Remedy::Report }
}

/// Every series of a shard.
fn of_shard(page: &str, id: &ShardId) -> usize {
    let (keyspace, shard) = (format!("keyspace=\"{}\"", id.keyspace), format!("shard=\"{}\"", id.shard));
    page.lines().filter(|line| line.contains(&keyspace) && line.contains(&shard)).count()
}

fn stated(name: &str) -> usize {
    let document = read("docs/metrics.md");
    let line = document.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap_or_else(|| panic!("no line {name}"));
    let number: String = line.split('|').nth(2).unwrap().chars().filter(char::is_ascii_digit).collect();
    number.parse().unwrap_or_else(|_| panic!("no number in {line}"))
}

/// Everything goes wrong with one shard, again and again, in every way that there is.
fn everything_goes_wrong(metrics: &Metrics, number: usize) {
    let id = shard(number);
    for code in Code::ALL {
        for place in 0..TABLETS {
            metrics.recover.opened(&id, &problem(*code, tablet(number, place)));
        }
        metrics.recover.stuck(&id, *code);
    }
    for kind in KINDS {
        for outcome in ["done", "failed", "already_done"] {
            metrics.recover.ended(&id, Code::DeadPrimary, kind, (outcome, true));
        }
        drop(metrics.recover.begun(&id, kind));
        REASONS.iter().for_each(|reason| metrics.recover.skipped(&id, kind, reason));
    }
    REASONS.iter().for_each(|reason| metrics.recover.blocked(&id, reason, true));
    Priority::ALL.iter().for_each(|priority| metrics.recover.trouble(&id, *priority, Some(Duration::from_secs(1))));
    for operation in [Operation::Planned, Operation::Emergency] {
        metrics.reparent(operation, &id, None, Duration::from_millis(9));
        metrics.reparent(operation, &id, Some("lock_lost"), Duration::from_millis(9));
    }
    for place in 1..TABLETS {
        metrics.errant.set(&id.keyspace, &id.shard, &tablet(number, place).to_string(), Some(7), true);
    }
}

#[test]
fn a_shard_brings_about_as_many_series_as_the_document_states() {
    let metrics = Metrics::new().unwrap();
    watch(&metrics, 1);
    let page = metrics.page().unwrap();
    assert_eq!(of_shard(&page, &shard(0)), stated("a shard of 3 in which all is well"), "{page}");
    everything_goes_wrong(&metrics, 0);
    let page = metrics.page().unwrap();
    let worst = of_shard(&page, &shard(0));
    let again = {
        everything_goes_wrong(&metrics, 0);
        of_shard(&metrics.page().unwrap(), &shard(0))
    };
    assert_eq!(worst, again, "what happens again brings nothing new");
    assert_eq!(worst, stated("the same, everything wrong at once and every way of it tried"));
}

#[test]
fn a_shard_that_is_watched_no_more_leaves_nothing_behind() {
    let metrics = Metrics::new().unwrap();
    watch(&metrics, 1);
    everything_goes_wrong(&metrics, 0);
    let id = shard(0);
    for place in 0..TABLETS {
        let alias = tablet(0, place);
        Code::ALL.iter().for_each(|code| metrics.recover.closed(&id, &(*code, Some(alias.clone()))));
        metrics.recover.forget(&id, Some(&alias));
        metrics.errant.forget(&id.keyspace, &id.shard, &alias.to_string());
    }
    REASONS.iter().for_each(|reason| metrics.recover.blocked(&id, reason, false));
    metrics.end_of(&id);
    metrics.sense.watched(&BTreeMap::new(), &BTreeMap::new());
    let page = metrics.page().unwrap();
    let left: Vec<&str> = page.lines().filter(|line| line.contains("commerce") || line.contains("zone1")).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn problems_that_are_gone_are_remembered_up_to_a_bound() {
    let metrics = Metrics::new().unwrap();
    let zeros = || metrics.page().unwrap().lines().filter(|line| line.starts_with("vtorc_detected_problems{")).count();
    for number in 0..ZEROS_MAX + 100 {
        let (id, alias) = (shard(number), tablet(number, 0));
        metrics.recover.opened(&id, &problem(Code::DeadPrimary, alias.clone()));
        metrics.recover.closed(&id, &(Code::DeadPrimary, Some(alias)));
    }
    assert_eq!(zeros(), ZEROS_MAX);
    assert_eq!(ZEROS_MAX, stated("problems that are gone, shown as 0, in the whole process"));
    // One that is there again keeps its series, however many others go.
    let (id, alias) = (shard(9999), tablet(9999, 0));
    metrics.recover.opened(&id, &problem(Code::DeadPrimary, alias.clone()));
    metrics.recover.closed(&id, &(Code::DeadPrimary, Some(alias.clone())));
    metrics.recover.opened(&id, &problem(Code::DeadPrimary, alias));
    for number in 0..ZEROS_MAX + 1 {
        let (id, alias) = (shard(number), tablet(number, 1));
        metrics.recover.opened(&id, &problem(Code::LaggingReplica, alias.clone()));
        metrics.recover.closed(&id, &(Code::LaggingReplica, Some(alias)));
    }
    assert!(metrics.page().unwrap().contains(&format!("shard=\"{}\",tablet_alias=\"zone1-0000029998\"}} 1", shard(9999).shard)));
}

/// 9,999 tablets; every tenth shard has lost a replica, and every twentieth has had a failover.
fn fleet(metrics: &Metrics, shards: usize) {
    watch(metrics, shards);
    for number in (0..shards).step_by(10) {
        metrics.recover.opened(&shard(number), &problem(Code::UnreachableReplica, tablet(number, 1)));
        metrics.recover.trouble(&shard(number), Priority::Low, Some(Duration::from_secs(1)));
    }
    for number in (0..shards).step_by(20) {
        let (id, alias) = (shard(number), tablet(number, 0));
        metrics.recover.opened(&id, &problem(Code::DeadPrimary, alias.clone()));
        drop(metrics.recover.begun(&id, "RecoverDeadPrimary"));
        metrics.recover.ended(&id, Code::DeadPrimary, "RecoverDeadPrimary", ("done", true));
        metrics.recover.closed(&id, &(Code::DeadPrimary, Some(alias)));
        metrics.reparent(Operation::Emergency, &id, None, Duration::from_millis(90));
    }
}

#[test]
fn a_scrape_of_9999_tablets_is_small() {
    let metrics = Metrics::new().unwrap();
    fleet(&metrics, 3333);
    let bytes = metrics.page().unwrap().len();
    assert!(bytes < 5_000_000, "{bytes} bytes");
}

#[test]
#[ignore = "a measurement: make measure-scrape"]
fn measure_scrape() {
    let metrics = Metrics::new().unwrap();
    fleet(&metrics, 3333);
    let mut took: Vec<Duration> = Vec::new();
    let mut page = String::new();
    for _ in 0..21 {
        let begun = Instant::now();
        page = metrics.page().unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    let series = page.lines().filter(|line| !line.starts_with('#')).count();
    println!("9,999 tablets in 3,333 shards: {series} series, {} bytes; p50 {:?}, longest {:?}", page.len(), took[10], took[20]);
    assert!(took[10] < Duration::from_millis(200) && page.len() < 5_000_000);
}
