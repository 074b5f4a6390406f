//! The calls that only vtelector serves: dry runs, what only a person can allow, errant transactions.

use std::time::Duration;

use tonic::{Code, Request, Status};

use super::{Answer, ClientError, Line, MESSAGE_BYTES_MAX, Verdict, args, call, decision, show};
use crate::pb::vtelector::{
    EmergencyReparentRequest, ErrantGtidsRequest, ErrantGtidsResponse, Mode, PlannedReparentRequest, ReparentResponse,
    elector_client::ElectorClient,
};

/// A request that is ready to be sent.
pub enum Ready {
    Planned(PlannedReparentRequest),
    Emergency(EmergencyReparentRequest),
    ErrantGtids(ErrantGtidsRequest),
}

/// A planned reparent that only says what it would do.
pub fn planned_preview(own: args::PlannedReparent) -> Ready {
    let mode = if own.abrupt { Mode::Abrupt } else { Mode::Graceful };
    Ready::Planned(PlannedReparentRequest { mode: mode.into(), dry_run: true, request: Some(call::planned(own)) })
}

/// An emergency reparent with what vtctld has no field for.
pub fn emergency(asked: args::EmergencyReparent) -> Ready {
    let own = asked.own.clone();
    Ready::Emergency(EmergencyReparentRequest {
        request: Some(call::emergency(asked)),
        accept_loss: own.accept_loss.unwrap_or_default(),
        choose_side: own.choose_side,
        allow_not_established: own.allow_not_established,
        dry_run: own.dry_run,
    })
}

/// The errant transactions of all tablets, or of some.
pub fn errant_gtids(own: args::ErrantArg) -> Ready {
    let (keyspace, shard) = own.scope.map(|scope| (scope.keyspace, scope.shard)).unwrap_or_default();
    Ready::ErrantGtids(ErrantGtidsRequest { keyspace, shard, only_mine: false })
}

/// Sends the request and puts the answer into words.
pub async fn send(channel: Line, ready: Ready, left: Duration) -> Result<Answer, ClientError> {
    let mut client = ElectorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(match ready {
        Ready::Planned(r) => reparented(&client.planned_reparent(timed(r, left)).await.map_err(unserved)?.into_inner()),
        Ready::Emergency(r) => reparented(&client.emergency_reparent(timed(r, left)).await.map_err(unserved)?.into_inner()),
        Ready::ErrantGtids(r) => errant(&client.errant_gtids(timed(r, left)).await.map_err(unserved)?.into_inner()),
    })
}

/// The server is told how long we wait.
pub fn timed<T>(request: T, left: Duration) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(left);
    request
}

/// A server that does not know the call has done nothing, least of all what was asked without the option that it does not know.
pub fn unserved(status: Status) -> ClientError {
    match status.code() {
        Code::Unimplemented => ClientError::NotOurs(status.message().to_owned()),
        _ => ClientError::Refused(status),
    }
}

fn reparented(answer: &ReparentResponse) -> Answer {
    if answer.was_dry_run {
        let verdict = if answer.refusal.is_some() { Verdict::WouldBeRefused } else { Verdict::Well };
        return Answer { verdict, ..Answer::new(answer, decision::dry_run(answer)) };
    }
    let end = show::promoted(&answer.keyspace, &answer.shard, answer.promoted_primary.as_ref());
    Answer::new(answer, show::events(&answer.events) + &end)
}

fn errant(answer: &ErrantGtidsResponse) -> Answer {
    let is_well = answer.errant.is_empty() && answer.unjudged.is_empty();
    let verdict = if is_well { Verdict::Well } else { Verdict::Finding };
    Answer { verdict, ..Answer::new(answer, decision::errant_gtids(answer)) }
}
