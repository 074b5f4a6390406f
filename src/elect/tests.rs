//! Elections as stories: a shard in a few words, a wish, and the answer with everybody's reason.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    durability::{PromotionRule, policy},
    mysql::Position,
    pb::topodata::TabletType,
    topo::{ShardId, TabletAlias},
};

fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap()
}

fn shard() -> ShardId {
    "commerce/0".parse().unwrap()
}

/// `A:1-10` with the letter standing for a server.
fn position(text: &str) -> Position {
    let text = text.replace("A:", "aaaaaaaa-0000-4000-8000-00000000000a:").replace("B:", "bbbbbbbb-0000-4000-8000-00000000000b:");
    Position::decode(&format!("MySQL56/{text}")).unwrap()
}

fn replica(received: &str) -> Candidate {
    let status = Status::Replica(Replication {
        received: position(received),
        executed: position(received),
        lag: Some(Duration::ZERO),
        backup_running: false,
    });
    Candidate { tablet_type: TabletType::Replica, tagged: None, reached: true, status, buffer_pool_pages: 0 }
}

fn primary() -> Candidate {
    Candidate {
        tablet_type: TabletType::Primary,
        tagged: None,
        reached: true,
        status: Status::NotReplica(Position::None),
        buffer_pool_pages: 0,
    }
}

fn change(mut candidate: Candidate, change: impl FnOnce(&mut Replication)) -> Candidate {
    match &mut candidate.status {
        Status::Replica(replication) => change(replication),
        other => panic!("no replica: {other:?}"),
    }
    candidate
}

type Shard = BTreeMap<TabletAlias, Candidate>;

fn tablets<const N: usize>(list: [(&str, Candidate); N]) -> Shard {
    list.into_iter().map(|(name, candidate)| (alias(name), candidate)).collect()
}

fn elect_under(policy_name: &str, tablets: &Shard, wish: &Wish) -> Result<Elected, NoCandidate> {
    let (shard, recorded) = (shard(), alias("z1-100"));
    let evidence = Evidence { shard: &shard, policy: policy(policy_name).unwrap(), recorded_primary: Some(&recorded), tablets };
    elect_planned(&evidence, wish)
}

fn elect(tablets: &Shard, wish: &Wish) -> Result<Elected, NoCandidate> {
    elect_under("none", tablets, wish)
}

fn away() -> Wish {
    Wish { avoid: Some(alias("z1-100")), ..Wish::default() }
}

fn named(name: &str) -> Wish {
    Wish { named: Some(alias(name)), ..Wish::default() }
}

#[test]
fn the_most_advanced_replica_is_elected_and_the_others_are_told_why_not() {
    let shard = tablets([
        ("z1-100", primary()),
        ("z1-101", replica("A:1-10")),
        ("z1-102", replica("A:1-5")),
        ("z1-103", replica("A:1-10")),
    ]);
    let elected = elect(&shard, &away()).unwrap();
    assert_eq!(elected.elect, alias("z1-101"));
    let reasons: Vec<_> = elected.rejected.into_iter().collect();
    assert_eq!(
        reasons,
        [(alias("z1-100"), Rejection::Avoided), (alias("z1-102"), Rejection::Behind), (alias("z1-103"), Rejection::Outranked)]
    );
}

#[test]
fn among_equals_the_one_that_executed_more_then_the_warmer_one_then_the_lower_alias() {
    let slow = change(replica("A:1-10"), |r| r.executed = position("A:1-9"));
    let warm = Candidate { buffer_pool_pages: 7, ..replica("A:1-10") };
    let mut shard = tablets([("z1-100", primary()), ("z1-101", slow), ("z1-102", replica("A:1-10"))]);
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-102"));
    shard.insert(alias("z1-103"), warm);
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-103"));
    shard.insert(alias("z1-103"), replica("A:1-10"));
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-102"));
}

