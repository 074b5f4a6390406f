//! What all electors remember, and what persons may switch off.

use std::{collections::BTreeSet, time::SystemTime};

use tonic::Code;

use super::{
    Context,
    board::{self, time},
    input, millis,
    record::recorded_commands,
    refusal::Refusal,
};
use crate::{
    config::GoDuration,
    ledger::{LedgerError, LedgerState, Outcome, Recovery, Scope, ScopeError, WINDOW_MAX, Window},
    pb::vtelector::{self as pb, *},
    recover::board::Filter,
    serve::door::Caller,
    topo::{ShardId, TabletAlias, TopoError},
};

/// Recoveries that are listed where the request does not say how many.
const LISTED_DEFAULT: u32 = 100;
/// Longest name or reason that is taken, in bytes.
const TEXT_BYTES_MAX: usize = 1000;

/// Finished recoveries, the newest first.
pub async fn history(context: &Context, request: HistoryRequest) -> Result<HistoryResponse, Refusal> {
    let filter = board::filter(context, &request.keyspace, &request.shard).await?;
    let (state, now) = (context.ledger.state(), context.ledger.now());
    let found = state.history(now, |shard| filter.wants(shard));
    let limit = if request.limit == 0 { LISTED_DEFAULT } else { request.limit };
    Ok(HistoryResponse {
        count: found.len() as u64,
        recoveries: found.into_iter().take(limit as usize).map(|(_, found)| recovery(found)).collect(),
        dropped: state.dropped(),
        unread: state.unread().unwrap_or_default().to_owned(),
    })
}

recorded_commands! {
    /// Lifts the block of one shard, or of every shard of a keyspace that could be blocked.
    acknowledge = acknowledging(AcknowledgeRequest) -> AcknowledgeResponse as "Acknowledge";
    /// Begins maintenance of something that exists.
    begin_maintenance = beginning_maintenance(BeginMaintenanceRequest) -> BeginMaintenanceResponse as "BeginMaintenance";
    /// Ends maintenance.
    end_maintenance = ending_maintenance(EndMaintenanceRequest) -> EndMaintenanceResponse as "EndMaintenance";
    /// Switches recoveries off or on.
    set_recoveries = setting_recoveries(SetRecoveriesRequest) -> SetRecoveriesResponse as "SetRecoveries";
}

/// Lifts the block of one shard, or of every shard of a keyspace that could be blocked.
async fn acknowledging(context: &Context, caller: &Caller, request: AcknowledgeRequest) -> Result<AcknowledgeResponse, Refusal> {
    let who = text("who", caller.signs(&request.who), "name whoever acknowledges")?;
    let why = optional_text("why", &request.why)?;
    input::keyspace("keyspace", &request.keyspace)?;
    let Filter { keyspace, shard } = board::filter(context, &request.keyspace, &request.shard).await?;
    let shards: BTreeSet<ShardId> = if shard.is_empty() {
        let state = readable(context)?;
        state.unacknowledged(context.ledger.now()).filter(|shard| shard.keyspace == keyspace).cloned().collect()
    } else {
        [ShardId { keyspace, shard }].into()
    };
    for shard in &shards {
        context.ledger.acknowledge(shard, who, why).await?;
        tracing::info!(%shard, who, why, "earlier promotions acknowledged: they block no further one");
    }
    Ok(AcknowledgeResponse { shards: shards.iter().map(ToString::to_string).collect() })
}

