//! One watched shard: what is declared, what is seen, and who wants to know.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch, time::Instant};

use super::{
    declared::{DeclaredShard, Gaps},
    errant::{ErrantFilter, Place, PrimaryAnswer, TabletReport, judge_all},
    observed::{Effect, Observed},
    seen::Seen,
};
use crate::{
    diagnose::errant::{DeclaredPrimary, Unknown},
    elect::SeenPrimary,
    metrics::Metrics,
    pb::{replicationdata::FullStatus, topodata::Tablet},
    shard::{Greeting, KeyspaceFacts, ShardFacts, ShardView},
    tablet::TabletError,
    topo::{ShardId, TabletAlias},
};

/// Everybody is asked at once at most that often: answers take milliseconds, and what happens in between is in the next ones.
pub(super) const EMERGENCY_INTERVAL: Duration = Duration::from_millis(100);

/// A watched shard.
pub(super) struct Shard {
    pub id: ShardId,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

struct State {
    record: Option<ShardFacts>,
    keyspace: KeyspaceFacts,
    gaps: Arc<Gaps>,
    primary: Result<Arc<DeclaredPrimary>, Unknown>,
    /// When another primary than before was seen to be declared.
    primary_changed: Option<Instant>,
    tablets: BTreeMap<TabletAlias, Observed>,
    /// Whether the lists of tablets can be complete: every cell was read, or could not be.
    listed: bool,
    looked: bool,
    seen: Seen,
    emergency: Emergency,
}

/// Asking everybody at once.
#[derive(Default)]
struct Emergency {
    planned: bool,
    last: Option<Instant>,
}

/// One question to a tablet, with what was declared when it was asked.
pub(super) struct Question {
    pub record: Arc<Tablet>,
    under: Result<Arc<DeclaredPrimary>, Unknown>,
    /// Whether the primary has to say first whether commits wait there.
    pub with_waits: bool,
}

/// A tablet and its record.
type Named = (TabletAlias, Arc<Tablet>);

impl Shard {
    pub fn new(id: ShardId, metrics: Arc<Metrics>, declared: DeclaredShard, gaps: Arc<Gaps>, listed: bool) -> Self {
        let state = State {
            record: None,
            keyspace: declared.keyspace.clone(),
            gaps: Arc::default(),
            primary: Err(Unknown::NotYet),
            primary_changed: None,
            tablets: BTreeMap::new(),
            listed: false,
            looked: false,
            seen: Seen::default(),
            emergency: Emergency::default(),
        };
        let shard = Self { id, metrics, state: Mutex::new(state), news: watch::Sender::new(0) };
        shard.declare(declared, gaps, listed);
        shard
    }

    /// Takes in what is declared now. `listed` says whether every cell was read or could not be. Answers whether another tablet is the primary
    /// than before.
    pub fn declare(&self, declared: DeclaredShard, gaps: Arc<Gaps>, listed: bool) -> bool {
        let primary = match &gaps.global {
            // Somebody else may be primary by now.
            Some(reason) => Err(Unknown::Topology(reason.clone())),
            None => declared.primary(),
        };
        let mut state = self.lock();
        let mut news = state.record != declared.record || !same_facts(&state.keyspace, &declared.keyspace) || state.gaps != gaps;
        let same_primary = state.primary.as_deref().ok() == primary.as_ref().ok();
        let is_another = matches!((&state.primary, &primary), (Ok(before), Ok(now)) if before.alias != now.alias);
        if is_another {
            let now = Instant::now();
            state.primary_changed = Some(now);
            state.tablets.values_mut().for_each(|tablet| tablet.offline.soon(now));
        }
        if !same_primary || state.primary.is_err() {
            state.primary = primary.map(Arc::new);
            if let Ok(primary) = state.primary.clone() {
                state.seen.begin(&primary.alias);
            }
        }
        let metrics = &self.metrics;
        state.tablets.retain(|alias, tablet| {
            let stays = declared.tablets.contains_key(alias);
            if !stays {
                tablet.errant.end(Place { shard: &self.id, alias, metrics });
                news = true;
            }
            stays
        });
        for (alias, record) in declared.tablets {
            match state.tablets.get_mut(&alias) {
                Some(tablet) if Arc::ptr_eq(&tablet.record, &record) => continue,
                // What was seen at another address is not seen of this one.
                Some(tablet) if tablet.is_at(&record) => tablet.record = record,
                Some(tablet) => {
                    tablet.errant.end(Place { shard: &self.id, alias: &alias, metrics });
                    *tablet = Observed::new(record);
                }
                None => drop(state.tablets.insert(alias, Observed::new(record))),
            }
            news = true;
        }
        (state.record, state.keyspace, state.gaps) = (declared.record, declared.keyspace, gaps);
        state.listed |= listed;
        news |= state.first_look();
        drop(state);
        self.tell(Effect { news, ..Effect::default() });
        is_another
    }

