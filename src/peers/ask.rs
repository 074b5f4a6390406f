//! Asking another elector what it sees of a tablet.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::{Elector, Observation, PeerDoor, Probe};
use crate::{
    pb::vtelector::{self as pb, elector_client::ElectorClient, probe::Outcome},
    shard::FailureClass,
    text::causes,
    topo::TabletAlias,
};

/// Channels that are kept. Beyond it all are dropped: there are never so many electors, only addresses that came and went.
const CHANNELS_MAX: usize = 256;

/// Another elector's eyes. Production asks over gRPC; the simulation and tests answer themselves.
#[async_trait]
pub trait Ask: Send + Sync + 'static {
    /// What `elector` sees of `tablet` when it probes it now; an error says why there is no answer. Ends within `limit`.
    async fn observe(&self, elector: &Elector, tablet: &TabletAlias, limit: Duration) -> Result<Observation, String>;
}

/// A question that one elector asks another.
#[async_trait]
pub trait Question: Send + 'static {
    /// What answers it.
    type Answer: Send;

    /// Sends it.
    async fn put(asked: Request<Self>, client: ElectorClient<Channel>) -> Result<Response<Self::Answer>, Status>
    where
        Self: Sized;
}

/// Each question is the request of a call of our service.
macro_rules! questions {
    ($($request:ident => $call:ident -> $answer:ident;)*) => {
        $(#[async_trait]
        impl Question for pb::$request {
            type Answer = pb::$answer;

            async fn put(asked: Request<Self>, mut client: ElectorClient<Channel>) -> Result<Response<Self::Answer>, Status> {
                client.$call(asked).await
            }
        })*
    };
}

questions! {
    ObserveRequest => observe -> ObserveResponse;
    ShardsRequest => shards -> ShardsResponse;
    ProblemsRequest => problems -> ProblemsResponse;
    DecisionsRequest => decisions -> DecisionsResponse;
    ErrantGtidsRequest => errant_gtids -> ErrantGtidsResponse;
    TabletsRequest => tablets -> TabletsResponse;
    ExplainRequest => explain -> ExplainResponse;
}

/// Asks over gRPC, over one channel for each address.
pub struct GrpcAsk {
    door: PeerDoor,
    answer_bytes_max: usize,
    channels: Mutex<BTreeMap<String, (u64, Channel)>>,
}

impl GrpcAsk {
    /// Calls the others in this way, and takes answers up to that size.
    pub fn new(door: PeerDoor, answer_bytes_max: usize) -> Self {
        Self { door, answer_bytes_max, channels: Mutex::default() }
    }

    /// Its answer, or why there is none. Ends within `limit`.
    pub async fn ask<Q: Question>(&self, elector: &Elector, question: Q, limit: Duration) -> Result<Q::Answer, Status> {
        let channel = self.channel(&elector.address, limit).await.map_err(Status::unavailable)?;
        let client = ElectorClient::new(channel).max_decoding_message_size(self.answer_bytes_max);
        let mut request = Request::new(question);
        request.set_timeout(limit);
        self.door.sign(&mut request).await;
        let answered = tokio::time::timeout(limit, Q::put(request, client)).await;
        let late = || Status::deadline_exceeded(format!("no answer within {limit:?}"));
        let answered = answered.unwrap_or_else(|_| Err(late()));
        // The channel's own clock says it in other words.
        let answered = answered.map_err(|status| if status.code() == Code::Cancelled { late() } else { status });
        if answered.as_ref().is_err_and(|status| !is_answer(status.code())) {
            self.forget(&elector.address);
        }
        answered.map(Response::into_inner)
    }

    async fn channel(&self, address: &str, limit: Duration) -> Result<Channel, String> {
        let (endpoint, number) = self.door.endpoint(address).await?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, channel)) = channels.get(address).filter(|(made_with, _)| *made_with == number) {
            return Ok(channel.clone());
        }
        let channel = endpoint.connect_timeout(limit).connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), (number, channel.clone()));
        Ok(channel)
    }

    /// A channel that failed is not used again: TCP would wait for minutes on a connection that leads nowhere.
    fn forget(&self, address: &str) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}

