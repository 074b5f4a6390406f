//! Emergency reparents of a real cluster under writes: servers that are killed, frozen, behind or errant, electors that die.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::time::Duration;

use cluster::{
    Fault, Shape, TabletAlias, print_percentiles, shape,
    story::{Return, Story},
    write_gap, writes_on,
};
use tokio::time::Instant;
use tonic::Code;

/// Four tablets: a primary and three replicas.
fn three_replicas() -> Shape {
    let alias = |(cell, uid): (&str, u32)| TabletAlias { cell: cell.to_owned(), uid };
    Shape { tablets: [("zone1", 100), ("zone1", 101), ("zone2", 200), ("zone2", 201)].map(alias).into(), ..shape() }
}

#[tokio::test]
async fn whatever_befalls_the_primary_another_one_takes_over_and_nothing_is_lost() {
    let mut story = Story::begin(shape()).await;
    for fault in [Fault::MysqldKilled, Fault::MysqldFrozen, Fault::BothKilled, Fault::AgentKilled, Fault::AgentFrozen] {
        let change = story.lose_primary(fault).await;
        let took = change.answered - change.called;
        assert!(took < Duration::from_secs(2), "{}: the call took {took:?}", fault.name());
        let came = story.come_back(&change, fault).await;
        println!("{}: call {took:?}, the old primary came back {came:?}", fault.name());
    }
    story.end().await;
}

#[tokio::test]
async fn a_replica_a_minute_behind_is_neither_elected_nor_waited_for_and_a_dead_one_is_missed_only_where_it_could_hide_something()
{
    let mut story = Story::begin(three_replicas()).await;
    let slow = story.test.aliases()[2].clone();
    story.test.delay(&slow, 60).await.unwrap();
    writes_on(&story.writers, &story.primary).await;
    let change = story.lose_primary(Fault::MysqldKilled).await;
    let took = change.answered - change.called;
    assert!(change.to != slow && took < Duration::from_secs(2), "{} after {took:?}", change.to);
    println!("one of three replicas a minute behind: call {took:?}");
    story.test.delay(&slow, 0).await.unwrap();
    story.come_back(&change, Fault::MysqldKilled).await;

    // A primary that answers its demotion can hide nothing: a dead replica is missed by nobody.
    let dead = story.test.after(&story.primary);
    story.test.strike(&dead, Fault::MysqldKilled).unwrap();
    let change = story.call().await.unwrap();
    println!("one replica dead, the primary alive: call {:?}", change.answered - change.called);
    assert_ne!(change.to, dead);
    writes_on(&story.writers, &change.to).await;

    // One that is gone may have an acknowledgement from the dead replica alone: whatever it acknowledged last, nobody else may have it.
    let primary = story.primary.clone();
    story.test.strike(&primary, Fault::MysqldKilled).unwrap();
    let refused = story.call().await.unwrap_err();
    println!("one replica dead, the primary dead: {refused}");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for alias in [&dead, &primary] {
        assert!(refused.message().contains(&alias.to_string()), "{alias} is not named: {refused}");
    }
    // The refusal left everything as it was: the primary that comes back is primary again.
    story.test.heal(&primary, Fault::MysqldKilled).await.unwrap();
    story.test.heal(&dead, Fault::MysqldKilled).await.unwrap();
    story.settled().await;
    story.test.announce("reparent failed");
    story.end().await;
}

