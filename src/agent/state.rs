//! What the agent knows of itself, and the rules that need nothing else (pure).

use std::{
    cmp::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    pb::{
        query::{RealtimeStats, StreamHealthResponse, Target},
        topodata::{Shard, Tablet, TabletType},
        vttime::Time,
    },
    topo::{ShardTablets, TabletAlias},
};

/// A new term is at least this much later than every known one (safety.md section 5): vtgate compares whole seconds.
const TERM_STEP: Duration = Duration::from_secs(1);

/// The agent's own view; health streams, shard sync and records follow it.
#[derive(Debug, Clone)]
pub struct LocalState {
    /// What the tablet's record should say.
    pub tablet: Tablet,
    /// Made writable by this agent, and not taken back since.
    pub writable: bool,
    /// How mysqld does not answer at this moment.
    pub silence: Option<String>,
    /// How mysqld takes no connection, while it answers on those that are open.
    pub crowded: Option<String>,
    /// Why mysqld was given up; it is back when it has been looked at afresh.
    pub mysql_down: Option<String>,
    /// Why this server is not yet what the topology says.
    pub unsettled: Option<String>,
    /// Why this replica does not replicate.
    pub replication_problem: Option<String>,
    /// Seconds behind the source, as far as known.
    pub lag_s: u32,
    /// The agent is going down.
    pub lame_duck: bool,
}

impl LocalState {
    /// Its type.
    pub fn tablet_type(&self) -> TabletType {
        self.tablet.r#type()
    }

    /// Whether it believes that it is the shard's primary.
    pub fn is_primary(&self) -> bool {
        self.tablet_type() == TabletType::Primary
    }

    /// Why nobody is served by mysqld now. A replica that takes no further connection still serves those that it has.
    pub fn no_answer(&self) -> Option<&String> {
        self.silence.as_ref().or(self.crowded.as_ref().filter(|_| self.is_primary()))
    }

    /// One message of the health stream.
    pub fn health(&self) -> StreamHealthResponse {
        let replica_problem = || self.replication_problem.as_ref().filter(|_| !self.is_primary()).map(String::as_str);
        // Not in the words in which it was lost: a reader would take it for lost still.
        let returning = || self.mysql_down.as_ref().map(|_| "mysqld answers again and is looked at afresh");
        let not_served = self.silence.as_deref().or(self.crowded.as_deref());
        let problem = not_served.or_else(returning).or(self.unsettled.as_deref()).or_else(replica_problem);
        let runs = matches!(
            self.tablet_type(),
            TabletType::Primary | TabletType::Replica | TabletType::Rdonly | TabletType::Experimental | TabletType::Drained
        );
        StreamHealthResponse {
            target: Some(Target {
                keyspace: self.tablet.keyspace.clone(),
                shard: self.tablet.shard.clone(),
                tablet_type: self.tablet.r#type,
                cell: String::new(),
            }),
            serving: runs && problem.is_none() && !self.lame_duck && (self.writable || !self.is_primary()),
            primary_term_start_timestamp: self.tablet.primary_term_start_time.as_ref().map_or(0, |term| term.seconds),
            realtime_stats: Some(RealtimeStats {
                health_error: problem.unwrap_or_default().to_owned(),
                replication_lag_seconds: self.lag_s,
                ..RealtimeStats::default()
            }),
            tablet_alias: self.tablet.alias.clone(),
        }
    }
}

/// The wall clock, as records write it.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() as i32 }
}

/// Compares two times; an absent one is earlier than all.
pub fn compare(a: Option<&Time>, b: Option<&Time>) -> Ordering {
    let key = |time: Option<&Time>| time.map(|t| (t.seconds, t.nanoseconds));
    key(a).cmp(&key(b))
}