/// Why there is no answer, with what lies beneath: the transport alone says little.
pub fn why(status: &Status) -> String {
    let mut words = vec![format!("{:?}", status.code()), status.message().to_owned()];
    words.extend(causes(status).skip(1).map(ToString::to_string));
    words.retain(|word| !word.is_empty());
    words.dedup();
    words.join(": ")
}

/// Whether the elector itself has refused, over a connection that works.
fn is_answer(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unauthenticated
            | Code::PermissionDenied
    )
}

#[async_trait]
impl Ask for GrpcAsk {
    async fn observe(&self, elector: &Elector, tablet: &TabletAlias, limit: Duration) -> Result<Observation, String> {
        let answer = self.ask(elector, pb::ObserveRequest { tablet_alias: Some(tablet.into()) }, limit).await;
        answer.map(observation).map_err(|status| why(&status))
    }
}

/// The message of an observation.
pub(crate) fn message(seen: Observation) -> pb::ObserveResponse {
    pb::ObserveResponse {
        manager: Some(probe_message(seen.manager)),
        mysql: Some(probe_message(seen.mysql)),
        writable: seen.writable,
        took_ms: u64::try_from(seen.took.as_millis()).unwrap_or(u64::MAX),
    }
}

fn probe_message(probe: Probe) -> pb::Probe {
    let (outcome, words) = match probe {
        Probe::Answers => (Outcome::Answers, String::new()),
        Probe::CannotTell(words) => (Outcome::CannotTell, words),
        Probe::Fails { class, words } => (outcome(class), words),
    };
    pb::Probe { outcome: outcome.into(), words }
}

fn outcome(class: FailureClass) -> Outcome {
    match class {
        FailureClass::Refused => Outcome::Refused,
        FailureClass::Closed => Outcome::Closed,
        FailureClass::TooManyConnections => Outcome::TooManyConnections,
        FailureClass::Silent => Outcome::Silent,
        FailureClass::Answered => Outcome::AnsweredWithError,
    }
}

/// The observation in a message. What is left out, or unknown to this release, cannot be judged.
fn observation(message: pb::ObserveResponse) -> Observation {
    let probe = |probe: Option<pb::Probe>| {
        let Some(pb::Probe { outcome, words }) = probe else { return Probe::CannotTell("not reported".to_owned()) };
        let class = match Outcome::try_from(outcome) {
            Ok(Outcome::Answers) => return Probe::Answers,
            Ok(Outcome::CannotTell) => return Probe::CannotTell(words),
            Err(_) => return Probe::CannotTell(format!("outcome {outcome} is unknown to this release")),
            Ok(Outcome::Refused) => FailureClass::Refused,
            Ok(Outcome::Closed) => FailureClass::Closed,
            Ok(Outcome::TooManyConnections) => FailureClass::TooManyConnections,
            Ok(Outcome::Silent) => FailureClass::Silent,
            Ok(Outcome::AnsweredWithError) => FailureClass::Answered,
        };
        Probe::Fails { class, words }
    };
    let (manager, mysql) = (probe(message.manager), probe(message.mysql));
    Observation { manager, mysql, writable: message.writable, took: Duration::from_millis(message.took_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_elector_saw_is_what_the_other_reads() {
        use FailureClass::*;
        for class in [Refused, Closed, TooManyConnections, Silent, Answered] {
            let seen = Observation {
                manager: Probe::Fails { class, words: "so".to_owned() },
                mysql: Probe::CannotTell("no account".to_owned()),
                writable: Some(true),
                took: Duration::from_millis(7),
            };
            assert_eq!(observation(message(seen.clone())), seen);
        }
        let seen = Observation { manager: Probe::Answers, mysql: Probe::Answers, writable: None, took: Duration::ZERO };
        assert_eq!(observation(message(seen.clone())), seen);
    }

    #[test]
    fn what_a_later_release_adds_is_no_evidence() {
        let strange = Some(pb::Probe { outcome: 99, words: String::new() });
        let seen = observation(pb::ObserveResponse { manager: strange, ..Default::default() });
        assert!(matches!((seen.manager, seen.mysql), (Probe::CannotTell(_), Probe::CannotTell(_))));
    }
}
