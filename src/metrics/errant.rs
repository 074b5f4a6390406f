//! Errant GTIDs: VTOrc's names, so that dashboards and alerts keep working, and ours.

use std::{collections::BTreeSet, sync::Mutex, sync::PoisonError};

use prometheus::{IntGauge, IntGaugeVec, Opts};

use super::Registry;

/// Gauges of errant GTIDs: at most one series each for a tablet that is watched now.
pub struct ErrantMetrics {
    vtorc_count: IntGaugeVec,
    vtorc_tablets: IntGauge,
    transactions: IntGaugeVec,
    unknown: IntGaugeVec,
    errant: Mutex<BTreeSet<String>>,
}

impl ErrantMetrics {
    /// Makes and registers them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let own = ["keyspace", "shard", "tablet"];
        let vector = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            vtorc_count: vector(
                "vtorc_current_errant_gtid_count",
                "Errant GTIDs of a tablet that has any, under VTOrc's name; the series ends when they are gone",
                &["tablet_alias"],
            )?,
            vtorc_tablets: super::gauge(
                registry,
                "vtorc_errant_gtid_tablet_count",
                "Tablets with errant GTIDs, under VTOrc's name",
            )?,
            transactions: vector(
                "vtelector_errant_gtid_transactions",
                "Errant GTIDs of a tablet, as of the last look that could tell; 0 = clean",
                &own,
            )?,
            unknown: vector(
                "vtelector_errant_gtid_unknown",
                "1 while it cannot be told whether a tablet has errant GTIDs (it or its primary does not answer): the count is then an old one",
                &own,
            )?,
            errant: Mutex::default(),
        })
    }

    /// What is known of a tablet: how many, if it ever could be told, and whether that cannot be told now.
    pub fn set(&self, keyspace: &str, shard: &str, tablet: &str, count: Option<u128>, unknown: bool) {
        let labels = [keyspace, shard, tablet];
        self.unknown.with_label_values(&labels).set(unknown.into());
        if let Some(count) = count {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.transactions.with_label_values(&labels).set(count);
            self.set_vtorc(tablet, count);
        }
    }

    /// Ends the series of a tablet that is a primary, or watched no more.
    pub fn forget(&self, keyspace: &str, shard: &str, tablet: &str) {
        // There may be none, which is as good.
        let _ = self.unknown.remove_label_values(&[keyspace, shard, tablet]);
        let _ = self.transactions.remove_label_values(&[keyspace, shard, tablet]);
        self.set_vtorc(tablet, 0);
    }

    fn set_vtorc(&self, tablet: &str, count: i64) {
        let mut errant = self.errant.lock().unwrap_or_else(PoisonError::into_inner);
        if count > 0 {
            self.vtorc_count.with_label_values(&[tablet]).set(count);
            errant.insert(tablet.to_owned());
        } else if errant.remove(tablet) {
            let _ = self.vtorc_count.remove_label_values(&[tablet]);
        }
        self.vtorc_tablets.set(i64::try_from(errant.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn page(registry: &Registry) -> Vec<String> {
        let mut page = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut page).unwrap();
        String::from_utf8(page).unwrap().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn series_come_and_go_with_what_is_known() {
        let registry = Registry::default();
        let metrics = ErrantMetrics::new(&registry).unwrap();
        metrics.set("commerce", "0", "zone1-0000000101", None, true);
        let ours = r#"{keyspace="commerce",shard="0",tablet="zone1-0000000101"}"#;
        assert_eq!(
            page(&registry),
            [format!("vtelector_errant_gtid_unknown{ours} 1"), "vtorc_errant_gtid_tablet_count 0".into()]
        );
        metrics.set("commerce", "0", "zone1-0000000101", Some(3), false);
        assert_eq!(
            page(&registry),
            [
                format!("vtelector_errant_gtid_transactions{ours} 3"),
                format!("vtelector_errant_gtid_unknown{ours} 0"),
                r#"vtorc_current_errant_gtid_count{tablet_alias="zone1-0000000101"} 3"#.into(),
                "vtorc_errant_gtid_tablet_count 1".into(),
            ]
        );
        metrics.set("commerce", "0", "zone1-0000000101", Some(0), false);
        assert_eq!(
            page(&registry),
            [
                format!("vtelector_errant_gtid_transactions{ours} 0"),
                format!("vtelector_errant_gtid_unknown{ours} 0"),
                "vtorc_errant_gtid_tablet_count 0".into(),
            ]
        );
        metrics.forget("commerce", "0", "zone1-0000000101");
        assert_eq!(page(&registry), ["vtorc_errant_gtid_tablet_count 0"]);
    }
}
