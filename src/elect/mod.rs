//! Evidence in, the candidate out, with every rejected alternative and its reason (pure).

pub(crate) mod emergency;
mod planned;
mod refusal;
#[cfg(test)]
mod tests;

pub use emergency::*;
pub use planned::{Candidate, Elected, Evidence, Replication, Status, Wish, elect_planned};
pub use refusal::{NoCandidate, Rejection};
