//! The health stream: one message at once, then on every change and at every interval.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Agent;
use crate::pb::{
    query::{StreamHealthRequest, StreamHealthResponse},
    queryservice::query_server::Query,
};

/// Messages that a slow reader may leave unread before it is cut off; Vitess's number.
const BUFFERED_MAX: usize = 20;

/// Serves `queryservice.Query`: its health stream only.
pub struct HealthService(pub Arc<Agent>);

#[tonic::async_trait]
impl Query for HealthService {
    type StreamHealthStream = Pin<Box<dyn Stream<Item = Result<StreamHealthResponse, Status>> + Send>>;

    async fn stream_health(&self, _: Request<StreamHealthRequest>) -> Result<Response<Self::StreamHealthStream>, Status> {
        let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
        self.0.tasks.spawn(feed(self.0.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn feed(agent: Arc<Agent>, sender: mpsc::Sender<Result<StreamHealthResponse, Status>>) {
    let mut state = agent.state.subscribe();
    let mut ticks = tokio::time::interval(agent.settings.health_check_interval);
    ticks.tick().await;
    loop {
        let message = state.borrow_and_update().health();
        // The last place is kept for the word why the stream ends.
        if sender.capacity() <= 1 {
            let _ = sender.try_send(Err(Status::resource_exhausted("the reader of this health stream is too slow")));
            return;
        }
        if sender.try_send(Ok(message)).is_err() {
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            () = agent.shutdown.cancelled() => {
                let _ = sender.try_send(Err(Status::unavailable("the agent is shutting down")));
                return;
            }
            changed = state.changed() => if changed.is_err() { return },
            () = agent.health_wanted.notified() => {}
            _ = ticks.tick() => {}
        }
    }
}
