//! The whole elector, put together: what serves and what simulates start the same one.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Context, Live, Recoverer, board::Board};
use crate::{
    ledger::{Clock, Ledger},
    metrics::Metrics,
    mysql::probe::DirectMysql,
    peers::{Ask, Observer, PeerSettings, Peers},
    reparent::Hands,
    sense::{SenseSettings, Senses},
};

/// What an elector is told at its start.
pub struct ElectorSettings {
    /// How tablets are watched.
    pub sense: SenseSettings,
    /// Who we are among the electors.
    pub peers: PeerSettings,
    /// How the other electors are asked.
    pub ask: Arc<dyn Ask>,
    /// How tablets are looked at when a quorum is asked for.
    pub observer: Arc<Observer>,
    /// How primaries' MySQL servers are asked directly, where an account for that was given.
    pub direct: Option<Arc<dyn DirectMysql>>,
    /// What may change later.
    pub live: watch::Receiver<Arc<Live>>,
    /// Where the ledger takes the time from.
    pub clock: Clock,
}

/// A running elector. Dropping it ends it.
pub struct Elector {
    /// What it sees.
    pub senses: Arc<Senses>,
    /// What all electors remember.
    pub ledger: Ledger,
    /// The other electors.
    pub peers: Peers,
    /// What it shows.
    pub board: Arc<Board>,
    /// What may change later.
    pub live: watch::Receiver<Arc<Live>>,
    recoverer: Recoverer,
    _stop_with_us: DropGuard,
}

impl Elector {
    /// Starts it; ends with `stop`.
    pub fn start(hands: Hands, metrics: Arc<Metrics>, settings: ElectorSettings, stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        let ElectorSettings { sense, peers, ask, observer, direct, live, clock } = settings;
        let ledger = Ledger::start(&hands.topo, &hands.settings.ledger_root, &hands.settings.who, clock, &stop);
        let peers = Peers::start(&hands.topo, observer, ask, peers, metrics.peers.clone(), &stop);
        let (topo, tablets) = (&hands.topo, hands.tablets.clone());
        let senses = Senses::start(topo, tablets, direct, metrics.clone(), sense, peers.ownership(), &stop);
        let (senses, board) = (Arc::new(senses), Arc::new(Board::default()));
        let context = Context {
            hands,
            senses: senses.clone(),
            ledger: ledger.clone(),
            peers: peers.clone(),
            metrics,
            board: board.clone(),
            live: live.clone(),
        };
        let recoverer = Recoverer::start(Arc::new(context), &stop);
        Self { senses, ledger, peers, board, live, recoverer, _stop_with_us: stop.drop_guard() }
    }

    /// Waits until its tasks have ended after `stop` was cancelled, at most `limit` each.
    pub async fn stopped(&self, limit: Duration) {
        self.recoverer.stopped(limit).await;
        self.senses.stopped(limit).await;
        self.peers.stopped(limit).await;
        self.ledger.stopped(limit).await;
    }
}