/// Begins maintenance of something that exists.
async fn beginning_maintenance(
    context: &Context,
    caller: &Caller,
    request: BeginMaintenanceRequest,
) -> Result<BeginMaintenanceResponse, Refusal> {
    let scope: Scope = request.scope.parse().map_err(|wrong: ScopeError| Refusal::invalid(format!("scope: {wrong}")))?;
    let owner = text("owner", caller.signs(&request.owner), "name whose maintenance it is")?;
    let reason = text("reason", &request.reason, "say what is done, for others who see it")?;
    let lasting = input::duration("duration", request.duration.as_ref())?.unwrap_or_default();
    if lasting.is_zero() || lasting > WINDOW_MAX {
        let (given, most) = (GoDuration(lasting), GoDuration(WINDOW_MAX));
        let message =
            format!("duration: {given} is not between 0 and {most}; maintenance has to end by itself, give a time for that");
        return Err(Refusal::invalid(message));
    }
    exists(context, &scope).await?;
    let begun = context.ledger.begin_maintenance(scope, owner, reason, lasting).await?;
    tracing::info!(id = begun.id, scope = %begun.scope, owner, reason, lasting = %GoDuration(lasting), "maintenance begun");
    Ok(BeginMaintenanceResponse { window: Some(window(&begun)) })
}

/// A window over something that does not exist would protect nothing.
async fn exists(context: &Context, scope: &Scope) -> Result<(), TopoError> {
    match scope {
        Scope::Tablet(alias) => context.topo.tablet(alias).await.map(drop),
        Scope::Shard(shard) => context.topo.shard(shard).await.map(drop),
        Scope::Keyspace(keyspace) => context.topo.keyspace(keyspace).await.map(drop),
        Scope::Cell(cell) => context.topo.cell_info(cell).await.map(drop),
    }
}

/// Ends maintenance.
async fn ending_maintenance(
    context: &Context,
    _caller: &Caller,
    request: EndMaintenanceRequest,
) -> Result<EndMaintenanceResponse, Refusal> {
    let is_id = !request.id.is_empty() && request.id.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_id {
        return Err(Refusal::invalid(format!(
            "id: {:?} is no identity of a maintenance window; list them to see it",
            request.id
        )));
    }
    let ended = context.ledger.end_maintenance(&request.id).await?;
    tracing::info!(id = request.id, "maintenance ended");
    Ok(EndMaintenanceResponse { window: ended.as_ref().map(window) })
}

/// Maintenance that is open.
pub async fn list_maintenance(context: &Context, _: ListMaintenanceRequest) -> Result<ListMaintenanceResponse, Refusal> {
    Ok(ListMaintenanceResponse { windows: windows(context, &*readable(context)?) })
}

/// Switches recoveries off or on.
async fn setting_recoveries(
    context: &Context,
    caller: &Caller,
    request: SetRecoveriesRequest,
) -> Result<SetRecoveriesResponse, Refusal> {
    let who = text("who", caller.signs(&request.who), "name whoever switches them")?;
    let why = match request.enabled {
        true => optional_text("why", &request.why)?,
        false => text("why", &request.why, "say why, for others who find them switched off")?,
    };
    context.ledger.set_recoveries(request.enabled, who, why).await?;
    Ok(SetRecoveriesResponse {})
}

/// Whether all is well.
pub async fn get_status(context: &Context, _: GetStatusRequest) -> Result<GetStatusResponse, Refusal> {
    let (state, now) = (context.ledger.state(), context.ledger.now());
    let entries = context.board.snapshot(&Filter::default());
    let live = context.live.borrow().clone();
    let blocked = state.unacknowledged(now).filter_map(|shard| {
        let block = state.block(shard, now, &live.flap)?;
        let blocked = pb::Blocked { by: block.rule.name().to_owned(), reason: block.reason, until: block.until.map(time) };
        Some(BlockedShard { keyspace: shard.keyspace.clone(), shard: shard.shard.clone(), blocked: Some(blocked) })
    });
    Ok(GetStatusResponse {
        who: context.hands.settings.who.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        shards: entries.len() as u64,
        problems: entries.values().map(|entry| entry.problems.len() as u64).sum(),
        not_ready: context.not_ready().unwrap_or_default(),
        settings_error: context.settings_error.borrow().clone().unwrap_or_default(),
        recoveries_disabled: disabled(&state),
        blocked: blocked.collect(),
        maintenance: windows(context, &state),
        electors: electors(context),
        event_log: Some(context.events.status()),
        webhooks: context.webhooks.status(),
        webhooks_error: context.webhooks.error().unwrap_or_default(),
        garbage: state.garbage().iter().map(|(key, why)| Garbage { key: key.clone(), reason: why.clone() }).collect(),
    })
}

