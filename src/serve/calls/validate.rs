//! `ValidateShard`: do the records agree with each other, and, where asked, with the tablets?

use tonic::Request;

use super::{Context, at_once, input, refusal::Refusal};
use crate::{
    pb::{
        topodata::{Shard, Tablet, TabletType},
        vtctldata::{ValidateShardRequest, ValidateShardResponse},
    },
    topo::{ShardId, ShardTablets, TabletAlias},
};

/// Lists what is wrong with a shard; nothing is changed. A shard without a finding answers an empty list.
pub async fn validate_shard(context: &Context, request: Request<ValidateShardRequest>) -> Result<ValidateShardResponse, Refusal> {
    let request = request.into_inner();
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let shard = context.topo.shard(&id).await?.value;
    let found = context.topo.shard_tablets(&id).await?;
    let mut results = records(&id, &shard, &found);
    results.extend(graph(context, &id, &found).await);
    if request.ping_tablets {
        let primary = shard.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
        let primary = primary.and_then(|alias| found.tablets.get(&alias));
        let asked = at_once(
            found.tablets.clone().into_iter().map(|(alias, tablet)| async move { ask(context, &alias, &tablet, primary).await }),
        );
        results.extend(asked.await.into_iter().flatten());
    }
    Ok(ValidateShardResponse { results })
}

/// What the records alone show.
fn records(id: &ShardId, shard: &Shard, found: &ShardTablets) -> Vec<String> {
    let mut results: Vec<String> = Vec::new();
    results.extend(found.unreadable_cells.iter().map(|(cell, error)| format!("cell {cell} cannot be read: {error}")));
    results.extend(found.dangling.iter().map(|(alias, reason)| format!("tablet {alias}: {reason}")));
    let primaries: Vec<&TabletAlias> =
        found.tablets.iter().filter(|(_, tablet)| tablet.r#type == TabletType::Primary as i32).map(|(alias, _)| alias).collect();
    let recorded = shard.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
    match primaries.as_slice() {
        [] => results.push(format!("no tablet of {id} is of type PRIMARY")),
        [one] if recorded.as_ref() == Some(*one) => {}
        [one] => {
            let recorded = recorded.map_or("nobody".to_owned(), |alias| alias.to_string());
            results.push(format!("{one} is of type PRIMARY, but the record of {id} names {recorded}"));
        }
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            results.push(format!("{id} has {} tablets of type PRIMARY: {}", several.len(), several.join(", ")));
        }
    }
    results
}

/// Tablets that no replication graph lists are invisible to vtctld unless they are the recorded primary.
async fn graph(context: &Context, id: &ShardId, found: &ShardTablets) -> Vec<String> {
    let mut results = Vec::new();
    let mut cells: Vec<&str> = found.tablets.keys().map(|alias| alias.cell.as_str()).collect();
    cells.dedup();
    for cell in cells {
        let graph = match context.topo.shard_replication(cell, id).await {
            Ok(graph) => graph,
            Err(error) => {
                results.push(format!("the replication graph of {id} in {cell} cannot be read: {error}"));
                continue;
            }
        };
        for alias in found.tablets.keys().filter(|alias| alias.cell == cell) {
            let times = graph.nodes.iter().filter(|node| node.tablet_alias == Some(alias.into())).count();
            if times != 1 {
                results.push(format!("tablet {alias} stands {times} times in the replication graph of {id} in {cell}, not once"));
            }
        }
    }
    results
}

/// What one tablet says: is it there, and does it replicate from the recorded primary?
async fn ask(context: &Context, alias: &TabletAlias, tablet: &Tablet, primary: Option<&Tablet>) -> Vec<String> {
    if let Err(error) = context.tablets.ping(tablet, context.call()).await {
        return vec![error.to_string()];
    }
    let follows = matches!(
        TabletType::try_from(tablet.r#type),
        Ok(TabletType::Replica | TabletType::Rdonly | TabletType::Spare | TabletType::Experimental)
    );
    let Some(primary) = primary.filter(|_| follows) else { return Vec::new() };
    let status = match context.tablets.replication_status(tablet, context.call()).await {
        Ok(status) => status,
        Err(error) => return vec![error.to_string()],
    };
    let mut results = Vec::new();
    if (status.source_host.as_str(), status.source_port) != (primary.mysql_hostname.as_str(), primary.mysql_port) {
        let is = format!("{}:{}", status.source_host, status.source_port);
        results.push(format!(
            "{alias} replicates from {is}, not from the primary at {}:{}",
            primary.mysql_hostname, primary.mysql_port
        ));
    }
    const RUNNING: i32 = 3;
    for (thread, state, error) in
        [("IO", status.io_state, &status.last_io_error), ("SQL", status.sql_state, &status.last_sql_error)]
    {
        if state != RUNNING {
            results.push(format!("the replication {thread} thread of {alias} does not run{}", because(error)));
        }
    }
    results
}

fn because(error: &str) -> String {
    if error.is_empty() { String::new() } else { format!(": {error}") }
}
