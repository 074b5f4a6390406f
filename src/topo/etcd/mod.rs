//! The store of production: etcd, with our own failover and limits around a thin client.

mod link;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::Code;

use self::link::{Answer, CallError, Links, Operation};
use super::{Kv, KvEntry, KvError, LeaseId, Listing, TopoTls, Version, Watch};

/// A keepalive that is not answered by then goes to the next endpoint: a lease of some seconds must survive one dead member.
const KEEPALIVE_TIMEOUT_MAX: Duration = Duration::from_millis(700);

/// One etcd cluster.
pub struct EtcdKv {
    links: Links,
    /// Owns the tasks that feed watches.
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_with_us: DropGuard,
}

impl EtcdKv {
    /// Takes the endpoints (`host:port`, commas between); connects with the first request.
    pub fn new(addresses: &str, tls: Option<TopoTls>, request_timeout: Duration) -> Result<Self, KvError> {
        let links = Links::new(addresses, tls, request_timeout)?;
        let stop = CancellationToken::new();
        Ok(Self { links, tasks: TaskTracker::new(), _stop_with_us: stop.clone().drop_guard(), stop })
    }

    async fn range(&self, operation: Operation<'_>, key: &str, options: GetOptions) -> Result<(Vec<KvEntry>, Version), KvError> {
        let answer = self
            .links
            .call(operation, self.links.request_timeout(), |conn| {
                let (mut kv, options) = (conn.kv, options.clone());
                async move { kv.get(key, Some(options)).await }
            })
            .await
            .map_err(|error| self.failed(operation, error))?
            .value;
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok((answer.kvs().iter().map(entry).collect(), revision))
    }

    async fn txn(&self, operation: Operation<'_>, txn: Txn) -> Result<Answer<TxnResponse>, CallError> {
        self.links
            .call(operation, self.links.request_timeout(), |conn| {
                let (mut kv, txn) = (conn.kv, txn.clone());
                async move { kv.txn(txn).await }
            })
            .await
    }

    fn failed(&self, operation: Operation<'_>, error: CallError) -> KvError {
        match error {
            CallError::Unreachable(error) => error,
            // The refusal is of the later attempt; the first one may have been carried out.
            CallError::Refused { status, earlier_unknown: true } => {
                self.links.unreachable(operation, status.message().to_owned(), true)
            }
            CallError::Refused { status, .. } => {
                KvError::Refused { operation: operation.to_string(), reason: status.message().to_owned() }
            }
        }
    }

    /// A write was asked twice and the first answer is missing; what is there now does not tell whether the first was carried out.
    fn unknown(&self, operation: Operation<'_>) -> KvError {
        self.links.unreachable(operation, "an attempt was not answered, and the key has changed since".to_owned(), true)
    }
}

#[async_trait]
impl Kv for EtcdKv {
    async fn get(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        let (mut entries, _) = self.range(Operation::read("reading", key), key, GetOptions::new()).await?;
        Ok(entries.pop())
    }

    async fn get_at(&self, key: &str, revision: Version) -> Result<Option<KvEntry>, KvError> {
        let operation = Operation::read("reading an older version of", key);
        let found = self.range(operation, key, GetOptions::new().with_revision(revision)).await;
        let (mut entries, _) = found.map_err(|error| compacted(error, revision))?;
        Ok(entries.pop())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, KvError> {
        let (entries, revision) = self.range(Operation::read("listing", prefix), prefix, GetOptions::new().with_prefix()).await?;
        Ok(Listing { entries, revision })
    }

    async fn list_keys(&self, prefix: &str) -> Result<Listing, KvError> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let (entries, revision) = self.range(Operation::read("listing", prefix), prefix, options).await?;
        Ok(Listing { entries, revision })
    }

