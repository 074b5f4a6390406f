//! A client's half of a connection (RFC 9113): bytes and requests in, bytes and answers out. It does no I/O and has no clock.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Lost, Part,
    frame::{self, BITS_31, Code, Frame, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, Settings, Violation, setting, violation},
    hpack,
    stream::{End, Request, Stream, Then, WINDOW},
};
use crate::shard::FailureClass;

/// Longest header block; an answer's has some hundred bytes, and an error's words are in it.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// A header block in more parts than this is none.
const BLOCK_PARTS_MAX: u32 = 64;
/// Unsent acknowledgements and the like: a peer that causes more and reads none of them is up to no good.
const CONTROL_BYTES_MAX: usize = 16 << 10;
/// How much is written at once, about: what is not yet written can still be cancelled as if it had never been.
const WRITE_BYTES: usize = 64 << 10;
/// Frames of no use to anybody that are tolerated in [`USELESS_PERIOD`].
const USELESS_MAX: u32 = 10_000;
const USELESS_PERIOD: Duration = Duration::from_secs(10);
/// The windows that both sides begin with.
const WINDOW_AT_FIRST: u32 = 65_535;

/// What is sent by a ping and has to come back.
const PING: [u8; 8] = *b"elector?";

/// What the peer allows.
struct Peer {
    window: i64,
    streams_max: usize,
}

/// A header block of which only a part has come.
struct Block {
    stream: u32,
    end: bool,
    parts: u32,
    bytes: Vec<u8>,
}

/// The state of a connection.
pub(super) struct Connection {
    /// In the order of their ids; those that were not sent yet are the last.
    streams: Vec<Stream>,
    next_id: u32,
    /// The last stream that was opened.
    opened: u32,
    spoken: bool,
    peer: Peer,
    send_window: i64,
    window: u32,
    owed: u32,
    /// What is to be sent besides requests.
    control: Vec<u8>,
    /// A frame of which only a part has come.
    partial: Vec<u8>,
    block: Option<Box<Block>>,
    useless: u32,
    useless_since: Instant,
    /// Why no new call can be made.
    closing: Option<Lost>,
}

