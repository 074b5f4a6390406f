//! The tablet managers as one node reaches them over the network: the trait that the shipped code calls.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tonic::Code;
use vtelector::{
    pb::{
        query::QueryResult,
        replicationdata::{FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::{Tablet, TabletType},
    },
    shard::{FailureClass, Greeting},
    tablet::{Call, HealthStream, SetSource, TabletError, TabletErrorKind, TabletManager},
    topo::TabletAlias,
};

use super::{
    actions::{self, Set},
    gtid::Pos,
    guard::become_replica,
    manager::{Answer, Flavour, Handler, failed},
    mysqld::{Mysqld, Process},
    net::Node,
    statements, status,
    world::World,
};

/// A vttablet's action lock is also waited for by handlers whose caller has gone, half of the time.
const STARTS_ANYWAY: f64 = 0.5;

/// One node's view of every tablet manager.
#[derive(Clone)]
pub struct Remote {
    pub world: Arc<World>,
    pub node: Node,
}

type Work<T> = Pin<Box<dyn Future<Output = Answer<T>> + Send>>;

/// What came over the wire.
enum Reply<T> {
    Answer(Answer<T>),
    Refused,
    Closed,
}

impl Remote {
    async fn call<T: Send + 'static>(
        &self,
        tablet: &Tablet,
        method: &'static str,
        arguments: String,
        call: Call,
        work: impl FnOnce(Handler) -> Work<T> + Send + 'static,
    ) -> Result<T, TabletError> {
        let alias = TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap();
        let deadline = Instant::now() + call.timeout;
        let error = |kind, code, lost, message: &str| TabletError {
            alias: alias.clone(),
            method,
            kind,
            code,
            lost: Some(lost),
            message: message.to_owned(),
        };
        let Some(host) = self.world.host_of(&alias) else {
            return Err(error(TabletErrorKind::Unreachable, Code::Unavailable, FailureClass::Silent, "no such host"));
        };
        self.world.gets_on(self.node).await;
        self.count();
        let asked = !is_read(method, &arguments);
        if asked {
            self.world.note(format!("{:?} -> {alias} {method} {arguments}", self.node));
        }
        let (answer, mut answered) = oneshot::channel();
        let carried = carry(self.clone(), host, deadline, call.lock_revision, work, answer);
        self.world.goes_on(carried);
        let reply = tokio::select! {
            biased;
            reply = &mut answered => reply.unwrap_or(Reply::Closed),
            () = sleep_until(deadline) => {
                let given_up = self.world.lock().net.is_given_up(self.node, Node::Host(host));
                self.world.gets_on(self.node).await;
                if asked {
                    self.world.note(format!("{:?} <- {alias} {method}: no answer in time", self.node));
                }
                let kind = if given_up { TabletErrorKind::Unreachable } else { TabletErrorKind::UnknownOutcome };
                return Err(error(kind, Code::DeadlineExceeded, FailureClass::Silent, "no answer in time"));
            }
        };
        self.world.gets_on(self.node).await;
        let done = match reply {
            Reply::Answer(Ok(done)) => Ok(done),
            Reply::Answer(Err((code, text))) => Err(TabletError::answered(alias.clone(), method, code, &text)),
            Reply::Refused => {
                Err(error(TabletErrorKind::Unreachable, Code::Unavailable, FailureClass::Refused, "connection refused"))
            }
            Reply::Closed => {
                Err(error(TabletErrorKind::UnknownOutcome, Code::Unavailable, FailureClass::Closed, "connection closed"))
            }
        };
        if let (true, Err(error)) = (asked, &done) {
            self.world.note(format!("{:?} <- {error}", self.node));
        }
        done
    }

    fn count(&self) {
        let second = self.world.start.elapsed().as_secs();
        *self.world.lock().calls.entry((self.node, second)).or_default() += 1;
    }
}

/// A request's way to the handler and back. What a handler has begun goes on without its caller.
async fn carry<T: Send + 'static>(
    remote: Remote,
    host: usize,
    deadline: Instant,
    revision: Option<i64>,
    work: impl FnOnce(Handler) -> Work<T> + Send + 'static,
    answer: oneshot::Sender<Reply<T>>,
) {
    let (world, there) = (&remote.world, Node::Host(host));
    world.travel(remote.node, there).await;
    if world.lock().hosts[host].manager.process == Process::Dead {
        world.travel(there, remote.node).await;
        let _ = answer.send(Reply::Refused);
        return;
    }
    let life = world.lock().hosts[host].manager.life.clone();
    let handler = Handler { world: world.clone(), host, deadline, life, revision };
    let on_time = handler.while_alive(async {
        handler.gets_on().await;
        Ok(())
    });
    if on_time.await.is_none() {
        let _ = answer.send(Reply::Closed);
        return;
    }
    if answer.is_closed() && !world.lock().chance(STARTS_ANYWAY) {
        return;
    }
    let done = handler.while_alive(work(handler.clone())).await;
    world.travel(there, remote.node).await;
    // Nobody may be waiting any more.
    let _ = answer.send(done.map_or(Reply::Closed, Reply::Answer));
}

