//! `vtelector doctor`: with the settings of `serve`, tries everything that `serve` will need, beside a running elector or before one, and
//! says what to change. It changes nothing but a key of its own, which it takes away again.

mod arithmetic;
mod certificates;
mod check;
mod etcd;
mod server;
mod tablets;

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use crate::{
    config::{ServeArgs, Settings},
    topo::Topo,
};
use check::{Check, Verdict, lines};

/// Longest wait for one endpoint, tablet or server.
const LIMIT: Duration = Duration::from_secs(5);

/// What the doctor is told.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// The settings that are looked at: those of `vtelector serve`, with its file and its environment.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints one line a check. Exit code 1 when one has failed.
pub async fn run(args: &DoctorArgs, settings: &Settings) -> ExitCode {
    let checks = examine(settings, &flags(args)).await;
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    let text = if args.json { serde_json::to_string_pretty(&checks).unwrap_or_default() } else { lines(&checks) };
    // A reader that has gone away, as `head` does, changes nothing.
    let _ = writeln!(std::io::stdout(), "{text}");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The value of every flag, by name.
fn flags(args: &DoctorArgs) -> BTreeMap<String, String> {
    let layers = args.serve.layers.as_ref();
    layers.and_then(|layers| layers.effective(layers.read().ok()?.as_deref()).ok()).unwrap_or_default()
}

async fn examine(settings: &Settings, flags: &BTreeMap<String, String>) -> Vec<Check> {
    let mut checks = arithmetic::checks(settings);
    checks.extend(certificates::checks(flags, jiff::Timestamp::now().as_second()));
    checks.extend(etcd::global(settings).await);
    let topo = match Topo::connect(&settings.topo).await {
        Ok(topo) => topo,
        Err(error) => {
            checks.push(Check::fail("topology", error.to_string(), "without it nothing else can be looked at"));
            return checks;
        }
    };
    checks.extend(etcd::cells(&topo, settings).await);
    checks.extend(tablets::checks(&topo, settings).await);
    topo.shutdown(LIMIT).await;
    checks
}
