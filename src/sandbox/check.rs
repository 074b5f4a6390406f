//! Is the cluster as it must be? Read from etcd and MySQL directly, not through the code that is under test.

use std::time::Duration;

use prost::Message;

use super::{Cluster, GLOBAL_ROOT, KEYSPACE, SHARD, SandboxError, eventually};
use crate::{
    mysql::GtidSet,
    pb::{
        topodata::{Shard, ShardReplication, Tablet, TabletType},
        vtelector::{HistoryRequest, Recovery, elector_client::ElectorClient},
    },
    topo::TabletAlias,
};

/// An acknowledgement may run ahead of the commit it is for by that much at most.
const ERRANT_LIMIT: Duration = Duration::from_secs(5);

impl Cluster {
    /// Waits until records and servers are all as they must be with `primary` as the primary; the error says what is not.
    pub async fn settled(&self, primary: &TabletAlias, limit: Duration) -> Result<(), SandboxError> {
        let what = format!("records and servers right with {primary} as the primary");
        eventually(&what, limit, async || {
            let mut wrong = self.wrong_records(primary).await?;
            wrong.extend(self.wrong_servers(primary).await?);
            if wrong.is_empty() { Ok(()) } else { Err(SandboxError::Wrong(wrong)) }
        })
        .await
    }

    /// Waits until a former primary is a replica like every other (`None`), or stands read-only beside the shard because it has these
    /// transactions that nobody else has.
    pub async fn returned(
        &self,
        old: &TabletAlias,
        primary: &TabletAlias,
        limit: Duration,
    ) -> Result<Option<GtidSet>, SandboxError> {
        eventually(&format!("{old} after its return"), limit, async || {
            if self.health_error(old).await?.contains("Errant GTID detected") {
                let own = self.tablet(old).mysqld.gtid_executed().await?;
                let errant = self.missing(&own, primary).await?;
                return errant.parse().map(Some).map_err(|error| SandboxError::Wrong(vec![format!("{errant:?}: {error}")]));
            }
            let mut wrong = self.wrong_records(primary).await?;
            wrong.extend(self.wrong_servers(primary).await?);
            if wrong.is_empty() { Ok(None) } else { Err(SandboxError::Wrong(wrong)) }
        })
        .await
    }

    /// The last failover that an elector made by itself.
    pub async fn last_failover(&self) -> Result<Option<Recovery>, SandboxError> {
        let failed = |error: String| SandboxError::Wrong(vec![format!("the elector's history: {error}")]);
        let client = ElectorClient::connect(self.elector_address()).await;
        let mut client = client.map_err(|error| failed(error.to_string()))?;
        let request = HistoryRequest { keyspace: KEYSPACE.to_owned(), shard: SHARD.to_owned(), limit: 20 };
        let answer = client.history(request).await.map_err(|status| failed(status.to_string()))?;
        Ok(answer.into_inner().recoveries.into_iter().find(|recovery| recovery.kind == "emergency"))
    }

    /// Transactions that a replica has and the primary has not: an error that names them.
    pub async fn no_errant(&self, primary: &TabletAlias) -> Result<(), SandboxError> {
        for alias in self.tablets.keys().filter(|alias| *alias != primary) {
            // The replica's own set is read first: what it has now, the primary must have by then or soon.
            let own = self.tablet(alias).mysqld.gtid_executed().await?;
            eventually(&format!("no errant transactions on {alias}"), ERRANT_LIMIT, async || {
                let errant = self.missing(&own, primary).await?;
                if errant.is_empty() { Ok(()) } else { Err(SandboxError::Wrong(vec![errant])) }
            })
            .await?;
        }
        Ok(())
    }

    /// What of a GTID set a tablet has not executed.
    pub async fn missing(&self, set: &str, alias: &TabletAlias) -> Result<String, SandboxError> {
        self.tablet(alias).mysqld.value(&format!("SELECT GTID_SUBTRACT('{set}', @@global.gtid_executed)")).await
    }

    /// Whom the shard record names.
    pub async fn declared_primary(&self) -> Result<Option<TabletAlias>, SandboxError> {
        let shard: Shard = self.record(&format!("{GLOBAL_ROOT}/keyspaces/{KEYSPACE}/shards/{SHARD}/Shard")).await?;
        Ok(shard.primary_alias.and_then(|alias| TabletAlias::try_from(&alias).ok()))
    }