/// Calls that leave nothing behind.
fn is_read(method: &str, arguments: &str) -> bool {
    match method {
        "ExecuteFetchAsDba" => arguments.starts_with("SELECT") || arguments.starts_with("SHOW"),
        "Ping"
        | "FullStatus"
        | "ReplicationStatus"
        | "PrimaryStatus"
        | "PrimaryPosition"
        | "GetGlobalStatusVars"
        | "WaitForPosition"
        | "ReadReparentJournalInfo"
        | "RefreshState"
        | "RunHealthCheck"
        | "GetReplicas"
        | "Hear"
        | "StreamHealth" => true,
        _ => false,
    }
}

fn not_replica<T>() -> Answer<T> {
    failed(Code::Unknown, "no replication status (errno 100) (sqlstate HY000)")
}

async fn replication(handler: &Handler) -> Answer<Status> {
    handler.sql(|_| ()).await?;
    match status::replication(&handler.world.lock(), handler.host) {
        Some(status) => Ok(status),
        None => not_replica(),
    }
}

async fn stop_and_status(handler: Handler, mode: StopReplicationMode) -> Answer<StopReplicationStatus> {
    let _action = handler.action().await?;
    let before = match replication(&handler).await {
        Err((code, text)) if text.contains("errno 100") => return failed(code, format!("before status failed: {text}")),
        other => other?,
    };
    let io_only = mode == StopReplicationMode::Iothreadonly;
    let stop = handler.sql(move |mysqld| actions::io_healthy(mysqld) && (io_only || mysqld.sql)).await?;
    if !stop {
        return Ok(StopReplicationStatus { before: Some(before.clone()), after: Some(before) });
    }
    handler.stop_io().await?;
    if !io_only {
        handler.sql(|mysqld| mysqld.sql = false).await?;
    }
    let after = replication(&handler).await?;
    Ok(StopReplicationStatus { before: Some(before), after: Some(after) })
}

/// What one node hears from a host's mysqld; it never ends where nothing is heard.
pub async fn knock(world: &Arc<World>, from: Node, host: usize) -> Greeting {
    let there = Node::Host(host);
    world.travel(from, there).await;
    let refused = world.lock().hosts[host].mysqld.process == Process::Dead;
    if !refused {
        world.until(|state| state.hosts[host].mysqld.process != Process::Frozen).await;
    }
    world.travel(there, from).await;
    if refused { Greeting::Refused } else { Greeting::Greeted }
}

async fn listen(handler: Handler, of: usize, wait: Duration) -> Answer<Greeting> {
    let heard = knock(&handler.world, Node::Host(handler.host), of);
    Ok(timeout_at(Instant::now() + wait, heard).await.unwrap_or(Greeting::Silent))
}

macro_rules! handler {
    ($handler:ident, $($work:tt)*) => { move |$handler: Handler| -> Work<_> { Box::pin(async move { $($work)* }) } };
}

#[async_trait]
impl TabletManager for Remote {
    async fn ping(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        self.call(tablet, "Ping", String::new(), call, handler!(_handler, Ok(()))).await
    }

    async fn full_status(&self, tablet: &Tablet, call: Call) -> Result<FullStatus, TabletError> {
        let work = handler!(handler, {
            // An agent does not wait for a server that is silent.
            let silence = status::silence(&handler.world.lock(), handler.host);
            if let Some(words) = silence {
                return failed(Code::Unavailable, words);
            }
            let read = handler.sql(|_| ());
            tokio::select! {
                done = read => done?,
                words = status::falls_silent(&handler) => return failed(Code::Unavailable, words),
            }
            Ok(status::full(&handler.world.lock(), handler.host))
        });
        self.call(tablet, "FullStatus", String::new(), call, work).await
    }

    async fn replication_status(&self, tablet: &Tablet, call: Call) -> Result<Status, TabletError> {
        self.call(tablet, "ReplicationStatus", String::new(), call, handler!(handler, replication(&handler).await)).await
    }

