//! What is wrong and what was decided about it, as it stands on the board.

use std::{
    cmp::Reverse,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Context, events, input, ledger, refusal::Refusal};
use crate::{
    diagnose::{Priority, Problem},
    pb::{
        vtelector::{
            self as pb, DecisionsRequest, DecisionsResponse, LeftAlone, ProblemsRequest, ProblemsResponse, WatchEventsRequest,
            event::What,
        },
        vttime,
    },
    recover::board::{Blocked, DecisionRecord, Event, Filter, Happened, Held},
    topo::{ShardId, TopoError},
};

/// Readers of events at the same time; one more is refused.
pub const WATCHERS_MAX: usize = 64;
/// Decisions in one answer: a fleet remembers a hundred thousand, which no message holds.
const DECISIONS_LISTED_MAX: usize = 1000;
/// A question that another elector answers out of its memory.
const FORWARDED_LIMIT: Duration = Duration::from_secs(2);

/// Events, or why there are no more of them.
pub type Events = Pin<Box<dyn Stream<Item = Result<pb::Event, Status>> + Send>>;

/// What is wrong now, and what is done about it: with our shards, and with those of the other electors.
pub async fn problems(context: &Context, request: ProblemsRequest) -> Result<ProblemsResponse, Refusal> {
    let filter = filter(context, &request.keyspace, &request.shard).await?;
    let entries = context.board.snapshot(&filter);
    let mut answer = ProblemsResponse { shards: entries.len() as u64, ..ProblemsResponse::default() };
    for (shard, entry) in &entries {
        answer.problems.extend(entry.problems.iter().map(|open| problem(shard, &open.problem, Some(open.since))));
        if !entry.problems.is_empty() {
            answer.decisions.push(held(shard, &entry.decision));
        }
    }
    if request.only_mine {
        return Ok(answer);
    }
    let id = |keyspace: &str, shard: &str| ShardId { keyspace: keyspace.to_owned(), shard: shard.to_owned() };
    let (heard, mine) = (context.others.problems(&filter).await, entries.into_keys().collect());
    answer.problems.extend(heard.merged(&mine, |said| &said.problems, |found| id(&found.keyspace, &found.shard)));
    answer.decisions.extend(heard.merged(&mine, |said| &said.decisions, |found| id(&found.keyspace, &found.shard)));
    answer.shards += heard.sum(|said| said.shards);
    answer.silent = heard.silent.clone();
    // Stable: the most urgent of a shard stays first.
    answer.problems.sort_by(|one, other| (&one.keyspace, &one.shard).cmp(&(&other.keyspace, &other.shard)));
    answer.decisions.sort_by(|one, other| (&one.keyspace, &one.shard).cmp(&(&other.keyspace, &other.shard)));
    Ok(answer)
}

/// The last decisions, about our shards and those of the other electors. Those about one shard come from whoever looks after it.
pub async fn decisions(context: &Context, request: DecisionsRequest) -> Result<DecisionsResponse, Refusal> {
    let filter = filter(context, &request.keyspace, &request.shard).await?;
    let entries = context.board.snapshot(&filter);
    if entries.is_empty() && !filter.shard.is_empty() && !request.only_mine {
        let shard = ShardId { keyspace: filter.keyspace, shard: filter.shard };
        if !context.senses.shards().borrow().contains(&shard) && !context.peers.others().is_empty() {
            return context.others.owner(&shard, DecisionsRequest { only_mine: true, ..request }, FORWARDED_LIMIT).await;
        }
        return Ok(DecisionsResponse::default());
    }
    let mine = entries.iter().flat_map(|(shard, entry)| entry.decisions.iter().map(move |decision| held(shard, decision)));
    let mut decisions: Vec<pb::DecisionRecord> = mine.collect();
    let mut answer =
        DecisionsResponse { count: decisions.len() as u64, shards: entries.len() as u64, ..DecisionsResponse::default() };
    if !request.only_mine && filter.shard.is_empty() {
        let (heard, mine) = (context.others.decisions(&filter).await, entries.into_keys().collect());
        let id = |found: &pb::DecisionRecord| ShardId { keyspace: found.keyspace.clone(), shard: found.shard.clone() };
        decisions.extend(heard.merged(&mine, |said| &said.decisions, id));
        answer.count += heard.sum(|said| said.count);
        answer.shards += heard.sum(|said| said.shards);
        answer.silent = heard.silent.clone();
    }
    answer.decisions = newest(decisions, DECISIONS_LISTED_MAX);
    Ok(answer)
}

/// The newest of them, by shard, the oldest of a shard first.
fn newest(mut decisions: Vec<pb::DecisionRecord>, most: usize) -> Vec<pb::DecisionRecord> {
    let since = |decision: &pb::DecisionRecord| decision.since.map_or((0, 0), |since| (since.seconds, since.nanoseconds));
    decisions.sort_by_key(|decision| Reverse(since(decision)));
    decisions.truncate(most);
    let place = |decision: &pb::DecisionRecord| (decision.keyspace.clone(), decision.shard.clone(), since(decision));
    decisions.sort_by_cached_key(place);
    decisions
}

/// What happens, until the server stops, the reader leaves, or it is too slow: from the log where a number was given, else from the board.
pub async fn watch_events(context: &Context, request: WatchEventsRequest) -> Result<Events, Refusal> {
    if let Some(sequence) = request.after_sequence {
        let from = events::From::After(sequence);
        return Ok(events::as_statuses(events::read(context, &request.keyspace, &request.shard, from).await?));
    }
    let filter = filter(context, &request.keyspace, &request.shard).await?;
    let permit = permit(context)?;
    let reader = Reader { events: context.board.events(), filter, stopping: context.stopping.clone(), _permit: permit };
    Ok(Box::pin(stream::unfold(Some(reader), async |reader| reader?.next().await)))
}

