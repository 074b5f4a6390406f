//! Vitess's lock queue (facts: one key per waiter, its lease's number as name, the oldest revision holds the lock), with a lease
//! that is kept alive by a task of its own for as long as the lock is wanted.

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Kv, KvEntry, KvError, LeaseId, Topo, TopoError, Version, WatchEvent};

/// A keepalive is sent at least this often, and three times within the lease's life.
const KEEPALIVE_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Pause after a keepalive that failed, and after a failed look at the queue.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What a lock's contents say about its holder.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub host: String,
    pub user: String,
}

impl Identity {
    /// The host's name and the user that this process runs as.
    pub fn of_this_process() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
        let uid = std::fs::metadata("/proc/self").map(|process| process.uid().to_string()).unwrap_or_default();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_owned())
        });
        Self { host: host.unwrap_or_default().trim().to_owned(), user: user.unwrap_or(uid) }
    }

    /// The contents of a lock key, byte for byte as Vitess writes them.
    pub fn lock_contents(&self, action: &str, time: &jiff::Zoned) -> String {
        format!(
            "{{\n  \"Action\": {},\n  \"HostName\": {},\n  \"UserName\": {},\n  \"Time\": {},\n  \"Options\": {{}},\n  \"Status\": {}\n}}",
            json_text(action),
            json_text(&self.host),
            json_text(&self.user),
            json_text(&rfc3339(time)),
            json_text("Running"),
        )
    }
}

/// Seconds and the zone's offset, `Z` for none.
fn rfc3339(time: &jiff::Zoned) -> String {
    let format = if time.offset().seconds() == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    time.strftime(format).to_string()
}

/// A JSON string that is safe inside HTML as well, as Go writes it.
fn json_text(text: &str) -> String {
    let mut json = serde_json::Value::from(text).to_string();
    for unsafe_char in ['<', '>', '&', '\u{2028}', '\u{2029}'] {
        if json.contains(unsafe_char) {
            json = json.replace(unsafe_char, &format!("\\u{:04x}", u32::from(unsafe_char)));
        }
    }
    json
}

/// Where the lease of a lock stands.
#[derive(Debug, Clone)]
enum Lease {
    /// etcd keeps it at least until then.
    Alive { valid_until: Instant },
    /// It is gone.
    Lost { reason: String },
    /// We gave it back. The error where that failed: then it ends by itself.
    Released { error: Option<KvError> },
}

/// A place in the queue: first the wait for the lock, then the lock itself. Dropping it gives it back from its own task.
pub(crate) struct Place {
    /// Keeps the task's owner alive.
    topo: Topo,
    kv: Arc<dyn Kv>,
    /// What is locked, for a person: `shard commerce/0`.
    what: String,
    key: String,
    lease: LeaseId,
    revision: Version,
    state: watch::Sender<Lease>,
    stop: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Place {
    /// Takes a place in the queue of the folder `dir` and waits, at most `wait`, until it is the first. The calls to the store on
    /// the way have their own limits.
    pub async fn first_in_queue(topo: &Topo, what: &str, dir: &str, action: &str, wait: Duration) -> Result<Self, TopoError> {
        let deadline = Instant::now() + wait;
        let global = topo.global_store();
        let doing = format!("locking {what}");
        let below = global.kv.list_keys(&global.root.folder(dir)).await.map_err(TopoError::kv(doing.as_str()))?;
        if below.entries.is_empty() {
            return Err(TopoError::NotFound { what: what.to_owned(), key: global.root.key(dir) });
        }
        let queue = Queue { kv: global.kv, locks: global.root.folder(&format!("{dir}/locks")), what, deadline, waited: wait };
        let place = queue.enter(topo, action).await.map_err(TopoError::kv(doing))?;
        match queue.wait_until_first(&place).await {
            Ok(()) => Ok(place),
            Err(error) => {
                // The key must not stand in others' way when the caller learns that it has no lock.
                place.release().await;
                Err(error)
            }
        }
    }

    /// Fails at once when somebody holds the lock or waits for it.
    pub async fn try_first_in_queue(topo: &Topo, what: &str, dir: &str, action: &str) -> Result<Self, TopoError> {
        let global = topo.global_store();
        let locks = global.root.folder(&format!("{dir}/locks"));
        let queue = Queue { kv: global.kv, locks, what, deadline: Instant::now(), waited: Duration::ZERO };
        let listing = queue.kv.list_keys(&queue.locks).await.map_err(TopoError::kv(format!("locking {what}")))?;
        if !listing.entries.is_empty() {
            return Err(queue.timed_out(&listing.entries).await);
        }
        Self::first_in_queue(topo, what, dir, action, Duration::ZERO).await
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn revision(&self) -> Version {
        self.revision
    }

    pub fn kv(&self) -> &dyn Kv {
        &*self.kv
    }

    /// How long the lease is certain to live on.
    pub fn valid_for(&self) -> Duration {
        match &*self.state.borrow() {
            Lease::Alive { valid_until } => valid_until.saturating_duration_since(Instant::now()),
            Lease::Lost { .. } | Lease::Released { .. } => Duration::ZERO,
        }
    }

    /// Why the lock is lost, if it is.
    pub fn loss(&self) -> Option<String> {
        match &*self.state.borrow() {
            Lease::Alive { valid_until } if *valid_until > Instant::now() => None,
            Lease::Alive { .. } => Some(too_late()),
            Lease::Lost { reason } => Some(reason.clone()),
            Lease::Released { .. } => Some("it was given back".to_owned()),
        }
    }

    /// Resolves when the lock is lost.
    pub async fn lost(&self) -> String {
        let mut state = self.state.subscribe();
        loop {
            let valid_until = match &*state.borrow_and_update() {
                Lease::Alive { valid_until } => *valid_until,
                Lease::Lost { reason } => return reason.clone(),
                Lease::Released { .. } => return "it was given back".to_owned(),
            };
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return too_late() },
                () = sleep_until(valid_until) => {
                    if self.valid_for().is_zero() {
                        return self.loss().unwrap_or_else(too_late);
                    }
                }
            }
        }
    }

