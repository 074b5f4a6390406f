//! Metrics of several electors.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use super::{Registry, counter, gauge};

/// What several electors count.
#[derive(Clone)]
pub struct PeerMetrics {
    /// Live electors of this one's region, itself included.
    pub members: IntGauge,
    /// Shards that this elector looks after.
    pub shards_owned: IntGauge,
    /// How often the division of the shards changed.
    pub ownership_changes: IntCounter,
    quorums: IntCounterVec,
    observed: IntCounterVec,
}

impl PeerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ownership_changes = IntCounter::with_opts(Opts::new(
            "vtelector_ownership_changes_total",
            "How often the shards were divided anew among the electors of this region",
        ))?;
        registry.register(Box::new(ownership_changes.clone()))?;
        Ok(Self {
            members: gauge(
                registry,
                "vtelector_region_members",
                "Live electors that divide the shards of this region, this one included",
            )?,
            shards_owned: gauge(registry, "vtelector_shards_owned", "Shards that this elector looks after")?,
            ownership_changes,
            quorums: counter(
                registry,
                "vtelector_quorums_total",
                "Questions to the other electors whether a primary is dead, by claim and outcome: agreed, or why not",
                &["claim", "outcome"],
            )?,
            observed: counter(
                registry,
                "vtelector_observations_total",
                "Tablets probed because another elector asked, by what was found: answers, silent or not_probed",
                &["outcome"],
            )?,
        })
    }

    /// Counts one question; the labels are from bounded sets.
    pub fn quorum(&self, claim: &str, outcome: &str) {
        self.quorums.with_label_values(&[claim, outcome]).inc();
    }

    /// Counts one answer to another elector.
    pub fn observed(&self, outcome: &str) {
        self.observed.with_label_values(&[outcome]).inc();
    }
}
