//! Traces of recoveries: which step of which took how long, for whoever collects them.
//!
//! The spans stand in the code of every binary and cost nothing there: nobody listens to their target. With the feature `otlp` and an
//! endpoint they go to a collector, by a thread of their own and through a queue with a bound. A collector that is away changes nothing.

#[cfg(feature = "otlp")]
mod export;

#[cfg(feature = "otlp")]
pub use export::{Failed, Traces};
use tracing::{Span, field::Empty, trace_span};

use crate::{
    reparent::Step,
    topo::{ShardId, TabletAlias},
};

/// The target of all these spans: logs leave it out, whatever their level, unless it is named.
pub const TARGET: &str = "recovery_trace";

/// A recovery, from the decision to its record.
pub fn recovery(shard: &ShardId, code: &str, action: &str, tablet: Option<&TabletAlias>) -> Span {
    trace_span!(
        target: TARGET, parent: None, "recovery", otel.name = action, keyspace = shard.keyspace, shard = shard.shard, code, action,
        tablet = tablet.map(tracing::field::display), outcome = Empty, otel.status_code = Empty, otel.status_description = Empty
    )
}

/// What the hands do about it, under the lock. A person's call is a trace of its own.
pub fn operation(shard: &ShardId, name: &str) -> Span {
    trace_span!(
        target: TARGET, "operation", otel.name = name, keyspace = shard.keyspace, shard = shard.shard, outcome = Empty,
        otel.status_code = Empty, otel.status_description = Empty
    )
}

/// Notes how it ended.
pub fn ended(span: &Span, outcome: &str, failure: Option<&dyn std::fmt::Display>) {
    if span.is_disabled() {
        return;
    }
    span.record("outcome", outcome);
    if let Some(failure) = failure {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", tracing::field::display(failure));
    }
}

/// The steps of one operation, one after the other.
#[derive(Default)]
pub struct Steps {
    operation: Option<Span>,
    open: Option<Span>,
}

impl Steps {
    /// The steps of that operation begin.
    pub fn of(operation: &Span) -> Self {
        if operation.is_disabled() {
            return Self::default();
        }
        Self { operation: Some(operation.clone()), open: None }
    }

    /// Waiting for the lock.
    pub fn lock(&mut self) -> Span {
        self.open = None;
        self.operation.as_ref().map_or_else(Span::none, |of| trace_span!(target: TARGET, parent: of, "lock", outcome = Empty))
    }

    /// A step begins; which one shows when it ends.
    pub fn begin(&mut self) {
        self.open = self.operation.as_ref().map(|of| {
            trace_span!(
                target: TARGET, parent: of, "step", otel.name = Empty, otel.status_code = Empty, otel.status_description = Empty
            )
        });
    }

    /// That step has ended, and unless it was the last one the next begins.
    pub fn ended(&mut self, step: Step) {
        if let Some(span) = self.open.take() {
            span.record("otel.name", step.name());
            drop(span);
            if step != Step::Finish {
                self.begin();
            }
        }
    }

    /// The operation has ended, well or in the middle of a step.
    pub fn all_ended(&mut self, failure: Option<&dyn std::fmt::Display>) {
        if let Some(span) = self.open.take() {
            span.record("otel.name", if failure.is_some() { "not finished" } else { "rest" });
            if let Some(failure) = failure {
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", tracing::field::display(failure));
            }
        }
    }
}

/// Where traces go: this binary was built without, so nowhere.
#[cfg(not(feature = "otlp"))]
#[derive(Debug, Default)]
pub struct Traces {}

#[cfg(not(feature = "otlp"))]
impl Traces {
    /// Nothing to wait for.
    pub async fn stop(self) {}
}
