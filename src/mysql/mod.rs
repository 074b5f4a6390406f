//! What we know of MySQL itself: connections, GTID sets and positions (the last two pure).

pub mod conn;
pub mod fence;
pub mod gtid;
pub mod position;
pub mod probe;
pub mod tls;

pub use gtid::{GtidError, GtidSet, ServerUuid};
pub use position::Position;
