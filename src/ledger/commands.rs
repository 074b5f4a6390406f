//! What persons asked for: a journal of commands below `<ledger-root>/commands/`, one key each. Nothing is decided by it: writing it never
//! delays or fails a command, and what etcd does not take in time stands in the log alone.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::stored::{self, VERSION};
use crate::{
    metrics::SecurityMetrics,
    topo::{Kv, KvError, News, Source, WatchEvent},
};

/// Commands that wait for etcd; one more is not kept.
const UNWRITTEN_MAX: usize = 256;
/// News that wait for being taken in.
const NEWS_MAX: usize = 16;
/// How often one is tried to be written, and the pause between.
const TRIES: usize = 3;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Commands that are kept; of more, the oldest are deleted.
const COMMANDS_MAX: usize = 5000;
/// How long they are kept.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is looked whether there is anything to delete.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Keys that one look deletes at most.
const DELETED_MAX: usize = 500;

/// Something that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// When it was answered (wall clock).
    pub at: SystemTime,
    /// The name that was proven, or given where nothing is proven; empty = none.
    pub caller: String,
    /// How it was proven.
    pub proven_by: String,
    /// From where.
    pub from: String,
    /// The call.
    pub call: String,
    /// What it was about, such as `shard:commerce/0`.
    pub target: String,
    /// done, refused, failed or left.
    pub outcome: String,
    /// Why it was refused or failed.
    pub failure: String,
    /// Through which elector.
    pub elector: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    at_ms: u64,
    caller: String,
    proven_by: String,
    from: String,
    call: String,
    target: String,
    outcome: String,
    failure: String,
    elector: String,
}

fn encode(command: &Command) -> Vec<u8> {
    stored::encode(&Stored {
        version: VERSION,
        at_ms: stored::ms_of(command.at),
        caller: stored::short(&command.caller),
        proven_by: command.proven_by.clone(),
        from: command.from.clone(),
        call: command.call.clone(),
        target: stored::short(&command.target),
        outcome: command.outcome.clone(),
        failure: stored::short(&command.failure),
        elector: command.elector.clone(),
    })
}

/// What is not understood, such as a later release's, is left alone and not shown.
fn decode(bytes: &[u8]) -> Option<Command> {
    let stored: Stored = stored::decode(bytes).ok()?;
    Some(Command {
        at: stored::time_of(stored.at_ms),
        caller: stored.caller,
        proven_by: stored.proven_by,
        from: stored.from,
        call: stored.call,
        target: stored.target,
        outcome: stored.outcome,
        failure: stored.failure,
        elector: stored.elector,
    })
}

/// By key, which begins with the time.
type Known = BTreeMap<String, Command>;

/// The journal. Cheap to clone; when the last clone is dropped, it is closed.
#[derive(Clone)]
pub struct Commands {
    inner: Arc<Inner>,
    queue: mpsc::Sender<(String, Command)>,
    tasks: TaskTracker,
    _stop_with_us: Arc<DropGuard>,
}

struct Inner {
    kv: Arc<dyn Kv>,
    prefix: String,
    elector: String,
    metrics: SecurityMetrics,
    known: watch::Sender<Arc<Known>>,
}

impl Commands {
    /// Opens the journal below `root` and follows it until `stop`; `elector` is this process.
    pub fn start(kv: Arc<dyn Kv>, root: &str, elector: &str, metrics: SecurityMetrics, stop: &CancellationToken) -> Self {
        let prefix = format!("{}/commands/", root.trim_end_matches('/'));
        let (stop, tasks) = (stop.child_token(), TaskTracker::new());
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let (queue, queued) = mpsc::channel(UNWRITTEN_MAX);
        let source = Source { kv: kv.clone(), prefix: prefix.clone() };
        let inner = Arc::new(Inner { kv, prefix, elector: elector.to_owned(), metrics, known: watch::Sender::default() });
        let (reading, following, writing) = (stop.clone(), stop.clone(), stop.clone());
        tasks.spawn(async move { reading.run_until_cancelled(source.run(news, ())).await });
        let follower = inner.clone();
        tasks.spawn(async move { following.run_until_cancelled(follower.follow(inbox)).await });
        let writer = inner.clone();
        tasks.spawn(async move { writer.write(queued, &writing).await });
        tasks.close();
        Self { inner, queue, tasks, _stop_with_us: Arc::new(stop.drop_guard()) }
    }

    /// Keeps a command. Returns at once.
    pub fn record(&self, command: Command) {
        let command = Command { elector: self.inner.elector.clone(), ..command };
        let key = format!("{}{:013}-{:08x}", self.inner.prefix, stored::ms_of(command.at), rand::random::<u32>());
        self.inner.known.send_modify(|known| {
            Arc::make_mut(known).insert(key.clone(), command.clone());
        });
        if self.queue.try_send((key, command)).is_err() {
            self.inner.metrics.command_unrecorded();
        }
    }

