//! What the other electors say of the shards that they look after: asked at once, merged, and kept for a moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::refusal::Refusal;
use crate::{
    pb::vtelector::{
        DecisionsRequest, DecisionsResponse, ErrantGtidsRequest, ErrantGtidsResponse, ProblemsRequest, ProblemsResponse,
        ShardsRequest, ShardsResponse, SilentElector, TabletsRequest, TabletsResponse,
    },
    peers::{Elector, GrpcAsk, Ownership, Peers, Question, why},
    recover::board::Filter,
    topo::ShardId,
};

/// Who has not answered by then is silent: a person waits for this.
const LIMIT: Duration = Duration::from_secs(1);
/// Answers are taken again for so long, so that a hundred readers cost one round.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// Electors that are asked at the same time.
const ASKED_MAX: usize = 32;
/// Different questions whose answers are kept.
const KEPT_MAX: usize = 64;

/// The other electors.
pub struct Others {
    ask: Arc<GrpcAsk>,
    peers: Peers,
    shards: Kept<ShardsResponse>,
    problems: Kept<ProblemsResponse>,
    decisions: Kept<DecisionsResponse>,
    errant: Kept<ErrantGtidsResponse>,
    tablets: Kept<TabletsResponse>,
    troubled: Kept<TabletsResponse>,
}

/// What a round brought.
#[derive(Debug)]
pub struct Heard<A> {
    /// Those of our own region first.
    answers: Vec<(Elector, A)>,
    /// Who did not answer, and why.
    pub silent: Vec<SilentElector>,
    ownership: Arc<Ownership>,
}

/// One round: whoever asks while it is under way waits for it.
type Slot<A> = Arc<tokio::sync::Mutex<Option<(Instant, Arc<Heard<A>>)>>>;

/// The last round of each question, by keyspace and shard.
struct Kept<A>(Mutex<BTreeMap<(String, String), Slot<A>>>);

impl<A> Default for Kept<A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<A> Kept<A> {
    fn slot(&self, filter: &Filter) -> Slot<A> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            // Rounds that are under way go on in the hands of those who wait for them.
            kept.clear();
        }
        kept.entry((filter.keyspace.clone(), filter.shard.clone())).or_default().clone()
    }
}

impl Others {
    pub fn new(ask: Arc<GrpcAsk>, peers: Peers) -> Self {
        Self {
            ask,
            peers,
            shards: Kept::default(),
            problems: Kept::default(),
            decisions: Kept::default(),
            errant: Kept::default(),
            tablets: Kept::default(),
            troubled: Kept::default(),
        }
    }

    pub async fn shards(&self, filter: &Filter) -> Arc<Heard<ShardsResponse>> {
        let Filter { keyspace, shard } = filter.clone();
        self.round(&self.shards, filter, ShardsRequest { keyspace, shard, only_mine: true }).await
    }

    pub async fn problems(&self, filter: &Filter) -> Arc<Heard<ProblemsResponse>> {
        let Filter { keyspace, shard } = filter.clone();
        self.round(&self.problems, filter, ProblemsRequest { keyspace, shard, only_mine: true }).await
    }

    pub async fn decisions(&self, filter: &Filter) -> Arc<Heard<DecisionsResponse>> {
        let Filter { keyspace, shard } = filter.clone();
        self.round(&self.decisions, filter, DecisionsRequest { keyspace, shard, only_mine: true }).await
    }

    pub async fn errant(&self, filter: &Filter) -> Arc<Heard<ErrantGtidsResponse>> {
        let Filter { keyspace, shard } = filter.clone();
        self.round(&self.errant, filter, ErrantGtidsRequest { keyspace, shard, only_mine: true }).await
    }

    pub async fn tablets(&self, filter: &Filter, only_troubled: bool) -> Arc<Heard<TabletsResponse>> {
        let (Filter { keyspace, shard }, kept) = (filter.clone(), if only_troubled { &self.troubled } else { &self.tablets });
        self.round(kept, filter, TabletsRequest { keyspace, shard, only_mine: true, only_troubled }).await
    }

    async fn round<Q: Question + Clone>(&self, kept: &Kept<Q::Answer>, filter: &Filter, question: Q) -> Arc<Heard<Q::Answer>> {
        let slot = kept.slot(filter);
        let mut last = slot.lock().await;
        if let Some((_, heard)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return heard.clone();
        }
        let asked = self.peers.others().into_iter().map(|elector| {
            let question = question.clone();
            async move { (self.ask.ask(&elector, question, LIMIT).await, elector) }
        });
        // Collected first: an iterator of closures is in no future's lifetime.
        let asked: Vec<_> = asked.collect();
        let mut heard = Heard { answers: Vec::new(), silent: Vec::new(), ownership: self.peers.ownership().borrow().clone() };
        for (answer, elector) in stream::iter(asked).buffered(ASKED_MAX).collect::<Vec<_>>().await {
            match answer {
                Ok(answer) => heard.answers.push((elector, answer)),
                Err(status) => heard.silent.push(SilentElector { elector: elector.who, reason: why(&status) }),
            }
        }
        let heard = Arc::new(heard);
        *last = Some((Instant::now(), heard.clone()));
        heard
    }

    /// Asks the elector that looks after a shard; where nobody knows who that is, or it does not say, those who might.
    pub async fn owner<Q: Question + Clone>(&self, shard: &ShardId, question: Q, limit: Duration) -> Result<Q::Answer, Refusal> {
        let ownership = self.peers.ownership().borrow().clone();
        let owner = ownership.owner(shard);
        let claimed = self.shards(&Filter { keyspace: shard.keyspace.clone(), shard: shard.shard.clone() }).await;
        let claims = |elector: &Elector| {
            let mut answers = claimed.answers.iter();
            answers.any(|(by, answer)| by.id == elector.id && !answer.shards.is_empty())
        };
        let mut asked = self.peers.others();
        asked.retain(|elector| claims(elector) || owner == Some(&elector.id));
        asked.sort_by_key(|elector| (!claims(elector), owner != Some(&elector.id)));
        let mut failures = Vec::new();
        for elector in asked {
            match self.ask.ask(&elector, question.clone(), limit).await {
                Ok(answer) => return Ok(answer),
                Err(status) => failures.push((elector.who, status)),
            }
        }
        Err(unanswered(shard, &failures))
    }
}

