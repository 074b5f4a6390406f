//! List and watch of one prefix, for as long as it is wanted: what breaks is begun anew with a listing.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Kv, KvEntry, Version, Watch, WatchEvent};

/// Pause after a first failure; it doubles with each further one ...
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Events that are handed on at once when many wait.
const BATCH_MAX: usize = 512;

/// What a reader of the prefix has to take in.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// This is everything below the prefix; what was known before is void.
    All(Vec<KvEntry>),
    /// These changes, in order.
    Changes(Vec<WatchEvent>),
    /// What is known may be out of date from now on.
    Broken {
        /// Why.
        reason: String,
    },
}

/// One prefix of one store.
pub(crate) struct Source {
    pub kv: Arc<dyn Kv>,
    pub prefix: String,
}

/// Where a source stands.
enum State {
    /// Nothing is known: list.
    Empty { failures: u32 },
    /// Known up to this revision: watch from the next one on.
    Listed { revision: Version, failures: u32 },
    /// Told of every change.
    Watching { watch: Watch, began: Instant, failures: u32 },
    /// Failed: nothing is tried before that time.
    Waiting { until: Instant, failures: u32 },
}

impl Source {
    /// Reports news until nobody takes them. The caller stops it by dropping the future.
    pub async fn run<T>(&self, news: mpsc::Sender<(T, News)>, origin: T)
    where
        T: Clone,
    {
        let mut state = State::Empty { failures: 0 };
        loop {
            let (next, found) = self.step(state).await;
            if let Some(found) = found
                && news.send((origin.clone(), found)).await.is_err()
            {
                return;
            }
            state = next;
        }
    }

    async fn step(&self, state: State) -> (State, Option<News>) {
        match state {
            State::Empty { failures } => match self.kv.list(&self.prefix).await {
                Ok(listing) => (State::Listed { revision: listing.revision, failures }, Some(News::All(listing.entries))),
                Err(error) => failed(failures, error.to_string()),
            },
            State::Listed { revision, failures } => match self.kv.watch(&self.prefix, revision + 1).await {
                Ok(watch) => (State::Watching { watch, began: Instant::now(), failures }, None),
                Err(error) => failed(failures, error.to_string()),
            },
            State::Watching { mut watch, began, failures } => {
                let mut events = Vec::new();
                match watch.events.recv_many(&mut events, BATCH_MAX).await {
                    // Most often the store lives and only this watch ended: list at once, and report what that brings.
                    0 if began.elapsed() >= BACKOFF_MAX => (State::Empty { failures: 0 }, None),
                    0 => (waiting(failures), None),
                    _ => {
                        events.retain(|event| !matches!(event, WatchEvent::Progress(_)));
                        (State::Watching { watch, began, failures }, (!events.is_empty()).then_some(News::Changes(events)))
                    }
                }
            }
            State::Waiting { until, failures } => {
                sleep_until(until).await;
                (State::Empty { failures }, None)
            }
        }
    }
}

fn failed(failures: u32, reason: String) -> (State, Option<News>) {
    (waiting(failures), Some(News::Broken { reason }))
}

fn waiting(failures: u32) -> State {
    let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    State::Waiting { until: Instant::now() + pause, failures: failures + 1 }
}
