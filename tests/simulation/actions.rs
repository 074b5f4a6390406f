//! What a tablet manager does to its server when it is told: the two flavours, as the agent's source and Vitess's behave.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;
use vtelector::{
    pb::{replicationdata::PrimaryStatus, topodata::TabletType},
    tablet::SetSource,
    topo::TabletAlias,
};

use super::{
    gtid::{Pos, SERVERS_MAX, uuid},
    guard::{become_replica, newer},
    manager::{Answer, Flavour, Handler, failed},
    mysqld::{Io, Mysqld, NEVER_MS},
    net::Node,
    world::{JournalRow, State},
};

/// An agent takes commits that have not ended by then for hanging ones.
const FLOWING_MAX: Duration = Duration::from_millis(100);
/// An agent tells its caller by then that the server is frozen.
const ANSWER_MAX: Duration = Duration::from_millis(50);
/// An agent switches semi-sync's source side off so long after a demotion.
const OFF_DELAY: Duration = Duration::from_secs(10);
const STEP_LIMIT: Duration = Duration::from_secs(3600);

/// What `SetReplicationSource` asks for.
#[derive(Debug, Clone)]
pub struct Set {
    pub parent: TabletAlias,
    pub time_created_ns: i64,
    pub force_start: bool,
    pub wait_position: Pos,
    pub semi_sync: bool,
    pub new_heartbeat: bool,
}

impl From<&SetSource<'_>> for Set {
    fn from(set: &SetSource<'_>) -> Self {
        Self {
            parent: set.parent.clone(),
            time_created_ns: set.time_created_ns,
            force_start: set.force_start,
            wait_position: Pos::decode(set.wait_position),
            semi_sync: set.semi_sync,
            new_heartbeat: set.heartbeat_interval_s != 0.0,
        }
    }
}

pub fn primary_status(mysqld: &Mysqld) -> PrimaryStatus {
    PrimaryStatus { position: mysqld.executed.encode(), file_position: String::new(), server_uuid: uuid(mysqld.index) }
}

/// DemotePrimary.
pub async fn demote(handler: &Handler, force: bool) -> Answer<PrimaryStatus> {
    match (handler.flavour(), force) {
        (Flavour::Vttablet, _) => demote_vttablet(handler, force).await,
        (Flavour::Agent, true) => {
            handler.admit()?;
            let patient = Handler { deadline: Instant::now() + STEP_LIMIT, ..handler.clone() };
            let mut task = tokio::spawn(async move {
                let _action = patient.action().await?;
                shut(&patient).await
            });
            // An agent says early that its server is frozen, and goes on all the same.
            match timeout(ANSWER_MAX + FLOWING_MAX + ANSWER_MAX, &mut task).await {
                Ok(done) => done.unwrap(),
                Err(_) if handler.world.lock().hosts[handler.host].mysqld.process == super::mysqld::Process::Frozen => {
                    failed(Code::DeadlineExceeded, "mysqld does not answer; it is fenced as soon as it does")
                }
                Err(_) => match timeout_at(handler.deadline, task).await {
                    Ok(done) => done.unwrap(),
                    Err(_) => failed(Code::DeadlineExceeded, "the demotion goes on"),
                },
            }
        }
        (Flavour::Agent, false) => {
            let _action = handler.action().await?;
            let was_writable = handler.sql(|mysqld| !mysqld.read_only).await?;
            match handler.close().await {
                Ok(()) => source_off_later(handler),
                Err(error) => {
                    if was_writable {
                        handler.sql(Mysqld::open).await?;
                    }
                    return Err(error);
                }
            }
            handler.sql(|mysqld| primary_status(mysqld)).await
        }
    }
}

