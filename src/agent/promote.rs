//! Becoming the primary: promotion, first primary of a shard, undoing a demotion, being told so.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Action, Agent, AgentError, Context, replication, semi_sync, state, status::Switches};
use crate::{
    durability,
    mysql::conn::MysqlConn,
    pb::{
        topodata::{Tablet, TabletType},
        vttime::Time,
    },
};

impl Agent {
    /// PromoteReplica: replication ends, semi-sync is set as a fence, the record says PRIMARY, and only then the server is writable.
    ///
    /// Unlike vttablet it executes everything received before it forgets its source, and its term is never earlier than a known one.
    pub(super) async fn promote(self: &Arc<Self>, context: &Context, acks: bool) -> Result<String, AgentError> {
        let mut action = self.lock(context).await?;
        cancel_source_off(&mut action);
        let deadline = context.deadline;
        let mut conn = self.mysql.conn(deadline).await?;
        semi_sync::check(&mut conn, acks, deadline).await?;
        // Reading the terms needs no MySQL and stopping replication no topology: together they take the longer of the two.
        let (stopped, term) = tokio::join!(replication::stop(&mut conn, deadline), self.next_term());
        let (had_source, term) = (stopped?, term?);
        let position = replication::executed(&mut conn, deadline).await?;
        semi_sync::become_source(&mut conn, acks, deadline).await?;
        self.record_primary(term, deadline).await?;
        self.make_writable(&mut conn, deadline).await?;
        tracing::info!(%position, acks, "promoted: this server is the primary now");
        if had_source {
            self.forget_source_later();
        }
        Ok(position)
    }

    /// After the answer, because it syncs files, for which neither clients nor the elector need wait. A stopped source harms nobody.
    fn forget_source_later(self: &Arc<Self>) {
        let agent = self.clone();
        self.tasks.spawn(async move {
            let deadline = agent.own_deadline();
            let forgotten = async {
                let _action = agent.lock(&Context { deadline, lock_revision: None }).await?;
                // Whoever held the action lock before us may have given it another source.
                if !agent.is_primary() {
                    return Ok(());
                }
                let mut conn = agent.mysql.conn(deadline).await?;
                conn.exec("RESET REPLICA ALL", deadline).await.map_err(AgentError::change)
            };
            if let Err(error) = forgotten.await {
                tracing::warn!(%error, "promoted, but the former source could not be forgotten");
            }
        });
    }

    /// InitPrimary: the first primary of an empty shard. Semi-sync is set after the journal's table is made, because no replica is
    /// there to acknowledge it; meanwhile read_only keeps everybody but administrators out.
    pub(super) async fn init_primary(&self, context: &Context, acks: bool) -> Result<String, AgentError> {
        let mut action = self.lock(context).await?;
        cancel_source_off(&mut action);
        let deadline = context.deadline;
        let mut conn = self.mysql.conn(deadline).await?;
        semi_sync::check(&mut conn, acks, deadline).await?;
        replication::forget_source(&mut conn, deadline).await?;
        let term = self.next_term().await?;
        semi_sync::source_off(&mut conn, deadline).await?;
        for sql in ["SET GLOBAL read_only = ON", "SET GLOBAL super_read_only = OFF"] {
            conn.exec(sql, deadline).await.map_err(AgentError::change)?;
        }
        let created = self.create_journal(&mut conn, deadline).await;
        conn.exec("SET GLOBAL super_read_only = ON", deadline).await.map_err(AgentError::change)?;
        created?;
        let position = replication::executed(&mut conn, deadline).await?;
        semi_sync::become_source(&mut conn, acks, deadline).await?;
        self.record_primary(term, deadline).await?;
        self.make_writable(&mut conn, deadline).await?;
        tracing::info!(%position, acks, "initialised: this server is the first primary of its shard");
        Ok(position)
    }

    /// UndoDemotePrimary: writable again. Unlike vttablet it refuses on a tablet that is no primary, and where the shard record
    /// knows a later one.
    pub(super) async fn undo_demote(&self, context: &Context, acks: bool) -> Result<(), AgentError> {
        let mut action = self.lock(context).await?;
        self.adopt_primary().await?;
        self.refuse_when_superseded().await?;
        cancel_source_off(&mut action);
        let deadline = context.deadline;
        let mut conn = self.mysql.conn(deadline).await?;
        let switches = Switches::read(&mut conn, deadline).await?;
        if switches.super_read_only || acks {
            semi_sync::become_source(&mut conn, acks, deadline).await?;
        }
        self.make_writable(&mut conn, deadline).await?;
        tracing::info!(acks, "demotion undone: this server is writable again");
        Ok(())
    }

    /// SetReadWrite: only a primary, and with semi-sync as the keyspace's policy wants it.
    pub(super) async fn set_read_write(&self, context: &Context) -> Result<(), AgentError> {
        let mut action = self.lock(context).await?;
        self.adopt_primary().await?;
        self.refuse_when_superseded().await?;
        cancel_source_off(&mut action);
        let acks = self.policy_acks().await?;
        let mut conn = self.mysql.conn(context.deadline).await?;
        semi_sync::become_source(&mut conn, acks, context.deadline).await?;
        self.make_writable(&mut conn, context.deadline).await
    }

