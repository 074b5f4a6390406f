//! Frames (RFC 9113, sections 4 and 6): bytes to meaning and back, and what is wrong with each one alone.

/// Bytes of a frame's header.
pub(super) const HEAD_BYTES: usize = 9;
/// Payload that nobody may exceed without having been allowed to; we never allow more.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16_384;
/// What a client says before its first frame.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest window and the largest stream.
pub(super) const BITS_31: u32 = (1 << 31) - 1;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 32;
}

/// Keys of SETTINGS.
pub(super) mod setting {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in super::super) const ENABLE_PUSH: u16 = 2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// An error code of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const PROTOCOL: Self = Self(1);
    pub(super) const FLOW_CONTROL: Self = Self(3);
    pub(super) const FRAME_SIZE: Self = Self(6);
    pub(super) const REFUSED_STREAM: Self = Self(7);
    pub(super) const CANCEL: Self = Self(8);
    pub(super) const COMPRESSION: Self = Self(9);
    pub(super) const ENHANCE_YOUR_CALM: Self = Self(11);

    /// Its name in the protocol.
    pub(super) fn name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied().unwrap_or("an unknown error")
    }
}

/// What the peer did that ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation {
    pub code: Code,
    pub what: &'static str,
}

pub(super) const fn violation(code: Code, what: &'static str) -> Violation {
    Violation { code, what }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & BITS_31 }
    }

    /// Whether it is what a server must say first.
    pub(super) fn is_settings(&self) -> bool {
        self.kind == kind::SETTINGS
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A frame's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// `flow` counts against the windows: padding included.
    Data {
        stream: u32,
        bytes: &'a [u8],
        flow: u32,
        end: bool,
    },
    Headers {
        stream: u32,
        fragment: &'a [u8],
        end: bool,
        complete: bool,
    },
    Continuation {
        stream: u32,
        fragment: &'a [u8],
        complete: bool,
    },
    Reset {
        stream: u32,
        code: Code,
    },
    Settings(Settings<'a>),
    SettingsAck,
    Ping([u8; 8]),
    Pong([u8; 8]),
    GoAway {
        last: u32,
        code: Code,
        words: &'a [u8],
    },
    WindowUpdate {
        stream: u32,
        increment: u32,
    },
    /// Priorities, and what the protocol does not know.
    Ignored,
}

/// Pairs of key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings<'a>(&'a [u8]);

impl Settings<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, u32)> {
        self.0
            .as_chunks()
            .0
            .iter()
            .map(|&[k0, k1, v0, v1, v2, v3]| (u16::from_be_bytes([k0, k1]), u32::from_be_bytes([v0, v1, v2, v3])))
    }
}

const WRONG_SIZE: Violation = violation(Code::FRAME_SIZE, "a frame of the wrong size");
const WRONG_STREAM: Violation = violation(Code::PROTOCOL, "a frame on a stream where it cannot be");

/// Takes a frame apart; the payload has the length that its header says.
pub(super) fn parse(head: Head, payload: &[u8]) -> Result<Frame<'_>, Violation> {
    let stream = head.stream;
    let of_a_stream = matches!(
        head.kind,
        kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION | kind::PUSH_PROMISE
    );
    let of_the_connection = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
    if (of_a_stream && stream == 0) || (of_the_connection && stream != 0) {
        return Err(WRONG_STREAM);
    }
    Ok(match head.kind {
        kind::DATA => {
            let bytes = unpadded(head, payload)?;
            Frame::Data { stream, bytes, flow: payload.len() as u32, end: head.has(flag::END_STREAM) }
        }
        kind::HEADERS => {
            let mut fragment = unpadded(head, payload)?;
            if head.has(flag::PRIORITY) {
                fragment = fragment.get(5..).ok_or(WRONG_SIZE)?;
            }
            Frame::Headers { stream, fragment, end: head.has(flag::END_STREAM), complete: head.has(flag::END_HEADERS) }
        }
        kind::CONTINUATION => Frame::Continuation { stream, fragment: payload, complete: head.has(flag::END_HEADERS) },
        kind::RST_STREAM => Frame::Reset { stream, code: Code(number(payload)?) },
        kind::SETTINGS if head.has(flag::ACK) && payload.is_empty() => Frame::SettingsAck,
        kind::SETTINGS if !head.has(flag::ACK) && payload.len().is_multiple_of(6) => Frame::Settings(Settings(payload)),
        kind::SETTINGS => return Err(WRONG_SIZE),
        kind::PUSH_PROMISE => return Err(violation(Code::PROTOCOL, "a push, which we had forbidden")),
        kind::PING => {
            let opaque = payload.try_into().map_err(|_| WRONG_SIZE)?;
            if head.has(flag::ACK) { Frame::Pong(opaque) } else { Frame::Ping(opaque) }
        }
        kind::GOAWAY => {
            let (fixed, words) = payload.split_at_checked(8).ok_or(WRONG_SIZE)?;
            Frame::GoAway { last: number(&fixed[..4])? & BITS_31, code: Code(number(&fixed[4..])?), words }
        }
        kind::WINDOW_UPDATE => Frame::WindowUpdate { stream, increment: number(payload)? & BITS_31 },
        kind::PRIORITY if payload.len() != 5 => return Err(WRONG_SIZE),
        _ => Frame::Ignored,
    })
}

fn number(payload: &[u8]) -> Result<u32, Violation> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| WRONG_SIZE)
}

fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Violation> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(WRONG_SIZE)?;
    let length = rest.len().checked_sub(usize::from(padding));
    length.map(|length| &rest[..length]).ok_or(violation(Code::PROTOCOL, "a padding longer than its frame"))
}

fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

pub(super) fn write_headers(out: &mut Vec<u8>, stream: u32, parts: [&[u8]; 2]) {
    head(out, parts[0].len() + parts[1].len(), kind::HEADERS, flag::END_HEADERS, stream);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

pub(super) fn write_data(out: &mut Vec<u8>, stream: u32, bytes: &[u8], end: bool) {
    head(out, bytes.len(), kind::DATA, if end { flag::END_STREAM } else { 0 }, stream);
    out.extend_from_slice(bytes);
}

pub(super) fn write_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    head(out, 6 * settings.len(), kind::SETTINGS, 0, 0);
    for (key, value) in settings {
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn write_settings_ack(out: &mut Vec<u8>) {
    head(out, 0, kind::SETTINGS, flag::ACK, 0);
}

pub(super) fn write_ping(out: &mut Vec<u8>, opaque: [u8; 8], ack: bool) {
    head(out, opaque.len(), kind::PING, if ack { flag::ACK } else { 0 }, 0);
    out.extend_from_slice(&opaque);
}

/// We are a client and accept no stream, so the last one is 0.
pub(super) fn write_goaway(out: &mut Vec<u8>, code: Code) {
    head(out, 8, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}