    /// The shard is watched no more.
    pub fn end(&self) {
        for (alias, tablet) in &self.lock().tablets {
            tablet.errant.end(Place { shard: &self.id, alias, metrics: &self.metrics });
        }
    }

    /// Prepares a question; `None` when the tablet is not of this shard any more.
    pub fn question(&self, alias: &TabletAlias) -> Option<Question> {
        let state = self.lock();
        let tablet = state.tablets.get(alias)?;
        let with_waits = state.is_primary(alias) && state.tablets.values().any(|tablet| tablet.errant.is_suspected());
        Some(Question { record: tablet.record.clone(), under: state.primary.clone(), with_waits })
    }

    /// `FullStatus` was answered, or not; `waits` says whether commits wait there. Says whether everybody has to be asked.
    pub fn answered(
        &self,
        alias: &TabletAlias,
        question: &Question,
        sent: Instant,
        (answer, waits): (Result<FullStatus, TabletError>, Option<bool>),
    ) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let is_primary = state.is_primary(alias);
        let Some(tablet) = state.tablets.get_mut(alias).filter(|tablet| tablet.is_at(&question.record)) else { return false };
        let place = Place { shard: &self.id, alias, metrics: &self.metrics };
        let error = answer.as_ref().err().map(ToString::to_string);
        self.metrics.sense.asked(now.saturating_duration_since(sent), error.is_none());
        let effect = match answer {
            Ok(status) => {
                if let Some((before, _)) = &tablet.status {
                    self.metrics.sense.replaced(now.saturating_duration_since(*before));
                }
                tablet.told(sent, now, status)
            }
            Err(error) => tablet.failed(sent, now, &error),
        };
        if is_primary {
            tablet.errant.set_primary(place);
            state.primary_answered(place, sent, error, waits);
        } else {
            state.replica_answered(place, question, (sent, now), error);
        }
        let effect = effect.and(Effect { news: state.first_look(), ..Effect::default() });
        drop(state);
        self.tell(effect);
        if is_primary { effect.channel_failed } else { effect.link_lost }
    }

    /// Something else was seen of a tablet at that record's address. Says whether everybody has to be asked.
    pub fn observe(&self, alias: &TabletAlias, record: &Tablet, observe: impl FnOnce(&mut Observed, Instant) -> Effect) -> bool {
        let mut state = self.lock();
        let is_primary = state.is_primary(alias);
        let Some(tablet) = state.tablets.get_mut(alias).filter(|tablet| tablet.is_at(record)) else { return false };
        let effect = observe(tablet, Instant::now());
        let effect = effect.and(Effect { news: state.first_look(), ..Effect::default() });
        drop(state);
        self.tell(effect);
        is_primary && effect.channel_failed
    }

    /// A witness heard something, or could not.
    pub fn greeted(&self, of: &TabletAlias, from: &TabletAlias, sent: Instant, greeting: Greeting) {
        if let Some(tablet) = self.lock().tablets.get_mut(of) {
            tablet.greetings.insert(from.clone(), (sent, greeting));
        }
        self.tell(Effect { news: true, ..Effect::default() });
    }

