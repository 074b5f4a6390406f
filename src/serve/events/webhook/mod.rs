//! Receivers to whom events are brought. At least once, in order, by one elector at a time: whoever holds a leased key in etcd delivers, and
//! writes down beside it what was taken. A receiver that does not take an event is asked again, for as long as the log has it; it costs the
//! others nothing, and keeps nothing in memory but a page of events.

mod courier;
mod desk;
mod file;
mod post;
pub mod sign;
mod template;

pub use crate::secret::Secret;
pub use courier::{Courier, LEASE};
pub use desk::Desk;
pub use file::{FileError, RECEIVERS_MAX, Receiver, read};
pub use post::{ANSWERS_WITHIN, Failure, HttpPost, Message, Post, Posts};
pub use template::{Template, line, pagerduty, slack};
