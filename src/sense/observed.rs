//! What is seen of one tablet. Pure: whoever asks hands over answers and the times of their questions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{decode::Decoder, errant::Errant, offline::Offline, pace::PaceMeter, positions::Positions, track::Track};
use crate::{
    mysql::GtidSet,
    pb::{replicationdata::FullStatus, topodata::Tablet},
    shard::{FailureClass, Greeting, IoState, Seen, TabletStatus, TabletView},
    tablet::{TabletError, TabletErrorKind, mysql_failure},
    topo::TabletAlias,
};

/// A connection of our own counts as working that long after its last answer: it is asked more often than that.
const DIRECT_FRESH: Duration = Duration::from_secs(1);
/// An error that says nothing about MySQL's life is no failure of MySQL before that long after its last good answer.
const UNTOLD_FOR: Duration = Duration::from_secs(2);

/// Everything seen of one tablet.
#[derive(Debug)]
pub(super) struct Observed {
    pub record: Arc<Tablet>,
    pub status: Option<(Instant, Arc<TabletStatus>)>,
    /// Everything that its server has, or why that is not known.
    pub has: Result<Arc<GtidSet>, String>,
    pub manager: Track,
    pub mysql: Track,
    pub direct: Option<Track>,
    pub greetings: BTreeMap<TabletAlias, (Instant, Greeting)>,
    positions: Positions,
    pub errant: Errant,
    pub offline: Offline,
    pub pace: PaceMeter,
    /// Whether it has answered, or used up the limit of one question.
    pub asked: bool,
    decoder: Decoder,
}

/// What an observation means to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Somebody who decides has to look.
    pub news: bool,
    /// Everybody in the shard has to be asked now, if it comes from the primary ...
    pub channel_failed: bool,
    /// ... or from a replica.
    pub link_lost: bool,
}

impl Effect {
    pub fn and(self, other: Self) -> Self {
        Self {
            news: self.news || other.news,
            channel_failed: self.channel_failed || other.channel_failed,
            link_lost: self.link_lost || other.link_lost,
        }
    }

    fn news(news: bool) -> Self {
        Self { news, ..Self::default() }
    }

    fn failed(news: bool) -> Self {
        Self { news, channel_failed: news, ..Self::default() }
    }
}

impl Observed {
    pub fn new(record: Arc<Tablet>) -> Self {
        Self {
            record,
            status: None,
            has: Err("it was not looked at yet".to_owned()),
            manager: Track::default(),
            mysql: Track::default(),
            direct: None,
            greetings: BTreeMap::new(),
            positions: Positions::default(),
            errant: Errant::default(),
            offline: Offline::default(),
            pace: PaceMeter::default(),
            asked: false,
            decoder: Decoder::default(),
        }
    }

    /// Whether a record leads to the same processes.
    pub fn is_at(&self, record: &Tablet) -> bool {
        let known = &self.record;
        known.hostname == record.hostname
            && known.port_map == record.port_map
            && known.mysql_hostname == record.mysql_hostname
            && known.mysql_port == record.mysql_port
    }

    /// `FullStatus` was answered.
    pub fn told(&mut self, sent: Instant, now: Instant, answer: FullStatus) -> Effect {
        self.asked = true;
        self.pace.answered(now.saturating_duration_since(sent));
        let effect = self.lives(sent);
        if self.status.as_ref().is_some_and(|(known, _)| *known > sent) {
            return effect;
        }
        let decoded = self.decoder.next(answer);
        let (before, after) = (self.status.as_ref().map(|(_, status)| &**status), &decoded.status);
        let backwards = self.positions.told(sent, now, after);
        let news = backwards || before.is_none_or(|before| after.tells_more_than(before));
        let link_lost = before.is_some_and(|before| link_works(before) && !link_works(after));
        if before != Some(after) {
            self.status = Some((sent, Arc::new(decoded.status)));
        } else if let Some((seen, _)) = &mut self.status {
            *seen = sent;
        }
        self.has = decoded.has;
        effect.and(Effect { news, link_lost, ..Effect::default() })
    }

    /// A question that its MySQL had to answer was answered.
    pub fn lives(&mut self, sent: Instant) -> Effect {
        if self.suspicious_since().is_some() {
            self.offline.soon(sent);
        }
        let (manager, mysql) = (self.manager.good(sent), self.mysql.good(sent));
        Effect::news(manager || mysql)
    }

    /// It said whether it refuses clients.
    pub fn refuses(&mut self, on: bool, sent: Instant) -> Effect {
        Effect::news(self.offline.said(on, sent))
    }

