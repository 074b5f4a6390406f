//! Who may come in, and what for: the same two roles at every face.

mod denial;
mod web;

use std::fmt;

pub use denial::Denial;
pub use web::{Operator, is_from_another_site, is_from_this_machine, other_site};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at everything, change nothing.
    Reader,
    /// Everything.
    Operator,
}

/// Whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The proven name; `None` where nothing was proven.
    pub name: Option<String>,
    /// What they may do.
    pub role: Role,
    /// How that was proven.
    pub proof: Proof,
    /// From where.
    pub from: String,
}

/// How somebody has proven who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By a client certificate.
    Certificate,
    /// By a static user's password.
    Password,
    /// By a bearer token.
    Token,
    /// Not at all: no proof is demanded.
    Nothing,
}

impl Caller {
    /// Somebody of whom nothing is known.
    pub fn anybody(role: Role, from: impl Into<String>) -> Self {
        Self { name: None, role, proof: Proof::Nothing, from: from.into() }
    }

    /// Whose name stands under a command: the proven one; where nothing is proven, the one that was given.
    pub fn signs<'a>(&'a self, given: &'a str) -> &'a str {
        self.name.as_deref().unwrap_or(given)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Password => "password",
            Self::Token => "token",
            Self::Nothing => "nothing",
        })
    }
}
