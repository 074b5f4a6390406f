//! One exchange on a connection: what is still to be sent, and what came back.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::{
    Lost, Part,
    frame::{self, Code, PAYLOAD_BYTES_MAX, Violation, violation},
    hpack::{self, Fields},
};
use crate::shard::FailureClass;

/// What a stream may send before its reader has taken anything.
pub(super) const WINDOW: u32 = 1 << 20;

/// A request, ready to be sent.
pub(in super::super) struct Request {
    /// The encoded headers.
    pub head: Vec<u8>,
    /// The body; never empty.
    pub body: Bytes,
    /// Longest answer where it is read as a whole; `None` for one that is read as it comes.
    pub answer_bytes_max: Option<usize>,
}

/// How the answer ended.
#[derive(Debug)]
pub(in super::super) enum End {
    /// With the headers that gRPC puts at the end (or, in an error, instead of an answer).
    Trailers(Box<Fields>),
    /// Without them.
    Bare,
    /// Not at all.
    Broken(Lost),
    /// Not at all, and the request was not sent, or refused unread.
    NotProcessed(Lost),
}

/// What a frame asks the connection to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// It was of no use to anybody.
    Useless,
    /// Let the peer send so many bytes more.
    Replenish(u32),
    /// Tell the peer that this stream is over.
    Reset(Code),
}

pub(super) struct Stream {
    pub id: u32,
    request: Request,
    /// Its headers may have reached the socket.
    pub sent: bool,
    pub send_window: i64,
    /// What the peer may still send, and what of it we have used up without saying so.
    window: u32,
    owed: u32,
    /// HTTP's status, once the answer has begun.
    http_status: u16,
    data: Vec<u8>,
    end: Option<End>,
    reader: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, request: Request, send_window: i64) -> Self {
        Self {
            id,
            request,
            sent: false,
            send_window,
            window: WINDOW,
            owed: 0,
            http_status: 0,
            data: Vec::new(),
            end: None,
            reader: None,
        }
    }

    /// Whether it is open on the wire.
    pub(super) fn is_open(&self) -> bool {
        self.sent && self.end.is_none()
    }

    /// Whether its answer has ended.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Whether a part of the request waits for a window.
    pub(super) fn is_sending(&self) -> bool {
        self.is_open() && !self.request.body.is_empty()
    }

    /// Ends it for its reader.
    pub(super) fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.request.body = Bytes::new();
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// It broke: what the peer cannot have seen is not sent.
    pub(super) fn fail(&mut self, lost: &Lost) {
        self.finish(if self.sent { End::Broken(lost.clone()) } else { End::NotProcessed(lost.clone()) });
    }

    fn odd(&mut self, code: Code, reason: String) -> Then {
        self.finish(End::Broken(Lost { class: FailureClass::Answered, reason }));
        Then::Reset(code)
    }

    /// Writes the headers.
    pub(super) fn send_head(&mut self, is_first: bool, out: &mut Vec<u8>) {
        self.sent = true;
        let update = if is_first { hpack::NO_TABLE } else { &[] };
        frame::write_headers(out, self.id, [update, &self.request.head]);
        self.request.head = Vec::new();
    }

    /// Writes at most one frame of the body, as far as the windows allow; how many bytes that were.
    pub(super) fn send_body(&mut self, connection_window: i64, out: &mut Vec<u8>) -> usize {
        let window = usize::try_from(self.send_window.min(connection_window)).unwrap_or(0);
        let length = self.request.body.len().min(window).min(PAYLOAD_BYTES_MAX);
        if length > 0 {
            let bytes = self.request.body.split_to(length);
            self.send_window -= length as i64;
            frame::write_data(out, self.id, &bytes, self.request.body.is_empty());
        }
        length
    }

    /// The answer begins, or ends.
    pub(super) fn receive_fields(&mut self, fields: Fields, end: bool) -> Then {
        let begun = self.http_status != 0;
        match fields.http_status {
            100..200 if !begun && !end => return Then::Useless,
            0 if begun && end => {}
            1.. if !begun => self.http_status = fields.http_status,
            _ => return self.odd(Code::PROTOCOL, "an answer whose headers are in disorder".to_owned()),
        }
        if !end && !fields.grpc.contains_key("grpc-status") {
            self.wake();
            return Then::Nothing;
        }
        let sending = self.is_sending();
        self.finish(End::Trailers(Box::new(fields)));
        if sending || !end { Then::Reset(Code::CANCEL) } else { Then::Nothing }
    }

    /// A part of the answer; `flow` counts against the window.
    pub(super) fn receive_data(&mut self, bytes: &[u8], flow: u32, end: bool) -> Result<Then, Violation> {
        if self.http_status == 0 {
            return Ok(self.odd(Code::PROTOCOL, "an answer without headers".to_owned()));
        }
        let beyond = violation(Code::FLOW_CONTROL, "more data than the window of its stream");
        self.window = self.window.checked_sub(flow).ok_or(beyond)?;
        self.data.extend_from_slice(bytes);
        if let Some(bytes_max) = self.request.answer_bytes_max
            && self.data.len() > bytes_max
        {
            self.data = Vec::new();
            return Ok(self.odd(Code::CANCEL, format!("an answer of more than {bytes_max} bytes")));
        }
        if end {
            let sending = self.is_sending();
            self.finish(End::Bare);
            return Ok(if sending { Then::Reset(Code::CANCEL) } else { Then::Nothing });
        }
        if bytes.is_empty() {
            self.window += flow;
            return Ok(if flow > 0 { Then::Replenish(flow) } else { Then::Useless });
        }
        // What is read as it comes counts as used once its reader has taken it.
        let used = match self.request.answer_bytes_max {
            Some(_) => flow,
            None => {
                self.wake();
                flow - bytes.len() as u32
            }
        };
        Ok(self.replenish(used))
    }

    fn replenish(&mut self, used: u32) -> Then {
        self.owed += used;
        if self.owed < WINDOW / 2 {
            return Then::Nothing;
        }
        self.window += self.owed;
        Then::Replenish(std::mem::take(&mut self.owed))
    }

    /// HTTP's status, and what else there is once the answer has ended.
    pub(super) fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<(u16, Vec<u8>, End)> {
        match self.end.take() {
            Some(end) => Poll::Ready((self.http_status, std::mem::take(&mut self.data), end)),
            None => self.wait(cx),
        }
    }

    /// Whether the answer has begun, or ended before.
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        // Headers that begin an answer and end it are an error's.
        let unbegun = self.http_status == 0;
        match self.end.take_if(|end| unbegun || matches!(end, End::Trailers(fields) if fields.http_status != 0)) {
            Some(end) => Poll::Ready(Some(end)),
            None if self.http_status != 0 => Poll::Ready(None),
            None => self.wait(cx),
        }
    }

    /// What has come since it was asked for the last time, and what the taking of it lets the peer send.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<(Part, Then)> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            let then = if self.end.is_some() { Then::Nothing } else { self.replenish(data.len() as u32) };
            return Poll::Ready((Part::Data(data), then));
        }
        match self.end.take() {
            Some(end) => Poll::Ready((Part::End(end), Then::Nothing)),
            None => self.wait(cx),
        }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
