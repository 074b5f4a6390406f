//! Looks whether a workflow is switching a shard's traffic, before a move that can wait.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    diagnose::traffic::{self, STREAMS_MAX, Stream},
    pb::{query::QueryResult, topodata::Tablet},
    tablet::{Call, TabletError, TabletManager},
    topo::{ShardId, Topo, TopoError},
};

/// Where Vitess keeps its own tables when the keyspace record names no other database.
const SIDECAR_DB: &str = "_vt";
/// MySQL's error numbers for a database or table that does not exist: where no stream ever was.
const NO_SUCH_DATABASE: u32 = 1049;
const NO_SUCH_TABLE: u32 = 1146;

/// Why it cannot be told. A planned move waits then as well.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrafficError {
    /// A record or a lock could not be read.
    #[error("cannot tell whether a workflow switches traffic of {shard}: {source}")]
    Topology {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: Box<TopoError>,
    },
    /// The primary did not tell its streams.
    #[error("cannot tell whether a workflow switches traffic of {shard}: its primary does not tell its streams: {source}")]
    Streams {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: Box<TabletError>,
    },
    /// It took too long.
    #[error("cannot tell whether a workflow switches traffic of {shard}: no answer within {limit:?}")]
    Timeout {
        /// The shard.
        shard: ShardId,
        /// The limit.
        limit: Duration,
    },
}

/// What says that a workflow is switching the shard's traffic: a lock and its action, denied tables, a disabled query service, or a
/// stream on the primary; `None` = nothing. Planned moves are deferred for it, emergencies are not. Ends within `limit`.
pub async fn traffic_in_the_way(
    topo: &Topo,
    tablets: &Arc<dyn TabletManager>,
    shard: &ShardId,
    primary: &Tablet,
    limit: Duration,
) -> Result<Option<String>, TrafficError> {
    let look = async {
        if let Some(found) = in_topology(topo, shard, primary)
            .await
            .map_err(|source| TrafficError::Topology { shard: shard.clone(), source: Box::new(source) })?
        {
            return Ok(Some(found));
        }
        let keyspace = topo.keyspace(&shard.keyspace).await;
        let keyspace =
            keyspace.map_err(|source| TrafficError::Topology { shard: shard.clone(), source: Box::new(source) })?.value;
        let sidecar = if keyspace.sidecar_db_name.is_empty() { SIDECAR_DB } else { &keyspace.sidecar_db_name };
        let sql = traffic::streams_query(sidecar);
        let result = match tablets.execute_fetch_as_dba(primary, &sql, STREAMS_MAX, Call::read(limit)).await {
            Ok(result) => result,
            Err(error) if error.mysql_errno().is_some_and(|mysql| [NO_SUCH_DATABASE, NO_SUCH_TABLE].contains(&mysql.errno)) => {
                return Ok(None);
            }
            Err(source) => return Err(TrafficError::Streams { shard: shard.clone(), source: Box::new(source) }),
        };
        Ok(traffic::in_streams(&streams(&result)))
    };
    timeout(limit, look).await.unwrap_or_else(|_| Err(TrafficError::Timeout { shard: shard.clone(), limit }))
}

async fn in_topology(topo: &Topo, shard: &ShardId, primary: &Tablet) -> Result<Option<String>, TopoError> {
    if let Some(found) = traffic::in_locks(&topo.locks_around(shard).await?) {
        return Ok(Some(found));
    }
    if let Some(found) = traffic::in_record(&topo.shard(shard).await?.value) {
        return Ok(Some(found));
    }
    // Where Vitess disables the query service: in every cell at once, so the primary's will do.
    let cell = primary.alias.as_ref().map(|alias| alias.cell.as_str()).unwrap_or_default();
    match topo.srv_keyspace(cell, &shard.keyspace).await {
        Ok(serving) => Ok(traffic::in_serving_record(&serving.value, &shard.shard, cell)),
        // A keyspace that is not served there.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The rows; NULL is the empty text.
fn streams(result: &QueryResult) -> Vec<Stream> {
    let rows = result.rows.iter().map(|row| {
        let mut rest = row.values.as_slice();
        let mut values = row.lengths.iter().map(|length| {
            let (value, after) = rest.split_at(usize::try_from(*length).unwrap_or(0).min(rest.len()));
            rest = after;
            String::from_utf8_lossy(value).into_owned()
        });
        let mut next = || values.next().unwrap_or_default();
        let (workflow, workflow_type) = (next(), next().parse().unwrap_or_default());
        Stream { workflow, workflow_type, state: next(), message: next() }
    });
    rows.collect()
}