#[test]
fn a_tag_orders_equals_and_forbids_even_by_name() {
    let tagged = |rule| Candidate { tagged: Some(rule), ..replica("A:1-10") };
    let shard = tablets([
        ("z1-100", primary()),
        ("z1-101", tagged(PromotionRule::MustNot)),
        ("z1-102", replica("A:1-10")),
        ("z1-103", tagged(PromotionRule::Prefer)),
    ]);
    let elected = elect(&shard, &away()).unwrap();
    assert_eq!((elected.elect, &elected.rejected[&alias("z1-101")]), (alias("z1-103"), &Rejection::TaggedMustNot));
    let error = elect(&shard, &named("z1-101")).unwrap_err();
    assert!(error.to_string().contains("z1-0000000101 must not be promoted: its tag"), "{error}");
    let rdonly = Candidate { tablet_type: TabletType::Rdonly, ..tagged(PromotionRule::Must) };
    let shard = tablets([("z1-100", primary()), ("z1-101", rdonly)]);
    assert!(matches!(elect(&shard, &named("z1-101")), Err(NoCandidate::MustNot { .. })));
}

#[test]
fn a_tablet_of_another_cell_is_elected_only_where_that_is_allowed_or_it_is_named() {
    let shard = tablets([("z1-100", primary()), ("z2-201", replica("A:1-10"))]);
    let NoCandidate::AllRejected { rejected, .. } = elect(&shard, &away()).unwrap_err() else { panic!("elected") };
    assert_eq!(rejected[&alias("z2-201")], Rejection::OtherCell { primary: "z1".to_owned() });
    assert_eq!(elect(&shard, &Wish { allow_cross_cell: true, ..away() }).unwrap().elect, alias("z2-201"));
    assert_eq!(elect(&shard, &named("z2-201")).unwrap().elect, alias("z2-201"));
}

#[test]
fn a_name_is_no_bypass() {
    let rdonly = Candidate { tablet_type: TabletType::Rdonly, ..replica("A:1-10") };
    let backup = change(replica("A:1-10"), |r| r.backup_running = true);
    let shard = tablets([("z1-100", primary()), ("z1-101", rdonly), ("z1-102", backup), ("z1-103", replica("A:1-3"))]);
    let no = |name: &str| elect(&shard, &named(name)).unwrap_err();
    assert!(matches!(no("z1-101"), NoCandidate::MustNot { tablet_type: TabletType::Rdonly, .. }));
    assert!(no("z1-102").to_string().contains("z1-0000000102: it is taking a backup"), "{}", no("z1-102"));
    assert!(matches!(no("z1-999"), NoCandidate::Unknown { .. }));
    assert_eq!(elect(&shard, &named("z1-103")).unwrap().elect, alias("z1-103"));
}

#[test]
fn a_single_candidate_is_judged_like_many() {
    let backup = change(replica("A:1-10"), |r| r.backup_running = true);
    let silent = change(replica("A:1-10"), |r| r.lag = None);
    for (candidate, reason) in [(backup, Rejection::InBackup), (silent, Rejection::LagUnknown)] {
        let shard = tablets([("z1-100", primary()), ("z1-101", candidate)]);
        let NoCandidate::AllRejected { rejected, .. } = elect(&shard, &away()).unwrap_err() else { panic!("elected") };
        assert_eq!(rejected[&alias("z1-101")], reason);
    }
}

#[test]
fn lag_counts_only_above_what_is_tolerated_and_then_for_a_named_tablet_too() {
    let lagging = change(replica("A:1-8"), |r| r.lag = Some(Duration::from_secs(230)));
    let shard = tablets([("z1-100", primary()), ("z1-101", replica("A:1-5")), ("z1-102", lagging)]);
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-102"));
    let within = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(elect(&shard, &Wish { tolerable_lag: within(230), ..away() }).unwrap().elect, alias("z1-102"));
    assert_eq!(elect(&shard, &Wish { tolerable_lag: within(229), ..away() }).unwrap().elect, alias("z1-101"));
    let error = elect(&shard, &Wish { tolerable_lag: within(10), ..named("z1-102") }).unwrap_err();
    assert!(error.to_string().contains("z1-0000000102: it lags 230 s and 10 s are tolerable"), "{error}");
}

