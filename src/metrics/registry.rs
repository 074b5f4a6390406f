//! What is exported, also before its first sample: `docs/metrics.md`, the rules and the dashboard are held against this list.

use std::sync::{Mutex, PoisonError};

use prometheus::{
    core::Collector,
    proto::{MetricFamily, MetricType},
};

/// One metric by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// As Prometheus knows it; a histogram's series bear it with `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in order of the alphabet.
    pub labels: Vec<String>,
    /// What it means.
    pub help: String,
}

/// A registry that can tell what it holds.
#[derive(Default)]
pub struct Registry {
    inner: prometheus::Registry,
    families: Mutex<Vec<Family>>,
}

impl Registry {
    /// Takes in what a collector describes. Fails where the name is taken.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        let kinds: Vec<(String, MetricType)> =
            collector.collect().iter().map(|family| (family.name().to_owned(), family.get_field_type())).collect();
        let kind_of = |name: &str| {
            // A process collector leaves out what its system cannot tell.
            kinds.iter().find(|(known, _)| known == name).map(|(_, kind)| word(*kind))
        };
        let described = collector.desc().into_iter().filter_map(|desc| {
            let mut labels: Vec<String> = desc.const_label_pairs.iter().map(|pair| pair.name().to_owned()).collect();
            labels.extend(desc.variable_labels.iter().cloned());
            labels.sort();
            Some(Family { kind: kind_of(&desc.fq_name)?, name: desc.fq_name.clone(), labels, help: desc.help.clone() })
        });
        let described: Vec<Family> = described.collect();
        self.inner.register(collector)?;
        self.families.lock().unwrap_or_else(PoisonError::into_inner).extend(described);
        Ok(())
    }

    /// Everything that is registered, by name.
    pub fn families(&self) -> Vec<Family> {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner).clone();
        families.sort();
        families
    }

    /// The samples of now.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.inner.gather()
    }
}

fn word(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}
