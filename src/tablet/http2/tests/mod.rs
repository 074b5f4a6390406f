//! The client's half of HTTP/2: its parts alone, hostile peers, and real servers.

mod codes;
mod hostile;
mod servers;
mod silence;

use std::task::{Context, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Lost,
    connection::Connection,
    encode_head,
    frame::{self, Code, HEAD_BYTES, Head, PREFACE, Violation},
    stream::{End, Request},
};

/// An empty SETTINGS frame: what a server says first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// `:status 200`, and the trailers `grpc-status 0`.
const OK_HEAD: &[u8] = b"\x88";
const OK_END: &[u8] = b"\0\x0bgrpc-status\x010";

fn request(body: usize, answer_bytes_max: Option<usize>) -> Request {
    let head = encode_head(false, "10.0.0.1:15100", "/a.B/C", [("te", &b"trailers"[..])].into_iter());
    Request { head, body: Bytes::from(vec![7; body]), answer_bytes_max }
}

/// A frame as a server writes it.
fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A connection that was greeted, with calls under way: 1, 3, ... read as a whole, and the last one as it comes.
fn connection(calls: usize) -> Connection {
    let mut connection = Connection::new(Instant::now());
    connection.receive(&SETTINGS, Instant::now()).unwrap();
    for call in 1..=calls {
        connection.open(request(10, Some(1000).filter(|_| call < calls || calls == 1))).unwrap();
    }
    written(&mut connection);
    connection
}

fn receive(connection: &mut Connection, bytes: &[u8]) -> Result<(), Violation> {
    connection.receive(bytes, Instant::now())
}

/// The frames that it writes now: type, stream, payload.
fn written(connection: &mut Connection) -> Vec<(u8, u32, Vec<u8>)> {
    let mut out = Vec::new();
    connection.transmit(&mut out);
    let mut rest = out.strip_prefix(PREFACE).unwrap_or(&out);
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let (payload, after) = after.split_at(Head::parse(head).length);
        frames.push((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload.to_vec()));
        rest = after;
    }
    frames
}

fn end_of(connection: &mut Connection, stream: u32) -> Option<(u16, Vec<u8>, End)> {
    match connection.poll_whole(stream, &mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(end) => Some(end),
        std::task::Poll::Pending => None,
    }
}

fn code(result: Result<(), Violation>) -> Code {
    result.map_or_else(|violation| violation.code, |()| Code::NO_ERROR)
}
