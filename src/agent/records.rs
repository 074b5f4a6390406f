//! The calls about the tablet's own record and what others keep of it.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Agent, AgentError, Context};

impl Agent {
    /// RefreshState: the shard record must be there; our own record is written again.
    pub(super) async fn refresh_state(&self, context: &Context) -> Result<(), AgentError> {
        let _action = self.lock(context).await?;
        self.topo.shard(&self.settings.shard).await?;
        self.publish().await;
        Ok(())
    }

    /// ChangeTags: an empty value deletes a tag, `replace` drops all others.
    pub(super) async fn change_tags(
        &self,
        context: &Context,
        tags: BTreeMap<String, String>,
        replace: bool,
    ) -> Result<BTreeMap<String, String>, AgentError> {
        let _action = self.lock(context).await?;
        self.change(|state| {
            if replace {
                state.tablet.tags.clear();
            }
            state.tablet.tags.extend(tags);
            state.tablet.tags.retain(|_, value| !value.is_empty());
        });
        self.publish().await;
        Ok(self.state.borrow().tablet.tags.clone())
    }

    /// Hosts of the replicas that read this server's binary log.
    pub(super) async fn replica_addresses(&self, deadline: Instant) -> Result<Vec<String>, AgentError> {
        let mut conn = self.mysql.conn(deadline).await?;
        let sql = "SELECT processlist_host FROM performance_schema.threads WHERE processlist_command LIKE 'Binlog Dump%'";
        let rows = conn.query(sql, deadline).await?;
        Ok(rows.iter().filter_map(|row| row.at(0)).collect())
    }
}
