//! How the ledger is written in etcd: keys, and values as JSON with a version.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Acknowledgement, Kind, Outcome, Recovery, ScopeError, Switch, WINDOW_MAX, Window};
use crate::{
    text::within,
    topo::{NameError, ShardId, TabletAlias},
};

/// The version that is written and the newest that is understood.
pub(super) const VERSION: u32 = 1;

/// Longest text of one field that is kept: a value in etcd has to stay small.
const TEXT_BYTES_MAX: usize = 4096;

/// Bytes that are no value of ours.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("it is no JSON of this kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, and {VERSION} is the newest known here")]
    Version(u32),
    #[error("it names something that cannot be: {0}")]
    Name(#[from] NameError),
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("the key is none of the ledger's")]
    Key,
}

/// What a key below the ledger's prefix is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Recovery(ShardId),
    Acknowledged(ShardId),
    Window(String),
    Switch,
    Dropped,
}

/// The keys of one ledger.
#[derive(Debug, Clone)]
pub struct Keys {
    root: String,
}

impl Keys {
    pub fn new(ledger_root: &str) -> Self {
        Self { root: ledger_root.trim_end_matches('/').to_owned() }
    }

    /// What is watched: everything of the ledger, and nothing of the journal.
    pub fn prefix(&self) -> String {
        format!("{}/ledger/", self.root)
    }

    /// Whoever has this key, under a lease, prunes.
    pub fn pruner(&self) -> String {
        format!("{}/pruner", self.root)
    }

    pub fn of(&self, key: &Key) -> String {
        let prefix = self.prefix();
        match key {
            Key::Recovery(shard) => format!("{prefix}recoveries/{shard}/"),
            Key::Acknowledged(shard) => format!("{prefix}acknowledged/{shard}"),
            Key::Window(id) => format!("{prefix}maintenance/{id}"),
            Key::Switch => format!("{prefix}recoveries-disabled"),
            Key::Dropped => format!("{prefix}dropped"),
        }
    }

    /// A key of its own for a finished recovery: by time, for whoever lists it, and told apart by chance.
    pub fn of_recovery(&self, recovery: &Recovery, chance: u32) -> String {
        format!("{}{:013}-{chance:08x}", self.of(&Key::Recovery(recovery.shard.clone())), ms_of(recovery.at))
    }

