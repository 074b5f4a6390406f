//! Everything about one shard.

use std::time::Duration;

use tonic::Code;

use super::{
    Context, board, elector, input, ledger, overview, record,
    refusal::Refusal,
    reparent, states,
    wish::{self, Allowed},
};
use crate::{
    pb::{
        vtctldata::EmergencyReparentShardRequest,
        vtelector::{Blocked, ExplainRequest, ExplainResponse, ReparentResponse},
    },
    shard::ShardView,
    topo::ShardId,
};

/// Decisions and recoveries that are listed where the request does not say how many.
const LISTED_DEFAULT: usize = 32;
/// What another elector may take to look into its memory.
const FORWARDED_LIMIT: Duration = Duration::from_secs(2);

/// Declared and observed, what is wrong, what was decided and done, and what would be done now.
pub async fn explain(context: &Context, request: ExplainRequest) -> Result<ExplainResponse, Refusal> {
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let filter = board::filter(context, &id.keyspace, &id.shard).await?;
    let Some(view) = context.senses.view(&id) else {
        if request.only_mine {
            return Err(Refusal::new(Code::NotFound, format!("{id} is not looked after by this elector: ask another one")));
        }
        return elsewhere(context, &id, request).await;
    };
    let limit = if request.limit == 0 { LISTED_DEFAULT } else { request.limit as usize };
    let (state, now) = (context.ledger.state(), context.ledger.now());
    let entry = context.board.snapshot(&filter).remove(&id);
    let rules = context.live.borrow().flap;
    let mut answer = ExplainResponse {
        summary: Some(overview::summary(&view, entry.as_deref(), &state, now.wall, &context.hands.settings.who)),
        tablets: view.tablets.iter().map(|(alias, tablet)| states::state(&view, alias, tablet)).collect(),
        recoveries: state
            .history(now, |shard| *shard == id)
            .into_iter()
            .take(limit)
            .map(|(_, found)| ledger::recovery(found))
            .collect(),
        commands: record::about(context, &id, &view.tablets.keys().map(ToString::to_string).collect::<Vec<_>>(), limit),
        maintenance: ledger::windows_over(&state, now.wall, &id, view.tablets.keys()),
        blocked: state.block(&id, now, &rules).map(|block| Blocked {
            by: block.rule.name().to_owned(),
            reason: block.reason,
            until: block.until.map(board::time),
        }),
        recoveries_disabled: ledger::disabled(&state),
        emergency_disabled: view.keyspace.emergency_disabled
            || view.record.as_ref().is_some_and(|record| record.emergency_disabled),
        unread: unread(&view),
        primary_since: overview::primary_since(&view),
        at: Some(overview::at(context)),
        ..ExplainResponse::default()
    };
    if let Some(entry) = &entry {
        answer.problems.extend(entry.problems.iter().map(|open| board::problem(&id, &open.problem, Some(open.since))));
        let newest = entry.decisions.len().saturating_sub(limit);
        answer.decisions.extend(entry.decisions.iter().skip(newest).map(|held| board::held(&id, held)));
    }
    if request.foretell {
        answer.foretold = Some(foretell(context, id).await?);
    }
    Ok(answer)
}

/// What the elector says that looks after the shard.
async fn elsewhere(context: &Context, id: &ShardId, request: ExplainRequest) -> Result<ExplainResponse, Refusal> {
    // A dry run asks every tablet, several times.
    let limit = FORWARDED_LIMIT + if request.foretell { 3 * context.remote_operation_timeout } else { Duration::ZERO };
    let mut answer = context.others.owner(id, ExplainRequest { only_mine: true, ..request }, limit).await?;
    answer.summary.iter_mut().for_each(|summary| summary.mine = false);
    Ok(answer)
}

/// What an emergency reparent would decide now.
async fn foretell(context: &Context, id: ShardId) -> Result<ReparentResponse, Refusal> {
    let request = EmergencyReparentShardRequest::default();
    let wish = wish::emergency(&request, Allowed::default(), context.wait_replicas_timeout)?;
    let _permit = reparent::begin(context, &id).await?;
    let outcome = context.hands.emergency_preview(&id, wish).await;
    Ok(elector::foretold(id, outcome))
}

fn unread(view: &ShardView) -> Vec<String> {
    let topology = view.topology_unreadable.iter().cloned();
    topology.chain(view.unreadable_cells.iter().map(|(cell, why)| format!("cell {cell}: {why}"))).collect()
}