/// The latest term that shard and tablet records know.
pub fn newest_term(shard: &Shard, tablets: &ShardTablets) -> Option<Time> {
    let primaries = tablets.tablets.values().filter(|tablet| tablet.r#type() == TabletType::Primary);
    primaries
        .map(|tablet| tablet.primary_term_start_time)
        .chain([shard.primary_term_start_time])
        .max_by(|a, b| compare(a.as_ref(), b.as_ref()))
        .flatten()
}

/// The term of a promotion: the clock's time, or a step after the newest known term where the clock is behind it.
pub fn next_term(now: Time, newest: Option<Time>) -> Time {
    let Some(newest) = newest else { return now };
    let least = Time { seconds: newest.seconds + TERM_STEP.as_secs() as i64, nanoseconds: newest.nanoseconds };
    if compare(Some(&now), Some(&least)) == Ordering::Less { least } else { now }
}

/// With which type and term a tablet comes back (facts/topo-etcd.md 8.2). `None`: with its start type.
pub fn primary_at_start(me: &TabletAlias, shard: &Shard, own: Option<&Tablet>, now: Time) -> Option<Time> {
    let named = shard.primary_alias.as_ref().is_some_and(|alias| (&alias.cell, alias.uid) == (&me.cell, me.uid));
    let was_primary = own.filter(|tablet| tablet.r#type() == TabletType::Primary);
    match (named, own, was_primary) {
        (true, _, Some(record)) => record.primary_term_start_time.or(shard.primary_term_start_time).or(Some(now)),
        (true, Some(_), None) => shard.primary_term_start_time.or(Some(now)),
        (true, None, None) => Some(next_term(now, shard.primary_term_start_time)),
        (false, _, Some(record)) => {
            let newer = compare(record.primary_term_start_time.as_ref(), shard.primary_term_start_time.as_ref()).is_gt();
            if newer { record.primary_term_start_time } else { None }
        }
        (false, _, None) => None,
    }
}

/// Why a tablet that believes that it is primary may not be made writable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    /// The shard record knows a later term.
    #[error("the shard record names {primary} with a later term")]
    LaterTerm {
        /// Whom it names.
        primary: String,
    },
    /// The shard record names another tablet with the same term.
    #[error("the shard record names {primary} with the same term")]
    OtherPrimary {
        /// Whom it names.
        primary: String,
    },
    /// Another tablet's record says primary, with a term that is not earlier.
    #[error("the record of {tablet} says PRIMARY with a term that is not earlier")]
    Rival {
        /// That tablet.
        tablet: TabletAlias,
    },
    /// Some tablets are unknown: one of them may be primary.
    #[error("the tablets of {cells} cannot be read")]
    Unreadable {
        /// The cells.
        cells: String,
    },
    /// It has no term.
    #[error("this tablet has no primary term")]
    NoTerm,
}

impl NotWritable {
    /// Whether looking again later can change the answer, while this tablet still is what it is.
    pub fn may_pass(&self) -> bool {
        matches!(self, NotWritable::Unreadable { .. })
    }
}

/// Whether the topology says that this tablet is the primary of the newest term (safety.md section 12). To be asked under the shard lock.
pub fn may_become_writable(
    me: &TabletAlias,
    term: Option<&Time>,
    shard: &Shard,
    tablets: &ShardTablets,
) -> Result<(), NotWritable> {
    let Some(term) = term else { return Err(NotWritable::NoTerm) };
    let named = shard.primary_alias.as_ref().map(|alias| TabletAlias { cell: alias.cell.clone(), uid: alias.uid });
    let primary = || named.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
    match compare(shard.primary_term_start_time.as_ref(), Some(term)) {
        Ordering::Greater => return Err(NotWritable::LaterTerm { primary: primary() }),
        Ordering::Equal if named.as_ref() != Some(me) => return Err(NotWritable::OtherPrimary { primary: primary() }),
        Ordering::Equal | Ordering::Less => {}
    }
    for (alias, tablet) in &tablets.tablets {
        let rival = alias != me && tablet.r#type() == TabletType::Primary;
        if rival && compare(tablet.primary_term_start_time.as_ref(), Some(term)).is_ge() {
            return Err(NotWritable::Rival { tablet: alias.clone() });
        }
    }
    if !tablets.unreadable_cells.is_empty() {
        let cells = tablets.unreadable_cells.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(NotWritable::Unreadable { cells });
    }
    Ok(())
}

/// What a primary does about the shard record (facts/topo-etcd.md 8.3). Only times are compared, never aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardSync {
    /// Write alias and term into the record.
    Write,
    /// The record is right.
    Nothing,
    /// A later primary exists: step down.
    StepDown,
}

