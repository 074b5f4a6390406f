//! Nothing is promoted before it has applied all that it received; waited for as long as it gets on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout};

use super::scene::{Scene, read_status};
use crate::{
    elect::Chosen,
    mysql::Position,
    pb::topodata::Tablet,
    reparent::{
        ReparentError,
        run::{RETRY_PAUSE, Run},
    },
    tablet::{Call, TabletErrorKind},
    topo::TabletAlias,
};

/// One wait at a tablet; after each it is seen whether it got on.
const WAIT_SLICE: Duration = Duration::from_secs(5);
/// How long the preferred one of several equals is waited for once another of them is ready.
const PREFERENCE: Duration = Duration::from_secs(1);

impl Run {
    /// Elects, and lets the elect apply and copy what it must hold, until both agree. What fails on the way is known the next time round.
    pub(super) async fn make_complete(
        &mut self,
        scene: &mut Scene,
        repointed: &mut BTreeSet<TabletAlias>,
        wait: Duration,
    ) -> Result<Chosen, ReparentError> {
        loop {
            let chosen = match scene.elect() {
                Ok(chosen) => chosen,
                Err(none) => {
                    // Once these have applied what they received, their journals may tell another story.
                    let pending = none.pending().into_iter().flatten();
                    let pending: Vec<_> = pending.filter(|alias| may_apply(scene, alias)).cloned().collect();
                    if pending.is_empty() {
                        return Err(none.into());
                    }
                    for alias in &pending {
                        let one = std::slice::from_ref(alias);
                        self.let_apply(scene, one, one, wait).await?;
                    }
                    continue;
                }
            };
            let waiting: Vec<_> = match &chosen.source {
                Some(source) => vec![source.clone()],
                None => chosen.equals.clone(),
            };
            // Somebody is ready already: the first of the preferred that has nothing left to apply.
            let behind: Vec<_> = waiting.iter().filter(|alias| !has_applied(scene, alias)).cloned().collect();
            if !behind.is_empty() && (chosen.source.is_some() || behind.contains(&chosen.elect)) {
                self.let_apply(scene, &waiting, &behind, wait).await?;
                continue;
            }
            let Some(source) = &chosen.source else { return Ok(chosen) };
            if holds(scene, &chosen.elect, &chosen.proof.complete.position) {
                return Ok(chosen);
            }
            repointed.insert(chosen.elect.clone());
            self.copy(scene, &chosen, source, wait).await?;
        }
    }

    /// Waits until one of these has applied all that it received, the first one being preferred.
    async fn let_apply(
        &mut self,
        scene: &mut Scene,
        wanted: &[TabletAlias],
        behind: &[TabletAlias],
        wait: Duration,
    ) -> Result<(), ReparentError> {
        let run = &*self;
        let mut waits: FuturesUnordered<_> = behind
            .iter()
            .filter_map(|alias| {
                let tablet = scene.declared.tablet(alias)?.clone();
                let target = scene.tablets.get(alias)?.received.clone();
                let alias = alias.clone();
                Some(async move { (run.applied(&alias, &tablet, &target, wait).await, alias, target) }.boxed())
            })
            .collect();
        // One that needs no wait is as good as one that has ended it.
        let mut ready = behind.len() < wanted.len();
        let mut heard = Vec::new();
        loop {
            let next = async { if ready { timeout(PREFERENCE, waits.next()).await.unwrap_or(None) } else { waits.next().await } };
            let next = self.interruptible(&wanted[0], next).await?;
            let Some((result, alias, target)) = next else { break };
            let preferred = wanted.first() == Some(&alias);
            ready |= result.is_ok();
            let done = preferred && result.is_ok();
            heard.push((alias, result, target));
            if done {
                break;
            }
        }
        drop(waits);
        if let (true, Some(preferred)) = (heard.is_empty(), wanted.first()) {
            let reason = "it was still applying its relay log when others had long done so".to_owned();
            scene.learn(preferred, |testimony| testimony.apply_failed = Some(reason));
        }
        let mut ready = BTreeMap::new();
        for (alias, result, target) in heard {
            match result {
                Ok(rows) => {
                    ready.insert(alias, (rows, target));
                }
                Err(reason) => {
                    self.warn(format!("{alias} does not apply what it has received: {reason}"));
                    scene.learn(&alias, |testimony| testimony.apply_failed = Some(reason));
                }
            }
        }
        // Only the most preferred of those that are ready is taken as such: it is ahead of its equals now, and will be elected.
        if let Some((alias, (rows, target))) = wanted.iter().find_map(|alias| Some((alias, ready.remove(alias)?))) {
            scene.learn(alias, |testimony| {
                testimony.executed = target;
                testimony.journal_rows = rows;
            });
        }
        Ok(())
    }

