//! Reading and writing one record of any kind: protobuf bytes under a key, with the version of the key.

use std::time::Duration;

use prost::Message;
use tokio::time::Instant;

use super::{KvEntry, KvError, TopoError, Version, keys::Root, stores::Store, unknown::keep_unknown};
use crate::pb::topodata;

/// How often a read-modify-write begins anew when somebody else was faster. Each time somebody got ahead, so few suffice.
const UPDATE_ATTEMPTS_MAX: usize = 20;
/// No new attempt is begun after this time.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(15);

/// A record and the version it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The decoded record.
    pub value: T,
    /// What a conditional write is conditioned on.
    pub version: Version,
}

/// Decides on a change of a record; answers whether to write it. It is asked again when somebody else was faster.
pub(crate) type Change<'a, T> = &'a mut (dyn FnMut(&mut T) -> bool + Send);

/// A message that is kept in the topology.
pub(crate) trait Record: Message + Default + Clone {
    /// The last element of its key, and its name for a person.
    const KIND: &'static str;
    /// Its full protobuf name.
    const MESSAGE: &'static str;
}

macro_rules! records {
    ($($kind:ident)*) => {
        $(impl Record for topodata::$kind {
            const KIND: &'static str = stringify!($kind);
            const MESSAGE: &'static str = concat!("topodata.", stringify!($kind));
        })*
    };
}

records! { CellInfo CellsAlias Keyspace Shard ShardReplication SrvKeyspace Tablet }

/// Decodes a record; the error names the key.
pub(crate) fn decode<T: Record>(entry: &KvEntry) -> Result<T, TopoError> {
    T::decode(entry.value.as_slice()).map_err(|error| garbage::<T>(entry, error.to_string()))
}

fn garbage<T: Record>(entry: &KvEntry, reason: String) -> TopoError {
    TopoError::Garbage { key: entry.key.clone(), kind: T::KIND, len: entry.value.len(), reason }
}

/// The bytes of a changed record, with what this program does not know of the original.
pub(crate) fn encode_over<T: Record>(original: &KvEntry, record: &T) -> Result<Vec<u8>, TopoError> {
    keep_unknown(T::MESSAGE, &original.value, &record.encode_to_vec())
        .ok_or_else(|| garbage::<T>(original, "its fields cannot be told apart".to_owned()))
}

impl Store {
    /// Reads a record; `what` names it in errors.
    pub(crate) async fn read<T: Record>(&self, what: &str, path: &str) -> Result<Versioned<T>, TopoError> {
        let entry = self.entry(what, path).await?.ok_or_else(|| not_found(&self.root, what, path))?;
        Ok(Versioned { value: decode(&entry)?, version: entry.version })
    }

    async fn entry(&self, what: &str, path: &str) -> Result<Option<KvEntry>, TopoError> {
        self.kv.get(&self.root.key(path)).await.map_err(TopoError::kv(format!("reading {what}")))
    }

    /// Writes a record that must not exist.
    pub(crate) async fn create<T: Record>(&self, what: &str, path: &str, record: &T) -> Result<Version, TopoError> {
        match self.kv.create(&self.root.key(path), record.encode_to_vec(), None).await {
            Err(KvError::Exists { .. }) => Err(TopoError::Exists { what: what.to_owned() }),
            other => other.map_err(TopoError::kv(format!("creating {what}"))),
        }
    }

    /// Read-modify-write of a record that must exist. What this program does not know of it survives.
    pub(crate) async fn update<T: Record>(
        &self,
        what: &str,
        path: &str,
        change: Change<'_, T>,
    ) -> Result<Versioned<T>, TopoError> {
        self.update_or(what, path, change, None).await
    }

    /// The same, with a record to start from where there is none.
    pub(crate) async fn update_or<T: Record>(
        &self,
        what: &str,
        path: &str,
        change: Change<'_, T>,
        default: Option<T>,
    ) -> Result<Versioned<T>, TopoError> {
        let key = self.root.key(path);
        let give_up = Instant::now() + UPDATE_TIMEOUT;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let entry = self.entry(what, path).await?;
            let mut value = match (&entry, &default) {
                (Some(entry), _) => decode::<T>(entry)?,
                (None, Some(default)) => default.clone(),
                (None, None) => return Err(not_found(&self.root, what, path)),
            };
            if !change(&mut value) {
                return Ok(Versioned { value, version: entry.map_or(0, |entry| entry.version) });
            }
            let written = match &entry {
                Some(entry) => self.kv.update(&key, encode_over(entry, &value)?, entry.version).await,
                None => self.kv.create(&key, value.encode_to_vec(), None).await,
            };
            match written {
                Ok(version) => return Ok(Versioned { value, version }),
                Err(KvError::BadVersion { .. } | KvError::Exists { .. })
                    if attempt < UPDATE_ATTEMPTS_MAX && Instant::now() < give_up => {}
                Err(source) => return Err(TopoError::Kv { doing: format!("updating {what}"), source }),
            }
        }
    }
}

fn not_found(root: &Root, what: &str, path: &str) -> TopoError {
    TopoError::NotFound { what: what.to_owned(), key: root.key(path) }
}
