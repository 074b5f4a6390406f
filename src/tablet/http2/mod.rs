//! The client's half of HTTP/2, for what gRPC to a tablet needs and nothing else.
//!
//! It exists for its size: a fleet's elector keeps ten thousand connections that are silent nearly always, and each holds only what
//! it is about to send, has not understood yet, or keeps for a reader. Callers and the connection's one task share its state
//! behind a lock; nothing waits while it is held.

mod connection;
mod driver;
mod frame;
mod hpack;
mod huffman;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use tokio::time::Instant;

use super::link::Lost;
use connection::Connection;

pub(super) use driver::{Driver, Ended, Socket};
pub(super) use hpack::request as encode_head;
pub(super) use stream::{End, Request};

/// What callers and the driver share.
struct State {
    connection: Connection,
    /// Wakes the driver, once.
    driver: Option<Waker>,
}

/// The calling side of a connection.
#[derive(Clone)]
pub(super) struct Client(Arc<Mutex<State>>);

impl Client {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { connection: Connection::new(Instant::now()), driver: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the connection, and lets the driver write what follows from it.
    fn with<T>(&self, change: impl FnOnce(&mut Connection) -> T) -> T {
        let mut state = self.state();
        let State { connection, driver } = &mut *state;
        let result = change(connection);
        let driver = if connection.has_news() { driver.take() } else { None };
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }

    /// Whether new calls can be made.
    pub(super) fn is_open(&self) -> bool {
        self.state().connection.closing().is_none()
    }

    /// Starts a call; an error means that nothing was sent.
    pub(super) fn start(&self, request: Request) -> Result<Exchange, Lost> {
        let id = self.with(|connection| connection.open(request))?;
        Ok(Exchange { client: self.clone(), id })
    }
}

/// A call under way; dropping it breaks it off.
pub(super) struct Exchange {
    client: Client,
    id: u32,
}

/// A part of an answer that is read as it comes.
#[derive(Debug)]
pub(super) enum Part {
    Data(Vec<u8>),
    End(End),
}

impl Exchange {
    /// Whether any byte of it may have reached the socket.
    pub(super) fn was_sent(&self) -> bool {
        self.client.state().connection.was_sent(self.id)
    }

    /// The whole answer: HTTP's status, the body, and how it ended. To be called once.
    pub(super) async fn whole(&mut self) -> (u16, Vec<u8>, End) {
        poll_fn(|cx| self.client.state().connection.poll_whole(self.id, cx)).await
    }

    /// Waits for the answer to begin; `Some` where it ended before.
    pub(super) async fn begun(&mut self) -> Option<End> {
        poll_fn(|cx| self.client.state().connection.poll_begun(self.id, cx)).await
    }

    /// The next part of the answer; not to be called again after its end.
    pub(super) async fn part(&mut self) -> Part {
        // The reader's progress may let the peer send more.
        poll_fn(|cx| self.client.with(|connection| connection.poll_part(self.id, cx))).await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.with(|connection| connection.close(self.id));
    }
}
