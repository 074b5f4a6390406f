//! A tablet follows the declared primary: validated by GTID first, and never at the price of what it has received and not applied.

use std::time::Duration;

use super::{
    Refusal,
    outcome::{Fixed, Stop, during},
    scene::Scene,
    server::Server,
    writable::is_no_working_primary,
};
use crate::{
    mysql::conn::quote,
    pb::topodata::Tablet,
    reparent::run::Run,
    tablet::{SetSource, TabletErrorKind},
    topo::TabletAlias,
};

/// How long a relay log is waited for where there is no other way. The rest is for the next repair: an emergency may want the lock.
const APPLY_LIMIT: Duration = Duration::from_secs(2);
/// Heartbeat of a server that never gives up waiting for its source.
const HEARTBEAT_DEFAULT_S: f64 = 4.0;

impl Run {
    /// Standalone, with the wrong source, stopped, or misconfigured: it follows the primary thereafter.
    pub(super) async fn connect(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (primary, source) = scene.primary_beside(alias)?;
        let record = scene.in_service(alias)?.clone();
        let mut server = self.server(&record, alias).await?;
        if server.has_source(source) && server.io_runs() && server.sql_runs() && server.is_closed() {
            return Ok(Fixed::Already(format!("{alias} follows {primary}")));
        }
        self.source_takes_no_writes(scene, (primary, alias), &server).await?;
        if !server.is_closed() {
            let others = self.others(&scene.declared, alias).await;
            is_no_working_primary((alias, &record), (primary, &others))?;
            self.close_server(alias, &record, &server).await?;
            server = self.server(&record, alias).await?;
        }
        self.attach(scene, (alias, &record), server).await?;
        self.see_to_the_rest(&scene.declared, Some(alias)).await?;
        Ok(Fixed::Done(format!("{alias} follows {primary}")))
    }

    /// Points a server that is read-only at the primary, and sees that it follows.
    pub(super) async fn attach(
        &mut self,
        scene: &Scene,
        (alias, record): (&TabletAlias, &Tablet),
        server: Server,
    ) -> Result<(), Stop> {
        let (primary, source) = scene.primary_beside(alias)?;
        self.validate(scene, alias, &server).await?;
        match server.replication() {
            Some(_) if server.has_source(source) && !is_misconfigured(&server) => {
                return self.start_both(scene, (alias, record), &server).await;
            }
            Some(_) => {
                let was_receiving = !server.io_stopped();
                let ready = self.ready_to_change(scene, (alias, record), server).await;
                match ready {
                    Err(stop @ Stop::Refused(_)) if was_receiving => return Err(self.receive_again(alias, record, stop).await),
                    Err(stop) => return Err(stop),
                    Ok(heartbeat_s) => self.point_here(scene, (alias, record), heartbeat_s).await?,
                }
            }
            None => self.point_here(scene, (alias, record), 0.0).await?,
        }
        self.sees_running(scene, alias, record).await?;
        self.say(format!("{alias} follows {primary}"));
        Ok(())
    }

    /// Brings a server with a source so far that its source may be changed: nothing more is received, and nothing that was received can be
    /// lost by the change. The heartbeat that is to be sent with it.
    async fn ready_to_change(
        &mut self,
        scene: &Scene,
        (alias, record): (&TabletAlias, &Tablet),
        server: Server,
    ) -> Result<f64, Stop> {
        let (_, source) = scene.primary_beside(alias)?;
        let server = if server.io_stopped() { server } else { self.stop_receiving(alias, record).await? };
        self.validate(scene, alias, &server).await?;
        let server = self.applies(alias, record, server).await?;
        if is_misconfigured(&server) {
            // Only a whole CHANGE REPLICATION SOURCE mends it, and that deletes the relay log.
            self.has_applied(alias, record, APPLY_LIMIT).await?;
            return Ok(if server.has_source(source) { heartbeat_s(&server) } else { 0.0 });
        }
        if !server.unapplied().is_empty() {
            // MySQL keeps the relay log while its SQL thread runs. Afterwards the address is the primary's, and the tablet has no reason to
            // change the source once more.
            let (host, port) = (quote(&source.mysql_hostname), source.mysql_port);
            let change = format!("CHANGE REPLICATION SOURCE TO SOURCE_HOST = {host}, SOURCE_PORT = {port}");
            self.alter(record, "its source was not changed", &change).await?;
            self.say(format!("{alias} goes on applying {} while its source is changed", server.unapplied()));
        }
        Ok(0.0)
    }

    /// `SetReplicationSource` to the primary. A lost answer is made up for by whoever looks afterwards.
    async fn point_here(&self, scene: &Scene, (alias, record): (&TabletAlias, &Tablet), heartbeat_s: f64) -> Result<(), Stop> {
        let (primary, _) = scene.primary_beside(alias)?;
        self.verify().await?;
        let set = SetSource {
            parent: primary,
            time_created_ns: 0,
            force_start: true,
            wait_position: "",
            semi_sync: scene.declared.semi_sync_replica(primary, alias),
            heartbeat_interval_s: heartbeat_s,
        };
        match self.hands.tablets.set_replication_source(record, set, self.change()).await {
            Err(error) if error.kind != TabletErrorKind::UnknownOutcome => {
                Err(during("it was not pointed at the primary")(error))
            }
            _ => Ok(()),
        }
    }

    /// Refuses while its source is another tablet that takes writes: this server may be the one that acknowledges them.
    async fn source_takes_no_writes(
        &self,
        scene: &Scene,
        (primary, alias): (&TabletAlias, &TabletAlias),
        server: &Server,
    ) -> Result<(), Stop> {
        let Some((writer, record)) = server.replication().and_then(|status| scene.source_of(status)) else { return Ok(()) };
        if writer == primary || writer == alias {
            return Ok(());
        }
        match self.server(record, writer).await {
            Ok(source) if source.is_writable() => {
                let reason = format!("is writable, and {alias} follows it");
                Err(Refusal::WrongPrimary { primary: primary.clone(), writer: writer.clone(), reason }.into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether its source has to be configured anew though the address may be right: no GTID positions, or MySQL does not let it log in.
fn is_misconfigured(server: &Server) -> bool {
    server.replication().is_some_and(|status| {
        let refused = ["Access denied", "Authentication"];
        !status.auto_position || (!server.io_runs() && refused.iter().any(|words| status.last_io_error.contains(words)))
    })
}

/// Half of what the server waits for its source before it connects anew, as Vitess sets it.
pub(super) fn heartbeat_s(server: &Server) -> f64 {
    match server.full.replication_configuration.map_or(0, |configuration| configuration.replica_net_timeout) {
        seconds if seconds > 0 => f64::from(seconds) / 2.0,
        _ => HEARTBEAT_DEFAULT_S,
    }
}
