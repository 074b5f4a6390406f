//! The tablet managers of the world.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use super::{
    server::Server,
    world::{Fault, Inner, World, is_change, publish_shard, time},
};
use crate::{
    mysql::{GtidSet, Position},
    pb::{
        query::{QueryResult, Row},
        replicationdata::{Configuration, FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::{Tablet, TabletType},
    },
    shard::FailureClass,
    tablet::{Call, SetSource, TabletError, TabletErrorKind, TabletManager},
    topo::TabletAlias,
};

const LATENCY: Duration = Duration::from_millis(3);
const POLL: Duration = Duration::from_millis(10);
/// How long a connection attempt to a silent host takes to fail.
const DIAL: Duration = Duration::from_millis(500);

fn alias_of(tablet: &Tablet) -> TabletAlias {
    TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap()
}

fn set(position: &str) -> GtidSet {
    Position::decode(position).unwrap().gtid().unwrap().clone()
}

type Answer<T> = Result<T, (TabletErrorKind, String)>;

fn failed<T>(message: &str) -> Answer<T> {
    Err((TabletErrorKind::Failed, message.to_owned()))
}

impl World {
    /// One call: logged, checked for the lock, gone wrong as ordered. What a tablet has begun it ends, whatever becomes of the caller.
    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        tablet: &Tablet,
        method: &'static str,
        arguments: String,
        call: Call,
        effect: impl FnOnce(&mut Inner, &TabletAlias) -> Answer<T> + Send + 'static,
    ) -> Result<T, TabletError> {
        let alias = alias_of(tablet);
        let error = |kind, code, message: String| {
            let lost = (kind == TabletErrorKind::Unreachable).then_some(FailureClass::Refused);
            TabletError { alias: alias.clone(), method, kind, code, lost, message }
        };
        if self.lock().servers[&alias].down {
            return Err(error(TabletErrorKind::Unreachable, tonic::Code::Unavailable, "connection refused".to_owned()));
        }
        let back = async {
            while self.lock().servers[&alias].silent {
                sleep(POLL).await;
            }
        };
        if timeout(DIAL.min(call.timeout), back).await.is_err() {
            let lost = Some(FailureClass::Silent);
            let silent = error(TabletErrorKind::Unreachable, tonic::Code::Unavailable, "not connected in time".to_owned());
            return Err(TabletError { lost, ..silent });
        }
        self.lock().calls.push((alias.clone(), method, arguments.clone()));
        if self.lock().servers[&alias].mysqld_down {
            return Err(error(TabletErrorKind::MysqlDown, tonic::Code::Unavailable, "mysqld is down (errno 2002)".to_owned()));
        }
        let changes = is_change(method, &arguments);
        // What comes late from a run that is over may point a replica, or take from a server; it may give nothing.
        let only_takes =
            ["SET GLOBAL offline_mode = ON", "SET GLOBAL super_read_only = ON", "SET GLOBAL rpl_semi_sync_source_enabled = OFF"]
                .contains(&arguments.as_str());
        if changes && method != "SetReplicationSource" && !only_takes && !self.is_locked().await && !self.lock().lock_lost {
            self.lock().violations.push(format!("{method} on {alias} without the shard lock"));
        }
        let fault = self.next_fault(&alias, method);
        let (world, on) = (self.clone(), alias.clone());
        let work = self.tasks.spawn(async move {
            let action = if changes { Some(world.actions[&on].clone().lock_owned().await) } else { None };
            sleep(LATENCY).await;
            while world.lock().servers[&on].frozen {
                sleep(POLL).await;
            }
            match fault {
                Some(Fault::Error) => return failed(&format!("ordered failure of {method}")),
                Some(Fault::Hang) => {
                    drop(action);
                    return std::future::pending().await;
                }
                Some(Fault::Late(by)) => sleep(by).await,
                Some(Fault::RecordOnly) => {
                    {
                        let mut inner = world.lock();
                        let term = inner.next_term();
                        let server = inner.servers.get_mut(&on).unwrap();
                        (server.tablet_type, server.term) = (TabletType::Primary, Some(term));
                        (server.source, server.io, server.sql) = (None, false, false);
                    }
                    world.publish(&on).await;
                    return failed("MySQL could not be made writable");
                }
                Some(Fault::AckPoll { drain }) => world.sleep_in_the_poll(&on, drain).await,
                _ => {}
            }
            let before = world.lock().servers[&on].clone();
            let done = effect(&mut world.lock(), &on);
            world.lock().replicate();
            let after = world.lock().servers[&on].clone();
            if (before.tablet_type, before.term) != (after.tablet_type, after.term) {
                world.publish(&on).await;
            }
            if fault == Some(Fault::ThenLockLost) {
                world.take_lock_away().await;
            }
            drop(action);
            if fault == Some(Fault::AnswerLost) {
                std::future::pending::<()>().await;
            }
            done
        });
        match timeout(call.timeout, work).await {
            Ok(done) => done.unwrap().map_err(|(kind, message)| error(kind, tonic::Code::Unknown, message)),
            Err(_) => Err(error(TabletErrorKind::UnknownOutcome, tonic::Code::DeadlineExceeded, "deadline exceeded".to_owned())),
        }
    }

    /// Drains, becomes read-only, and sleeps until a replica disconnects or a second has passed.
    async fn sleep_in_the_poll(&self, alias: &TabletAlias, drain: Duration) {
        sleep(drain).await;
        let connected = |inner: &Inner| inner.servers.values().filter(|server| server.replicates_from(alias)).count();
        let before = {
            let mut inner = self.lock();
            inner.servers.get_mut(alias).unwrap().read_only = true;
            inner.polling = Some(alias.clone());
            connected(&inner)
        };
        let closed = async {
            while connected(&self.lock()) >= before {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _either = timeout(Duration::from_secs(1), closed).await;
        self.lock().polling = None;
    }

    async fn publish(&self, alias: &TabletAlias) {
        let server = self.lock().servers[alias].clone();
        let mut change = |record: &mut Tablet| {
            record.r#type = server.tablet_type as i32;
            record.primary_term_start_time = server.term.map(time);
            true
        };
        self.topo.update_tablet(alias, &mut change).await.unwrap();
        if server.tablet_type == TabletType::Primary {
            publish_shard(&self.topo, &self.shard, alias, server.term).await;
        }
    }

    async fn until(
        &self,
        tablet: &Tablet,
        method: &'static str,
        call: Call,
        holds: impl Fn(&Inner) -> bool,
    ) -> Result<(), TabletError> {
        let wait = async {
            while !holds(&self.lock()) {
                sleep(POLL).await;
                self.lock().replicate();
            }
        };
        timeout(call.timeout, wait).await.map_err(|_| TabletError {
            alias: alias_of(tablet),
            method,
            kind: TabletErrorKind::UnknownOutcome,
            code: tonic::Code::DeadlineExceeded,
            lost: Some(FailureClass::Silent),
            message: "deadline exceeded".to_owned(),
        })
    }
}

fn become_primary(inner: &mut Inner, alias: &TabletAlias, semi_sync: bool) -> String {
    let term = inner.next_term();
    let server = inner.servers.get_mut(alias).unwrap();
    (server.tablet_type, server.term) = (TabletType::Primary, Some(term));
    (server.semi_sync_primary, server.semi_sync_replica) = (semi_sync, semi_sync);
    let position = format!("MySQL56/{}", server.executed);
    inner.make_writable(alias);
    position
}

fn follow(
    inner: &mut Inner,
    alias: &TabletAlias,
    parent: &TabletAlias,
    force: bool,
    semi_sync: bool,
    heartbeat_s: f64,
) -> Answer<bool> {
    let source = inner.servers.get(parent).cloned().filter(Server::serves);
    let server = inner.servers.get_mut(alias).unwrap();
    (server.tablet_type, server.term) = match server.tablet_type {
        TabletType::Primary => (TabletType::Replica, None),
        other => (other, None),
    };
    let should = force || server.source.is_none() || server.io || server.sql;
    server.source_off(&mut inner.violations);
    server.semi_sync_replica = semi_sync;
    let Some(source) = source else { return failed("cannot read the status of the parent") };
    let own = server.received.without_server(source.uuid().parse().unwrap());
    if !source.executed.contains(&own) {
        return Err((TabletErrorKind::ErrantGtid, format!("Errant GTID detected: {}", own.subtract(&source.executed))));
    }
    if server.source.as_ref() != Some(parent) || heartbeat_s != 0.0 {
        // Like a vttablet: both threads stand still meanwhile.
        (server.io, server.sql) = (false, false);
        if inner.careful {
            server.change_source(&mut inner.violations);
        }
        server.auto_position = true;
    }
    if heartbeat_s != 0.0 {
        (server.heartbeat_s, server.io_error) = (heartbeat_s, String::new());
    }
    server.source = Some(parent.clone());
    if should {
        (server.lazy, server.cut) = (false, false);
        server.start(true, true);
    }
    Ok(should)
}

fn replica_status(inner: &Inner, server: &Server) -> Option<Status> {
    let source = server.source.as_ref()?;
    Some(server.status(source.uid as i32, inner.servers.get(source)))
}

/// As MySQL does it: refused while the IO thread runs, and the relay log is kept only while the SQL thread does.
fn change_source(inner: &mut Inner, alias: &TabletAlias, sql: &str) -> Answer<QueryResult> {
    let value = |name: &str| Some(sql.split_once(&format!("{name} = "))?.1.split(',').next()?.trim().to_owned());
    let source = value("SOURCE_PORT").and_then(|port| inner.servers.keys().find(|a| a.uid.to_string() == port).cloned());
    let server = inner.servers.get_mut(alias).unwrap();
    if server.io {
        return failed("This operation cannot be performed with a running replica io thread (errno 3021)");
    }
    server.change_source(&mut inner.violations);
    server.source = source.or_else(|| server.source.clone());
    server.heartbeat_s = value("SOURCE_HEARTBEAT_PERIOD").map_or(server.heartbeat_s, |period| period.parse().unwrap());
    Ok(QueryResult::default())
}

fn statement(inner: &mut Inner, alias: &TabletAlias, sql: &str) -> Answer<QueryResult> {
    let server = inner.servers.get_mut(alias).unwrap();
    let row = |values: &[&str]| {
        let lengths = values.iter().map(|value| value.len() as i64).collect();
        Ok(QueryResult { rows: vec![Row { lengths, values: values.concat().into_bytes() }], ..Default::default() })
    };
    match sql {
        "STOP REPLICA IO_THREAD" => (server.io, server.content) = (false, false),
        "START REPLICA IO_THREAD" => server.start(true, false),
        "START REPLICA SQL_THREAD" => server.start(false, true),
        "START REPLICA" => server.start(true, true),
        "SET GLOBAL super_read_only = ON" => (server.read_only, server.only_read_only) = (true, false),
        "SELECT @@global.offline_mode" => return row(&[if server.offline { "1" } else { "0" }]),
        _ if sql.starts_with("CHANGE REPLICATION SOURCE TO") => return change_source(inner, alias, sql),
        "SET GLOBAL rpl_semi_sync_source_enabled = OFF" => server.source_off(&mut inner.violations),
        "SET GLOBAL rpl_semi_sync_source_enabled = ON" => server.semi_sync_primary = true,
        "SET GLOBAL offline_mode = ON" => server.offline = true,
        "SET GLOBAL offline_mode = OFF" => server.offline = false,
        "SELECT @@global.super_read_only" => return row(&[if server.read_only { "1" } else { "0" }]),
        "SELECT UTC_TIMESTAMP(6)" => {
            let clock = jiff::Timestamp::from_second(1_700_001_000 - server.clock_behind_s).unwrap();
            return row(&[&clock.strftime("%Y-%m-%d %H:%M:%S.000000").to_string()]);
        }
        _ if sql.starts_with("SELECT @@global.rpl_semi_sync_source_timeout") => {
            return row(&[&server.semi_sync_timeout_ms.to_string(), "1", "AFTER_SYNC", &server.semi_sync_wait_count.to_string()]);
        }
        _ if sql.starts_with("SET GLOBAL rpl_semi_sync_source_wait_for_replica_count = ") => {
            server.semi_sync_wait_count = sql.rsplit(' ').next().unwrap().parse().unwrap()
        }
        _ if sql.starts_with("SET GLOBAL rpl_semi_sync_source_timeout = ") => {
            server.semi_sync_timeout_ms = 1_000_000_000_000_000_000
        }
        "SELECT @@global.replica_net_timeout" => return row(&[&server.net_timeout_s.to_string()]),
        _ if sql.starts_with("SET GLOBAL replica_net_timeout = ") => {
            server.net_timeout_s = sql.rsplit(' ').next().unwrap().parse().unwrap()
        }
        _ if sql.starts_with("SELECT (SELECT COUNT(*)") => return row(&["0"]),
        other => return failed(&format!("the test does not know {other}")),
    }
    Ok(QueryResult::default())
}

#[async_trait]
impl TabletManager for Arc<World> {
    async fn ping(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        self.call(tablet, "Ping", String::new(), call, |_, _| Ok(())).await
    }
    async fn full_status(&self, tablet: &Tablet, call: Call) -> Result<FullStatus, TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = &inner.servers[alias];
            Ok(FullStatus {
                read_only: server.read_only,
                super_read_only: server.closing || (server.read_only && !server.only_read_only),
                semi_sync_primary_enabled: server.semi_sync_primary,
                semi_sync_replica_enabled: server.semi_sync_replica,
                semi_sync_replica_status: server.semi_sync_replica && server.io,
                semi_sync_wait_for_replica_count: server.semi_sync_wait_count as u32,
                semi_sync_primary_timeout: server.semi_sync_timeout_ms,
                replication_configuration: Some(Configuration {
                    heartbeat_interval: server.heartbeat_s,
                    replica_net_timeout: server.net_timeout_s,
                }),
                tablet_type: server.own_type.unwrap_or(server.tablet_type) as i32,
                replication_status: replica_status(inner, server),
                primary_status: Some(PrimaryStatus { position: format!("MySQL56/{}", server.executed), ..Default::default() }),
                server_uuid: server.uuid(),
                gtid_purged: format!("MySQL56/{}", server.purged),
                gtid_mode: if server.gtid_mode_on { "ON" } else { "OFF" }.to_owned(),
                version: server.version.clone(),
                log_bin_enabled: server.log_bin,
                log_replica_updates: true,
                ..Default::default()
            })
        };
        self.call(tablet, "FullStatus", String::new(), call, effect).await
    }
    async fn replication_status(&self, tablet: &Tablet, call: Call) -> Result<Status, TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = &inner.servers[alias];
            let none = || (TabletErrorKind::NotReplica, "no replication status (errno 100) (sqlstate HY000)".to_owned());
            replica_status(inner, server).ok_or_else(none)
        };
        self.call(tablet, "ReplicationStatus", String::new(), call, effect).await
    }
    async fn primary_status(&self, tablet: &Tablet, call: Call) -> Result<PrimaryStatus, TabletError> {
        let position = self.primary_position(tablet, call).await?;
        Ok(PrimaryStatus { position, ..Default::default() })
    }
    async fn primary_position(&self, tablet: &Tablet, call: Call) -> Result<String, TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| Ok(format!("MySQL56/{}", inner.servers[alias].executed));
        self.call(tablet, "PrimaryPosition", String::new(), call, effect).await
    }
    async fn global_status_vars(
        &self,
        tablet: &Tablet,
        names: &[&str],
        call: Call,
    ) -> Result<BTreeMap<String, String>, TabletError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = &inner.servers[alias];
            let value = |name: &str| if name.contains("wait_sessions") { u64::from(server.commits_wait) } else { server.pool };
            Ok(names.into_iter().map(|name| (name.clone(), value(&name).to_string())).collect())
        };
        self.call(tablet, "GetGlobalStatusVars", String::new(), call, effect).await
    }
    async fn wait_for_position(&self, tablet: &Tablet, position: &str, call: Call) -> Result<(), TabletError> {
        let begin = |inner: &mut Inner, alias: &TabletAlias| {
            inner.servers.get_mut(alias).unwrap().lazy = false;
            Ok(())
        };
        self.call(tablet, "WaitForPosition", position.to_owned(), call, begin).await?;
        let (alias, target) = (alias_of(tablet), set(position));
        self.until(tablet, "WaitForPosition", call, |inner| inner.servers[&alias].executed.contains(&target)).await
    }
    async fn stop_replication_and_get_status(
        &self,
        tablet: &Tablet,
        _mode: StopReplicationMode,
        call: Call,
    ) -> Result<StopReplicationStatus, TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let none = || {
                (
                    TabletErrorKind::NotReplica,
                    "before status failed: no replication status (errno 100) (sqlstate HY000)".to_owned(),
                )
            };
            let before = replica_status(inner, &inner.servers[alias]).ok_or_else(none)?;
            // Like a vttablet: a thread that connects with an error is left as it is.
            if before.last_io_error.is_empty() {
                inner.servers.get_mut(alias).unwrap().io = false;
            }
            let after = replica_status(inner, &inner.servers[alias]);
            Ok(StopReplicationStatus { before: Some(before), after })
        };
        self.call(tablet, "StopReplicationAndGetStatus", String::new(), call, effect).await
    }
    async fn stop_replication(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.io, server.sql) = (false, false);
            Ok(())
        };
        self.call(tablet, "StopReplication", String::new(), call, effect).await
    }
    async fn start_replication(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let effect = move |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            server.semi_sync_replica = semi_sync;
            server.start(true, true);
            Ok(())
        };
        self.call(tablet, "StartReplication", if semi_sync { "ack" } else { "" }.to_owned(), call, effect).await
    }
    async fn set_replication_source(&self, tablet: &Tablet, set_source: SetSource<'_>, call: Call) -> Result<(), TabletError> {
        let SetSource { parent, time_created_ns, force_start, wait_position, semi_sync, .. } = set_source;
        let arguments = format!("{parent}{}{}", if semi_sync { " ack" } else { "" }, if force_start { " force" } else { "" });
        let to = parent.clone();
        let heartbeat_s = set_source.heartbeat_interval_s;
        let effect = move |inner: &mut Inner, alias: &TabletAlias| follow(inner, alias, &to, force_start, semi_sync, heartbeat_s);
        if !self.call(tablet, "SetReplicationSource", arguments, call, effect).await? {
            return Ok(());
        }
        let alias = alias_of(tablet);
        let target = if wait_position.is_empty() { "".parse().unwrap() } else { set(wait_position) };
        self.until(tablet, "SetReplicationSource", call, |inner| {
            let server = &inner.servers[&alias];
            server.executed.contains(&target) && (time_created_ns == 0 || server.rows.contains(&time_created_ns))
        })
        .await
    }
    async fn demote_primary(&self, tablet: &Tablet, _force: bool, call: Call) -> Result<PrimaryStatus, TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.read_only, server.only_read_only) = (true, false);
            server.source_off(&mut inner.violations);
            let position = format!("MySQL56/{}", server.executed);
            Ok(PrimaryStatus { position, server_uuid: server.uuid(), ..Default::default() })
        };
        self.call(tablet, "DemotePrimary", String::new(), call, effect).await
    }
    async fn undo_demote_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let effect = move |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.semi_sync_primary, server.own_type) = (semi_sync, None);
            inner.make_writable(alias);
            Ok(())
        };
        self.call(tablet, "UndoDemotePrimary", if semi_sync { "ack" } else { "" }.to_owned(), call, effect).await
    }
    async fn promote_replica(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError> {
        let effect = move |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.source, server.io, server.sql) = (None, false, false);
            if !server.executed.contains(&server.received) {
                inner.violations.push(format!("{alias} was promoted with transactions received and not applied"));
            }
            Ok(become_primary(inner, alias, semi_sync))
        };
        self.call(tablet, "PromoteReplica", if semi_sync { "ack" } else { "" }.to_owned(), call, effect).await
    }
    async fn init_primary(&self, tablet: &Tablet, semi_sync: bool, call: Call) -> Result<String, TabletError> {
        let effect = move |inner: &mut Inner, alias: &TabletAlias| Ok(become_primary(inner, alias, semi_sync));
        self.call(tablet, "InitPrimary", if semi_sync { "ack" } else { "" }.to_owned(), call, effect).await
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
        let alias = alias_of(tablet);
        self.until(tablet, "PopulateReparentJournal", call, |inner| {
            let acker = inner.servers.values().any(|server| server.semi_sync_replica && server.replicates_from(&alias));
            !inner.servers[&alias].semi_sync_primary || acker
        })
        .await?;
        let effect = move |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            if server.read_only {
                return failed("--super-read-only (errno 1290) (sqlstate HY000)");
            }
            if !server.rows.insert(time_created_ns) {
                return Err((TabletErrorKind::AlreadyDone, "Duplicate entry (errno 1062) (sqlstate 23000)".to_owned()));
            }
            let one = server.commit();
            inner.acked = inner.acked.union(&one);
            Ok(())
        };
        self.call(tablet, "PopulateReparentJournal", action.to_owned(), call, effect).await
    }
    async fn read_reparent_journal_info(&self, tablet: &Tablet, call: Call) -> Result<i32, TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = &inner.servers[alias];
            Ok(server.journal + server.rows.len() as i32)
        };
        self.call(tablet, "ReadReparentJournalInfo", String::new(), call, effect).await
    }
    async fn set_read_only(&self, tablet: &Tablet, read_only: bool, call: Call) -> Result<(), TabletError> {
        let effect = move |inner: &mut Inner, alias: &TabletAlias| {
            if read_only {
                let server = inner.servers.get_mut(alias).unwrap();
                // Like a vttablet: administrators may still write.
                (server.read_only, server.only_read_only) = (true, server.only_read_only || !server.read_only);
            } else {
                inner.make_writable(alias)
            }
            Ok(())
        };
        self.call(tablet, if read_only { "SetReadOnly" } else { "SetReadWrite" }, String::new(), call, effect).await
    }
    async fn change_type(&self, tablet: &Tablet, to: TabletType, semi_sync: bool, call: Call) -> Result<(), TabletError> {
        let effect = move |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.tablet_type, server.own_type, server.semi_sync_replica) = (to, None, semi_sync);
            Ok(())
        };
        self.call(tablet, "ChangeType", to.as_str_name().to_owned(), call, effect).await
    }
    async fn replica_was_restarted(&self, tablet: &Tablet, _parent: &TabletAlias, call: Call) -> Result<(), TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.tablet_type, server.term, server.own_type) = (TabletType::Replica, None, None);
            Ok(())
        };
        self.call(tablet, "ReplicaWasRestarted", String::new(), call, effect).await
    }
    async fn replica_was_promoted(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let term = inner.next_term();
            let server = inner.servers.get_mut(alias).unwrap();
            (server.tablet_type, server.term, server.own_type) = (TabletType::Primary, Some(term), None);
            Ok(())
        };
        self.call(tablet, "ReplicaWasPromoted", String::new(), call, effect).await
    }
    async fn refresh_state(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        self.call(tablet, "RefreshState", String::new(), call, |_, _| Ok(())).await
    }
    async fn run_health_check(&self, _tablet: &Tablet, _call: Call) -> Result<(), TabletError> {
        unimplemented!("no reparent calls it")
    }
    async fn reset_replication_parameters(&self, tablet: &Tablet, call: Call) -> Result<(), TabletError> {
        let effect = |inner: &mut Inner, alias: &TabletAlias| {
            let server = inner.servers.get_mut(alias).unwrap();
            (server.source, server.io, server.sql) = (None, false, false);
            Ok(())
        };
        self.call(tablet, "ResetReplicationParameters", String::new(), call, effect).await
    }
    async fn execute_fetch_as_dba(
        &self,
        tablet: &Tablet,
        sql: &str,
        _max_rows: u64,
        call: Call,
    ) -> Result<QueryResult, TabletError> {
        let text = sql.to_owned();
        while sql.starts_with("SELECT") && self.lock().polling == Some(alias_of(tablet)) {
            sleep(POLL).await;
        }
        self.call(tablet, "ExecuteFetchAsDba", sql.to_owned(), call, move |inner, alias| statement(inner, alias, &text)).await
    }
}
