//! What is shown, made once a second however many look at it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
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
struct Slot<T>(tokio::sync::Mutex<Option<(Instant, T)>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    async fn get(&self, make: impl Future<Output = T>) -> T {
        let mut kept = self.0.lock().await;
        match &*kept {
            Some((made, value)) if made.elapsed() < FRESH => value.clone(),
            _ => {
                let value = make.await;
                *kept = Some((Instant::now(), value.clone()));
                value
            }
        }
    }

    fn is_fresh(&self) -> bool {
        // Whoever holds it makes it anew.
        self.0.try_lock().map_or(true, |kept| kept.as_ref().is_some_and(|(made, _)| made.elapsed() < FRESH))
    }
}

type Kept<T> = Result<Arc<T>, Refusal>;

/// Makes pages from what the calls answer.
#[derive(Default)]
pub struct Renderer {
    fleet: Slot<Kept<(ShardsResponse, GetStatusResponse)>>,
    pages: Mutex<BTreeMap<Key, Arc<Slot<Kept<Body>>>>>,
}

impl Renderer {
    /// The page as it is now, or was less than a second ago.
    pub async fn page(&self, context: &Context, view: &View, may_act: bool) -> Kept<Body> {
        let make = self.make(context, view, may_act);
        match self.slot(view, may_act) {
            Some(slot) => slot.get(make).await,
            None => make.await,
        }
    }

    fn slot(&self, view: &View, may_act: bool) -> Option<Arc<Slot<Kept<Body>>>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (view.clone(), may_act);
        if let Some(slot) = pages.get(&key) {
            return Some(slot.clone());
        }
        if pages.len() >= KEPT_MAX {
            pages.retain(|_, slot| slot.is_fresh());
        }
        (pages.len() < KEPT_MAX).then(|| pages.entry(key).or_default().clone())
    }

    async fn make(&self, context: &Context, view: &View, may_act: bool) -> Kept<Body> {
        let now = SystemTime::now();
        let made = match view {
            View::Overview(filter) => {
                let fleet = self.fleet.get(fleet(context)).await?;
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
