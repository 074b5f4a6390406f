//! An always-current snapshot of all topologies. One cell that is down makes its own part of the snapshot old, nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Topo,
    snapshot::{Part, Snapshot},
    source::{News, Source},
    stores::Store,
};
use crate::pb::topodata;

/// News that may wait for the one that takes them in; a source with more to tell waits.
const NEWS_MAX: usize = 64;

/// A running watcher. Dropping it stops it.
pub struct Watcher {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    tasks: TaskTracker,
    _stop_with_us: DropGuard,
}

impl Watcher {
    /// Starts to read and to watch everything; ends with `stop`.
    pub fn start(topo: &Topo, stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        let tasks = TaskTracker::new();
        let (publish, snapshots) = watch::channel(Arc::new(Snapshot::new()));
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let mut collector = Collector {
            topo: topo.clone(),
            snapshot: Snapshot::new(),
            cells: BTreeMap::new(),
            news,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let collecting = stop.clone();
        tasks.spawn(async move { collecting.run_until_cancelled(collector.run(inbox, publish)).await });
        tasks.close();
        Self { snapshots, tasks, _stop_with_us: stop.drop_guard() }
    }

    /// The latest snapshot, and a way to wait for the next one.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Stops it and waits until its tasks have ended, at most `limit`.
    pub async fn stop(self, limit: Duration) {
        let Self { tasks, _stop_with_us, .. } = self;
        drop(_stop_with_us);
        if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
            tracing::warn!(?limit, "the topology watcher did not stop in time");
        }
    }
}

/// Where news come from.
#[derive(Clone)]
struct Origin {
    part: Part,
    prefix: String,
    /// At which place a cell was read; news from an earlier one are void. 0 for the global topology.
    place: u64,
}

/// A cell whose sources run.
struct Followed {
    place: u64,
    _stop: DropGuard,
}

/// Takes in the news of all sources, starts and stops those of cells, publishes snapshots.
struct Collector {
    topo: Topo,
    snapshot: Snapshot,
    cells: BTreeMap<String, Followed>,
    news: mpsc::Sender<(Origin, News)>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Collector {
    async fn run(&mut self, mut inbox: mpsc::Receiver<(Origin, News)>, publish: watch::Sender<Arc<Snapshot>>) {
        let global = self.topo.global_store();
        self.spawn(&global, "cells", Part::Cells, 0, &self.stop.child_token());
        self.spawn(&global, "keyspaces", Part::Keyspaces, 0, &self.stop.child_token());
        let mut waiting = Vec::new();
        while inbox.recv_many(&mut waiting, NEWS_MAX).await > 0 {
            let mut changed = false;
            for (origin, news) in waiting.drain(..) {
                if self.is_valid(&origin) {
                    changed |= self.take_in(&origin.part, &origin.prefix, news);
                }
            }
            if changed {
                publish.send_replace(Arc::new(self.snapshot.clone()));
            }
        }
    }

    fn is_valid(&self, origin: &Origin) -> bool {
        match &origin.part {
            Part::Cells | Part::Keyspaces => true,
            Part::Tablets { cell } | Part::Graphs { cell } => {
                self.cells.get(cell).is_some_and(|followed| followed.place == origin.place)
            }
        }
    }

    fn take_in(&mut self, part: &Part, prefix: &str, news: News) -> bool {
        let was_current = self.snapshot.is_current(part);
        let broken = if let News::Broken { reason } = &news { Some(reason.clone()) } else { None };
        let changed = self.snapshot.take_in(part, prefix, news);
        match (was_current, broken) {
            (true, Some(reason)) => tracing::warn!(?part, reason, "topology unreadable: its last known records are used"),
            (false, None) => tracing::info!(?part, "topology read"),
            (true, None) | (false, Some(_)) => {}
        }
        if *part == Part::Cells {
            self.follow_cells();
        }
        changed
    }

    /// Starts the sources of new and moved cells and stops those of removed ones.
    fn follow_cells(&mut self) {
        self.cells.retain(|cell, followed| self.snapshot.cells.get(cell).is_some_and(|view| view.place == followed.place));
        let new: Vec<(String, topodata::CellInfo, u64)> = (self.snapshot.cells.iter())
            .filter(|(cell, _)| !self.cells.contains_key(*cell))
            .map(|(cell, view)| (cell.clone(), view.info.clone(), view.place))
            .collect();
        for (cell, info, place) in new {
            let stop = self.stop.child_token();
            let (tablets, graphs) = (Part::Tablets { cell: cell.clone() }, Part::Graphs { cell: cell.clone() });
            match self.topo.store_of(&cell, &info) {
                Ok(store) => {
                    self.spawn(&store, "tablets", tablets, place, &stop);
                    self.spawn(&store, "keyspaces", graphs, place, &stop);
                }
                Err(error) => {
                    // Only another record of the cell can mend this.
                    tracing::warn!(cell, %error, "the cell's topology cannot be opened");
                    for part in [tablets, graphs] {
                        self.snapshot.take_in(&part, "", News::Broken { reason: error.to_string() });
                    }
                }
            }
            self.cells.insert(cell, Followed { place, _stop: stop.drop_guard() });
        }
    }

    fn spawn(&self, store: &Store, folder: &str, part: Part, place: u64, stop: &CancellationToken) {
        let source = Source { kv: store.kv.clone(), prefix: store.root.folder(folder) };
        let origin = Origin { part, prefix: source.prefix.clone(), place };
        let (news, stop) = (self.news.clone(), stop.clone());
        self.tasks.spawn(async move { stop.run_until_cancelled(source.run(news, origin)).await });
    }
}