/// Who switched recoveries off everywhere.
pub fn disabled(state: &LedgerState) -> Option<RecoveriesDisabled> {
    let off = state.recoveries_disabled()?.clone();
    Some(RecoveriesDisabled { who: off.who, why: off.why, since: off.since.map(time) })
}

/// Open maintenance over a shard or one of its tablets, the first to end first.
pub fn windows_over<'a>(
    state: &LedgerState,
    now: SystemTime,
    shard: &ShardId,
    tablets: impl Iterator<Item = &'a TabletAlias> + Clone,
) -> Vec<MaintenanceWindow> {
    let covers = |window: &&Window| {
        window.scope.covers(shard, None) || tablets.clone().any(|alias| window.scope.covers(shard, Some(alias)))
    };
    let mut open: Vec<&Window> = state.windows(now).filter(covers).collect();
    open.sort_by_key(|window| (window.until, window.id.clone()));
    open.into_iter().map(window).collect()
}

fn electors(context: &Context) -> Vec<ElectorState> {
    let me = &context.hands.settings.who;
    let states = context.peers.electors().into_iter().map(|found| ElectorState {
        me: found.who == *me,
        who: found.who,
        address: found.address,
        cell: found.cell,
        region: found.region,
        release: found.release,
    });
    states.collect()
}

/// What a list that looks empty must not hide.
fn readable(context: &Context) -> Result<std::sync::Arc<LedgerState>, Refusal> {
    let state = context.ledger.state();
    match state.unread() {
        Some(reason) => Err(Refusal::new(Code::Unavailable, format!("the ledger cannot be read: {reason}; try again"))),
        None => Ok(state),
    }
}

fn windows(context: &Context, state: &LedgerState) -> Vec<MaintenanceWindow> {
    let mut open: Vec<&Window> = state.windows(context.ledger.now().wall).collect();
    open.sort_by_key(|window| (window.until, window.id.clone()));
    open.into_iter().map(window).collect()
}

fn window(window: &Window) -> MaintenanceWindow {
    MaintenanceWindow {
        id: window.id.clone(),
        scope: window.scope.to_string(),
        owner: window.owner.clone(),
        reason: window.reason.clone(),
        from: Some(time(window.from)),
        until: Some(time(window.until)),
    }
}

pub fn recovery(recovery: &Recovery) -> pb::Recovery {
    let failure = if let Outcome::Failed(reason) = &recovery.outcome { reason.clone() } else { String::new() };
    pb::Recovery {
        keyspace: recovery.shard.keyspace.clone(),
        shard: recovery.shard.shard.clone(),
        code: recovery.code.clone(),
        kind: recovery.kind.name().to_owned(),
        promoted: recovery.promoted.as_ref().map(Into::into),
        old: recovery.old.as_ref().map(Into::into),
        who: recovery.who.clone(),
        at: Some(time(recovery.at)),
        took_ms: millis(recovery.took),
        outcome: recovery.outcome.name().to_owned(),
        failure,
        evidence: recovery.evidence.clone(),
    }
}

/// A text that must be there.
fn text<'a>(field: &str, given: &'a str, remedy: &str) -> Result<&'a str, Refusal> {
    match optional_text(field, given)? {
        "" => Err(Refusal::invalid(format!("{field} is required: {remedy}"))),
        text => Ok(text),
    }
}

fn optional_text<'a>(field: &str, given: &'a str) -> Result<&'a str, Refusal> {
    let text = given.trim();
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::invalid(format!("{field}: {} bytes are too many; {TEXT_BYTES_MAX} are taken", text.len())));
    }
    Ok(text)
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Kv { doing, source } => TopoError::Kv { doing, source }.into(),
            LedgerError::NoWindow { .. } => Self::new(Code::NotFound, error.to_string()),
            LedgerError::TooManyWindows { .. } => Self::new(Code::ResourceExhausted, error.to_string()),
        }
    }
}
