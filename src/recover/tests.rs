//! Which action is due, and why not the others.

use std::time::Duration;

use tokio::time::{Instant, advance};

use super::{
    decide::{Action, Next, Skip, Standing, Tried, decide},
    memory::{BACKOFF_MAX, Memory},
};
use crate::{
    diagnose::{Code, Ground, Problem, Remedy, Repair},
    topo::TabletAlias,
};

const PRIMARY: &str = "z1-0000000100";
const REPLICA: &str = "z1-0000000101";

fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap()
}

fn problem(code: Code, tablet: &str, remedy: Remedy) -> Problem {
    Problem { code, tablet: Some(alias(tablet)), why: "a test says so".to_owned(), remedy }
}

fn dead() -> Problem {
    problem(Code::DeadPrimary, PRIMARY, Remedy::Emergency(Ground::PrimaryDead))
}

fn stopped() -> Problem {
    problem(Code::ReplicationStopped, REPLICA, Remedy::Fix(Repair::StartReplication))
}

fn tried(problem: &Problem, times: u32, again_in: Duration) -> Standing {
    let tried = Tried { times, again_in, outcome: "refused".to_owned() };
    Standing { tried: [((problem.code, problem.tablet.clone()), tried)].into(), ..Standing::default() }
}

fn action(next: &Next) -> Option<&Action> {
    next.act.as_ref().map(|(_, action)| action)
}

#[test]
fn a_dead_primary_is_replaced_and_nothing_else_is_touched_meanwhile() {
    let next = decide(&[dead(), stopped()], &Standing::default());
    assert_eq!(action(&next), Some(&Action::Emergency(Ground::PrimaryDead)));
    assert_eq!(next.skipped, [(1, Skip::LessUrgent(Code::DeadPrimary))]);
}

#[test]
fn a_blocked_failover_leaves_the_replicas_alone_too() {
    let left = Duration::from_secs(40);
    let standing = Standing { block: Some(("two failovers within a minute".to_owned(), left)), ..Standing::default() };
    let next = decide(&[dead(), stopped()], &standing);
    assert_eq!(action(&next), None);
    assert_eq!(next.skipped[0], (0, Skip::AntiFlapping("two failovers within a minute".to_owned(), left)));
    assert_eq!(next.skipped[1], (1, Skip::LessUrgent(Code::DeadPrimary)));
    assert_eq!(next.again_in, Some(left));
}

#[test]
fn anti_flapping_never_blocks_a_repair() {
    let standing = Standing { block: Some(("floor".to_owned(), Duration::from_secs(4))), ..Standing::default() };
    assert_eq!(action(&decide(&[stopped()], &standing)), Some(&Action::Fix(alias(REPLICA), Repair::StartReplication)));
}

#[test]
fn maintenance_of_the_primary_holds_its_failover_back_and_not_the_repair_of_a_replica() {
    let standing = Standing { tablets_in_maintenance: [(alias(PRIMARY), "new disks".to_owned())].into(), ..Standing::default() };
    assert_eq!(action(&decide(&[dead()], &standing)), None);
    assert_eq!(decide(&[dead()], &standing).skipped[0].1, Skip::Maintenance("new disks".to_owned()));
    assert_eq!(action(&decide(&[stopped()], &standing)), Some(&Action::Fix(alias(REPLICA), Repair::StartReplication)));
    let whole = Standing { maintenance: Some("move".to_owned()), ..Standing::default() };
    assert_eq!(action(&decide(&[stopped()], &whole)), None);
}

#[test]
fn looking_is_allowed_where_nothing_else_is() {
    let standing = Standing {
        disabled: Some("recoveries are disabled".to_owned()),
        maintenance: Some("move".to_owned()),
        ..Standing::default()
    };
    let unsure = problem(Code::UnreachablePrimary, PRIMARY, Remedy::Reread([alias(REPLICA)].into()));
    assert_eq!(action(&decide(&[unsure], &standing)), Some(&Action::Reread([alias(REPLICA)].into())));
    assert_eq!(decide(&[dead()], &standing).skipped[0].1, Skip::Disabled("recoveries are disabled".to_owned()));
}

