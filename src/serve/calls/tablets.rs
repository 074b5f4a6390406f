//! Tablets: their records, and what is asked of one tablet alone.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use tonic::{Code, Request};

use super::{Context, at_once, input, refusal::Refusal, replication};
use crate::{
    pb::{
        topodata::{self, Tablet, TabletType},
        vtctldata::{
            ChangeTabletTypeRequest, ChangeTabletTypeResponse, DeleteTabletsRequest, DeleteTabletsResponse, GetFullStatusRequest,
            GetFullStatusResponse, GetTabletRequest, GetTabletResponse, GetTabletsRequest, GetTabletsResponse, PingTabletRequest,
            PingTabletResponse, RefreshStateRequest, RefreshStateResponse, RunHealthCheckRequest, RunHealthCheckResponse,
            SetWritableRequest, SetWritableResponse,
        },
        vttime,
    },
    topo::{ShardId, TabletAlias, TopoError},
};

/// One tablet's record.
pub async fn get_tablet(context: &Context, request: Request<GetTabletRequest>) -> Result<GetTabletResponse, Refusal> {
    let alias = input::alias("tablet_alias", request.into_inner().tablet_alias.as_ref())?;
    Ok(GetTabletResponse { tablet: Some(context.topo.tablet(&alias).await?.value) })
}

/// Tablet records: the aliases asked for, else those of a shard, else those of cells and perhaps one keyspace.
pub async fn get_tablets(context: &Context, request: Request<GetTabletsRequest>) -> Result<GetTabletsResponse, Refusal> {
    let request = request.into_inner();
    let wanted = input::tablet_type("tablet_type", request.tablet_type)?;
    let found = if !request.tablet_aliases.is_empty() {
        by_alias(context, &request).await?
    } else if !request.keyspace.is_empty() && !request.shard.is_empty() {
        of_shard(context, &request).await?
    } else {
        of_cells(context, &request).await?
    };
    let mut tablets: BTreeMap<String, Tablet> = BTreeMap::new();
    let newest = newest_terms(found.iter());
    for mut tablet in found {
        if wanted != TabletType::Unknown && tablet.r#type != wanted as i32 {
            continue;
        }
        // A primary of the past that has not yet changed its record must not be taken for one.
        let stale = newest.get(&(tablet.keyspace.clone(), tablet.shard.clone())).is_some_and(|&newest| term(&tablet) < newest);
        if stale && tablet.r#type == TabletType::Primary as i32 {
            tablet.r#type = TabletType::Unknown as i32;
        }
        let key = tablet.alias.as_ref().map(|alias| format!("{}-{:010}", alias.cell, alias.uid)).unwrap_or_default();
        tablets.insert(key, tablet);
    }
    Ok(GetTabletsResponse { tablets: tablets.into_values().collect() })
}

