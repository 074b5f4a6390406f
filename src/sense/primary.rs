//! A declared primary is watched more closely than others: asked several times a second whether it lives, heard through its tablet's health
//! stream, and over a connection of our own where there is an account. Each way runs by itself: a silent one holds up no other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};

use super::{observed::Observed, rhythm::Rhythm, shard::Shard, world::World};
use crate::{
    mysql::probe::{DirectFailure, DirectLink, DirectMysql},
    pb::{query::StreamHealthResponse, topodata::Tablet},
    tablet::{Call, HealthStream, TabletError, TabletErrorKind, mysql_failure},
    topo::TabletAlias,
};

/// Limit of one question whether a primary lives.
const LIVENESS_LIMIT: Duration = Duration::from_millis(500);
/// While one fails it is asked that often, so that a silent second is measured as one ...
const SUSPICIOUS_INTERVAL: Duration = Duration::from_millis(150);
/// ... and no longer than that: by then it was decided about.
const SUSPICIOUS_FOR: Duration = Duration::from_secs(10);
/// Questions to one primary that may be unanswered at a time: as many as its limit has room for.
const UNANSWERED_MAX: usize = 4;
/// Pauses between attempts to get a health stream or a connection of our own.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A tablet manager without health streams gets them with its next release, not before.
const UNIMPLEMENTED_FOR: Duration = Duration::from_secs(600);
/// How often a connection of our own is asked.
const DIRECT_INTERVAL: Duration = Duration::from_millis(250);
/// Limit of a ping and of a login.
const DIRECT_LIMIT: Duration = Duration::from_millis(500);

/// How often the settings are read that `FullStatus` does not show, and how soon again when that failed.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(60);
const SETTINGS_AGAIN: Duration = Duration::from_secs(5);
/// Both spellings, of after and before MySQL 8.0.26: a server knows one of them, or none without the plugin.
const WAIT_SETTINGS: [&str; 2] = [
    "SELECT @@global.rpl_semi_sync_source_wait_point, @@global.rpl_semi_sync_source_wait_no_replica",
    "SELECT @@global.rpl_semi_sync_master_wait_point, @@global.rpl_semi_sync_master_wait_no_slave",
];
/// MySQL's error number for a variable that does not exist.
const UNKNOWN_VARIABLE: u32 = 1193;

/// One primary and who watches it.
pub(super) struct PrimaryWatch {
    world: Arc<World>,
    shard: Arc<Shard>,
    alias: TabletAlias,
}

impl PrimaryWatch {
    pub fn new(world: Arc<World>, shard: Arc<Shard>, alias: TabletAlias) -> Self {
        world.primaries.fetch_add(1, Ordering::Relaxed);
        Self { world, shard, alias }
    }

    /// Never ends by itself.
    pub async fn run(self) {
        tokio::join!(self.ask(), self.listen(), self.hold(), self.read_settings());
    }

    /// Whether it lives, again and again; a question does not wait for the one before.
    async fn ask(&self) {
        let mut unanswered = FuturesUnordered::new();
        let mut due = Rhythm::of(&self.shard.id, self.world.epoch, self.world.liveness_interval()).after(Instant::now());
        loop {
            tokio::select! {
                () = sleep_until(due) => {
                    let now = Instant::now();
                    // Whatever was answered since counts as well.
                    let next = self.next(now);
                    if next > now {
                        due = next;
                        continue;
                    }
                    let room = unanswered.len() < UNANSWERED_MAX && self.world.may_ask_liveness(now);
                    self.world.metrics.sense.liveness_question(!room);
                    if room {
                        unanswered.push(self.is_alive());
                    }
                    due = now + self.interval(now);
                }
                Some(()) = unanswered.next() => {
                    let now = Instant::now();
                    due = due.min(now + self.interval(now));
                }
            }
        }
    }

    /// When it has to be asked next.
    fn next(&self, now: Instant) -> Instant {
        let seen = self.shard.last_good(&self.alias).filter(|_| self.suspicious(now).is_none());
        seen.map_or(now, |seen| seen + self.world.liveness_interval())
    }

    fn interval(&self, now: Instant) -> Duration {
        let usual = self.world.liveness_interval();
        if self.suspicious(now).is_some() { usual.min(SUSPICIOUS_INTERVAL) } else { usual }
    }

    fn suspicious(&self, now: Instant) -> Option<Instant> {
        self.shard.suspicious_since(&self.alias).filter(|since| now.saturating_duration_since(*since) < SUSPICIOUS_FOR)
    }

    async fn is_alive(&self) {
        let Some(record) = self.shard.record(&self.alias) else { return };
        let limit = LIVENESS_LIMIT.min(self.world.settings.remote_operation_timeout);
        let sent = Instant::now();
        let answer = self.world.tablets.primary_status(&record, Call::read(limit)).await;
        if answer.as_ref().is_err_and(|error| error.lost.is_some_and(|class| self.world.is_noticed_late(sent, limit, class))) {
            return;
        }
        self.observe(&record, |tablet, now| match &answer {
            Ok(_) => tablet.lives(sent),
            Err(error) => tablet.failed(sent, now, error),
        });
    }

