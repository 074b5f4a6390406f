//! Events as server-sent events: the log from a number on, and what happens.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::StreamExt;
use serde::Deserialize;

use super::refused;
use crate::{
    pb::vtelector as pb,
    serve::{
        calls::{
            events::{self, From},
            refusal::Refusal,
        },
        events::{Printer, head::Head},
        http::Face,
    },
};

/// A line that says nothing, so that whoever is between does not take silence for an end.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Where it stands, below the root.
pub const PATH: &str = "/events";
/// How a reader that comes back says which event it has seen last.
pub const LAST_EVENT_ID: &str = "Last-Event-ID";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// Only this keyspace.
    keyspace: String,
    /// Only this shard of it.
    shard: String,
    /// From this number on; a reader that comes back says it in `Last-Event-ID` instead.
    after_sequence: Option<u64>,
}

/// The stream of events.
pub async fn stream(State(face): State<Face>, headers: HeaderMap, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let found = async {
        let Query(asked) = asked.map_err(|error| Refusal::invalid(error.body_text()))?;
        let from = last_event_id(&headers)?.or(asked.after_sequence).map_or(From::Now, From::After);
        events::read(&face.context, &asked.keyspace, &asked.shard, from).await
    };
    let found = match found.await {
        Ok(found) => found,
        Err(refusal) => return refused(&refusal),
    };
    let printer = Printer::new(face.context.schema.clone());
    let told = found.map(move |event| Ok::<_, Infallible>(written(&printer, event)));
    let keep = KeepAlive::new().interval(SIGN_OF_LIFE);
    // Whoever is between must not keep events back.
    (
        [(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")],
        Sse::new(told).keep_alive(keep),
    )
        .into_response()
}

/// What a reader that comes back has seen last.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        Refusal::invalid(format!("{LAST_EVENT_ID}: no number of an event; leave it out to see what happens from now on"))
    })
}

/// One event; the last one says why there are no more.
fn written(printer: &Printer, event: Result<pb::Event, Refusal>) -> Event {
    match event.map(|event| (printer.value(&event), event)) {
        Ok((Ok(value), event)) => {
            let name = match &event.what {
                Some(pb::event::What::Dropped(_)) => "dropped",
                _ => Head::of(&event).kind.name(),
            };
            Event::default().id(event.sequence.to_string()).event(name).data(value.to_string())
        }
        Ok((Err(error), event)) => Event::default().id(event.sequence.to_string()).comment(error.to_string()),
        Err(refusal) => Event::default().event("end").data(refusal.message.replace(['\r', '\n'], " ")),
    }
}
