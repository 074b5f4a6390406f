//! Receivers of events that hang or fail beside a failover: it takes as long as without any of them.

use std::{cell::Cell, sync::Arc, time::Duration};

use async_trait::async_trait;
use prost_reflect::DescriptorPool;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vtelector::{
    ledger::Clock,
    metrics::Metrics,
    pb,
    serve::events::{
        EventLog, LogSettings, Printer,
        webhook::{ANSWERS_WITHIN, Desk, Failure, Message, Post, Posts},
    },
};

use super::{
    faults::Fault,
    manager::Flavour,
    net::Node,
    scenario::{Verdict, play, report},
    stories::{begin, finish, promotions},
    world::{Shape, World},
};

const FILE: &str =
    "[[webhook]]\nname = 'pager'\nurl = 'http://pager.example'\n[[webhook]]\nname = 'audit'\nurl = 'http://audit.example'\n";

/// How receivers behave.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// There are none.
    Absent,
    /// They do not answer until they are given up.
    Hang,
    /// They answer 500.
    Fail,
}

struct Receiver(Manner);

#[async_trait]
impl Post for Receiver {
    async fn post(&self, _: &Message) -> Result<(), Failure> {
        if matches!(self.0, Manner::Hang) {
            sleep(ANSWERS_WITHIN).await;
        }
        Err(Failure { reason: "bad", text: "it is as bad as it can be".to_owned(), is_passing: true, retry_after: None })
    }
}

/// The log of events and its deliverers, beside an elector as the server has them.
struct Beside {
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    desk: Desk,
    log: EventLog,
    _folder: tempfile::TempDir,
}

impl Beside {
    fn start(world: &Arc<World>, node: Node, manner: Manner) -> Self {
        let (stop, folder) = (CancellationToken::new(), tempfile::tempdir().unwrap());
        let file = folder.path().join("webhooks.toml");
        std::fs::write(&file, FILE).unwrap();
        let clock = world.clone();
        let electors = world.electors();
        let (seated, who) = (&electors[&node], "elector0:15999".to_owned());
        let place = LogSettings {
            // Not over the world's network, which would give every later packet another fate.
            kv: world.kv.clone(),
            ledger_root: "/vtelector".to_owned(),
            who,
            clock: Clock::new(Arc::new(move || clock.wall())),
        };
        let board = &seated.elector.as_ref().unwrap().board;
        let log = EventLog::start(place, board, Arc::new(|_| true), seated.metrics.events.clone(), &stop);
        let posts: Posts = Arc::new(move |_| Ok(Arc::new(Receiver(manner)) as Arc<dyn Post>));
        let printer = Printer::new(DescriptorPool::decode(pb::DESCRIPTORS).unwrap());
        let file = (!matches!(manner, Manner::Absent)).then_some(file);
        let desk = Desk::with_posts(file, log.clone(), printer, posts, TaskTracker::new(), &stop);
        Self { metrics: seated.metrics.clone(), stop, desk, log, _folder: folder }
    }

    async fn stop(self) -> String {
        self.stop.cancel();
        self.desk.stopped(Duration::from_secs(1)).await;
        self.log.stopped(Duration::from_secs(1)).await;
        self.metrics.page().unwrap()
    }
}

/// A killed primary; when somebody was promoted, and when all was well.
async fn failover(world: Arc<World>, manner: Manner, took: &Cell<[Duration; 2]>) -> Verdict {
    begin(&world).await?;
    let beside = Beside::start(&world, Node::Elector(0), manner);
    sleep(Duration::from_secs(5)).await;
    let struck = Instant::now();
    Fault::PrimaryKilled.strike(&world);
    finish(&world).await?;
    let (count, first) = promotions(&world, struck);
    took.set([first, struck.elapsed()]);
    let page = beside.stop().await;
    let failed = page.lines().filter(|line| line.starts_with("vtelector_webhook_failed_total{")).count();
    let expected = if matches!(manner, Manner::Absent) { 0 } else { 2 };
    match (count, failed) {
        (1, failed) if failed == expected => Ok(()),
        _ => Err(format!("{count} promotions, {failed} receivers that failed where {expected} do")),
    }
}

#[test]
fn receivers_that_hang_or_fail_cost_a_failover_no_time() {
    let mut failures = Vec::new();
    for (seed, flavour) in super::seeds(2).into_iter().flat_map(|seed| [(seed, Flavour::Agent), (seed, Flavour::Vttablet)]) {
        let mut take = |manner| {
            let (took, shape) = (Cell::default(), Shape { seed, ..Shape::plain(flavour) });
            let reproduce = format!("make sim SEED={seed} TESTS=receivers::");
            failures.extend(play(shape, &reproduce, |world| failover(world, manner, &took)).err());
            took.get()
        };
        let alone = take(Manner::Absent);
        for manner in [Manner::Hang, Manner::Fail] {
            let beside = take(manner);
            println!(
                "seed {seed}, {flavour:?}: promoted and well after {alone:?} alone, after {beside:?} beside receivers that {manner:?}"
            );
            assert_eq!(alone, beside, "seed {seed}, {flavour:?}, {manner:?}");
        }
    }
    report(failures);
}
