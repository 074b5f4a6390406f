//! Several electors: who is there, who looks after which shard, and what the others see of a tablet.

mod ask;
mod clerk;
mod door;
mod observe;
mod ownership;
mod quorum;
mod region;
mod registrar;
mod roll;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use clerk::{About, Clerk, Outlets};
use registrar::{Registrar, now_ms};
use roll::{Keys, Roll};

pub(crate) use ask::message;
pub use ask::{Ask, GrpcAsk, Question, why};
pub use door::{PeerDoor, PeerTls};
pub use observe::{Listen, Observation, ObserveError, Observer, PROBE_LIMIT, Probe};
pub use ownership::Ownership;
pub use quorum::{Claim, Evidence, Refused, Verdict, tally};
pub use roll::Elector;

use crate::{
    metrics::PeerMetrics,
    sense::Watched,
    topo::{Source, TabletAlias, Topo},
};

/// News that may wait for the one that takes them in; a source with more to tell waits.
const NEWS_MAX: usize = 16;
/// Beyond its probes, what an answer may take: two ways through the network between two regions.
const TRANSIT_LIMIT: Duration = Duration::from_millis(500);
/// Electors that are asked at the same time.
const ASKED_MAX: usize = 32;

/// Who we are among the electors.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// `--ledger-root`: below it electors register, in the global etcd.
    pub ledger_root: String,
    /// `--advertise-address`: where the others reach us, `host:port`. It is our identity as well.
    pub address: String,
    /// Host and port, for a person.
    pub who: String,
    /// `--cell`: where we run; empty when not told.
    pub cell: String,
    /// `--cells-to-watch` and `--clusters-to-watch`.
    pub watched: Watched,
}

/// This elector among its peers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    topo: Topo,
    settings: PeerSettings,
    observer: Arc<Observer>,
    ask: Arc<dyn Ask>,
    metrics: PeerMetrics,
    ownership: watch::Receiver<Arc<Ownership>>,
    roll: watch::Receiver<Arc<Roll>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Peers {
    /// Registers this elector and follows the others until `stop`. `observer` sees tablets for ourselves, `ask` asks the others.
    pub fn start(
        topo: &Topo,
        observer: Arc<Observer>,
        ask: Arc<dyn Ask>,
        settings: PeerSettings,
        metrics: PeerMetrics,
        stop: &CancellationToken,
    ) -> Self {
        let (stop, tasks, keys) = (stop.child_token(), TaskTracker::new(), Keys::below(&settings.ledger_root));
        let (ownership, owned) = watch::channel(Arc::new(Ownership::nothing()));
        let (roll_out, roll) = watch::channel(Arc::new(Roll::empty(keys.clone())));
        let (me_out, me) = watch::channel(None);
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let (kv, aliases_below) = (topo.global(), topo.global_key("cells_aliases") + "/");
        for (about, prefix) in [(About::Electors, keys.all.clone()), (About::Aliases, aliases_below.clone())] {
            let (source, news, stop) = (Source { kv: kv.clone(), prefix }, news.clone(), stop.clone());
            tasks.spawn(async move { stop.run_until_cancelled(source.run(news, about)).await });
        }
        let outlets = Outlets { ownership, roll: roll_out, me: me_out };
        let clerk = Clerk::new(settings.clone(), metrics.clone(), aliases_below, outlets);
        let following = stop.clone();
        tasks.spawn(async move { following.run_until_cancelled(clerk.run(inbox)).await });
        tasks.spawn(Registrar { kv, keys, me, stop: stop.clone() }.run());
        tasks.close();
        let topo = topo.clone();
        Self { inner: Arc::new(Inner { topo, settings, observer, ask, metrics, ownership: owned, roll, tasks, stop }) }
    }

    /// Which shards are ours, and a way to wait for a change of that. None until the others are known; all while they cannot be read
    /// from the start; as last known while etcd is away.
    pub fn ownership(&self) -> watch::Receiver<Arc<Ownership>> {
        self.inner.ownership.clone()
    }

    /// The live electors of all regions, by id, as last seen in etcd.
    pub fn electors(&self) -> Vec<Elector> {
        self.inner.roll.borrow().alive().into_values().cloned().collect()
    }

    /// All of them but this one, those of its region first: the nearer one's word about a shard goes before the farther one's.
    pub fn others(&self) -> Vec<Elector> {
        let (mut electors, me) = (self.electors(), &self.inner.settings.address);
        let region = electors.iter().find(|elector| elector.id == *me).map(|elector| elector.region.clone());
        electors.retain(|elector| elector.id != *me);
        electors.sort_by_key(|elector| region.as_ref() != Some(&elector.region));
        electors
    }

    /// Asks every elector of the last day what it sees of a tablet now, and judges by the rules of [`tally`]. Takes about a second
    /// where somebody does not answer, and less where all do.
    pub async fn quorum(&self, claim: Claim, tablet: &TabletAlias) -> Verdict {
        let verdict = self.ask_all(claim, tablet).await;
        self.inner.metrics.quorum(claim.name(), verdict.outcome());
        verdict
    }

    async fn ask_all(&self, claim: Claim, tablet: &TabletAlias) -> Verdict {
        let Inner { topo, settings, observer, ask, .. } = &*self.inner;
        let limit = PROBE_LIMIT + TRANSIT_LIMIT;
        let keys = Keys::below(&settings.ledger_root);
        // As etcd has it now, not as it was last heard of: a voter that we have not heard of would be missing from the majority.
        let kv = topo.global();
        let voters = match timeout(limit, kv.list(&keys.all)).await {
            Ok(Ok(listing)) => Roll::listed(keys, &listing.entries).voters(now_ms()),
            Ok(Err(error)) => return Verdict::voters_unknown(claim, tablet, error.to_string()),
            Err(_) => return Verdict::voters_unknown(claim, tablet, format!("etcd gave no answer within {limit:?}")),
        };
        let me = &settings.address;
        let mut asked = Vec::new();
        for voter in voters.values() {
            if voter.id != *me {
                asked.push(observed(ask.clone(), voter.clone(), tablet.clone(), limit));
            }
        }
        let others = stream::iter(asked).buffer_unordered(ASKED_MAX).collect::<Vec<_>>();
        let own = async {
            let sent = Instant::now();
            (me.clone(), observer.observe(tablet).await.map(|seen| (seen, sent)).map_err(|error| error.to_string()))
        };
        let (others, own) = tokio::join!(others, own);
        let answers: BTreeMap<String, Result<Evidence, String>> = (others.into_iter().chain([own]))
            .map(|(id, answer)| (id, answer.map(|(seen, sent)| Evidence { seen, age: sent.elapsed() })))
            .collect();
        let voters: BTreeMap<String, String> = voters.into_values().map(|voter| (voter.id, voter.cell)).collect();
        tally(claim, tablet, (me, &settings.cell), &voters, &answers)
    }

    /// Says farewell to the others and waits until that is done, at most `limit`.
    pub async fn stopped(&self, limit: Duration) {
        self.inner.stop.cancel();
        if timeout(limit, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "this elector did not take its leave of the others in time; they notice within three seconds");
        }
    }
}

/// One elector's answer, and when it was asked.
async fn observed(
    ask: Arc<dyn Ask>,
    voter: Elector,
    tablet: TabletAlias,
    limit: Duration,
) -> (String, Result<(Observation, Instant), String>) {
    let sent = Instant::now();
    let answer = timeout(limit, ask.observe(&voter, &tablet, limit)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
    (voter.id, answer.map(|seen| (seen, sent)))
}
