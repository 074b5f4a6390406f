//! What the tablets say of themselves before anything is changed.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::{ReparentError, declared::Declared, run::Run};
use crate::{
    elect::{Candidate, Replication, Status},
    mysql::Position,
    pb::{replicationdata, topodata::Tablet},
    tablet::{Call, TabletError, TabletErrorKind, TabletManager},
    topo::TabletAlias,
};

/// Every tablet has it, so asking for it also shows that the tablet and its MySQL answer.
const BUFFER_POOL_PAGES: &str = "Innodb_buffer_pool_pages_data";
/// How long tablets that are not needed are waited for once the needed ones have answered.
pub(super) const BYSTANDER_GRACE: Duration = Duration::from_millis(500);
/// A replication thread that runs, in `replicationdata.Status`.
pub(super) const RUNNING: i32 = 3;

/// One tablet's answers.
pub(super) struct Probe {
    /// Pages in the buffer pool: it answers at all.
    pub pages: Result<u64, TabletError>,
    /// Its replication.
    pub status: Result<replicationdata::Status, TabletError>,
    /// Its executed position, asked for only where it does not replicate and nobody is primary.
    pub executed: Option<String>,
}

/// Everybody's answers. A tablet that is missing here was not waited for.
pub(super) struct Observed(pub BTreeMap<TabletAlias, Probe>);

impl Observed {
    /// Asks everybody at once. Fails when a tablet that is needed does not answer.
    pub async fn ask(run: &mut Run, declared: &Declared, positions: bool) -> Result<Self, ReparentError> {
        let call = Call::read(run.remote());
        let tablets = &*run.hands.tablets;
        let mut probes = Vec::new();
        for (alias, tablet) in &declared.tablets {
            probes.push((alias.clone(), declared.is_essential(alias), probe(tablets, tablet, positions, call).boxed()));
        }
        let observed = Self(gather(probes).await);
        for alias in declared.tablets.keys() {
            match observed.unreached(alias) {
                None => {}
                Some(Some(source)) if declared.is_essential(alias) => {
                    return Err(ReparentError::TabletUnreachable { source: source.clone() });
                }
                Some(reason) => {
                    let reason = reason.map_or_else(|| "no answer yet".to_owned(), ToString::to_string);
                    let tablet_type = declared.tablet_type(alias).as_str_name();
                    run.warn(format!("going on without {alias} ({tablet_type}): {reason}"));
                }
            }
        }
        Ok(observed)
    }

    /// `None` when the tablet answered; else why not, where that is known.
    fn unreached(&self, alias: &TabletAlias) -> Option<Option<&TabletError>> {
        match self.0.get(alias) {
            Some(probe) => probe.pages.as_ref().err().map(Some),
            None => Some(None),
        }
    }

    pub fn is_reached(&self, alias: &TabletAlias) -> bool {
        self.unreached(alias).is_none()
    }

    /// The tablets as an election sees them.
    pub fn candidates(&self, declared: &Declared) -> BTreeMap<TabletAlias, Candidate> {
        let candidate = |alias: &TabletAlias| Candidate {
            tablet_type: declared.tablet_type(alias),
            tagged: declared.member(alias).tagged,
            reached: self.is_reached(alias),
            status: self.status(alias),
            buffer_pool_pages: self.0.get(alias).and_then(|probe| probe.pages.as_ref().ok()).copied().unwrap_or(0),
        };
        declared.tablets.keys().map(|alias| (alias.clone(), candidate(alias))).collect()
    }

    fn status(&self, alias: &TabletAlias) -> Status {
        let Some(probe) = self.0.get(alias) else { return Status::Unknown("it did not answer".to_owned()) };
        let decoded = match &probe.status {
            Ok(status) => replication(status).map(Status::Replica),
            Err(error) if error.kind == TabletErrorKind::NotReplica => {
                Position::decode(probe.executed.as_deref().unwrap_or_default()).map(Status::NotReplica)
            }
            Err(error) => return Status::Unknown(error.to_string()),
        };
        decoded.unwrap_or_else(|error| Status::Unknown(error.to_string()))
    }

    /// Whether a tablet has a replication source.
    pub fn replicates(&self, alias: &TabletAlias) -> bool {
        self.0.get(alias).is_some_and(|probe| probe.status.is_ok())
    }

    /// Whether both replication threads of a tablet run and it copies from `source`.
    pub fn replicates_from(&self, alias: &TabletAlias, source: &Tablet) -> bool {
        let status = self.0.get(alias).and_then(|probe| probe.status.as_ref().ok());
        status.is_some_and(|status| {
            status.io_state == RUNNING
                && status.sql_state == RUNNING
                && status.source_host == source.mysql_hostname
                && status.source_port == source.mysql_port
        })
    }
}

/// What a replica has received, and what of it is applied.
pub(super) fn positions(status: &replicationdata::Status) -> Result<(Position, Position), crate::mysql::GtidError> {
    let executed = Position::decode(&status.position)?;
    let received = match status.relay_log_position.as_str() {
        "" => executed.clone(),
        text => Position::decode(text)?,
    };
    Ok((received, executed))
}

/// Pages in a tablet's buffer pool.
pub(super) async fn buffer_pool_pages(tablets: &dyn TabletManager, tablet: &Tablet, call: Call) -> Result<u64, TabletError> {
    let values = tablets.global_status_vars(tablet, &[BUFFER_POOL_PAGES], call).await?;
    // The count only breaks ties, so one that is no number counts as none.
    Ok(values.get(BUFFER_POOL_PAGES).and_then(|pages| pages.parse().ok()).unwrap_or(0))
}

fn replication(status: &replicationdata::Status) -> Result<Replication, crate::mysql::GtidError> {
    let (received, executed) = positions(status)?;
    let lag = (!status.replication_lag_unknown).then(|| Duration::from_secs(status.replication_lag_seconds.into()));
    Ok(Replication { received, executed, lag, backup_running: status.backup_running })
}

async fn probe(tablets: &dyn TabletManager, tablet: &Tablet, positions: bool, call: Call) -> Probe {
    let pages = buffer_pool_pages(tablets, tablet, call);
    let replication = async {
        let status = tablets.replication_status(tablet, call).await;
        let alone = matches!(&status, Err(error) if error.kind == TabletErrorKind::NotReplica);
        let executed = if positions && alone { tablets.primary_position(tablet, call).await.ok() } else { None };
        (status, executed)
    };
    let (pages, (status, executed)) = tokio::join!(pages, replication);
    Probe { pages, status, executed }
}

/// Waits for every answer that is needed, and then a moment for the others: what cannot matter is not waited for.
pub(super) async fn gather<T>(calls: Vec<(TabletAlias, bool, BoxFuture<'_, T>)>) -> BTreeMap<TabletAlias, T> {
    let mut needed = calls.iter().filter(|(_, needed, _)| *needed).count();
    let mut calls: FuturesUnordered<_> =
        calls.into_iter().map(|(alias, needed, call)| async move { (alias, needed, call.await) }).collect();
    let mut answers = BTreeMap::new();
    let mut end = None;
    loop {
        if needed == 0 {
            end.get_or_insert_with(|| Instant::now() + BYSTANDER_GRACE);
        }
        let next = match end {
            None => calls.next().await,
            Some(end) => timeout_at(end, calls.next()).await.unwrap_or(None),
        };
        let Some((alias, was_needed, answer)) = next else { return answers };
        needed -= usize::from(was_needed);
        answers.insert(alias, answer);
    }
}