    /// The declared primary, where it has a record.
    pub fn primary(&self) -> Option<TabletAlias> {
        let state = self.lock();
        let primary = state.primary.as_ref().ok()?;
        state.tablets.contains_key(&primary.alias).then(|| primary.alias.clone())
    }

    /// A tablet's record.
    pub fn record(&self, alias: &TabletAlias) -> Option<Arc<Tablet>> {
        self.lock().tablets.get(alias).map(|tablet| tablet.record.clone())
    }

    /// When the last question was sent that a tablet's manager has answered.
    pub fn last_good(&self, alias: &TabletAlias) -> Option<Instant> {
        self.lock().tablets.get(alias).and_then(|tablet| tablet.manager.last_good())
    }

    /// When a tablet began to fail on the channel that failed last.
    pub fn suspicious_since(&self, alias: &TabletAlias) -> Option<Instant> {
        self.lock().tablets.get(alias).and_then(Observed::suspicious_since)
    }

    /// Whether a tablet's manager says nothing.
    pub fn is_silent(&self, alias: &TabletAlias) -> bool {
        self.lock().tablets.get(alias).is_some_and(|tablet| tablet.manager.failing_since().is_some())
    }

    /// The tablet where it is to be asked now whether it refuses clients; `again` = also where it just said so. It answers everything else.
    pub fn offline_question(&self, alias: &TabletAlias, again: bool) -> Option<Arc<Tablet>> {
        let mut state = self.lock();
        let tablet = state.tablets.get_mut(alias)?;
        let answers =
            tablet.status.is_some() && tablet.mysql.failing_since().is_none() && tablet.manager.failing_since().is_none();
        let due = answers && (tablet.offline.is_due(alias, Instant::now()) || (again && tablet.offline.refuses()));
        due.then(|| tablet.record.clone())
    }

    /// Every tablet.
    pub fn aliases(&self) -> Vec<TabletAlias> {
        self.lock().tablets.keys().cloned().collect()
    }

    /// Whether the settings of a primary that `FullStatus` does not show are right.
    pub fn semi_sync_seen(&self, primary: &TabletAlias, are_right: bool, at: Instant) {
        self.lock().seen.settings(primary, are_right, at);
    }

    /// What was seen of the declared primary.
    pub fn seen_primary(&self) -> Option<(TabletAlias, SeenPrimary)> {
        self.lock().seen.position()
    }

    /// A tablet's own record, and those that may be asked on its behalf: their tablet managers answer.
    pub fn reachable_but(&self, of: &TabletAlias) -> (Option<Arc<Tablet>>, Vec<Named>) {
        let state = self.lock();
        let reachable = |tablet: &Observed| tablet.manager.last_good().is_some() && tablet.manager.failing_since().is_none();
        let others = state.tablets.iter().filter(|(alias, tablet)| *alias != of && reachable(tablet));
        let others = others.map(|(alias, tablet)| (alias.clone(), tablet.record.clone())).collect();
        (state.tablets.get(of).map(|tablet| tablet.record.clone()), others)
    }

    /// At this moment.
    pub fn view(&self) -> ShardView {
        let (now, state) = (Instant::now(), self.lock());
        ShardView {
            shard: self.id.clone(),
            record: state.record.clone(),
            keyspace: state.keyspace.clone(),
            tablets: state.tablets.iter().map(|(alias, tablet)| (alias.clone(), tablet.view(now))).collect(),
            unreadable_cells: state.gaps.cells.clone(),
            topology_unreadable: state.gaps.global.clone(),
            primary_for: state.primary_changed.map(|at| now.saturating_duration_since(at)),
            // A clock before 1970 sees every term in the future, and says so.
            wall_clock: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            looked: state.looked,
        }
    }