#[tokio::test]
async fn nobody_is_promoted_whose_commits_nobody_would_acknowledge() {
    let mut story = Story::begin(shape()).await;
    let primary = story.primary.clone();
    let errant = story.test.after(&primary);
    story.test.write_errant(&errant).await.unwrap();
    story.test.strike(&primary, Fault::MysqldKilled).unwrap();
    let refused = story.call().await.unwrap_err();
    println!("the only other replica errant: {refused}");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&errant.to_string()), "{refused}");
    let writable: Vec<_> = story.test.aliases().into_iter().filter(|alias| *alias != primary).collect();
    for alias in writable {
        assert!(!story.test.tablet(&alias).mysqld.is_writable().await.unwrap(), "{alias} was promoted");
        // Whether it reaches the dead primary or not, its IO thread is not left stopped.
        let rows = story.test.tablet(&alias).mysqld.query("SHOW REPLICA STATUS").await.unwrap();
        let io: String = rows[0].get("Replica_IO_Running").unwrap();
        assert_ne!(io, "No", "{alias}");
    }
    story.test.heal(&primary, Fault::MysqldKilled).await.unwrap();
    story.test.rebuild(&errant).await.unwrap();
    story.settled().await;
    story.test.announce("reparent failed");
    story.end().await;
}

/// An elector dies at each of these edges while it replaces a killed primary; another one is called at once.
async fn electors_die(edge: &str) {
    let lease = Duration::from_secs(5);
    let mut story = Story::begin(shape()).await;
    for step in ["survey", "stop", "apply", "promote", "follow", "finish"] {
        let at = format!("{step}:{edge}");
        story.test.start_elector(&[("VTELECTOR_DIE_AT", &at)]).unwrap();
        story.test.elector_ready().await.unwrap();
        let old = story.primary.clone();
        story.test.strike(&old, Fault::MysqldKilled).unwrap();
        let called = Instant::now();
        story.call().await.unwrap_err();
        let died = Instant::now();
        let ended = story.test.elector().unwrap().wait(Duration::from_secs(5)).await;
        ended.unwrap_or_else(|error| panic!("{at}: {error}"));

        story.test.start_elector(&[]).unwrap();
        story.test.elector_ready().await.unwrap();
        let change = story.call_again(called).await.unwrap_or_else(|status| panic!("after {at}: {status}"));
        let took = change.answered - died;
        assert!(took < lease + Duration::from_secs(5), "after {at}: {took:?}");
        writes_on(&story.writers, &change.to).await;
        let came = story.come_back(&change, Fault::MysqldKilled).await;
        println!("elector killed at {at}: the next one was done {took:?} later, the old primary came back {came:?}");
    }
    story.test.announce("VTELECTOR_DIE_AT");
    story.test.announce("ended half-way");
    story.end().await;
}

#[tokio::test]
async fn an_elector_killed_before_any_step_is_followed_by_one_that_finishes() {
    electors_die("before").await;
}

#[tokio::test]
async fn an_elector_killed_after_any_step_is_followed_by_one_that_finishes() {
    electors_die("after").await;
}

/// Loses the primary so many times to each fault.
async fn measure(repetitions: usize) {
    for fault in [Fault::MysqldKilled, Fault::BothKilled, Fault::MysqldFrozen] {
        let mut story = Story::begin(shape()).await;
        story.test.announce("");
        let mut errant = Vec::new();
        for _ in 0..repetitions {
            let change = story.lose_primary(fault).await;
            if let Return::Errant(count) = story.come_back(&change, fault).await {
                errant.push(count);
            }
            writes_on(&story.writers, &change.to).await;
        }
        let (moves, acks) = story.end().await;
        println!(
            "{}: {repetitions} times, {} writes acknowledged, 0 lost, never two writers; old primaries back: {} clean, {} errant \
             (at most {} transactions, none acknowledged)",
            fault.name(),
            acks.len(),
            repetitions - errant.len(),
            errant.len(),
            errant.iter().max().unwrap_or(&0)
        );
        print_percentiles("write gap", moves.iter().map(|change| write_gap(&acks, change).unwrap()).collect());
        print_percentiles("call", moves.iter().map(|change| change.answered - change.called).collect());
    }
}

#[tokio::test]
#[ignore = "a measurement of some minutes: make measure-emergency"]
async fn measure_emergency() {
    let times = std::env::var("TIMES").map_or(50, |times| times.parse().expect("TIMES is a number"));
    measure(times).await;
}
