//! Metrics of the log of events and of its receivers.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{Registry, counter, gauge};

/// What the log of events and its receivers count.
#[derive(Clone)]
pub struct EventMetrics {
    events: IntGauge,
    bytes: IntGauge,
    dropped: IntGauge,
    written: IntCounter,
    unwritten: IntCounter,
    delivered: IntCounterVec,
    failed: IntCounterVec,
    lost: IntCounterVec,
    lag: GaugeVec,
    pending: IntGaugeVec,
    file_error: IntGauge,
}

impl EventMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let single = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let lag = GaugeVec::new(
            Opts::new(
                "vtelector_webhook_lag_seconds",
                "Age of the oldest event that a receiver has yet to take, at the elector that delivers to it; 0 = it has taken all",
            ),
            &["receiver"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let pending = IntGaugeVec::new(
            Opts::new(
                "vtelector_webhook_pending_events",
                "Events that a receiver has yet to take, at the elector that delivers to it",
            ),
            &["receiver"],
        )?;
        registry.register(Box::new(pending.clone()))?;
        Ok(Self {
            events: gauge(registry, "vtelector_event_log_events", "Events in the log of all electors, as seen here")?,
            bytes: gauge(registry, "vtelector_event_log_bytes", "Their bytes in etcd")?,
            dropped: gauge(
                registry,
                "vtelector_event_log_dropped_events",
                "Events that had to leave the log before their time since it began, because there were too many",
            )?,
            written: single("vtelector_events_written_total", "Events that this elector has written into the log")?,
            unwritten: single(
                "vtelector_events_unwritten_total",
                "Events that this elector could not write into the log; problems that stay are told later",
            )?,
            delivered: counter(
                registry,
                "vtelector_webhook_delivered_total",
                "Events that a receiver has taken from this elector",
                &["receiver"],
            )?,
            failed: counter(
                registry,
                "vtelector_webhook_failed_total",
                "Deliveries that failed and are tried again, by receiver and reason: connect, timeout, reset, status_4xx, status_5xx and others",
                &["receiver", "reason"],
            )?,
            lost: counter(
                registry,
                "vtelector_webhook_lost_total",
                "Events that left the log before a receiver had taken them",
                &["receiver"],
            )?,
            lag,
            pending,
            file_error: gauge(
                registry,
                "vtelector_webhook_file_error",
                "1 while the file of webhooks cannot be taken and the old ones stay in force",
            )?,
        })
    }

    /// How large the log is.
    pub fn log_size(&self, events: usize, bytes: usize, dropped: u64) {
        self.events.set(events as i64);
        self.bytes.set(bytes as i64);
        self.dropped.set(i64::try_from(dropped).unwrap_or(i64::MAX));
    }

    /// Counts events that are in the log now.
    pub fn written(&self, count: u64) {
        self.written.inc_by(count);
    }

    /// Counts events that will not come into the log.
    pub fn unwritten(&self, count: u64) {
        self.unwritten.inc_by(count);
    }

    /// Counts an event that was taken.
    pub fn delivered(&self, receiver: &str) {
        self.delivered.with_label_values(&[receiver]).inc();
    }

    /// Counts a delivery that failed; `reason` is from a bounded set.
    pub fn failed(&self, receiver: &str, reason: &str) {
        self.failed.with_label_values(&[receiver, reason]).inc();
    }

    /// Counts events that went before they were taken.
    pub fn lost(&self, receiver: &str, count: u64) {
        self.lost.with_label_values(&[receiver]).inc_by(count);
    }

    /// What a receiver has yet to take.
    pub fn pending(&self, receiver: &str, count: u64, lag_s: f64) {
        self.pending.with_label_values(&[receiver]).set(i64::try_from(count).unwrap_or(i64::MAX));
        self.lag.with_label_values(&[receiver]).set(lag_s);
    }

    /// Another elector delivers now, or nobody.
    pub fn forget(&self, receiver: &str) {
        // Not being there is as good.
        _ = self.pending.remove_label_values(&[receiver]);
        _ = self.lag.remove_label_values(&[receiver]);
    }

    /// Whether the file of webhooks cannot be taken.
    pub fn file_error(&self, is: bool) {
        self.file_error.set(i64::from(is));
    }
}