    /// ReplicaWasPromoted and ChangeType(PRIMARY): the record and the term, MySQL is left alone.
    pub(super) async fn was_promoted(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        let term = self.next_term().await?;
        self.record_primary(term, context.deadline).await?;
        let mut conn = self.mysql.conn(context.deadline).await?;
        let writable = !Switches::read(&mut conn, context.deadline).await?.read_only;
        self.change(|state| state.writable = writable);
        Ok(())
    }

    /// A tablet whose record says PRIMARY, while its memory does not, adopts the record's term. Every other one is refused.
    async fn adopt_primary(&self) -> Result<(), AgentError> {
        if self.is_primary() {
            return Ok(());
        }
        let record = self.topo.tablet(&self.settings.alias).await?.value;
        if record.r#type() != TabletType::Primary {
            return Err(AgentError::Precondition(format!(
                "{} is {}: only a primary is made writable; promote it with a planned reparent",
                self.settings.alias,
                self.state.borrow().tablet_type().as_str_name()
            )));
        }
        self.change(|state| {
            state.tablet.set_type(TabletType::Primary);
            state.tablet.primary_term_start_time = record.primary_term_start_time;
        });
        Ok(())
    }

    /// A later term in the shard record means that another tablet was promoted. A topology that does not answer hides nothing that
    /// this call could wait for: the caller demoted this server itself a moment ago, and wants it back.
    pub(super) async fn refuse_when_superseded(&self) -> Result<(), AgentError> {
        let shard = match self.topo.shard(&self.settings.shard).await {
            Ok(shard) => shard.value,
            Err(error) => {
                tracing::warn!(%error, "the shard record cannot be read: made writable again all the same");
                return Ok(());
            }
        };
        let own = self.state.borrow().tablet.primary_term_start_time;
        if state::shard_sync(own.as_ref(), &shard) == state::ShardSync::StepDown {
            let primary = shard.primary_alias.map_or_else(|| "nobody".to_owned(), |a| format!("{}-{:010}", a.cell, a.uid));
            let text = format!("the shard record names {primary} with a later primary term: this server stays read-only");
            return Err(AgentError::Precondition(text));
        }
        Ok(())
    }

    /// Whether a primary of this keyspace needs acknowledgements.
    pub(super) async fn policy_acks(&self) -> Result<bool, AgentError> {
        let me = self.member(TabletType::Primary);
        Ok(self.policy().await?.acks_needed(&me) > 0)
    }

    pub(super) async fn policy(&self) -> Result<&'static dyn durability::Policy, AgentError> {
        let keyspace = self.topo.keyspace(&self.settings.shard.keyspace).await?.value;
        durability::policy(&keyspace.durability_policy).map_err(|error| AgentError::Precondition(error.to_string()))
    }

    pub(super) fn member(&self, tablet_type: TabletType) -> durability::Member {
        durability::Member::new(self.settings.alias.clone(), tablet_type)
    }

    /// The term of a promotion now: the clock, but later than every known term.
    async fn next_term(&self) -> Result<Time, AgentError> {
        let (shard, tablets) = tokio::join!(self.topo.shard(&self.settings.shard), self.topo.shard_tablets(&self.settings.shard));
        // An unreadable cell does not stop a promotion: the shard record carries the newest term, give or take a moment.
        let newest = state::newest_term(&shard?.value, &tablets?);
        Ok(state::next_term(state::now(), newest))
    }

    /// Writes type PRIMARY and the term into the record, then takes them over. A write whose outcome is unknown is looked at.
    async fn record_primary(&self, term: Time, deadline: Instant) -> Result<(), AgentError> {
        let mut wanted = self.state.borrow().tablet.clone();
        wanted.set_type(TabletType::Primary);
        wanted.primary_term_start_time = Some(term);
        let written = match tokio::time::timeout_at(deadline, self.write_tablet(&wanted)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the tablet record belongs to another process".to_owned()),
            Ok(Err(error)) => self.written_after_all(&wanted).await.map_err(|()| error.to_string()),
            Err(_) => self.written_after_all(&wanted).await.map_err(|()| "no answer from the topology in time".to_owned()),
        };
        written.map_err(|reason| {
            let text =
                format!("the tablet record could not be made PRIMARY: {reason}; this server stays read-only, without a source");
            AgentError::Precondition(text)
        })?;
        self.change(|state| state.tablet = wanted);
        Ok(())
    }

    async fn written_after_all(&self, wanted: &Tablet) -> Result<(), ()> {
        match tokio::time::timeout_at(self.own_deadline(), self.topo.tablet(&self.settings.alias)).await {
            Ok(Ok(record)) if record.value.primary_term_start_time == wanted.primary_term_start_time => Ok(()),
            _ => Err(()),
        }
    }

    /// Lifts whatever keeps clients from writing. The last step: everything before it has been read back.
    pub(super) async fn make_writable(&self, conn: &mut MysqlConn, deadline: Instant) -> Result<(), AgentError> {
        if Switches::read(conn, deadline).await?.offline_mode {
            conn.exec("SET GLOBAL offline_mode = OFF", deadline).await.map_err(AgentError::change)?;
        }
        let sql = "SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF";
        conn.exec(sql, deadline).await.map_err(AgentError::change)?;
        self.change(|state| state.writable = true);
        Ok(())
    }
}

/// Ends the wish to switch semi-sync's source side off: it is needed again.
pub(super) fn cancel_source_off(action: &mut Action) {
    if let Some(pending) = action.source_off.take() {
        pending.cancel();
    }
}
