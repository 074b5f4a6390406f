//! A watch that ends when it can no longer promise that nothing is missing.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{EtcdKv, entry, link::Operation};
use crate::topo::{KvError, Version, Watch, WatchEvent};

/// Events that may wait for their reader.
const QUEUE_MAX: usize = 1024;
/// A reader that takes nothing for so long loses the watch.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// After so much silence the server is asked for a sign of life ...
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// ... which it must give within this time.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(2);

impl EtcdKv {
    pub(super) async fn open_watch(&self, prefix: &str, from: Version) -> Result<Watch, KvError> {
        let operation = Operation::read("watching", prefix);
        let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
        let opened = self.links.call(operation, self.links.request_timeout(), |conn| {
            let (mut client, options) = (conn.watch, options.clone());
            async move {
                let mut stream = client.watch(prefix, Some(options)).await?;
                let first = stream.message().await?;
                Ok(match first {
                    Some(first) if first.created() && !first.canceled() => Ok(stream),
                    Some(first) => Err(first.cancel_reason().to_owned()),
                    None => Err("the stream ended before it began".to_owned()),
                })
            }
        });
        let stream = opened
            .await
            .map_err(|error| self.failed(operation, error))?
            .value
            .map_err(|reason| KvError::Refused { operation: operation.to_string(), reason })?;
        let stop = self.stop.child_token();
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        self.tasks.spawn(feed(stream, sender, stop.clone(), prefix.to_owned()));
        Ok(Watch::new(events, stop.drop_guard()))
    }
}

async fn feed(mut stream: WatchStream, sender: mpsc::Sender<WatchEvent>, stop: CancellationToken, prefix: String) {
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        () = sender.closed() => return,
        end = forward(&mut stream, &sender) => end,
    };
    tracing::debug!(prefix, reason = end, "the watch ended");
}

/// Passes events on until the watch has to end; says why.
async fn forward(stream: &mut WatchStream, sender: &mpsc::Sender<WatchEvent>) -> String {
    loop {
        let next = match timeout(SILENCE_MAX, stream.message()).await {
            Ok(next) => next,
            Err(_) => {
                // A watch without events looks like a dead one; only an answer tells them apart.
                let answer = async {
                    stream.request_progress().await?;
                    stream.message().await
                };
                match timeout(SIGN_OF_LIFE_TIMEOUT, answer).await {
                    Ok(next) => next,
                    Err(_) => return "the server gives no sign of life".to_owned(),
                }
            }
        };
        match next {
            Ok(Some(answer)) if answer.canceled() => return format!("cancelled: {}", answer.cancel_reason()),
            Ok(Some(answer)) => {
                for event in events(&answer) {
                    match timeout(READER_TIMEOUT, sender.send(event)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return "nobody reads it".to_owned(),
                        Err(_) => return "its reader stands still".to_owned(),
                    }
                }
            }
            Ok(None) => return "the server ended it".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}

fn events(answer: &WatchResponse) -> Vec<WatchEvent> {
    if answer.events().is_empty() {
        return answer.header().map(|header| WatchEvent::Progress(header.revision())).into_iter().collect();
    }
    let changes = answer.events().iter().filter_map(|event| {
        let kv = event.kv()?;
        Some(match event.event_type() {
            EventType::Put => WatchEvent::Put(entry(kv)),
            EventType::Delete => {
                WatchEvent::Delete { key: String::from_utf8_lossy(kv.key()).into_owned(), version: kv.mod_revision() }
            }
        })
    });
    changes.collect()
}
