//! Primaries that fall silent, on hosts of their own: proven dead within seconds whatever `replica_net_timeout` is; and everything that
//! looks like it and must not move a primary.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod delay;

use std::{collections::BTreeSet, time::Duration};

use cluster::{
    Fault, KEYSPACE, SHARD, Shape, Signal, TabletAlias, automatic, eventually, metric, print_percentiles, story::Story,
    write_gap, writes_on,
};
use delay::Relay;
use prost::Message;
use tokio::time::{Instant, sleep};
use vtelector::pb::topodata::{Tablet, TabletType};

/// What a test on a shared machine allows; the measured figures are in the measurements.
const GAP_LIMIT: Duration = Duration::from_secs(8);

/// How long it is watched that nothing comes of a fault that is over.
const AFTERMATH: Duration = Duration::from_secs(4);

/// Every tablet and the elector on hosts of their own.
fn hosts(replica_net_timeout_s: u32) -> Shape {
    Shape { hosts: true, my_cnf: vec![format!("replica_net_timeout={replica_net_timeout_s}")], ..automatic() }
}

async fn begin(shape: Shape) -> Story {
    let mut story = Story::begin(shape).await;
    // What a host says that was cut off from etcd and from everybody else.
    for text in [
        "cannot be written",
        "cannot be read",
        "topolog",
        "shard lock",
        "etcd",
        "no answer",
        "not in time",
        "offline_mode",
        "do not agree that this primary is lost",
        "comes back after every attempt",
    ] {
        story.test.announce(text);
    }
    story
}

async fn lost_and_back(story: &mut Story, fault: Fault) {
    let change = story.see_primary_lost(fault).await;
    let came = story.come_back(&change, fault).await;
    let acks = story.writers.acks();
    let gap = write_gap(&acks, &change).unwrap();
    let first = acks.iter().filter(|ack| ack.server == change.to.uid && ack.sent >= change.called).map(|ack| ack.acked).min();
    let took = first.unwrap() - change.called;
    println!(
        "{}: write gap {gap:?}, the new primary took a write {took:?} after it; the old one came back {came:?}",
        fault.name()
    );
    assert!(took < GAP_LIMIT, "{}: {took:?}", fault.name());
}

#[tokio::test]
async fn a_silent_host_is_proven_dead_at_mysqls_own_timeout_of_a_minute() {
    let mut story = begin(hosts(60)).await;
    lost_and_back(&mut story, Fault::HostSilent).await;
    lost_and_back(&mut story, Fault::ConnectionsExhausted).await;
    lost_and_back(&mut story, Fault::MysqldFrozen).await;
    story.end().await;
}

#[tokio::test]
async fn a_silent_host_is_proven_dead_at_vitess_timeout_of_eight_seconds() {
    let mut story = begin(hosts(8)).await;
    lost_and_back(&mut story, Fault::HostSilent).await;
    story.end().await;
}

/// Nobody else has ever taken a write, and the first primary is the primary.
async fn nothing_moved(story: &Story, what: &str) {
    writes_on(&story.writers, &story.primary).await;
    sleep(AFTERMATH).await;
    nobody_else_writes(story, what).await;
}

async fn nobody_else_writes(story: &Story, what: &str) {
    assert_eq!(story.test.declared_primary().await.unwrap().as_ref(), Some(&story.primary), "{what}");
    let writable: BTreeSet<u32> = story.writers.acks().iter().map(|ack| ack.server).collect();
    assert_eq!(writable, BTreeSet::from([story.primary.uid]), "{what}");
    writes_on(&story.writers, &story.primary).await;
    println!("{what}: no failover");
}

#[tokio::test]
async fn what_is_short_or_seen_by_the_elector_alone_moves_nobody() {
    let mut story = begin(hosts(60)).await;
    let (primary, elector) = (story.primary.clone(), story.test.host.clone());
    let hosts: Vec<_> = story.test.aliases().iter().map(|alias| (alias.clone(), story.test.tablet(alias).host.clone())).collect();

    for (_, host) in hosts.iter().filter(|(alias, _)| *alias == primary) {
        elector.cut(host).unwrap();
    }
    sleep(Duration::from_secs(15)).await;
    elector.reconnect().unwrap();
    nothing_moved(&story, "elector cut off from the primary").await;

    for (_, host) in hosts.iter().filter(|(alias, _)| *alias != primary) {
        elector.cut(host).unwrap();
    }
    sleep(Duration::from_secs(15)).await;
    elector.reconnect().unwrap();
    nothing_moved(&story, "elector cut off from the replicas").await;

    for (fault, length_ms) in [(Fault::AgentFrozen, 3000), (Fault::MysqldFrozen, 1000), (Fault::HostSilent, 1000)] {
        story.test.strike(&primary, fault).unwrap();
        sleep(Duration::from_millis(length_ms)).await;
        story.test.heal(&primary, fault).await.unwrap();
        nothing_moved(&story, &format!("{} for {length_ms} ms", fault.name())).await;
    }
    story.end().await;
}

/// How soon everything has to be current after etcd's return.
const CURRENT_LIMIT: Duration = Duration::from_secs(2);