async fn by_alias(context: &Context, request: &GetTabletsRequest) -> Result<Vec<Tablet>, Refusal> {
    let mut aliases = Vec::new();
    for alias in &request.tablet_aliases {
        aliases.push(input::alias("tablet_aliases", Some(alias))?);
    }
    let read = at_once(aliases.into_iter().map(|alias| async move {
        match context.topo.tablet(&alias).await {
            Ok(tablet) => Ok(vec![tablet.value]),
            // A list of aliases may be older than the records; Vitess leaves out what is gone, strict or not.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }));
    tolerated(read.await, request.strict)
}

async fn of_shard(context: &Context, request: &GetTabletsRequest) -> Result<Vec<Tablet>, Refusal> {
    let id = input::shard(&request.keyspace, "shard", &request.shard)?;
    let found = context.topo.shard_tablets(&id).await?;
    match found.unreadable_cells.into_values().next() {
        Some(error) if request.strict || found.tablets.is_empty() => Err(error.into()),
        _ => Ok(found.tablets.into_values().collect()),
    }
}

async fn of_cells(context: &Context, request: &GetTabletsRequest) -> Result<Vec<Tablet>, Refusal> {
    if !request.keyspace.is_empty() {
        context.topo.keyspace(input::keyspace("keyspace", &request.keyspace)?).await?;
    }
    let cells = if request.cells.is_empty() { context.topo.cells().await? } else { request.cells.clone() };
    for cell in &cells {
        input::cell("cells", cell)?;
    }
    let read = at_once(cells.into_iter().map(|cell| async move { context.topo.cell_tablets(&cell).await }));
    let mut tablets = tolerated(read.await, request.strict)?;
    tablets.retain(|tablet| request.keyspace.is_empty() || tablet.keyspace == request.keyspace);
    Ok(tablets)
}

/// What could be read; the first error where nothing could be, or where the caller is strict.
fn tolerated(read: Vec<Result<Vec<Tablet>, TopoError>>, strict: bool) -> Result<Vec<Tablet>, Refusal> {
    let mut first = None;
    let (mut tablets, mut any) = (Vec::new(), read.is_empty());
    for part in read {
        match part {
            Ok(part) => {
                any = true;
                tablets.extend(part);
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    match first {
        Some(error) if strict || !any => Err(error.into()),
        _ => Ok(tablets),
    }
}

fn term(tablet: &Tablet) -> (i64, i32) {
    tablet.primary_term_start_time.as_ref().map_or((0, 0), |time| (time.seconds, time.nanoseconds))
}

/// The newest primary term of each shard.
fn newest_terms<'a>(tablets: impl Iterator<Item = &'a Tablet>) -> BTreeMap<(String, String), (i64, i32)> {
    let mut newest = BTreeMap::new();
    for tablet in tablets.filter(|tablet| tablet.r#type == TabletType::Primary as i32) {
        let of_shard = newest.entry((tablet.keyspace.clone(), tablet.shard.clone())).or_insert((0, 0));
        *of_shard = term(tablet).max(*of_shard);
    }
    newest
}

/// Deletes tablet records. All are read and judged before the first is deleted, so that a mistake in one changes nothing.
pub async fn delete_tablets(context: &Context, request: Request<DeleteTabletsRequest>) -> Result<DeleteTabletsResponse, Refusal> {
    let request = request.into_inner();
    if request.tablet_aliases.is_empty() {
        return Err(Refusal::invalid("tablet_aliases is required: name the tablets to delete"));
    }
    let mut doomed = BTreeMap::new();
    for alias in &request.tablet_aliases {
        let alias = input::alias("tablet_aliases", Some(alias))?;
        let tablet = context.topo.tablet(&alias).await?.value;
        let shard = ShardId::new(&tablet.keyspace, &tablet.shard)?;
        let is_primary = is_primary(context, &alias, &tablet, &shard).await?;
        if is_primary && !request.allow_primary {
            let message = format!("{alias} is the primary of {shard}; move the primary away first, or set allow_primary");
            return Err(Refusal::precondition(message));
        }
        doomed.insert(alias, (shard, is_primary));
    }
    for (alias, (shard, is_primary)) in doomed {
        if is_primary { delete_primary(context, &alias, &shard).await? } else { delete(context, &alias, &shard).await? }
    }
    Ok(DeleteTabletsResponse {})
}

/// The shard record names it, or its own record claims a newer term than the shard's.
async fn is_primary(context: &Context, alias: &TabletAlias, tablet: &Tablet, shard: &ShardId) -> Result<bool, Refusal> {
    let record = match context.topo.shard(shard).await {
        Ok(record) => record.value,
        // A tablet of a shard that was deleted is nobody's primary.
        Err(TopoError::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let shard_term = record.primary_term_start_time.as_ref().map_or((0, 0), |time| (time.seconds, time.nanoseconds));
    let claims = tablet.r#type == TabletType::Primary as i32 && term(tablet) > shard_term;
    Ok(claims || record.primary_alias == Some(alias.into()))
}

/// Under the shard lock; the shard is left without a primary and with a term that makes the deleted one step down if it lives.
async fn delete_primary(context: &Context, alias: &TabletAlias, shard: &ShardId) -> Result<(), Refusal> {
    let lock = context.topo.lock_shard(shard, &format!("DeleteTablet({alias})"), context.lock_timeout).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let named = topodata::TabletAlias::from(alias);
    let mut change = |record: &mut topodata::Shard| {
        if record.primary_alias.as_ref() != Some(&named) {
            return false;
        }
        record.primary_alias = None;
        let (seconds, nanoseconds) = (now.as_secs() as i64, now.subsec_nanos() as i32);
        record.primary_term_start_time = Some(vttime::Time { seconds, nanoseconds });
        true
    };
    let done = match lock.verify().await {
        Ok(()) => match context.topo.update_shard(shard, &mut change).await {
            Ok(_) => delete(context, alias, shard).await,
            Err(error) => Err(error.into()),
        },
        Err(lost) => Err(Refusal::new(Code::Aborted, lost.to_string())),
    };
    if let Err(lost) = lock.unlock().await {
        tracing::warn!(%shard, %lost, "the shard lock was lost while a primary's record was deleted");
    }
    done
}

/// First the entry in the replication graph: one that names a missing record is worse than a record that no graph names.
async fn delete(context: &Context, alias: &TabletAlias, shard: &ShardId) -> Result<(), Refusal> {
    match context.topo.remove_from_shard_replication(shard, alias).await {
        Ok(()) | Err(TopoError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    context.topo.delete_tablet(alias).await?;
    tracing::info!(%alias, %shard, "deleted a tablet's record");
    Ok(())
}

/// A named tablet and its record.
pub async fn named(context: &Context, alias: Option<&topodata::TabletAlias>) -> Result<(TabletAlias, Tablet), Refusal> {
    let alias = input::alias("tablet_alias", alias)?;
    let tablet = context.topo.tablet(&alias).await?.value;
    Ok((alias, tablet))
}

/// Everything about a tablet's MySQL server.
pub async fn get_full_status(
    context: &Context,
    request: Request<GetFullStatusRequest>,
) -> Result<GetFullStatusResponse, Refusal> {
    let (_, tablet) = named(context, request.into_inner().tablet_alias.as_ref()).await?;
    Ok(GetFullStatusResponse { status: Some(context.tablets.full_status(&tablet, context.call()).await?) })
}

/// Is the tablet's process there?
pub async fn ping_tablet(context: &Context, request: Request<PingTabletRequest>) -> Result<PingTabletResponse, Refusal> {
    let (_, tablet) = named(context, request.into_inner().tablet_alias.as_ref()).await?;
    context.tablets.ping(&tablet, context.call()).await?;
    Ok(PingTabletResponse {})
}

/// Makes a tablet read its shard's records again.
pub async fn refresh_state(context: &Context, request: Request<RefreshStateRequest>) -> Result<RefreshStateResponse, Refusal> {
    let (_, tablet) = named(context, request.into_inner().tablet_alias.as_ref()).await?;
    context.tablets.refresh_state(&tablet, context.call()).await?;
    Ok(RefreshStateResponse {})
}

/// Makes a tablet send a health update.
pub async fn run_health_check(
    context: &Context,
    request: Request<RunHealthCheckRequest>,
) -> Result<RunHealthCheckResponse, Refusal> {
    let (_, tablet) = named(context, request.into_inner().tablet_alias.as_ref()).await?;
    context.tablets.run_health_check(&tablet, context.call()).await?;
    Ok(RunHealthCheckResponse {})
}

/// Switches a tablet's MySQL server to read-write or read-only. No role is checked, as in vtctld: it is a person's tool.
pub async fn set_writable(context: &Context, request: Request<SetWritableRequest>) -> Result<SetWritableResponse, Refusal> {
    let request = request.into_inner();
    let (alias, tablet) = named(context, request.tablet_alias.as_ref()).await?;
    context.tablets.set_read_only(&tablet, !request.writable, context.call()).await?;
    tracing::info!(%alias, writable = request.writable, "a person switched a server's read-only state");
    Ok(SetWritableResponse {})
}

/// Changes what a tablet is for. Only a reparent makes or unmakes a primary.
pub async fn change_tablet_type(
    context: &Context,
    request: Request<ChangeTabletTypeRequest>,
) -> Result<ChangeTabletTypeResponse, Refusal> {
    let request = request.into_inner();
    let to = input::tablet_type("db_type", request.db_type)?;
    let (alias, before) = named(context, request.tablet_alias.as_ref()).await?;
    let from = TabletType::try_from(before.r#type).unwrap_or(TabletType::Unknown);
    if !may_change(from, to) {
        let (from, to) = (from.as_str_name(), to.as_str_name());
        let message =
            format!("{alias} is of type {from} and cannot become {to} by hand; a primary is changed by PlannedReparentShard");
        return Err(Refusal::precondition(message));
    }
    if request.dry_run {
        let after = Tablet { r#type: to as i32, ..before.clone() };
        return Ok(ChangeTabletTypeResponse { before_tablet: Some(before), after_tablet: Some(after), was_dry_run: true });
    }
    let semi_sync = replication::acknowledges(context, &alias, &before, to as i32).await?;
    context.tablets.change_type(&before, to, semi_sync, context.call()).await?;
    tracing::info!(%alias, from = from.as_str_name(), to = to.as_str_name(), "a person changed a tablet's type");
    // The change is made; a record that cannot be read now is left out of the answer, as in vtctld.
    let after_tablet = context.topo.tablet(&alias).await.ok().map(|tablet| tablet.value);
    Ok(ChangeTabletTypeResponse { before_tablet: Some(before), after_tablet, was_dry_run: false })
}

/// Vitess's rule: among the types of replicas, and from RESTORE to SPARE.
fn may_change(from: TabletType, to: TabletType) -> bool {
    use TabletType::{Backup, Drained, Experimental, Rdonly, Replica, Restore, Spare};
    let replica = |kind| matches!(kind, Replica | Rdonly | Spare | Backup | Experimental | Drained);
    (replica(from) && replica(to)) || (from == Restore && to == Spare)
}
