//! Planned reparents of a real cluster: etcd, MySQL servers, agents, an elector, writers on every server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::time::Duration;

use cluster::{
    Ack, Move, SETTLE_LIMIT, TabletAlias, TestCluster, Writers, print_percentiles, second_writers, shape, write_gap, writes_on,
};
use tonic::Code;

/// Moves the primary round and round under writes, and checks everything after each move and in the end.
async fn rounds(moves: usize) -> (Vec<Move>, Vec<Ack>) {
    let (test, mut primary) = TestCluster::start(shape()).await;
    let writers = Writers::start(&test, &primary).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..moves {
        writes_on(&writers, &primary).await;
        let next = test.after(&primary);
        made.push(test.move_to(&primary, &next).await);
        primary = next;
    }
    writes_on(&writers, &primary).await;
    let acks = writers.finish().await;
    assert_eq!(second_writers(&acks, &made), []);
    test.nothing_lost(&acks).await;
    test.no_errant(&primary).await.unwrap();
    test.finish();
    (made, acks)
}

#[tokio::test]
async fn the_primary_goes_round_twice_and_nothing_is_lost() {
    let (moves, acks) = rounds(6).await;
    for change in &moves {
        let gap = write_gap(&acks, change).unwrap();
        assert!(gap < Duration::from_secs(2), "{gap:?} without writes when {} took over", change.to);
    }
}

#[tokio::test]
async fn a_dead_agent_is_named_and_nothing_changes() {
    let (mut test, primary) = TestCluster::start(shape()).await;
    let writers = Writers::start(&test, &primary).await.unwrap();
    let elect = test.after(&primary);
    test.tablet_mut(&elect).kill_agent();
    let status = test.try_move(&primary, &elect).await.unwrap_err();
    assert!(status.message().contains(&elect.to_string()), "{status}");
    assert!([Code::Unavailable, Code::FailedPrecondition].contains(&status.code()), "{status}");
    writes_on(&writers, &primary).await;
    assert_eq!(test.wrong_records(&primary).await.unwrap(), Vec::<String>::new());

    // With its agent back the same move succeeds.
    test.start_agent(&elect).unwrap();
    test.registered().await.unwrap();
    let change = test.move_to(&primary, &elect).await;
    writes_on(&writers, &elect).await;
    let acks = writers.finish().await;
    assert_eq!(second_writers(&acks, &[change]), []);
    test.nothing_lost(&acks).await;
    test.announce(elect.to_string());
    test.finish();
}

#[tokio::test]
async fn a_dead_server_is_named_and_nothing_changes() {
    let (mut test, primary) = TestCluster::start(shape()).await;
    let writers = Writers::start(&test, &primary).await.unwrap();
    let elect = test.after(&primary);
    writes_on(&writers, &primary).await;
    test.tablet_mut(&elect).mysqld.kill();
    let status = test.try_move(&primary, &elect).await.unwrap_err();
    assert!(status.message().contains(&elect.to_string()), "{status}");
    writes_on(&writers, &primary).await;
    assert_eq!(test.wrong_records(&primary).await.unwrap(), Vec::<String>::new());

    // Whether another one may take over meanwhile is the elector's choice; the dead one catches up when it is back.
    let other = test.after(&elect);
    let moved = test.try_move(&primary, &other).await;
    test.tablet_mut(&elect).mysqld.restart().unwrap();
    test.tablet_mut(&elect).mysqld.ready().await.unwrap();
    let now = if moved.is_ok() { other } else { primary };
    test.settled(&now, Duration::from_secs(60)).await.unwrap();
    writes_on(&writers, &now).await;
    let acks = writers.finish().await;
    assert_eq!(second_writers(&acks, &moved.into_iter().collect::<Vec<_>>()), []);
    test.nothing_lost(&acks).await;
    test.announce("reparent failed");
    test.announce("mysqld does not answer");
    test.announce("mysqld was restarted");
    test.finish();
}

