//! Series for the tests of the alert rules: an elector's metrics while things happen, scraped every 15 s of the world's time.
//! `make record-series` writes them into `deploy/prometheus/tests`.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration, time::UNIX_EPOCH};

use tokio::time::{Instant, sleep, sleep_until};
use vtelector::ledger::{Burst, FlapRules};

use super::{
    electors,
    manager::Flavour,
    net::Node,
    scenario::{Verdict, play, report},
    world::{Shape, World},
};

/// As in `deploy/prometheus/prometheus.yml`.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);
const RULES: &str = include_str!("../../deploy/prometheus/vtelector.rules.yml");

/// The series of one story, each with a value for every scrape.
struct Recorder {
    world: Arc<World>,
    next: Instant,
    scrapes: usize,
    series: BTreeMap<String, Vec<Option<f64>>>,
}

impl Recorder {
    /// The first scrape is now.
    fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), next: Instant::now(), scrapes: 0, series: BTreeMap::new() }
    }

    /// Scrapes until so much time is over.
    async fn minutes(&mut self, minutes: u32) {
        for _ in 0..minutes * 4 {
            self.scrape();
            self.next += SCRAPE_EVERY;
            sleep_until(self.next).await;
        }
    }

    fn scrape(&mut self) {
        let began = self.world.diary.began.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let pages: Vec<(Node, Option<String>)> = (self.world.electors().iter())
            .map(|(node, seated)| (*node, seated.elector.as_ref().map(|_| seated.metrics.page().unwrap())))
            .collect();
        for (node, page) in pages {
            let Node::Elector(number) = node else { continue };
            let own = format!("instance=\"elector{number}:16000\",job=\"vtelector\"");
            self.put(format!("up{{{own}}}"), if page.is_some() { 1.0 } else { 0.0 });
            for line in page.iter().flat_map(|page| page.lines()).filter(|line| !line.starts_with('#')) {
                let (id, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = id.split_once('{').map_or((id, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
                if RULES.contains(name) {
                    let value: f64 = value.parse().unwrap();
                    // In the tests of rules time begins at 0.
                    let value = if name.ends_with("_timestamp_seconds") { (value - began).round() } else { value };
                    let comma = if labels.is_empty() { "" } else { "," };
                    self.put(format!("{name}{{{own}{comma}{labels}}}"), value);
                }
            }
        }
        self.scrapes += 1;
    }

    fn put(&mut self, id: String, value: f64) {
        let values = self.series.entry(id).or_default();
        values.resize(self.scrapes, None);
        values.push(Some(value));
    }

    /// Writes the recorded part of a test's file.
    fn write(mut self, name: &str) {
        let mut text = String::new();
        for (id, values) in &mut self.series {
            values.resize(self.scrapes, None);
            writeln!(text, "      - series: '{id}'\n        values: '{}'", compact(values)).unwrap();
        }
        let file = format!("{}/deploy/prometheus/tests/{name}.yml", env!("CARGO_MANIFEST_DIR"));
        let whole = std::fs::read_to_string(&file).unwrap();
        let (head, rest) = whole.split_once("      # recorded\n").expect("the file has a recorded part");
        let (_, tail) = rest.split_once("      # end of what was recorded\n").expect("the recorded part has an end");
        let new = format!("{head}      # recorded\n{text}      # end of what was recorded\n{tail}");
        std::fs::write(file, new).unwrap();
        println!("{name}: {} series, {} scrapes", self.series.len(), self.scrapes);
    }
}

/// promtool's notation: `1+2x3` is 1 3 5 7; `_x3` is no sample, three times; a series that ends is `stale`, as Prometheus notes it.
fn compact(values: &[Option<f64>]) -> String {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < values.len() {
        let Some(first) = values[at] else {
            let gone = values[at..].iter().take_while(|value| value.is_none()).count();
            match (at, gone) {
                (0, _) => parts.push(format!("_x{gone}")),
                (_, 1) => parts.push("stale".to_owned()),
                _ => parts.push(format!("stale _x{}", gone - 1)),
            }
            at += gone;
            continue;
        };
        let step = values.get(at + 1).copied().flatten().map_or(0.0, |second| second - first);
        let fits = |(place, value): &(usize, &Option<f64>)| value.is_some_and(|value| value == first + step * *place as f64);
        let run = values[at..].iter().enumerate().take_while(fits).count();
        if step < 0.0 {
            parts.push(format!("{first}{step}x{}", run - 1));
        } else {
            parts.push(format!("{first}+{step}x{}", run - 1));
        }
        at += run;
    }
    parts.join(" ")
}

/// Starts the electors, and begins when they know each other.
async fn begin(world: &Arc<World>) -> Recorder {
    for number in 0..world.shape.electors {
        electors::start(world, Node::Elector(number));
    }
    sleep(Duration::from_secs(10)).await;
    Recorder::new(world)
}

fn shape(electors: usize) -> Shape {
    Shape { electors, began_ago: Duration::from_secs(7200), ..Shape::plain(Flavour::Agent) }
}

fn record<F: Future<Output = Verdict>>(shape: Shape, story: impl FnOnce(Arc<World>) -> F) {
    report(play(shape, "make record-series", story).err().into_iter().collect());
}

async fn healthy(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(60).await;
    recorder.write("healthy");
    Ok(())
}

/// The primary is killed, and comes back as a replica a minute later.
async fn failover(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    // Between two writes: one that nobody acknowledged would come back with it.
    world.lock().writing = false;
    sleep(Duration::from_millis(500)).await;
    let victim = world.lose_primary();
    world.lock().writing = true;
    recorder.minutes(1).await;
    world.lock().hosts[victim].mysqld.start();
    recorder.minutes(14).await;
    recorder.write("failover");
    Ok(())
}

/// The primary is killed where recoveries are not allowed; a person starts it again.
async fn blocked(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    let victim = world.lose_primary();
    recorder.minutes(10).await;
    world.lock().hosts[victim].mysqld.start();
    world.lock().hosts[victim].mysqld.open();
    recorder.minutes(5).await;
    recorder.write("blocked");
    Ok(())
}

/// Every new primary is killed soon after its promotion, three times.
async fn flapping(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    let killing = async {
        for count in 1..=3 {
            let victim = world.lose_primary();
            world.until(|state| state.promotions.len() >= count).await;
            world.lock().hosts[victim].mysqld.start();
            sleep(Duration::from_secs(4)).await;
        }
    };
    // The third promotion comes when the rule lets it.
    tokio::join!(recorder.minutes(10), killing);
    recorder.write("flapping");
    Ok(())
}

/// The first of three electors reaches no tablet for four minutes; etcd it does reach.
async fn blind(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    let hosts = 0..world.shape.tablets;
    hosts.clone().for_each(|host| world.lock().net.cut(Node::Elector(0), Node::Host(host)));
    recorder.minutes(4).await;
    hosts.for_each(|host| world.lock().net.heal(Node::Elector(0), Node::Host(host)));
    recorder.minutes(5).await;
    recorder.write("blind");
    Ok(())
}

async fn etcd_lost(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    world.lock().etcd_up = false;
    recorder.minutes(6).await;
    world.lock().etcd_up = true;
    recorder.minutes(5).await;
    recorder.write("etcd_lost");
    Ok(())
}

/// One of two electors dies and stays dead, later the other, too.
async fn alone(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    electors::die(&world, Node::Elector(1));
    recorder.minutes(18).await;
    electors::die(&world, Node::Elector(0));
    recorder.minutes(5).await;
    recorder.write("alone");
    Ok(())
}

/// A replica has transactions of its own, another one is dead for long.
async fn replicas(world: Arc<World>) -> Verdict {
    let mut recorder = begin(&world).await;
    recorder.minutes(5).await;
    {
        let mysqld = &mut world.lock().hosts[1].mysqld;
        mysqld.executed.0[1] += 1;
        mysqld.binlog = mysqld.executed;
        let executed = mysqld.executed;
        mysqld.received.join(&executed);
    }
    world.lock().hosts[2].mysqld.die();
    recorder.minutes(20).await;
    recorder.write("replicas");
    Ok(())
}

#[test]
#[ignore = "writes files: make record-series"]
fn record_series() {
    let wanted = |name: &str| std::env::var("STORY").map_or(true, |story| story == name);
    let burst = Some(Burst { count: 2, within: Duration::from_secs(60) });
    let flap = FlapRules { floor: Duration::from_secs(5), burst, cap_per_hour: 6 };
    if wanted("failover") {
        record(shape(2), failover);
    }
    if wanted("blocked") {
        record(Shape { allow_recovery: false, ..shape(2) }, blocked);
    }
    if wanted("flapping") {
        record(Shape { tablets: 5, flap, ..shape(2) }, flapping);
    }
    if wanted("blind") {
        record(shape(3), blind);
    }
    if wanted("etcd_lost") {
        record(shape(2), etcd_lost);
    }
    if wanted("alone") {
        record(shape(2), alone);
    }
    if wanted("replicas") {
        record(shape(1), replicas);
    }
    if wanted("healthy") {
        record(shape(2), healthy);
    }
}
