//! One link per tablet, kept while it is of use.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{
    dial::{Dialler, Endpoint},
    link::Link,
};
use crate::topo::TabletAlias;

/// A link that nobody used for so long is closed: its tablet is gone, or no business of ours any more.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// How often those are looked for: a fleet's whole list takes a while to look through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Links at most, one file descriptor each; the one that was not used for longest makes room. A large fleet has 9,000 tablets.
const LINKS_MAX: usize = 16_384;

struct Entry {
    link: Arc<Link>,
    last_used: Instant,
}

/// The links, by tablet. Calls under way keep theirs when it is dropped here.
pub(super) struct Links {
    dialler: Arc<Dialler>,
    tasks: TaskTracker,
    entries: Mutex<BTreeMap<TabletAlias, Entry>>,
    swept: Mutex<Option<Instant>>,
}

impl Links {
    pub(super) fn new(dialler: Dialler) -> Self {
        Self { dialler: Arc::new(dialler), tasks: TaskTracker::new(), entries: Mutex::default(), swept: Mutex::default() }
    }

    /// The tablet's link; a new one where there is none, where its record says another address, or where the old one is of no use.
    pub(super) fn get(&self, alias: &TabletAlias, endpoint: &Endpoint) -> Arc<Link> {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(alias)
            && entry.link.endpoint() == endpoint
            && entry.link.usable()
        {
            entry.last_used = now;
            return entry.link.clone();
        }
        if self.is_to_be_swept(now) || entries.len() >= LINKS_MAX {
            make_room(&mut entries, now);
        }
        let link = Link::open(endpoint.clone(), self.dialler.clone(), &self.tasks);
        entries.insert(alias.clone(), Entry { link: link.clone(), last_used: now });
        link
    }

    fn is_to_be_swept(&self, now: Instant) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let due = swept.is_none_or(|last| now.saturating_duration_since(last) >= SWEEP_INTERVAL);
        if due {
            *swept = Some(now);
        }
        due
    }

    /// Drops this link, if it is still the tablet's.
    pub(super) fn discard(&self, alias: &TabletAlias, link: &Arc<Link>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.get(alias).is_some_and(|entry| Arc::ptr_eq(&entry.link, link)) {
            entries.remove(alias);
        }
    }

    /// Drops the links of the tablets that are not to be kept.
    pub(super) fn retain(&self, keep: impl Fn(&TabletAlias) -> bool) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|alias, _| keep(alias));
    }

    #[cfg(test)]
    pub(super) fn aliases(&self) -> Vec<TabletAlias> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

fn make_room(entries: &mut BTreeMap<TabletAlias, Entry>, now: Instant) {
    entries.retain(|_, entry| now.saturating_duration_since(entry.last_used) < IDLE_MAX);
    if entries.len() >= LINKS_MAX
        && let Some(oldest) = entries.iter().min_by_key(|(_, entry)| entry.last_used).map(|(alias, _)| alias.clone())
    {
        entries.remove(&oldest);
    }
}
