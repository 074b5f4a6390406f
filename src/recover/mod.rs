//! What is done about problems, and what is shown of it.

pub mod board;
pub mod publication;
pub mod traffic;