    /// What is wrong in the topology with `primary` as the primary, one sentence each.
    pub async fn wrong_records(&self, primary: &TabletAlias) -> Result<Vec<String>, SandboxError> {
        let mut wrong = Vec::new();
        let shard: Shard = self.record(&format!("{GLOBAL_ROOT}/keyspaces/{KEYSPACE}/shards/{SHARD}/Shard")).await?;
        if shard.primary_alias != Some(primary.into()) {
            wrong.push(format!("the shard record names {:?}", shard.primary_alias.map(|alias| alias.uid)));
        }
        for alias in self.tablets.keys() {
            let tablet = self.tablet_record(alias).await?;
            let expected = if alias == primary { TabletType::Primary } else { TabletType::Replica };
            if tablet.r#type() != expected {
                wrong.push(format!("the record of {alias} says {}", tablet.r#type().as_str_name()));
            }
            let term = if alias == primary { shard.primary_term_start_time } else { None };
            if tablet.primary_term_start_time.filter(|term| term.seconds != 0) != term {
                wrong.push(format!("the record of {alias} has another primary term than the shard's"));
            }
        }
        let locks = self.keys(&format!("{GLOBAL_ROOT}/keyspaces/{KEYSPACE}/shards/{SHARD}/locks/")).await?;
        wrong.extend(locks.into_iter().map(|key| format!("the shard is locked by {key}")));
        Ok(wrong)
    }

    /// What is wrong on the MySQL servers with `primary` as the primary, one sentence each.
    pub async fn wrong_servers(&self, primary: &TabletAlias) -> Result<Vec<String>, SandboxError> {
        let mut wrong = Vec::new();
        let port = self.tablet(primary).mysqld.port().to_string();
        for (alias, tablet) in &self.tablets {
            let is_primary = alias == primary;
            if tablet.mysqld.is_writable().await? != is_primary {
                wrong.push(format!("{alias} is {}", if is_primary { "read-only" } else { "writable" }));
            }
            let semi_sync = "SELECT CONCAT(@@global.rpl_semi_sync_source_enabled, @@global.rpl_semi_sync_replica_enabled)";
            let semi_sync = tablet.mysqld.value(semi_sync).await?;
            // The replica side has no effect on a primary: vttablet leaves it on.
            let is_right = if is_primary { semi_sync.starts_with('1') } else { semi_sync == "01" };
            if self.has_ackers() && !is_right {
                wrong.push(format!("{alias} has semi-sync source and replica set to {semi_sync}"));
            }
            let rows = tablet.mysqld.query("SHOW REPLICA STATUS").await?;
            let field = |name: &str| rows.first().and_then(|row| row.get_opt::<String, _>(name)).and_then(Result::ok);
            let source = ["Source_Port", "Replica_IO_Running", "Replica_SQL_Running"].map(|name| field(name).unwrap_or_default());
            if is_primary && !rows.is_empty() {
                wrong.push(format!("{alias} is a replica of port {}", source[0]));
            }
            if !is_primary && source != [port.as_str(), "Yes", "Yes"] {
                wrong.push(format!("{alias} replicates from port {} with threads {} and {}", source[0], source[1], source[2]));
            }
        }
        Ok(wrong)
    }

    /// Every tablet has a record with its addresses and stands in the replication graph of its cell.
    pub(super) async fn check_registered(&self) -> Result<(), SandboxError> {
        for (alias, tablet) in &self.tablets {
            let record = self.tablet_record(alias).await?;
            if record.mysql_port != i32::from(tablet.mysqld.port()) {
                return Err(SandboxError::Wrong(vec![format!("the record of {alias} has MySQL port {}", record.mysql_port)]));
            }
            let key = format!("/vitess/{}/keyspaces/{KEYSPACE}/shards/{SHARD}/ShardReplication", alias.cell);
            let graph: ShardReplication = self.record(&key).await?;
            if !graph.nodes.iter().any(|node| node.tablet_alias == Some(alias.into())) {
                return Err(SandboxError::Wrong(vec![format!("{key} does not list {alias}")]));
            }
        }
        Ok(())
    }

    /// Names of keys that begin with `prefix`.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, SandboxError> {
        let options = etcd_client::GetOptions::new().with_prefix().with_keys_only();
        let answer = self.etcd.client().await?.get(prefix, Some(options)).await;
        let answer = answer.map_err(|source| SandboxError::Etcd { doing: format!("listing {prefix}"), source })?;
        Ok(answer.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned()).collect())
    }

    async fn tablet_record(&self, alias: &TabletAlias) -> Result<Tablet, SandboxError> {
        self.record(&format!("/vitess/{}/tablets/{alias}/Tablet", alias.cell)).await
    }

    async fn record<T: Message + Default>(&self, key: &str) -> Result<T, SandboxError> {
        let answer = self.etcd.client().await?.get(key, None).await;
        let answer = answer.map_err(|source| SandboxError::Etcd { doing: format!("reading {key}"), source })?;
        let bytes = answer.kvs().first().map(|kv| kv.value().to_vec());
        let record = bytes.and_then(|bytes| T::decode(&*bytes).ok());
        record.ok_or_else(|| SandboxError::Wrong(vec![format!("{key} is missing or garbage")]))
    }
}
