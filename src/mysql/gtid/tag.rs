//! The tag that MySQL 8.3 and later can put between the UUID and the sequence number.

use std::fmt;

/// A tag in lower case, padded with zeros, which sort before every letter; all zeros mean "no tag".
///
/// Its order is therefore the order MySQL prints: untagged first, then tags by their bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag([u8; Tag::MAX_LEN]);

impl Tag {
    const MAX_LEN: usize = 32;
    pub(super) const NONE: Self = Self([0; Self::MAX_LEN]);

    /// Reads a letter or underscore followed by at most 31 letters, digits or underscores, of either case.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let starts_well = text.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_');
        if !starts_well || text.len() > Self::MAX_LEN || !text.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_') {
            return None;
        }
        let mut tag = Self::NONE;
        for (slot, character) in tag.0.iter_mut().zip(text) {
            *slot = character.to_ascii_lowercase();
        }
        Some(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.iter().position(|c| *c == 0).unwrap_or(Self::MAX_LEN);
        f.write_str(&String::from_utf8_lossy(&self.0[..len]))
    }
}
