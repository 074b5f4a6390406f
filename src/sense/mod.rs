//! The observed world: what tablets say of themselves, again and again, and at once when something happens.

mod bucket;
mod declared;
mod decode;
mod errant;
mod observed;
mod offline;
mod pace;
mod positions;
mod primary;
mod rhythm;
mod seen;
mod senses;
mod shard;
#[cfg(test)]
mod tests;
mod track;
mod world;

pub use declared::Watched;
pub use errant::{ErrantFilter, ErrantVerdict, TabletReport};
pub use senses::{Recovering, SenseSettings, Senses};