    /// A question to its tablet manager failed.
    pub fn failed(&mut self, sent: Instant, now: Instant, error: &TabletError) -> Effect {
        self.asked = true;
        let words = error.to_string();
        if let Some(class) = error.lost {
            let manager = self.manager.failed(sent, now, class, &words);
            return Effect::failed(manager).and(self.mysql_unseen(sent, now, &words));
        }
        let answered = Effect::news(self.manager.good(sent));
        let mysql = match verdict(error) {
            Verdict::Lives => Effect::news(self.mysql.good(sent)),
            Verdict::Fails(_) if self.direct_works(now) => Effect::default(),
            Verdict::Fails(class) => Effect::failed(self.mysql.failed(sent, now, class, &words)),
            Verdict::Untold if self.mysql.last_good().is_some_and(|good| now.saturating_duration_since(good) < UNTOLD_FOR) => {
                Effect::default()
            }
            Verdict::Untold => Effect::news(self.mysql.failed(sent, now, FailureClass::Answered, &words)),
        };
        answered.and(mysql)
    }

    /// The tablet manager's connection ended.
    pub fn hung_up(&mut self, now: Instant, error: &TabletError) -> Effect {
        match error.lost {
            Some(_) => self.failed(now, now, error),
            None => Effect::default(),
        }
    }

    /// The tablet manager says nothing: MySQL is unseen as well, unless a connection of our own shows it.
    fn mysql_unseen(&mut self, sent: Instant, now: Instant, words: &str) -> Effect {
        if self.direct_works(now) {
            return Effect::default();
        }
        // The direct connection's words prove more than a silent tablet manager's.
        let direct_fails = self.direct.as_ref().is_some_and(|direct| direct.failing_since().is_some());
        if direct_fails && self.mysql.failing_since().is_some() {
            return Effect::default();
        }
        Effect::failed(self.mysql.failed(sent, now, FailureClass::Silent, words))
    }

    fn direct_works(&self, now: Instant) -> bool {
        let fresh = |good: Instant| now.saturating_duration_since(good) < DIRECT_FRESH;
        self.direct.as_ref().is_some_and(|direct| direct.failing_since().is_none() && direct.last_good().is_some_and(fresh))
    }

    /// Its health stream says that its MySQL fails so.
    pub fn complains(&mut self, now: Instant, class: FailureClass, words: &str) -> Effect {
        if class == FailureClass::Answered || self.direct_works(now) {
            return Effect::default();
        }
        Effect::failed(self.mysql.failed(now, now, class, words))
    }

    /// MySQL answered on a connection of our own.
    pub fn direct_good(&mut self, sent: Instant) -> Effect {
        let direct = self.direct.get_or_insert_default().good(sent);
        Effect::news(direct || self.mysql.good(sent))
    }

    /// It did not.
    pub fn direct_failed(&mut self, sent: Instant, now: Instant, class: FailureClass, words: &str) -> Effect {
        let direct = Effect::failed(self.direct.get_or_insert_default().failed(sent, now, class, words));
        let mysql = match class {
            // Whoever refuses a password lives.
            FailureClass::Answered => Effect::news(self.mysql.good(sent)),
            // While its tablet manager answers, that one's word is better than a connection that may be cut off.
            _ if self.manager.failing_since().is_none() => Effect::default(),
            _ => Effect::failed(self.mysql.failed(sent, now, class, words)),
        };
        direct.and(mysql)
    }

    /// When it began to fail on the channel that failed last.
    pub fn suspicious_since(&self) -> Option<Instant> {
        let channels = [Some(&self.manager), Some(&self.mysql), self.direct.as_ref()];
        channels.into_iter().flatten().filter_map(Track::failing_since).max()
    }

    /// As ages.
    pub fn view(&self, now: Instant) -> TabletView {
        let age = |at: Instant| now.saturating_duration_since(at);
        let greetings = self.greetings.iter();
        TabletView {
            record: self.record.clone(),
            status: self.status.as_ref().map(|(at, status)| Seen { what: status.clone(), age: age(*at) }),
            manager: self.manager.view(now),
            mysql: self.mysql.view(now),
            direct: self.direct.as_ref().map(|direct| direct.view(now)),
            greetings: greetings.map(|(from, (at, what))| (from.clone(), Seen { what: what.clone(), age: age(*at) })).collect(),
            vanished: self.positions.vanished(),
            errant: self.errant.known(),
            offline: self.offline.view(now),
            pace: self.pace.pace(),
        }
    }
}

fn link_works(status: &TabletStatus) -> bool {
    status.replication.as_ref().is_none_or(|replication| replication.io == IoState::Running)
}

/// What an answered error says about MySQL.
enum Verdict {
    Lives,
    Fails(FailureClass),
    Untold,
}

fn verdict(error: &TabletError) -> Verdict {
    match (error.kind, mysql_failure(&error.message)) {
        // The tablet's own limit for MySQL has passed.
        (TabletErrorKind::UnknownOutcome, None) if error.code != tonic::Code::Internal => Verdict::Fails(FailureClass::Silent),
        (_, None) => Verdict::Untold,
        (_, Some(FailureClass::Answered)) => Verdict::Lives,
        // Of any other kind it may be another server that was lost: the source's, a parent's.
        (TabletErrorKind::MysqlDown | TabletErrorKind::Failed, Some(class)) => Verdict::Fails(class),
        (_, Some(_)) => Verdict::Untold,
    }
}
