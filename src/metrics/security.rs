//! Metrics of who comes in, and of certificates.

use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::{InFlight, Registry, counter};

/// What the door counts.
#[derive(Clone)]
pub struct SecurityMetrics {
    unprotected: IntGaugeVec,
    denied: IntCounterVec,
    connections: IntGaugeVec,
    connections_refused: IntCounterVec,
    not_after: IntGaugeVec,
    file_error: IntGaugeVec,
    commands: IntCounterVec,
    commands_unrecorded: IntCounterVec,
}

impl SecurityMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, label: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        Ok(Self {
            unprotected: gauges(
                "vtelector_unprotected",
                "1 while nobody has to prove who they are, by face: grpc or http",
                "face",
            )?,
            denied: counter(
                registry,
                "vtelector_denied_total",
                "Requests that were not let in, by face and reason: unproven, forbidden, too_many",
                &["face", "reason"],
            )?,
            connections: gauges("vtelector_connections", "Connections that are open, by face", "face")?,
            connections_refused: counter(
                registry,
                "vtelector_connections_refused_total",
                "Connections that were closed at once, by face and reason: too_many, too_many_of_address, handshake",
                &["face", "reason"],
            )?,
            not_after: gauges(
                "vtelector_tls_not_after_seconds",
                "When our certificate ends, in seconds since 1970, by use: grpc, http, tablets, etcd, mysql",
                "use",
            )?,
            file_error: gauges(
                "vtelector_tls_file_error",
                "1 while a certificate or its key cannot be used and what was last good stays in force, by use",
                "use",
            )?,
            commands: counter(
                registry,
                "vtelector_commands_total",
                "Commands of persons, by call and outcome",
                &["call", "outcome"],
            )?,
            commands_unrecorded: counter(
                registry,
                "vtelector_commands_unrecorded_total",
                "Commands that the ledger does not have, because etcd did not take them; the log has them",
                &[],
            )?,
        })
    }

    /// Whether nobody has to prove who they are at that face.
    pub fn unprotected(&self, face: &str, is: bool) {
        self.unprotected.with_label_values(&[face]).set(i64::from(is));
    }

    /// Counts a request that was not let in; the reason is from a bounded set.
    pub fn denied(&self, face: &str, reason: &str) {
        self.denied.with_label_values(&[face, reason]).inc();
    }

    /// Counts a connection until the value is dropped.
    pub fn connection(&self, face: &str) -> InFlight {
        InFlight::enter(&self.connections.with_label_values(&[face]))
    }

    /// Counts a connection that was closed at once; the reason is from a bounded set.
    pub fn connection_refused(&self, face: &str, reason: &str) {
        self.connections_refused.with_label_values(&[face, reason]).inc();
    }

    /// When a certificate of ours ends; `None` = it cannot be used, and the gauge stays.
    pub fn certificate(&self, of: &str, not_after_s: Option<i64>) {
        self.file_error.with_label_values(&[of]).set(i64::from(not_after_s.is_none()));
        if let Some(at) = not_after_s {
            self.not_after.with_label_values(&[of]).set(at);
        }
    }

    /// Counts a command; both labels are from bounded sets.
    pub fn command(&self, call: &str, outcome: &str) {
        self.commands.with_label_values(&[call, outcome]).inc();
    }

    /// Counts a command that the ledger does not have.
    pub fn command_unrecorded(&self) {
        self.commands_unrecorded.with_label_values::<&str>(&[]).inc();
    }
}
