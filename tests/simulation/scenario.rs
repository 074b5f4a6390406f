//! One run: a world by its seed, faults at their times, and what must hold afterwards.

use std::{cell::RefCell, future::Future, panic, sync::Arc, sync::Once, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};
use vtelector::ledger::FlapRules;

use super::{
    check,
    diary::Diary,
    manager::Flavour,
    world::{Shape, World},
};

/// Faults follow each other faster here than anti-flapping lets anybody act.
const NO_RULES: FlapRules = FlapRules { floor: Duration::ZERO, burst: None, cap_per_hour: 0 };

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What a run has come to.
pub type Verdict = Result<(), String>;

impl Shape {
    /// A world of that seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let tablets = if rng.random_bool(0.7) { 3 } else { 5 };
        let policy = ["semi_sync", "semi_sync", "cross_cell", "none"][rng.random_range(0..4)];
        let cells = if policy == "cross_cell" { rng.random_range(2..4) } else { rng.random_range(1..4) };
        Self {
            seed,
            tablets,
            cells,
            policy,
            flavour: if rng.random_bool(0.5) { Flavour::Agent } else { Flavour::Vttablet },
            electors: rng.random_range(1..4),
            net_timeout: Duration::from_secs(if rng.random_bool(0.5) { 8 } else { 60 }),
            flap: NO_RULES,
            allow_recovery: true,
            began_ago: Duration::ZERO,
        }
    }

    /// Three tablets in three cells under semi_sync, one elector.
    pub fn plain(flavour: Flavour) -> Self {
        let net_timeout = Duration::from_secs(60);
        Self {
            seed: 1,
            tablets: 3,
            cells: 3,
            policy: "semi_sync",
            flavour,
            electors: 1,
            net_timeout,
            flap: NO_RULES,
            allow_recovery: true,
            began_ago: Duration::ZERO,
        }
    }
}

/// A run that failed.
pub struct Failure {
    reason: String,
    diary: String,
    reproduce: String,
}

/// Plays a story in a world of its own, on a clock of its own.
pub fn play<F>(shape: Shape, reproduce: &str, story: impl FnOnce(Arc<World>) -> F) -> Result<(), Failure>
where
    F: Future<Output = Verdict>,
{
    listen_for_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (verdict, diary) = runtime.block_on(async {
        let diary = Diary::new(shape.began_ago);
        let _listening = diary.listen();
        let world = World::new(shape.clone(), diary.clone()).await;
        let mut verdict = story(world.clone()).await;
        let violations = world.lock().violations.clone();
        if !violations.is_empty() {
            verdict = Err(violations.into_iter().collect::<Vec<_>>().join("; "));
        }
        world.end();
        (verdict, diary)
    });
    let panics = PANICS.take();
    let verdict = if panics.is_empty() { verdict } else { Err(format!("panicked: {}", panics.join("; "))) };
    verdict.map_err(|reason| Failure { reason, diary: format!("{shape:?}\n{}", diary.text()), reproduce: reproduce.to_owned() })
}

/// Fails the test with the first failure's diary and the others' reasons.
pub fn report(failures: Vec<Failure>) {
    let Some(first) = failures.first() else { return };
    let list = failures.iter().map(|failure| format!("- {}\n  {}", failure.reason, failure.reproduce));
    let list = list.collect::<Vec<_>>().join("\n");
    panic!("{}\n\nfailed ({} in all; the diary is the first one's):\n{list}\n", first.diary, failures.len());
}

/// A panic in a task of the code under test fails the run, though tokio catches it.
fn listen_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            before(info);
        }));
    });
    PANICS.take();
}

/// Waits until the shard is well and has been for a second; who is primary then.
pub async fn well(world: &Arc<World>, limit: Duration) -> Result<usize, String> {
    let end = Instant::now() + limit;
    let mut since: Option<Instant> = None;
    loop {
        let now = check::converged(world).await;
        match &now {
            Ok(_) => {
                let since = since.get_or_insert_with(Instant::now);
                if since.elapsed() >= Duration::from_secs(1) {
                    return now;
                }
            }
            Err(reason) if Instant::now() >= end => return Err(format!("it is not well after {limit:?}: {reason}")),
            Err(_) => since = None,
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Nobody was promised anything that the primary does not have. Without acknowledgements a primary that is lost takes its last writes along.
pub fn nothing_lost(world: &World, primary: usize) -> Verdict {
    if world.acks_needed(primary) == 0 && !world.lock().promotions.is_empty() {
        return Ok(());
    }
    let lost = check::lost(&world.lock(), primary);
    if lost.is_empty() { Ok(()) } else { Err(format!("acknowledged and lost: {}", lost.join(", "))) }
}