    /// Asks the store whether our key stands there under our lease, first in time at our revision. Answers before the lease ends.
    pub async fn verify(&self) -> Result<(), String> {
        if let Some(reason) = self.loss() {
            return Err(reason);
        }
        let valid_until = Instant::now() + self.valid_for();
        match timeout_at(valid_until, self.kv.get(&self.key)).await {
            Ok(Ok(Some(entry))) if entry.create_revision == self.revision && entry.lease == Some(self.lease) => Ok(()),
            Ok(Ok(_)) => {
                let reason = format!("{} is gone or not ours any more", self.key);
                self.lose(reason.clone());
                Err(reason)
            }
            Ok(Err(error)) => Err(format!("it could not be verified: {error}")),
            Err(_) => Err(too_late()),
        }
    }

    /// Publishes what somebody else but the keeper has seen.
    pub fn lose(&self, reason: String) {
        lose(&self.state, reason);
    }

    /// Gives the place back and waits for the store's answer, at most for the life of the lease.
    pub async fn release(self) {
        let mut state = self.state.subscribe();
        self.stop.cancel();
        // The keeper ends in one of these states within its own limits.
        let ended = state.wait_for(|state| !matches!(state, Lease::Alive { .. })).await;
        if let Ok(Lease::Released { error: Some(error) }) = ended.as_deref() {
            let ttl = self.topo.lease_ttl();
            tracing::warn!(lock = self.what, key = self.key, %error, ?ttl, "the lock was not given back; it ends with its lease");
        }
    }
}

fn too_late() -> String {
    "no keepalive was answered within the life of its lease".to_owned()
}

fn lose(state: &watch::Sender<Lease>, reason: String) {
    state.send_if_modified(|state| {
        let alive = matches!(state, Lease::Alive { .. });
        if alive {
            *state = Lease::Lost { reason };
        }
        alive
    });
}

/// The queue of one lock, as one waiter sees it.
struct Queue<'a> {
    kv: Arc<dyn Kv>,
    /// The folder of its keys, with a slash at the end.
    locks: String,
    what: &'a str,
    deadline: Instant,
    waited: Duration,
}

