//! What a tablet manager does by itself: the shard record follows a primary, a primary steps down for a later one, a record says what its
//! tablet is, and an agent makes its server what the topology says.

use std::{sync::Weak, time::Duration};

use tokio::time::{Instant, sleep};
use vtelector::pb::{
    topodata::{Shard, TabletType},
    vttime,
};

use super::{
    manager::{Answer, Flavour, Handler},
    mysqld::Process,
    world::World,
};

/// How often it looks; an agent and a vttablet watch the shard record, which is no slower.
const LOOK: Duration = Duration::from_millis(100);
/// Limit of one of its steps.
const LIMIT: Duration = Duration::from_secs(15);
/// An elector that has demoted this server re-points it in a moment.
const ELECTOR_GRACE: Duration = Duration::from_secs(3);
/// A vttablet's own step-down is tried again after that.
const RETRY: Duration = Duration::from_secs(30);

pub fn newer(one: Option<&vttime::Time>, other: Option<&vttime::Time>) -> bool {
    let key = |time: Option<&vttime::Time>| time.map(|time| (time.seconds, time.nanoseconds));
    key(one) > key(other)
}

/// Runs for as long as the world does.
pub async fn run(world: Weak<World>, host: usize) {
    let mut closed_since: Option<Instant> = None;
    let mut retry = Instant::now();
    let mut settle = Instant::now();
    loop {
        sleep(LOOK).await;
        let Some(world) = world.upgrade() else { return };
        let handler = Handler::own(&world, host, LIMIT);
        if world.lock().hosts[host].manager.process != Process::Running {
            continue;
        }
        let work = async {
            look_at_mysqld(&handler).await;
            // An etcd that does not answer, or a step that fails, is met again at the next look.
            let _ = follow_shard(&handler, &mut closed_since, &mut retry).await;
            if settle <= Instant::now() && handler.change(|manager| manager.unsettled) {
                settle = Instant::now() + Duration::from_millis(500);
                let _ = super::settle::settle(&handler).await;
            }
            Ok(())
        };
        let _ended_with_its_process: Option<Answer<()>> = handler.while_alive(work).await;
    }
}

/// Sees that mysqld is gone, or that it is another run.
async fn look_at_mysqld(handler: &Handler) {
    let (process, boot) = {
        let mysqld = &handler.world.lock().hosts[handler.host].mysqld;
        (mysqld.process, mysqld.boot)
    };
    let restarted = handler.change(|manager| {
        manager.mysql_down = process == Process::Dead;
        process == Process::Running && std::mem::replace(&mut manager.known_boot, boot) != boot
    });
    if restarted && handler.flavour() == Flavour::Agent {
        handler.world.note(format!("{}: mysqld was restarted", handler.alias()));
        handler.change(|manager| manager.unsettled = true);
    }
}

async fn follow_shard(handler: &Handler, closed_since: &mut Option<Instant>, retry: &mut Instant) -> Answer<()> {
    let own = handler.change(|manager| (manager.tablet_type == TabletType::Primary).then_some(manager.term).flatten());
    let Some(own) = own else {
        *closed_since = None;
        return Ok(());
    };
    let unknown = |error: vtelector::topo::TopoError| (tonic::Code::Unknown, error.to_string());
    let shard = handler.topo().shard(&handler.world.shard).await.map_err(unknown)?.value;
    let alias = handler.alias();
    if newer(Some(&own), shard.primary_term_start_time.as_ref()) {
        let mut change = |record: &mut Shard| {
            let write = newer(Some(&own), record.primary_term_start_time.as_ref());
            if write {
                (record.primary_alias, record.primary_term_start_time) = (Some((&alias).into()), Some(own));
            }
            write
        };
        handler.topo().update_shard(&handler.world.shard, &mut change).await.map_err(unknown)?;
        return Ok(());
    }
    if !newer(shard.primary_term_start_time.as_ref(), Some(&own)) || *retry > Instant::now() {
        return Ok(());
    }
    let closed = handler.world.lock().hosts[handler.host].mysqld.read_only;
    let since = *closed_since.get_or_insert_with(Instant::now);
    if closed && handler.flavour() == Flavour::Agent && since.elapsed() < ELECTOR_GRACE {
        return Ok(());
    }
    *closed_since = None;
    *retry = Instant::now() + RETRY;
    let _action = handler.action().await?;
    if handler.change(|manager| manager.term) != Some(own) {
        return Ok(());
    }
    handler.world.note(format!("{alias}: a later primary was elected, stepping down"));
    handler.change(|manager| manager.serving = false);
    match super::actions::shut(handler).await {
        // There is nothing to close.
        Err((_, text)) if text.contains("errno 2002") => {}
        other => drop(other?),
    }
    become_replica(handler).await;
    handler.change(|manager| manager.unsettled = true);
    *retry = Instant::now();
    Ok(())
}

/// Type REPLICA, in memory at once and in the record when it can be.
pub async fn become_replica(handler: &Handler) {
    handler.change(|manager| {
        if manager.tablet_type == TabletType::Primary {
            (manager.tablet_type, manager.term) = (TabletType::Replica, None);
        }
        manager.serving = true;
    });
    let (tablet_type, term) = handler.change(|manager| (manager.tablet_type, manager.term));
    if handler.write_record(tablet_type, term).await.is_err() {
        let again = handler.clone();
        handler.world.goes_on(async move {
            for _ in 0..60 {
                sleep(Duration::from_secs(1)).await;
                let (tablet_type, term) = again.change(|manager| (manager.tablet_type, manager.term));
                if again.write_record(tablet_type, term).await.is_ok() {
                    return;
                }
            }
        });
    }
}