impl Connection {
    /// A connection whose first words wait to be sent.
    pub(super) fn new(now: Instant) -> Self {
        let mut control = frame::PREFACE.to_vec();
        let settings = [
            (setting::HEADER_TABLE_SIZE, 0),
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, BLOCK_BYTES_MAX as u32),
        ];
        frame::write_settings(&mut control, &settings);
        frame::write_window_update(&mut control, 0, WINDOW - WINDOW_AT_FIRST);
        Self {
            streams: Vec::new(),
            next_id: 1,
            opened: 0,
            spoken: false,
            peer: Peer { window: i64::from(WINDOW_AT_FIRST), streams_max: usize::MAX },
            send_window: i64::from(WINDOW_AT_FIRST),
            window: WINDOW,
            owed: 0,
            control,
            partial: Vec::new(),
            block: None,
            useless: 0,
            useless_since: now,
            closing: None,
        }
    }

    /// Whether the peer has said what a server must say first.
    pub(super) fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// Whether a call is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.streams.iter().any(Stream::is_open)
    }

    /// Why no new call can be made.
    pub(super) fn closing(&self) -> Option<&Lost> {
        self.closing.as_ref()
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_done(&self) -> bool {
        self.closing.is_some() && !self.is_busy()
    }

    // ---- what we want

    /// Takes a request; it is sent when the peer allows one more. Returns the stream's id.
    pub(super) fn open(&mut self, request: Request) -> Result<u32, Lost> {
        if let Some(lost) = &self.closing {
            return Err(lost.clone());
        }
        if self.next_id > BITS_31 {
            let lost =
                Lost { class: FailureClass::Closed, reason: "the connection has had all the calls that it can have".to_owned() };
            return Err(self.closing.insert(lost).clone());
        }
        if request.head.len() + hpack::NO_TABLE.len() > PAYLOAD_BYTES_MAX {
            return Err(Lost { class: FailureClass::Silent, reason: "the call's metadata is too long".to_owned() });
        }
        let id = self.next_id;
        self.next_id += 2;
        // Most connections have one or two streams all their lives.
        if self.streams.len() == self.streams.capacity() {
            self.streams.reserve_exact(self.streams.len().max(1));
        }
        self.streams.push(Stream::new(id, request, self.peer.window));
        Ok(id)
    }

    /// Nobody waits for this stream any more.
    pub(super) fn close(&mut self, id: u32) {
        if let Some(place) = self.place(id)
            && self.remove(place).is_open()
        {
            frame::write_reset(&mut self.control, id, Code::CANCEL);
        }
    }

    fn remove(&mut self, place: usize) -> Stream {
        let stream = self.streams.remove(place);
        if self.streams.len() * 4 <= self.streams.capacity() {
            self.streams.shrink_to(self.streams.len() * 2);
        }
        stream
    }

    /// Whether any byte of it may have reached the socket.
    pub(super) fn was_sent(&self, id: u32) -> bool {
        self.place(id).is_none_or(|place| self.streams[place].sent)
    }

    /// See [`Stream::poll_whole`]; the stream is gone then.
    pub(super) fn poll_whole(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<(u16, Vec<u8>, End)> {
        let Some(place) = self.place(id) else { return Poll::Ready((0, Vec::new(), End::Bare)) };
        let whole = self.streams[place].poll_whole(cx);
        self.forget_if(whole.is_ready(), place);
        whole
    }

    /// See [`Stream::poll_begun`].
    pub(super) fn poll_begun(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let Some(place) = self.place(id) else { return Poll::Ready(Some(End::Bare)) };
        let begun = self.streams[place].poll_begun(cx);
        self.forget_if(matches!(begun, Poll::Ready(Some(_))), place);
        begun
    }

    /// See [`Stream::poll_part`].
    pub(super) fn poll_part(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Part> {
        let Some(place) = self.place(id) else { return Poll::Ready(Part::End(End::Bare)) };
        self.streams[place].poll_part(cx).map(|(part, then)| {
            self.forget_if(matches!(part, Part::End(_)), place);
            if let Then::Replenish(bytes) = then {
                frame::write_window_update(&mut self.control, id, bytes);
            }
            part
        })
    }

    fn forget_if(&mut self, over: bool, place: usize) {
        if over {
            self.remove(place);
        }
    }

    fn place(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    /// Asks the peer whether it lives.
    pub(super) fn ping(&mut self) {
        frame::write_ping(&mut self.control, PING, false);
    }

    /// It is over: every call ends, and no new one is taken.
    pub(super) fn fail(&mut self, lost: Lost) {
        self.streams.iter_mut().for_each(|stream| stream.fail(&lost));
        self.closing.get_or_insert(lost);
    }

    /// It is over because of what the peer did, which it will be told if it listens.
    pub(super) fn break_off(&mut self, violation: Violation) -> Lost {
        self.control.clear();
        frame::write_goaway(&mut self.control, violation.code);
        let reason = format!("the other side breaks HTTP/2's rules ({}): {}", violation.code.name(), violation.what);
        let lost = Lost { class: FailureClass::Closed, reason };
        self.fail(lost.clone());
        lost
    }

    /// Whether there is something to say, or to say when the peer allows it.
    pub(super) fn has_news(&self) -> bool {
        !self.control.is_empty() || self.streams.iter().any(|stream| !stream.sent)
    }

    /// Appends what is to be written next. What is appended counts as sent.
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            *out = std::mem::take(&mut self.control);
        } else {
            out.append(&mut self.control);
        }
        let mut open = self.streams.iter().filter(|stream| stream.is_open()).count();
        let mut progress = true;
        while progress && out.len() < WRITE_BYTES {
            progress = false;
            for stream in &mut self.streams {
                if stream.is_over() || out.len() >= WRITE_BYTES {
                    continue;
                }
                if !stream.sent {
                    if open >= self.peer.streams_max {
                        break;
                    }
                    stream.send_head(self.opened == 0, out);
                    self.opened = stream.id;
                    open += 1;
                }
                let sent = stream.send_body(self.send_window, out);
                self.send_window -= sent as i64;
                progress |= sent > 0;
            }
        }
    }

    // ---- what the peer says

    /// Takes what was read.
    pub(super) fn receive(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Violation> {
        if now.saturating_duration_since(self.useless_since) >= USELESS_PERIOD {
            (self.useless, self.useless_since) = (0, now);
        }
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                let Some((head, payload)) = self.split(bytes)? else { break };
                bytes = &bytes[HEAD_BYTES + payload.len()..];
                self.take(head, payload)?;
            } else {
                // The rest of the header, and then the rest of the frame.
                let whole = match self.partial.first_chunk() {
                    None => HEAD_BYTES,
                    Some(head) => HEAD_BYTES + self.checked(Head::parse(head))?.length,
                };
                let missing = (whole - self.partial.len()).min(bytes.len());
                self.partial.reserve_exact(whole - self.partial.len());
                self.partial.extend_from_slice(&bytes[..missing]);
                bytes = &bytes[missing..];
                if let Some((head, _)) = self.split(&self.partial)? {
                    let partial = std::mem::take(&mut self.partial);
                    self.take(head, &partial[HEAD_BYTES..])?;
                }
            }
        }
        if let Some(head) = bytes.first_chunk() {
            self.checked(Head::parse(head))?;
        }
        self.partial.extend_from_slice(bytes);
        if self.control.len() > CONTROL_BYTES_MAX {
            return Err(violation(Code::ENHANCE_YOUR_CALM, "it asks for answers and reads none"));
        }
        Ok(())
    }

    /// A frame that would be too long, or is no answer to a greeting, is refused before the rest of it is awaited.
    fn checked(&self, head: Head) -> Result<Head, Violation> {
        if !self.spoken && !head.is_settings() {
            return Err(violation(Code::PROTOCOL, "its first frame is not SETTINGS"));
        }
        if head.length > PAYLOAD_BYTES_MAX {
            return Err(violation(Code::FRAME_SIZE, "a frame that is too long"));
        }
        Ok(head)
    }

    /// The first whole frame.
    fn split<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Head, &'a [u8])>, Violation> {
        let Some((head, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let head = self.checked(Head::parse(head))?;
        Ok(rest.get(..head.length).map(|payload| (head, payload)))
    }

    /// Whether the connection may end here without a frame being cut in two.
    pub(super) fn is_between_frames(&self) -> bool {
        self.partial.is_empty() && self.block.is_none()
    }

    fn take(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let frame = frame::parse(head, payload)?;
        if !self.spoken && !matches!(frame, Frame::Settings(_)) {
            return Err(violation(Code::PROTOCOL, "its first frame is not SETTINGS"));
        }
        if self.block.is_some() && !matches!(frame, Frame::Continuation { .. }) {
            return Err(violation(Code::PROTOCOL, "headers that were interrupted"));
        }
        match frame {
            Frame::Settings(settings) => self.settings(settings),
            Frame::Data { stream, bytes, flow, end } => self.data(stream, bytes, flow, end),
            Frame::Headers { stream, fragment, end, complete } => self.headers(stream, fragment, end, complete),
            Frame::Continuation { stream, fragment, complete } => self.continuation(stream, fragment, complete),
            Frame::Reset { stream, code } => self.reset(stream, code),
            Frame::GoAway { last, code, words } => {
                self.go_away(last, code, words);
                self.useless()
            }
            Frame::WindowUpdate { stream, increment } => self.window_update(stream, increment),
            Frame::Ping(opaque) => {
                frame::write_ping(&mut self.control, opaque, true);
                self.useless()
            }
            Frame::SettingsAck | Frame::Pong(_) | Frame::Ignored => self.useless(),
        }
    }

    fn useless(&mut self) -> Result<(), Violation> {
        self.useless += 1;
        if self.useless > USELESS_MAX {
            return Err(violation(Code::ENHANCE_YOUR_CALM, "it keeps us busy with nothing"));
        }
        Ok(())
    }

    fn settings(&mut self, settings: Settings<'_>) -> Result<(), Violation> {
        for (key, value) in settings.iter() {
            match key {
                setting::MAX_CONCURRENT_STREAMS => self.peer.streams_max = value as usize,
                setting::INITIAL_WINDOW_SIZE if value > BITS_31 => {
                    return Err(violation(Code::FLOW_CONTROL, "a window that is too large"));
                }
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.peer.window;
                    self.peer.window += change;
                    for stream in &mut self.streams {
                        stream.send_window = widened(stream.send_window, change)?;
                    }
                }
                setting::MAX_FRAME_SIZE if !(PAYLOAD_BYTES_MAX as u32..1 << 24).contains(&value) => {
                    return Err(violation(Code::PROTOCOL, "an impossible size of frames"));
                }
                setting::ENABLE_PUSH if value != 0 => return Err(violation(Code::PROTOCOL, "a server that allows pushes")),
                _ => {}
            }
        }
        self.spoken = true;
        frame::write_settings_ack(&mut self.control);
        self.useless()
    }

    /// The place of a stream that the peer may speak of; `None` where we have forgotten it.
    fn known(&self, stream: u32) -> Result<Option<usize>, Violation> {
        if stream.is_multiple_of(2) || stream > self.opened {
            return Err(violation(Code::PROTOCOL, "a frame on a stream that was never opened"));
        }
        Ok(self.place(stream).filter(|&place| self.streams[place].is_open()))
    }

    fn act(&mut self, stream: u32, then: Then) -> Result<(), Violation> {
        match then {
            Then::Nothing => {}
            Then::Useless => return self.useless(),
            Then::Replenish(bytes) => frame::write_window_update(&mut self.control, stream, bytes),
            Then::Reset(code) => frame::write_reset(&mut self.control, stream, code),
        }
        Ok(())
    }

    fn data(&mut self, stream: u32, bytes: &[u8], flow: u32, end: bool) -> Result<(), Violation> {
        let beyond = violation(Code::FLOW_CONTROL, "more data than the window of the connection");
        self.window = self.window.checked_sub(flow).ok_or(beyond)?;
        // What is not read stays within the windows of the streams; here it only passes.
        self.owed += flow;
        if self.owed >= WINDOW / 2 {
            frame::write_window_update(&mut self.control, 0, self.owed);
            self.window += std::mem::take(&mut self.owed);
        }
        let Some(place) = self.known(stream)? else { return self.useless() };
        let then = self.streams[place].receive_data(bytes, flow, end)?;
        self.act(stream, then)
    }

    fn headers(&mut self, stream: u32, fragment: &[u8], end: bool, complete: bool) -> Result<(), Violation> {
        if complete {
            return self.fields(stream, fragment, end);
        }
        self.known(stream)?;
        self.block = Some(Box::new(Block { stream, end, parts: 1, bytes: fragment.to_vec() }));
        Ok(())
    }

    fn continuation(&mut self, stream: u32, fragment: &[u8], complete: bool) -> Result<(), Violation> {
        let Some(mut block) = self.block.take().filter(|block| block.stream == stream) else {
            return Err(violation(Code::PROTOCOL, "a continuation of nothing"));
        };
        block.parts += 1;
        if block.parts > BLOCK_PARTS_MAX || block.bytes.len() + fragment.len() > BLOCK_BYTES_MAX {
            return Err(violation(Code::ENHANCE_YOUR_CALM, "headers without an end"));
        }
        block.bytes.extend_from_slice(fragment);
        if complete {
            return self.fields(stream, &block.bytes, block.end);
        }
        self.block = Some(block);
        Ok(())
    }

    fn fields(&mut self, stream: u32, block: &[u8], end: bool) -> Result<(), Violation> {
        let place = self.known(stream)?;
        let fields = hpack::decode(block)?;
        let Some(place) = place else { return self.useless() };
        let then = self.streams[place].receive_fields(fields, end);
        if then != Then::Useless {
            // Some useless frames belong to each call: a server in Go measures the network with pings.
            self.useless = 0;
        }
        self.act(stream, then)
    }

    fn reset(&mut self, stream: u32, code: Code) -> Result<(), Violation> {
        let Some(place) = self.known(stream)? else { return self.useless() };
        let lost = Lost { class: FailureClass::Closed, reason: format!("the tablet has broken off the call ({})", code.name()) };
        self.streams[place].finish(match code {
            Code::REFUSED_STREAM => End::NotProcessed(lost),
            _ => End::Broken(lost),
        });
        Ok(())
    }

    fn go_away(&mut self, last: u32, code: Code, words: &[u8]) {
        let words: String = String::from_utf8_lossy(words).chars().filter(|c| !c.is_control()).take(100).collect();
        let reason = match (code, words.is_empty()) {
            (Code::NO_ERROR, true) => "it closes the connection".to_owned(),
            (code, true) => format!("it closes the connection ({})", code.name()),
            (code, false) => format!("it closes the connection ({}: {words})", code.name()),
        };
        let lost = Lost { class: FailureClass::Closed, reason };
        // A farewell speaks of the connection. What had been sent on it counts as sent: nobody repeats a promotion on its word.
        for stream in self.streams.iter_mut().filter(|stream| stream.id > last || !stream.sent) {
            stream.fail(&lost);
        }
        self.closing.get_or_insert(lost);
    }

    fn window_update(&mut self, stream: u32, increment: u32) -> Result<(), Violation> {
        let nothing = violation(Code::PROTOCOL, "a window that grows by nothing");
        if stream == 0 {
            self.send_window = widened(self.send_window, i64::from(increment))?;
            if increment == 0 {
                return Err(nothing);
            }
            return if self.streams.iter().any(Stream::is_sending) { Ok(()) } else { self.useless() };
        }
        let Some(place) = self.known(stream)? else { return self.useless() };
        if increment == 0 {
            return Err(nothing);
        }
        let stream = &mut self.streams[place];
        stream.send_window = widened(stream.send_window, i64::from(increment))?;
        if stream.is_sending() { Ok(()) } else { self.useless() }
    }
}

fn widened(window: i64, by: i64) -> Result<i64, Violation> {
    let window = window + by;
    if window > i64::from(BITS_31) {
        return Err(violation(Code::FLOW_CONTROL, "a window that is too large"));
    }
    Ok(window)
}
