//! The client against real sockets.

mod calls;
pub(crate) mod fake;
mod faults;
mod links;
mod tls;
