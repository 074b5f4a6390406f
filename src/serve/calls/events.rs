//! The log of events, read from a number on.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{Context, board, refusal::Refusal};
use crate::{
    pb::vtelector::{self as pb, EventsDropped, event::What},
    recover::board::Filter,
    serve::events::EventLog,
};

/// Events that are read from the log at once.
const PAGE_MAX: usize = 256;
/// Events that may wait for their reader; more stay in the log.
const WAITING_MAX: usize = 64;

/// An elector that has only just begun reads the log first; whoever comes meanwhile waits that long.
const READABLE_WITHIN: Duration = Duration::from_secs(1);

/// Events with numbers, or why there are no more of them.
pub type Numbered = Pin<Box<dyn Stream<Item = Result<pb::Event, Refusal>> + Send>>;

/// From where on events are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Only what happens from now on.
    Now,
    /// What the log has after that number, and then what happens.
    After(u64),
}

/// Reads the log until the server stops, the reader leaves, or it is too slow.
pub async fn read(context: &Context, keyspace: &str, shard: &str, from: From) -> Result<Numbered, Refusal> {
    let filter = board::filter(context, keyspace, shard).await?;
    let permit = board::permit(context)?;
    let log = context.events.clone();
    let unreadable = |reason| Refusal::new(Code::Unavailable, format!("the log of events cannot be read: {reason}; try again"));
    log.readable(READABLE_WITHIN).await.map_err(unreadable)?;
    let (told, waiting) = mpsc::channel(WAITING_MAX);
    let (last, end) = oneshot::channel();
    let stopping = context.stopping.clone();
    let taken = match from {
        From::Now => log.newest(),
        From::After(sequence) => sequence,
    };
    let takes_within = context.reader_takes_within;
    let mut reader = Reader { log, filter, taken, told, takes_within };
    context.tasks.spawn(async move {
        let ended = stopping.run_until_cancelled(reader.run(permit)).await;
        let why = match ended {
            None => Refusal::new(Code::Unavailable, "the elector stops; watch another one from the last number on"),
            Some(End::Left) => return,
            Some(End::TooSlow) => Refusal::new(
                Code::ResourceExhausted,
                format!("no event was taken for {} s: watch again from the last number on", takes_within.as_secs_f64()),
            ),
        };
        // The reader has left meanwhile, or reads it when it reads again.
        _ = last.send(Err(why));
    });
    let end = stream::once(end).filter_map(async |end| end.ok());
    Ok(Box::pin(ReceiverStream::new(waiting).chain(end)))
}

enum End {
    Left,
    TooSlow,
}

struct Reader {
    log: EventLog,
    filter: Filter,
    taken: u64,
    told: mpsc::Sender<Result<pb::Event, Refusal>>,
    takes_within: Duration,
}

impl Reader {
    async fn run(&mut self, _permit: OwnedSemaphorePermit) -> End {
        let mut changes = self.log.changes();
        loop {
            changes.borrow_and_update();
            // What went before this reader had it is said: it must not look as if nothing had happened.
            let floor = self.log.floor();
            if self.taken > 0 && floor > self.taken {
                self.taken = floor;
                let gap = pb::Event { sequence: floor, what: Some(What::Dropped(EventsDropped {})), ..pb::Event::default() };
                if let Err(end) = self.tell(gap).await {
                    return end;
                }
            }
            let of_keyspace = |head: &crate::serve::events::head::Head| {
                self.filter.keyspace.is_empty() || *head.keyspace == *self.filter.keyspace
            };
            let (events, looked) = self.log.after(self.taken, PAGE_MAX, of_keyspace);
            let is_end = events.is_empty();
            for event in events {
                if (self.filter.shard.is_empty() || self.filter.shard == event.shard)
                    && let Err(end) = self.tell(event).await
                {
                    return end;
                }
            }
            self.taken = looked;
            if is_end {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return End::Left },
                    () = self.told.closed() => return End::Left,
                }
            }
        }
    }

    async fn tell(&self, event: pb::Event) -> Result<(), End> {
        match self.told.send_timeout(Ok(event), self.takes_within).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Left),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(End::TooSlow),
        }
    }
}

/// The same for gRPC.
pub fn as_statuses(events: Numbered) -> board::Events {
    Box::pin(events.map(|event| event.map_err(tonic::Status::from)))
}
