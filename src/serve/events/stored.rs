//! How events stand in etcd: keys and values.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    pb::vtelector::{Event, EventBatch},
    text::within,
};

/// Events below one key at most: three digits of a sequence number.
pub const BATCH_EVENTS_MAX: usize = 256;
/// Their bytes at most, unless one event alone has more: etcd takes 1.5 MiB in one request.
pub const BATCH_BYTES_MAX: usize = 128 << 10;
/// Sequence numbers of one revision: `revision * 1000 + place`, so that a person sees both.
pub const PLACES: u64 = 1000;

/// Longest text of one field, and most alternatives of a decision, that the log keeps.
const TEXT_BYTES_MAX: usize = 2048;
const REJECTED_MAX: usize = 8;

/// The keys below one ledger root.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Everything of the events, with a slash at the end.
    pub all: String,
}

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// A batch of events, by its name.
    Batch(&'a str),
    /// What a receiver has taken.
    Cursor(&'a str),
    /// Who delivers to a receiver; dies with it.
    Deliverer(&'a str),
    /// What is no longer there.
    Dropped,
    /// Something else, or of a later release.
    Other,
}

impl Keys {
    pub fn below(ledger_root: &str) -> Self {
        Self { all: format!("{}/events/", ledger_root.trim_end_matches('/')) }
    }

    /// A new key for a batch: by time, for whoever lists them, and told apart by chance.
    pub fn batch(&self, at: SystemTime, chance: u32) -> String {
        self.batch_of(&format!("{:013}-{chance:08x}", ms_of(at)))
    }

    /// The key of the batch of that name.
    pub fn batch_of(&self, name: &str) -> String {
        format!("{}log/{name}", self.all)
    }

    pub fn cursor(&self, receiver: &str) -> String {
        format!("{}cursors/{receiver}", self.all)
    }

    pub fn deliverer(&self, receiver: &str) -> String {
        format!("{}deliverers/{receiver}", self.all)
    }

    pub fn dropped(&self) -> String {
        format!("{}dropped", self.all)
    }

    /// Whoever has this key, under a lease, prunes.
    pub fn pruner(&self) -> String {
        format!("{}pruner", self.all)
    }

    pub fn parse<'a>(&self, key: &'a str) -> Key<'a> {
        let Some(path) = key.strip_prefix(&self.all) else { return Key::Other };
        match path.split_once('/') {
            Some(("log", name)) => Key::Batch(name),
            Some(("cursors", name)) => Key::Cursor(name),
            Some(("deliverers", name)) => Key::Deliverer(name),
            None if path == "dropped" => Key::Dropped,
            _ => Key::Other,
        }
    }
}

/// What a receiver has taken, and what keeps it from taking more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The last event that it has taken, or that was none of its.
    pub sequence: u64,
    /// Failures in a row of the delivery that is tried.
    #[serde(default)]
    pub failures: u64,
    /// The last of them.
    #[serde(default)]
    pub error: String,
    /// When this was written, in seconds since 1970: one that nobody renews belongs to no receiver any more.
    #[serde(default)]
    pub at_s: u64,
}

/// What is no longer in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Events that had to go before their time.
    pub count: u64,
    /// The last event that went, for whatever reason.
    pub floor: u64,
}

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // A struct of strings and numbers always has a JSON form; its error case is for maps with other keys.
    serde_json::to_vec(value).unwrap_or_default()
}

/// The sequence number of an event of a batch.
pub fn sequence(revision: i64, place: usize) -> u64 {
    u64::try_from(revision).unwrap_or_default().saturating_mul(PLACES).saturating_add(place as u64)
}

/// The events of a batch as they are told, with their numbers.
pub fn decode_batch(name: &str, revision: i64, bytes: &[u8]) -> Result<Vec<Event>, prost::DecodeError> {
    let EventBatch { who, events } = EventBatch::decode(bytes)?;
    let numbered = events.into_iter().take(PLACES as usize).enumerate().map(|(place, event)| Event {
        sequence: sequence(revision, place),
        id: format!("{name}-{place}"),
        who: who.clone(),
        ..event
    });
    Ok(numbered.collect())
}

/// The event without what would make it large: the log is read as a whole.
pub fn shortened(mut event: Event) -> Event {
    use crate::pb::vtelector::event::What;
    match &mut event.what {
        Some(What::Opened(problem) | What::Closed(problem)) => cut(&mut problem.why),
        Some(What::Decided(decision)) => {
            cut(&mut decision.why);
            decision.rejected.truncate(REJECTED_MAX);
            decision.rejected.iter_mut().for_each(|rejected| cut(&mut rejected.why));
            decision.blocked.iter_mut().for_each(|blocked| cut(&mut blocked.reason));
        }
        Some(What::Recovered(recovery)) => {
            cut(&mut recovery.failure);
            cut(&mut recovery.evidence);
        }
        Some(What::LeftAlone(_) | What::Dropped(_)) | None => {}
    }
    event
}

fn cut(text: &mut String) {
    text.truncate(within(text, TEXT_BYTES_MAX).len());
}

pub fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
