//! Why a GTID text was refused.

/// Characters of the offending text that an error repeats; the text itself may be megabytes long.
const EXCERPT_CHARS: usize = 80;

/// A GTID set, UUID or position that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GtidError {
    /// One item of a GTID set is malformed.
    #[error("GTID set: {part:?} at byte {byte}, in item {number} ({item:?}), {fault}")]
    Item {
        /// Which item, counted from 1 over the commas; empty items count.
        number: usize,
        /// Where the offending part starts in the whole text, counted from 0.
        byte: usize,
        /// The beginning of the item.
        item: String,
        /// The beginning of the offending part of the item.
        part: String,
        /// What is wrong with it.
        fault: GtidFault,
    },
    /// A server UUID by itself is malformed.
    #[error("{text:?} is not a server UUID: give 32 hex digits in groups of 8-4-4-4-12")]
    Uuid {
        /// The beginning of what was given.
        text: String,
    },
    /// A position without a flavor.
    #[error("position {text:?} names no flavor: give FLAVOR/VALUE, for MySQL `MySQL56/` and a GTID set")]
    NoFlavor {
        /// The beginning of what was given.
        text: String,
    },
    /// A position of a flavor that Vitess does not have.
    #[error("position flavor {flavor:?} is unknown: it is one of MySQL56, MariaDB, FilePos")]
    UnknownFlavor {
        /// The beginning of the flavor.
        flavor: String,
    },
    /// A MariaDB or file position whose value is malformed.
    #[error("{flavor} position {value:?} is malformed: give {expected}")]
    Value {
        /// Its flavor.
        flavor: &'static str,
        /// The beginning of its value.
        value: String,
        /// The form it should have.
        expected: &'static str,
    },
}

/// What is wrong with one part of a GTID set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GtidFault {
    /// Not a UUID where an item begins.
    #[error("is not a server UUID: give 32 hex digits in groups of 8-4-4-4-12")]
    BadUuid,
    /// Only a UUID.
    #[error("has no sequence numbers: give UUID:FIRST-LAST")]
    NoColon,
    /// Two colons with nothing between them.
    #[error("stands where a sequence number or a tag is missing between two colons")]
    EmptyPart,
    /// Neither an interval nor a tag.
    #[error("is neither a sequence number, nor FIRST-LAST, nor a tag of up to 32 letters, digits and underscores")]
    BadPart,
    /// Sequence numbers begin at 1.
    #[error("starts at 0: sequence numbers begin at 1")]
    ZeroStart,
    /// Beyond 2^63 - 1.
    #[error("is beyond the highest sequence number, 9223372036854775807")]
    TooLarge,
}

/// The beginning of a text, short enough for an error message.
pub(in crate::mysql) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
