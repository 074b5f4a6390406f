//! Metrics of shard locks, under VTOrc's names where it has them.

use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use super::{Registry, counter, gauge, histogram};
use crate::topo::LockEvent;

/// What happens with shard locks.
#[derive(Clone)]
pub struct LockMetrics {
    active: IntGauge,
    timings: HistogramVec,
    results: IntCounterVec,
}

impl LockMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            active: gauge(registry, "vtorc_shard_locks_active", "Shard locks that this process holds")?,
            timings: histogram(
                registry,
                "vtorc_shard_lock_timings",
                "Seconds that taking and giving back a shard lock took, by action: Lock, waiting in the queue included, or Unlock",
                &["action"],
            )?,
            results: counter(
                registry,
                "vtelector_shard_locks_total",
                "Shard locks that were asked for, by what became of it: taken, not_taken (somebody else kept it, or etcd failed), lost while held",
                &["result"],
            )?,
        };
        // From the start, so that the first one is an increase.
        ["taken", "not_taken", "lost"].iter().for_each(|result| drop(metrics.results.with_label_values(&[result])));
        Ok(metrics)
    }

    /// Counts what happened.
    pub fn event(&self, event: LockEvent) {
        let count = |result| self.results.with_label_values(&[result]).inc();
        let took = |action, took: std::time::Duration| self.timings.with_label_values(&[action]).observe(took.as_secs_f64());
        match event {
            LockEvent::Taken { waited } => {
                self.active.inc();
                took("Lock", waited);
                count("taken");
            }
            LockEvent::NotTaken { waited } => {
                took("Lock", waited);
                count("not_taken");
            }
            LockEvent::GivenBack { waited } => took("Unlock", waited),
            LockEvent::Lost => count("lost"),
            LockEvent::Ended => self.active.dec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crate::{
        metrics::Metrics,
        pb::topodata::Keyspace,
        topo::{ShardId, Topo},
    };

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn locks_are_counted_from_the_question_to_the_end() {
        let (topo, metrics) = (Topo::in_memory(), Arc::new(Metrics::new().unwrap()));
        let counted = metrics.locks.clone();
        topo.listen_to_locks(Arc::new(move |event| counted.event(event)));
        let shard = ShardId::new("commerce", "0").unwrap();
        topo.create_keyspace("commerce", &Keyspace::default()).await.unwrap();
        topo.create_shard(&shard, LIMIT).await.unwrap();
        let has = |line: &str| metrics.page().unwrap().lines().any(|found| found == line);

        let lock = topo.lock_shard(&shard, "one", LIMIT).await.unwrap();
        assert!(has("vtorc_shard_locks_active 1"));
        assert!(topo.lock_shard(&shard, "two", LIMIT).await.is_err());
        assert!(topo.try_lock_shard(&shard, "three").await.is_err());
        lock.unlock().await.unwrap();
        assert!(has("vtorc_shard_locks_active 0"));
        drop(topo.lock_shard(&shard, "dropped", LIMIT).await.unwrap());
        assert!(has("vtorc_shard_locks_active 0"));

        let lock = topo.lock_shard(&shard, "lost", LIMIT).await.unwrap();
        topo.global().delete(lock.key(), None).await.unwrap();
        assert!(lock.verify().await.is_err() && lock.unlock().await.is_err());
        for line in [
            r#"vtelector_shard_locks_total{result="taken"} 3"#,
            r#"vtelector_shard_locks_total{result="not_taken"} 2"#,
            r#"vtelector_shard_locks_total{result="lost"} 1"#,
            r#"vtorc_shard_lock_timings_count{action="Lock"} 5"#,
            r#"vtorc_shard_lock_timings_count{action="Unlock"} 2"#,
            "vtorc_shard_locks_active 0",
        ] {
            assert!(has(line), "{line} is not in {}", metrics.page().unwrap());
        }
    }
}
