//! Asking everybody, and waiting no longer than it takes to know enough.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::scene::{Answer, Scene};
use crate::{
    pb::topodata::Tablet,
    reparent::{observed::buffer_pool_pages, run::Run},
    tablet::{Call, TabletManager},
    topo::TabletAlias,
};

/// How long those are waited for who have not answered at all, once enough is known.
pub(super) const GRACE: Duration = Duration::from_millis(50);
/// The same where only an old primary has not answered.
const GRACE_OF_THE_PRIMARY: Duration = Duration::from_millis(10);

/// One tablet's answer that is under way.
pub(super) type Asked<'a, T> = BoxFuture<'a, (TabletAlias, T)>;

/// Waits for answers until all are there, or enough is known and a moment has passed. `hear` takes one in and says how long the others
/// are still waited for, once it is enough.
pub(super) async fn collect<T>(calls: Vec<Asked<'_, T>>, mut hear: impl FnMut(TabletAlias, T) -> Option<Duration>) {
    let mut calls: FuturesUnordered<_> = calls.into_iter().collect();
    let mut end: Option<Instant> = None;
    loop {
        let next = match end {
            None => calls.next().await,
            Some(end) => timeout_at(end, calls.next()).await.unwrap_or(None),
        };
        let Some((alias, answer)) = next else { return };
        if let Some(grace) = hear(alias, answer) {
            let new = Instant::now() + grace;
            end = Some(end.map_or(new, |end| end.min(new)));
        }
    }
}

impl Run {
    /// Asks everybody what they are. Changes nothing.
    pub(super) async fn survey(&self, scene: &mut Scene, all: bool) {
        let call = Call::read(self.remote());
        let tablets = &*self.hands.tablets;
        let asked: Vec<_> = scene.asked().map(|(alias, tablet)| (alias.clone(), tablet.clone())).collect();
        let mut silent: BTreeSet<_> = asked.iter().map(|(alias, _)| alias.clone()).collect();
        let calls = asked.iter().map(|(alias, tablet)| async move { (alias.clone(), ask(tablets, tablet, call).await) }.boxed());
        collect(calls.collect(), |alias, answer| {
            scene.hear(&alias, answer);
            silent.remove(&alias);
            // An old primary that says nothing is waited for when it is demoted.
            let grace = if silent.iter().all(|alias| scene.acts_as_primary(alias)) { GRACE_OF_THE_PRIMARY } else { GRACE };
            (!all && scene.is_enough()).then_some(grace)
        })
        .await;
    }
}

/// Everything that an election wants to know of a tablet, and that can be read.
async fn ask(tablets: &dyn TabletManager, tablet: &Tablet, call: Call) -> Answer {
    let pages = buffer_pool_pages(tablets, tablet, call);
    let known = async { tokio::join!(tablets.full_status(tablet, call), tablets.read_reparent_journal_info(tablet, call)) };
    let (known, pages) = tokio::join!(known, pages);
    // Pages only break ties, so a server that does not tell them counts as cold.
    Answer { full: known.0, rows: known.1, pages: pages.unwrap_or(0) }
}
