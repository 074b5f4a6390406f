//! The threads of a replica: started, stopped, seen to run; and its relay log, which is never thrown away unapplied.

use std::time::Duration;

use super::{
    Refusal, RepairError,
    outcome::{Fixed, Stop, during},
    scene::Scene,
    server::Server,
};
use crate::{
    pb::topodata::Tablet,
    reparent::{
        dba::{START_IO, START_SQL, STOP_IO},
        run::Run,
    },
    topo::TabletAlias,
};

/// How long a replica may take to run after its threads were started. Long enough for a second attempt to connect.
const RUN_LIMIT: Duration = Duration::from_secs(3);
/// How long a thread may take to stand still, or a SQL thread to find that it cannot go on.
const THREAD_LIMIT: Duration = Duration::from_millis(500);

impl Run {
    /// Threads that stand still run again. The source stays as it is, and with it the relay log.
    pub(super) async fn start(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (_, source) = scene.primary_beside(alias)?;
        let record = scene.in_service(alias)?.clone();
        let server = self.server(&record, alias).await?;
        if server.replication().is_none() || !server.has_source(source) {
            let reason = format!("its source is {:?}, and not the primary", server.source_address());
            return Err(Refusal::Later { first: "Connect".to_owned(), reason }.into());
        }
        if server.io_runs() && server.sql_runs() {
            return Ok(Fixed::Already(format!("replication of {alias} runs")));
        }
        self.start_both(scene, (alias, &record), &server).await?;
        Ok(Fixed::Done(format!("replication of {alias} runs again")))
    }

    /// Starts the threads of a server whose source is right, and sees that they run.
    pub(super) async fn start_both(
        &mut self,
        scene: &Scene,
        (alias, record): (&TabletAlias, &Tablet),
        server: &Server,
    ) -> Result<(), Stop> {
        self.validate(scene, alias, server).await?;
        let (primary, _) = scene.primary_beside(alias)?;
        self.verify().await?;
        let semi_sync = scene.declared.semi_sync_replica(primary, alias);
        let sent = self.hands.tablets.start_replication(record, semi_sync, self.change()).await;
        // An answer that was lost is made up for by looking.
        let seen = self.sees_running(scene, alias, record).await;
        match (sent, seen) {
            (_, Ok(())) => Ok(()),
            (Err(error), Err(Stop::Failed(RepairError::Tablet { .. }))) => Err(during("its threads were not started")(error)),
            (_, Err(stop)) => Err(stop),
        }
    }

    /// Both threads run and the source is the primary; else MySQL's reasons.
    pub(super) async fn sees_running(&self, scene: &Scene, alias: &TabletAlias, record: &Tablet) -> Result<(), Stop> {
        let (_, source) = scene.primary_beside(alias)?;
        let is_right = |server: &Server| server.has_source(source) && server.io_runs() && server.sql_runs();
        let server = self.look_until(record, alias, RUN_LIMIT, is_right).await?;
        if is_right(&server) {
            return Ok(());
        }
        let reason = match server.has_source(source) {
            true => server.complaint(),
            false => format!("its source is {:?}, and not the primary", server.source_address()),
        };
        Err(RepairError::Replication { tablet: alias.clone(), reason }.into())
    }

    /// Stops the IO thread, so that nothing more is received; the server then.
    pub(super) async fn stop_receiving(&self, alias: &TabletAlias, record: &Tablet) -> Result<Server, Stop> {
        self.alter(record, "its IO thread was not stopped", STOP_IO).await?;
        let server = self.look_until(record, alias, THREAD_LIMIT, Server::io_stopped).await?;
        if !server.io_stopped() {
            let found = "its IO thread runs after it was stopped".to_owned();
            return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
        }
        Ok(server)
    }

    /// Starts an IO thread again that [`Run::stop_receiving`] has stopped, because of `stop`.
    pub(super) async fn receive_again(&mut self, alias: &TabletAlias, record: &Tablet, stop: Stop) -> Stop {
        if let Err(Stop::Failed(error)) = self.alter(record, "its IO thread was not started again", START_IO).await {
            self.say(format!("{alias} is left with its IO thread stopped: {error}"));
        }
        stop
    }

    /// What was received is being applied: the SQL thread runs. Refused where it cannot.
    pub(super) async fn applies(&self, alias: &TabletAlias, record: &Tablet, server: Server) -> Result<Server, Stop> {
        if server.unapplied().is_empty() || server.sql_runs() {
            return Ok(server);
        }
        let started = self.alter(record, "its SQL thread was not started", START_SQL).await;
        // One that cannot go on says so at its first transaction.
        let stands = |server: &Server| server.unapplied().is_empty() || !server.sql_runs();
        let server = self.look_until(record, alias, THREAD_LIMIT, stands).await?;
        if server.unapplied().is_empty() || server.sql_runs() {
            return Ok(server);
        }
        let reason = match (server.replication().map(|status| status.last_sql_error.clone()), started) {
            (Some(words), _) if !words.is_empty() => words,
            (_, Err(Stop::Failed(error))) => error.to_string(),
            _ => "its SQL thread does not run".to_owned(),
        };
        Err(Refusal::Unapplied { tablet: alias.clone(), unapplied: server.unapplied(), reason }.into())
    }

    /// Everything received is applied, within that time.
    pub(super) async fn has_applied(&self, alias: &TabletAlias, record: &Tablet, limit: Duration) -> Result<(), Stop> {
        let is_right = |server: &Server| server.unapplied().is_empty();
        let server = self.look_until(record, alias, limit, is_right).await?;
        match is_right(&server) {
            true => Ok(()),
            false => Err(Refusal::Applying { tablet: alias.clone(), unapplied: server.unapplied() }.into()),
        }
    }
}
