//! The topology on stores in memory, some of which fail on demand; the clock is tokio's and stands still unless all wait.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod faulty;
mod ledger;
mod lock;
mod records;
mod watcher;