#[test]
fn a_workflow_that_switches_traffic_defers_a_planned_move_and_no_emergency() {
    let standing = Standing { traffic: Some("MoveTables customer.wf".to_owned()), ..Standing::default() };
    let wrong = problem(Code::WrongPrimary, PRIMARY, Remedy::Takeover { to: Some(alias(REPLICA)), then_emergency: false });
    assert_eq!(decide(std::slice::from_ref(&wrong), &standing).skipped[0].1, Skip::Traffic("MoveTables customer.wf".to_owned()));
    let free = decide(std::slice::from_ref(&wrong), &Standing::default());
    assert!(free.is_planned_move(&[wrong]), "before it is made, the workflows are looked at");
    let full = problem(Code::PrimaryDiskFull, PRIMARY, Remedy::Takeover { to: None, then_emergency: true });
    let next = decide(std::slice::from_ref(&full), &standing);
    assert!(matches!(action(&next), Some(Action::Takeover { .. })), "whose writes fail cannot wait");
    assert!(!next.is_planned_move(&[full]));
    assert_eq!(action(&decide(&[dead()], &standing)), Some(&Action::Emergency(Ground::PrimaryDead)));
}

#[test]
fn emergencies_that_vitess_forbids_are_left_and_named() {
    let standing = Standing { emergency_disabled: Some("SetVtorcEmergencyReparent".to_owned()), ..Standing::default() };
    let next = decide(&[dead()], &standing);
    assert_eq!((action(&next), next.skipped[0].1.label()), (None, "EmergencyReparentShardDisabled"));
}

#[test]
fn what_did_not_help_is_tried_again_later_and_then_by_other_means() {
    let wait = tried(&stopped(), 1, Duration::from_secs(1));
    let next = decide(&[stopped()], &wait);
    assert_eq!((action(&next), next.again_in), (None, Some(Duration::from_secs(1))));
    let again = tried(&stopped(), 1, Duration::ZERO);
    assert_eq!(action(&decide(&[stopped()], &again)), Some(&Action::Fix(alias(REPLICA), Repair::StartReplication)));
    let often = tried(&stopped(), 3, Duration::ZERO);
    assert_eq!(action(&decide(&[stopped()], &often)), Some(&Action::Fix(alias(REPLICA), Repair::Connect)));
    let read_only = problem(Code::PrimaryIsReadOnly, PRIMARY, Remedy::Fix(Repair::MakeWritable));
    let stubborn = tried(&read_only, 3, Duration::ZERO);
    let takeover = Action::Takeover { to: None, then_emergency: true };
    assert_eq!(action(&decide(&[read_only], &stubborn)), Some(&takeover));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_once_more_is_replaced_as_fast_as_the_first_time() {
    let (dead, silent, stopped) = (dead(), problem(Code::UnreachablePrimary, PRIMARY, Remedy::Report), stopped());
    let key = |problem: &Problem| (problem.code, problem.tablet.clone());
    let mut memory = Memory::default();
    for _ in 0..5 {
        let now = Instant::now();
        for _ in 0..4 {
            memory.tried(key(&silent), "looked again".to_owned(), now, BACKOFF_MAX);
        }
        memory.tried(key(&dead), "the lock was taken".to_owned(), now, BACKOFF_MAX);
        memory.moved(key(&dead), now);
        memory.tried(key(&stopped), "refused".to_owned(), now, BACKOFF_MAX);
        advance(Duration::from_secs(2)).await;
        let standing = memory.standing(Instant::now());
        assert!(!standing.contains_key(&key(&silent)));
        let again = &standing[&key(&dead)];
        assert_eq!((again.times, again.again_in), (0, Duration::ZERO));
    }
    assert_eq!(memory.standing(Instant::now())[&key(&stopped)].times, 5, "of others everything is remembered");
}

#[test]
fn one_problem_that_waits_does_not_hold_up_another_tablets() {
    let other = problem(Code::ReplicaIsWritable, "z1-0000000102", Remedy::Fix(Repair::MakeReadOnly));
    let next = decide(&[stopped(), other], &tried(&stopped(), 2, Duration::from_secs(3)));
    assert_eq!(action(&next), Some(&Action::Fix(alias("z1-0000000102"), Repair::MakeReadOnly)));
    assert_eq!(next.again_in, Some(Duration::from_secs(3)));
}

#[test]
fn witnesses_are_not_asked_twice_at_the_same_time() {
    let silent = problem(Code::UnreachablePrimary, PRIMARY, Remedy::Testify);
    assert_eq!(decide(std::slice::from_ref(&silent), &Standing::default()).skipped[0].1, Skip::Witnesses);
    let standing = Standing { may_testify: true, ..Standing::default() };
    assert_eq!(action(&decide(&[silent], &standing)), Some(&Action::Testify));
}
