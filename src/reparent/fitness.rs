//! Is the elect fit to be primary: its semi-sync settings and its clock (safety rules, section 5).

use std::time::Duration;

use super::{
    ReparentError,
    dba::{CLOCK, IS_OFFLINE, Spelling, first_row, is_unknown_variable},
    declared::{Declared, Term},
    run::Run,
};
use crate::{
    pb::topodata::Tablet,
    tablet::{Call, TabletError, TabletManager},
    topo::TabletAlias,
};

/// What Vitess ships: a primary without ackers waits for them for ever.
const TIMEOUT_MS: u64 = 1_000_000_000_000_000_000;
/// The slowest clock that is waited for; further behind, it is broken.
const CLOCK_LAG_MAX: Duration = Duration::from_secs(5);

/// The settings as they stand.
struct Settings {
    spelling: Spelling,
    timeout_ms: u64,
    wait_no_replica: bool,
    after_sync: bool,
    wait_count: usize,
}

impl Settings {
    /// The statement that puts right what is not; `None` when all is well. More ackers than the policy needs are left alone.
    fn repair(&self, wait_count: usize) -> Option<String> {
        let names = self.spelling;
        let mut sets = Vec::new();
        if self.timeout_ms < TIMEOUT_MS {
            sets.push(format!("GLOBAL {} = {TIMEOUT_MS}", names.timeout()));
        }
        if !self.wait_no_replica {
            sets.push(format!("GLOBAL {} = ON", names.wait_no_replica()));
        }
        if !self.after_sync {
            sets.push(format!("GLOBAL {} = 'AFTER_SYNC'", names.wait_point()));
        }
        if self.wait_count < wait_count {
            sets.push(format!("GLOBAL {} = {wait_count}", names.wait_count()));
        }
        (!sets.is_empty()).then(|| format!("SET {}", sets.join(", ")))
    }
}

/// What was read of a tablet that may become primary.
pub(super) struct Reading {
    settings: Result<Option<Settings>, TabletError>,
    clock: Result<Vec<String>, TabletError>,
    /// Whether its clients are cut off: it was fenced as a primary of old, and nobody has lifted that.
    offline: bool,
}

/// Reads settings and clock. Nothing is changed.
pub(super) async fn read(tablets: &dyn TabletManager, tablet: &Tablet, call: Call) -> Reading {
    let clock = async { Ok(first_row(&tablets.execute_fetch_as_dba(tablet, CLOCK, 1, call).await?)) };
    let offline = async {
        let answer = tablets.execute_fetch_as_dba(tablet, IS_OFFLINE, 1, call).await;
        answer.is_ok_and(|row| first_row(&row).first().is_some_and(|value| matches!(value.as_str(), "1" | "ON")))
    };
    let (settings, clock, offline) = tokio::join!(semi_sync_settings(tablets, tablet, call), clock, offline);
    Reading { settings, clock, offline }
}

/// The settings, or `None` when neither spelling of the plugin is loaded.
async fn semi_sync_settings(tablets: &dyn TabletManager, tablet: &Tablet, call: Call) -> Result<Option<Settings>, TabletError> {
    for spelling in Spelling::ALL {
        let names = [spelling.timeout(), spelling.wait_no_replica(), spelling.wait_point(), spelling.wait_count()];
        let sql = format!("SELECT {}", names.map(|name| format!("@@global.{name}")).join(", "));
        let row = match tablets.execute_fetch_as_dba(tablet, &sql, 1, call).await {
            Err(error) if is_unknown_variable(&error) => continue,
            other => first_row(&other?),
        };
        let value = |index: usize| row.get(index).map(String::as_str).unwrap_or_default();
        return Ok(Some(Settings {
            spelling,
            timeout_ms: value(0).parse().unwrap_or(0),
            wait_no_replica: matches!(value(1), "1" | "ON"),
            after_sync: value(2).eq_ignore_ascii_case("AFTER_SYNC"),
            wait_count: value(3).parse().unwrap_or(0),
        }));
    }
    Ok(None)
}

impl Run {
    /// Checks the elect and repairs what is safe to repair. A tablet that cannot be asked such things is taken as it is.
    pub async fn check_fitness(&mut self, declared: &Declared, elect: &TabletAlias) -> Result<(), ReparentError> {
        let Some(tablet) = declared.tablet(elect) else { return Ok(()) };
        let reading = read(&*self.hands.tablets, tablet, self.short()).await;
        self.judge_fitness(declared, elect, reading).await
    }

    /// The same with what was read a moment ago.
    pub async fn judge_fitness(
        &mut self,
        declared: &Declared,
        elect: &TabletAlias,
        reading: Reading,
    ) -> Result<(), ReparentError> {
        let Some(tablet) = declared.tablet(elect) else { return Ok(()) };
        // Replicas could not connect to it, and its first commit would wait for ever.
        if reading.offline {
            let unfit = |reason: String| ReparentError::Unfit { elect: elect.clone(), reason: format!("offline_mode: {reason}") };
            self.lift(elect, tablet).await.map_err(unfit)?;
            self.say(format!("{elect} was in offline_mode, which an earlier fence had left on; it is lifted"));
        }
        if declared.semi_sync_primary(elect) {
            self.check_semi_sync(declared, elect, tablet, reading.settings).await?;
        }
        match declared.newest_term() {
            Some(newest) => self.check_clock(elect, reading.clock, newest).await,
            None => Ok(()),
        }
    }

