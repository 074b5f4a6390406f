//! Every tablet that would be watched: its tablet manager, its server's settings and clock, and the account that asks MySQL directly.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    LIMIT,
    check::Check,
    server::{self, VARIABLES},
};
use crate::{
    config::Settings,
    mysql::{fence, fence::DirectFence, tls::MysqlTls},
    pb::{query::QueryResult, topodata::Tablet},
    tablet::{Call, GrpcTabletManager, TabletManager},
    topo::{ShardId, TabletAlias, Topo},
};

/// Tablets that are asked at the same time.
const ASKED_MAX: usize = 32;

/// Whom and how to ask.
struct Doctor {
    tablets: GrpcTabletManager,
    direct: Option<DirectFence>,
    /// Keyspaces whose commits have to be acknowledged.
    acknowledged: BTreeSet<String>,
    call: Call,
}

/// One line for each thing that stands in the way, and one that counts those where nothing does.
pub async fn checks(topo: &Topo, settings: &Settings) -> Vec<Check> {
    let tablets = match GrpcTabletManager::new(settings.tablets()) {
        Ok(tablets) => tablets,
        Err(error) => return vec![Check::fail("tablets", error.to_string(), "see --tablet-manager-grpc-*")],
    };
    let mut checks = Vec::new();
    let (records, acknowledged) = records(topo, settings, &mut checks).await;
    let mysql_tls = settings.mysql_tls.as_ref().and_then(|files| match MysqlTls::load(files) {
        Ok(tls) => Some(tls),
        Err(error) => {
            checks.push(Check::fail("--mysql-ssl-*", error.to_string(), "give files that can be read"));
            None
        }
    });
    let direct = settings.fence.clone().map(|account| DirectFence::new(account).tls(mysql_tls));
    if direct.is_none() {
        let change = "give --fence-mysql-user: without it a server whose tablet is gone cannot be fenced";
        checks.push(Check::warn("an account for MySQL", "none is given", change));
    }
    let call = Call::read(settings.remote_operation_timeout.min(LIMIT));
    let doctor = Doctor { tablets, direct, acknowledged, call };
    let looks: Vec<_> = records.iter().map(|record| doctor.look(record)).collect();
    let found: Vec<Vec<Check>> = stream::iter(looks).buffered(ASKED_MAX).collect().await;
    let healthy = found.iter().filter(|checks| checks.is_empty()).count();
    checks.push(Check::ok("tablets", format!("{healthy} of {} answer, and nothing stands in the way", records.len())));
    checks.extend(found.into_iter().flatten());
    checks
}

/// The tablets that would be watched, and the keyspaces whose policy wants acknowledgements.
async fn records(topo: &Topo, settings: &Settings, checks: &mut Vec<Check>) -> (Vec<Tablet>, BTreeSet<String>) {
    let (mut records, mut acknowledged) = (Vec::new(), BTreeSet::new());
    for cell in topo.cells().await.unwrap_or_default() {
        match topo.cell_tablets(&cell).await {
            Ok(tablets) => records.extend(tablets),
            Err(error) => checks.push(Check::fail(format!("tablets of {cell}"), error.to_string(), "see the etcd of that cell")),
        }
    }
    let watched = |record: &Tablet| ShardId::new(&record.keyspace, &record.shard).is_ok_and(|id| settings.watched.includes(&id));
    records.retain(|record| watched(record) && record.tablet_shutdown_time.is_none());
    let keyspaces: BTreeSet<String> = records.iter().map(|record| record.keyspace.clone()).collect();
    for keyspace in keyspaces {
        let about = format!("keyspace {keyspace}");
        let change = format!("vtelector set-keyspace-durability-policy {keyspace} --durability-policy=semi_sync");
        match topo.keyspace(&keyspace).await.map(|record| record.value.durability_policy) {
            Ok(policy) if policy.is_empty() => {
                checks.push(Check::fail(about, "has no durability policy, and is left alone", change));
            }
            Ok(policy) if policy == "none" => {
                checks.push(Check::warn(about, "its policy is none: a failover may lose what was acknowledged", change));
            }
            Ok(_) => drop(acknowledged.insert(keyspace)),
            Err(error) => checks.push(Check::fail(about, error.to_string(), "see its record")),
        }
    }
    (records, acknowledged)
}

