//! What is shown, made once a second however many look at it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tonic::Code;

use super::{
    lists,
    overview::{self, Filter},
    parts::Body,
    shard,
};
use crate::{
    pb::vtelector::{
        ErrantGtidsRequest, ExplainRequest, GetStatusRequest, GetStatusResponse, HistoryRequest, ShardsRequest, ShardsResponse,
    },
    serve::calls::{self, Context, Refusal},
};

/// How long something made is shown. A page is told of a change no sooner.
pub const FRESH: Duration = Duration::from_secs(1);
/// Pages that are kept at the same time; those beyond are made for each who asks.
const KEPT_MAX: usize = 256;

/// One page, whoever looks at it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// All shards.
    Overview(Filter),
    /// One shard.
    Shard {
        /// Its keyspace.
        keyspace: String,
        /// Its name.
        shard: String,
    },
    /// Errant transactions.
    Errant,
    /// What was done to all shards.
    Activity,
}

/// A page, and whether it offers what only operators may do.
type Key = (View, bool);

/// Made anew by the first who asks when it is no longer fresh; the others wait for that.
struct Slot<T>(tokio::sync::Mutex<Option<Made<T>>>);

struct Made<T> {
    at: Instant,
    /// How many commands there had been when it was begun.
    after: u64,
    value: T,
}

impl<T> Made<T> {
    fn is_fresh(&self, commands: u64) -> bool {
        self.at.elapsed() < FRESH && self.after == commands
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    async fn get(&self, commands: u64, make: impl Future<Output = T>) -> T {
        let mut kept = self.0.lock().await;
        match &*kept {
            Some(made) if made.is_fresh(commands) => made.value.clone(),
            _ => {
                let value = make.await;
                *kept = Some(Made { at: Instant::now(), after: commands, value: value.clone() });
                value
            }
        }
    }

    fn is_fresh(&self, commands: u64) -> bool {
        // Whoever holds it makes it anew.
        self.0.try_lock().map_or(true, |kept| kept.as_ref().is_some_and(|made| made.is_fresh(commands)))
    }
}

type Kept<T> = Result<Arc<T>, Refusal>;

/// Makes pages from what the calls answer.
#[derive(Default)]
pub struct Renderer {
    fleet: Slot<Kept<(ShardsResponse, GetStatusResponse)>>,
    pages: Mutex<BTreeMap<Key, Arc<Slot<Kept<Body>>>>>,
    /// Commands that were given through the page.
    commands: AtomicU64,
}

impl Renderer {
    /// A command was carried out: what was made before it is shown to nobody any more, or whoever gave it would see that nothing happened.
    pub fn commanded(&self) {
        self.commands.fetch_add(1, Ordering::AcqRel);
    }

    /// The page as it is now, or was less than a second ago.
    pub async fn page(&self, context: &Context, view: &View, may_act: bool) -> Kept<Body> {
        let commands = self.commands.load(Ordering::Acquire);
        let make = self.make(context, view, may_act, commands);
        match self.slot(view, may_act, commands) {
            Some(slot) => slot.get(commands, make).await,
            None => make.await,
        }
    }

    fn slot(&self, view: &View, may_act: bool, commands: u64) -> Option<Arc<Slot<Kept<Body>>>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (view.clone(), may_act);
        if let Some(slot) = pages.get(&key) {
            return Some(slot.clone());
        }
        if pages.len() >= KEPT_MAX {
            pages.retain(|_, slot| slot.is_fresh(commands));
        }
        (pages.len() < KEPT_MAX).then(|| pages.entry(key).or_default().clone())
    }

    async fn make(&self, context: &Context, view: &View, may_act: bool, commands: u64) -> Kept<Body> {
        let now = SystemTime::now();
        let made = match view {
            View::Overview(filter) => {
                let fleet = self.fleet.get(commands, fleet(context)).await?;
                overview::body(&fleet.0, &fleet.1, filter, now, may_act)
            }
            View::Shard { keyspace, shard } => {
                let request = ExplainRequest { keyspace: keyspace.clone(), shard: shard.clone(), ..ExplainRequest::default() };
                shard::body(&calls::explain::explain(context, request).await?, now, may_act)
            }
            View::Errant => lists::errant(&calls::errant::errant_gtids(context, ErrantGtidsRequest::default()).await?),
            View::Activity => lists::activity(&calls::ledger::history(context, HistoryRequest::default()).await?, now),
        };
        made.map(Arc::new).map_err(|error| Refusal::new(Code::Internal, format!("the page cannot be made: {error}")))
    }
}

async fn fleet(context: &Context) -> Kept<(ShardsResponse, GetStatusResponse)> {
    let shards = calls::overview::shards(context, ShardsRequest::default()).await?;
    Ok(Arc::new((shards, calls::ledger::get_status(context, GetStatusRequest {}).await?)))
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_made_is_shown_for_a_second_and_not_after_a_command() {
        let slot = Slot::default();
        assert_eq!(slot.get(0, ready(1)).await, 1);
        advance(FRESH / 2).await;
        assert_eq!(slot.get(0, ready(2)).await, 1);
        assert_eq!(slot.get(1, ready(3)).await, 3);
        // One that was begun before the command and came late shows nothing of it.
        assert_eq!(slot.get(0, ready(4)).await, 4);
        assert_eq!(slot.get(1, ready(5)).await, 5);
        assert!(slot.is_fresh(1) && !slot.is_fresh(2));
        advance(FRESH).await;
        assert_eq!(slot.get(1, ready(6)).await, 6);
    }
}