/// What a person is told where nobody can speak for a shard.
fn unanswered(shard: &ShardId, failures: &[(String, Status)]) -> Refusal {
    let Some((_, status)) = failures.first() else {
        let message =
            format!("{shard} is looked after by no elector that is known here: see the electors with the command status");
        return Refusal::new(Code::Unavailable, message);
    };
    let words: Vec<String> = failures.iter().map(|(who, status)| format!("{who}: {}", why(status))).collect();
    let message = format!("{shard} is looked after by another elector, which does not tell: {}", words.join("; "));
    // An answer that it refused is as good as ours; one that was lost is not.
    let is_refusal = matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition | Code::ResourceExhausted);
    Refusal::new(if is_refusal { status.code() } else { Code::Unavailable }, message)
}

impl<A> Heard<A> {
    /// What each shard's own elector says of it; `mine` are spoken for already. Where that elector is silent, any other that claims the
    /// shard is believed.
    pub fn merged<T: Clone>(
        &self,
        mine: &BTreeSet<ShardId>,
        words: impl Fn(&A) -> &[T],
        shard: impl Fn(&T) -> ShardId,
    ) -> Vec<T> {
        let answered: BTreeSet<&str> = self.answers.iter().map(|(elector, _)| elector.id.as_str()).collect();
        let mut speakers: BTreeMap<ShardId, &str> = BTreeMap::new();
        let mut merged = Vec::new();
        for (elector, answer) in &self.answers {
            for word in words(answer) {
                let shard = shard(word);
                let by_owner = self.ownership.owner(&shard).filter(|owner| answered.contains(owner));
                if mine.contains(&shard) || by_owner.is_some_and(|owner| owner != elector.id) {
                    continue;
                }
                if *speakers.entry(shard).or_insert(&elector.id) == elector.id {
                    merged.push(word.clone());
                }
            }
        }
        merged
    }

    /// The sum over the electors of our region: those of others look after the same shards once more.
    pub fn sum(&self, count: impl Fn(&A) -> u64) -> u64 {
        let members: BTreeSet<&str> = self.ownership.members().collect();
        self.answers.iter().filter(|(elector, _)| members.contains(elector.id.as_str())).map(|(_, answer)| count(answer)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elector(id: &str, region: &str) -> Elector {
        Elector::new(id, id, "z1", region, 0)
    }

    fn shard(number: u32) -> ShardId {
        ShardId::new(&format!("ks{number}"), "0").unwrap()
    }

    /// `near` divides with us, `far` looks after everything as well.
    fn heard(answered: &[(&str, &[u32])], members: &[&str]) -> Heard<Vec<(ShardId, String)>> {
        let members: Vec<String> = members.iter().map(|id| (*id).to_owned()).collect();
        let answers = answered.iter().map(|(id, numbers)| {
            let words = numbers.iter().map(|number| (shard(*number), (*id).to_owned()));
            (elector(id, "r"), words.collect())
        });
        let ownership = Arc::new(Ownership::shared("me", members.clone(), members));
        Heard { answers: answers.collect(), silent: Vec::new(), ownership }
    }

    fn told(heard: &Heard<Vec<(ShardId, String)>>, mine: &[u32]) -> BTreeMap<ShardId, Vec<String>> {
        let mine = mine.iter().map(|number| shard(*number)).collect();
        let mut told: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
        for (shard, who) in heard.merged(&mine, |words| words, |(shard, _)| shard.clone()) {
            told.entry(shard).or_default().push(who);
        }
        told
    }

    #[test]
    fn each_shard_is_told_by_its_own_elector_and_once() {
        let all: Vec<u32> = (0..40).collect();
        let heard = heard(&[("near", &all), ("far", &all)], &["near"]);
        let told = told(&heard, &[]);
        for (shard, who) in &told {
            let owner = heard.ownership.owner(shard).unwrap();
            // Where the owner is this elector itself, which has no word of it yet, the first one that claims it is believed.
            assert_eq!(who, &["near"], "{shard} is {owner}'s");
        }
        assert_eq!(told.len(), 40);
    }

    #[test]
    fn where_the_owner_is_silent_whoever_claims_the_shard_is_believed() {
        let all: Vec<u32> = (0..40).collect();
        let heard = heard(&[("far", &all)], &["near"]);
        assert!(told(&heard, &[]).values().all(|who| who == &["far"]));
        assert_eq!(heard.sum(|words| words.len() as u64), 0, "far is of another region");
    }

    #[test]
    fn what_is_ours_nobody_else_tells() {
        let heard = heard(&[("near", &[1, 2, 2])], &["near"]);
        let told = told(&heard, &[1]);
        assert_eq!(told, [(shard(2), vec!["near".to_owned(), "near".to_owned()])].into());
        assert_eq!(heard.sum(|words| words.len() as u64), 3);
    }

    #[test]
    fn a_silent_owner_is_named() {
        let failures = [("b:1".to_owned(), Status::deadline_exceeded("no answer within 1s"))];
        let refusal = unanswered(&shard(1), &failures);
        assert_eq!(refusal.code, Code::Unavailable);
        assert!(refusal.message.contains("b:1") && refusal.message.contains("no answer within 1s"), "{refusal}");
    }
}
