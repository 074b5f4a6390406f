//! Reparents as stories, on tablets in memory that replicate, fail, hang and answer late.

mod crashes;
mod emergency;
mod failures;
mod repairs;
mod roads;
mod server;
mod tables;
mod tablets;
mod testify;
mod world;

use std::time::Duration;

use super::{Aftermath, Branch, Outcome, Planned, Promoted, ReparentError};
use crate::topo::TabletAlias;
use world::{Fault, World};

fn alias(name: &str) -> TabletAlias {
    name.parse().unwrap()
}

/// A request that names nobody.
fn away() -> Planned {
    Planned {
        new_primary: None,
        avoid_primary: None,
        expected_primary: None,
        wait_replicas_timeout: Duration::from_secs(10),
        tolerable_lag: None,
        allow_cross_cell: false,
        mode: super::Mode::Graceful,
    }
}

fn to(name: &str) -> Planned {
    Planned { new_primary: Some(alias(name)), ..away() }
}

fn promoted(outcome: &Outcome) -> &Promoted {
    outcome.result.as_ref().unwrap_or_else(|error| panic!("{error}\n{:#?}", outcome.events))
}

fn error(outcome: Outcome) -> ReparentError {
    match outcome.result {
        Ok(done) => panic!("succeeded: {done:?}"),
        Err(error) => error,
    }
}
