//! Durability policies: who may be promoted, who acknowledges whom, what is proven revoked (pure).

/// A durability policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability policy {name:?} does not exist; set one of {known}")]
pub struct PolicyError {
    /// What was asked for.
    pub name: String,
    /// The policies that exist.
    pub known: String,
}