    pub fn parse(&self, key: &str) -> Result<Key, StoredError> {
        let path = key.strip_prefix(&self.prefix()).ok_or(StoredError::Key)?;
        match path.split('/').collect::<Vec<_>>()[..] {
            ["recoveries", keyspace, shard, _] => Ok(Key::Recovery(ShardId::new(keyspace, shard)?)),
            ["acknowledged", keyspace, shard] => Ok(Key::Acknowledged(ShardId::new(keyspace, shard)?)),
            ["maintenance", id] => Ok(Key::Window(id.to_owned())),
            ["recoveries-disabled"] => Ok(Key::Switch),
            ["dropped"] => Ok(Key::Dropped),
            _ => Err(StoredError::Key),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredRecovery {
    version: u32,
    shard: String,
    code: String,
    kind: Kind,
    promoted: Option<String>,
    old: Option<String>,
    who: String,
    at_ms: u64,
    took_ms: u64,
    outcome: Outcome,
    evidence: String,
}

#[derive(Serialize, Deserialize)]
struct StoredAcknowledgement {
    version: u32,
    who: String,
    why: String,
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredWindow {
    version: u32,
    scope: String,
    owner: String,
    reason: String,
    from_ms: u64,
    until_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredSwitch {
    version: u32,
    who: String,
    why: String,
    since_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredDropped {
    version: u32,
    count: u64,
}

pub fn encode_recovery(recovery: &Recovery) -> Vec<u8> {
    let outcome = match &recovery.outcome {
        Outcome::Failed(reason) => Outcome::Failed(short(reason)),
        other => other.clone(),
    };
    encode(&StoredRecovery {
        version: VERSION,
        shard: recovery.shard.to_string(),
        code: recovery.code.clone(),
        kind: recovery.kind,
        promoted: recovery.promoted.as_ref().map(ToString::to_string),
        old: recovery.old.as_ref().map(ToString::to_string),
        who: short(&recovery.who),
        at_ms: ms_of(recovery.at),
        took_ms: recovery.took.as_millis() as u64,
        outcome,
        evidence: short(&recovery.evidence),
    })
}

pub fn decode_recovery(bytes: &[u8]) -> Result<Recovery, StoredError> {
    let stored: StoredRecovery = decode(bytes)?;
    let alias = |name: Option<String>| name.map(|name| name.parse::<TabletAlias>()).transpose();
    Ok(Recovery {
        shard: stored.shard.parse()?,
        code: stored.code,
        kind: stored.kind,
        promoted: alias(stored.promoted)?,
        old: alias(stored.old)?,
        who: stored.who,
        at: time_of(stored.at_ms),
        took: Duration::from_millis(stored.took_ms),
        outcome: stored.outcome,
        evidence: stored.evidence,
    })
}

pub fn encode_acknowledgement(who: &str, why: &str, at: SystemTime) -> Vec<u8> {
    encode(&StoredAcknowledgement { version: VERSION, who: short(who), why: short(why), at_ms: ms_of(at) })
}

pub fn decode_acknowledgement(bytes: &[u8]) -> Result<Acknowledgement, StoredError> {
    let stored: StoredAcknowledgement = decode(bytes)?;
    Ok(Acknowledgement { who: stored.who, why: stored.why, at: time_of(stored.at_ms) })
}

pub fn encode_window(window: &Window) -> Vec<u8> {
    encode(&StoredWindow {
        version: VERSION,
        scope: window.scope.to_string(),
        owner: short(&window.owner),
        reason: short(&window.reason),
        from_ms: ms_of(window.from),
        until_ms: ms_of(window.until),
    })
}

pub fn decode_window(id: &str, bytes: &[u8]) -> Result<Window, StoredError> {
    let stored: StoredWindow = decode(bytes)?;
    // Whatever was written by hand: no window is longer than one may be.
    let longest_ms = u64::try_from(WINDOW_MAX.as_millis()).unwrap_or(u64::MAX);
    Ok(Window {
        id: id.to_owned(),
        scope: stored.scope.parse()?,
        owner: stored.owner,
        reason: stored.reason,
        from: time_of(stored.from_ms),
        until: time_of(stored.until_ms.min(stored.from_ms.saturating_add(longest_ms))),
    })
}

pub fn encode_switch(who: &str, why: &str, since: SystemTime) -> Vec<u8> {
    encode(&StoredSwitch { version: VERSION, who: short(who), why: short(why), since_ms: ms_of(since) })
}

pub fn decode_switch(bytes: &[u8]) -> Result<Switch, StoredError> {
    let stored: StoredSwitch = decode(bytes)?;
    Ok(Switch { who: stored.who, why: stored.why, since: Some(time_of(stored.since_ms)) })
}

pub fn encode_dropped(count: u64) -> Vec<u8> {
    encode(&StoredDropped { version: VERSION, count })
}

pub fn decode_dropped(bytes: &[u8]) -> Result<u64, StoredError> {
    decode::<StoredDropped>(bytes).map(|stored| stored.count)
}

pub(super) fn encode<T: Serialize>(stored: &T) -> Vec<u8> {
    // A struct of strings and numbers always has a JSON form; its error case is for maps with other keys.
    serde_json::to_vec(stored).unwrap_or_default()
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoredError> {
    // The version comes first: a newer value may have another form altogether.
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<Head>(bytes)?.version {
        VERSION => Ok(serde_json::from_slice(bytes)?),
        other => Err(StoredError::Version(other)),
    }
}

pub(super) fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A time that cannot be is the beginning of time: it blocks nobody for longer than our own clock says.
pub(super) fn time_of(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}

pub(super) fn short(text: &str) -> String {
    within(text, TEXT_BYTES_MAX).to_owned()
}
