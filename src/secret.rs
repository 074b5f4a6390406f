//! What must never be shown.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A password, a token or a key: no form of printing shows it, and an error or a log that holds it holds three asterisks.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // The error of a derived string would show the value.
        match toml::Value::deserialize(from) {
            Ok(toml::Value::String(text)) => Ok(Self(text)),
            Ok(_) | Err(_) => Err(de::Error::custom("text in quotation marks is needed")),
        }
    }
}
