//! Who may come in, and what for: the same two roles at every face.

mod denial;
mod lock;
mod methods;
mod proofs;
mod rate;
mod web;

use std::{fmt, net::SocketAddr, sync::Arc};

pub use denial::Denial;
pub use lock::{Door, Entrance};
pub use methods::{is_open, role_for};
pub use rate::{Rate, party};
pub use web::{Operator, is_from_another_site, is_open_path, other_site};

use crate::tls::Subject;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at everything, change nothing.
    Reader,
    /// Everything.
    Operator,
}

/// Where a connection comes from, and what its other end has proven by a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom the certificate is for that an authority of ours has signed; `None` = it gave none, or was not asked.
    pub certificate: Option<Arc<Subject>>,
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

    /// Refuses readers what only operators may do.
    pub fn commands(&self, what: &str) -> Result<(), Denial> {
        match (self.role, self.proof) {
            (Role::Operator, _) => Ok(()),
            (Role::Reader, Proof::Nothing) => Err(Denial::elsewhere()),
            (Role::Reader, _) => Err(Denial::reader(what)),
        }
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
