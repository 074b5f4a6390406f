//! The protocol with vttablets: safe while no elector acts after its lease, and the windows that remain.

use crate::{
    agents, finds, holds,
    protocol::{Flaw, LOST, STRAY, Settings, TWO, WRITABLE},
};

/// Nobody acts after his lease: between check and call no time passes, and whoever resumes has waited for the dead run's longest deadline.
/// Clients come through the query service.
fn vttablets() -> Settings {
    Settings { agents: false, pauses: false, direct_clients: false, ..agents() }
}

#[test]
fn safe_while_nobody_acts_after_his_lease() {
    holds(Settings { intents_lost: true, ..vttablets() });
    holds(Settings { again: true, ..vttablets() });
    holds(Settings { anew: true, losses: 1, ..vttablets() });
    holds(Settings { freezes: true, cut_off: false, ..vttablets() });
    holds(Settings { mortal: 0b001, cut_off: false, ..vttablets() });
}

/// The window that remains: no token, and an elector that is paused between its check and its call for longer than its lease.
#[test]
fn window_an_elector_pauses_between_check_and_call() {
    finds(LOST, Settings { pauses: true, ..vttablets() });
    finds(TWO, Settings { pauses: true, acks: 0, cut_off: false, ..vttablets() });
}

/// The same without a pause of ours: the network keeps the call.
#[test]
fn window_a_call_arrives_after_the_lease() {
    finds(STRAY, Settings { late: 1, ..vttablets() });
}

/// Clients that are connected to mysqld itself: Vitess's forced demotion ends hanging commits by switching semi-sync off.
#[test]
fn window_direct_clients_of_a_primary_whose_demotion_finds_hanging_commits() {
    finds(LOST, Settings { direct_clients: true, revisions: 1, ..vttablets() });
}

/// vttablet starts replication when its process is restarted, without asking for the lock.
#[test]
fn window_a_replicas_vttablet_is_restarted_during_the_run() {
    finds(LOST, Settings { flaw: Some(Flaw::VttabletRestarts), revisions: 1, ..vttablets() });
}

/// A demoted primary is read-only after a restart of mysqld only if its my.cnf says so; an acker that was not reached still follows it.
#[test]
fn window_a_demoted_primary_restarts_writable() {
    let settings = Settings { tablets: 4, losses: 1, mortal: 0b0001, cut_off: false, revisions: 1, ..vttablets() };
    finds(LOST, Settings { flaw: Some(Flaw::ReturnsWritable), ..settings });
}

/// The fence that waits for a frozen mysqld comes after the undo: a primary that nobody can reach, and nobody's duty to open.
#[test]
fn an_undo_does_not_wait_for_the_fence() {
    finds(WRITABLE, Settings { flaw: Some(Flaw::UndoBeforeFence), freezes: true, cut_off: false, ..vttablets() });
}
