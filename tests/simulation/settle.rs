//! An agent makes its server what the topology says it is, under the shard lock (`src/agent/settle.rs`).

use std::time::Duration;

use tonic::Code;
use vtelector::{
    pb::topodata::TabletType,
    tablet::SetSource,
    topo::{TabletAlias, TopoError},
};

use super::{
    actions,
    guard::{become_replica, newer},
    manager::{Answer, Flavour, Handler, failed},
};

const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

fn unknown(error: TopoError) -> (Code, String) {
    (Code::Unknown, error.to_string())
}

/// Tried again until it is done.
pub async fn settle(handler: &Handler) -> Answer<()> {
    if handler.flavour() == Flavour::Vttablet {
        // A vttablet that has stepped down follows the new primary once, without a lock.
        let done = follow(handler).await;
        if done.is_ok() {
            handler.change(|manager| manager.unsettled = false);
        }
        return done;
    }
    handler.sql(|_| ()).await?;
    if !is_settled(handler).await? {
        let action = format!("vtelector agent starts {}", handler.alias());
        let lock = handler.topo().lock_shard(&handler.world.shard, &action, LOCK_TIMEOUT).await.map_err(unknown)?;
        let mut under_lock = handler.clone();
        under_lock.revision = Some(lock.revision());
        let done = if promotion_under_way(handler).await? {
            failed(Code::FailedPrecondition, "an elector has left a promotion unfinished")
        } else {
            settle_locked(&under_lock).await
        };
        // A lock that was lost ends by itself.
        let _ = lock.unlock().await;
        done?;
    }
    handler.change(|manager| manager.unsettled = false);
    Ok(())
}

async fn shard_primary(handler: &Handler) -> Answer<Option<TabletAlias>> {
    let shard = handler.topo().shard(&handler.world.shard).await.map_err(unknown)?.value;
    Ok(shard.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok()).filter(|alias| *alias != handler.alias()))
}

async fn is_settled(handler: &Handler) -> Answer<bool> {
    let is_primary = handler.change(|manager| manager.tablet_type == TabletType::Primary);
    if is_primary {
        return handler.sql(|mysqld| !mysqld.read_only).await;
    }
    let Some(primary) = shard_primary(handler).await? else { return Ok(true) };
    let source = handler.world.host_of(&primary);
    handler.sql(move |mysqld| mysqld.source == source && mysqld.io_connected() && mysqld.sql && !mysqld.offline).await
}

/// The journal's word, as an agent reads it.
async fn promotion_under_way(handler: &Handler) -> Answer<bool> {
    let key = format!("/vtelector/journal/{}/{}", handler.world.shard.keyspace, handler.world.shard.shard);
    let entry = handler.topo().global().get(&key).await.map_err(|error| (Code::Unknown, error.to_string()))?;
    Ok(entry.is_some_and(|entry| String::from_utf8_lossy(&entry.value).contains("\"stage\":\"promoting\"")))
}

async fn settle_locked(handler: &Handler) -> Answer<()> {
    if is_settled(handler).await? {
        return Ok(());
    }
    let action = handler.action().await?;
    let (is_primary, term) = handler.change(|manager| (manager.tablet_type == TabletType::Primary, manager.term));
    if is_primary {
        let shard = handler.topo().shard(&handler.world.shard).await.map_err(unknown)?.value;
        let tablets = handler.topo().shard_tablets(&handler.world.shard).await.map_err(unknown)?;
        let own = handler.alias();
        let rival = tablets.tablets.iter().any(|(alias, tablet)| {
            *alias != own
                && tablet.r#type() == TabletType::Primary
                && !newer(term.as_ref(), tablet.primary_term_start_time.as_ref())
        });
        let same = shard.primary_alias == Some((&own).into()) || newer(term.as_ref(), shard.primary_term_start_time.as_ref());
        if same && !rival && !newer(shard.primary_term_start_time.as_ref(), term.as_ref()) {
            return actions::become_writable(handler, handler.world.acks_needed(handler.host) > 0).await;
        }
        become_replica(handler).await;
    }
    drop(action);
    follow(handler).await
}

async fn follow(handler: &Handler) -> Answer<()> {
    let Some(primary) = shard_primary(handler).await? else { return Ok(()) };
    let semi_sync = handler.world.host_of(&primary).is_some_and(|primary| handler.world.may_ack(primary, handler.host));
    let set = SetSource {
        parent: &primary,
        time_created_ns: 0,
        force_start: true,
        wait_position: "",
        semi_sync,
        heartbeat_interval_s: 0.0,
    };
    actions::set_source(handler, &actions::Set::from(&set)).await?;
    // Whoever fenced this server has gone, or does it as well.
    if handler.flavour() == Flavour::Agent && handler.sql(|mysqld| mysqld.offline && mysqld.read_only).await? {
        handler.sql(|mysqld| mysqld.set_offline(false)).await?;
    }
    Ok(())
}