#[tokio::test]
async fn an_elector_killed_at_any_step_is_followed_by_one_that_converges() {
    let steps = ["survey", "catch-up", "demote", "apply", "promote", "follow", "finish"];
    let lease = Duration::from_secs(4);
    let (mut test, mut primary) = TestCluster::start(cluster::Shape { lease_ttl_s: 4, ..shape() }).await;
    let writers = Writers::start(&test, &primary).await.unwrap();
    for at in steps.iter().flat_map(|step| [format!("{step}:before"), format!("{step}:after")]) {
        writes_on(&writers, &primary).await;
        let elect = test.after(&primary);
        test.start_elector(&[("VTELECTOR_DIE_AT", &at)]).unwrap();
        test.elector_ready().await.unwrap();
        test.try_move(&primary, &elect).await.unwrap_err();
        let died = tokio::time::Instant::now();
        test.elector().unwrap().wait(Duration::from_secs(5)).await.unwrap_or_else(|error| panic!("{at}: {error}"));

        test.start_elector(&[]).unwrap();
        test.elector_ready().await.unwrap();
        let change = test.try_move(&primary, &elect).await.unwrap_or_else(|status| panic!("after {at}: {status}"));
        // The lock is free after the lease at the latest; the rest is an ordinary reparent.
        assert!(change.answered - died < lease + Duration::from_secs(7), "after {at}: {:?}", change.answered - died);
        test.settled(&elect, SETTLE_LIMIT).await.unwrap_or_else(|error| panic!("after {at}: {error}"));
        test.no_errant(&elect).await.unwrap_or_else(|error| panic!("after {at}: {error}"));
        writes_on(&writers, &elect).await;
        // Whichever of the two electors did it, no other server has taken a write since the new primary's first.
        let acks = writers.acks();
        let first = acks.iter().filter(|ack| ack.server == elect.uid && ack.sent >= change.called).map(|ack| ack.acked).min();
        let second: Vec<_> = acks.iter().filter(|ack| ack.server != elect.uid && Some(ack.sent) > first).collect();
        assert!(second.is_empty(), "after {at}: {second:?}");
        primary = elect;
    }
    let acks = writers.finish().await;
    test.nothing_lost(&acks).await;
    // The fault injection says that it is on, and the next elector that it found an unfinished reparent.
    test.announce("VTELECTOR_DIE_AT");
    test.announce("ended half-way");
    // An old primary whose elector died before it pointed it at the new one does so by itself.
    test.announce("stepping down");
    test.announce("the caller has gone away");
    test.finish();
}

#[tokio::test]
#[ignore = "a measurement of some minutes: make measure-planned"]
async fn measure_planned() {
    const MOVES: usize = 100;
    let (moves, acks) = rounds(MOVES).await;
    let gaps: Vec<Duration> = moves.iter().map(|change| write_gap(&acks, change).unwrap()).collect();
    let calls: Vec<Duration> = moves.iter().map(|change| change.answered - change.called).collect();
    println!("{MOVES} planned reparents, {} writes acknowledged, 0 lost, 0 errant, never two writers, records right", acks.len());
    print_percentiles("write gap", gaps);
    print_percentiles("call", calls);
}

#[tokio::test]
#[ignore = "a measurement of a minute: make measure-rest"]
async fn measure_rest() {
    const TABLETS: u32 = 10;
    const WATCH: Duration = Duration::from_secs(60);
    let tablets = (1..=TABLETS).map(|uid| TabletAlias { cell: String::from("zone1"), uid }).collect();
    let (mut test, _) = TestCluster::start(cluster::Shape { tablets, ..shape() }).await;
    let elector = test.elector().unwrap();
    let (_, before) = elector.usage().unwrap();
    // Nothing is waited for here: time itself is what is measured over.
    tokio::time::sleep(WATCH).await;
    let (rss_bytes, after) = elector.usage().unwrap();
    let core = (after - before).as_secs_f64() / WATCH.as_secs_f64() * 100.0;
    println!("the elector at rest with {TABLETS} tablets: {:.1} MB resident, {core:.2} % of a core", rss_bytes as f64 / 1e6);
    assert!(rss_bytes < 30_000_000 && core < 1.0);
    test.finish();
}