/// Room for one more reader of events, for as long as it reads.
pub fn permit(context: &Context) -> Result<OwnedSemaphorePermit, Refusal> {
    context.watchers.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(Code::ResourceExhausted, format!("{WATCHERS_MAX} readers of events are served already; end one of them"))
    })
}

struct Reader {
    events: broadcast::Receiver<Arc<Event>>,
    filter: Filter,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// The next event that is wanted, or the status that ends it all.
    async fn next(mut self) -> Option<(Result<pb::Event, Status>, Option<Self>)> {
        loop {
            let next = tokio::select! {
                next = self.events.recv() => next,
                () = self.stopping.cancelled() => return Some((Err(Status::unavailable("the elector stops; watch another one")), None)),
            };
            match next {
                Ok(found) if self.filter.wants(&found.shard) => return Some((Ok(tell(&found)), Some(self))),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let message = format!(
                        "{missed} events were missed, as they were read too slowly: ask for what there is, and watch again"
                    );
                    return Some((Err(Status::resource_exhausted(message)), None));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// A keyspace or shard that does not exist is a mistake; whether it does is not to be known while the topology is unreadable.
pub async fn filter(context: &Context, keyspace: &str, shard: &str) -> Result<Filter, Refusal> {
    let (found, shard) = match (keyspace, shard) {
        ("", "") => return Ok(Filter::default()),
        ("", shard) => return Err(Refusal::invalid(format!("shard: {shard:?} without a keyspace; give keyspace as well"))),
        (keyspace, "") => (context.topo.keyspace(input::keyspace("keyspace", keyspace)?).await.err(), String::new()),
        (keyspace, shard) => {
            let id = input::shard(keyspace, "shard", shard)?;
            (context.topo.shard(&id).await.err(), id.shard)
        }
    };
    match found {
        Some(error @ TopoError::NotFound { .. }) => Err(error.into()),
        _ => Ok(Filter { keyspace: keyspace.to_owned(), shard }),
    }
}

pub fn time(at: SystemTime) -> vttime::Time {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    vttime::Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() as i32 }
}

pub fn problem(shard: &ShardId, problem: &Problem, since: Option<SystemTime>) -> pb::Problem {
    let priority = match problem.code.priority() {
        Priority::Shard => "shard",
        Priority::Critical => "critical",
        Priority::High => "high",
        Priority::Medium => "medium",
        Priority::Low => "low",
    };
    pb::Problem {
        keyspace: shard.keyspace.clone(),
        shard: shard.shard.clone(),
        code: problem.code.name().to_owned(),
        priority: priority.to_owned(),
        tablet_alias: problem.tablet.as_ref().map(Into::into),
        why: problem.why.clone(),
        remedy: problem.remedy.to_string(),
        since: since.map(time),
    }
}

pub fn held(shard: &ShardId, held: &Held) -> pb::DecisionRecord {
    decision(shard, &held.decision, held.since)
}

fn decision(shard: &ShardId, decision: &DecisionRecord, since: SystemTime) -> pb::DecisionRecord {
    let rejected = decision.rejected.iter().map(|no| pb::Rejected { action: no.action.clone(), why: no.why.clone() });
    pb::DecisionRecord {
        keyspace: shard.keyspace.clone(),
        shard: shard.shard.clone(),
        since: Some(time(since)),
        at: Some(time(decision.at)),
        action: decision.action.clone(),
        tablet_alias: decision.tablet.as_ref().map(Into::into),
        code: decision.code.map(|code| code.name().to_owned()).unwrap_or_default(),
        why: decision.why.clone(),
        rejected: rejected.collect(),
        blocked: decision.blocked.as_ref().map(blocked),
    }
}

pub fn blocked(blocked: &Blocked) -> pb::Blocked {
    pb::Blocked { by: blocked.by.clone(), reason: blocked.reason.clone(), until: blocked.until.map(time) }
}

/// The event as a message, without a number: that is the log's to give.
pub fn tell(event: &Event) -> pb::Event {
    let what = match &event.what {
        Happened::Opened(opened) => What::Opened(problem(&event.shard, opened, Some(event.at))),
        Happened::Closed(closed) => What::Closed(problem(&event.shard, closed, None)),
        Happened::Decided(record) => What::Decided(decision(&event.shard, record, event.at)),
        Happened::Recovered(recovery) => What::Recovered(ledger::recovery(recovery)),
        Happened::LeftAlone => What::LeftAlone(LeftAlone {}),
    };
    let ShardId { keyspace, shard } = event.shard.clone();
    pb::Event { at: Some(time(event.at)), keyspace, shard, what: Some(what), ..pb::Event::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_decisions_are_listed_by_shard() {
        let decided = |shard: &str, seconds: i64| pb::DecisionRecord {
            keyspace: "commerce".to_owned(),
            shard: shard.to_owned(),
            since: Some(vttime::Time { seconds, nanoseconds: 0 }),
            ..pb::DecisionRecord::default()
        };
        let all = [("80-", 5), ("80-", 1), ("-80", 4), ("-80", 2), ("-80", 3)].map(|(shard, at)| decided(shard, at));
        let listed = newest(all.to_vec(), 3);
        assert_eq!(listed, [decided("-80", 3), decided("-80", 4), decided("80-", 5)]);
        assert_eq!(newest(all.to_vec(), 9).len(), 5);
    }
}
