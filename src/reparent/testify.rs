//! Making replicas testify that their primary is silent (safety rules, section 8).
//!
//! A tablet manager that knows the call listens for the primary's greeting itself. A vttablet does not: there the replica's IO thread is
//! stopped and started again, and what becomes of it tells. With `replica_net_timeout` at one second for the moment a silent primary costs
//! one second, and the stop that follows in an emergency costs nothing. The source of a replica is never changed here.
//!
//! The lock is kept until the verdict: no replica's source can change while its timeout is short, an emergency reparent follows without a
//! second lock, and whoever was bounced in vain is brought back before anybody else acts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Emergency, Promoted, ReparentError, Step,
    dba::{START_IO, STOP_IO, net_timeout},
    declared::Declared,
    journal::Stage,
    observed::RUNNING,
    run::Run,
    undo::STOPPED,
};
use crate::{
    pb::{
        replicationdata::{FullStatus, Status},
        topodata::Tablet,
    },
    shard::Greeting,
    tablet::{Call, TabletError, TabletErrorKind},
    topo::{TabletAlias, TopoError},
};

/// Given the testimonies: what emergency reparent is due, or why none is.
pub type Verdict = Arc<dyn Fn(BTreeMap<TabletAlias, Greeting>) -> BoxFuture<'static, Result<Emergency, String>> + Send + Sync>;

/// The shortened timeout: the least that MySQL takes.
const NET_TIMEOUT_S: u32 = 1;
/// A bounced thread has connected, or failed, by then: the timeout and its start.
const BOUNCE_LIMIT: Duration = Duration::from_millis(1300);
/// How long a witness listens.
const HEAR_LIMIT: Duration = Duration::from_secs(1);
/// Limit of the look at everybody before.
const LOOK_LIMIT: Duration = Duration::from_millis(400);
/// A tablet manager that does not know the witness's call has said so by then.
const UNKNOWN_CALL_LIMIT: Duration = Duration::from_millis(50);
/// By then a replica of a living primary is connected again. Only thereafter the last acknowledger loses its connection, too: commits
/// of a living primary do not wait for more than that.
const LAST_AFTER: Duration = Duration::from_millis(250);
/// Between two looks at a bounced thread.
const POLL: Duration = Duration::from_millis(30);
/// Limit of one statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);
/// How often a timeout is set back, and a thread brought back, before the next operation has to see to it.
const ATTEMPTS: u32 = 3;
/// How long a thread may take to connect to a primary that lives.
const CONNECT_LIMIT: Duration = Duration::from_millis(700);

/// What is asked: whose silence it is about, and who decides what follows.
pub(super) struct Hearing {
    pub of: TabletAlias,
    pub verdict: Verdict,
}

/// A replica that can be bounced.
#[derive(Clone)]
struct Replica {
    alias: TabletAlias,
    tablet: Tablet,
    /// Its variable's name.
    variable: &'static str,
    timeout_s: u32,
    is_acker: bool,
}

/// What was heard, and who was bounced for it.
#[derive(Default)]
struct Heard {
    greetings: BTreeMap<TabletAlias, Greeting>,
    bounced: Vec<Replica>,
}

/// The testimonies, and what the verdict makes of them.
pub(super) async fn testify(run: &mut Run, hearing: Hearing) -> Result<Promoted, ReparentError> {
    run.lock(super::emergency::ACTION.to_owned()).await?;
    let result = run.testify_under_lock(&hearing).await;
    run.settle_timeouts().await;
    run.unlock().await;
    result
}

impl Run {
    async fn testify_under_lock(&mut self, hearing: &Hearing) -> Result<Promoted, ReparentError> {
        let declared = Declared::read(self).await?;
        let heard = self.testimonies(&declared, &hearing.of).await?;
        let words: Vec<_> = heard.greetings.iter().map(|(alias, greeting)| format!("{alias}: {greeting}")).collect();
        self.say(format!("heard of {}: {}", hearing.of, words.join(", ")));
        let error = match (hearing.verdict)(heard.greetings.clone()).await {
            Ok(request) => match self.emergency_under_lock(&request).await {
                Ok(promoted) => return Ok(promoted),
                Err(error) => error,
            },
            Err(reason) => ReparentError::NotDue { shard: self.shard.clone(), reason },
        };
        // An emergency that has begun to stop replicas sees to them itself, and may have passed the point of no return. None was bounced
        // where a run before this one had.
        if !self.steps.iter().any(|(step, _)| *step == Step::Survey) {
            let back = heard.bounced.iter().map(|replica| self.bring_back(replica));
            for (replica, failed) in heard.bounced.iter().zip(join_all(back).await) {
                if let Err(reason) = failed {
                    self.say(format!("{} was asked and has not its source yet: {reason}", replica.alias));
                }
            }
        }
        Err(error)
    }