/// Makes a server read-only in any state; hung commits end acknowledged to nobody.
pub async fn shut(handler: &Handler) -> Answer<PrimaryStatus> {
    if handler.flavour() == Flavour::Agent {
        let quick = Handler { deadline: Instant::now() + FLOWING_MAX, ..handler.clone() };
        match quick.close().await {
            Ok(()) => {
                source_off_later(handler);
                return handler.sql(|mysqld| primary_status(mysqld)).await;
            }
            Err((Code::Unavailable, text)) => return failed(Code::Unavailable, text),
            Err(_) => handler.sql(|mysqld| mysqld.set_offline(true)).await?,
        }
    } else {
        handler.change(|manager| manager.serving = false);
    }
    handler.source_off().await?;
    handler.close().await?;
    handler.sql(|mysqld| primary_status(mysqld)).await
}

/// As `source_off_later` of the agent: unless something else has happened by then.
fn source_off_later(handler: &Handler) {
    let later = Handler { deadline: Instant::now() + STEP_LIMIT, ..handler.clone() };
    let boot = handler.world.lock().hosts[handler.host].mysqld.boot;
    handler.world.goes_on(async move {
        sleep(OFF_DELAY).await;
        // A server that is primary again needs it.
        let _ = later
            .sql(move |mysqld| {
                if mysqld.read_only && mysqld.boot == boot {
                    mysqld.set_source_enabled(false, Instant::now());
                }
            })
            .await;
    });
}

/// Vitess's order. With `force` and commits that hang, semi-sync goes off first.
async fn demote_vttablet(handler: &Handler, force: bool) -> Answer<PrimaryStatus> {
    let _action = handler.action().await?;
    let was_writable = handler.sql(|mysqld| !mysqld.read_only).await?;
    let was_source = handler.sql(|mysqld| mysqld.source_enabled).await?;
    if was_writable && handler.change(|manager| manager.tablet_type == TabletType::Primary) {
        handler.change(|manager| manager.serving = false);
    }
    let demoted = async {
        if force && handler.sql(|mysqld| !mysqld.waiting.is_empty() && mysqld.source_enabled).await? {
            handler.source_off().await?;
        }
        // Issued without a context: it hangs longer than the call.
        let patient = Handler { deadline: Instant::now() + STEP_LIMIT, ..handler.clone() };
        patient.close().await?;
        if was_source {
            handler.source_off().await?;
            handler.sql(|mysqld| mysqld.replica_enabled = true).await?;
        }
        handler.sql(|mysqld| primary_status(mysqld)).await
    };
    let done = demoted.await;
    if done.is_err() {
        let undo = Handler { deadline: Instant::now() + Duration::from_secs(15), ..handler.clone() };
        if was_source {
            undo.sql(|mysqld| mysqld.set_source_enabled(true, Instant::now())).await?;
        }
        if was_writable {
            undo.sql(Mysqld::open).await?;
        }
        handler.change(|manager| manager.serving = true);
    }
    done
}

/// Semi-sync as for a primary, then writable and serving.
pub async fn become_writable(handler: &Handler, acks: bool) -> Answer<()> {
    let agent = handler.flavour() == Flavour::Agent;
    handler
        .sql(move |mysqld| {
            mysqld.set_source_enabled(acks, Instant::now());
            mysqld.replica_enabled = acks;
            if agent {
                mysqld.timeout_ms = NEVER_MS;
                mysqld.set_offline(false);
            }
        })
        .await?;
    handler.sql(Mysqld::open).await?;
    handler.change(|manager| manager.serving = true);
    Ok(())
}

