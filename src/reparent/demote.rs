//! Making the old primary read-only, below a second also with real vttablets (safety rules, section 7).

use std::collections::BTreeSet;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    FailedStep, Mode, ReparentError,
    dba::{IS_SUPER_READ_ONLY, SET_SUPER_READ_ONLY},
    declared::Declared,
    look::decode,
    nudge::Nudge,
    run::Run,
};
use crate::{
    pb::{replicationdata::PrimaryStatus, topodata::Tablet},
    tablet::{Call, TabletError},
    topo::TabletAlias,
};

/// What has to be put back if the reparent is given up.
#[derive(Default)]
pub(super) struct Undo {
    /// The primary that was sent a demotion.
    pub demoted: Option<TabletAlias>,
    /// Replicas whose IO thread may be stopped.
    pub stopped_io: BTreeSet<TabletAlias>,
    /// Statements on the nudged replica that may be under way still.
    pub nudge: Option<(TabletAlias, JoinHandle<()>)>,
}

/// The pair that changes places.
pub(super) struct Pair<'a> {
    pub declared: &'a Declared,
    pub old: &'a TabletAlias,
    pub elect: &'a TabletAlias,
}

impl Pair<'_> {
    fn old_record(&self) -> Tablet {
        // The old primary comes from the same map of records; an empty record could not be called, which is an error, not a crash.
        self.declared.tablet(self.old).cloned().unwrap_or_default()
    }

    fn failed(source: TabletError) -> ReparentError {
        ReparentError::Step { step: FailedStep::Demote, source, remedy: "look at that tablet, then try again" }
    }
}

impl Run {
    /// Makes the old primary read-only; its position then. On failure `undo` says what to put back.
    pub async fn demote(
        &mut self,
        pair: &Pair<'_>,
        mode: Mode,
        nudged: Option<&TabletAlias>,
        undo: &mut Undo,
    ) -> Result<String, ReparentError> {
        undo.demoted = Some(pair.old.clone());
        match mode {
            Mode::Graceful => self.demote_gracefully(pair, nudged, undo).await,
            Mode::Abrupt => self.demote_abruptly(pair).await,
        }
    }

    /// The demotion itself, in a task that outlives us: cut off half-way, a vttablet reopens its query service with semi-sync off.
    fn send_demotion(&self, record: Tablet) -> JoinHandle<Result<PrimaryStatus, TabletError>> {
        let (tablets, call) = (self.hands.tablets.clone(), self.short());
        self.hands.tasks.spawn(async move { tablets.demote_primary(&record, false, call).await })
    }

    async fn demote_gracefully(
        &mut self,
        pair: &Pair<'_>,
        nudged: Option<&TabletAlias>,
        undo: &mut Undo,
    ) -> Result<String, ReparentError> {
        let demotion = self.send_demotion(pair.old_record());
        let answered = CancellationToken::new();
        if let Some((alias, spare)) = nudged.and_then(|alias| Some((alias, pair.declared.tablet(alias)?.clone()))) {
            undo.stopped_io.insert(alias.clone());
            let (tablets, old) = (self.hands.tablets.clone(), pair.old_record());
            let nudge = Nudge { tablets, old, spare, call: self.short(), answered: answered.clone() };
            undo.nudge = Some((alias.clone(), self.hands.tasks.spawn(nudge.run())));
        }
        let answer = self.interruptible(pair.elect, demotion).await;
        answered.cancel();
        let status = match answer? {
            Ok(answer) => answer.map_err(Pair::failed)?,
            Err(_) => return Err(ReparentError::Stopping { shard: self.shard.clone() }),
        };
        decode(pair.old, &status.position)?;
        Ok(status.position)
    }

    /// Read-only first, confirmed by reading; the demotion follows and is not waited for. That it fails later does not make the server
    /// writable again, because it finds it read-only.
    async fn demote_abruptly(&mut self, pair: &Pair<'_>) -> Result<String, ReparentError> {
        let record = pair.old_record();
        self.interruptible(pair.elect, self.dba(&record, SET_SUPER_READ_ONLY)).await?.map_err(Pair::failed)?;
        let row = self.interruptible(pair.elect, self.dba(&record, IS_SUPER_READ_ONLY)).await?.map_err(Pair::failed)?;
        if row.first().map(String::as_str) != Some("1") {
            return Err(ReparentError::AbruptRefused { reason: format!("super_read_only on {} does not stay on", pair.old) });
        }
        let position = self.hands.tablets.primary_position(&record, Call::read(self.remote())).await.map_err(Pair::failed)?;
        decode(pair.old, &position)?;
        drop(self.send_demotion(record));
        Ok(position)
    }

    /// Whether prepared transactions stand on the old primary: the abrupt mode would tear them.
    pub async fn check_abrupt(&self, declared: &Declared, old: &TabletAlias) -> Result<(), ReparentError> {
        let refused = |reason: String| ReparentError::AbruptRefused { reason };
        let Some(record) = declared.tablet(old) else { return Ok(()) };
        let sidecar = declared.sidecar.replace('`', "``");
        let sql = format!("SELECT (SELECT COUNT(*) FROM `{sidecar}`.redo_state) + (SELECT COUNT(*) FROM `{sidecar}`.dt_state)");
        match self.dba(record, &sql).await {
            Ok(row) if row.first().map(String::as_str) == Some("0") => Ok(()),
            Ok(_) => Err(refused(format!("two-phase commit is in use on {old}"))),
            // A tablet manager without these tables has no two-phase commit.
            Err(error) if error.mysql_errno().is_some_and(|mysql| matches!(mysql.errno, 1049 | 1146)) => Ok(()),
            Err(error) => Err(refused(format!("whether two-phase commit is in use cannot be read: {error}"))),
        }
    }
}
