//! Shards in a table, and everything about one of them.

use std::time::Duration;

use clap::Args;

use super::{
    Answer, ClientError, Line, MESSAGE_BYTES_MAX, Verdict,
    elector::{timed, unserved},
    explained,
    operate::{ShardsArg, names},
    report,
};
use crate::{
    pb::vtelector::{elector_client::ElectorClient, shard_summary::State, *},
    topo::ShardId,
};

/// Which shard, and how much of it.
#[derive(Debug, Clone, Args)]
pub struct ExplainArg {
    /// Shard, such as commerce/0
    #[arg(value_name = "KEYSPACE/SHARD")]
    shard: ShardId,
    /// Also play through what would be done if its primary died now: every tablet is asked, and nothing is changed
    #[arg(long)]
    foretell: bool,
    /// Show at most so many decisions, recoveries and commands each
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Which commands.
#[derive(Debug, Clone, Args)]
pub struct CommandsArg {
    #[command(flatten)]
    shards: ShardsArg,
    /// Show at most so many, the newest first
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// A request that is ready to be sent.
pub enum Ready {
    Commands(CommandsRequest),
    Shards(ShardsRequest),
    Explain(ExplainRequest),
}

pub fn shards(own: ShardsArg) -> Ready {
    let (keyspace, shard) = names(own.scope);
    Ready::Shards(ShardsRequest { keyspace, shard, only_mine: false })
}

pub fn explain(own: ExplainArg) -> Ready {
    let ShardId { keyspace, shard } = own.shard;
    Ready::Explain(ExplainRequest { keyspace, shard, foretell: own.foretell, limit: own.limit, only_mine: false })
}

pub fn commands(own: CommandsArg) -> Ready {
    let (keyspace, shard) = names(own.shards.scope);
    Ready::Commands(CommandsRequest { keyspace, shard, limit: own.limit })
}

/// Sends the request and puts the answer into words.
pub async fn send(channel: Line, ready: Ready, left: Duration) -> Result<Answer, ClientError> {
    let mut client = ElectorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(match ready {
        Ready::Commands(request) => {
            let answer = client.commands(timed(request, left)).await.map_err(unserved)?.into_inner();
            let table = report::commands(&answer.commands);
            Answer::new(&answer, if table.is_empty() { "nobody asked for anything".to_owned() } else { table })
        }
        Ready::Shards(request) => {
            let answer = client.shards(timed(request, left)).await.map_err(unserved)?.into_inner();
            let is_well = answer.silent.is_empty() && answer.shards.iter().all(|shard| shard.state() == State::Ok);
            let verdict = if is_well { Verdict::Well } else { Verdict::Finding };
            Answer { verdict, ..Answer::new(&answer, explained::shards(&answer)) }
        }
        Ready::Explain(request) => {
            let answer = client.explain(timed(request, left)).await.map_err(unserved)?.into_inner();
            let verdict = if answer.problems.is_empty() { Verdict::Well } else { Verdict::Finding };
            Answer { verdict, ..Answer::new(&answer, explained::explanation(&answer)) }
        }
    })
}
