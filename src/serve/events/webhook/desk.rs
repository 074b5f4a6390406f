//! Follows the file of webhooks and keeps one courier a receiver.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    super::{json::Printer, log::EventLog},
    courier::Courier,
    file::{self, FileError, Receiver},
    post::{HttpPost, Post, Posts},
};
use crate::{pb::vtelector::WebhookState, pb::vttime};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A courier that is told to stop has so long.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

/// All receivers. Cheap to clone; when the last clone is dropped, nothing is delivered any more.
#[derive(Clone)]
pub struct Desk {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    _stop_with_us: Arc<DropGuard>,
}

struct Shared {
    log: EventLog,
    printer: Printer,
    posts: Posts,
    in_force: Mutex<InForce>,
}

#[derive(Default)]
struct InForce {
    receivers: Vec<Arc<Receiver>>,
    error: Option<String>,
}

struct Running {
    receiver: Arc<Receiver>,
    stop: CancellationToken,
    courier: JoinHandle<()>,
}

impl Desk {
    /// Delivers what the log tells to the receivers of that file, until `stop`.
    pub fn start(file: Option<PathBuf>, log: EventLog, printer: Printer, stop: &CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        let posts: Posts = Arc::new(move |receiver| Ok(Arc::new(HttpPost::new(receiver, connections.clone())?) as Arc<dyn Post>));
        Self::with_posts(file, log, printer, posts, tasks, stop)
    }

    /// The same with other means of delivery.
    pub fn with_posts(
        file: Option<PathBuf>,
        log: EventLog,
        printer: Printer,
        posts: Posts,
        tasks: TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared { log, printer, posts, in_force: Mutex::default() });
        let stop = stop.child_token();
        if let Some(file) = file {
            let clerk = Clerk { shared: shared.clone(), file, read: None, running: BTreeMap::new(), tasks: tasks.clone() };
            let following = stop.clone();
            tasks.spawn(async move { clerk.run(following).await });
        }
        Self { shared, tasks, _stop_with_us: Arc::new(stop.drop_guard()) }
    }

    /// The receivers, for a person.
    pub fn status(&self) -> Vec<WebhookState> {
        let receivers = self.shared.in_force().receivers.clone();
        receivers.iter().map(|receiver| self.state(receiver)).collect()
    }

    /// Why the file cannot be taken; `None` = it is in force, or there is none.
    pub fn error(&self) -> Option<String> {
        self.shared.in_force().error.clone()
    }

    fn state(&self, receiver: &Receiver) -> WebhookState {
        let inner = &self.shared.log.inner;
        let state = inner.state();
        let cursor = state.cursor(&receiver.name).cloned();
        // Before anything was written down, nothing is owed.
        let pending = cursor.as_ref().map(|cursor| state.pending(cursor.sequence, &receiver.wanted)).unwrap_or_default();
        let cursor = cursor.unwrap_or_default();
        WebhookState {
            name: receiver.name.clone(),
            template: receiver.template.name().to_owned(),
            target: receiver.target.clone(),
            deliverer: state.deliverer(&receiver.name).unwrap_or_default().to_owned(),
            delivered_sequence: cursor.sequence,
            pending: pending.count,
            oldest_pending: pending.oldest_s.map(|seconds| vttime::Time { seconds, nanoseconds: 0 }),
            failures: cursor.failures,
            error: cursor.error,
        }
    }

    /// Waits until everything has ended after `stop` was cancelled, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        self.tasks.close();
        // An idle connection to a receiver may outlive this; the process ends it.
        _ = timeout(limit, self.tasks.wait()).await;
    }
}

impl Shared {
    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver, and what brings messages to it.
type Reached = (Arc<Receiver>, Arc<dyn Post>);

/// Whoever follows the file.
struct Clerk {
    shared: Arc<Shared>,
    file: PathBuf,
    read: Option<Result<Vec<Receiver>, FileError>>,
    running: BTreeMap<String, Running>,
    tasks: TaskTracker,
}

impl Clerk {
    async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => {}
            }
            let file = self.file.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || file::read(&file)).await else { continue };
            if self.read.as_ref() != Some(&found) {
                self.take(found.clone(), &stop).await;
                self.read = Some(found);
            }
        }
        self.running.values().for_each(|running| running.stop.cancel());
        for running in self.running.into_values() {
            end(running).await;
        }
    }

    async fn take(&mut self, found: Result<Vec<Receiver>, FileError>, stop: &CancellationToken) {
        let made = found.map_err(|error| error.to_string()).and_then(|receivers| self.posts(receivers));
        let error = made.as_ref().err().cloned();
        self.shared.log.inner.metrics.file_error(error.is_some());
        if let Some(error) = &error {
            tracing::warn!(error, "the file of webhooks cannot be taken: the old ones stay in force");
        }
        self.shared.in_force().error = error;
        let Ok(wanted) = made else { return };
        let is_wanted = |running: &Running| wanted.iter().any(|(receiver, _)| *receiver == running.receiver);
        let over: Vec<String> =
            self.running.iter().filter(|(_, running)| !is_wanted(running)).map(|(name, _)| name.clone()).collect();
        for running in over.into_iter().filter_map(|name| self.running.remove(&name)) {
            running.stop.cancel();
            end(running).await;
        }
        self.shared.in_force().receivers = wanted.iter().map(|(receiver, _)| receiver.clone()).collect();
        for (receiver, post) in wanted {
            if !self.running.contains_key(&receiver.name) {
                self.begin(receiver, post, stop);
            }
        }
    }

    fn posts(&self, receivers: Vec<Receiver>) -> Result<Vec<Reached>, String> {
        let made = receivers.into_iter().map(|receiver| match (self.shared.posts)(&receiver) {
            Ok(post) => Ok((Arc::new(receiver), post)),
            Err(error) => Err(format!("webhook {:?}: {error}", receiver.name)),
        });
        made.collect()
    }

    fn begin(&mut self, receiver: Arc<Receiver>, post: Arc<dyn Post>, stop: &CancellationToken) {
        if receiver.target.starts_with("http:") {
            let (name, target) = (&receiver.name, &receiver.target);
            tracing::warn!(receiver = name, target, "events go to this receiver without TLS: whoever is on the way reads them");
        }
        let stop = stop.child_token();
        let courier =
            Courier { receiver: receiver.clone(), log: self.shared.log.clone(), post, printer: self.shared.printer.clone() };
        let stopping = stop.clone();
        let courier = self.tasks.spawn(async move { courier.run(stopping).await });
        self.running.insert(receiver.name.clone(), Running { receiver, stop, courier });
    }
}

async fn end(running: Running) {
    if timeout(STOPS_WITHIN, running.courier).await.is_err() {
        tracing::warn!(receiver = running.receiver.name, "its deliverer did not stop in time");
    }
}
