//! What a dead run has left is led to its end before anything new begins: by its journal, and by looking.

use std::{collections::BTreeSet, future::Future, time::Duration};

use super::{
    ReparentError, Step,
    declared::{Declared, term},
    journal::{Journal, JournalError, Stage},
    lead::{Failed, How, Lead},
    run::Run,
};
use crate::{
    tablet::TabletError,
    topo::{ShardId, TabletAlias, Topo, TopoError},
};

/// What is to be done about a leftover (pure).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The old primary is the primary: made writable again; the elect was not touched.
    Undo,
    /// The old primary is the primary again: others may have been pointed at the elect.
    Back,
    /// The elect is primary, or shall be.
    Forward(How),
    /// Somebody else has changed the primary since.
    Stale,
}

/// The leftover in few words.
pub(super) struct Leftover<'a> {
    pub stage: Stage,
    pub elect: &'a TabletAlias,
    pub old: Option<&'a TabletAlias>,
    /// The primary by the tablets' records now.
    pub current: Option<&'a TabletAlias>,
    /// Whether the old primary's term is still the one that was to end.
    pub old_term_stands: bool,
    /// Whether the old primary accepts writes; looked at only where it matters.
    pub old_writable: bool,
    /// Whether the elect answers.
    pub elect_answers: bool,
    /// Whether the shard has had a primary.
    pub had_primary: bool,
}

pub(super) fn judge(left: &Leftover<'_>) -> Verdict {
    let old_is_current = left.current.is_some() && left.current == left.old;
    let promote = if left.had_primary { How::Promote } else { How::Init };
    match left.stage {
        Stage::Finished => Verdict::Stale,
        _ if left.current == Some(left.elect) => Verdict::Forward(How::Rewrite),
        _ if old_is_current && !left.old_term_stands => Verdict::Stale,
        Stage::Demoting if old_is_current => Verdict::Undo,
        Stage::Demoting => Verdict::Stale,
        Stage::Promoting if old_is_current && (left.old_writable || !left.elect_answers) => Verdict::Back,
        Stage::Promoting if old_is_current || left.current.is_none() => Verdict::Forward(promote),
        Stage::Promoting => Verdict::Stale,
    }
}

/// The term in a tablet's record as the journal writes it.
pub(super) fn term_ns(declared: &Declared, alias: &TabletAlias) -> Option<i64> {
    let term = declared.tablet(alias).and_then(|tablet| term(tablet.primary_term_start_time.as_ref()));
    term.map(|(seconds, nanoseconds)| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.into()))
}

/// Whether a promotion of that shard was intended and is not finished: whoever is not its elector keeps his hands off its tablets.
///
/// # Errors
/// The global topology cannot be read, or holds a journal that this version does not understand.
pub(crate) async fn promotion_under_way(topo: &Topo, ledger_root: &str, shard: &ShardId) -> Result<bool, TopoError> {
    let key = Journal::key(ledger_root, shard);
    let read = topo.global().get(&key).await;
    let entry = read.map_err(|source| TopoError::Kv { doing: "reading the reparent journal".to_owned(), source })?;
    // A journal that cannot be read may be one of a promotion.
    Ok(entry.is_some_and(|entry| Journal::decode(&entry.value).map_or(true, |journal| journal.stage == Stage::Promoting)))
}