    /// Whether the first look is complete.
    pub fn is_looked_at(&self) -> bool {
        self.lock().looked
    }

    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub fn errant(&self, filter: &ErrantFilter, reports: &mut Vec<TabletReport>) {
        if filter.includes(&self.id) {
            let state = self.lock();
            let place = |alias| Place { shard: &self.id, alias, metrics: &self.metrics };
            reports.extend(state.tablets.iter().filter_map(|(alias, tablet)| tablet.errant.report(place(alias))));
        }
    }

    /// When everybody may be asked again; `None` when that is planned already.
    pub fn plan_emergency(&self) -> Option<Instant> {
        let (now, emergency) = (Instant::now(), &mut self.lock().emergency);
        let planned = std::mem::replace(&mut emergency.planned, true);
        (!planned).then(|| emergency.last.map_or(now, |last| (last + EMERGENCY_INTERVAL).max(now)))
    }

    /// Everybody is asked now: what happens from here on needs another round.
    pub fn begin_emergency(&self) {
        self.lock().emergency = Emergency { planned: false, last: Some(Instant::now()) };
    }

    fn tell(&self, effect: Effect) {
        if effect.news {
            self.news.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves at worst one piece of evidence out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_primary(&self, alias: &TabletAlias) -> bool {
        self.primary.as_ref().is_ok_and(|primary| primary.alias == *alias)
    }

    /// What the primary has said, or why it has not, is what its replicas are judged by.
    fn primary_answered(&mut self, place: Place<'_>, sent: Instant, error: Option<String>, waits: Option<bool>) {
        let (Ok(primary), Some(tablet)) = (self.primary.clone(), self.tablets.get(place.alias)) else { return };
        let said = match (error, &tablet.status) {
            (Some(reason), _) => PrimaryAnswer { sent, facts: Err(reason) },
            (None, Some((at, status))) if *at == sent => {
                self.seen.status(status, sent);
                PrimaryAnswer::of(sent, status, waits)
            }
            (None, _) => return,
        };
        judge_all(&mut self.tablets, (place.shard, place.metrics), &primary, &said);
    }

    /// What a replica has said waits for the primary's next answer.
    fn replica_answered(&mut self, place: Place<'_>, question: &Question, when: (Instant, Instant), error: Option<String>) {
        let is_listed = |primary: &DeclaredPrimary| self.tablets.contains_key(&primary.alias);
        let unlisted = self.primary.as_ref().ok().filter(|primary| !is_listed(primary)).cloned();
        let Some(tablet) = self.tablets.get_mut(place.alias) else { return };
        let (sent, answered) = when;
        match (&question.under, error, unlisted) {
            _ if tablet.record.tablet_shutdown_time.is_some() => tablet.errant.set_unknown(place, Unknown::ShutDown),
            (Err(why), ..) => tablet.errant.set_unknown(place, why.clone()),
            (Ok(_), Some(error), _) => tablet.errant.set_unknown(place, Unknown::Silent(error)),
            // It will never say what it has.
            (Ok(_), None, Some(primary)) => {
                let reason = "it has no record".to_owned();
                tablet.errant.set_unknown(place, Unknown::PrimarySilent { primary: primary.alias.clone(), reason });
            }
            (Ok(under), None, None) if tablet.status.as_ref().is_some_and(|(at, _)| *at == sent) => {
                tablet.errant.looked_at(under.clone(), sent, answered);
            }
            (Ok(_), None, None) => {}
        }
    }

    /// Whether everybody has just been looked at for the first time.
    fn first_look(&mut self) -> bool {
        let complete =
            !self.looked && self.listed && self.gaps.global.is_none() && self.tablets.values().all(|tablet| tablet.asked);
        self.looked |= complete;
        complete
    }
}

fn same_facts(one: &KeyspaceFacts, other: &KeyspaceFacts) -> bool {
    let policy = |facts: &KeyspaceFacts| facts.policy.as_ref().map(|policy| policy.name()).map_err(Clone::clone);
    policy(one) == policy(other)
        && one.policy_unset == other.policy_unset
        && one.is_snapshot == other.is_snapshot
        && one.emergency_disabled == other.emergency_disabled
}
