//! Replication positions as Vitess writes them: a flavor, a slash, and a value in the terms of that flavor.

use std::collections::BTreeMap;
use std::fmt;

use super::gtid::{GtidError, GtidSet, excerpt};

const MYSQL: &str = "MySQL56";
const MARIADB: &str = "MariaDB";
const FILE_POS: &str = "FilePos";

/// How far a server has got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Position {
    /// Not known, or there is none; the empty text. Not equal to a known empty set, though both are zero.
    #[default]
    None,
    /// What a MySQL server has; `MySQL56/` and a GTID set, which may be empty.
    Gtid(GtidSet),
    /// A position that is not a MySQL GTID set. It can be compared, but nothing can be subtracted from it.
    Other {
        /// `MariaDB` or `FilePos`.
        flavor: String,
        /// `domain-server-sequence,...` or `file:position`, as it was given.
        value: String,
    },
}

impl Position {
    /// Reads a position off the wire.
    ///
    /// # Errors
    /// A text that is neither empty nor `flavor/value`, an unknown flavor, or a malformed value.
    pub fn decode(text: &str) -> Result<Position, GtidError> {
        if text.is_empty() {
            return Ok(Position::None);
        }
        match text.split_once('/') {
            None => Err(GtidError::NoFlavor { text: excerpt(text) }),
            Some((MYSQL, value)) => Ok(Position::Gtid(value.parse()?)),
            Some((MARIADB, value)) => {
                mariadb(value).ok_or_else(|| malformed(MARIADB, value, "DOMAIN-SERVER-SEQUENCE, several with commas"))?;
                Ok(Position::Other { flavor: MARIADB.to_owned(), value: value.to_owned() })
            }
            Some((FILE_POS, value)) => {
                file_pos(value).ok_or_else(|| malformed(FILE_POS, value, "FILE:POSITION"))?;
                Ok(Position::Other { flavor: FILE_POS.to_owned(), value: value.to_owned() })
            }
            Some((flavor, _)) => Err(GtidError::UnknownFlavor { flavor: excerpt(flavor) }),
        }
    }

    /// The text for the wire, the same as it prints: empty for [`Position::None`], `MySQL56/` for a known empty set.
    pub fn encode(&self) -> String {
        self.to_string()
    }

    /// Whether a server here may stand in for one at `other`: always when `other` is none, never when only this is none.
    pub fn at_least(&self, other: &Position) -> bool {
        match (self, other) {
            (_, Position::None) => true,
            (Position::None, _) => false,
            _ => self.contains(other),
        }
    }

    /// Whether nothing of `other` is missing here. None holds nothing, so unlike [`Position::at_least`] it contains every zero position.
    ///
    /// Positions of different flavors never contain each other. MariaDB compares the sequence of each domain whoever wrote it, so
    /// two different positions may contain each other; files compare by name as text, then by position.
    pub fn contains(&self, other: &Position) -> bool {
        match (self, other) {
            (_, Position::None) => true,
            (Position::None, _) => other.is_zero(),
            (Position::Gtid(held), Position::Gtid(wanted)) => held.contains(wanted),
            (Position::Other { flavor, value: held }, Position::Other { flavor: wanted_flavor, value: wanted }) => {
                flavor == wanted_flavor && other_contains(flavor, held, wanted)
            }
            (Position::Gtid(_), Position::Other { .. }) | (Position::Other { .. }, Position::Gtid(_)) => false,
        }
    }

    /// Whether it stands for no transaction at all.
    pub fn is_zero(&self) -> bool {
        match self {
            Position::None => true,
            Position::Gtid(set) => set.is_empty(),
            Position::Other { flavor, value } if flavor == FILE_POS => file_pos(value).is_some_and(|(file, _)| file.is_empty()),
            Position::Other { value, .. } => mariadb(value).is_some_and(|domains| domains.is_empty()),
        }
    }

    /// Its GTID set, when it is a position of a MySQL server.
    pub fn gtid(&self) -> Option<&GtidSet> {
        match self {
            Position::Gtid(set) => Some(set),
            Position::None | Position::Other { .. } => None,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::None => Ok(()),
            Position::Gtid(set) => write!(f, "{MYSQL}/{set}"),
            Position::Other { flavor, value } => write!(f, "{flavor}/{value}"),
        }
    }
}

impl From<GtidSet> for Position {
    fn from(set: GtidSet) -> Self {
        Position::Gtid(set)
    }
}

/// Containment of two values of one flavor. What cannot be read proves nothing.
fn other_contains(flavor: &str, held: &str, wanted: &str) -> bool {
    match flavor {
        FILE_POS => file_pos(held).zip(file_pos(wanted)).is_some_and(|(held, wanted)| held >= wanted),
        MARIADB => mariadb(held).zip(mariadb(wanted)).is_some_and(|(held, wanted)| {
            wanted.iter().all(|(domain, sequence)| held.get(domain).is_some_and(|reached| reached >= sequence))
        }),
        _ => false,
    }
}

/// File name and position in it.
fn file_pos(value: &str) -> Option<(&str, u64)> {
    let (file, position) = value.split_once(':')?;
    Some((file, number(position)?))
}

/// The highest sequence of each domain.
fn mariadb(value: &str) -> Option<BTreeMap<u32, u64>> {
    let mut domains = BTreeMap::new();
    for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let mut parts = item.split('-');
        let (domain, server, sequence) = (parts.next()?, parts.next()?, parts.next()?);
        let domain = u32::try_from(number(domain)?).ok()?;
        u32::try_from(number(server)?).ok()?;
        if parts.next().is_some() {
            return None;
        }
        let reached = domains.entry(domain).or_insert(0);
        *reached = number(sequence)?.max(*reached);
    }
    Some(domains)
}

/// Digits only: Rust's own reader would take a plus sign as well.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

fn malformed(flavor: &'static str, value: &str, expected: &'static str) -> GtidError {
    GtidError::Value { flavor, value: excerpt(value), expected }
}

#[cfg(test)]
mod tests;
