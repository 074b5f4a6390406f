//! Every command with who asked for it: in the log at once, and in the journal of all electors soon after.

use std::{future::Future, time::SystemTime};

use tonic::Code;

use super::{Context, board::time, refusal::Refusal};
use crate::{
    ledger::{Command, Commands},
    metrics::SecurityMetrics,
    pb::{topodata, vtctldata as v, vtelector as pb},
    serve::door::Caller,
    topo::{ShardId, TabletAlias},
};

/// Commands that are listed where the request does not say how many.
const LISTED_DEFAULT: u32 = 100;

/// What a command is about, as a maintenance window's scope is written.
pub trait Target {
    /// Such as `shard:commerce/0`; empty = everything.
    fn target(&self) -> String;

    /// The name that it gives for whoever asks; counts only where nothing is proven.
    fn given(&self) -> &str {
        ""
    }
}

fn shard(keyspace: &str, shard: &str) -> String {
    match shard {
        "" => format!("keyspace:{keyspace}"),
        shard => format!("shard:{keyspace}/{shard}"),
    }
}

fn tablet(alias: Option<&topodata::TabletAlias>) -> String {
    let name = alias
        .map(|alias| TabletAlias::try_from(alias).map_or_else(|_| format!("{}-{}", alias.cell, alias.uid), |a| a.to_string()));
    format!("tablet:{}", name.unwrap_or_default())
}

macro_rules! targets {
    ($($request:ty: |$asked:ident| $target:expr $(, by $given:ident)?;)*) => {
        $(impl Target for $request {
            fn target(&self) -> String {
                let $asked = self;
                $target
            }

            $(fn given(&self) -> &str {
                &self.$given
            })?
        })*
    };
}

targets! {
    pb::AcknowledgeRequest: |r| shard(&r.keyspace, &r.shard), by who;
    pb::BeginMaintenanceRequest: |r| r.scope.clone(), by owner;
    pb::EndMaintenanceRequest: |r| format!("maintenance:{}", r.id);
    pb::SetRecoveriesRequest: |r| format!("recoveries:{}", if r.enabled { "on" } else { "off" }), by who;
    pb::PlannedReparentRequest: |r| r.request.as_ref().map(Target::target).unwrap_or_default();
    pb::EmergencyReparentRequest: |r| r.request.as_ref().map(Target::target).unwrap_or_default();
    v::AddCellInfoRequest: |r| format!("cell:{}", r.name);
    v::ChangeTabletTypeRequest: |r| tablet(r.tablet_alias.as_ref());
    v::CreateKeyspaceRequest: |r| format!("keyspace:{}", r.name);
    v::CreateShardRequest: |r| shard(&r.keyspace, &r.shard_name);
    v::DeleteTabletsRequest: |r| r.tablet_aliases.iter().map(|alias| tablet(Some(alias))).collect::<Vec<_>>().join(" ");
    v::EmergencyReparentShardRequest: |r| shard(&r.keyspace, &r.shard);
    v::InitShardPrimaryRequest: |r| shard(&r.keyspace, &r.shard);
    v::PlannedReparentShardRequest: |r| shard(&r.keyspace, &r.shard);
    v::RefreshStateRequest: |r| tablet(r.tablet_alias.as_ref());
    v::ReparentTabletRequest: |r| tablet(r.tablet.as_ref());
    v::RunHealthCheckRequest: |r| tablet(r.tablet_alias.as_ref());
    v::SetKeyspaceDurabilityPolicyRequest: |r| format!("keyspace:{}", r.keyspace);
    v::SetVtorcEmergencyReparentRequest: |r| shard(&r.keyspace, &r.shard);
    v::SetWritableRequest: |r| tablet(r.tablet_alias.as_ref());
    v::StartReplicationRequest: |r| tablet(r.tablet_alias.as_ref());
    v::StopReplicationRequest: |r| tablet(r.tablet_alias.as_ref());
}

