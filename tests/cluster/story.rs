//! A cluster under writes that loses its primary, again and again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::{Ack, Fault, Move, SandboxError, Shape, TabletAlias, TestCluster, Writers, eventually, second_writers, writes_on};

/// A killed server recovers, a blank one copies everything, before it is as it must be.
const RETURN_LIMIT: Duration = Duration::from_secs(12);

/// How an old primary came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// A replica like every other.
    Clean,
    /// Read-only and out of replication, because it has so many transactions that nobody else has; its health says so.
    Errant(u128),
}

/// A cluster under writes, and what has happened to it.
pub struct Story {
    pub test: TestCluster,
    pub writers: Writers,
    pub primary: TabletAlias,
    pub moves: Vec<Move>,
}

impl Story {
    pub async fn begin(shape: Shape) -> Self {
        let (mut test, primary) = TestCluster::start(shape).await;
        // What agents say of servers that were killed or frozen on purpose.
        for text in [
            "mysqld does not answer",
            "mysqld was restarted",
            "mysqld answers again",
            "a later primary was elected",
            "was primary, but is no longer",
            "is not yet what the topology says",
            "a call was not carried out",
            "waiting for mysqld",
            // What the elector says of them.
            "is not demoted",
            "has not answered its demotion in time",
            "was not stopped",
            "not every replica follows it",
            "emergency reparent",
            // One that thawed may have a transaction that nobody else has.
            "errant GTIDs: this tablet has transactions",
        ] {
            test.announce(text);
        }
        let writers = Writers::start(&test, &primary).await.unwrap();
        writes_on(&writers, &primary).await;
        Self { test, writers, primary, moves: Vec::new() }
    }

    /// Calls for help.
    pub async fn call(&mut self) -> Result<Move, Status> {
        self.call_again(Instant::now()).await
    }

    /// Calls for help where somebody has called before, and has not been answered.
    pub async fn call_again(&mut self, called: Instant) -> Result<Move, Status> {
        let to = self.test.emergency().await?;
        let change = Move { from: self.primary.clone(), to: to.clone(), called, answered: Instant::now() };
        self.moves.push(change.clone());
        self.primary = to;
        Ok(change)
    }

    /// A fault of the primary, a call, and writes on the new one.
    pub async fn lose_primary(&mut self, fault: Fault) -> Move {
        self.test.strike(&self.primary.clone(), fault).unwrap();
        let change = self.call().await.unwrap_or_else(|status| panic!("{}: {status}", fault.name()));
        assert_ne!(change.from, change.to);
        writes_on(&self.writers, &change.to).await;
        change
    }

    /// A fault of the primary, and nobody calls: the elector notices and acts by itself.
    pub async fn see_primary_lost(&mut self, fault: Fault) -> Move {
        let called = Instant::now();
        self.test.strike(&self.primary.clone(), fault).unwrap();
        self.see_failover(fault.name(), called).await
    }

    /// Waits for another primary that takes writes.
    pub async fn see_failover(&mut self, what: &str, called: Instant) -> Move {
        let from = self.primary.clone();
        let what = format!("another primary after {what}");
        let to = eventually(&what, RETURN_LIMIT, async || match self.test.declared_primary().await? {
            Some(now) if now != from => Ok(now),
            _ => Err(SandboxError::Wrong(vec![format!("{from} is still the primary")])),
        })
        .await
        .unwrap();
        let change = Move { from, to: to.clone(), called, answered: Instant::now() };
        self.moves.push(change.clone());
        self.primary = to;
        writes_on(&self.writers, &change.to).await;
        change
    }

    /// Ends the fault of the old primary and waits until it has come back, in one way or the other. One that is errant is rebuilt.
    pub async fn come_back(&mut self, change: &Move, fault: Fault) -> Return {
        let (old, now) = (&change.from, &self.primary);
        self.test.heal(old, fault).await.unwrap();
        let test = &self.test;
        let came = match test.returned(old, now, RETURN_LIMIT).await.unwrap() {
            Some(errant) => Return::Errant(errant.count()),
            None => Return::Clean,
        };
        assert!(!test.tablet(old).mysqld.is_writable().await.unwrap());
        if let Return::Errant(count) = came {
            assert!(count > 0, "it says that it is errant, but is not");
            self.test.rebuild(&change.from).await.unwrap();
        }
        self.settled().await;
        came
    }

    /// Everybody is as he must be, and has what the primary had a moment ago: one that was rebuilt has much to copy.
    pub async fn settled(&self) {
        self.test.settled(&self.primary, RETURN_LIMIT).await.unwrap();
        self.test.no_errant(&self.primary).await.unwrap();
        let all = self.test.tablet(&self.primary).mysqld.gtid_executed().await.unwrap();
        for alias in self.test.aliases() {
            eventually(&format!("{alias} with all that the primary had"), RETURN_LIMIT, async || {
                let missing = self.test.missing(&all, &alias).await?;
                if missing.is_empty() { Ok(()) } else { Err(SandboxError::Wrong(vec![missing])) }
            })
            .await
            .unwrap();
        }
    }

    /// Nothing acknowledged was lost and there were never two writers.
    pub async fn end(self) -> (Vec<Move>, Vec<Ack>) {
        writes_on(&self.writers, &self.primary).await;
        let acks = self.writers.finish().await;
        assert_eq!(second_writers(&acks, &self.moves), []);
        self.test.nothing_lost(&acks).await;
        self.test.no_errant(&self.primary).await.unwrap();
        self.test.finish();
        (self.moves, acks)
    }
}
