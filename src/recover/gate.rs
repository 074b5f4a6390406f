//! Is it still due? Asked under the shard lock, of the world and not of memory.

use std::{sync::Arc, time::Duration};

use super::Context;
use crate::{
    diagnose::{Ground, Problem, Remedy, diagnose},
    reparent::Gate,
    topo::{ShardId, TabletAlias},
};

/// How long the tablets may take to say once more how they are. Whoever is dead or silent does not get longer.
const REREAD_LIMIT: Duration = Duration::from_millis(150);

/// How long the others may take to hear a MySQL server that lives.
const GREETING_LIMIT: Duration = Duration::from_millis(300);

/// A gate that opens while the problem is there.
pub(super) fn gate(context: &Arc<Context>, shard: &ShardId, problem: &Problem) -> Gate {
    let (context, shard, problem) = (context.clone(), shard.clone(), problem.clone());
    Arc::new(move || {
        let (context, shard, problem) = (context.clone(), shard.clone(), problem.clone());
        Box::pin(async move { still_due(&context, &shard, &problem).await })
    })
}

async fn still_due(context: &Context, shard: &ShardId, problem: &Problem) -> Result<(), String> {
    let before = context.senses.view(shard).as_ref().and_then(|view| view.record.as_ref()?.primary.clone());
    let (record, (), ()) = tokio::join!(
        context.hands.topo.shard(shard),
        context.senses.reread(shard, REREAD_LIMIT),
        greetings(context, shard, problem)
    );
    let record = record.map_err(|error| format!("the shard record cannot be read: {error}"))?.value;
    let named = record.primary_alias.as_ref().filter(|alias| !alias.cell.is_empty()).map(TabletAlias::try_from);
    let named = named.transpose().map_err(|error| error.to_string())?;
    // What we watch may be behind what another elector has just done under this lock.
    if named != before {
        let name = |alias: Option<TabletAlias>| alias.map_or_else(|| "nobody".to_owned(), |alias| alias.to_string());
        return Err(format!("the shard record names {} and not {} any more", name(named), name(before)));
    }
    let view = context.senses.view(shard).ok_or("the shard is not watched any more")?;
    let now = diagnose(&view, &context.live().rules);
    if now.iter().any(|found| is_same(found, problem)) {
        return Ok(());
    }
    let found = now.first().map_or_else(|| "nothing is wrong".to_owned(), |found| format!("{}: {}", found.code, found.why));
    Err(format!("{} is gone ({found})", problem.code))
}

/// A dead tablet manager whose MySQL lives is known by the greetings that others hear, which may have grown old while a quorum was asked.
async fn greetings(context: &Context, shard: &ShardId, problem: &Problem) {
    if let (Remedy::Emergency(Ground::ManagerDead), Some(primary)) = (&problem.remedy, &problem.tablet) {
        context.senses.ask_witnesses(shard, primary, GREETING_LIMIT).await;
    }
}

/// Whether two problems want the same done to the same tablet; how many replicas confirm it may have changed meanwhile.
fn is_same(one: &Problem, other: &Problem) -> bool {
    one.remedy == other.remedy && one.tablet == other.tablet
}
