//! Writers that try every server at once, and what their acknowledgements prove.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{APP, Cluster, Mysqld, SandboxError};
use crate::topo::TabletAlias;

/// One write on one server every so often: as dense as a gap has to be measured.
const PERIOD: Duration = Duration::from_millis(10);
/// A write without an answer by then hangs; it is not acknowledged, and its connection is replaced.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

const DATABASE: &str = "CREATE DATABASE IF NOT EXISTS sandbox";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS sandbox.writes (server BIGINT, n BIGINT, PRIMARY KEY (server, n))";

/// A write that a server has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The tablet's uid.
    pub server: u32,
    /// Its number; together with the server the row's key.
    pub n: i64,
    /// When it was sent.
    pub sent: Instant,
    /// When the acknowledgement came.
    pub acked: Instant,
}

/// One planned reparent that succeeded, as its caller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The primary before.
    pub from: TabletAlias,
    /// The primary after.
    pub to: TabletAlias,
    /// When the call was sent.
    pub called: Instant,
    /// When its answer came.
    pub answered: Instant,
}

/// One writer a server, each trying to insert all the time, whether or not the server takes writes. They end when dropped.
#[derive(Debug)]
pub struct Writers {
    acks: Arc<Mutex<Vec<Ack>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Makes the table on the primary and starts writing everywhere.
    pub async fn start(cluster: &Cluster, primary: &TabletAlias) -> Result<Self, SandboxError> {
        cluster.tablet(primary).mysqld.execute(DATABASE).await?;
        cluster.tablet(primary).mysqld.execute(TABLE).await?;
        let mut writers = Self { acks: Arc::default(), stop: CancellationToken::new(), tasks: JoinSet::new() };
        for (alias, tablet) in &cluster.tablets {
            let writer = Writer {
                server: alias.uid,
                opts: tablet.mysqld.tcp_opts(APP),
                acks: writers.acks.clone(),
                stop: writers.stop.clone(),
            };
            writers.tasks.spawn(writer.run());
        }
        Ok(writers)
    }

    /// Everything acknowledged so far.
    pub fn acks(&self) -> Vec<Ack> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what was acknowledged since the last time, so that it need not be kept for ever.
    pub fn take(&self) -> Vec<Ack> {
        std::mem::take(&mut self.acks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many are acknowledged and not yet taken.
    pub fn count(&self) -> usize {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends the writers, each after its current write; everything acknowledged and not yet taken.
    pub async fn finish(mut self) -> Vec<Ack> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.take()
    }
}

struct Writer {
    server: u32,
    opts: Opts,
    acks: Arc<Mutex<Vec<Ack>>>,
    stop: CancellationToken,
}

impl Writer {
    async fn run(self) {
        let (mut conn, mut n) = (None, 0);
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            ticks.tick().await;
            n += 1;
            conn = timeout(WRITE_LIMIT, self.write(conn, n)).await.unwrap_or(None);
        }
    }

    /// One attempt; the connection, when it can be used again.
    async fn write(&self, conn: Option<Conn>, n: i64) -> Option<Conn> {
        let mut conn = match conn {
            Some(conn) => conn,
            None => Conn::new(self.opts.clone()).await.ok()?,
        };
        let sent = Instant::now();
        let insert = format!("INSERT INTO sandbox.writes (server, n) VALUES ({}, {n})", self.server);
        match conn.query_drop(insert).await {
            Ok(()) => {
                let ack = Ack { server: self.server, n, sent, acked: Instant::now() };
                self.acks.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
                Some(conn)
            }
            // Refused because it is read-only, or the table is not there yet: the connection is as good as before.
            Err(mysql_async::Error::Server(_)) => Some(conn),
            Err(_) => None,
        }
    }
}

/// From the last acknowledgement on the old primary to the first one on the new; `None` without a write on one of the two. What the
/// network kept back until the old one was reachable again does not count.
pub fn write_gap(acks: &[Ack], change: &Move) -> Option<Duration> {
    let first = first_on_new(acks, change)?;
    let last = acks.iter().filter(|ack| ack.server == change.from.uid && ack.acked <= first).map(|ack| ack.acked).max()?;
    Some(first.saturating_duration_since(last))
}

/// Writes that another server accepted although the new primary had acknowledged one before they were sent, or before the
/// first move although it was not the primary: two writers at once. `acks` may reach over several moves, which follow each other.
pub fn second_writers(acks: &[Ack], moves: &[Move]) -> Vec<Ack> {
    let before = |change: &Move, ack: &&Ack| ack.server != change.from.uid && ack.sent < change.called;
    let mut found: Vec<Ack> =
        moves.first().map_or(Vec::new(), |change| acks.iter().filter(|ack| before(change, ack)).copied().collect());
    for (i, change) in moves.iter().enumerate() {
        let Some(first) = first_on_new(acks, change) else { continue };
        let until = moves.get(i + 1).map(|next| next.called);
        let is_second =
            |ack: &&Ack| ack.server != change.to.uid && ack.sent > first && until.is_none_or(|until| ack.sent < until);
        found.extend(acks.iter().filter(is_second).copied());
    }
    found
}

/// Acknowledged writes whose rows the server does not have.
pub async fn lost(acks: &[Ack], server: &Mysqld) -> Result<Vec<Ack>, SandboxError> {
    let mut ranges: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    for ack in acks {
        let range = ranges.entry(ack.server).or_insert((ack.n, ack.n));
        *range = (range.0.min(ack.n), range.1.max(ack.n));
    }
    let mut present = BTreeSet::new();
    for (writer, (low, high)) in ranges {
        let sql = format!("SELECT n FROM sandbox.writes WHERE server = {writer} AND n BETWEEN {low} AND {high}");
        for row in server.query(&sql).await? {
            present.extend(row.get_opt::<i64, _>(0).and_then(Result::ok).map(|n| (writer, n)));
        }
    }
    Ok(acks.iter().filter(|ack| !present.contains(&(ack.server, ack.n))).copied().collect())
}

fn first_on_new(acks: &[Ack], change: &Move) -> Option<Instant> {
    acks.iter().filter(|ack| ack.server == change.to.uid && ack.sent >= change.called).map(|ack| ack.acked).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(uid: u32) -> TabletAlias {
        TabletAlias { cell: "zone1".into(), uid }
    }

    #[test]
    fn the_gap_lies_between_the_last_write_there_and_the_first_one_here() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ack = |server, ms| Ack { server, n: ms as i64, sent: at(ms), acked: at(ms + 1) };
        let change = Move { from: alias(1), to: alias(2), called: at(100), answered: at(200) };
        let acks = [ack(1, 90), ack(1, 110), ack(2, 150), ack(2, 160)];
        assert_eq!(write_gap(&acks, &change), Some(Duration::from_millis(40)));
        assert_eq!(second_writers(&acks, std::slice::from_ref(&change)), []);
        assert_eq!(write_gap(&acks[..2], &change), None);

        // The old one acknowledges a write that was sent after the new one's first acknowledgement.
        let late = [&acks[..], &[ack(1, 155)]].concat();
        assert_eq!(second_writers(&late, std::slice::from_ref(&change)), [ack(1, 155)]);
        // Unless the primary has moved back meanwhile.
        let back = Move { from: alias(2), to: alias(1), called: at(152), answered: at(153) };
        assert_eq!(second_writers(&late, &[change, back]), [ack(2, 160)]);
    }
}
