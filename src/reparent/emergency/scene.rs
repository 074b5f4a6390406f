//! What is known of the shard while an emergency reparent runs: everybody's testimony, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    elect::{
        Chosen, EmergencyEvidence, EmergencyWish, MysqlFacts, NoPromotion, Reach, SeenPrimary, Testimony, check_wish,
        elect_emergency,
    },
    mysql::{GtidError, GtidSet, Position},
    pb::{
        replicationdata::{FullStatus, Status},
        topodata::{Tablet, TabletType},
    },
    reparent::{Emergency, ReparentError, declared::Declared, observed::positions, undo::STOPPED},
    tablet::{TabletError, TabletErrorKind},
    topo::TabletAlias,
};

/// What one tablet answered when it was asked what it is.
pub(super) struct Answer {
    pub full: Result<FullStatus, TabletError>,
    pub rows: Result<i32, TabletError>,
    pub pages: u64,
}

/// The shard as it is known by now.
pub(super) struct Scene {
    pub declared: Declared,
    pub tablets: BTreeMap<TabletAlias, Testimony>,
    pub wish: EmergencyWish,
    /// Tablets that refused the connection: nothing was sent.
    pub deaf: BTreeSet<TabletAlias>,
    /// Tablets whose tablet manager says that their MySQL does not answer.
    pub mysqld_down: BTreeSet<TabletAlias>,
    /// The old primary, where it was proven dead before we were called.
    dead: Option<TabletAlias>,
    /// Tablets that accept writes, by their own words.
    pub writable: BTreeSet<TabletAlias>,
    /// Replicas whose IO thread runs.
    pub receiving: BTreeSet<TabletAlias>,
    /// What the old primary said that it had, before anything was changed. Whether its settings made every commit wait for an
    /// acknowledgement it did not say, so this binds nobody; what is missing of it is reported.
    seen: Option<SeenPrimary>,
}

impl Scene {
    /// Nobody has been asked yet.
    pub fn new(declared: Declared, request: &Emergency) -> Result<Self, ReparentError> {
        let tablets = declared.tablets.iter().map(|(alias, tablet)| (alias.clone(), unasked(tablet))).collect();
        let wish = EmergencyWish {
            named: request.new_primary.clone(),
            ignored: request.ignore_replicas.clone(),
            prevent_cross_cell: request.prevent_cross_cell,
            accept_loss: request.accept_loss.clone(),
            choose_side: request.choose_side,
            allow_not_established: request.allow_not_established,
            allow_unfenced: request.allow_unfenced,
        };
        let members = declared.tablets.keys().map(|alias| (alias.clone(), declared.member(alias))).collect();
        let primary = declared.current_primary().or(declared.primary.as_ref());
        check_wish(&declared.shard, &*declared.policy, primary, &members, &wish)?;
        let dead = primary.filter(|_| request.is_dead).cloned();
        let seen = request.seen.clone().filter(|(alias, _)| Some(alias) == primary).map(|(_, seen)| seen);
        Ok(Self {
            declared,
            tablets,
            wish,
            mysqld_down: BTreeSet::new(),
            dead,
            deaf: BTreeSet::new(),
            writable: BTreeSet::new(),
            receiving: BTreeSet::new(),
            seen,
        })
    }

    /// The primary that is to be replaced: by the shard record, or by a tablet's record of a newer term.
    pub fn old_primary(&self) -> Option<&TabletAlias> {
        self.declared.current_primary().or(self.declared.primary.as_ref())
    }

    /// Everybody but the ignored ones.
    pub fn asked(&self) -> impl Iterator<Item = (&TabletAlias, &Tablet)> {
        self.declared.tablets.iter().filter(|(alias, _)| !self.wish.ignored.contains(*alias))
    }

    /// What follows from all this.
    pub fn elect(&self) -> Result<Chosen, NoPromotion> {
        self.elect_among(&self.tablets)
    }

    /// The same before anything is changed. Where a fence through MySQL itself can be tried, its success is taken for granted if nothing
    /// else does.
    pub fn forecast(&self, can_fence: bool) -> Result<Chosen, NoPromotion> {
        let refused = match self.elect() {
            Err(none) if can_fence && none.pending().is_none() => none,
            other => return other,
        };
        let mut fenced = self.tablets.clone();
        for (alias, testimony) in &mut fenced {
            let is_silent = matches!(testimony.reach, Reach::Unreached(_)) && !self.wish.ignored.contains(alias);
            if is_silent && self.acts_as_primary(alias) {
                testimony.reach = Reach::Fenced;
            }
        }
        self.elect_among(&fenced).map_err(|_| refused)
    }