impl Doctor {
    /// What stands in the way of one tablet.
    async fn look(&self, record: &Tablet) -> Vec<Check> {
        let alias = record.alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
        let name = format!("tablet {}", alias.map(|alias| alias.to_string()).unwrap_or_default());
        if let Err(error) = self.tablets.ping(record, self.call).await {
            let change = "see that its vttablet runs, the network between, and --tablet-manager-grpc-*";
            return vec![Check::fail(name, error.to_string(), change)];
        }
        let needs_semi_sync = self.acknowledged.contains(&record.keyspace);
        let mut checks = match self.tablets.full_status(record, self.call).await {
            Ok(full) => server::status(&name, &full, needs_semi_sync),
            Err(error) => vec![Check::fail(name.clone(), error.to_string(), "see its MySQL: the tablet manager cannot ask it")],
        };
        let sent = (Instant::now(), SystemTime::now());
        if let Ok(answer) = self.tablets.execute_fetch_as_dba(record, VARIABLES, 100, self.call).await {
            let middle = sent.1.duration_since(UNIX_EPOCH).unwrap_or_default() + sent.0.elapsed() / 2;
            checks.extend(server::variables(&name, &pairs(&answer), needs_semi_sync, middle.as_secs_f64()));
        }
        checks.extend(self.direct(&name, record).await);
        checks
    }

    /// Whether the account that fences can log in there, and may do what it has to.
    async fn direct(&self, name: &str, record: &Tablet) -> Option<Check> {
        let direct = self.direct.as_ref()?;
        let about = format!("{name} MySQL directly");
        let change = "see the account, its password and the network between";
        let address = match fence::address(record) {
            Ok(address) => address,
            Err(error) => return Some(Check::fail(about, error.to_string(), "see the tablet's record")),
        };
        match direct.grants(&address, Instant::now() + Duration::min(LIMIT, self.call.timeout)).await {
            Err(error) => Some(Check::fail(about, error.to_string(), change)),
            Ok(grants) => {
                let missing = server::missing_privileges(&grants);
                let change = format!("GRANT {} ON *.* TO that account", missing.join(", "));
                (!missing.is_empty()).then(|| Check::fail(about, format!("the account lacks {}", missing.join(", ")), change))
            }
        }
    }
}

/// The rows of two columns, as names and values. A row's values stand one after the other, and their lengths beside.
fn pairs(answer: &QueryResult) -> BTreeMap<String, String> {
    let pair = |row: &crate::pb::query::Row| {
        let mut rest = row.values.as_slice();
        let mut texts = row.lengths.iter().map(|length| {
            let (value, after) = rest.split_at_checked(usize::try_from(*length).ok()?)?;
            rest = after;
            Some(String::from_utf8_lossy(value).into_owned())
        });
        Some((texts.next()??.to_ascii_lowercase(), texts.next()??))
    };
    answer.rows.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::query::Row;

    #[test]
    fn rows_become_names_and_values_and_what_does_not_fit_is_left_out() {
        let row = |lengths: &[i64], values: &str| Row { lengths: lengths.to_vec(), values: values.as_bytes().to_vec() };
        let rows = vec![
            row(&[11, 1], "sync_binlog1"),
            row(&[3, -1], "abc"),
            row(&[300, 1], "short"),
            row(&[1], "a"),
            row(&[3, 2], "NOW42"),
        ];
        let found = pairs(&QueryResult { rows, ..QueryResult::default() });
        let expected = [("now", "42"), ("sync_binlog", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected.into());
    }
}