/// PromoteReplica and InitPrimary.
pub async fn promote(handler: &Handler, acks: bool) -> Answer<String> {
    let _action = handler.action().await?;
    let term = match handler.flavour() {
        Flavour::Agent => newest_term(handler).await?,
        Flavour::Vttablet => handler.world.clock(handler.host, 0),
    };
    let stop_takes = handler.sql(|mysqld| mysqld.io_stop_takes()).await?;
    let agent = handler.flavour() == Flavour::Agent;
    handler.sql_for(stop_takes, Mysqld::stop_io).await?;
    if agent {
        // It executes all that it has received before it forgets where it came from.
        handler.sees(|mysqld| mysqld.executed.contains(&mysqld.received) || !mysqld.sql).await?;
    }
    let position = handler
        .sql(|mysqld| {
            mysqld.change_source(None);
            mysqld.sql = false;
            mysqld.executed.encode()
        })
        .await?;
    handler.write_record(TabletType::Primary, Some(term)).await?;
    handler.change(|manager| (manager.tablet_type, manager.term) = (TabletType::Primary, Some(term)));
    become_writable(handler, acks).await?;
    let (world, host) = (&handler.world, handler.host);
    world.lock().promotions.push((Instant::now(), host));
    world.note(format!("{}: promoted at {position}", handler.alias()));
    Ok(position)
}