    /// Those that are asked for, the newest first.
    pub fn newest(&self, limit: usize, wanted: impl Fn(&Command) -> bool) -> Vec<Command> {
        let known = self.inner.known.borrow().clone();
        known.values().rev().filter(|command| wanted(command)).take(limit).cloned().collect()
    }

    /// Waits until what was recorded is written after `stop` was cancelled, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.tasks.wait()).await;
    }
}

impl Inner {
    async fn follow(&self, mut inbox: mpsc::Receiver<((), News)>) {
        let mut looks = interval(PRUNE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = inbox.recv() => match news {
                    Some(((), news)) => self.known.send_modify(|known| take_in(Arc::make_mut(known), news)),
                    None => return,
                },
                _ = looks.tick() => self.prune().await,
            }
        }
    }

    async fn write(&self, mut queued: mpsc::Receiver<(String, Command)>, stop: &CancellationToken) {
        loop {
            let next = stop.run_until_cancelled(queued.recv()).await;
            // What waits when we stop is tried once.
            let (next, tries) = match next {
                Some(next) => (next, TRIES),
                None => (queued.try_recv().ok(), 1),
            };
            let Some((key, command)) = next else { return };
            if !self.put(&key, &command, tries, stop).await {
                self.metrics.command_unrecorded();
                tracing::info!(key, call = command.call, "a command is in the log alone: etcd did not take it");
            }
        }
    }

    async fn put(&self, key: &str, command: &Command, tries: usize, stop: &CancellationToken) -> bool {
        for attempt in 1..=tries {
            match self.kv.create(key, encode(command), None).await {
                // An earlier try was carried out and its answer lost.
                Ok(_) | Err(KvError::Exists { .. }) => return true,
                Err(_) if attempt < tries => {
                    let pause = tokio::time::sleep(TRY_AGAIN_AFTER);
                    stop.run_until_cancelled(pause).await;
                }
                Err(_) => {}
            }
        }
        false
    }

    /// Deletes what is old or too much. Several electors may delete the same.
    async fn prune(&self) {
        let known = self.known.borrow().clone();
        for key in superfluous(&known, SystemTime::now(), COMMANDS_MAX).take(DELETED_MAX) {
            // The next look tries again; nothing depends on it.
            if self.kv.delete(key, None).await.is_err() {
                return;
            }
        }
    }
}

fn take_in(known: &mut Known, news: News) {
    match news {
        News::All(entries) => {
            *known = entries.into_iter().filter_map(|entry| Some((entry.key, decode(&entry.value)?))).collect();
        }
        News::Changes(events) => {
            for event in events {
                match event {
                    WatchEvent::Put(entry) => {
                        if let Some(command) = decode(&entry.value) {
                            known.insert(entry.key, command);
                        }
                    }
                    WatchEvent::Delete { key, .. } => {
                        known.remove(&key);
                    }
                    WatchEvent::Progress(_) => {}
                }
            }
        }
        // What was known is the past: it does not become wrong.
        News::Broken { .. } => {}
    }
    while known.len() > 2 * COMMANDS_MAX {
        known.pop_first();
    }
}

fn superfluous(known: &Known, now: SystemTime, most: usize) -> impl Iterator<Item = &String> {
    let beyond = known.len().saturating_sub(most);
    let is_old = move |command: &Command| now.duration_since(command.at).unwrap_or_default() > KEPT_FOR;
    known.iter().enumerate().filter(move |(at, (_, command))| *at < beyond || is_old(command)).map(|(_, (key, _))| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(at: SystemTime) -> Command {
        Command {
            at,
            caller: "anna".to_owned(),
            proven_by: "password".to_owned(),
            from: "10.0.0.1".to_owned(),
            call: "SetWritable".to_owned(),
            target: "tablet:zone1-0000000101".to_owned(),
            outcome: "done".to_owned(),
            failure: String::new(),
            elector: "a:1".to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(decode(&encode(&command(now))), Some(command(now)));
        assert_eq!(decode(b"{\"version\": 2}"), None);
        assert_eq!(decode(b"garbage"), None);
    }

    #[test]
    fn the_oldest_go_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let days = |days: u64| now - Duration::from_secs(days * 24 * 3600);
        let known: Known = [("a", 40), ("b", 20), ("c", 10), ("d", 0)]
            .into_iter()
            .map(|(key, age)| (key.to_owned(), command(days(age))))
            .collect();
        assert_eq!(superfluous(&known, now, 10).collect::<Vec<_>>(), ["a"]);
        assert_eq!(superfluous(&known, now, 2).collect::<Vec<_>>(), ["a", "b"]);
    }
}
