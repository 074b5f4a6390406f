//! The protocol as it is, with agents: nothing is lost, whatever happens.

use crate::{agents, holds, protocol::Settings};

#[test]
fn whatever_a_paused_elector_sends_after_its_lease() {
    holds(Settings { intents_lost: true, ..agents() });
}

#[test]
fn a_second_reparent_after_the_first() {
    holds(Settings { again: true, ..agents() });
}

#[test]
fn a_call_that_arrives_at_any_later_time() {
    holds(Settings { late: 1, cut_off: false, ..agents() });
}

#[test]
fn a_primary_that_freezes_and_thaws() {
    holds(Settings { freezes: true, cut_off: false, pauses: false, ..agents() });
    holds(Settings { freezes: true, cut_off: false, revisions: 1, ..agents() });
}

#[test]
fn a_primary_that_dies_and_returns() {
    holds(Settings { mortal: 0b001, cut_off: false, pauses: false, ..agents() });
    holds(Settings { mortal: 0b001, cut_off: false, revisions: 1, ..agents() });
}

#[test]
fn a_replica_that_dies_and_returns() {
    holds(Settings { mortal: 0b010, cut_off: false, pauses: false, ..agents() });
    holds(Settings { mortal: 0b010, revisions: 1, ..agents() });
}

#[test]
fn io_threads_that_lose_their_connection_and_find_it_again() {
    holds(Settings { glitches: true, pauses: false, ..agents() });
}

#[test]
fn a_third_replica_that_is_not_reached() {
    holds(Settings { tablets: 4, losses: 1, revisions: 1, ..agents() });
}

#[test]
fn two_ackers() {
    holds(Settings { tablets: 4, acks: 2, losses: 1, revisions: 1, ..agents() });
}

/// The policy `none`: nothing is promised of transactions, and there is still one writer.
#[test]
fn no_ackers() {
    holds(Settings { acks: 0, freezes: true, cut_off: false, pauses: false, ..agents() });
    holds(Settings { acks: 0, mortal: 0b001, cut_off: false, revisions: 1, ..agents() });
}

/// With the lock checked where the promotion is recorded, a successor may elect anew, and nothing of a dead run can come after it.
#[test]
fn a_successor_that_begins_anew() {
    holds(Settings { anew: true, guarded: true, losses: 1, cut_off: false, ..agents() });
}
