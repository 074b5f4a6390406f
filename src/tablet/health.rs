//! A tablet's health stream: messages as they come, over the tablet's own connection.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use prost::Message;
use tonic::Code;

use super::{
    HealthStream, TabletError, TabletErrorKind,
    http2::{End, Exchange, Part},
    link::{Link, Lost, PREFIX_BYTES},
};
use crate::{pb::query::StreamHealthResponse, shard::FailureClass, topo::TabletAlias};

/// The method, for errors.
pub(super) const METHOD: &str = "StreamHealth";

/// Longest message; one has some hundred bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A stream that is being read. It keeps its connection, also where calls have got a new one since.
pub(super) struct Reading {
    pub alias: TabletAlias,
    pub link: Arc<Link>,
    pub body: Exchange,
}

/// How a stream goes on.
enum Next {
    Message(Box<Result<StreamHealthResponse, TabletError>>),
    End,
}

/// The stream's messages. Its end is an error as well: a tablet never ends it while it lives.
pub(super) fn messages(reading: Reading) -> HealthStream {
    let state = Some((reading, BytesMut::new()));
    let stream = stream::unfold(state, |state| async move {
        let (mut reading, mut buffer) = state?;
        match reading.next(&mut buffer).await {
            Next::Message(message) => match *message {
                Ok(message) => Some((Ok(message), Some((reading, buffer)))),
                Err(error) => Some((Err(error), None)),
            },
            Next::End => Some((Err(reading.ended(FailureClass::Closed, "the tablet has ended the stream".to_owned())), None)),
        }
    });
    Box::pin(stream)
}

impl Reading {
    async fn next(&mut self, buffer: &mut BytesMut) -> Next {
        loop {
            match take(buffer) {
                Ok(Some(bytes)) => {
                    let unreadable = |error: prost::DecodeError| self.ended(FailureClass::Answered, error.to_string());
                    return Next::Message(Box::new(StreamHealthResponse::decode(bytes).map_err(unreadable)));
                }
                Ok(None) => {}
                Err(problem) => return Next::Message(Box::new(Err(self.ended(FailureClass::Answered, problem.to_owned())))),
            }
            let lost = match self.body.part().await {
                Part::Data(data) => {
                    buffer.extend_from_slice(&data);
                    continue;
                }
                Part::End(End::Bare) => return Next::End,
                Part::End(End::Trailers(fields)) => {
                    let status = tonic::Status::from_header_map(&fields.grpc);
                    let Some(status) = status.filter(|status| status.code() != Code::Ok) else { return Next::End };
                    let error = TabletError::answered(self.alias.clone(), METHOD, status.code(), status.message());
                    return Next::Message(Box::new(Err(error)));
                }
                Part::End(End::Broken(lost) | End::NotProcessed(lost)) => lost,
            };
            let Lost { class, reason } = lost;
            return Next::Message(Box::new(Err(self.ended(class, reason))));
        }
    }

    fn ended(&self, class: FailureClass, reason: String) -> TabletError {
        let (kind, message) = (TabletErrorKind::UnknownOutcome, format!("the stream from {}: {reason}", self.link.endpoint()));
        let (alias, lost) = (self.alias.clone(), Some(class).filter(|class| *class != FailureClass::Answered));
        TabletError { alias, method: METHOD, kind, code: Code::Unavailable, lost, message }
    }
}

/// The next whole message in the buffer.
fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some(prefix) = buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 || length > MESSAGE_BYTES_MAX {
        return Err("a message that is compressed or too long");
    }
    if buffer.len() < PREFIX_BYTES + length {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    let message = buffer.split_to(length).freeze();
    // Thousands of streams wait for their next message; none keeps room for it.
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
    Ok(Some(message))
}
