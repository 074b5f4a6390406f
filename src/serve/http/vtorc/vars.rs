//! `/debug/vars`: our metrics as Go's expvar prints VTOrc's. Pure.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::{Map, Value, json};

/// Names that VTOrc spells otherwise than the rule gives.
const SPELLED: [(&str, &str); 1] = [("vtorc_current_errant_gtid_count", "CurrentErrantGTIDCount")];

/// VTOrc's labels, each before those that it declares later.
const LABELS: [&str; 7] = ["recovery_type", "analysis", "tablet_alias", "keyspace", "shard", "reason", "result"];

/// Every metric by its name: VTOrc's under VTOrc's spelling. What has labels is an object, its keys the labels' values with dots between.
pub fn vars(families: &[MetricFamily]) -> BTreeMap<String, Value> {
    families.iter().map(|family| (spelled(family.name()), family_value(family))).collect()
}

fn spelled(name: &str) -> String {
    if let Some((_, spelled)) = SPELLED.iter().find(|(known, _)| *known == name) {
        return (*spelled).to_owned();
    }
    let words = name.strip_prefix("vtorc_").unwrap_or(name).split('_');
    let capital = |word: &str| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect::<String>();
    words.map(capital).collect()
}

fn family_value(family: &MetricFamily) -> Value {
    let metrics = family.get_metric();
    match family.get_field_type() {
        MetricType::HISTOGRAM => timings(metrics),
        kind => {
            let number = |metric: &Metric| match kind {
                MetricType::COUNTER => metric.get_counter().get_value(),
                _ => metric.get_gauge().get_value(),
            };
            match metrics {
                [only] if only.get_label().is_empty() => figure(number(only)),
                many => many.iter().map(|metric| (key(metric), figure(number(metric)))).collect::<Map<_, _>>().into(),
            }
        }
    }
}

/// As VTOrc's timings: counts, and times in nanoseconds.
fn timings(metrics: &[Metric]) -> Value {
    let nanoseconds = |seconds: f64| (seconds * 1e9).round() as u64;
    let one = |metric: &Metric| {
        let histogram = metric.get_histogram();
        (key(metric), json!({"Count": histogram.get_sample_count(), "Time": nanoseconds(histogram.get_sample_sum())}))
    };
    let count: u64 = metrics.iter().map(|metric| metric.get_histogram().get_sample_count()).sum();
    let time: f64 = metrics.iter().map(|metric| metric.get_histogram().get_sample_sum()).sum();
    json!({"TotalCount": count, "TotalTime": nanoseconds(time), "Histograms": metrics.iter().map(one).collect::<Map<_, _>>()})
}

/// The labels' values in the order in which VTOrc declares its labels; others follow.
fn key(metric: &Metric) -> String {
    let rank = |name: &str| LABELS.iter().position(|known| *known == name).unwrap_or(LABELS.len());
    let mut labels: Vec<_> = metric.get_label().iter().collect();
    labels.sort_by_key(|label| rank(label.name()));
    labels.into_iter().map(|label| label.value()).collect::<Vec<_>>().join(".")
}

/// Whole numbers without a point, as counters are.
fn figure(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 { json!(number as i64) } else { json!(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn metrics_have_vtorcs_spelling_and_shape() {
        let metrics = Metrics::new().unwrap();
        metrics.sense.asked(std::time::Duration::from_millis(5), false);
        metrics.errant.set("ks", "0", "zone1-0000000101", Some(3), false);
        let vars = vars(&metrics.gathered());
        assert_eq!(vars["DiscoveriesAttempt"], json!(1));
        assert_eq!(vars["CurrentErrantGTIDCount"], json!({"zone1-0000000101": 3}));
        assert_eq!(vars["DiscoveryInstanceTimings"]["Histograms"]["Instance"], json!({"Count": 1, "Time": 5_000_000}));
        assert_eq!(spelled("vtorc_errant_gtid_tablet_count"), "ErrantGtidTabletCount");
    }
}