    /// Waits until a tablet has applied `target`; its reparent-journal rows then. Given up when nothing moves for as long as `wait`.
    async fn applied(
        &self,
        alias: &TabletAlias,
        tablet: &Tablet,
        target: &Position,
        wait: Duration,
    ) -> Result<Result<i32, String>, String> {
        let tablets = &*self.hands.tablets;
        let read = Call::read(self.remote());
        let (mut progress, mut since) = (Position::None, Instant::now());
        loop {
            let left = wait.saturating_sub(since.elapsed());
            let slice = Call::read(left.min(WAIT_SLICE).max(RETRY_PAUSE));
            let error = match tablets.wait_for_position(tablet, &target.encode(), slice).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let timed_out = error.kind == TabletErrorKind::UnknownOutcome || error.code == tonic::Code::DeadlineExceeded;
            if !timed_out {
                return Err(error.to_string());
            }
            let now = match tablets.replication_status(tablet, read).await {
                Ok(status) => Position::decode(&status.position).map_err(|error| error.to_string())?,
                Err(error) => return Err(error.to_string()),
            };
            if now != progress {
                if progress != Position::None {
                    tracing::info!(shard = %self.shard, %alias, applied = %now, of = %target, "still applying its relay log");
                }
                (progress, since) = (now, Instant::now());
            } else if since.elapsed() >= wait {
                return Err(format!("no progress for {} s at {now}, of {target}", wait.as_secs()));
            }
        }
        Ok(tablets.read_reparent_journal_info(tablet, read).await.map_err(|error| error.to_string()))
    }

    /// The elect copies from the tablet that is further ahead.
    async fn copy(
        &mut self,
        scene: &mut Scene,
        chosen: &Chosen,
        source: &TabletAlias,
        wait: Duration,
    ) -> Result<(), ReparentError> {
        let elect = &chosen.elect;
        let Some(tablet) = scene.declared.tablet(elect).cloned() else { return Ok(()) };
        let target = chosen.proof.complete.position.encode();
        self.say(format!("{elect} first copies from {source}, which is further ahead"));
        let copy = async {
            match self.point(&scene.declared, &tablet, elect, source, self.call(wait)).await {
                Ok(()) => self.applied(elect, &tablet, &chosen.proof.complete.position, wait).await,
                Err(error) => Err(error.to_string()),
            }
        };
        let copied = self.interruptible(elect, copy).await?;
        let status = self.hands.tablets.replication_status(&tablet, Call::read(self.remote())).await;
        match copied {
            Ok(rows) => scene.learn(elect, |testimony| {
                let read = status.ok().map(|status| read_status(testimony, &status));
                if !matches!(read, Some(Ok(()))) || !testimony.executed.contains(&chosen.proof.complete.position) {
                    // It said that it has applied all of it, and that is what is known.
                    testimony.executed = chosen.proof.complete.position.clone();
                    testimony.received = testimony.executed.clone();
                }
                testimony.journal_rows = rows;
            }),
            Err(reason) => {
                self.warn(format!("{elect} did not copy {target} from {source}: {reason}"));
                scene.learn(elect, |testimony| {
                    testimony.apply_failed = Some(format!("it did not catch up with {source}: {reason}"))
                });
            }
        }
        Ok(())
    }
}

/// Whether nothing received is left to apply.
fn has_applied(scene: &Scene, alias: &TabletAlias) -> bool {
    scene.tablets.get(alias).is_none_or(|testimony| testimony.executed.contains(&testimony.received))
}

/// Whether something is left to apply, and nothing has shown that it cannot be.
fn may_apply(scene: &Scene, alias: &TabletAlias) -> bool {
    !has_applied(scene, alias) && scene.tablets.get(alias).is_some_and(|testimony| testimony.apply_failed.is_none())
}

fn holds(scene: &Scene, alias: &TabletAlias, position: &Position) -> bool {
    scene.tablets.get(alias).is_some_and(|testimony| testimony.executed.contains(position))
}
