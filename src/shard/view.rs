//! The view that diagnosis and decisions rest on.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::{Channel, Replication, TabletStatus};
use crate::{
    durability::{Member, Policy},
    mysql::GtidSet,
    pb::{
        topodata::{Tablet, TabletType},
        vttime,
    },
    topo::{ShardId, TabletAlias},
};

/// Start of a primary's term: seconds and nanoseconds of the promoted tablet's clock.
pub type Term = (i64, i32);

/// Something and how long ago it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// What.
    pub what: T,
    /// How long ago the question was sent: nothing in it is older.
    pub age: Duration,
}

/// One shard at one moment.
#[derive(Debug, Clone)]
pub struct ShardView {
    /// Which.
    pub shard: ShardId,
    /// Its shard record; `None` when there is none.
    pub record: Option<ShardFacts>,
    /// Its keyspace's record.
    pub keyspace: KeyspaceFacts,
    /// Every tablet whose record names the shard, of every type.
    pub tablets: BTreeMap<TabletAlias, TabletView>,
    /// Cells whose tablets may be other ones than these, with the reasons.
    pub unreadable_cells: BTreeMap<String, String>,
    /// Why keyspace and shard records may be other ones than these; `None` when they are current.
    pub topology_unreadable: Option<String>,
    /// How long ago the topology was first seen to name this primary; `None` = it did so when the first look began. What tablets said before
    /// is about another world.
    pub primary_for: Option<Duration>,
    /// This elector's wall clock, as time since 1970: only to be held against terms in records.
    pub wall_clock: Duration,
    /// Whether every tablet has answered or used up one limit since this elector watches the shard: before, nothing is decided.
    pub looked: bool,
}

/// What the shard record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardFacts {
    /// The primary that it names.
    pub primary: Option<TabletAlias>,
    /// Its term; `None` until the shard has its first primary.
    pub term: Option<Term>,
    /// `SetVtorcEmergencyReparent` switched recoveries off for this shard.
    pub emergency_disabled: bool,
    /// What in the record says that a workflow switches traffic here (denied tables, a disabled query service); `None` = nothing.
    pub traffic_switch: Option<String>,
}

/// What the keyspace record says.
#[derive(Clone)]
pub struct KeyspaceFacts {
    /// The durability policy with what our settings add; an error when its name is unknown.
    pub policy: Result<Arc<dyn Policy>, String>,
    /// Whether the record names no policy at all: Vitess's tools then take `none`, VTOrc leaves the keyspace alone.
    pub policy_unset: bool,
    /// A snapshot keyspace has no primary.
    pub is_snapshot: bool,
    /// `SetVtorcEmergencyReparent` switched recoveries off for the whole keyspace.
    pub emergency_disabled: bool,
}

impl fmt::Debug for KeyspaceFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, policy_unset, is_snapshot, emergency_disabled } = self;
        let policy = policy.as_ref().map(|policy| policy.name());
        write!(f, "policy {policy:?}, unset {policy_unset}, snapshot {is_snapshot}, emergency disabled {emergency_disabled}")
    }
}

/// One tablet: what is declared and what is seen.
#[derive(Debug, Clone)]
pub struct TabletView {
    /// Its record.
    pub record: Arc<Tablet>,
    /// The last good `FullStatus`.
    pub status: Option<Seen<Arc<TabletStatus>>>,
    /// The tablet manager: any answer, also one that its MySQL is dead, shows that it lives.
    pub manager: Channel,
    /// Its MySQL server by every way that is used: `FullStatus`, the health stream's word, a connection of our own.
    pub mysql: Channel,
    /// Its MySQL server over a connection of our own alone; `None` without an account, or for a tablet that is not watched that way.
    pub direct: Option<Channel>,
    /// What other tablets' hosts found when they asked this tablet's MySQL for its greeting, the newest of each.
    pub greetings: BTreeMap<TabletAlias, Seen<Greeting>>,
    /// What its server had executed when it was asked before, and has no more: its positions went backwards. Empty as it should be.
    pub vanished: Arc<GtidSet>,
    /// Its errant transactions as last judged; `None` = not known.
    pub errant: Option<Arc<GtidSet>>,
    /// Whether its server refuses clients, as last said; `None` = not known.
    pub offline: Option<Seen<OfflineMode>>,
    /// How long its last answers took, and its own baseline: `None` until there is one.
    pub pace: Option<Pace>,
}

/// How fast a tablet answers now and usually does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The median of the last minute.
    pub now: Duration,
    /// The median of the hour before it.
    pub usual: Duration,
}

/// Whether a server refuses every client that is no administrator (`offline_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfflineMode {
    /// It lets them in.
    Off,
    /// It throws them out.
    On {
        /// How long ago it was asked when it first said so; it did ever since.
        since: Duration,
    },
}

/// What a witness heard from a MySQL server that it connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// MySQL's greeting: it takes connections.
    Greeted,
    /// MySQL's refusal to take one more connection (error 1040).
    TooManyConnections,
    /// Its host refused the connection: nobody listens.
    Refused,
    /// Nothing within the witness's limit: no connection, or a connection without a word.
    Silent,
    /// The witness's own host could not try (no route, no name): says nothing about the server.
    CannotTell(String),
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeted => write!(f, "greeted"),
            Self::TooManyConnections => write!(f, "refused for too many connections"),
            Self::Refused => write!(f, "nobody listens"),
            Self::Silent => write!(f, "silence"),
            Self::CannotTell(why) => write!(f, "cannot tell ({why})"),
        }
    }
}