    async fn testimonies(&mut self, declared: &Declared, of: &TabletAlias) -> Result<Heard, ReparentError> {
        let Some(primary) = declared.tablet(of).cloned() else {
            return Err(ReparentError::NotDue { shard: self.shard.clone(), reason: format!("{of} has no record any more") });
        };
        let others: Vec<_> = declared.tablets.iter().filter(|(alias, _)| *alias != of).collect();
        let listening: Vec<_> = others.iter().map(|(alias, tablet)| ((*alias).clone(), self.listen(tablet, &primary))).collect();
        let looks = join_all(others.iter().map(|(alias, tablet)| async {
            let call = Call::read(LOOK_LIMIT);
            ((*alias).clone(), self.hands.tablets.full_status(tablet, call).await)
        }));
        let mut looks: BTreeMap<_, _> = looks.await.into_iter().collect();
        let mut heard = Heard::default();
        let mut candidates = Vec::new();
        let mut pending = Vec::new();
        for (alias, mut task) in listening {
            match timeout(UNKNOWN_CALL_LIMIT, &mut task).await {
                Err(_) => pending.push((alias, task)),
                Ok(Ok(Err(error))) if error.kind == TabletErrorKind::Unimplemented => {
                    let Some(tablet) = declared.tablet(&alias) else { continue };
                    let judged = looks.remove(&alias).map(|look| candidate(&alias, tablet, &primary, look));
                    match judged {
                        Some(Ok(replica)) => {
                            candidates.push(Replica { is_acker: declared.semi_sync_replica(of, &alias), ..replica });
                        }
                        Some(Err(greeting)) => drop(heard.greetings.insert(alias, greeting)),
                        None => {}
                    }
                }
                Ok(answer) => drop(heard.greetings.insert(alias, of_answer(answer))),
            }
        }
        let journal = self.read_journal().await?;
        if journal.as_ref().is_some_and(|journal| journal.stage != Stage::Finished) {
            // Past the point of no return nobody starts a thread towards the old primary.
            let cannot = || Greeting::CannotTell("a reparent before this one is not finished".to_owned());
            heard.greetings.extend(candidates.drain(..).map(|replica| (replica.alias, cannot())));
        }
        if !candidates.is_empty() {
            let journal = journal.unwrap_or_else(|| self.journal(Stage::Finished, of, None));
            self.shortened.extend(candidates.iter().map(|replica| (replica.alias.clone(), replica.timeout_s)));
            // Whoever finds this sets the timeouts back and starts the threads: a finished journal with a duty.
            self.intend(Step::Survey, &journal).await?;
        }
        let (bounced, heard_of) = tokio::join!(self.bounce_all(&candidates), join_all(pending.into_iter().map(awaited)));
        heard.greetings.extend(heard_of);
        for (replica, (greeting, restored)) in candidates.into_iter().zip(bounced) {
            heard.greetings.insert(replica.alias.clone(), greeting);
            match restored.as_ref().unwrap_or(&Ok(())) {
                Ok(()) => drop(self.shortened.remove(&replica.alias)),
                Err(reason) => self.warn(format!(
                    "{} of {} is {NET_TIMEOUT_S} s and could not be set back to {} s: {reason}; the next operation on the shard tries again",
                    replica.variable, replica.alias, replica.timeout_s
                )),
            }
            if restored.is_some() {
                heard.bounced.push(replica);
            }
        }
        Ok(heard)
    }

    fn listen(&self, tablet: &Tablet, of: &Tablet) -> JoinHandle<Result<Greeting, TabletError>> {
        let (tablets, tablet, of) = (self.hands.tablets.clone(), tablet.clone(), of.clone());
        let call = Call::read(HEAR_LIMIT + UNKNOWN_CALL_LIMIT * 2);
        self.hands.tasks.spawn(async move { tablets.hear(&tablet, &of, HEAR_LIMIT, call).await })
    }

    /// Everybody at once but for the last connected acknowledger, who is asked only if nobody else was greeted by then. With whether the
    /// timeout was set back, where it was touched.
    async fn bounce_all(&self, replicas: &[Replica]) -> Vec<(Greeting, Option<Result<(), String>>)> {
        let last = if replicas.len() > 1 { replicas.iter().rposition(|replica| replica.is_acker) } else { None };
        let greeted = CancellationToken::new();
        let bounces = replicas.iter().enumerate().map(|(place, replica)| {
            let greeted = &greeted;
            async move {
                if Some(place) == last && timeout(LAST_AFTER, greeted.cancelled()).await.is_ok() {
                    return (Greeting::CannotTell("it was not asked: another replica was greeted".to_owned()), None);
                }
                let greeting = match self.bounce(replica).await {
                    Ok(greeting) => greeting,
                    Err(error) => Greeting::CannotTell(error.to_string()),
                };
                if greeting == Greeting::Greeted {
                    greeted.cancel();
                }
                (greeting, Some(self.set_back(&replica.tablet, replica.variable, replica.timeout_s).await))
            }
        });
        join_all(bounces).await
    }

