//! Who may be written to: the declared primary is made writable, everybody else read-only.

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Refusal, RepairError,
    outcome::{Fixed, Stop, during},
    scene::Scene,
    server::Server,
};
use crate::{
    pb::topodata::{Tablet, TabletType},
    reparent::{dba::SET_SUPER_READ_ONLY, run::Run},
    tablet::TabletErrorKind,
    topo::TabletAlias,
};

/// How often a call is sent whose outcome is not known.
const ATTEMPTS: u32 = 3;
/// Between two of them.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a server may take to show a change that was answered.
const SHOW_LIMIT: Duration = Duration::from_secs(1);

impl Run {
    /// The declared primary is writable, with semi-sync as the policy wants it, and serving.
    pub(super) async fn make_writable(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let record = scene.as_primary(alias)?.clone();
        let server = self.server(&record, alias).await?;
        if server.is_writable() && server.tablet_type() == TabletType::Primary {
            return Ok(Fixed::Already(format!("{alias} is writable")));
        }
        if server.replication().is_some() {
            let (primary, source_address) = (alias.clone(), server.source_address());
            return Err(Refusal::PrimaryReplicates { primary, source_address }.into());
        }
        if !scene.declared.unreadable.is_empty() {
            // One of the tablets there may have been made primary a moment ago.
            return Err(Refusal::PartialTopology { cells: scene.declared.unreadable.clone() }.into());
        }
        let others = self.others(&scene.declared, alias).await;
        nobody_else_writes(alias, &others)?;
        nobody_has_more(scene, alias, &server, &others)?;
        if scene.declared.semi_sync_primary(alias) {
            self.repair_semi_sync(&scene.declared, alias).await?;
        }
        self.open(scene, alias, &record).await?;
        self.see_to_the_rest(&scene.declared, Some(alias)).await?;
        Ok(Fixed::Done(format!("{alias} is writable again")))
    }

    /// `UndoDemotePrimary`, within the lease, until record and server say that it is primary. Its failure is not believed before the server
    /// has been looked at.
    async fn open(&mut self, scene: &Scene, alias: &TabletAlias, record: &Tablet) -> Result<(), Stop> {
        let semi_sync = scene.declared.semi_sync_primary(alias);
        let mut attempt = 1;
        loop {
            let call = self.certain_call().await?;
            let sent = self.hands.tablets.undo_demote_primary(record, semi_sync, call).await;
            let is_right = |server: &Server| server.is_writable() && server.full.semi_sync_primary_enabled >= semi_sync;
            let found = self.look_until(record, alias, SHOW_LIMIT, is_right).await;
            match (found, sent) {
                (Ok(server), _) if is_right(&server) => return Ok(()),
                (Ok(server), Ok(())) if server.is_writable() => {
                    let found = "it is writable and does not wait for acknowledgements".to_owned();
                    return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
                }
                (_, Err(error)) if attempt == ATTEMPTS || is_final(error.kind) => {
                    return Err(during("it was not made writable")(error));
                }
                (Ok(_), Ok(())) if attempt == ATTEMPTS => {
                    let found = "UndoDemotePrimary succeeded, but MySQL is read-only".to_owned();
                    return Err(RepairError::NotVerified { tablet: alias.clone(), found }.into());
                }
                (Err(stop), Ok(())) if attempt == ATTEMPTS => return Err(stop),
                _ => attempt += 1,
            }
            self.pause(ATTEMPT_PAUSE).await?;
        }
    }

    /// A tablet that is not the primary refuses writes.
    pub(super) async fn make_read_only(&mut self, scene: &Scene, alias: &TabletAlias) -> Result<Fixed, Stop> {
        let (primary, _) = scene.primary_beside(alias)?;
        let record = scene.tablet(alias)?.clone();
        if matches!(record.r#type(), TabletType::Backup | TabletType::Restore) {
            let reason = "a backup or a restore is at work there".to_owned();
            return Err(Refusal::LeftAlone { tablet: alias.clone(), reason }.into());
        }
        let server = self.server(&record, alias).await?;
        if server.is_closed() {
            return Ok(Fixed::Already(format!("{alias} is super_read_only")));
        }
        let others = self.others(&scene.declared, alias).await;
        is_no_working_primary((alias, &record), (primary, &others))?;
        self.close_server(alias, &record, &server).await?;
        Ok(Fixed::Done(format!("{alias} is super_read_only")))
    }

