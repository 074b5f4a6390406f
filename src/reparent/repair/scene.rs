//! What a repair rests on: the shard as it is declared under the lock, and its servers as they answer now.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{
    Refusal, RepairError,
    outcome::{Stop, during},
    server::{Server, is_at},
};
use crate::{
    mysql::GtidSet,
    pb::{
        replicationdata::Status,
        topodata::{Tablet, TabletType},
    },
    reparent::{
        ReparentError,
        declared::{Declared, Term, term},
        journal::Stage,
        run::Run,
    },
    tablet::{self, Call},
    topo::TabletAlias,
};

/// Limit of a question under the lock, which an emergency may want.
const READ_LIMIT: Duration = Duration::from_secs(1);
/// Limit of a change. MySQL takes two seconds to stop a thread that is connecting.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
/// Limit of leading to its end what an earlier reparent has left.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a server that is expected to change.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at transactions that may only be on their way, and how many looks there are.
const CONFIRM_PAUSE: Duration = Duration::from_millis(250);
const CONFIRMATIONS: u32 = 3;

/// The shard as it is declared.
pub(super) struct Scene {
    pub declared: Declared,
    primary: Result<TabletAlias, Refusal>,
}

impl Scene {
    fn new(declared: Declared) -> Self {
        let primary = newest(&declared);
        Self { declared, primary }
    }

    /// The declared primary and its record.
    pub fn primary(&self) -> Result<(&TabletAlias, &Tablet), Stop> {
        let primary = self.primary.as_ref().map_err(Clone::clone)?;
        Ok((primary, self.tablet(primary)?))
    }

    /// The record of a tablet of this shard.
    pub fn tablet(&self, alias: &TabletAlias) -> Result<&Tablet, Stop> {
        let none =
            || Refusal::LeftAlone { tablet: alias.clone(), reason: "the topology does not list it for this shard".to_owned() };
        Ok(self.declared.tablet(alias).ok_or_else(none)?)
    }

    /// The declared primary where `alias` is another tablet.
    pub fn primary_beside(&self, alias: &TabletAlias) -> Result<(&TabletAlias, &Tablet), Stop> {
        let (primary, record) = self.primary()?;
        if primary == alias {
            return Err(Refusal::Role { tablet: alias.clone(), primary: primary.clone() }.into());
        }
        Ok((primary, record))
    }

    /// The record of `alias` where it is the declared primary.
    pub fn as_primary(&self, alias: &TabletAlias) -> Result<&Tablet, Stop> {
        let (primary, record) = self.primary()?;
        if primary != alias {
            return Err(Refusal::Role { tablet: alias.clone(), primary: primary.clone() }.into());
        }
        Ok(record)
    }

    /// Refuses to touch a tablet that is being backed up or restored, or that a person took out of service.
    pub fn in_service(&self, alias: &TabletAlias) -> Result<&Tablet, Stop> {
        let record = self.tablet(alias)?;
        let reason = match record.r#type() {
            TabletType::Backup | TabletType::Restore => "a backup or a restore is at work there",
            TabletType::Drained => "it is DRAINED: somebody took it out of service",
            _ => return Ok(record),
        };
        Err(Refusal::LeftAlone { tablet: alias.clone(), reason: reason.to_owned() }.into())
    }

    /// The tablet whose server a replication status names as its source.
    pub fn source_of(&self, status: &Status) -> Option<(&TabletAlias, &Tablet)> {
        self.declared.tablets.iter().find(|(_, tablet)| is_at(tablet, status))
    }
}