/// Waits until the elector watches so many tablets of the second cell, and counts so many electors.
async fn sees(story: &Story, tablets: i64, electors: i64) {
    let address = (story.test.host().ip.as_str(), story.test.http_port);
    let what = format!("{tablets} tablet(s) and {electors} elector(s) seen");
    eventually(&what, CURRENT_LIMIT, async || {
        let watched = metric(address, "vtorc_tablets_watched_by_cell{cell=\"zone2\"} ").await?;
        let members = metric(address, "vtelector_region_members ").await?;
        if (watched, members) == (tablets, electors) { Ok(()) } else { Err(format!("{watched} and {members}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_etcd_that_is_down_for_half_a_minute_moves_nobody() {
    let mut story = begin(hosts(60)).await;
    story.test.etcd.signal(Signal::Freeze).unwrap();
    sleep(Duration::from_secs(30)).await;
    let back = Instant::now();
    story.test.etcd.signal(Signal::Thaw).unwrap();
    // Another tablet's record, written the moment etcd answers: nobody listens there.
    let record = Tablet {
        alias: Some((&"zone2-999".parse::<TabletAlias>().unwrap()).into()),
        hostname: "192.0.2.1".to_owned(),
        mysql_hostname: "192.0.2.1".to_owned(),
        mysql_port: 3306,
        keyspace: KEYSPACE.to_owned(),
        shard: SHARD.to_owned(),
        r#type: TabletType::Spare as i32,
        ..Tablet::default()
    };
    let key = "/vitess/zone2/tablets/zone2-0000000999/Tablet";
    let mut etcd = story.test.etcd.client().await.unwrap();
    etcd.put(key, record.encode_to_vec(), None).await.unwrap();
    sees(&story, 2, 1).await;
    println!("etcd is back, and everything is current after {:?}", back.elapsed());
    assert!(back.elapsed() < CURRENT_LIMIT, "{:?}", back.elapsed());
    etcd.delete(key, None).await.unwrap();
    sees(&story, 1, 1).await;
    nobody_else_writes(&story, "etcd down for 30 s").await;
    // And it is of use again at once.
    lost_and_back(&mut story, Fault::MysqldKilled).await;
    story.end().await;
}

/// The elector loses every fifth packet to and from everybody, and whatever it says or hears over TCP is late by up to 300 ms more.
async fn lossy(length: Duration) {
    let mut story = begin(hosts(60)).await;
    story.test.announce("");
    // What was connected before would not be late.
    story.test.kill_elector();
    let _relay = Relay::before(&story.test.host, &story.test.folder().join("relay.log")).await;
    story.test.start_elector(&[]).unwrap();
    story.test.elector_ready().await.unwrap();
    story.test.host.lose(20).unwrap();
    sleep(length).await;
    story.test.host.reconnect().unwrap();
    // A question and its answer are late by 300 ms on average.
    let address = (story.test.host().ip.as_str(), story.test.http_port);
    let answers = "vtorc_discovery_instance_timings";
    let all = metric(address, &format!("{answers}_count{{action=\"Instance\"}} ")).await.unwrap();
    let fast = metric(address, &format!("{answers}_bucket{{action=\"Instance\",le=\"0.1\"}} ")).await.unwrap();
    println!("{fast} of {all} answers came within 0.1 s");
    assert!(all > 0 && fast * 4 < all, "{fast} of {all} answers came within 0.1 s");
    nothing_moved(&story, &format!("20 % of the elector's packets lost and 0 to 300 ms of delay for {length:?}")).await;
    story.end().await;
}

#[tokio::test]
async fn an_elector_that_loses_every_fifth_packet_and_hears_late_moves_nobody() {
    lossy(Duration::from_secs(30)).await;
}

#[tokio::test]
#[ignore = "a part of the tests that delay: it runs on the elector's host"]
async fn relay() {
    delay::run().await;
}

#[tokio::test]
#[ignore = "a measurement of ten minutes: make measure-calm"]
async fn measure_calm() {
    lossy(Duration::from_secs(600)).await;
}

/// Loses the primary so many times to each fault that needs witnesses.
#[tokio::test]
#[ignore = "a measurement of many minutes: make measure-failover"]
async fn measure_failover_of_silent_primaries() {
    let times: usize = std::env::var("TIMES").map_or(30, |times| times.parse().expect("TIMES is a number"));
    for (fault, timeout_s) in [(Fault::HostSilent, 60), (Fault::HostSilent, 8), (Fault::ConnectionsExhausted, 60)] {
        let mut story = begin(hosts(timeout_s)).await;
        story.test.announce("");
        for _ in 0..times {
            let change = story.see_primary_lost(fault).await;
            story.come_back(&change, fault).await;
        }
        let (moves, acks) = story.end().await;
        assert_eq!(moves.len(), times);
        let name = fault.name();
        println!(
            "{name}, replica_net_timeout {timeout_s} s: {times} times, {} writes acknowledged, 0 lost, never two writers",
            acks.len()
        );
        print_percentiles("write gap", moves.iter().map(|change| write_gap(&acks, change).unwrap()).collect());
        print_percentiles("from fault", moves.iter().map(|change| change.answered - change.called).collect());
    }
}