    /// Makes a server super_read_only and sees that it is. Where commits hang its clients are thrown out first: none of them is to be told
    /// "committed" when the hung commits end (safety rules, section 3).
    pub(super) async fn close_server(&mut self, alias: &TabletAlias, record: &Tablet, server: &Server) -> Result<(), Stop> {
        self.verify().await?;
        let hang = server.full.semi_sync_primary_enabled && self.commits_wait(record).await != Some(false);
        if hang {
            self.say(format!("commits hang on {alias}: its clients are cut off before it becomes read-only"));
            let fence = self.fence(alias, record, &CancellationToken::new());
            let _set = fence.await;
            self.ended(alias).await;
        }
        let sent = self.hands.tablets.set_read_only(record, true, self.change()).await;
        let mut now = self.server(record, alias).await?;
        if !now.is_closed() {
            // A vttablet sets read_only alone, which stops no administrator.
            self.alter(record, "it was not made super_read_only", SET_SUPER_READ_ONLY).await?;
            now = self.look_until(record, alias, SHOW_LIMIT, Server::is_closed).await?;
        }
        if !now.is_closed() {
            let why = sent.err().map_or_else(|| "it is not super_read_only".to_owned(), |error| error.to_string());
            return Err(RepairError::NotVerified { tablet: alias.clone(), found: why }.into());
        }
        if hang {
            let lifted = self.let_in(alias, record).await;
            lifted.map_err(|found| RepairError::NotVerified { tablet: alias.clone(), found })?;
        }
        self.say(format!("{alias} is super_read_only"));
        Ok(())
    }
}

/// Refuses to take the writes away from a server that the others follow while the declared primary takes none: that is a wrong primary,
/// which is moved and not stopped.
pub(super) fn is_no_working_primary(
    (alias, record): (&TabletAlias, &Tablet),
    (primary, others): (&TabletAlias, &BTreeMap<TabletAlias, Server>),
) -> Result<(), Stop> {
    let works = others.get(primary).is_some_and(Server::is_writable);
    let followed = others.iter().find(|(_, other)| other.has_source(record) && other.io_runs());
    match followed {
        Some((follower, _)) if !works => {
            let reason = format!("is followed by {follower}, and {primary} takes no writes");
            Err(Refusal::WrongPrimary { primary: primary.clone(), writer: alias.clone(), reason }.into())
        }
        _ => Ok(()),
    }
}

/// A refusal that a repetition does not change.
fn is_final(kind: TabletErrorKind) -> bool {
    matches!(kind, TabletErrorKind::Precondition | TabletErrorKind::Unimplemented | TabletErrorKind::Overtaken)
}

pub(super) fn nobody_else_writes(primary: &TabletAlias, others: &BTreeMap<TabletAlias, Server>) -> Result<(), Refusal> {
    match others.iter().find(|(_, other)| other.is_writable()) {
        Some((writer, _)) => {
            let reason = "is writable".to_owned();
            Err(Refusal::WrongPrimary { primary: primary.clone(), writer: writer.clone(), reason })
        }
        None => Ok(()),
    }
}

/// Refuses where another server has what the primary lacks: it may have been acknowledged. What a replica wrote itself was not, nor what
/// the primary wrote and has not committed yet.
fn nobody_has_more(
    scene: &Scene,
    primary: &TabletAlias,
    server: &Server,
    others: &BTreeMap<TabletAlias, Server>,
) -> Result<(), Refusal> {
    for (ahead, other) in others {
        let mut lacks = other.everything.subtract(&server.executed);
        let was_primary = scene.declared.tablet_type(ahead) == TabletType::Primary;
        let discounted = [server.uuid, other.uuid.filter(|_| !was_primary)];
        for uuid in discounted.into_iter().flatten() {
            lacks = lacks.without_server(uuid);
        }
        if !lacks.is_empty() {
            return Err(Refusal::Behind { primary: primary.clone(), ahead: ahead.clone(), lacks });
        }
    }
    Ok(())
}