impl Run {
    /// Leads what is left of an earlier run to its end. The primary then, if it went forward.
    pub async fn resume(&mut self, declared: &Declared, wait: Duration) -> Result<Option<TabletAlias>, ReparentError> {
        let Some(journal) = self.read_journal().await?.filter(|journal| journal.stage != Stage::Finished) else {
            return Ok(None);
        };
        let foreign = |error: JournalError| self.foreign(&error);
        let (elect, old) = (journal.elect().map_err(foreign)?, journal.old_primary().map_err(foreign)?);
        let stopped = journal.stopped_io().map_err(foreign)?;
        self.warn(format!(
            "{} by {} ended half-way ({:?}, to {elect}); leading it to its end",
            journal.action, journal.who, journal.stage
        ));
        let settled;
        let declared = if self.is_settled(declared, &journal, &elect).await {
            declared
        } else {
            // A call of the dead run may still be under way: its limit has to pass.
            tokio::time::sleep(journal.calls_end_in()).await;
            settled = Declared::read(self).await?;
            &settled
        };
        let old_is_current = old.is_some() && declared.current_primary() == old.as_ref();
        let old_look = match &old {
            Some(old) if old_is_current => Some(self.look(old).await?),
            _ => None,
        };
        let left = Leftover {
            stage: journal.stage,
            elect: &elect,
            old: old.as_ref(),
            current: declared.current_primary(),
            old_term_stands: journal.old_term_ns.is_none()
                || journal.old_term_ns == old.as_ref().and_then(|old| term_ns(declared, old)),
            old_writable: old_look.is_some_and(|look| look.writable),
            elect_answers: self.look(&elect).await.is_ok(),
            had_primary: declared.term.is_some() || old.is_some(),
        };
        let verdict = judge(&left);
        self.say(format!("what is left of it: {verdict:?}"));
        match (verdict, &old) {
            (Verdict::Forward(how), _) => {
                if let (How::Promote, Some(old)) = (how, &old) {
                    self.complete(declared, old, &elect, wait).await?;
                }
                self.lead_on(declared, &elect, how, stopped, wait, &journal).await?;
                Ok(Some(elect))
            }
            (Verdict::Back, Some(old)) => {
                let how = if old_look.is_some_and(|look| look.replicates) { How::Promote } else { How::Rewrite };
                self.lead_on(declared, old, how, stopped, wait, &journal).await?;
                Ok(None)
            }
            (Verdict::Undo, Some(old)) => {
                match journal.is_emergency() {
                    // Some of them may have been pointed at the elect.
                    true => self.point_back_all(declared, &stopped, old).await?,
                    false => self.restart_io(declared, stopped).await?,
                }
                if journal.fenced().is_ok_and(|fenced| fenced.contains(old))
                    && let Some(record) = declared.tablet(old)
                {
                    let failed = |reason| ReparentError::NotAReplica { alias: old.clone(), reason };
                    self.let_in(old, record).await.map_err(failed)?;
                }
                if !left.old_writable {
                    let failed = |reason| ReparentError::Unfit { elect: old.clone(), reason };
                    self.make_writable_again(declared, old).await.map_err(failed)?;
                }
                self.close(&journal).await;
                Ok(None)
            }
            (Verdict::Undo | Verdict::Back | Verdict::Stale, _) => {
                self.close(&journal).await;
                Ok(None)
            }
        }
    }

    pub async fn read_journal(&self) -> Result<Option<Journal>, ReparentError> {
        self.reading_journal().await
    }

    /// The same, for whoever reads something else meanwhile.
    pub fn reading_journal(&self) -> impl Future<Output = Result<Option<Journal>, ReparentError>> + Send + use<> {
        let (topo, key) = (self.hands.topo.clone(), Journal::key(&self.hands.settings.ledger_root, &self.shard));
        async move {
            let read = topo.global().get(&key).await;
            let entry = read.map_err(|source| TopoError::Kv { doing: "reading the reparent journal".to_owned(), source })?;
            let journal = entry.map(|entry| Journal::decode(&entry.value)).transpose();
            journal.map_err(|error| ReparentError::ForeignJournal { key, reason: error.to_string() })
        }
    }

    pub fn foreign(&self, error: &JournalError) -> ReparentError {
        let key = Journal::key(&self.hands.settings.ledger_root, &self.shard);
        ReparentError::ForeignJournal { key, reason: error.to_string() }
    }

    /// Whether nothing of the dead run can be under way: its longest limit has passed, or record and server of the elect agree.
    pub async fn is_settled(&self, declared: &Declared, journal: &Journal, elect: &TabletAlias) -> bool {
        journal.calls_end_in().is_zero()
            || declared.tablet(elect).is_none()
            || self.look(elect).await.is_ok_and(|look| look.agrees)
    }

    /// The elect has applied all that the demoted primary has.
    async fn complete(
        &mut self,
        declared: &Declared,
        old: &TabletAlias,
        elect: &TabletAlias,
        wait: Duration,
    ) -> Result<(), ReparentError> {
        let (Some(old_record), Some(record)) = (declared.tablet(old), declared.tablet(elect)) else { return Ok(()) };
        let position = self.position_of(old_record, super::FailedStep::PrimaryPosition).await?;
        super::look::decode(old, &position)?;
        let waited = self.hands.tablets.wait_for_position(record, &position, crate::tablet::Call::read(wait)).await;
        let remedy = "see why it applies so slowly, then try again";
        waited.map_err(|source| ReparentError::Step { step: super::FailedStep::CatchUpAfterDemotion, source, remedy })
    }

