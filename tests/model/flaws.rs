//! Ways of doing it wrong, each with the harm that the search must find.

use crate::{
    agents, finds,
    protocol::{Flaw, LOST, STRAY, Settings, WRITABLE},
};

/// One run, nobody paused: enough for the flaws of a single elector.
fn one_run(flaw: Flaw) -> Settings {
    Settings { revisions: 1, pauses: false, flaw: Some(flaw), ..agents() }
}

/// With a third replica that may stay unreached.
fn one_unreached(flaw: Flaw) -> Settings {
    Settings { tablets: 4, losses: 1, ..one_run(flaw) }
}

/// A run that is cut off, and its successor.
fn two_runs(flaw: Flaw) -> Settings {
    Settings { flaw: Some(flaw), ..agents() }
}

#[test]
fn a_stop_that_was_answered_with_ok_is_believed() {
    finds(LOST, Settings { glitches: true, ..one_run(Flaw::StopIsBelieved) });
}

/// It answered the survey, its stop did not answer, and its IO thread goes on.
#[test]
fn a_stop_that_was_not_answered_is_believed() {
    finds(LOST, one_unreached(Flaw::SilentStopIsBelieved));
}

#[test]
fn positions_are_read_before_the_threads_are_stopped() {
    finds(LOST, Settings { tablets: 4, ..one_run(Flaw::PositionsBeforeStop) });
}

#[test]
fn a_demotion_that_was_not_answered_is_believed() {
    finds(LOST, one_unreached(Flaw::DemotionIsBelieved));
}

#[test]
fn a_demotion_is_cancelled() {
    finds(LOST, Settings { agents: false, ..one_run(Flaw::DemotionIsCancelled) });
}

#[test]
fn ackers_that_were_not_reached_are_left_out() {
    finds(LOST, one_unreached(Flaw::UnreachedIgnored));
}

/// A demoted primary writes no more, but what it wrote may lie with the one who was not reached.
#[test]
fn revoked_is_taken_for_complete() {
    finds(LOST, one_unreached(Flaw::UnionIsBelieved));
}

#[test]
fn the_elect_is_promoted_before_it_has_applied() {
    finds(LOST, one_run(Flaw::NotApplied));
}

#[test]
fn the_first_that_answers_is_elected() {
    finds(LOST, Settings { tablets: 4, ..one_run(Flaw::FirstIsElected) });
}

#[test]
fn an_intent_is_written_without_looking_at_the_lock() {
    finds(LOST, two_runs(Flaw::IntentUnguarded));
}

#[test]
fn a_successor_undoes_after_the_point_of_no_return() {
    finds(LOST, two_runs(Flaw::UndoAfterPromoting));
}

#[test]
fn a_successor_starts_io_threads_after_the_point_of_no_return() {
    finds(LOST, Settings { pauses: false, ..two_runs(Flaw::RestartAfterPromoting) });
}

#[test]
fn an_intent_whose_answer_was_lost_is_undone() {
    finds(LOST, Settings { intents_lost: true, pauses: false, ..two_runs(Flaw::LostIntentIsBelieved) });
}

/// A replica whose mysqld was restarted asks the records whom to follow, and they still name the old primary.
#[test]
fn an_agent_settles_in_the_middle_of_a_promotion() {
    finds(LOST, Settings { mortal: 0b010, pauses: true, ..one_run(Flaw::SettlesDuringRun) });
}

/// Two acknowledgements: one of the two that hold a transaction throws its relay log away, the other dies.
#[test]
fn an_acker_is_pointed_elsewhere_before_it_has_applied() {
    let shard = Settings { tablets: 5, acks: 2, dead: Some(0b00110), mortal: 0b00010, ..agents() };
    finds(LOST, Settings { pauses: false, flaw: Some(Flaw::RepointsUnapplied), ..shard });
}

#[test]
fn whoever_could_not_be_told_to_follow_is_forgotten() {
    finds(STRAY, Settings { losses: 2, cut_off: false, ..one_run(Flaw::UnreachedForgotten) });
}

/// The stop that was given up comes after the start that undoes it.
#[test]
fn calls_of_one_run_to_one_tablet_overtake_each_other() {
    finds(STRAY, Settings { late: 1, cut_off: false, ..one_run(Flaw::CallsOvertake) });
}

/// An acker that had been pointed at the elect goes on following it, and nobody follows the primary.
#[test]
fn an_undo_only_starts_io_threads() {
    finds(STRAY, Settings { pauses: false, ..two_runs(Flaw::UndoOnlyStarts) });
}

/// The dead run had fenced the primary, and had not written down that it might.
#[test]
fn a_fence_is_not_in_the_journal() {
    finds(WRITABLE, Settings { pauses: false, ..two_runs(Flaw::UndoForgetsFence) });
}

/// The elect of the dead run was not reached and not promoted; another one is. Then the dead run's promotion arrives: the token says nothing
/// to a tablet that has not seen the higher one.
#[test]
fn another_is_elected_while_the_promotion_of_the_first_is_on_its_way() {
    finds(LOST, Settings { anew: true, losses: 1, ..agents() });
}
