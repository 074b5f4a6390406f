//! One shard as it is declared and as it is seen, with the age of every piece of evidence. Pure.

mod channel;
mod errors;
mod status;
mod view;

pub use channel::{Channel, Failing, FailureClass};
pub use errors::{IoError, SqlError, is_disk_full, is_file_system_read_only};
pub use status::{IoState, Replication, TabletStatus};
pub use view::{Greeting, KeyspaceFacts, Link, OfflineMode, Pace, Seen, ShardFacts, ShardView, TabletView, Term};
pub(crate) use view::{newest_primary, term};
