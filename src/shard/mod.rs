//! One shard as it is declared and as it is seen, with the age of every piece of evidence. Pure.

mod channel;
mod status;
mod view;

pub use channel::{Channel, Failing, FailureClass};
pub use status::{IoState, Replication, TabletStatus};
pub use view::{Greeting, KeyspaceFacts, Link, Pace, Seen, ShardFacts, ShardView, TabletView, Term};
pub(crate) use view::{newest_primary, term};