    fn elect_among(&self, tablets: &BTreeMap<TabletAlias, Testimony>) -> Result<Chosen, NoPromotion> {
        let with_dangling;
        let tablets = if self.declared.dangling.is_empty() {
            tablets
        } else {
            let others =
                self.declared.dangling.keys().filter(|alias| !tablets.contains_key(*alias) && self.old_primary() != Some(*alias));
            let nobody_asked = |alias: &TabletAlias| (alias.clone(), without_record());
            with_dangling = others.map(nobody_asked).chain(tablets.clone()).collect();
            &with_dangling
        };
        let evidence = EmergencyEvidence {
            shard: &self.declared.shard,
            policy: &*self.declared.policy,
            primary: self.old_primary(),
            had_primary: self.declared.term.is_some() || self.old_primary().is_some(),
            tablets,
            unlisted_cells: &self.declared.unreadable_cells,
            seen: self.seen.as_ref(),
        };
        elect_emergency(&evidence, &self.wish)
    }

    /// Whether enough is known to go on: somebody can be elected, or somebody has to apply what it received before that can be told.
    pub fn is_enough(&self) -> bool {
        self.elect().map_or_else(|none| none.pending().is_some(), |_| true)
    }

    /// Changes what is known of a tablet.
    pub fn learn(&mut self, alias: &TabletAlias, change: impl FnOnce(&mut Testimony)) {
        if let Some(testimony) = self.tablets.get_mut(alias) {
            change(testimony);
        }
    }

    /// Takes in the answer to the first question.
    pub fn hear(&mut self, alias: &TabletAlias, answer: Answer) {
        let full = match answer.full {
            Ok(full) if full.disk_stalled => {
                self.unreached(alias, "its disk is stalled".to_owned());
                return;
            }
            Ok(full) => full,
            Err(error) => {
                if error.kind == TabletErrorKind::Unreachable {
                    self.deaf.insert(alias.clone());
                }
                if error.kind == TabletErrorKind::MysqlDown {
                    self.mysqld_down.insert(alias.clone());
                }
                self.unreached(alias, error.to_string());
                return;
            }
        };
        // MySQL shows super_read_only as ON while the statement still waits for commits; read_only comes last.
        if !full.read_only {
            self.writable.insert(alias.clone());
        }
        let Some(testimony) = self.tablets.get_mut(alias) else { return };
        testimony.journal_rows = answer.rows.map_err(|error| error.to_string());
        testimony.buffer_pool_pages = answer.pages;
        match read_full(testimony, &full) {
            Ok(()) => testimony.reach = Reach::Seen,
            Err(error) => testimony.reach = Reach::Unreached(format!("its answer cannot be understood: {error}")),
        }
        if self.old_primary() == Some(alias)
            && !self.seen.as_ref().is_some_and(|seen| seen.binding)
            && let Some(testimony) = self.tablets.get(alias).filter(|testimony| testimony.reach == Reach::Seen)
        {
            self.seen = Some(SeenPrimary { position: testimony.executed.clone(), binding: false });
        }
        if full.replication_status.is_some_and(|status| status.io_state != STOPPED) {
            self.receiving.insert(alias.clone());
        }
    }

    /// Why nothing is known of a tablet.
    pub fn unreached(&mut self, alias: &TabletAlias, reason: String) {
        self.learn(alias, |testimony| testimony.reach = Reach::Unreached(reason));
    }

    /// Whether a tablet acts as a primary, or may: it is to be demoted, not only stopped.
    pub fn acts_as_primary(&self, alias: &TabletAlias) -> bool {
        let Some(testimony) = self.tablets.get(alias) else { return false };
        match testimony.reach {
            Reach::Seen => !testimony.is_replica || self.writable.contains(alias),
            _ => testimony.tablet_type == TabletType::Primary || self.old_primary() == Some(alias),
        }
    }

    /// Whether a tablet was proven dead before we were called, and has not answered since.
    pub fn is_proven_dead(&self, alias: &TabletAlias) -> bool {
        self.dead.as_ref() == Some(alias) && !self.is_reached(alias)
    }

    /// Whether a tablet's server is certain not to answer: nothing is to be waited for there.
    pub fn is_gone(&self, alias: &TabletAlias) -> bool {
        self.is_proven_dead(alias) || self.deaf.contains(alias) || self.mysqld_down.contains(alias)
    }

    /// Whether a tablet answered when it was last asked or changed.
    pub fn is_reached(&self, alias: &TabletAlias) -> bool {
        self.tablets.get(alias).is_some_and(|testimony| !matches!(testimony.reach, Reach::Unreached(_)))
    }