    /// The semi-sync settings that `FullStatus` does not show, seldom: nobody changes them.
    async fn read_settings(&self) {
        let mut pause = SETTINGS_AGAIN;
        loop {
            sleep(pause).await;
            // Not before it has said everything else.
            let Some(record) = self.shard.record(&self.alias).filter(|_| self.shard.last_good(&self.alias).is_some()) else {
                continue;
            };
            let sent = Instant::now();
            pause = match self.are_settings_right(&record).await {
                Some(are_right) => {
                    self.shard.semi_sync_seen(&self.alias, are_right, sent);
                    SETTINGS_INTERVAL
                }
                None => SETTINGS_AGAIN,
            };
        }
    }

    /// `None` when it does not say.
    async fn are_settings_right(&self, record: &Tablet) -> Option<bool> {
        let call = Call::read(self.world.ask_limit());
        for sql in WAIT_SETTINGS {
            match self.world.tablets.execute_fetch_as_dba(record, sql, 1, call).await {
                Ok(answer) => {
                    let row = answer.rows.into_iter().next()?;
                    return Some(
                        ["AFTER_SYNC1", "AFTER_SYNCON"].iter().any(|right| row.values.eq_ignore_ascii_case(right.as_bytes())),
                    );
                }
                Err(error) if error.mysql_errno().is_some_and(|found| found.errno == UNKNOWN_VARIABLE) => {}
                Err(_) => return None,
            }
        }
        Some(false)
    }

    /// Takes in something seen, and asks everybody where it is alarming.
    fn observe(&self, record: &Tablet, observe: impl FnOnce(&mut Observed, Instant) -> super::observed::Effect) {
        if self.shard.observe(&self.alias, record, observe) {
            self.world.emergency(&self.shard);
        }
    }

    /// Its health stream, for as long as there is one.
    async fn listen(&self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let Some(record) = self.shard.record(&self.alias) else { return };
            let opened = self.world.tablets.stream_health(&record, Call::read(self.world.ask_limit())).await;
            backoff = match opened {
                Ok(stream) => {
                    let began = Instant::now();
                    self.follow(&record, stream).await;
                    // One that ends at once is no better than none.
                    if began.elapsed() < BACKOFF_MAX { (backoff * 2).min(BACKOFF_MAX) } else { BACKOFF_MIN }
                }
                Err(TabletError { kind: TabletErrorKind::Unimplemented, .. }) => UNIMPLEMENTED_FOR,
                // Whether it lives is asked elsewhere, and more often.
                Err(_) => (backoff * 2).min(BACKOFF_MAX),
            };
            sleep(backoff).await;
            backoff = backoff.min(BACKOFF_MAX);
        }
    }

    async fn follow(&self, record: &Tablet, mut stream: HealthStream) {
        let mut well = true;
        while let Some(message) = stream.next().await {
            match message {
                Ok(health) => well = self.heard(record, &health, well),
                Err(error) => {
                    self.observe(record, |tablet, now| tablet.hung_up(now, &error));
                    self.world.emergency(&self.shard);
                    return;
                }
            }
        }
    }

    /// One message; says whether the tablet is well.
    fn heard(&self, record: &Tablet, health: &StreamHealthResponse, was_well: bool) -> bool {
        let words = health.realtime_stats.as_ref().map(|stats| stats.health_error.as_str()).unwrap_or_default();
        if let Some(class) = mysql_failure(words) {
            self.observe(record, |tablet, now| tablet.complains(now, class, words));
        }
        let well = health.serving && words.is_empty();
        if was_well && !well {
            self.world.emergency(&self.shard);
        }
        well
    }

    /// A connection of our own to its MySQL, where there is an account.
    async fn hold(&self) {
        let Some(direct) = self.world.direct.clone() else { return };
        let mut held: Option<Box<dyn DirectLink>> = None;
        let mut backoff = DIRECT_INTERVAL;
        loop {
            let Some(record) = self.shard.record(&self.alias) else { return };
            let sent = Instant::now();
            let failed = match self.touch(&*direct, &record, &mut held, sent + DIRECT_LIMIT).await {
                Ok(()) => {
                    self.observe(&record, |tablet, _| tablet.direct_good(sent));
                    backoff = DIRECT_INTERVAL;
                    sleep_until(sent + DIRECT_INTERVAL).await;
                    continue;
                }
                Err(failed) => failed,
            };
            let was_held = held.take().is_some();
            if !self.world.is_noticed_late(sent, DIRECT_LIMIT, failed.class) {
                self.observe(&record, |tablet, now| tablet.direct_failed(sent, now, failed.class, &failed.words));
            }
            // A lost connection says less than the attempt to get a new one, which is made at once.
            if !was_held {
                backoff = match self.suspicious(Instant::now()) {
                    Some(_) => SUSPICIOUS_INTERVAL,
                    None => (backoff * 2).min(BACKOFF_MAX),
                };
                sleep_until(sent + backoff).await;
            }
        }
    }

    async fn touch(
        &self,
        direct: &dyn DirectMysql,
        record: &Tablet,
        held: &mut Option<Box<dyn DirectLink>>,
        deadline: Instant,
    ) -> Result<(), DirectFailure> {
        match held {
            Some(link) => link.ping(deadline).await,
            None => {
                *held = Some(direct.connect(record, deadline).await?);
                Ok(())
            }
        }
    }
}

impl Drop for PrimaryWatch {
    fn drop(&mut self) {
        self.world.primaries.fetch_sub(1, Ordering::Relaxed);
    }
}
