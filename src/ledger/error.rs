//! Why something could not be written into the ledger.

use crate::topo::KvError;

/// Why something could not be written into the ledger.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// etcd failed.
    #[error("{doing}: {source}")]
    Kv {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: KvError,
    },
    /// There is no such maintenance window.
    #[error("there is no maintenance window {id:?}: it was ended, or it has expired; list them to see those that there are")]
    NoWindow {
        /// What was asked for.
        id: String,
    },
    /// Too many maintenance windows.
    #[error("there are {count} maintenance windows already, which is the most that are kept; end those that nobody needs")]
    TooManyWindows {
        /// How many.
        count: usize,
    },
}

impl LedgerError {
    pub(super) fn kv(doing: impl Into<String>) -> impl FnOnce(KvError) -> Self {
        let doing = doing.into();
        move |source| Self::Kv { doing, source }
    }
}
