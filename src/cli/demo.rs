//! `vtelector demo`: a small live cluster on this machine, whose primary is moved, killed, frozen and cut off under writes before a person's
//! eyes. Nobody calls for help: the elector sees it by itself.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::{
    config::GoDuration,
    sandbox::{
        Cluster, Fault, KEYSPACE, Move, Network, SHARD, SandboxError, Shape, Tools, Writers, eventually, lost, second_writers,
        write_gap,
    },
    topo::TabletAlias,
};

/// A failover that takes longer is none.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// A server that was killed recovers first; an empty one copies everything.
const RETURN_LIMIT: Duration = Duration::from_secs(60);
/// Records and servers that are not right by then are wrong.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// A shard that takes no write for so long is not writable.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Writes before and after a move, so that there is a gap to measure.
const AROUND: usize = 25;

/// Flags of `vtelector demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Show every fault once, move the primary on, and exit 0 only if no acknowledged write was lost, never two servers took writes,
    /// and all records are right
    #[arg(long)]
    tour: bool,
    /// Time between two faults
    #[arg(long, value_name = "DURATION", default_value = "4s", conflicts_with = "tour")]
    every: GoDuration,
    /// Folder with bin/mysqld and bin/etcd, as deploy/tools/install makes it; PATH is looked through, too
    #[arg(long, value_name = "DIR")]
    tools: Option<PathBuf>,
}