    /// Whether a tablet answered its demotion.
    pub fn is_demoted(&self, alias: &TabletAlias) -> bool {
        self.tablets.get(alias).is_some_and(|testimony| testimony.reach == Reach::Demoted)
    }

    /// Whether a tablet said that it has a replication source.
    pub fn is_replica(&self, alias: &TabletAlias) -> bool {
        self.tablets.get(alias).is_some_and(|testimony| testimony.is_replica)
    }

    /// Whether the commits of a primary that lives must hang, because nobody who could acknowledge them receives anything.
    pub fn commits_hang(&self, primary: &TabletAlias) -> bool {
        let semi_sync = self.declared.semi_sync_primary(primary);
        semi_sync && !self.receiving.iter().any(|alias| self.declared.semi_sync_replica(primary, alias))
    }

    /// Replicas whose IO thread we may stop: it runs, or nobody knows.
    pub fn may_stop(&self) -> BTreeSet<TabletAlias> {
        let runs = |alias: &&TabletAlias| match self.tablets.get(*alias).map(|testimony| &testimony.reach) {
            Some(Reach::Seen) => self.receiving.contains(*alias),
            _ => !self.deaf.contains(*alias),
        };
        self.asked().map(|(alias, _)| alias).filter(runs).cloned().collect()
    }
}

/// What the record alone says.
/// A tablet whose record is gone and whose server may live: it can acknowledge, and nobody can ask it.
fn without_record() -> Testimony {
    let record = Tablet { r#type: TabletType::Replica as i32, ..Tablet::default() };
    let reason = "it has no record, and the replication graph names it; if its MySQL is stopped for certain, take it out of the graph \
                  (vtctldclient ShardReplicationFix)";
    Testimony { reach: Reach::Unreached(reason.to_owned()), ..unasked(&record) }
}

fn unasked(tablet: &Tablet) -> Testimony {
    Testimony {
        tablet_type: tablet.r#type(),
        tags: tablet.tags.clone(),
        reach: Reach::Unreached("no answer yet".to_owned()),
        is_replica: false,
        received: Position::None,
        executed: Position::None,
        source_uuid: None,
        server_uuid: None,
        journal_rows: Err("not asked".to_owned()),
        was_replicating: false,
        sql_running: false,
        sql_delay: Duration::ZERO,
        backup_running: false,
        mysql: None,
        buffer_pool_pages: 0,
        apply_failed: None,
        follow_failed: None,
        unfit: None,
    }
}

fn read_full(testimony: &mut Testimony, full: &FullStatus) -> Result<(), GtidError> {
    testimony.server_uuid = full.server_uuid.parse().ok();
    let purged = Position::decode(&full.gtid_purged)?;
    testimony.mysql = Some(MysqlFacts {
        version: version(&full.version),
        log_bin: full.log_bin_enabled,
        gtid_mode_on: full.gtid_mode.eq_ignore_ascii_case("ON"),
        purged: purged.gtid().cloned().unwrap_or_else(GtidSet::default),
    });
    match &full.replication_status {
        Some(status) => {
            testimony.was_replicating = is_replicating(status);
            read_status(testimony, status)
        }
        None => {
            testimony.is_replica = false;
            let position = full.primary_status.as_ref().map(|status| status.position.as_str()).unwrap_or_default();
            testimony.executed = Position::decode(position)?;
            testimony.received = testimony.executed.clone();
            Ok(())
        }
    }
}

/// Takes in a replica's status.
pub(super) fn read_status(testimony: &mut Testimony, status: &Status) -> Result<(), GtidError> {
    (testimony.received, testimony.executed) = positions(status)?;
    testimony.is_replica = true;
    testimony.sql_running = status.sql_state != STOPPED;
    testimony.sql_delay = Duration::from_secs(status.sql_delay.into());
    testimony.backup_running |= status.backup_running;
    testimony.source_uuid = status.source_uuid.parse().ok().or(testimony.source_uuid);
    Ok(())
}

/// Whether either replication thread runs.
pub(super) fn is_replicating(status: &Status) -> bool {
    status.io_state != STOPPED || status.sql_state != STOPPED
}

/// Whether the IO thread is certain to be stopped.
pub(super) fn is_io_stopped(status: &Status) -> bool {
    status.io_state == STOPPED
}

/// `8.4.6-log` as numbers.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut parts = text[start..].split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_as_servers_and_vttablets_write_them() {
        assert_eq!(version("9.7.4"), Some((9, 7, 4)));
        assert_eq!(version("8.4.6-log"), Some((8, 4, 6)));
        assert_eq!(version("Ver 8.0.36 for Linux on x86_64"), Some((8, 0, 36)));
        assert_eq!(version("unknown"), None);
    }
}
