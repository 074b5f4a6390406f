//! While this tablet is primary: the shard record follows it, and it steps down when a later primary appears.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{Agent, AgentError, Context, LocalState, door::FROZEN_MAX, state, state::ShardSync, status::Switches};
use crate::{
    mysql::conn::MysqlError,
    pb::topodata::{Shard, TabletType},
    topo::{TabletAlias, TopoError, Watch, WatchEvent},
};

/// Between two attempts after the topology or a step failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// An elector that has demoted this server re-points it in a moment; only if it does not, this server does so itself.
const ELECTOR_GRACE: Duration = Duration::from_secs(3);

/// A server that does not say in that time whether it is read-only is taken for writable.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub async fn run(agent: Arc<Agent>) {
    let mut local = agent.state.subscribe();
    while !agent.shutdown.is_cancelled() {
        let primary = tokio::select! {
            () = agent.shutdown.cancelled() => return,
            primary = local.wait_for(LocalState::is_primary) => primary.is_ok(),
        };
        if !primary {
            return;
        }
        let followed = tokio::select! {
            () = agent.shutdown.cancelled() => return,
            followed = follow(&agent, &mut local) => followed,
        };
        match followed {
            Ok(Followed::NoPrimary) => continue,
            Ok(Followed::WatchEnded) => {}
            Err(error) => tracing::warn!(%error, "the shard record cannot be kept in step; trying again"),
        }
        tokio::select! {
            () = agent.shutdown.cancelled() => return,
            () = sleep(RETRY_DELAY) => {}
        }
    }
}

/// Why following the shard record ended well.
enum Followed {
    /// This tablet is no primary any more.
    NoPrimary,
    /// The watch can promise nothing any more: start again with a read.
    WatchEnded,
}

/// Follows the shard record and the agent's own term until it is no primary any more, or something fails.
async fn follow(agent: &Arc<Agent>, local: &mut watch::Receiver<LocalState>) -> Result<Followed, AgentError> {
    let (shard, mut watch) = agent.topo.watch_shard(&agent.settings.shard).await?;
    let mut shard = shard.value;
    loop {
        let (primary, term) = {
            let state = local.borrow_and_update();
            (state.is_primary(), state.tablet.primary_term_start_time)
        };
        if !primary {
            return Ok(Followed::NoPrimary);
        }
        match state::shard_sync(term.as_ref(), &shard) {
            ShardSync::Write => shard = agent.write_shard_record().await?,
            ShardSync::Nothing => {}
            ShardSync::StepDown => {
                agent.step_down(local, &shard).await?;
                return Ok(Followed::NoPrimary);
            }
        }
        tokio::select! {
            changed = local.changed() => if changed.is_err() { return Ok(Followed::NoPrimary) },
            next = next_record(&mut watch) => match next {
                Some(next) => shard = next,
                None => return Ok(Followed::WatchEnded),
            },
        }
    }
}

/// The shard's record as it was written next; lock keys below the same prefix are passed over. A record that does not decode is too.
async fn next_record(watch: &mut Watch) -> Option<Shard> {
    loop {
        if let WatchEvent::Put(entry) = watch.events.recv().await?
            && entry.key.ends_with("/Shard")
            && let Ok(shard) = Shard::decode(entry.value.as_slice())
        {
            return Some(shard);
        }
    }
}

impl Agent {
    /// Writes alias and term, unless the record has caught up or gone past meanwhile.
    async fn write_shard_record(&self) -> Result<Shard, TopoError> {
        let change = &mut |record: &mut Shard| {
            let state = self.state.borrow();
            let term = state.tablet.primary_term_start_time;
            let write = state.is_primary() && state::shard_sync(term.as_ref(), record) == ShardSync::Write;
            if write {
                record.primary_alias = Some((&self.settings.alias).into());
                record.primary_term_start_time = term;
            }
            write
        };
        Ok(self.topo.update_shard(&self.settings.shard, change).await?.value)
    }

    /// A later primary exists. A server that still accepts writes is closed at once, frozen or not; one that an elector has made read-only
    /// already is left to that elector for a moment. Whom it follows then is up to [`super::settle`].
    async fn step_down(self: &Arc<Self>, local: &mut watch::Receiver<LocalState>, shard: &Shard) -> Result<(), AgentError> {
        let closed = self.is_closed(Instant::now() + LOOK_TIMEOUT).await.unwrap_or(false);
        if closed && timeout(ELECTOR_GRACE, local.wait_for(|state| !state.is_primary())).await.is_ok() {
            return Ok(());
        }
        let context = Context { deadline: Instant::now() + FROZEN_MAX, lock_revision: None };
        let mut action = self.lock(&context).await?;
        // Whoever held the action lock may have promoted or re-pointed this server.
        let own = self.state.borrow().tablet.primary_term_start_time;
        if !self.is_primary() || state::shard_sync(own.as_ref(), shard) != ShardSync::StepDown {
            return Ok(());
        }
        let primary = shard.primary_alias.as_ref().and_then(|alias| TabletAlias::try_from(alias).ok());
        tracing::warn!(primary = primary.as_ref().map(ToString::to_string), "a later primary was elected: stepping down");
        match self.shut(&mut action, None).await {
            Ok(_) => {}
            // Nothing to close: [`super::supervise`] closes what comes back.
            Err(AgentError::Read(MysqlError::Unreachable { .. })) => {}
            Err(error) => return Err(error),
        }
        self.set_type(TabletType::Replica).await;
        self.unsettled.notify_one();
        Ok(())
    }

    async fn is_closed(&self, deadline: Instant) -> Result<bool, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        Ok(Switches::read(&mut conn, deadline).await?.super_read_only)
    }

    /// Whether this tablet acknowledges that primary's transactions under the keyspace's policy.
    pub(super) async fn acks_for(&self, primary: &TabletAlias) -> Result<bool, AgentError> {
        let kind = match self.state.borrow().tablet_type() {
            TabletType::Primary => TabletType::Replica,
            kind => kind,
        };
        let them = crate::durability::Member::new(primary.clone(), TabletType::Primary);
        Ok(self.policy().await?.may_ack(&them, &self.member(kind)))
    }
}
