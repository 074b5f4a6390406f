//! Who becomes primary in an emergency, and the proof that it is safe (pure).
//!
//! The rules are Vitess's where they are safe; safety rules 2, 4 and 5 say what is stricter here. The same evidence gives the same answer,
//! in whatever order the tablets are listed.

mod evidence;
mod verdict;

pub use evidence::{EmergencyEvidence, EmergencyWish, MysqlFacts, Reach, SeenPrimary, Testimony};
pub use verdict::{Caveat, Chosen, Complete, EmergencyRejection, NoPromotion, Proof};

/// Chooses the next primary.
pub fn elect_emergency(_evidence: &EmergencyEvidence<'_>, _wish: &EmergencyWish) -> Result<Chosen, NoPromotion> {
    todo!()
}
