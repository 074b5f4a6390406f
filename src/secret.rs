//! What must never be shown.

use std::fmt;

/// A password, a token or a key: no form of printing shows it, and an error or a log that holds it holds three asterisks.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