/// Compares a primary's own term with that of the shard record.
pub fn shard_sync(own: Option<&Time>, shard: &Shard) -> ShardSync {
    match compare(own, shard.primary_term_start_time.as_ref()) {
        Ordering::Greater => ShardSync::Write,
        Ordering::Equal => ShardSync::Nothing,
        Ordering::Less => ShardSync::StepDown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time { seconds, nanoseconds: 5 }
    }

    fn alias(uid: u32) -> TabletAlias {
        TabletAlias::new("zone1", uid).unwrap()
    }

    fn shard(primary: u32, term: i64) -> Shard {
        Shard { primary_alias: Some((&alias(primary)).into()), primary_term_start_time: Some(at(term)), ..Shard::default() }
    }

    fn tablet(uid: u32, kind: TabletType, term: Option<i64>) -> Tablet {
        Tablet {
            alias: Some((&alias(uid)).into()),
            r#type: kind as i32,
            primary_term_start_time: term.map(at),
            ..Tablet::default()
        }
    }

    fn tablets(list: &[Tablet]) -> ShardTablets {
        let mut all = ShardTablets::default();
        for tablet in list {
            all.tablets.insert(alias(tablet.alias.as_ref().unwrap().uid), tablet.clone());
        }
        all
    }

    #[test]
    fn a_term_never_goes_back() {
        assert_eq!(next_term(at(100), None), at(100));
        assert_eq!(next_term(at(100), Some(at(50))), at(100));
        assert_eq!(next_term(at(100), Some(at(100))), at(101));
        assert_eq!(next_term(at(100), Some(at(500))), at(501));
        let all = tablets(&[tablet(1, TabletType::Primary, Some(70)), tablet(2, TabletType::Replica, Some(90))]);
        assert_eq!(newest_term(&shard(1, 60), &all), Some(at(70)));
    }

    #[test]
    fn who_comes_back_as_primary() {
        use TabletType::{Primary, Replica};
        let start = |shard: &Shard, own: Option<Tablet>| primary_at_start(&alias(1), shard, own.as_ref(), at(1000));
        assert_eq!(start(&shard(1, 10), Some(tablet(1, Primary, Some(9)))), Some(at(9)));
        assert_eq!(start(&shard(1, 10), Some(tablet(1, Replica, None))), Some(at(10)));
        assert_eq!(start(&shard(1, 10), None), Some(at(1000)));
        assert_eq!(start(&shard(2, 10), Some(tablet(1, Primary, Some(11)))), Some(at(11)));
        assert_eq!(start(&shard(2, 10), Some(tablet(1, Primary, Some(10)))), None);
        assert_eq!(start(&shard(2, 10), Some(tablet(1, Replica, None))), None);
        assert_eq!(start(&Shard::default(), None), None);
    }

    #[test]
    fn only_the_primary_of_the_newest_term_becomes_writable() {
        use TabletType::{Primary, Replica};
        let me = tablet(1, Primary, Some(10));
        let ask = |shard: &Shard, others: &[Tablet]| {
            let all = tablets(&[std::slice::from_ref(&me), others].concat());
            may_become_writable(&alias(1), Some(&at(10)), shard, &all)
        };
        assert_eq!(ask(&shard(1, 10), &[tablet(2, Replica, None), tablet(3, Primary, Some(9))]), Ok(()));
        assert_eq!(ask(&shard(2, 9), &[]), Ok(()), "the shard record is a late copy");
        assert!(matches!(ask(&shard(1, 11), &[]), Err(NotWritable::LaterTerm { .. })), "also when the record names us");
        assert!(matches!(ask(&shard(2, 10), &[]), Err(NotWritable::OtherPrimary { .. })));
        assert!(matches!(ask(&shard(1, 10), &[tablet(2, Primary, Some(11))]), Err(NotWritable::Rival { .. })));
        assert_eq!(may_become_writable(&alias(1), None, &shard(1, 10), &tablets(&[])), Err(NotWritable::NoTerm));
        let mut partial = tablets(&[me]);
        let reason = crate::topo::TopoError::Exists { what: "x".to_owned() };
        partial.unreadable_cells.insert("zone2".to_owned(), reason);
        let refused = may_become_writable(&alias(1), Some(&at(10)), &shard(1, 10), &partial).unwrap_err();
        assert!(refused.may_pass(), "{refused}");
    }

    #[test]
    fn shard_sync_compares_times_only() {
        assert_eq!(shard_sync(Some(&at(10)), &shard(2, 9)), ShardSync::Write);
        assert_eq!(shard_sync(Some(&at(10)), &shard(2, 10)), ShardSync::Nothing);
        assert_eq!(shard_sync(Some(&at(10)), &shard(1, 11)), ShardSync::StepDown);
        assert_eq!(shard_sync(Some(&at(10)), &Shard::default()), ShardSync::Write);
    }

    #[test]
    fn a_demoted_primary_and_a_broken_replica_do_not_serve() {
        let state = |kind, writable| LocalState {
            tablet: tablet(1, kind, Some(10)),
            writable,
            silence: None,
            crowded: None,
            mysql_down: None,
            unsettled: None,
            replication_problem: Some("io".to_owned()),
            lag_s: 0,
            lame_duck: false,
        };
        assert!(state(TabletType::Primary, true).health().serving);
        assert!(!state(TabletType::Primary, false).health().serving);
        let broken = state(TabletType::Replica, false).health();
        assert!(!broken.serving && broken.realtime_stats.unwrap().health_error == "io");
        assert!(!state(TabletType::Spare, false).health().serving);
    }

    #[test]
    fn a_lost_server_is_told_in_the_words_of_its_loss_until_it_is_back() {
        let mut state = LocalState {
            tablet: tablet(1, TabletType::Primary, Some(10)),
            writable: false,
            silence: Some("refused (errno 2002) (sqlstate HY000)".to_owned()),
            crowded: None,
            mysql_down: Some("lost (errno 2013) (sqlstate HY000)".to_owned()),
            unsettled: None,
            replication_problem: None,
            lag_s: 0,
            lame_duck: false,
        };
        let words = |state: &LocalState| state.health().realtime_stats.unwrap().health_error;
        assert!(words(&state).contains("errno 2002"));
        state.silence = None;
        assert!(!words(&state).contains("errno") && !state.health().serving);
        state.crowded = Some("full".to_owned());
        assert_eq!(state.no_answer().map(String::as_str), Some("full"));
        state.tablet.set_type(TabletType::Replica);
        assert_eq!(state.no_answer(), None);
    }
}