    async fn bounce(&self, replica: &Replica) -> Result<Greeting, TabletError> {
        self.statement(&replica.tablet, &format!("SET GLOBAL {} = {NET_TIMEOUT_S}", replica.variable)).await?;
        self.statement(&replica.tablet, STOP_IO).await?;
        self.statement(&replica.tablet, START_IO).await?;
        let end = Instant::now() + BOUNCE_LIMIT;
        while Instant::now() < end {
            let status = self.hands.tablets.replication_status(&replica.tablet, Call::read(LOOK_LIMIT)).await?;
            if let Some(greeting) = of_status(&status) {
                return Ok(greeting);
            }
            sleep(POLL).await;
        }
        Ok(Greeting::Silent)
    }

    async fn statement(&self, tablet: &Tablet, sql: &str) -> Result<(), TabletError> {
        self.hands.tablets.execute_fetch_as_dba(tablet, sql, 1, self.call(STATEMENT_LIMIT)).await.map(drop)
    }

    /// Sets the timeout back, and reads it.
    async fn set_back(&self, tablet: &Tablet, variable: &str, timeout_s: u32) -> Result<(), String> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            // Whether it took effect is read.
            let _answer = self.statement(tablet, &format!("SET GLOBAL {variable} = {timeout_s}")).await;
            match self.dba(tablet, &format!("SELECT @@global.{variable}")).await.map(|row| row.first().cloned()) {
                Ok(Some(value)) if value == timeout_s.to_string() => return Ok(()),
                Ok(value) => reason = format!("it reads {}", value.unwrap_or_default()),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    /// A thread that was started with the short timeout gives up an idle source after a second, and one that failed tries again only
    /// after ten: it is stopped and started until it has its source.
    async fn bring_back(&self, replica: &Replica) -> Result<(), String> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            match self.restart(&replica.tablet).await {
                Ok(true) => return Ok(()),
                Ok(false) => reason = "it is connecting".to_owned(),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    async fn restart(&self, tablet: &Tablet) -> Result<bool, TabletError> {
        self.statement(tablet, STOP_IO).await?;
        self.statement(tablet, START_IO).await?;
        let end = Instant::now() + CONNECT_LIMIT;
        while Instant::now() < end {
            let status = self.hands.tablets.replication_status(tablet, Call::read(LOOK_LIMIT)).await?;
            match status.io_state {
                RUNNING => return Ok(true),
                _ if !status.last_io_error.is_empty() => return Ok(false),
                _ => sleep(POLL).await,
            }
        }
        Ok(false)
    }

    /// What a run before this one has left short is set back, and its threads started. It died with its lease, which is longer than any
    /// of its statements could have taken since.
    pub async fn take_over_timeouts(&mut self) {
        // A journal that cannot be read is reported by whoever needs it.
        let Ok(Some(journal)) = self.read_journal().await else { return };
        let Ok(left) = journal.net_timeouts() else { return };
        self.shortened = left.clone();
        for (alias, timeout_s) in left {
            match self.take_over(&alias, timeout_s, journal.stage == Stage::Finished).await {
                Ok(()) => {
                    self.shortened.remove(&alias);
                    self.say(format!(
                        "{alias}: replica_net_timeout is {timeout_s} s again, as before somebody was stopped asking it"
                    ));
                }
                Err(reason) => {
                    self.warn(format!("{alias}: replica_net_timeout is still to be set back to {timeout_s} s: {reason}"))
                }
            }
        }
        if self.shortened != journal.net_timeouts().unwrap_or_default()
            && let Err(error) = self.intend(Step::Survey, &journal).await
        {
            self.warn(format!("that timeouts were set back is not written down: {error}"));
        }
    }

    async fn take_over(&self, alias: &TabletAlias, timeout_s: u32, is_finished: bool) -> Result<(), String> {
        let tablet = match self.hands.topo.tablet(alias).await {
            Ok(tablet) => tablet.value,
            // Nothing is left to be set back.
            Err(TopoError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let status =
            self.hands.tablets.full_status(&tablet, Call::read(STATEMENT_LIMIT)).await.map_err(|error| error.to_string())?;
        self.set_back(&tablet, net_timeout(&status.version), timeout_s).await?;
        let Some(source) = status.replication_status.map(|status| (status.source_host, status.source_port)) else {
            return Ok(());
        };
        // A thread that runs may have been started with the short timeout. Towards another one than the primary none is started.
        if !is_finished || source != self.declared_source().await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        self.restart(&tablet).await.map(drop).map_err(|error| error.to_string())
    }

    /// Where the MySQL server of the primary is that the shard record names; an empty name where it names nobody.
    async fn declared_source(&self) -> Result<(String, i32), TopoError> {
        let shard = self.hands.topo.shard(&self.shard).await?.value;
        let Some(alias) = shard.primary_alias.filter(|alias| !alias.cell.is_empty()) else { return Ok((String::new(), 0)) };
        let primary = self.hands.topo.tablet(&TabletAlias { cell: alias.cell, uid: alias.uid }).await?.value;
        Ok((primary.mysql_hostname, primary.mysql_port))
    }

    /// Writes down that every timeout is as it was, where nothing that was written since says so.
    async fn settle_timeouts(&mut self) {
        let Ok(Some(journal)) = self.read_journal().await else { return };
        if journal.net_timeouts().is_ok_and(|written| written != self.shortened)
            && let Err(error) = self.intend(Step::Survey, &journal).await
        {
            self.warn(format!("that timeouts were set back is not written down: {error}"));
        }
    }
}

async fn awaited((alias, task): (TabletAlias, JoinHandle<Result<Greeting, TabletError>>)) -> (TabletAlias, Greeting) {
    (alias, of_answer(task.await))
}

fn of_answer(answer: Result<Result<Greeting, TabletError>, tokio::task::JoinError>) -> Greeting {
    match answer {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(error)) => Greeting::CannotTell(error.to_string()),
        Err(error) => Greeting::CannotTell(error.to_string()),
    }
}

/// Whether a replica can be bounced; else what its own status says already.
fn candidate(
    alias: &TabletAlias,
    tablet: &Tablet,
    of: &Tablet,
    look: Result<FullStatus, TabletError>,
) -> Result<Replica, Greeting> {
    let full = look.map_err(|error| Greeting::CannotTell(error.to_string()))?;
    let variable = net_timeout(&full.version);
    let cannot = |why: &str| Greeting::CannotTell(why.to_owned());
    let status = full.replication_status.ok_or_else(|| cannot("it is no replica"))?;
    if (&status.source_host, status.source_port) != (&of.mysql_hostname, of.mysql_port) {
        return Err(cannot("it follows another server"));
    }
    let timeout_s = full.replication_configuration.map_or(0, |configuration| configuration.replica_net_timeout);
    match (status.io_state, u32::try_from(timeout_s)) {
        (STOPPED, _) => Err(cannot("its IO thread was stopped by somebody")),
        (RUNNING, Ok(timeout_s)) if timeout_s > 0 => {
            Ok(Replica { alias: alias.clone(), tablet: tablet.clone(), variable, timeout_s, is_acker: false })
        }
        (RUNNING, _) => Err(cannot("its replica_net_timeout is not known")),
        // A stop would wait two seconds for such a thread.
        _ => Err(of_status(&status).unwrap_or_else(|| cannot("its IO thread is connecting"))),
    }
}

/// What an IO thread's state says; `None` = nothing yet. The words are MySQL's, with the system's number in parentheses.
fn of_status(status: &Status) -> Option<Greeting> {
    let words = status.last_io_error.as_str();
    let says = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
    match status.io_state {
        RUNNING => Some(Greeting::Greeted),
        _ if words.is_empty() => None,
        _ if says(&["(111)", "Connection refused"]) => Some(Greeting::Refused),
        _ if says(&["Too many connections"]) => Some(Greeting::TooManyConnections),
        _ if says(&["Can't connect", "Lost connection"]) => Some(Greeting::Silent),
        // It was answered: an account that is refused, a binary log that is gone.
        _ => Some(Greeting::Greeted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(io_state: i32, words: &str) -> Option<Greeting> {
        of_status(&Status { io_state, last_io_error: words.to_owned(), ..Status::default() })
    }

    #[test]
    fn an_io_thread_tells_by_its_state_and_by_mysqls_words() {
        let attempt = "Error connecting to source 'vt_repl@10.0.0.1:3306'. This was attempt 1/86400. Message: ";
        assert_eq!(status(RUNNING, ""), Some(Greeting::Greeted));
        assert_eq!(status(2, ""), None, "it is still trying");
        let says = |words: &str| status(2, &format!("{attempt}{words}"));
        assert_eq!(says("Can't connect to MySQL server on '10.0.0.1:3306' (111)"), Some(Greeting::Refused));
        assert_eq!(says("Can't connect to MySQL server on '10.0.0.1:3306' (110)"), Some(Greeting::Silent));
        assert_eq!(says("Lost connection to MySQL server at 'reading initial communication packet'"), Some(Greeting::Silent));
        assert_eq!(says("Too many connections"), Some(Greeting::TooManyConnections));
        assert_eq!(says("Access denied for user 'vt_repl'"), Some(Greeting::Greeted), "it was answered");
    }
}
