//! What persons ask of the elector as such: what is wrong, what it did, and what it shall leave alone.

use std::time::Duration;

use clap::{Args, Subcommand};
use tonic::{Request, Status};

use super::{
    Answer, ClientError, Connection, Line, MESSAGE_BYTES_MAX, Verdict, With,
    args::{Nothing, Scope as ShardScope},
    call,
    elector::{timed, unserved},
    report,
};
use crate::{
    config::GoDuration,
    ledger::Scope,
    pb::vtelector::{elector_client::ElectorClient, *},
};

/// Which shards.
#[derive(Debug, Clone, Args)]
pub struct ShardsArg {
    /// Only this keyspace or shard, such as commerce or commerce/0
    #[arg(value_name = "KEYSPACE[/SHARD]")]
    pub scope: Option<ShardScope>,
}

/// Which events.
#[derive(Debug, Clone, Args)]
pub struct EventsArg {
    #[command(flatten)]
    shards: ShardsArg,
    /// Those of all electors, numbered, that came after this one, and then what happens; 0 = from the oldest in the log on. Without it,
    /// what this elector sees from now on
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
}

/// Which finished recoveries.
#[derive(Debug, Clone, Args)]
pub struct HistoryArg {
    #[command(flatten)]
    shards: ShardsArg,
    /// Show at most so many, the newest first
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Whose promotions are acknowledged.
#[derive(Debug, Clone, Args)]
pub struct AcknowledgeArg {
    /// The shard, or a keyspace for all of its shards, such as commerce/0 or commerce
    #[arg(value_name = "KEYSPACE[/SHARD]")]
    scope: ShardScope,
    /// Why, for others who see it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    who: Who,
}

/// Who asks.
#[derive(Debug, Clone, Args)]
pub struct Who {
    /// Who asks, for others who see it
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    who: String,
}

/// What is done with maintenance windows.
#[derive(Debug, Clone, Subcommand)]
pub enum Maintenance {
    /// Begin maintenance: no elector does anything to what it names until it ends
    Begin(With<BeginArg>),
    /// End maintenance before it ends by itself
    End(With<EndArg>),
    /// List the maintenance that is open
    List(With<Nothing>),
}

/// Maintenance that begins.
#[derive(Debug, Clone, Args)]
pub struct BeginArg {
    /// On what: tablet:zone1-101, shard:commerce/0, keyspace:commerce or cell:zone1
    #[arg(value_name = "SCOPE")]
    scope: Scope,
    /// When it ends by itself, such as 2h; 720h at most
    #[arg(long = "for", value_name = "DURATION")]
    lasting: GoDuration,
    /// What is done, for others who see it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    who: Who,
}

/// Maintenance that ends.
#[derive(Debug, Clone, Args)]
pub struct EndArg {
    /// Its identity, as the list shows it
    #[arg(value_name = "ID")]
    id: String,
}

/// What is done with recoveries.
#[derive(Debug, Clone, Subcommand)]
pub enum Recoveries {
    /// Let all electors recover shards by themselves again
    Enable(With<EnableArg>),
    /// Let no elector do anything by itself, until they are enabled again
    Disable(With<DisableArg>),
}

/// Recoveries are switched on.
#[derive(Debug, Clone, Args)]
pub struct EnableArg {
    /// Why, for others who see it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    who: Who,
}

/// Recoveries are switched off.
#[derive(Debug, Clone, Args)]
pub struct DisableArg {
    /// Why, for others who find them switched off
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    who: Who,
}

impl Maintenance {
    pub fn connection(&self) -> &Connection {
        match self {
            Self::Begin(with) => &with.connection,
            Self::End(with) => &with.connection,
            Self::List(with) => &with.connection,
        }
    }
}

impl Recoveries {
    pub fn connection(&self) -> &Connection {
        match self {
            Self::Enable(with) => &with.connection,
            Self::Disable(with) => &with.connection,
        }
    }
}

/// A request that is ready to be sent.
pub enum Ready {
    Problems(ProblemsRequest),
    Decisions(DecisionsRequest),
    History(HistoryRequest),
    Acknowledge(AcknowledgeRequest),
    BeginMaintenance(BeginMaintenanceRequest),
    EndMaintenance(EndMaintenanceRequest),
    ListMaintenance,
    SetRecoveries(SetRecoveriesRequest),
    GetStatus,
}

/// A scope's names; empty = all.
pub fn names(scope: Option<ShardScope>) -> (String, String) {
    scope.map(|scope| (scope.keyspace, scope.shard)).unwrap_or_default()
}

pub fn problems(own: ShardsArg) -> Ready {
    let (keyspace, shard) = names(own.scope);
    Ready::Problems(ProblemsRequest { keyspace, shard, only_mine: false })
}

pub fn decisions(own: ShardsArg) -> Ready {
    let (keyspace, shard) = names(own.scope);
    Ready::Decisions(DecisionsRequest { keyspace, shard, only_mine: false })
}

pub fn history(own: HistoryArg) -> Ready {
    let (keyspace, shard) = names(own.shards.scope);
    Ready::History(HistoryRequest { keyspace, shard, limit: own.limit })
}

pub fn acknowledge(own: AcknowledgeArg) -> Ready {
    let (keyspace, shard) = names(Some(own.scope));
    Ready::Acknowledge(AcknowledgeRequest { keyspace, shard, who: own.who.who, why: own.reason })
}

pub fn maintenance(command: Maintenance) -> Ready {
    match command {
        Maintenance::Begin(with) => Ready::BeginMaintenance(BeginMaintenanceRequest {
            scope: with.own.scope.to_string(),
            owner: with.own.who.who,
            reason: with.own.reason,
            duration: Some(call::duration(with.own.lasting.0)),
        }),
        Maintenance::End(with) => Ready::EndMaintenance(EndMaintenanceRequest { id: with.own.id }),
        Maintenance::List(_) => Ready::ListMaintenance,
    }
}

pub fn recoveries(command: Recoveries) -> Ready {
    let (enabled, who, why) = match command {
        Recoveries::Enable(with) => (true, with.own.who, with.own.reason),
        Recoveries::Disable(with) => (false, with.own.who, with.own.reason),
    };
    Ready::SetRecoveries(SetRecoveriesRequest { enabled, who: who.who, why })
}

/// Sends the request and puts the answer into words.
pub async fn send(channel: Line, ready: Ready, left: Duration) -> Result<Answer, ClientError> {
    let mut client = ElectorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    macro_rules! ask {
        ($rpc:ident, $request:expr) => {
            client.$rpc(timed($request, left)).await.map_err(unserved)?.into_inner()
        };
    }
    Ok(match ready {
        Ready::Problems(r) => {
            let answer = ask!(problems, r);
            found(!answer.problems.is_empty(), Answer::new(&answer, report::problems(&answer)))
        }
        Ready::Decisions(r) => {
            let answer = ask!(decisions, r);
            Answer::new(&answer, report::decisions(&answer))
        }
        Ready::History(r) => {
            let answer = ask!(history, r);
            Answer::new(&answer, report::history(&answer))
        }
        Ready::Acknowledge(r) => {
            let answer = ask!(acknowledge, r);
            Answer::new(&answer, report::acknowledged(&answer))
        }
        Ready::BeginMaintenance(r) => {
            let answer = ask!(begin_maintenance, r);
            Answer::new(&answer, report::begun(&answer))
        }
        Ready::EndMaintenance(r) => {
            let words = format!("maintenance {} has ended", r.id);
            Answer::new(&ask!(end_maintenance, r), words)
        }
        Ready::ListMaintenance => {
            let answer = ask!(list_maintenance, ListMaintenanceRequest {});
            Answer::new(&answer, report::maintenance(&answer.windows))
        }
        Ready::SetRecoveries(r) => {
            let state = if r.enabled { "enabled" } else { "disabled" };
            Answer::new(&ask!(set_recoveries, r), format!("recoveries are {state} on all electors"))
        }
        Ready::GetStatus => {
            let answer = ask!(get_status, GetStatusRequest {});
            found(report::is_finding(&answer), Answer::new(&answer, report::status(&answer)))
        }
    })
}

fn found(is_finding: bool, answer: Answer) -> Answer {
    Answer { verdict: if is_finding { Verdict::Finding } else { Verdict::Well }, ..answer }
}

/// Hands on one event after the other, in words or as JSON in one line, until the server ends them or nobody takes them.
pub async fn events(
    connection: &Connection,
    own: EventsArg,
    mut tell: impl FnMut(String) -> std::io::Result<()>,
) -> Result<(), ClientError> {
    let (keyspace, shard) = names(own.shards.scope);
    let asked = WatchEventsRequest { keyspace, shard, after_sequence: own.after };
    let limit = connection.timeout.0;
    let begin = async {
        let channel = super::connect(connection).await?;
        let mut client = ElectorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        // No deadline is sent: it would end the events as well.
        client.watch_events(Request::new(asked)).await.map_err(|status| match unserved(status) {
            ClientError::Refused(status) => super::told(connection, status),
            other => other,
        })
    };
    let late = || ClientError::Timeout { server: connection.server.clone(), timeout: limit };
    let mut stream = tokio::time::timeout(limit, begin).await.map_err(|_| late())??.into_inner();
    while let Some(event) = stream.message().await.map_err(|status: Status| super::told(connection, status))? {
        let line = if connection.json { Answer::new(&event, "").json_line()? } else { report::event(&event) };
        if tell(line).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
