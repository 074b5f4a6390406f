//! The observed world: what tablets say of themselves, again and again.

mod ask;
mod declared;
mod errant;
#[cfg(test)]
mod tests;

pub use declared::Watched;
pub use errant::{ErrantFilter, ErrantSettings, ErrantVerdict, ErrantWatch, TabletReport};
