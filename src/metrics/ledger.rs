//! What all electors remember together, as far as this one can read it.

use prometheus::IntGauge;

use super::{Registry, gauge};
use crate::ledger::LedgerState;

/// Whether the ledger can be read and written, and what it forbids.
#[derive(Clone)]
pub struct LedgerMetrics {
    unreadable: IntGauge,
    unwritten: IntGauge,
    garbage: IntGauge,
    disabled: IntGauge,
}

impl LedgerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            unreadable: gauge(
                registry,
                "vtelector_ledger_unreadable",
                "1 while the ledger cannot be read, which is etcd's trouble: what was last read holds",
            )?,
            unwritten: gauge(
                registry,
                "vtelector_ledger_unwritten",
                "Recoveries that etcd has not taken yet: the other electors do not count them",
            )?,
            garbage: gauge(registry, "vtelector_ledger_garbage", "Keys of the ledger whose value means nothing here")?,
            disabled: gauge(
                registry,
                "vtelector_recoveries_disabled",
                "1 while a person has switched recoveries off for all electors: problems are only reported",
            )?,
        })
    }

    /// Takes over what is known of it now.
    pub fn follow(&self, state: &LedgerState) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.unreadable.set(state.unread().is_some().into());
        self.unwritten.set(number(state.unwritten_count()));
        self.garbage.set(number(state.garbage().len()));
        self.disabled.set(state.recoveries_disabled().is_some().into());
    }
}