/// Runs until Ctrl-C, or for one tour. Everything that was started is ended and removed before it returns.
pub async fn run(args: &DemoArgs) -> ExitCode {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return failed(&format!("signals cannot be waited for: {error}")),
    };
    // Dropping the show, also half-way, ends its processes and removes its folder.
    let ended = tokio::select! {
        ended = show(args) => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    match ended {
        Ok(()) if args.tour => ExitCode::SUCCESS,
        Ok(()) => {
            println!("\n  the end: every process is gone and the folder removed");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn show(args: &DemoArgs) -> Result<(), SandboxError> {
    let tools = Tools::find(args.tools.as_deref())?;
    let vtelector =
        std::env::current_exe().map_err(|source| SandboxError::Io { doing: "finding this program".into(), source })?;
    println!("vtelector demo: MySQL {}, etcd {}, policy semi_sync, two cells", tools.mysqld_version, tools.etcd_version);
    println!("  starting etcd, three MySQL servers with agents, and an elector ...");
    // A host can be cut off only where it has a network of its own, which takes root, ip and iptables.
    let hosts = Network::new().is_ok();
    // A series of faults is no life: nothing blocks the next failover.
    let elector_flags = ["--failover-floor=0", "--failover-burst=0", "--failover-cap-per-hour=0"].map(String::from).into();
    let stage = Stage::set(Shape { hosts, elector_flags, ..Shape::new(vtelector, tools) }).await?;
    println!("  data and logs   {}", stage.cluster.folder().display());
    let elector = &stage.cluster.host().ip;
    println!("  ask the elector vtelector problems --server {elector}:{}", stage.cluster.grpc_port);
    println!("  metrics         http://{elector}:{}/metrics", stage.cluster.http_port);
    if !hosts {
        println!("  cutting a host off is left out: it takes root, ip and iptables");
    }
    println!("  every server is offered an insert every 10 ms; only the primary acknowledges\n");
    match args.tour {
        true => stage.tour().await,
        false => stage.play(args.every.0).await,
    }
}

/// The cluster under write load, and what was seen of it.
struct Stage {
    // Writers end before what they write to.
    writers: Writers,
    cluster: Cluster,
    primary: TabletAlias,
    began: Instant,
    acknowledged: usize,
    faults: Vec<Fault>,
}

impl Stage {
    async fn set(shape: Shape) -> Result<Self, SandboxError> {
        let (cluster, primary) = Cluster::with_primary(shape).await?;
        let writers = Writers::start(&cluster, &primary).await?;
        let mut faults = vec![Fault::MysqldKilled, Fault::MysqldFrozen, Fault::BothKilled];
        if cluster.host().is_alone() {
            faults.push(Fault::HostSilent);
        }
        let stage = Self { writers, cluster, primary, began: Instant::now(), acknowledged: 0, faults };
        stage.writes(AROUND).await?;
        Ok(stage)
    }

    /// Every fault once, and a planned move.
    async fn tour(mut self) -> Result<(), SandboxError> {
        self.move_on().await?;
        for fault in self.faults.clone() {
            self.lose(fault).await?;
        }
        let rest = self.writers.finish().await;
        let missing = lost(&rest, &self.cluster.tablet(&self.primary).mysqld).await?;
        refuse(missing.is_empty(), || format!("{} acknowledged writes are lost", missing.len()))?;
        let total = self.acknowledged + rest.len();
        println!("\n  the tour is over: {total} writes acknowledged, 0 lost, never two writers, records right");
        Ok(())
    }

    /// A line a second, a fault every so often; ends by being dropped.
    async fn play(mut self, every: Duration) -> Result<(), SandboxError> {
        let second = Duration::from_secs(1);
        let mut seconds = interval_at(Instant::now() + second, second);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut next, mut seen) = (Instant::now() + every, self.writers.count());
        let mut faults = self.faults.clone().into_iter().cycle();
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {
                    if let Some(fault) = faults.next() {
                        self.lose(fault).await?;
                    }
                    next = Instant::now() + every;
                    seen = self.writers.count();
                    seconds.reset();
                }
                _ = seconds.tick() => {
                    let count = self.writers.count();
                    let total = self.acknowledged + count;
                    self.say(&format!("{total:>8} acknowledged  {}", "▪".repeat((count - seen) / 4)));
                    seen = count;
                }
            }
        }
    }

    /// One planned reparent to the next tablet, and everything that it must not have done looked at.
    async fn move_on(&mut self) -> Result<(), SandboxError> {
        let (from, to) = (self.primary.clone(), self.cluster.after(&self.primary));
        self.writes(AROUND).await?;
        let called = Instant::now();
        let answer = self.cluster.reparent(&to).await;
        let change = Move { from, to, called, answered: Instant::now() };
        if let Err(status) = answer {
            let reason = format!("the planned reparent to {} failed: {:?}: {}", change.to, status.code(), status.message());
            return Err(SandboxError::Wrong(vec![reason]));
        }
        self.primary = change.to.clone();
        self.cluster.settled(&self.primary, SETTLE_LIMIT).await?;
        let gap = self.judged(&change).await?;
        self.cluster.no_errant(&self.primary).await?;
        let call = (change.answered - change.called).as_millis();
        let total = self.acknowledged;
        self.say(&format!("{total:>8} acknowledged  primary moved: write gap {gap} ms, call {call} ms, 0 lost, 0 errant"));
        Ok(())
    }

    /// The write gap of a change of primary in milliseconds, when nothing was lost and there was never a second writer.
    async fn judged(&mut self, change: &Move) -> Result<u128, SandboxError> {
        self.writes_on(change).await?;
        let acks = self.writers.take();
        self.acknowledged += acks.len();
        let seconds = second_writers(&acks, std::slice::from_ref(change));
        refuse(seconds.is_empty(), || format!("two servers took writes at once: {seconds:?}"))?;
        let missing = lost(&acks, &self.cluster.tablet(&self.primary).mysqld).await?;
        refuse(missing.is_empty(), || format!("{} acknowledged writes are lost: {missing:?}", missing.len()))?;
        Ok(write_gap(&acks, change).unwrap_or_default().as_millis())
    }

    /// One fault of the primary. Nobody is called; what the elector saw, decided and did is told, and the old primary comes back.
    async fn lose(&mut self, fault: Fault) -> Result<(), SandboxError> {
        let from = self.primary.clone();
        self.writes(AROUND).await?;
        let called = Instant::now();
        self.say(fault.name());
        self.cluster.strike(&from, fault)?;
        let what = format!("another primary than {from}");
        let to = eventually(&what, FAILOVER_LIMIT, async || match self.cluster.declared_primary().await? {
            Some(now) if now != from => Ok(now),
            _ => Err(SandboxError::Wrong(vec![format!("{from} is still the primary")])),
        });
        let to = to.await?;
        let change = Move { from: from.clone(), to: to.clone(), called, answered: Instant::now() };
        self.primary = to;
        let gap = self.judged(&change).await?;
        if let Some(recovery) = self.cluster.last_failover().await? {
            self.say(&format!("  evidence: {}", recovery.evidence));
            self.say(&format!("  decision: {}, {} reparent, {} ms", recovery.code, recovery.kind, recovery.took_ms));
        }
        self.say(&format!("{:>8} acknowledged  write gap {gap} ms, 0 lost, never two writers", self.acknowledged));
        self.cluster.heal(&from, fault).await?;
        match self.cluster.returned(&from, &self.primary, RETURN_LIMIT).await? {
            None => self.say(&format!("  {from} is back as a replica")),
            Some(errant) => {
                self.say(&format!("  {from} is back with {errant}, never acknowledged: it gets an empty server"));
                self.cluster.rebuild(&from).await?;
            }
        }
        self.cluster.settled(&self.primary, RETURN_LIMIT).await
    }

    fn say(&self, text: &str) {
        println!("{:>7.1} s  {}  {text}", self.began.elapsed().as_secs_f64(), self.primary);
    }

    /// Waits until so many more writes are acknowledged.
    async fn writes(&self, more: usize) -> Result<(), SandboxError> {
        let target = self.writers.count() + more;
        let what = format!("writes acknowledged by {} for {KEYSPACE}/{SHARD}", self.primary);
        eventually(&what, WRITE_LIMIT, async || match self.writers.count() {
            count if count >= target => Ok(()),
            count => Err(format!("{} are missing", target - count)),
        })
        .await
    }

    /// Waits until the new primary has acknowledged some.
    async fn writes_on(&self, change: &Move) -> Result<(), SandboxError> {
        let what = format!("writes acknowledged by {}", change.to);
        eventually(&what, WRITE_LIMIT, async || {
            let count = self.writers.acks().iter().filter(|ack| ack.server == change.to.uid && ack.sent > change.called).count();
            if count >= AROUND { Ok(()) } else { Err(format!("{count} so far")) }
        })
        .await
    }
}

fn refuse(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), SandboxError> {
    if holds { Ok(()) } else { Err(SandboxError::Wrong(vec![otherwise()])) }
}
