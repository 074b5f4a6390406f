//! Primaries that are lost under writes while nobody is called: the elector notices, decides, acts, and converges.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

use std::time::Duration;

use cluster::{Fault, automatic, print_percentiles, story::Story, write_gap};

/// What a test on a shared machine allows; the measured figures are in the measurements.
const GAP_LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_primary_that_is_lost_is_replaced_by_itself_and_comes_back_as_a_replica() {
    let mut story = Story::begin(automatic()).await;
    for fault in [Fault::MysqldKilled, Fault::MysqldFrozen, Fault::BothKilled, Fault::MysqldKilled] {
        let change = story.see_primary_lost(fault).await;
        let came = story.come_back(&change, fault).await;
        let gap = write_gap(&story.writers.acks(), &change).unwrap();
        println!("{}: write gap {gap:?}, the old primary came back {came:?}", fault.name());
        assert!(gap < GAP_LIMIT, "{}: {gap:?}", fault.name());
    }
    story.end().await;
}

/// Loses the primary so many times to each fault.
async fn measure(repetitions: usize) {
    for fault in [Fault::MysqldKilled, Fault::BothKilled, Fault::MysqldFrozen] {
        let mut story = Story::begin(automatic()).await;
        story.test.announce("");
        for _ in 0..repetitions {
            let change = story.see_primary_lost(fault).await;
            story.come_back(&change, fault).await;
        }
        let (moves, acks) = story.end().await;
        assert_eq!(moves.len(), repetitions);
        println!("{}: {repetitions} times, {} writes acknowledged, 0 lost, never two writers", fault.name(), acks.len());
        print_percentiles("write gap", moves.iter().map(|change| write_gap(&acks, change).unwrap()).collect());
    }
}

#[tokio::test]
#[ignore = "a measurement of some minutes: make measure-failover"]
async fn measure_failover() {
    let times = std::env::var("TIMES").map_or(30, |times| times.parse().expect("TIMES is a number"));
    measure(times).await;
}
