//! Probing a tablet because another elector asks.

use tonic::Code;

use super::{Context, input, refusal::Refusal};
use crate::{
    pb::vtelector::{ObserveRequest, ObserveResponse},
    peers::{self, ObserveError, Probe},
};

pub async fn observe(context: &Context, asked: ObserveRequest) -> Result<ObserveResponse, Refusal> {
    let alias = input::alias("tablet_alias", asked.tablet_alias.as_ref())?;
    let seen = context.observer.observe(&alias).await;
    let outcome = match &seen {
        Ok(seen) if seen.manager == Probe::Answers => "answers",
        Ok(_) => "silent",
        Err(_) => "not_probed",
    };
    context.metrics.peers.observed(outcome);
    match seen {
        Ok(seen) => Ok(peers::message(seen)),
        Err(ObserveError::Record(_, error)) => Err(error.into()),
        Err(error @ ObserveError::Topology(_)) => Err(Refusal::new(Code::Unavailable, error.to_string())),
        Err(error @ ObserveError::Busy(_)) => Err(Refusal::new(Code::ResourceExhausted, error.to_string())),
    }
}