#[test]
fn unknown_lag_is_forgiven_to_a_named_tablet_without_a_limit() {
    let silent = change(replica("A:1-10"), |r| r.lag = None);
    let shard = tablets([("z1-100", primary()), ("z1-101", silent)]);
    assert_eq!(elect(&shard, &named("z1-101")).unwrap().elect, alias("z1-101"));
    let limited = Wish { tolerable_lag: Some(Duration::from_secs(1)), ..named("z1-101") };
    assert!(matches!(elect(&shard, &limited), Err(NoCandidate::AllRejected { .. })));
}

#[test]
fn a_candidate_without_replication_comes_after_everybody_who_replicates() {
    let idle = Candidate { status: Status::NotReplica(Position::None), buffer_pool_pages: 9, ..replica("") };
    let mut shard = tablets([("z1-100", primary()), ("z1-101", idle), ("z1-102", replica("A:1-2"))]);
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-102"));
    shard.remove(&alias("z1-102"));
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-101"));
}

#[test]
fn a_candidate_that_cannot_be_judged_ends_the_election_but_a_bystander_does_not() {
    let mute = Candidate { status: Status::Unknown("no answer".to_owned()), ..replica("") };
    let mut shard = tablets([("z1-100", primary()), ("z1-101", replica("A:1-10")), ("z1-102", mute.clone())]);
    let error = elect(&shard, &away()).unwrap_err();
    assert!(matches!(&error, NoCandidate::StatusFailed { alias: a, .. } if *a == alias("z1-102")), "{error}");
    shard.insert(alias("z1-102"), Candidate { tablet_type: TabletType::Rdonly, ..mute });
    assert_eq!(elect(&shard, &away()).unwrap().elect, alias("z1-101"));
}

#[test]
fn an_elect_needs_living_ackers_under_the_policy() {
    let dead = Candidate { reached: false, status: Status::Unknown("down".to_owned()), ..replica("") };
    let dead_rdonly = Candidate { tablet_type: TabletType::Rdonly, ..dead };
    let shard = tablets([("z1-100", primary()), ("z1-101", replica("A:1-10")), ("z2-201", dead_rdonly)]);
    let error = elect_under("cross_cell_with_rdonly_ack", &shard, &named("z1-101")).unwrap_err();
    assert!(matches!(error, NoCandidate::NoProgress(_)), "{error}");
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    let elected = elect_under("semi_sync", &shard, &named("z1-101")).unwrap();
    assert_eq!(elected.established.ackers, [alias("z1-100")].into());
}

#[test]
fn a_recorded_primary_is_elected_only_by_name() {
    let shard = tablets([("z1-100", primary()), ("z1-101", primary())]);
    let NoCandidate::AllRejected { rejected, .. } = elect(&shard, &away()).unwrap_err() else { panic!("elected") };
    assert_eq!(rejected[&alias("z1-101")], Rejection::RecordedPrimary);
    assert_eq!(elect(&shard, &named("z1-100")).unwrap().elect, alias("z1-100"));
}

proptest! {
    /// Sets that overlap in every way: no order among the candidates may decide, and nobody may be ahead of the elected one
    /// unless somebody is ahead of that one as well.
    #[test]
    fn whoever_is_elected_has_the_fewest_ahead_of_it(ends in prop::collection::vec((1u32..6, 0u32..4), 2..6)) {
        let mut shard = tablets([("z1-100", primary())]);
        for (n, (a, b)) in ends.iter().enumerate() {
            let received = if *b == 0 { format!("A:1-{a}") } else { format!("A:1-{a},B:1-{b}") };
            shard.insert(alias(&format!("z1-{}", 101 + n)), replica(&received));
        }
        let elected = elect(&shard, &away()).unwrap().elect;
        let ahead_of = |name: &TabletAlias| {
            let (a, b) = ends[name.uid as usize - 101];
            ends.iter().filter(|(x, y)| *x >= a && *y >= b && (*x, *y) != (a, b)).count()
        };
        let fewest = shard.keys().filter(|name| name.uid > 100).map(ahead_of).min().unwrap();
        prop_assert_eq!(ahead_of(&elected), fewest);
    }
}