    pub async fn lead_on(
        &mut self,
        declared: &Declared,
        to: &TabletAlias,
        how: How,
        stopped: BTreeSet<TabletAlias>,
        wait: Duration,
        journal: &Journal,
    ) -> Result<(), ReparentError> {
        let intent = self.journal(Stage::Promoting, to, None);
        self.intend(Step::Promote, &intent).await?;
        let bystanders = declared.tablets.keys().filter(|alias| !declared.is_essential(alias)).cloned().collect();
        let action = "PlannedReparentShard";
        let lead = Lead { bystanders, force: stopped, ..Lead::new(declared, to, how, wait, action) };
        match self.lead(lead).await {
            Ok(()) => {}
            Err(Failed::Standing(error @ ReparentError::ReplicasFailed { .. })) => self.warn(error.to_string()),
            Err(Failed::Standing(error) | Failed::NotPromoted { error, .. }) => return Err(error),
        }
        self.wait_for_shard_record(to).await;
        self.close(journal).await;
        Ok(())
    }

    /// Points replicas at the primary again, and starts them.
    async fn point_back_all(
        &self,
        declared: &Declared,
        stopped: &BTreeSet<TabletAlias>,
        old: &TabletAlias,
    ) -> Result<(), ReparentError> {
        for alias in stopped.iter().filter(|alias| *alias != old) {
            let Some(record) = declared.tablet(alias) else { continue };
            let sent = self.point(declared, record, alias, old, self.short()).await;
            let failed = |error: TabletError| ReparentError::NotAReplica { alias: alias.clone(), reason: error.to_string() };
            sent.map_err(failed)?;
        }
        Ok(())
    }

    async fn restart_io(&mut self, declared: &Declared, stopped: BTreeSet<TabletAlias>) -> Result<(), ReparentError> {
        let failed = |(alias, reason)| ReparentError::NotAReplica { alias, reason };
        self.start_io(declared, stopped, None).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left<'a>(stage: Stage, current: Option<&'a TabletAlias>, names: &'a [TabletAlias; 3], old_writable: bool) -> Leftover<'a> {
        Leftover {
            stage,
            elect: &names[1],
            old: Some(&names[0]),
            current,
            old_term_stands: true,
            old_writable,
            elect_answers: true,
            had_primary: true,
        }
    }

    #[test]
    fn every_leftover_has_one_way_on() {
        let names: [TabletAlias; 3] = ["z1-100", "z1-101", "z1-102"].map(|name| name.parse().unwrap());
        let [old, elect, other] = &names;
        let judged = |stage, current, writable| judge(&left(stage, current, &names, writable));
        use Stage::{Demoting, Promoting};
        assert_eq!(judged(Demoting, Some(old), false), Verdict::Undo);
        assert_eq!(judged(Demoting, Some(old), true), Verdict::Undo);
        assert_eq!(judged(Demoting, Some(other), false), Verdict::Stale);
        assert_eq!(judged(Demoting, None, false), Verdict::Stale);
        assert_eq!(judged(Promoting, Some(elect), false), Verdict::Forward(How::Rewrite));
        assert_eq!(judged(Promoting, Some(old), false), Verdict::Forward(How::Promote));
        assert_eq!(judged(Promoting, None, false), Verdict::Forward(How::Promote));
        assert_eq!(judged(Promoting, Some(old), true), Verdict::Back);
        assert_eq!(judged(Promoting, Some(other), false), Verdict::Stale);
        assert_eq!(judge(&Leftover { old_term_stands: false, ..left(Promoting, Some(old), &names, false) }), Verdict::Stale);
        assert_eq!(judge(&Leftover { elect_answers: false, ..left(Promoting, Some(old), &names, false) }), Verdict::Back);
        assert_eq!(judge(&Leftover { had_primary: false, ..left(Promoting, None, &names, false) }), Verdict::Forward(How::Init));
    }
}
