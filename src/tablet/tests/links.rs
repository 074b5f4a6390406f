//! Connections: kept, shared, replaced, dropped.

use std::time::Duration;

use super::fake::{Answer, FakeTablet, client, tablet_at, within_ms};
use crate::{
    pb::topodata,
    tablet::{TabletErrorKind, TabletManager},
};

#[tokio::test]
async fn calls_to_one_tablet_share_one_connection() {
    let fake = FakeTablet::start().await;
    let (client, tablet) = (client(), fake.tablet());
    let refresh = || client.refresh_state(&tablet, within_ms(5000));
    let (a, b, c) = tokio::join!(refresh(), refresh(), refresh());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    refresh().await.unwrap();
    assert_eq!((fake.received().len(), fake.connections()), (4, 1));
}

#[tokio::test]
async fn a_tablet_that_moved_is_followed() {
    let (old, new) = (FakeTablet::start().await, FakeTablet::start().await);
    let client = client();
    client.refresh_state(&old.tablet(), within_ms(5000)).await.unwrap();
    client.refresh_state(&new.tablet(), within_ms(5000)).await.unwrap();
    assert_eq!((old.received().len(), new.received().len()), (1, 1));
    assert_eq!(client.connected().len(), 1);
}

#[tokio::test]
async fn a_restart_between_two_calls_is_not_noticed() {
    let fake = FakeTablet::start().await;
    let (client, tablet, address) = (client(), fake.tablet(), fake.address.to_string());
    client.refresh_state(&tablet, within_ms(5000)).await.unwrap();
    fake.stop().await;
    let fake = FakeTablet::start_on(&address, None).await;
    client.refresh_state(&tablet, within_ms(5000)).await.unwrap();
    assert_eq!(fake.received().len(), 1);
}

#[tokio::test]
async fn a_tablet_that_comes_up_is_reached_at_the_next_call() {
    let fake = FakeTablet::start().await;
    let (client, tablet, address) = (client(), fake.tablet(), fake.address.to_string());
    fake.stop().await;
    assert_eq!(client.refresh_state(&tablet, within_ms(1000)).await.unwrap_err().kind, TabletErrorKind::Unreachable);
    let _fake = FakeTablet::start_on(&address, None).await;
    client.refresh_state(&tablet, within_ms(5000)).await.unwrap();
}

#[tokio::test]
async fn two_deadlines_missed_in_a_row_replace_the_connection() {
    let fake = FakeTablet::start().await;
    let (client, tablet) = (client(), fake.tablet());
    let silent = async || {
        fake.answer(Answer::Silence);
        assert_eq!(client.refresh_state(&tablet, within_ms(100)).await.unwrap_err().kind, TabletErrorKind::UnknownOutcome);
    };
    silent().await;
    client.refresh_state(&tablet, within_ms(5000)).await.unwrap();
    silent().await;
    assert_eq!(fake.connections(), 1, "an answer in between counts");
    silent().await;
    client.refresh_state(&tablet, within_ms(5000)).await.unwrap();
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn a_call_under_way_survives_the_replacement_of_its_connection() {
    let fake = FakeTablet::start().await;
    let (client, tablet) = (client(), fake.tablet());
    fake.answer(Answer::Silence);
    let long = client.refresh_state(&tablet, within_ms(700));
    let short = async {
        fake.has_received(1).await;
        client.retain(|_| false);
        client.refresh_state(&tablet, within_ms(300)).await.unwrap();
    };
    let (long, ()) = tokio::join!(long, short);
    let error = long.unwrap_err();
    assert!(error.message.contains("no answer in time"), "cut off by its own deadline only: {error}");
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn links_of_removed_and_of_idle_tablets_are_dropped() {
    let fake = FakeTablet::start().await;
    let client = client();
    let tablet = |uid| {
        let alias = Some(topodata::TabletAlias { cell: "zone1".to_owned(), uid });
        topodata::Tablet { alias, ..tablet_at(fake.address.port()) }
    };
    for uid in 1..=3 {
        client.refresh_state(&tablet(uid), within_ms(5000)).await.unwrap();
    }
    client.retain(|alias| alias.uid != 2);
    assert_eq!(client.connected().iter().map(|alias| alias.uid).collect::<Vec<_>>(), [1, 3]);

    let pass = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    pass(595).await;
    client.refresh_state(&tablet(3), within_ms(5000)).await.unwrap();
    pass(6).await;
    client.refresh_state(&tablet(4), within_ms(5000)).await.unwrap();
    assert_eq!(client.connected().iter().map(|alias| alias.uid).collect::<Vec<_>>(), [3, 4]);
}