    /// The semi-sync settings of a tablet that is primary, or is made writable: read, and put right.
    pub async fn repair_semi_sync(&mut self, declared: &Declared, alias: &TabletAlias) -> Result<(), ReparentError> {
        let Some(tablet) = declared.tablet(alias) else { return Ok(()) };
        let settings = semi_sync_settings(&*self.hands.tablets, tablet, self.short()).await;
        self.check_semi_sync(declared, alias, tablet, settings).await
    }

    /// Whether those settings are right as they stand.
    pub async fn semi_sync_is_right(&self, declared: &Declared, alias: &TabletAlias) -> Result<bool, ReparentError> {
        let Some(tablet) = declared.tablet(alias) else { return Ok(true) };
        let needed = declared.policy.acks_needed(&declared.member(alias));
        let settings = semi_sync_settings(&*self.hands.tablets, tablet, self.short()).await;
        let settings = settings.map_err(|source| ReparentError::TabletUnreachable { source })?;
        Ok(settings.is_some_and(|settings| settings.repair(needed).is_none()))
    }

    async fn check_semi_sync(
        &mut self,
        declared: &Declared,
        elect: &TabletAlias,
        tablet: &Tablet,
        settings: Result<Option<Settings>, TabletError>,
    ) -> Result<(), ReparentError> {
        let needed = declared.policy.acks_needed(&declared.member(elect));
        let unfit = |reason: String| ReparentError::Unfit { elect: elect.clone(), reason };
        let settings = match settings {
            Ok(Some(settings)) => settings,
            Ok(None) => {
                let policy = declared.policy.name();
                return Err(unfit(format!("its MySQL has no semi-sync plugin, which {policy} needs; install it")));
            }
            Err(error) => {
                self.say(format!("the semi-sync settings of {elect} cannot be read: {error}"));
                return Ok(());
            }
        };
        let Some(repair) = settings.repair(needed) else { return Ok(()) };
        self.verify().await?;
        self.warn(format!("{elect} has semi-sync settings that could lose writes; repairing: {repair}"));
        let repaired = async {
            self.dba(tablet, &repair).await?;
            semi_sync_settings(&*self.hands.tablets, tablet, self.short()).await
        };
        match repaired.await {
            Ok(Some(settings)) if settings.repair(needed).is_none() => Ok(()),
            Ok(_) => Err(unfit(format!("its semi-sync settings do not stay right; run on its MySQL: {repair}"))),
            Err(error) => {
                Err(unfit(format!("its semi-sync settings could not be put right ({error}); run on its MySQL: {repair}")))
            }
        }
    }

    /// A term is the promoted tablet's own clock, and the newest term wins everywhere: with a clock behind the newest known term, a
    /// primary just promoted would step down by itself.
    async fn check_clock(
        &mut self,
        elect: &TabletAlias,
        clock: Result<Vec<String>, TabletError>,
        newest: Term,
    ) -> Result<(), ReparentError> {
        let row = match clock {
            Ok(row) => row,
            Err(error) => {
                self.say(format!("the clock of {elect} cannot be read: {error}"));
                return Ok(());
            }
        };
        let Some(clock) = row.first().and_then(|text| parse_clock(text)) else {
            self.say(format!("the clock of {elect} cannot be understood: {row:?}"));
            return Ok(());
        };
        let newest = Duration::new(newest.0.max(0).unsigned_abs(), newest.1.clamp(0, 999_999_999).unsigned_abs());
        let behind = newest.saturating_sub(clock);
        if behind.is_zero() {
            return Ok(());
        }
        if behind > CLOCK_LAG_MAX {
            let reason = format!(
                "its clock is {:.1} s behind the start of the newest primary term, so it would step down at once; set its clock right",
                behind.as_secs_f64()
            );
            return Err(ReparentError::Unfit { elect: elect.clone(), reason });
        }
        self.warn(format!("the clock of {elect} is {} ms behind the newest primary term; waiting it out", behind.as_millis()));
        tokio::time::sleep(behind + Duration::from_millis(1)).await;
        Ok(())
    }
}

/// `2026-11-21 04:45:35.123456` as time since 1970.
fn parse_clock(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(str::parse::<i64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let seconds = ((days_since_1970(year, month, day)? * 24 + hour) * 60 + minute) * 60 + second;
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

/// Days of the Gregorian calendar; years are counted from March, so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_this_year = year * 365 + year / 4 - year / 100 + year / 400;
    Some(before_this_year + (153 * month + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_read_to_the_microsecond() {
        assert_eq!(parse_clock("1970-01-01 00:00:00"), Some(Duration::ZERO));
        assert_eq!(parse_clock("2000-02-29 12:00:00.000001"), Some(Duration::new(951_825_600, 1000)));
        assert_eq!(parse_clock("2026-11-21 04:45:35.25"), Some(Duration::new(1_795_236_335, 250_000_000)));
        for text in ["", "now", "2026-13-01 00:00:00", "2026-11-21", "2026-11-21 04:45"] {
            assert_eq!(parse_clock(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_is_wrong_is_repaired() {
        let mut settings = Settings {
            spelling: Spelling::Source,
            timeout_ms: TIMEOUT_MS,
            wait_no_replica: true,
            after_sync: true,
            wait_count: 2,
        };
        assert_eq!(settings.repair(1), None);
        settings.timeout_ms = 10_000;
        settings.wait_count = 0;
        let expected = "SET GLOBAL rpl_semi_sync_source_timeout = 1000000000000000000, GLOBAL rpl_semi_sync_source_wait_for_replica_count = 1";
        assert_eq!(settings.repair(1).as_deref(), Some(expected));
    }
}