    async fn create(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Version, KvError> {
        let operation = Operation::write("creating", key);
        let put = TxnOp::put(key, value.clone(), lease.map(|lease| PutOptions::new().with_lease(lease)));
        let absent = Compare::version(key, CompareOp::Equal, 0);
        let txn = Txn::new().when([absent]).and_then([put]).or_else([TxnOp::get(key, None)]);
        let answer = self.txn(operation, txn).await.map_err(|error| match (error, lease) {
            // The only thing that a create can miss is its lease.
            (CallError::Refused { status, .. }, Some(lease)) if status.code() == Code::NotFound => KvError::LeaseGone { lease },
            (error, _) => self.failed(operation, error),
        })?;
        if answer.value.succeeded() {
            return Ok(revision(&answer.value));
        }
        match found(&answer.value) {
            // The first attempt was carried out after all: these are our bytes, under our lease, as they were first written.
            Some(kv)
                if answer.earlier_unknown && kv.version() == 1 && kv.value() == value && kv.lease() == lease.unwrap_or(0) =>
            {
                Ok(kv.mod_revision())
            }
            Some(kv) if answer.earlier_unknown && kv.version() > 1 => Err(self.unknown(operation)),
            _ => Err(KvError::Exists { key: key.to_owned() }),
        }
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Version) -> Result<Version, KvError> {
        let operation = Operation::write("updating", key);
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, expected);
        let put = TxnOp::put(key, value.clone(), None);
        let txn = Txn::new().when([unchanged]).and_then([put]).or_else([TxnOp::get(key, None)]);
        let answer = self.txn(operation, txn).await.map_err(|error| self.failed(operation, error))?;
        if answer.value.succeeded() {
            return Ok(revision(&answer.value));
        }
        match found(&answer.value) {
            // Written by our first attempt, or by somebody who wrote the very same.
            Some(kv) if answer.earlier_unknown && kv.value() == value && kv.mod_revision() > expected => Ok(kv.mod_revision()),
            _ if answer.earlier_unknown => Err(self.unknown(operation)),
            _ => Err(KvError::BadVersion { key: key.to_owned() }),
        }
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<Version, KvError> {
        let operation = Operation::write("writing", key);
        let txn = Txn::new().and_then([TxnOp::put(key, value, None)]);
        let answer = self.txn(operation, txn).await.map_err(|error| self.failed(operation, error))?;
        Ok(revision(&answer.value))
    }

    async fn delete(&self, key: &str, expected: Option<Version>) -> Result<bool, KvError> {
        let operation = Operation::write("deleting", key);
        let unchanged = expected.map(|expected| Compare::mod_revision(key, CompareOp::Equal, expected));
        let delete = TxnOp::delete(key, None::<DeleteOptions>);
        let txn = Txn::new().when(unchanged.into_iter().collect::<Vec<_>>()).and_then([delete]).or_else([TxnOp::get(key, None)]);
        let answer = self.txn(operation, txn).await.map_err(|error| self.failed(operation, error))?;
        if answer.value.succeeded() {
            let deleted = answer.value.op_responses().iter().any(|op| matches!(op, TxnOpResponse::Delete(d) if d.deleted() > 0));
            return Ok(deleted || answer.earlier_unknown);
        }
        match found(&answer.value) {
            Some(_) if answer.earlier_unknown => Err(self.unknown(operation)),
            Some(_) => Err(KvError::BadVersion { key: key.to_owned() }),
            None => Ok(answer.earlier_unknown),
        }
    }

    async fn put_guarded(&self, guard: (&str, Version), key: &str, value: Vec<u8>) -> Result<Option<Version>, KvError> {
        let operation = Operation::write("writing", key);
        let (guard, create_revision) = guard;
        let held = Compare::create_revision(guard, CompareOp::Equal, create_revision);
        let txn = Txn::new().when([held]).and_then([TxnOp::put(key, value, None)]);
        let answer = self.txn(operation, txn).await.map_err(|error| self.failed(operation, error))?;
        match answer.value.succeeded() {
            true => Ok(Some(revision(&answer.value))),
            // An attempt made while the guard still stood may have written.
            false if answer.earlier_unknown => Err(self.unknown(operation)),
            false => Ok(None),
        }
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        let operation = Operation::write("granting", "a lease");
        let ttl_s = ttl.as_secs_f64().ceil().max(1.0) as i64;
        let answer = self.links.call(operation, self.links.request_timeout(), |conn| {
            let mut lease = conn.lease;
            async move { lease.grant(ttl_s, None).await }
        });
        Ok(answer.await.map_err(|error| self.failed(operation, error))?.value.id())
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        let name = format!("lease {lease}");
        let operation = Operation::read("keeping alive", &name);
        let limit = self.links.request_timeout().min(KEEPALIVE_TIMEOUT_MAX);
        let answer = self.links.call(operation, limit, |conn| {
            let mut client = conn.lease;
            async move {
                // The client keeps the first answer to itself and turns a dead lease into this error; its life is in the second.
                let (mut keeper, mut answers) = match client.keep_alive(lease).await {
                    Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Ok(0),
                    other => other?,
                };
                keeper.keep_alive().await?;
                let answer = answers.message().await?;
                answer.map(|answer| answer.ttl()).ok_or_else(|| etcd_client::Error::WatchError("the stream ended".to_owned()))
            }
        });
        match answer.await.map_err(|error| self.failed(operation, error))?.value {
            ttl_s @ 1.. => Ok(Duration::from_secs(ttl_s.unsigned_abs())),
            _ => Err(KvError::LeaseGone { lease }),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        let name = format!("lease {lease}");
        let operation = Operation::write("revoking", &name);
        let answer = self.links.call(operation, self.links.request_timeout(), |conn| {
            let mut client = conn.lease;
            async move { client.revoke(lease).await }
        });
        match answer.await {
            Ok(_) => Ok(()),
            Err(CallError::Refused { status, .. }) if status.code() == Code::NotFound => Ok(()),
            Err(error) => Err(self.failed(operation, error)),
        }
    }

    async fn watch(&self, prefix: &str, from: Version) -> Result<Watch, KvError> {
        // etcd tells a watch only later that its start is gone; a read of that revision tells at once.
        let operation = Operation::read("watching", prefix);
        let probe = GetOptions::new().with_prefix().with_keys_only().with_limit(1).with_revision(from);
        match self.range(operation, prefix, probe).await.map_err(|error| compacted(error, from)) {
            Err(KvError::Refused { reason, .. }) if reason.contains("future revision") => {}
            other => drop(other?),
        }
        self.open_watch(prefix, from).await
    }
}

fn entry(kv: &KeyValue) -> KvEntry {
    KvEntry {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        version: kv.mod_revision(),
        create_revision: kv.create_revision(),
        lease: (kv.lease() != 0).then(|| kv.lease()),
    }
}

fn revision(answer: &TxnResponse) -> Version {
    answer.header().map_or(0, |header| header.revision())
}

/// The key that the other branch of a transaction read.
fn found(answer: &TxnResponse) -> Option<KeyValue> {
    answer.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
        _ => None,
    })
}

fn compacted(error: KvError, revision: Version) -> KvError {
    match error {
        KvError::Refused { operation, reason } if reason.contains("compacted") => KvError::Compacted { operation, revision },
        error => error,
    }
}
