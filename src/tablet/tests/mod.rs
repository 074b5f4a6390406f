//! The client against real sockets.

mod calls;
mod fake;
mod faults;
mod links;
mod tls;