impl Queue<'_> {
    /// Makes a lease, has it kept alive, and makes our key under it.
    async fn enter(&self, topo: &Topo, action: &str) -> Result<Place, KvError> {
        let ttl = topo.lease_ttl();
        let sent = Instant::now();
        let lease = self.kv.lease_grant(ttl).await?;
        let (state, _) = watch::channel(Lease::Alive { valid_until: sent + ttl });
        let stop = topo.stop().child_token();
        let keeper = Keeper { kv: self.kv.clone(), lease, ttl, state: state.clone(), stop: stop.clone() };
        topo.tasks().spawn(keeper.run());
        let key = format!("{}{lease}", self.locks);
        let (kv, what) = (self.kv.clone(), self.what.to_owned());
        // From here on, dropping the place revokes the lease.
        let mut place = Place { topo: topo.clone(), kv, what, key, lease, revision: 0, state, stop };
        let contents = topo.identity().lock_contents(action, &jiff::Zoned::now());
        place.revision = self.kv.create(&place.key, contents.into_bytes(), Some(lease)).await?;
        Ok(place)
    }

    async fn wait_until_first(&self, place: &Place) -> Result<(), TopoError> {
        loop {
            let problem = match self.kv.list_keys(&self.locks).await {
                Ok(listing) => match predecessor(&listing.entries, place)? {
                    None => return Ok(()),
                    Some(_) if Instant::now() >= self.deadline => return Err(self.timed_out(&listing.entries).await),
                    Some(predecessor) => self.wait_for_end_of(&predecessor.key, listing.revision + 1, place).await?,
                },
                Err(error) => Some(error),
            };
            // A store that fails for a moment costs no place in the queue as long as the lease lives.
            if let Some(source) = problem {
                let retry = Instant::now() + RETRY_INTERVAL;
                if retry >= self.deadline {
                    return Err(TopoError::Kv { doing: format!("waiting for the lock on {}", self.what), source });
                }
                if let Ok(reason) = timeout_at(retry, place.lost()).await {
                    return Err(TopoError::LockLost { what: self.what.to_owned(), reason });
                }
            }
        }
    }

    /// Waits until something happens to that key, or the time is over. Answers why it could not be watched, if so.
    async fn wait_for_end_of(&self, key: &str, from: Version, place: &Place) -> Result<Option<KvError>, TopoError> {
        let mut watch = match self.kv.watch(key, from).await {
            Ok(watch) => watch,
            Err(error) => return Ok(Some(error)),
        };
        let ended = async {
            // Any event of the key, and the end of the watch as well, is a reason to look at the queue again.
            while let Some(event) = watch.events.recv().await {
                if !matches!(event, WatchEvent::Progress(_)) {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            reason = place.lost() => Err(TopoError::LockLost { what: self.what.to_owned(), reason }),
            _ = timeout_at(self.deadline, ended) => Ok(None),
        }
    }

    /// The error that names the holder: the oldest key of the queue that is not ours.
    async fn timed_out(&self, keys: &[KvEntry]) -> TopoError {
        let holder = keys.iter().min_by_key(|entry| entry.create_revision);
        let key = holder.map_or_else(|| self.locks.clone(), |holder| holder.key.clone());
        let contents = self.kv.get(&key).await.ok().flatten().map(|entry| entry.value).unwrap_or_default();
        TopoError::LockTimeout { shard: self.what.to_owned(), holder: holder_text(&contents), waited: self.waited, key }
    }
}

/// The youngest key that is older than ours. An error when ours is not there any more.
fn predecessor<'a>(keys: &'a [KvEntry], place: &Place) -> Result<Option<&'a KvEntry>, TopoError> {
    if !keys.iter().any(|entry| entry.key == place.key && entry.create_revision == place.revision) {
        let reason = place.loss().unwrap_or_else(|| format!("{} is gone", place.key));
        return Err(TopoError::LockLost { what: place.what.clone(), reason });
    }
    Ok(keys.iter().filter(|entry| entry.version < place.revision).max_by_key(|entry| entry.version))
}

/// What a lock's contents say, in short.
pub(super) fn holder_text(contents: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(contents).unwrap_or_default();
    match (json["Action"].as_str(), json["HostName"].as_str(), json["Time"].as_str()) {
        (Some(action), Some(host), Some(time)) => format!("{action} on {host} since {time}"),
        _ => format!("somebody unknown ({:?})", String::from_utf8_lossy(&contents[..contents.len().min(64)])),
    }
}

/// Keeps a lease alive until told to give it back.
struct Keeper {
    kv: Arc<dyn Kv>,
    lease: LeaseId,
    ttl: Duration,
    state: watch::Sender<Lease>,
    stop: CancellationToken,
}

impl Keeper {
    async fn run(self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            reason = self.keep() => {
                lose(&self.state, reason);
                self.stop.cancelled().await;
            }
        }
        let revoked = timeout(self.ttl, self.kv.lease_revoke(self.lease)).await;
        let silent =
            KvError::Refused { operation: format!("revoking lease {}", self.lease), reason: "no answer in time".to_owned() };
        let error = revoked.unwrap_or(Err(silent)).err();
        self.state.send_if_modified(|state| {
            let alive = matches!(state, Lease::Alive { .. });
            if alive {
                *state = Lease::Released { error };
            }
            alive
        });
    }

    /// Sends keepalives until one is too late; says why.
    async fn keep(&self) -> String {
        let interval = KEEPALIVE_INTERVAL_MAX.min(self.ttl / 3);
        let mut next = Instant::now() + interval;
        loop {
            let Lease::Alive { valid_until } = *self.state.borrow() else { return too_late() };
            if timeout_at(valid_until, sleep_until(next)).await.is_err() {
                return too_late();
            }
            let sent = Instant::now();
            match timeout_at(valid_until, self.kv.lease_keepalive(self.lease)).await {
                Ok(Ok(ttl)) => {
                    self.state.send_if_modified(|state| match state {
                        Lease::Alive { valid_until } => {
                            *valid_until = sent + ttl;
                            true
                        }
                        Lease::Lost { .. } | Lease::Released { .. } => false,
                    });
                    next = sent + interval;
                }
                Ok(Err(error @ KvError::LeaseGone { .. })) => return error.to_string(),
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.lease, %error, "a keepalive failed");
                    next = Instant::now() + RETRY_INTERVAL.min(interval);
                }
                Err(_) => return too_late(),
            }
        }
    }
}