/// An agent's term is later than every known one, whatever its clock says.
async fn newest_term(handler: &Handler) -> Answer<vtelector::pb::vttime::Time> {
    let unknown = |error: vtelector::topo::TopoError| (Code::Unknown, error.to_string());
    let shard = handler.topo().shard(&handler.world.shard).await.map_err(unknown)?.value;
    let tablets = handler.topo().shard_tablets(&handler.world.shard).await.map_err(unknown)?;
    let mut term = handler.world.clock(handler.host, 0);
    let known = tablets.tablets.values().filter(|tablet| tablet.r#type() == TabletType::Primary);
    for known in known.filter_map(|tablet| tablet.primary_term_start_time).chain(shard.primary_term_start_time) {
        let least = vtelector::pb::vttime::Time { seconds: known.seconds + 1, ..known };
        if newer(Some(&least), Some(&term)) {
            term = least;
        }
    }
    Ok(term)
}

/// UndoDemotePrimary.
pub async fn undo_demote(handler: &Handler, acks: bool) -> Answer<()> {
    let _action = handler.action().await?;
    let unknown = |error: vtelector::topo::TopoError| (Code::Unknown, error.to_string());
    if handler.flavour() == Flavour::Agent {
        if handler.change(|manager| manager.tablet_type) != TabletType::Primary {
            return failed(Code::FailedPrecondition, "only a primary is made writable");
        }
        if let Ok(shard) = handler.topo().shard(&handler.world.shard).await.map_err(unknown) {
            let own = handler.change(|manager| manager.term);
            if newer(shard.value.primary_term_start_time.as_ref(), own.as_ref()) {
                return failed(Code::FailedPrecondition, "the shard record names a later primary");
            }
        }
    }
    become_writable(handler, acks).await
}

/// SetReplicationSource, the action lock being held; whether replication was started.
pub async fn set_source(handler: &Handler, set: &Set) -> Answer<bool> {
    let agent = handler.flavour() == Flavour::Agent;
    let unknown = |error: vtelector::topo::TopoError| (Code::Unknown, error.to_string());
    if agent {
        if set.parent == handler.alias() {
            return failed(Code::FailedPrecondition, "it cannot follow itself");
        }
        handler.close().await?;
    }
    let before = handler.sql(|mysqld| (mysqld.source, io_healthy(mysqld) || mysqld.sql)).await?;
    let run = set.force_start || before.0.is_none() || before.1;
    become_replica(handler).await;
    let acks = set.semi_sync;
    if !agent {
        semi_sync_of_replica(handler, acks).await?;
    }
    let record = handler.topo().tablet(&set.parent).await.map_err(unknown)?.value;
    let parent = handler.world.host_of(&set.parent).filter(|_| !record.mysql_hostname.is_empty());
    let Some(parent) = parent else { return failed(Code::FailedPrecondition, "the parent has no MySQL address") };
    refuse_errant(handler, parent).await?;
    if agent {
        semi_sync_of_replica(handler, acks).await?;
    }
    if before.0 != Some(parent) || set.new_heartbeat {
        let takes = handler.sql(|mysqld| mysqld.io_stop_takes()).await?;
        handler.sql_for(takes, move |mysqld| mysqld.change_source(Some(parent))).await?;
    } else if run {
        handler.stop_io().await?;
    }
    handler
        .sql(move |mysqld| {
            if run {
                mysqld.start_io(Instant::now());
                mysqld.sql = true;
            }
            if agent {
                mysqld.set_offline(false);
            }
        })
        .await?;
    Ok(run)
}

async fn semi_sync_of_replica(handler: &Handler, acks: bool) -> Answer<()> {
    handler
        .sql(move |mysqld| {
            mysqld.set_source_enabled(false, Instant::now());
            mysqld.replica_enabled = acks;
        })
        .await
}

/// After [`set_source`], without the action lock: the position and the row of the journal that were asked for.
pub async fn wait_for_source(handler: &Handler, set: &Set) -> Answer<()> {
    let (host, wanted, row) = (handler.host, set.wait_position, set.time_created_ns);
    let arrived = |state: &State| {
        state.hosts[host].mysqld.executed.contains(&wanted)
            && (row == 0 || state.rows(host).any(|seen| seen.time_created_ns == row))
    };
    match timeout_at(handler.deadline, handler.world.until(arrived)).await {
        Ok(()) => Ok(()),
        Err(_) => failed(Code::DeadlineExceeded, "context deadline exceeded waiting for the reparent journal"),
    }
}

/// What is here and was neither written by the parent nor executed there.
async fn refuse_errant(handler: &Handler, parent: usize) -> Answer<()> {
    let world = &handler.world;
    let own = handler.sql(|mysqld| mysqld.received).await?;
    let asked = async {
        world.travel(Node::Host(handler.host), Node::Host(parent)).await;
        let theirs =
            Handler { host: parent, life: world.lock().hosts[parent].manager.life.clone(), revision: None, ..handler.clone() };
        if world.lock().hosts[parent].manager.process == super::mysqld::Process::Dead {
            return failed(Code::Unavailable, "connection refused");
        }
        let position = theirs.sql(|mysqld| mysqld.executed).await?;
        world.travel(Node::Host(parent), Node::Host(handler.host)).await;
        Ok(position)
    };
    let theirs = match timeout_at(handler.deadline, asked).await {
        Ok(Ok(theirs)) => theirs,
        Ok(Err((_, text))) => return failed(Code::Unavailable, format!("TabletManager.PrimaryStatus on the parent: {text}")),
        Err(_) => return failed(Code::DeadlineExceeded, "TabletManager.PrimaryStatus on the parent: context deadline exceeded"),
    };
    match (0..SERVERS_MAX).find(|server| *server != parent && own.0[*server] > theirs.0[*server]) {
        Some(server) => {
            let text = format!("Errant GTID detected: {}:{}-{}", uuid(server), theirs.0[server] + 1, own.0[server]);
            failed(Code::FailedPrecondition, text)
        }
        None => Ok(()),
    }
}

/// PopulateReparentJournal: one insert, which waits for its acknowledgement like every other.
pub async fn populate(handler: &Handler, time_created_ns: i64) -> Answer<()> {
    let (world, host) = (&handler.world, handler.host);
    if world.lock().rows(host).any(|row| row.time_created_ns == time_created_ns) {
        return failed(Code::Unknown, "Duplicate entry (errno 1062) (sqlstate 23000) during query: INSERT");
    }
    let sequence = handler.sql(|mysqld| (!mysqld.read_only && !mysqld.closing).then(|| mysqld.begin(None))).await?;
    let Some(sequence) = sequence else {
        return failed(
            Code::Unknown,
            "The MySQL server is running with the --super-read-only option (errno 1290) (sqlstate HY000)",
        );
    };
    world.lock().journal.push(JournalRow { server: host, sequence, time_created_ns });
    handler.sees(move |mysqld| mysqld.executed.0[mysqld.index] >= sequence).await
}

pub fn io_healthy(mysqld: &Mysqld) -> bool {
    matches!(mysqld.io, Io::Running { .. } | Io::Connecting { errno: 0, .. })
}
