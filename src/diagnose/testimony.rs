//! What the other tablets say of a primary that does not answer us.
//!
//! Only what was asked after its silence began counts. A greeting that was asked for tells more than a replication link: a link to a
//! silent host stands for as long as `replica_net_timeout`, and a link that was lost may have been lost for long.

use std::{collections::BTreeSet, time::Duration};

use super::facts::{Facts, answers, is_replica_type, replicates};
use crate::{
    shard::{Channel, FailureClass, Greeting, Link, TabletView},
    topo::TabletAlias,
};

/// What one tablet says of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Its host was greeted: the primary takes connections.
    Greeted,
    /// Its host was refused, or heard nothing; or its IO thread lost the primary and cannot get back.
    Gone,
    /// Its IO thread has the primary as far as it knows.
    Content,
    /// Its IO thread looks for the primary and has no error yet.
    Searching,
    /// It answers, and was not asked since the silence began.
    NotAsked,
    /// It answers and cannot tell: it does not replicate from the primary, or fails for reasons of its own.
    CannotTell,
    /// It does not answer us.
    Absent,
}

/// One tablet's testimony.
pub(super) struct Testimony<'a> {
    pub alias: &'a TabletAlias,
    pub word: Word,
    /// Whether its type is one that replicates: the others may say that the primary lives, and are not waited for.
    pub counts: bool,
    /// Whether its MySQL answers.
    pub answers: bool,
    /// Whether its host was asked for a greeting since the silence began.
    pub heard: bool,
    /// Whether its IO thread has the primary, as last read.
    pub link: Link,
    /// Whether it replicates, and is further behind than is reasonable.
    pub lags: bool,
}

/// A primary that does not answer, and what is said of it.
pub(super) struct Silence<'a> {
    pub alias: &'a TabletAlias,
    pub tablet: &'a TabletView,
    /// How its MySQL fails; `None` for a tablet that was shut down and is not asked.
    pub class: Option<FailureClass>,
    /// When the silence was known to have begun: nothing was heard since, by any channel.
    pub since: Duration,
    /// How long ago its MySQL was last heard, where it ever was.
    pub last_good: Option<Duration>,
    pub testimonies: Vec<Testimony<'a>>,
}

impl<'a> Silence<'a> {
    /// The declared primary's silence; `None` when it answers, or nobody has asked it yet.
    pub fn of(facts: &Facts<'a>) -> Option<Self> {
        let (alias, tablet) = facts.primary?;
        let (class, since, last_good) = match &tablet.mysql.failing {
            Some(failing) => {
                let last_good = tablet.mysql.last_good;
                // A success after the first failure of the row ends the row.
                (Some(failing.class), last_good.map_or(failing.since, |good| good.min(failing.since)), last_good)
            }
            None if tablet.is_shut_down() && !answers(tablet) => (None, facts.rules.status_max_age, None),
            None => return None,
        };
        let testimonies = facts.others().map(|(of, witness)| testimony(facts, tablet, of, witness, since)).collect();
        Some(Self { alias, tablet, class, since, last_good, testimonies })
    }

    /// Whether nothing was heard of its MySQL for so long, on any channel. The first failure is known only a question's limit after the
    /// silence began, and the last success is up to a whole cadence older than it: both have to agree, the former with some slack.
    pub fn lasts(&self, at_least: Duration) -> bool {
        let known = |since: Duration| since + KNOWN_LATE >= at_least;
        let on_direct = match &self.tablet.direct {
            None => true,
            Some(direct) => direct.fails_for(at_least) && direct.failing.as_ref().is_some_and(|failing| known(failing.since)),
        };
        self.last_good.unwrap_or(self.since) >= at_least && known(self.since) && on_direct
    }

    /// Whether replicas may be made to testify by their replication, which harms a living primary: not while it answers, be it with an
    /// error or that it is full (safety rules, sections 8 and 9).
    pub fn allows_action(&self, facts: &Facts) -> bool {
        let is_silent = self.class.is_some_and(FailureClass::shows_no_life);
        is_silent && !self.lives_for_us() && !self.anybody(Word::Greeted) && self.lasts(facts.rules.silent_for)
    }

