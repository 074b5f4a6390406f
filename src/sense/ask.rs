//! Questions to tablets: a bounded number at the same time, and the dead never in the way of the living.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use crate::{
    diagnose::errant::PrimaryFacts,
    mysql::{GtidError, GtidSet, Position},
    pb::{replicationdata::FullStatus, topodata::Tablet},
    tablet::{Call, TabletError, TabletManager},
    topo::TabletAlias,
};

/// Questions under way to tablets that answered last time. They take milliseconds.
const LIVING_MAX: usize = 1024;
/// Questions under way to tablets that did not answer last time: each may take its whole limit.
const DOUBTFUL_MAX: usize = 128;

/// Both spellings, of before and after MySQL 8.0.26; a server knows one of them, or none without the plugin.
const WAIT_SESSIONS: [&str; 2] = ["Rpl_semi_sync_source_wait_sessions", "Rpl_semi_sync_master_wait_sessions"];

/// Asks.
pub(super) struct Asker {
    tablets: Arc<dyn TabletManager>,
    limit: Duration,
    living: Semaphore,
    doubtful: Semaphore,
}

/// Whether a tablet is in doubt because its last answer did not come.
#[derive(Debug, Default)]
pub(super) struct Doubt(AtomicBool);

impl Asker {
    pub fn new(tablets: Arc<dyn TabletManager>, limit: Duration) -> Self {
        Self { tablets, limit, living: Semaphore::new(LIVING_MAX), doubtful: Semaphore::new(DOUBTFUL_MAX) }
    }

    /// One call, when its turn has come.
    async fn ask<T>(&self, doubt: &Doubt, call: impl Future<Output = Result<T, TabletError>> + Send) -> Result<T, TabletError> {
        let queue = if doubt.0.load(Ordering::Relaxed) { &self.doubtful } else { &self.living };
        // Fair, and each one ahead of us ends within its limit. It fails only when closed, which nobody does.
        let _turn = queue.acquire().await;
        let answer = call.await;
        doubt.0.store(answer.is_err(), Ordering::Relaxed);
        answer
    }

    pub async fn full_status(&self, doubt: &Doubt, tablet: &Tablet) -> Result<FullStatus, TabletError> {
        self.ask(doubt, self.tablets.full_status(tablet, Call::read(self.limit))).await
    }

    /// Whether commits wait for an acknowledgement there; `None` when it does not say.
    async fn commits_wait(&self, doubt: &Doubt, tablet: &Tablet) -> Option<bool> {
        let ask = self.tablets.global_status_vars(tablet, &WAIT_SESSIONS, Call::read(self.limit));
        let values = self.ask(doubt, ask).await.ok()?;
        // Without the plugin nothing waits.
        values.values().map(|sessions| sessions.parse::<u64>().ok().map(|n| n > 0)).try_fold(false, |any, one| Some(any | one?))
    }
}

/// Everything that a server has received or executed.
pub(super) fn everything(status: &FullStatus) -> Result<GtidSet, String> {
    let mut positions = Vec::new();
    if let Some(replication) = &status.replication_status {
        positions.extend([&replication.position, &replication.relay_log_position]);
    }
    if let Some(primary) = &status.primary_status {
        positions.push(&primary.position);
    }
    let mut all: Option<GtidSet> = None;
    for text in positions {
        match Position::decode(text).map_err(|error: GtidError| error.to_string())? {
            Position::None => {}
            Position::Gtid(set) => all = Some(all.map_or_else(|| set.clone(), |all| all.union(&set))),
            Position::Other { flavor, .. } => return Err(format!("it is of the flavor {flavor}")),
        }
    }
    all.ok_or_else(|| "it has none".to_owned())
}

/// The primary of one shard, read on behalf of all its replicas: whoever may use another's reading does.
#[derive(Default)]
pub(super) struct PrimaryReader {
    doubt: Doubt,
    last: Mutex<Option<Reading>>,
}

#[derive(Clone)]
struct Reading {
    started: Instant,
    of: TabletAlias,
    with_waits: bool,
    facts: Arc<Result<PrimaryFacts, String>>,
}

impl PrimaryReader {
    /// A reading that began at `earliest` or later. With `with_waits` it says whether commits wait there.
    pub async fn read(
        &self,
        asker: &Asker,
        (alias, tablet): (&TabletAlias, &Tablet),
        earliest: Instant,
        with_waits: bool,
    ) -> Arc<Result<PrimaryFacts, String>> {
        // Somebody's reading may be under way: it ends within the limits of its calls.
        let mut last = self.last.lock().await;
        if let Some(reading) = &*last
            && reading.started >= earliest
            && reading.of == *alias
            && (reading.with_waits || !with_waits)
        {
            return reading.facts.clone();
        }
        let started = Instant::now();
        // Before the status: a commit that ends in between is then in the executed set.
        let waits = if with_waits { asker.commits_wait(&self.doubt, tablet).await } else { None };
        let facts = match asker.full_status(&self.doubt, tablet).await {
            Ok(status) => facts(&status, waits),
            Err(error) => Err(error.to_string()),
        };
        let facts = Arc::new(facts);
        *last = Some(Reading { started, of: alias.clone(), with_waits, facts: facts.clone() });
        facts
    }
}

fn facts(status: &FullStatus, waits: Option<bool>) -> Result<PrimaryFacts, String> {
    let position = status.primary_status.as_ref().map(|primary| primary.position.as_str()).unwrap_or_default();
    let executed = match Position::decode(position).map_err(|error| error.to_string())? {
        Position::Gtid(set) => set,
        Position::None | Position::Other { .. } => return Err(format!("its position is no set of GTIDs: {position:?}")),
    };
    let not_acting = if status.replication_status.is_some() {
        Some("it replicates from another server")
    } else if status.read_only || status.super_read_only {
        Some("it is read-only")
    } else {
        None
    };
    let commits_wait = if status.semi_sync_blocked { Some(true) } else { waits };
    Ok(PrimaryFacts { uuid: status.server_uuid.parse().ok(), executed, not_acting, commits_wait })
}