/// The primary by the newest term of all records, the shard record's included; its own record has to agree.
fn newest(declared: &Declared) -> Result<TabletAlias, Refusal> {
    let none = |reason: String| Refusal::NoPrimary { reason };
    let of_tablets = declared.tablets.iter().filter(|(_, tablet)| tablet.r#type() == TabletType::Primary);
    let of_tablets = of_tablets.map(|(alias, tablet)| (term(tablet.primary_term_start_time.as_ref()), alias));
    let of_record = declared.primary.iter().map(|alias| (declared.term, alias));
    let claims: std::collections::BTreeSet<(Option<Term>, &TabletAlias)> = of_tablets.chain(of_record).collect();
    let Some((newest, alias)) = claims.last().copied() else { return Err(none("no record names one".to_owned())) };
    if let Some((_, rival)) = claims.iter().find(|(term, rival)| *term == newest && *rival != alias) {
        return Err(none(format!("{alias} and {rival} are both recorded with the newest term")));
    }
    if declared.tablet_type(alias) != TabletType::Primary {
        return Err(none(format!("the shard record names {alias}, whose own record does not say PRIMARY")));
    }
    let is_published = declared.primary.as_ref() == Some(alias) && declared.term == newest;
    if !declared.unreadable.is_empty() && !is_published {
        return Err(Refusal::PartialTopology { cells: declared.unreadable.clone() });
    }
    Ok(alias.clone())
}

impl Run {
    /// Reads the shard. What an earlier reparent has left half-way is led to its end first: a repair that worked against it would undo
    /// what its promotion relies on.
    pub(super) async fn scene(&mut self) -> Result<Scene, Stop> {
        let declared = Declared::read(self).await?;
        if self.read_journal().await?.is_none_or(|journal| journal.stage == Stage::Finished) {
            return Ok(Scene::new(declared));
        }
        self.resume(&declared, LEFTOVER_LIMIT).await?;
        Ok(Scene::new(Declared::read(self).await?))
    }

    /// A server as it answers now.
    pub(super) async fn server(&self, tablet: &Tablet, alias: &TabletAlias) -> Result<Server, Stop> {
        let call = Call::read(self.remote().min(READ_LIMIT));
        let full = self.hands.tablets.full_status(tablet, call).await.map_err(during("it cannot be looked at"))?;
        Ok(Server::read(full).map_err(|reason| RepairError::Unreadable { tablet: alias.clone(), reason })?)
    }

    /// Every other server that answers.
    pub(super) async fn others(&self, declared: &Declared, alias: &TabletAlias) -> BTreeMap<TabletAlias, Server> {
        let others = declared.tablets.iter().filter(|(other, _)| *other != alias);
        let asked = others.map(|(other, tablet)| async move { (other.clone(), self.server(tablet, other).await.ok()) });
        join_all(asked).await.into_iter().filter_map(|(other, server)| Some((other, server?))).collect()
    }

    /// A change under this lock.
    pub(super) fn change(&self) -> Call {
        self.call(self.remote().min(CHANGE_LIMIT))
    }

    /// A call that gives somebody the right to write: etcd says that the lock is ours, and the call ends while the lease is certain to live.
    pub(super) async fn certain_call(&self) -> Result<Call, ReparentError> {
        self.verify().await?;
        self.call_within_lease().await
    }

    /// One statement that changes something, sent while the lock is ours.
    pub(super) async fn alter(&self, tablet: &Tablet, doing: &'static str, sql: &str) -> Result<(), Stop> {
        self.verify().await?;
        let sent = self.hands.tablets.execute_fetch_as_dba(tablet, sql, 1, self.change()).await;
        sent.map(drop).map_err(during(doing))
    }

    /// Waits a moment before the next look; not when the lock is lost or nobody wants it any more.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), Stop> {
        tokio::select! {
            biased;
            lost = self.lost() => Err(RepairError::LockLost(lost).into()),
            () = self.cancel.cancelled() => Err(Stop::NotDue("it was called off".to_owned())),
            () = sleep(pause) => Ok(()),
        }
    }

    /// Looks until the server is as it should be, or the time is over; the last look either way.
    pub(super) async fn look_until(
        &self,
        tablet: &Tablet,
        alias: &TabletAlias,
        limit: Duration,
        is_right: impl Fn(&Server) -> bool + Send,
    ) -> Result<Server, Stop> {
        let end = Instant::now() + limit;
        loop {
            let server = self.server(tablet, alias).await;
            match server {
                Ok(server) if is_right(&server) => return Ok(server),
                last if Instant::now() + LOOK_PAUSE >= end => return last,
                _ => self.pause(LOOK_PAUSE).await?,
            }
        }
    }

    /// Whether commits wait for an acknowledgement there; `None` when it does not say.
    pub(super) async fn commits_wait(&self, tablet: &Tablet) -> Option<bool> {
        let call = Call::read(self.remote().min(READ_LIMIT));
        tablet::commits_wait(&*self.hands.tablets, tablet, call).await.ok()?
    }

    /// Refuses a server that is errant against the primary, or that lacks what the primary has purged. The primary is read after it, so
    /// that what it had from the primary is there; what the primary has sent and not committed yet is given time.
    pub(super) async fn validate(&self, scene: &Scene, alias: &TabletAlias, server: &Server) -> Result<(), Stop> {
        let (primary, record) = scene.primary_beside(alias)?;
        let mut looks = 0;
        loop {
            let waits = self.commits_wait(record).await;
            let source = self.server(record, primary).await?;
            if source.replication().is_some() {
                let (primary, source_address) = (primary.clone(), source.source_address());
                return Err(Refusal::PrimaryReplicates { primary, source_address }.into());
            }
            let lacks = source.purged.subtract(&server.everything);
            if !lacks.is_empty() {
                return Err(Refusal::NeedsRebuild { tablet: alias.clone(), primary: primary.clone(), lacks }.into());
            }
            let errant = errant(server, &source, waits);
            looks += 1;
            if errant.is_empty() {
                return Ok(());
            }
            if looks == CONFIRMATIONS {
                return Err(Refusal::Errant { tablet: alias.clone(), primary: primary.clone(), errant }.into());
            }
            self.pause(CONFIRM_PAUSE).await?;
        }
    }
}

/// What a server has and the primary has not. What the primary wrote itself is not counted while a commit may wait there: it is in its
/// binary log, and this server may be the one whose acknowledgement it waits for.
fn errant(server: &Server, primary: &Server, commits_wait: Option<bool>) -> GtidSet {
    let extra = server.everything.subtract(&primary.executed);
    match (commits_wait, primary.uuid) {
        (Some(false), _) | (_, None) => extra,
        (_, Some(uuid)) => extra.without_server(uuid),
    }
}