    /// Whether something of our own shows that its MySQL lives, whatever else fails.
    pub fn lives_for_us(&self) -> bool {
        let read_since = self.class.is_some() && self.tablet.status.as_ref().is_some_and(|seen| seen.age < self.since);
        let direct = self.tablet.direct.as_ref();
        let by_direct = direct.is_some_and(|direct| {
            direct.works() || direct.failing.as_ref().is_some_and(|failing| failing.class == FailureClass::Answered)
        });
        read_since || by_direct
    }

    /// Whether its own host says that nobody is there: over a connection of our own, or by its tablet manager's word. A manager that is
    /// gone itself says nothing about its MySQL.
    pub fn is_gone(&self) -> bool {
        let by_direct = self.tablet.direct.as_ref().is_some_and(Channel::is_gone);
        by_direct || (self.tablet.mysql.is_gone() && self.tablet.manager.works())
    }

    /// Those who say that.
    pub fn who(&self, word: Word) -> BTreeSet<TabletAlias> {
        self.testimonies.iter().filter(|one| one.word == word).map(|one| one.alias.clone()).collect()
    }

    pub fn anybody(&self, word: Word) -> bool {
        self.testimonies.iter().any(|one| one.word == word)
    }

    /// The testimonies of tablets that replicate.
    pub fn replicas(&self) -> impl Iterator<Item = &Testimony<'a>> {
        self.testimonies.iter().filter(|one| one.counts)
    }

    /// Replicas that answer, do not have the primary's loss on record, and whose hosts were not asked what they hear.
    pub fn not_heard(&self) -> BTreeSet<TabletAlias> {
        self.replicas().filter(|one| one.is_open() && !one.heard).map(|one| one.alias.clone()).collect()
    }

    /// Those, and replicas whose hosts cannot tell while their links stand: all that could still be made to testify.
    pub fn to_be_asked(&self) -> BTreeSet<TabletAlias> {
        let open = |one: &&Testimony| one.is_open() && (!one.heard || one.word == Word::Content);
        self.replicas().filter(open).map(|one| one.alias.clone()).collect()
    }
}

impl Testimony<'_> {
    fn is_open(&self) -> bool {
        self.answers && !matches!(self.word, Word::Gone | Word::Greeted)
    }
}

/// How much later than the silence itself its first failure is known at most: the limit of a question.
const KNOWN_LATE: Duration = Duration::from_millis(500);

fn testimony<'a>(
    facts: &Facts<'a>,
    primary: &'a TabletView,
    alias: &'a TabletAlias,
    witness: &'a TabletView,
    since: Duration,
) -> Testimony<'a> {
    let greeting = primary.greetings.get(alias).filter(|seen| seen.age <= facts.rules.greeting_max_age && seen.age < since);
    let status = facts.status_since(witness, since);
    let word = match greeting.map(|seen| &seen.what) {
        Some(Greeting::Greeted) => Word::Greeted,
        Some(Greeting::TooManyConnections | Greeting::Refused | Greeting::Silent) => Word::Gone,
        Some(Greeting::CannotTell(_)) | None if !answers(witness) => Word::Absent,
        Some(Greeting::CannotTell(_)) | None if status.is_none() => Word::NotAsked,
        Some(Greeting::CannotTell(_)) | None => match facts.link_since(witness, since) {
            Link::Up => Word::Content,
            Link::Lost => Word::Gone,
            Link::Searching => Word::Searching,
            Link::Stopped | Link::Elsewhere | Link::Broken | Link::Unknown => Word::CannotTell,
        },
    };
    Testimony {
        alias,
        word,
        counts: replicates(witness) && !witness.is_shut_down(),
        answers: answers(witness),
        heard: greeting.is_some(),
        link: facts.link(witness),
        lags: is_replica_type(witness.declared_type())
            && facts
                .status(witness)
                .and_then(|status| status.replication.as_ref())
                .is_some_and(|replication| facts.lags(replication)),
    }
}