    async fn primary_status(&self, tablet: &Tablet, call: Call) -> Result<PrimaryStatus, TabletError> {
        let work = handler!(handler, handler.sql(|mysqld| actions::primary_status(mysqld)).await);
        self.call(tablet, "PrimaryStatus", String::new(), call, work).await
    }

    async fn primary_position(&self, tablet: &Tablet, call: Call) -> Result<String, TabletError> {
        let work = handler!(handler, handler.sql(|mysqld| mysqld.executed.encode()).await);
        self.call(tablet, "PrimaryPosition", String::new(), call, work).await
    }

    async fn global_status_vars(
        &self,
        tablet: &Tablet,
        names: &[&str],
        call: Call,
    ) -> Result<BTreeMap<String, String>, TabletError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let work = handler!(handler, {
            handler
                .sql(move |mysqld| {
                    let waiting = mysqld.waiting.len().to_string();
                    let value = |name: &String| match name.as_str() {
                        "Rpl_semi_sync_source_wait_sessions" => Some(waiting.clone()),
                        "Innodb_buffer_pool_pages_data" => Some("1000".to_owned()),
                        _ => None,
                    };
                    names.iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
                })
                .await
        });
        self.call(tablet, "GetGlobalStatusVars", String::new(), call, work).await
    }

    async fn wait_for_position(&self, tablet: &Tablet, position: &str, call: Call) -> Result<(), TabletError> {
        let wanted = Pos::decode(position);
        let work = handler!(handler, handler.sees(move |mysqld| mysqld.executed.contains(&wanted)).await);
        self.call(tablet, "WaitForPosition", position.to_owned(), call, work).await
    }

    async fn stop_replication_and_get_status(
        &self,
        tablet: &Tablet,
        mode: StopReplicationMode,
        call: Call,
    ) -> Result<StopReplicationStatus, TabletError> {
        let work = handler!(handler, stop_and_status(handler, mode).await);
        self.call(tablet, "StopReplicationAndGetStatus", String::new(), call, work).await
    }

    async fn stop_replication(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            handler.stop_io().await?;
            handler.sql(|mysqld| mysqld.sql = false).await
        });
        self.call(tablet, "StopReplication", String::new(), call, work).await
    }

    async fn start_replication(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            handler.sql(move |mysqld| start(mysqld, semi_sync)).await
        });
        self.call(tablet, "StartReplication", format!("{semi_sync}"), call, work).await
    }

    async fn set_replication_source(&self, tablet: &Tablet, set: SetSource<'_>, call: Call) -> Result<(), TabletError> {
        let set = Set::from(&set);
        let arguments =
            format!("{}{}{}", set.parent, if set.semi_sync { " ack" } else { "" }, if set.force_start { " force" } else { "" });
        let work = handler!(handler, {
            let action = handler.action().await?;
            let run = actions::set_source(&handler, &set).await?;
            if !run {
                return Ok(());
            }
            // Both flavours hold the action lock while they wait.
            let waited = actions::wait_for_source(&handler, &set).await;
            drop(action);
            waited
        });
        self.call(tablet, "SetReplicationSource", arguments, call, work).await
    }

    async fn demote_primary(&self, tablet: &Tablet, force: bool, call: Call) -> Result<PrimaryStatus, TabletError> {
        let work = handler!(handler, actions::demote(&handler, force).await);
        self.call(tablet, "DemotePrimary", if force { "force" } else { "" }.to_owned(), call, work).await
    }

    async fn undo_demote_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, actions::undo_demote(&handler, semi_sync).await);
        self.call(tablet, "UndoDemotePrimary", String::new(), call, work).await
    }

    async fn promote_replica(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError> {
        let work = handler!(handler, actions::promote(&handler, semi_sync).await);
        self.call(tablet, "PromoteReplica", String::new(), call, work).await
    }

    async fn init_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError> {
        let work = handler!(handler, actions::promote(&handler, semi_sync).await);
        self.call(tablet, "InitPrimary", String::new(), call, work).await
    }

    async fn populate_reparent_journal(
        &self,
        tablet: &Tablet,
        time_created_ns: i64,
        action: &str,
        _primary: &TabletAlias,
        _position: &str,
        call: Call,
    ) -> Result<(), TabletError> {
        let work = handler!(handler, actions::populate(&handler, time_created_ns).await);
        self.call(tablet, "PopulateReparentJournal", action.to_owned(), call, work).await
    }

    async fn read_reparent_journal_info(&self, tablet: &Tablet, call: Call) -> Result<i32, TabletError> {
        let work = handler!(handler, {
            handler.sql(|_| ()).await?;
            Ok(handler.world.lock().rows(handler.host).count() as i32)
        });
        self.call(tablet, "ReadReparentJournalInfo", String::new(), call, work).await
    }

    async fn set_read_only(&self, tablet: &Tablet, read_only: bool, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            match (read_only, handler.flavour()) {
                (true, Flavour::Agent) => handler.close().await,
                (true, Flavour::Vttablet) => handler.sql(|mysqld| mysqld.read_only = true).await,
                (false, Flavour::Agent) => {
                    if handler.change(|manager| manager.tablet_type) != TabletType::Primary {
                        return failed(Code::FailedPrecondition, "only a primary is made writable");
                    }
                    actions::become_writable(&handler, handler.world.acks_needed(handler.host) > 0).await
                }
                (false, Flavour::Vttablet) => handler.sql(Mysqld::open).await,
            }
        });
        self.call(tablet, if read_only { "SetReadOnly" } else { "SetReadWrite" }, String::new(), call, work).await
    }

    async fn change_type(&self, tablet: &Tablet, to: TabletType, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            let term = (to == TabletType::Primary).then(|| handler.world.clock(handler.host, 0));
            handler.change(|manager| (manager.tablet_type, manager.term) = (to, term));
            handler.write_record(to, term).await?;
            if to != TabletType::Primary {
                handler.sql(move |mysqld| mysqld.replica_enabled = semi_sync).await?;
            }
            Ok(())
        });
        self.call(tablet, "ChangeType", format!("{to:?}"), call, work).await
    }

    async fn refresh_state(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        self.call(tablet, "RefreshState", String::new(), call, handler!(_handler, Ok(()))).await
    }

    async fn run_health_check(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        self.call(tablet, "RunHealthCheck", String::new(), call, handler!(_handler, Ok(()))).await
    }

    async fn reset_replication_parameters(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            handler.stop_io().await?;
            handler
                .sql(|mysqld| {
                    mysqld.change_source(None);
                    mysqld.sql = false;
                })
                .await
        });
        self.call(tablet, "ResetReplicationParameters", String::new(), call, work).await
    }

    async fn execute_fetch_as_dba(
        &self,
        tablet: &Tablet,
        sql: &str,
        _max_rows: u64,
        call: Call,
    ) -> Result<QueryResult, TabletError> {
        let text = sql.to_owned();
        let work = handler!(handler, statements::execute(&handler, &text).await);
        self.call(tablet, "ExecuteFetchAsDba", sql.to_owned(), call, work).await
    }

    async fn restart_replication(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            handler.stop_io().await?;
            handler.sql(move |mysqld| start(mysqld, semi_sync)).await
        });
        self.call(tablet, "RestartReplication", format!("{semi_sync}"), call, work).await
    }

    async fn replica_was_restarted(&self, tablet: &Tablet, parent: &TabletAlias, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            become_replica(&handler).await;
            Ok(())
        });
        self.call(tablet, "ReplicaWasRestarted", parent.to_string(), call, work).await
    }

    async fn replica_was_promoted(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let work = handler!(handler, {
            let _action = handler.action().await?;
            let term = Some(handler.world.clock(handler.host, 0));
            handler.change(|manager| (manager.tablet_type, manager.term) = (TabletType::Primary, term));
            handler.write_record(TabletType::Primary, term).await
        });
        self.call(tablet, "ReplicaWasPromoted", String::new(), call, work).await
    }

    async fn hear(&self, tablet: &Tablet, of: &Tablet, wait: Duration, call: Call) -> Result<Greeting, TabletError> {
        let of = TabletAlias::try_from(of.alias.as_ref().unwrap()).unwrap();
        let Some(of) = self.world.host_of(&of).filter(|_| self.world.shape.flavour == Flavour::Agent) else {
            let alias = TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap();
            return Err(TabletError::answered(alias, "Hear", Code::Unimplemented, "unknown method Hear"));
        };
        self.call(tablet, "Hear", String::new(), call, handler!(handler, listen(handler, of, wait).await)).await
    }

    async fn stream_health(&self, tablet: &Tablet, call: Call) -> Result<HealthStream, TabletError> {
        self.call(tablet, "StreamHealth", String::new(), call, handler!(_handler, Ok(()))).await?;
        let alias = TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap();
        Ok(status::health(self.clone(), self.world.host_of(&alias).unwrap(), alias))
    }
}

fn start(mysqld: &mut Mysqld, semi_sync: bool) {
    mysqld.replica_enabled = semi_sync;
    if mysqld.source.is_some() {
        mysqld.start_io(Instant::now());
        mysqld.sql = true;
    }
}

/// What the wire does to a running stream is seen that often.
pub async fn pause() {
    sleep(Duration::from_millis(20)).await;
}