/// Does what a caller asked for, and records it, however it ends: also when whoever asked goes away.
pub async fn recorded<T>(
    context: &Context,
    caller: &Caller,
    call: &'static str,
    asked: &impl Target,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let mut entry = Entry {
        commands: &context.commands,
        metrics: &context.metrics.security,
        call,
        caller,
        signature: caller.signs(asked.given()).to_owned(),
        target: asked.target(),
        outcome: "left",
        failure: "whoever asked did not wait for the answer".to_owned(),
    };
    let answer = work.await;
    (entry.outcome, entry.failure) = match &answer {
        Ok(_) => ("done", String::new()),
        Err(refusal) => (if is_refused(refusal.code) { "refused" } else { "failed" }, refusal.message.clone()),
    };
    answer
}

/// Whether nothing was begun.
fn is_refused(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        InvalidArgument | NotFound | AlreadyExists | PermissionDenied | ResourceExhausted | FailedPrecondition | Unimplemented
    )
}

/// What is written when it is dropped.
struct Entry<'a> {
    commands: &'a Commands,
    metrics: &'a SecurityMetrics,
    call: &'static str,
    caller: &'a Caller,
    signature: String,
    target: String,
    outcome: &'static str,
    failure: String,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let Self { call, caller, signature, target, outcome, failure, .. } = self;
        let (proven_by, from) = (caller.proof.to_string(), caller.from.clone());
        tracing::info!(caller = %signature, proven_by, from, call, target, outcome, failure, "command");
        self.metrics.command(call, outcome);
        self.commands.record(Command {
            at: SystemTime::now(),
            caller: std::mem::take(signature),
            proven_by,
            from,
            call: (*call).to_owned(),
            target: std::mem::take(target),
            outcome: (*outcome).to_owned(),
            failure: std::mem::take(failure),
            elector: String::new(),
        });
    }
}

/// What persons asked for, the newest first.
pub async fn commands(context: &Context, request: pb::CommandsRequest) -> Result<pb::CommandsResponse, Refusal> {
    if request.keyspace.is_empty() && !request.shard.is_empty() {
        return Err(Refusal::invalid("shard: it needs keyspace as well"));
    }
    let (whole, part) = (shard(&request.keyspace, ""), format!("shard:{}/", request.keyspace));
    let one = shard(&request.keyspace, &request.shard);
    let is_wanted = |command: &Command| match (request.keyspace.as_str(), request.shard.as_str()) {
        ("", _) => true,
        (_, "") => command.target == whole || command.target.starts_with(&part),
        _ => command.target == one,
    };
    let limit = if request.limit == 0 { LISTED_DEFAULT } else { request.limit };
    let found = context.commands.newest(limit as usize, is_wanted);
    Ok(pb::CommandsResponse { commands: found.into_iter().map(message).collect() })
}

/// Those about a shard, its keyspace, or one of these tablets.
pub fn about(context: &Context, id: &ShardId, tablets: &[String], limit: usize) -> Vec<pb::Command> {
    let (whole, one) = (shard(&id.keyspace, ""), shard(&id.keyspace, &id.shard));
    let is_tablets = |part: &str| part.strip_prefix("tablet:").is_some_and(|alias| tablets.iter().any(|tablet| tablet == alias));
    let is_about =
        |command: &Command| command.target == whole || command.target == one || command.target.split(' ').any(is_tablets);
    context.commands.newest(limit, is_about).into_iter().map(message).collect()
}

fn message(command: Command) -> pb::Command {
    pb::Command {
        at: Some(time(command.at)),
        caller: command.caller,
        proven_by: command.proven_by,
        from: command.from,
        call: command.call,
        target: command.target,
        outcome: command.outcome,
        failure: command.failure,
        elector: command.elector,
    }
}

/// Writes commands of a module: each is carried out by the function of the second name, and recorded.
macro_rules! recorded_commands {
    ($($(#[$doc:meta])* $name:ident = $inner:ident($request:ident) -> $response:ident as $call:literal;)*) => {
        $($(#[$doc])*
        pub async fn $name(context: &Context, caller: &Caller, request: $request) -> Result<$response, Refusal> {
            let asked = request.clone();
            super::record::recorded(context, caller, $call, &asked, $inner(context, caller, request)).await
        })*
    };
}
pub(super) use recorded_commands;