/// Whether a replica has its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Its IO thread has its source, as far as it knows.
    Up,
    /// Its IO thread lost its source and cannot get back.
    Lost,
    /// Its IO thread looks for its source and has no error yet.
    Searching,
    /// Its IO thread fails for a reason that says nothing about its source's life: a password, purged logs.
    Broken,
    /// Its IO thread was stopped.
    Stopped,
    /// Its source is another server, or it has none.
    Elsewhere,
    /// No status of it that is good enough to tell.
    Unknown,
}

/// The claim to be primary with the newest term of all records; a tie or nobody = `None`. A tablet's own record is written first when it
/// is promoted; the shard record follows.
pub(crate) fn newest_primary<'a>(
    record: Option<&'a ShardFacts>,
    tablets: impl Iterator<Item = (&'a TabletAlias, &'a Tablet)>,
) -> Option<(Option<Term>, &'a TabletAlias)> {
    let of_tablets = tablets.filter(|(_, tablet)| tablet.r#type() == TabletType::Primary);
    let of_tablets = of_tablets.map(|(alias, tablet)| (term(tablet.primary_term_start_time.as_ref()), alias));
    let of_record = record.into_iter().filter_map(|record| Some((record.term, record.primary.as_ref()?)));
    let (mut newest, mut tie) = (None, false);
    for (term, alias) in of_record.chain(of_tablets) {
        match newest {
            Some((known, holder)) if known > term || (known == term && holder == alias) => {}
            Some((known, _)) if known == term => tie = true,
            _ => (newest, tie) = (Some((term, alias)), false),
        }
    }
    newest.filter(|_| !tie)
}

/// A term as it stands in a record.
pub(crate) fn term(time: Option<&vttime::Time>) -> Option<Term> {
    time.map(|time| (time.seconds, time.nanoseconds))
}

impl ShardView {
    /// The declared primary: the newest term of all records, the shard record's included; a tie or nobody = `None`.
    pub fn primary(&self) -> Option<&TabletAlias> {
        let of_tablets = self.tablets.iter().map(|(alias, tablet)| (alias, &*tablet.record));
        newest_primary(self.record.as_ref(), of_tablets).map(|(_, alias)| alias)
    }

    /// A tablet as a durability policy sees it.
    pub fn member(&self, alias: &TabletAlias) -> Member {
        match self.tablets.get(alias) {
            Some(tablet) => Member::tagged(alias.clone(), tablet.declared_type(), &tablet.record.tags),
            None => Member::new(alias.clone(), TabletType::Unknown),
        }
    }

    /// Whether a replica has `primary`, by its own status; a status older than `max_age` tells nothing.
    pub fn link(&self, replica: &TabletAlias, primary: &TabletAlias, max_age: Duration) -> Link {
        let (Some(replica), Some(primary)) = (self.tablets.get(replica), self.tablets.get(primary)) else { return Link::Unknown };
        let Some(seen) = replica.status.as_ref().filter(|seen| seen.age <= max_age && replica.mysql.failing.is_none()) else {
            return Link::Unknown;
        };
        match &seen.what.replication {
            Some(replication) if primary.is_source_of(replication) => replication.link(),
            _ => Link::Elsewhere,
        }
    }

    /// Which tablet's MySQL is at that address.
    pub fn tablet_at(&self, host: &str, port: u16) -> Option<&TabletAlias> {
        self.tablets.iter().find(|(_, tablet)| tablet.is_at(host, port)).map(|(alias, _)| alias)
    }
}

impl TabletView {
    /// A tablet of which nothing is known but its record.
    pub fn unseen(record: Arc<Tablet>) -> Self {
        Self {
            record,
            status: None,
            manager: Channel::default(),
            mysql: Channel::default(),
            direct: None,
            greetings: BTreeMap::new(),
            vanished: Arc::default(),
            errant: None,
            offline: None,
            pace: None,
        }
    }

    /// The type in its record.
    pub fn declared_type(&self) -> TabletType {
        self.record.r#type()
    }

    /// The term in its record.
    pub fn term(&self) -> Option<Term> {
        term(self.record.primary_term_start_time.as_ref())
    }

    /// Whether its MySQL is at that address.
    pub fn is_at(&self, host: &str, port: u16) -> bool {
        self.record.mysql_hostname == host && self.record.mysql_port == i32::from(port)
    }

    /// Whether that is replication from it: from its address, or, where a clean stop cleared its record, from its server or its port.
    pub fn is_source_of(&self, replication: &Replication) -> bool {
        let own_uuid = self.status.as_ref().and_then(|seen| seen.what.server_uuid);
        let is_itself = own_uuid.is_some() && own_uuid == replication.source_uuid;
        let cleared = || self.record.mysql_hostname.is_empty() && self.record.mysql_port == i32::from(replication.source_port);
        self.is_at(&replication.source_host, replication.source_port) || is_itself || (self.is_shut_down() && cleared())
    }

    /// Whether it was stopped on purpose.
    pub fn is_shut_down(&self) -> bool {
        self.record.tablet_shutdown_time.is_some()
    }
}
