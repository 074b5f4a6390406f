//! Settings of a source: a heartbeat that fits, and a primary that forgets its own.

use std::time::Duration;

use super::{
    Refusal, RepairError,
    connect::heartbeat_s,
    outcome::{Fixed, Stop, during},
    scene::Scene,
    server::Server,
};
use crate::{
    pb::topodata::Tablet,
    reparent::{
        dba::{START_IO, START_REPLICA},
        run::Run,
    },
    topo::TabletAlias,
};

/// How long a relay log is waited for before a source is forgotten; an emergency may want the lock.
const APPLY_LIMIT: Duration = Duration::from_secs(2);
/// How long a server may take to show a change that was answered.
const SHOW_LIMIT: Duration = Duration::from_secs(1);

impl Run {
    /// The heartbeat period is half of `replica_net_timeout` again. The relay log is kept, because the SQL thread runs meanwhile.
    pub(super) async fn fix_heartbeat(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (_, source) = scene.primary_beside(alias)?;
        let record = scene.in_service(alias)?.clone();
        let server = self.server(&record, alias).await?;
        if server.replication().is_none() || !server.has_source(source) {
            let reason = format!("its source is {:?}, and not the primary", server.source_address());
            return Err(Refusal::Later { first: "Connect".to_owned(), reason }.into());
        }
        if heartbeat_fits(&server) {
            return Ok(Fixed::Already(format!("the heartbeat of {alias} fits its replica_net_timeout")));
        }
        let (received, applied) = (!server.io_stopped(), server.sql_runs());
        let server = if received { self.stop_receiving(alias, &record).await? } else { server };
        let server = match self.applies(alias, &record, server).await {
            Err(stop) if received => return Err(self.receive_again(alias, &record, stop).await),
            other => other?,
        };
        let period_s = heartbeat_s(&server);
        let change = format!("CHANGE REPLICATION SOURCE TO SOURCE_HEARTBEAT_PERIOD = {period_s:.3}");
        let changed = self.alter(&record, "its heartbeat was not changed", &change).await;
        if received {
            // With both threads running before, both are started: one statement more or less makes no difference to one that runs.
            let start = if applied { START_REPLICA } else { START_IO };
            self.alter(&record, "its IO thread was not started again", start).await?;
        }
        changed?;
        let server = self.look_until(&record, alias, SHOW_LIMIT, heartbeat_fits).await?;
        if !heartbeat_fits(&server) {
            let found = format!("its heartbeat does not become {period_s} s");
            return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
        }
        if received && applied {
            self.sees_running(scene, alias, &record).await?;
        }
        Ok(Fixed::Done(format!("the heartbeat period of {alias} is {period_s} s, half of its replica_net_timeout")))
    }

    /// The declared primary forgets its source: only where it is the one that works, and after everything received is applied.
    pub(super) async fn forget_source(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let record = scene.as_primary(alias)?.clone();
        let server = self.server(&record, alias).await?;
        let Some(status) = server.replication() else {
            return Ok(Fixed::Already(format!("{alias} has no source")));
        };
        self.is_working(alias, &server, scene.source_of(status)).await?;
        let server = if server.io_stopped() { server } else { self.stop_receiving(alias, &record).await? };
        let server = self.applies(alias, &record, server).await?;
        if !server.unapplied().is_empty() {
            self.has_applied(alias, &record, APPLY_LIMIT).await?;
        }
        self.verify().await?;
        let sent = self.hands.tablets.reset_replication_parameters(&record, self.change()).await;
        let is_right = |server: &Server| server.replication().is_none();
        let server = self.look_until(&record, alias, SHOW_LIMIT, is_right).await?;
        match sent {
            _ if is_right(&server) => Ok(Fixed::Done(format!("{alias} has forgotten its source"))),
            Err(error) => Err(during("its source was not forgotten")(error)),
            Ok(()) => {
                let found = format!("its source is still {}", server.source_address());
                Err(RepairError::NotVerified { tablet: alias.clone(), found }.into())
            }
        }
    }

    /// Refuses where the declared primary copies from a server that takes writes, or may do so: then that one is the primary.
    async fn is_working(
        &self,
        alias: &TabletAlias,
        server: &Server,
        source: Option<(&TabletAlias, &Tablet)>,
    ) -> Result<(), Stop> {
        let wrong = |writer: &TabletAlias, reason: &str| {
            Err(Refusal::WrongPrimary { primary: alias.clone(), writer: writer.clone(), reason: reason.to_owned() }.into())
        };
        let receives = server.io_runs();
        let Some((writer, record)) = source else {
            let reason = format!("it receives from {}, which is no tablet of this shard", server.source_address());
            return match receives {
                true => Err(Refusal::LeftAlone { tablet: alias.clone(), reason }.into()),
                false => Ok(()),
            };
        };
        if writer == alias {
            return Ok(());
        }
        match self.server(record, writer).await {
            Ok(source) if source.is_writable() => wrong(writer, "is writable, and the declared primary follows it"),
            // Who is read-only itself, and hears from a server that does not answer us, is not the one that works.
            Err(_) if receives && !server.is_writable() => {
                wrong(writer, "may take writes: the declared primary hears from it and is read-only itself")
            }
            _ => Ok(()),
        }
    }
}

/// VTOrc's rule: twice the period, rounded, is `replica_net_timeout`.
fn heartbeat_fits(server: &Server) -> bool {
    server.full.replication_configuration.is_some_and(|configuration| {
        (configuration.heartbeat_interval * 2.0).round() == f64::from(configuration.replica_net_timeout)
    })
}
