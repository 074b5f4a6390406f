//! Settings that change while we run: the file is read again when it changes, and at SIGHUP.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{ConfigError, LIVE, Layers, Settings},
    metrics::Metrics,
    recover::Live,
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What may change, and why it does not.
pub struct Reload {
    layers: Layers,
    metrics: Arc<Metrics>,
    live: watch::Sender<Arc<Live>>,
    error: watch::Sender<Option<String>>,
    effective: watch::Sender<Arc<BTreeMap<String, String>>>,
    /// What the file held when it was last read.
    content: Option<Result<Option<String>, ConfigError>>,
    /// What only a restart changes, as it is in force.
    fixed: Option<BTreeSet<OsString>>,
}

/// What the settings in force are: the live ones, and the error of a file that could not be taken.
pub struct InForce {
    /// The settings that may change.
    pub live: watch::Receiver<Arc<Live>>,
    /// What is wrong with the file; `None` = nothing.
    pub error: watch::Receiver<Option<String>>,
    /// The value of every flag that is in force, by name; empty where the settings came from no command line.
    pub effective: watch::Receiver<Arc<BTreeMap<String, String>>>,
}

impl Reload {
    /// What is in force, and what follows the file if there is one.
    pub fn new(settings: &Settings, metrics: Arc<Metrics>) -> (InForce, Option<Self>) {
        let (live, error) = (watch::Sender::new(Arc::new(Live::from(settings))), watch::Sender::new(None));
        let at_start = settings.layers.as_ref().and_then(|layers| layers.effective(layers.read().ok()?.as_deref()).ok());
        let effective = watch::Sender::new(Arc::new(at_start.unwrap_or_default()));
        let in_force = InForce { live: live.subscribe(), error: error.subscribe(), effective: effective.subscribe() };
        let layers = settings.layers.clone().filter(|layers| layers.file().is_some());
        (in_force, layers.map(|layers| Self { layers, metrics, live, error, effective, content: None, fixed: None }))
    }

    /// Follows the file until it is dropped.
    pub async fn run(mut self) {
        // Without it, a change is still seen at the next look.
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = looks.tick() => false,
                () = asked_to_read(&mut hangup) => true,
            };
            let layers = self.layers.clone();
            let Ok(content) = tokio::task::spawn_blocking(move || layers.read()).await else { continue };
            if asked || self.content.as_ref() != Some(&content) {
                self.take(content.clone());
                self.content = Some(content);
            }
        }
    }

    /// Takes what the file holds, or keeps what is in force and says why.
    fn take(&mut self, content: Result<Option<String>, ConfigError>) {
        let values = content.as_ref().ok().and_then(|content| self.layers.effective(content.as_deref()).ok());
        let taken = content.and_then(|content| self.layers.settings(content.as_deref()));
        let error = taken.as_ref().err().map(ToString::to_string);
        self.metrics.settings_error(error.is_some());
        if let Some(error) = error.as_ref().filter(|error| self.error.borrow().as_ref() != Some(error)) {
            tracing::warn!(error, "the settings' file cannot be taken: the old settings stay in force");
        }
        self.error.send_replace(error);
        let Ok((settings, fixed)) = taken else { return };
        let changed_now = values.into_iter().flatten().filter(|(name, _)| LIVE.contains(&name.as_str()));
        self.effective.send_modify(|effective| Arc::make_mut(effective).extend(changed_now));
        if let Some(before) = self.fixed.replace(fixed.clone()).filter(|before| *before != fixed) {
            let changed: Vec<_> = before.symmetric_difference(&fixed).map(|arg| arg.to_string_lossy()).collect();
            tracing::info!(changed = changed.join(" "), "settings that take effect at the next start");
        }
        let new = Arc::new(Live::from(&settings));
        let changed = self.live.send_if_modified(|live| {
            let changed = **live != *new;
            *live = new.clone();
            changed
        });
        if changed {
            tracing::info!("settings changed");
        }
    }
}

async fn asked_to_read(hangup: &mut Option<Signal>) {
    let Some(hangup) = hangup else { return std::future::pending().await };
    if hangup.recv().await.is_none() {
        std::future::pending().await
    }
}
