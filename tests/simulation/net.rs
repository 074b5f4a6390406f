//! The network: who reaches whom, and how long it takes. Everything that is sent from one node to another asks here, and nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// An elector.
    Elector(usize),
    /// A host with a mysqld and its tablet manager.
    Host(usize),
    /// The topology.
    Etcd,
    /// The clients of MySQL.
    Clients,
    /// A person's command line.
    Person,
}

/// Between the packets of two nodes, one way.
const DELAY: (u64, u64) = (200, 700);
/// TCP sends a lost packet again after that.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// A connection over which nothing was heard for so long is given up by its owner, who then dials.
const CONNECTION_LIFE: Duration = Duration::from_secs(3);

/// Links are symmetric.
#[derive(Default)]
pub struct Net {
    cut: BTreeMap<(Node, Node), Instant>,
    silent: BTreeMap<Node, Instant>,
    lossy: BTreeMap<Node, (f64, Duration)>,
    /// How many there are of each cut, for faults that overlap.
    cuts: BTreeMap<(Node, Node), usize>,
    silences: BTreeMap<Node, usize>,
}

fn pair(a: Node, b: Node) -> (Node, Node) {
    if a < b { (a, b) } else { (b, a) }
}

impl Net {
    pub fn cut(&mut self, a: Node, b: Node) {
        self.cut.entry(pair(a, b)).or_insert_with(Instant::now);
        *self.cuts.entry(pair(a, b)).or_default() += 1;
    }

    pub fn heal(&mut self, a: Node, b: Node) {
        let left = self.cuts.entry(pair(a, b)).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.cut.remove(&pair(a, b));
        }
    }

    /// Every packet from and to that node is dropped.
    pub fn silence(&mut self, node: Node) {
        self.silent.entry(node).or_insert_with(Instant::now);
        *self.silences.entry(node).or_default() += 1;
    }

    pub fn hear_again(&mut self, node: Node) {
        let left = self.silences.entry(node).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.silent.remove(&node);
        }
    }

    /// From now on that share of the node's packets is lost, and the others come late by up to so much.
    pub fn disturb(&mut self, node: Node, loss: f64, jitter: Duration) {
        self.lossy.insert(node, (loss, jitter));
    }

    pub fn calm(&mut self, node: Node) {
        self.lossy.remove(&node);
    }

    pub fn is_silent(&self, node: Node) -> bool {
        self.silent.contains_key(&node)
    }

    pub fn reaches(&self, a: Node, b: Node) -> bool {
        a == b || (!self.cut.contains_key(&pair(a, b)) && !self.is_silent(a) && !self.is_silent(b))
    }

    /// Whether a connection that stood between them is given up by now.
    pub fn is_given_up(&self, a: Node, b: Node) -> bool {
        let since = [self.cut.get(&pair(a, b)), self.silent.get(&a), self.silent.get(&b)].into_iter().flatten().min();
        since.is_some_and(|since| since.elapsed() >= CONNECTION_LIFE)
    }

    /// How long a packet takes that gets through in the end.
    pub fn delay(&self, rng: &mut StdRng, a: Node, b: Node) -> Duration {
        let mut delay = Duration::from_micros(rng.random_range(DELAY.0..DELAY.1));
        for node in BTreeSet::from([a, b]) {
            let Some((loss, jitter)) = self.lossy.get(&node) else { continue };
            let mut again = RETRANSMISSION;
            while rng.random_bool(*loss) && again < RETRANSMISSION * 16 {
                delay += again;
                again *= 2;
            }
            delay += jitter.mul_f64(rng.random());
        }
        delay
    }
}
