//! The shipped code in a simulated world: servers that replicate, tablet managers of both kinds, clients, a network and a topology that
//! fail as ordered, on a virtual clock, in one thread, by a seed.
//!
//! **Under test** is what ships: the hands (and with them the topology's locks, the election, the journal), called through the traits that
//! production implements over gRPC and etcd. **Simulated** are MySQL (`mysqld`, `flow`), the tablet managers (`remote`, `actions`, `guard`,
//! `settle`), the store's wire (`store`) and the network (`net`). `check` watches what must always hold.
//!
//! `SEEDS=n` plays n seeds for each pair of faults instead of one; a failure prints its diary and the command that plays it again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(
    clippy::disallowed_methods,
    reason = "a simulated process goes on when nobody waits for it; all end with the test's runtime"
)]

mod actions;
mod check;
mod clients;
mod diary;
mod electors;
mod faults;
mod flow;
mod gtid;
mod guard;
mod hands;
mod manager;
mod mysqld;
mod net;
mod pairs;
mod person;
mod receivers;
mod record;
mod remote;
mod scenario;
mod settle;
mod statements;
mod status;
mod store;
mod stories;
mod world;

use faults::Fault;

/// Which seeds a test plays: `SEED` alone, or as many as `SEEDS` says.
fn seeds(usual: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SEED") {
        Some(one) => vec![one],
        None => (1..=number("SEEDS").unwrap_or(usual)).collect(),
    }
}

/// Whether `PAIR` leaves this pair in.
fn wanted(first: Fault, second: impl std::fmt::Debug) -> bool {
    std::env::var("PAIR").map_or(true, |pair| pair == format!("{first:?},{second:?}"))
}
