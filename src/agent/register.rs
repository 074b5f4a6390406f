//! Registering in the topology at start, and leaving it cleanly.

use std::{collections::BTreeMap, time::Duration};

use super::{Agent, AgentError, AgentSettings, state};
use crate::{
    pb::topodata::{KeyRange, Keyspace, Tablet, TabletType},
    topo::{Topo, TopoError},
};

/// Schema of the reparent journal where the keyspace does not say.
const SIDECAR: &str = "_vt";

/// Longest wait for the keyspace lock when the shard has to be made.
const CREATE_WAIT: Duration = Duration::from_secs(30);

/// utf8mb4_0900_ai_ci: the collation that a vttablet in front of MySQL 8 writes.
const COLLATION: u32 = 255;

/// Makes what is missing of the keyspace and shard, and returns the schema of the journal.
pub async fn keyspace_and_shard(topo: &Topo, settings: &AgentSettings) -> Result<String, TopoError> {
    let shard = &settings.shard;
    let keyspace = match topo.keyspace(&shard.keyspace).await {
        Ok(keyspace) => keyspace.value,
        Err(error) if error.is_not_found() => {
            let keyspace = Keyspace { sidecar_db_name: SIDECAR.to_owned(), ..Keyspace::default() };
            match topo.create_keyspace(&shard.keyspace, &keyspace).await {
                // Another tablet of the keyspace was faster.
                Ok(()) | Err(TopoError::Exists { .. }) => topo.keyspace(&shard.keyspace).await?.value,
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    match topo.shard(shard).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => match topo.create_shard(shard, CREATE_WAIT).await {
            Ok(()) | Err(TopoError::Exists { .. }) => {}
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    }
    Ok(if keyspace.sidecar_db_name.is_empty() { SIDECAR.to_owned() } else { keyspace.sidecar_db_name })
}

/// Writes the tablet's record, with the type and term it comes back with, and adds it to the shard's replication graph.
pub async fn tablet(topo: &Topo, settings: &AgentSettings, grpc_port: u16, mysql_port: u16) -> Result<Tablet, AgentError> {
    let alias = &settings.alias;
    let shard = topo.shard(&settings.shard).await?.value;
    let own = match topo.tablet(alias).await {
        Ok(record) => Some(record.value),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(own) = &own
        && (own.keyspace.as_str(), own.shard.as_str()) != (settings.shard.keyspace.as_str(), settings.shard.shard.as_str())
    {
        return Err(AgentError::Precondition(format!(
            "{alias} is registered as a tablet of {}/{}, not of {}: delete that record or give another --tablet-path",
            own.keyspace, own.shard, settings.shard
        )));
    }
    let term = state::primary_at_start(alias, &shard, own.as_ref(), state::now());
    let record = record(settings, grpc_port, mysql_port, shard.key_range, term);
    if own.is_none() {
        match topo.create_tablet(&record).await {
            Ok(()) | Err(TopoError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let overwrite = &mut |old: &mut Tablet| {
        let write = *old != record;
        old.clone_from(&record);
        write
    };
    topo.update_tablet(alias, overwrite).await?;
    topo.add_to_shard_replication(&settings.shard, alias).await?;
    Ok(record)
}

fn record(
    settings: &AgentSettings,
    grpc_port: u16,
    mysql_port: u16,
    key_range: Option<KeyRange>,
    term: Option<crate::pb::vttime::Time>,
) -> Tablet {
    let kind = if term.is_some() { TabletType::Primary } else { settings.start_type };
    Tablet {
        alias: Some((&settings.alias).into()),
        hostname: settings.hostname.clone(),
        port_map: BTreeMap::from([("grpc".to_owned(), i32::from(grpc_port))]),
        keyspace: settings.shard.keyspace.clone(),
        shard: settings.shard.shard.clone(),
        key_range,
        r#type: kind as i32,
        tags: settings.tags.clone(),
        mysql_hostname: settings.hostname.clone(),
        mysql_port: i32::from(mysql_port),
        primary_term_start_time: term,
        default_conn_collation: COLLATION,
        tablet_start_time: Some(state::now()),
        ..Tablet::default()
    }
}

impl Agent {
    /// A clean shutdown: nobody is to call this tablet any more. Type, term and MySQL's port stay, as from a vttablet.
    pub(super) async fn sign_off(&self) -> Result<(), TopoError> {
        let change = &mut |record: &mut Tablet| {
            let own = self.state.borrow().tablet.clone();
            if (&record.hostname, &record.port_map) != (&own.hostname, &own.port_map) {
                return false;
            }
            record.hostname.clear();
            record.mysql_hostname.clear();
            record.port_map.clear();
            record.tablet_start_time = None;
            record.tablet_shutdown_time = Some(state::now());
            true
        };
        self.topo.update_tablet(&self.settings.alias, change).await.map(drop)
    }
}
