//! A model of the emergency reparent: every order of events in a small shard, searched for one that loses an acknowledged transaction,
//! makes a second writer, or leaves an IO thread stopped. `docs/proof.md` is the argument in words; this is its machine.
//!
//! **In it**: one shard with its old primary (tablet 0) and two to four replicas; two electors; the shard lock with its lease and
//! revision; the journal; mysqld that dies, freezes, thaws and returns; IO threads that connect, disconnect and are stopped; clients whose
//! commits hang or are acknowledged; semi-sync with no, one or two acknowledgements. Agents compare lock revisions, vttablets do not. A call
//! is answered, lost, or arrives when nobody waits for it any more; an elector is paused anywhere, loses its lock and goes on.
//!
//! **Not in it**: etcd (its transactions are atomic here), the survey and its refusals (they read), intermediate sources, errant GTIDs other
//! than the old primary's own, clocks, cells, record contents. A replica receives a write when it is written or when it connects, and all
//! that its source has; clients are told at once when they may be: both are the harder case for what is asked. Replicas are stopped and
//! pointed in one fixed order. A step and its answer are one, except where the story is about the difference.
//!
//! `safe` and `vttablets` search every reachable state, and must also have *seen* a promotion, an undo and a resume. `flaws` does one thing
//! wrong in each test and must find what comes of it: a model that finds nothing wrong with these proves nothing about the others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod elector;
mod flaws;
mod protocol;
mod safe;
mod vttablets;
mod world;

use std::collections::BTreeSet;

use protocol::{Action, Expects, Settings, Shard};
use stateright::{Checker, HasDiscoveries, Model};

/// As many as the machines that run this have cores.
const THREADS: usize = 2;

/// The old primary cut off from the electors, two replicas, agents on all three; electors that pause anywhere.
fn agents() -> Settings {
    Settings {
        tablets: 3,
        acks: 1,
        agents: true,
        writes: 1,
        revisions: 2,
        again: false,
        anew: false,
        guarded: false,
        pauses: true,
        late: 0,
        cut_off: true,
        losses: 0,
        freezes: false,
        mortal: 0,
        dead: None,
        direct_clients: true,
        glitches: false,
        intents_lost: false,
        flaw: None,
        expects: Expects::Safe,
    }
}

/// Searches every state that can be reached: all that must always hold does, and all that is to be seen is seen.
fn holds(settings: Settings) {
    let searched = settings.checker().threads(THREADS).spawn_bfs().join();
    searched.assert_properties();
    println!("holds in all {} states, up to {} steps", searched.unique_state_count(), searched.max_depth());
}

/// Searches for the shortest story in which that does not hold.
fn finds(harm: &'static str, settings: Settings) {
    let settings = Settings { expects: Expects::Harm, ..settings };
    let found = HasDiscoveries::AnyOf(BTreeSet::from([harm]));
    let searched = settings.checker().threads(THREADS).finish_when(found).spawn_bfs().join();
    let story = searched.assert_any_discovery(harm).into_vec();
    let story: Vec<_> = story.iter().filter_map(|(shard, action)| action.map(|action| tell(shard, action))).collect();
    println!("{} states; not so: {harm}:\n  {}", searched.unique_state_count(), story.join("\n  "));
}

/// One line of a story.
fn tell(shard: &Shard, action: Action) -> String {
    match action {
        Action::Acts(by, ending) => format!("elector {by}: {:?}, {ending:?}", shard.electors[usize::from(by)].step),
        Action::ArrivesLate => format!("arrives late: {:?}", shard.late),
        other => format!("{other:?}"),
    }
}
