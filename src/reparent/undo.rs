//! Giving up before the point of no return: everything is put back, and looked at.

use tokio::{task::JoinHandle, time::sleep};

use super::{
    Aftermath, ReparentError, Step,
    dba::START_IO,
    declared::{Declared, term},
    demote::Undo,
    journal::{Journal, Stage},
    run::{RETRY_PAUSE, Run},
};
use crate::{
    pb::topodata::Tablet,
    tablet::{Call, TabletError, TabletErrorKind},
    topo::TabletAlias,
};

/// How often an undo is tried.
const UNDO_ATTEMPTS: u32 = 3;
/// A replication thread that is stopped, in `replicationdata.Status`.
pub(super) const STOPPED: i32 = 1;

impl Run {
    /// Puts everything back because of `cause`; the error says what came of it. Nothing of the caller's time limits it.
    pub async fn give_up(&mut self, declared: &Declared, undo: Undo, journal: &Journal, cause: ReparentError) -> ReparentError {
        let Some(old) = undo.demoted.clone() else { return cause };
        self.warn(format!("{cause}; making {old} writable again"));
        if let Err(reason) = self.may_still_act(declared, &old, false).await {
            return cause.after(Aftermath::NotUndone { primary: old, reason });
        }
        if let Err(reason) = self.take_back_intent(journal, &cause).await {
            return cause.after(Aftermath::NotUndone { primary: old, reason });
        }
        // The replica first: it may be one of the ackers that the primary needs.
        let io = self.start_io(declared, undo.stopped_io, undo.nudge).await;
        let undone = self.make_writable_again(declared, &old).await;
        if let Err((replica, reason)) = &io {
            self.warn(format!(
                "the IO thread of {replica} was stopped and could not be started: {reason}; the next reparent tries again"
            ));
        }
        match undone {
            Ok(()) => {
                if io.is_ok() {
                    self.close(&journal.leaving_nothing()).await;
                }
                cause.after(Aftermath::Undone { primary: old })
            }
            Err(reason) => cause.after(Aftermath::NotUndone { primary: old, reason }),
        }
    }

    /// An intent whose answer was lost may stand in the journal, and whoever finds it goes forward: before anything is put back it must be
    /// certain that it says what is going on.
    pub async fn take_back_intent(&self, journal: &Journal, cause: &ReparentError) -> Result<(), String> {
        match cause {
            ReparentError::Intent { .. } | ReparentError::LockLost(_) => {
                let back = self.intend(Step::Demote, &journal.at(Stage::Demoting)).await;
                back.map_err(|error| format!("the journal may say that it is promoted, and could not be corrected: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Marks the journal as finished. If that fails, the next run finds by looking that nothing is left to do.
    pub async fn close(&mut self, journal: &Journal) {
        if let Err(error) = self.intend(Step::Finish, &journal.at(Stage::Finished)).await {
            self.warn(format!("the journal was not closed: {error}"));
        }
    }

    /// Whether an undo is still ours to do: under the lock, which is taken again where it was lost, and only while nobody else has
    /// changed the primary meanwhile.
    pub async fn may_still_act(&mut self, declared: &Declared, old: &TabletAlias, old_touched: bool) -> Result<(), String> {
        // An etcd that does not answer says nothing against a lease that is certain to live.
        if self.verify().await.is_ok() || self.is_locked() {
            return Ok(());
        }
        self.lock_again().await.map_err(|error| format!("the shard lock could not be taken again: {error}"))?;
        let now = Declared::read(self).await.map_err(|error| format!("the shard could not be read again: {error}"))?;
        let term_of = |declared: &Declared| declared.tablet(old).and_then(|tablet| term(tablet.primary_term_start_time.as_ref()));
        let unchanged = now.current_primary() == Some(old) && term_of(&now) == term_of(declared);
        // Pointed at the elect, it has given up its record's type, and nobody has taken it over.
        let nobody = old_touched && now.current_primary().is_none();
        if !unchanged && !nobody {
            let primary = now.current_primary().map_or_else(|| "somebody else".to_owned(), ToString::to_string);
            return Err(format!("the lock was lost, and {primary} is primary now"));
        }
        Ok(())
    }

    /// `UndoDemotePrimary` until record and server both say that it is primary. It waits behind a demotion that is still running, so
    /// it has twice the time of one.
    pub async fn make_writable_again(&mut self, declared: &Declared, old: &TabletAlias) -> Result<(), String> {
        let Some(record) = declared.tablet(old).cloned() else { return Err("it has no record".to_owned()) };
        let semi_sync = declared.semi_sync_primary(old);
        let mut reason = String::new();
        for attempt in 1..=UNDO_ATTEMPTS {
            let sent = self.hands.tablets.undo_demote_primary(&record, semi_sync, self.call(self.remote() * 2)).await;
            let failed = sent.err().map(|error| error.to_string());
            match self.look(old).await {
                Ok(look) if look.is_primary() => {
                    if semi_sync && !look.semi_sync_primary {
                        self.warn(format!(
                            "{old} is writable but does not wait for acknowledgements; look at its semi-sync settings"
                        ));
                    }
                    self.say(format!("{old} is writable again"));
                    return Ok(());
                }
                Ok(look) if !look.recorded_primary => return Err("it is not recorded as PRIMARY any more".to_owned()),
                Ok(_) => reason = failed.unwrap_or_else(|| "UndoDemotePrimary succeeded, but MySQL is read-only".to_owned()),
                Err(error) => reason = failed.unwrap_or_else(|| format!("it cannot be looked at: {error}")),
            }
            if attempt < UNDO_ATTEMPTS {
                sleep(RETRY_PAUSE).await;
            }
        }
        Err(reason)
    }

    /// Starts IO threads that a nudge may have stopped, and sees that they run.
    pub async fn start_io(
        &mut self,
        declared: &Declared,
        stopped: impl IntoIterator<Item = TabletAlias>,
        nudge: Option<(TabletAlias, JoinHandle<()>)>,
    ) -> Result<(), (TabletAlias, String)> {
        if let Some((_, nudge)) = nudge {
            // It ends with its statement, which has the limit of a short call.
            let _ended = nudge.await;
        }
        for alias in stopped {
            let Some(record) = declared.tablet(&alias) else { continue };
            self.ended(&alias).await;
            self.start_io_of(record).await.map_err(|error| (alias, error.to_string()))?;
        }
        Ok(())
    }

    pub async fn start_io_of(&self, record: &Tablet) -> Result<(), TabletError> {
        let mut last = self.io_runs(record).await;
        for _ in 0..UNDO_ATTEMPTS {
            if let Ok(true) = last {
                return Ok(());
            }
            let started = self.hands.tablets.execute_fetch_as_dba(record, START_IO, 1, self.short()).await;
            last = self.io_runs(record).await.and_then(|runs| if runs { Ok(true) } else { started.map(|_| false) });
        }
        last.map(drop)
    }

    /// Whether the IO thread is not stopped; a tablet that is no replica has none to be started.
    async fn io_runs(&self, record: &Tablet) -> Result<bool, TabletError> {
        match self.hands.tablets.replication_status(record, Call::read(self.remote())).await {
            Ok(status) => Ok(status.io_state != STOPPED),
            Err(error) if error.kind == TabletErrorKind::NotReplica => Ok(true),
            Err(error) => Err(error),
        }
    }
}
