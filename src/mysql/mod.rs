//! What we know of MySQL itself: GTID sets and positions (pure).

pub mod gtid;
pub mod position;

pub use gtid::{GtidError, GtidSet, ServerUuid};
pub use position::Position;
