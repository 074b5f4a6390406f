//! Follows who is registered, and says what that means for the division of the shards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Ownership, PeerSettings,
    region::region,
    registrar::LEASE_TTL,
    roll::{Elector, Keys, Roll},
};
use crate::{
    metrics::PeerMetrics,
    pb::topodata::CellsAlias,
    topo::{KvEntry, News, WatchEvent},
};

/// For so long the others go on looking after what a newcomer takes over: its first look at a shard takes less.
const SETTLE_AFTER: Duration = Duration::from_secs(3);
/// Two live registrations under one address for so long are two processes: a dead one's lease has ended by then.
const TWINS_AFTER: Duration = Duration::from_secs(2 * LEASE_TTL.as_secs());

/// What a piece of news is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Electors,
    Aliases,
}

/// What is published.
pub(super) struct Outlets {
    pub ownership: watch::Sender<Arc<Ownership>>,
    pub roll: watch::Sender<Arc<Roll>>,
    /// What this elector registers as.
    pub me: watch::Sender<Option<Elector>>,
}

/// The task.
pub(super) struct Clerk {
    settings: PeerSettings,
    metrics: PeerMetrics,
    keys: Keys,
    /// Prefix of the records of aliases.
    aliases_below: String,
    outlets: Outlets,
    roll: Roll,
    aliases: BTreeMap<String, BTreeSet<String>>,
    /// What was read, or found unreadable, at least once.
    heard: Vec<About>,
    /// Whether the electors were ever read.
    read: bool,
    /// Until when each newcomer counts as one.
    newcomers: BTreeMap<String, Instant>,
    /// Since when another process registers under our address; nothing after it was reported.
    twins_since: Option<Instant>,
    twins_reported: bool,
}

impl Clerk {
    pub fn new(settings: PeerSettings, metrics: PeerMetrics, aliases_below: String, outlets: Outlets) -> Self {
        let keys = Keys::below(&settings.ledger_root);
        Self {
            roll: Roll::empty(keys.clone()),
            settings,
            metrics,
            keys,
            aliases_below,
            outlets,
            aliases: BTreeMap::new(),
            heard: Vec::new(),
            read: false,
            newcomers: BTreeMap::new(),
            twins_since: None,
            twins_reported: false,
        }
    }

    /// Runs until nobody sends news.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<(About, News)>) {
        loop {
            let due = self.due();
            tokio::select! {
                news = inbox.recv() => match news {
                    Some((about, news)) => self.take_in(about, news),
                    None => return,
                },
                () = async { if let Some(due) = due { sleep_until(due).await } }, if due.is_some() => {}
            }
            self.publish();
        }
    }

    /// When something changes by time alone.
    fn due(&self) -> Option<Instant> {
        let twins = self.twins_since.filter(|_| !self.twins_reported).map(|since| since + TWINS_AFTER);
        self.newcomers.values().copied().chain(twins).min()
    }

    fn take_in(&mut self, about: About, news: News) {
        match (about, news) {
            // What is known stays in force: ownership grants nothing, and shards that nobody looks after help nobody.
            (_, News::Broken { reason }) => tracing::debug!(?about, reason, "the registrations of electors may be out of date"),
            (About::Electors, News::All(entries)) => {
                self.roll = Roll::listed(self.keys.clone(), &entries);
                self.read = true;
            }
            (About::Electors, News::Changes(events)) => events.iter().for_each(|event| self.roll.change(event)),
            (About::Aliases, News::All(entries)) => {
                self.aliases.clear();
                entries.iter().for_each(|entry| self.put_alias(entry));
            }
            (About::Aliases, News::Changes(events)) => events.iter().for_each(|event| match event {
                WatchEvent::Put(entry) => self.put_alias(entry),
                WatchEvent::Delete { key, .. } => drop(self.alias_name(key).map(|name| self.aliases.remove(&name))),
                WatchEvent::Progress(_) => {}
            }),
        }
        if !self.heard.contains(&about) {
            self.heard.push(about);
        }
    }

    fn alias_name(&self, key: &str) -> Option<String> {
        Some(key.strip_prefix(&self.aliases_below)?.strip_suffix("/CellsAlias")?.to_owned())
    }

    /// A record that cannot be read keeps its last good version.
    fn put_alias(&mut self, entry: &KvEntry) {
        if let (Some(name), Ok(alias)) = (self.alias_name(&entry.key), CellsAlias::decode(entry.value.as_slice())) {
            self.aliases.insert(name, alias.cells.into_iter().collect());
        }
    }

    fn publish(&mut self) {
        // Before the aliases are known, this elector would register in another region than it belongs to.
        if ![About::Electors, About::Aliases].iter().all(|about| self.heard.contains(about)) {
            return;
        }
        let PeerSettings { address, who, cell, watched, .. } = &self.settings;
        let region = region(cell, watched, &self.aliases);
        let me = Elector::new(address, who, cell, &region, 0);
        self.outlets.me.send_if_modified(|known| known.replace(me.clone()).is_none_or(|known| known != me));
        self.outlets.roll.send_replace(Arc::new(self.roll.clone()));
        self.watch_for_twins(&me.id);
        let ownership = if self.read { self.shared(&me) } else { Ownership::everything() };
        self.metrics.members.set(ownership.members().count().max(1) as i64);
        let metrics = &self.metrics;
        self.outlets.ownership.send_if_modified(|known| {
            let changed = **known != ownership;
            if changed {
                report(known, &ownership);
                metrics.ownership_changes.inc();
                *known = Arc::new(ownership);
            }
            changed
        });
    }

    /// What falls to this elector among the members of its region.
    fn shared(&mut self, me: &Elector) -> Ownership {
        let (now, members) = (Instant::now(), self.roll.members(&me.region));
        let known = self.outlets.ownership.borrow().clone();
        let known: BTreeSet<&str> = known.members().collect();
        for newcomer in members.iter().filter(|member| !known.is_empty() && !known.contains(member.as_str())) {
            self.newcomers.insert(newcomer.clone(), now + SETTLE_AFTER);
        }
        self.newcomers.retain(|newcomer, settled| members.contains(newcomer) && *settled > now);
        let settled: Vec<String> = members.iter().filter(|member| !self.newcomers.contains_key(*member)).cloned().collect();
        Ownership::shared(&me.id, members, settled)
    }

    fn watch_for_twins(&mut self, id: &str) {
        if self.roll.registrations(id) < 2 {
            (self.twins_since, self.twins_reported) = (None, false);
            return;
        }
        let since = *self.twins_since.get_or_insert_with(Instant::now);
        if !self.twins_reported && since.elapsed() >= TWINS_AFTER {
            self.twins_reported = true;
            tracing::warn!(
                address = id,
                "another elector registers under this one's address, and both count as one: give each its own --advertise-address"
            );
        }
    }
}

fn report(known: &Ownership, ownership: &Ownership) {
    let (before, after): (BTreeSet<&str>, BTreeSet<&str>) = (known.members().collect(), ownership.members().collect());
    if before != after {
        let list = |ids: Vec<&str>| ids.join(" ");
        let joined = list(after.difference(&before).copied().collect());
        let left = list(before.difference(&after).copied().collect());
        tracing::info!(members = after.len(), joined, left, "the shards of this region are divided anew among its electors");
    }
}
