//! Tells an open page which of its parts have changed. The page fetches them itself.

use std::{convert::Infallible, sync::Arc};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, Sse},
};
use futures_util::stream;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Interval, MissedTickBehavior, interval},
};
use tonic::Code;

use super::{
    Pages,
    renderer::{FRESH, View},
    respond,
};
use crate::serve::calls::{Context, Refusal};

/// Pages that are told at the same time; one more is refused and reloads by hand. Each holds one of the connections that HTTP takes.
pub const READERS_MAX: usize = 128;
/// A page that hears nothing for longer than that shows that it is cut off (page.js).
const BEAT_TICKS: u32 = 10;

struct Reader {
    context: Arc<Context>,
    pages: Arc<Pages>,
    view: View,
    may_act: bool,
    ticks: Interval,
    silent_for: u32,
    told: String,
    _permit: OwnedSemaphorePermit,
}

/// The stream of a page.
pub fn stream(context: Arc<Context>, pages: Arc<Pages>, view: View, may_act: bool) -> Result<Response, Refusal> {
    let permit = pages.readers.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(Code::Unavailable, format!("{READERS_MAX} open pages are kept up to date already; reload by hand"))
    })?;
    let mut ticks = interval(FRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reader = Reader { context, pages, view, may_act, ticks, silent_for: 0, told: String::new(), _permit: permit };
    let events = stream::unfold(reader, async |mut reader| Some((Ok::<_, Infallible>(reader.next().await?), reader)));
    Ok(respond::with_headers(Sse::new(events).into_response()))
}

impl Reader {
    /// The next thing to tell, at most once a second; `None` when the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let stopping = self.context.stopping.clone();
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = stopping.cancelled() => return None,
            }
            let (what, told) = match self.pages.renderer.page(&self.context, &self.view, self.may_act).await {
                Ok(body) => ("parts", body.versions()),
                // While a shard changes hands nobody tells of it for a moment: the page keeps what it shows, and says so.
                Err(Refusal { code: code @ (Code::Unavailable | Code::DeadlineExceeded), .. }) => ("away", format!("{code:?}")),
                // The page then shows the refusal itself.
                Err(refusal) => ("gone", format!("{:?}", refusal.code)),
            };
            self.silent_for += 1;
            if told != self.told {
                self.silent_for = 0;
                self.told.clone_from(&told);
                return Some(Event::default().event(what).data(told));
            }
            if self.silent_for >= BEAT_TICKS {
                self.silent_for = 0;
                return Some(Event::default().event("beat").data(""));
            }
        }
    }
}
