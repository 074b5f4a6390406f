//! Peers that break the rules, by mistake or on purpose: the connection ends with a reason, and holds no more than it may.

use proptest::prelude::*;
use tokio::time::Instant;

use super::{super::stream::WINDOW, *};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[test]
fn each_rule_that_is_broken_ends_the_connection() {
    let cases: &[(&str, Vec<u8>, Code)] = &[
        ("data on stream 0", frame_of(DATA, 0, 0, b"x"), Code::PROTOCOL),
        ("headers on stream 0", frame_of(HEADERS, END_HEADERS, 0, OK_HEAD), Code::PROTOCOL),
        ("a stream of the server's own", frame_of(HEADERS, END_HEADERS, 2, OK_HEAD), Code::PROTOCOL),
        ("headers of a call that was never made", frame_of(HEADERS, END_HEADERS, 9, OK_HEAD), Code::PROTOCOL),
        ("data of a call that was never made", frame_of(DATA, 0, 9, b"x"), Code::PROTOCOL),
        ("the end of a call that was never made", frame_of(RST_STREAM, 0, 9, &[0; 4]), Code::PROTOCOL),
        ("a push", frame_of(5, END_HEADERS, 1, b"\0\0\0\x02\x88"), Code::PROTOCOL),
        ("settings of five bytes", frame_of(4, 0, 0, &[0; 5]), Code::FRAME_SIZE),
        ("settings of a stream", frame_of(4, 0, 1, &[]), Code::PROTOCOL),
        ("an acknowledgement that says something", frame_of(4, 1, 0, &[0; 6]), Code::FRAME_SIZE),
        ("a window of 2 GiB", frame_of(4, 0, 0, &[0, 4, 0x80, 0, 0, 0]), Code::FLOW_CONTROL),
        ("frames of one byte", frame_of(4, 0, 0, &[0, 5, 0, 0, 0, 1]), Code::PROTOCOL),
        ("pushes allowed", frame_of(4, 0, 0, &[0, 2, 0, 0, 0, 1]), Code::PROTOCOL),
        ("a ping of seven bytes", frame_of(PING, 0, 0, &[0; 7]), Code::FRAME_SIZE),
        ("a ping on a stream", frame_of(PING, 0, 1, &[0; 8]), Code::PROTOCOL),
        ("half a farewell", frame_of(GOAWAY, 0, 0, &[0; 7]), Code::FRAME_SIZE),
        ("a farewell on a stream", frame_of(GOAWAY, 0, 1, &[0; 8]), Code::PROTOCOL),
        ("a window that grows by nothing", frame_of(WINDOW_UPDATE, 0, 0, &[0; 4]), Code::PROTOCOL),
        ("a window beyond the limit", frame_of(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), Code::FLOW_CONTROL),
        ("a stream's window beyond the limit", frame_of(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]), Code::FLOW_CONTROL),
        ("a continuation of nothing", frame_of(CONTINUATION, END_HEADERS, 1, OK_HEAD), Code::PROTOCOL),
        ("a padding longer than its frame", frame_of(DATA, 8, 1, &[9, 0]), Code::PROTOCOL),
        ("a priority of four bytes", frame_of(2, 0, 1, &[0; 4]), Code::FRAME_SIZE),
        ("a frame that is too long", b"\0\x40\x01\0\0\0\0\0\x01".to_vec(), Code::FRAME_SIZE),
        ("headers that cannot be decoded", frame_of(HEADERS, END_HEADERS, 1, b"\xff"), Code::COMPRESSION),
        (
            "headers that are interrupted",
            [frame_of(HEADERS, 0, 1, OK_HEAD), frame_of(PING, 0, 0, &[0; 8])].concat(),
            Code::PROTOCOL,
        ),
        (
            "headers that are continued elsewhere",
            [frame_of(HEADERS, 0, 1, OK_HEAD), frame_of(CONTINUATION, END_HEADERS, 3, b"")].concat(),
            Code::PROTOCOL,
        ),
    ];
    for (what, bytes, expected) in cases {
        let mut connection = connection(2);
        let result = receive(&mut connection, bytes);
        assert_eq!(code(result), *expected, "{what}");
        let lost = connection.break_off(result.unwrap_err());
        assert!(lost.reason.contains(expected.name()), "{what}: {}", lost.reason);
        let frames = written(&mut connection);
        assert_eq!((frames.len(), frames[0].0, frames[0].2[7]), (1, GOAWAY, expected.0 as u8), "{what}");
        assert!(matches!(end_of(&mut connection, 1), Some((_, _, End::Broken(_)))), "{what}");
        assert!(connection.open(request(1, None)).is_err(), "{what}");
    }
}

#[test]
fn an_answer_in_disorder_costs_only_its_call() {
    let head = frame_of(HEADERS, END_HEADERS, 1, OK_HEAD);
    for (what, bytes) in [
        ("data before headers", frame_of(DATA, 0, 1, b"x")),
        ("no status", frame_of(HEADERS, END_HEADERS, 1, b"\0\x01a\x01b")),
        ("trailers that end nothing", [head.clone(), frame_of(HEADERS, END_HEADERS, 1, b"\0\x01a\x01b")].concat()),
        ("two heads", [head.clone(), head.clone()].concat()),
        ("more than was asked for", [head.clone(), frame_of(DATA, 0, 1, &[0; 1001])].concat()),
    ] {
        let mut connection = connection(2);
        receive(&mut connection, &bytes).unwrap();
        let Some((_, _, End::Broken(lost))) = end_of(&mut connection, 1) else { panic!("{what}") };
        assert_eq!(lost.class, crate::shard::FailureClass::Answered, "{what}");
        assert_eq!(written(&mut connection).iter().map(|(kind, id, _)| (*kind, *id)).collect::<Vec<_>>(), [(RST_STREAM, 1)]);
        receive(&mut connection, &frame_of(HEADERS, END_HEADERS, 3, OK_HEAD)).unwrap();
        assert!(connection.closing().is_none(), "{what}");
    }
}

#[test]
fn data_beyond_the_windows_ends_the_connection() {
    let mut connection = connection(2);
    receive(&mut connection, &frame_of(HEADERS, END_HEADERS, 3, OK_HEAD)).unwrap();
    // Nobody reads call 3, so its window is never made wider.
    let full = frame_of(DATA, 0, 3, &[0; 16_384]);
    for _ in 0..WINDOW / 16_384 {
        receive(&mut connection, &full).unwrap();
    }
    let updates: Vec<u32> = written(&mut connection).iter().map(|(_, stream, _)| *stream).collect();
    assert!(updates.iter().all(|stream| *stream == 0), "only the connection's window: {updates:?}");
    assert_eq!(code(receive(&mut connection, &frame_of(DATA, 0, 3, b"x"))), Code::FLOW_CONTROL);
}

#[test]
fn floods_end_the_connection() {
    let repeated = |bytes: Vec<u8>| {
        let mut connection = connection(2);
        for frame in 1..=20_000 {
            if let Err(violation) = receive(&mut connection, &bytes) {
                assert_eq!(violation.code, Code::ENHANCE_YOUR_CALM);
                return frame;
            }
        }
        panic!("never")
    };
    // Nobody takes the answers.
    assert!(repeated(frame_of(PING, 0, 0, &[0; 8])) < 1100);
    assert!(repeated(SETTINGS.to_vec()) < 2000);
    // Nothing to be answered.
    assert_eq!(repeated(frame_of(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])), 10_000);
    repeated(frame_of(2, 0, 1, &[0; 5]));
    repeated(frame_of(99, 0, 0, b"what?"));
    repeated(frame_of(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    repeated(frame_of(PING, 1, 0, &[0; 8]));

    let mut connection = connection(2);
    receive(&mut connection, &frame_of(HEADERS, END_HEADERS, 1, OK_HEAD)).unwrap();
    let empty = frame_of(DATA, 0, 1, b"").repeat(10_001);
    assert_eq!(code(receive(&mut connection, &empty)), Code::ENHANCE_YOUR_CALM);
}

#[test]
fn pings_at_leisure_are_answered_for_ever() {
    let mut connection = connection(2);
    let begun = Instant::now();
    for second in 0..30_000 {
        let now = begun + std::time::Duration::from_secs(second);
        connection.receive(&frame_of(PING, 0, 0, b"12345678"), now).unwrap();
        assert_eq!(written(&mut connection), [(PING, 0, b"12345678".to_vec())]);
    }
}

#[test]
fn headers_without_an_end_end_the_connection() {
    let mut connection = connection(1);
    receive(&mut connection, &frame_of(HEADERS, 0, 1, OK_HEAD)).unwrap();
    let empty = frame_of(CONTINUATION, 0, 1, b"").repeat(64);
    assert_eq!(code(receive(&mut connection, &empty)), Code::ENHANCE_YOUR_CALM);

    let mut connection = super::connection(1);
    receive(&mut connection, &frame_of(HEADERS, 0, 1, OK_HEAD)).unwrap();
    let long = frame_of(CONTINUATION, 0, 1, &[0; 16_384]).repeat(4);
    assert_eq!(code(receive(&mut connection, &long)), Code::ENHANCE_YOUR_CALM);
}

#[test]
fn a_call_that_was_refused_was_not_processed() {
    let mut connection = connection(2);
    receive(&mut connection, &frame_of(RST_STREAM, 0, 1, &7u32.to_be_bytes())).unwrap();
    assert!(matches!(end_of(&mut connection, 1), Some((_, _, End::NotProcessed(_)))));
    receive(&mut connection, &frame_of(RST_STREAM, 0, 3, &8u32.to_be_bytes())).unwrap();
    assert!(matches!(end_of(&mut connection, 3), Some((_, _, End::Broken(_)))));
    assert!(written(&mut connection).is_empty(), "who ends a call needs not be told");
}

#[test]
fn after_a_farewell_only_what_was_looked_at_goes_on() {
    let mut connection = connection(2);
    let waiting = connection.open(request(1, None)).unwrap();
    let farewell = [&[0, 0, 0, 1, 0, 0, 0, 11][..], b"too_many_pings\n\x1b[1m"].concat();
    receive(&mut connection, &frame_of(GOAWAY, 0, 0, &farewell)).unwrap();
    let Some((_, _, End::Broken(lost))) = end_of(&mut connection, 3) else { panic!("it was sent") };
    assert_eq!(lost.reason, "it closes the connection (ENHANCE_YOUR_CALM: too_many_pings[1m)");
    assert!(matches!(end_of(&mut connection, waiting), Some((_, _, End::NotProcessed(_)))), "it was not sent");
    assert!(connection.open(request(1, None)).is_err());
    assert!(!connection.is_done() && end_of(&mut connection, 1).is_none());
    receive(&mut connection, &frame_of(HEADERS, END_HEADERS, 1, OK_HEAD)).unwrap();
    receive(&mut connection, &frame_of(HEADERS, END_HEADERS | END_STREAM, 1, OK_END)).unwrap();
    assert!(connection.is_done() && matches!(end_of(&mut connection, 1), Some((200, _, End::Trailers(_)))));
}

#[test]
fn calls_above_the_peers_limit_wait_and_count_as_not_sent() {
    let mut connection = Connection::new(Instant::now());
    receive(&mut connection, &frame_of(4, 0, 0, &[0, 3, 0, 0, 0, 1])).unwrap();
    let (first, second) = (connection.open(request(1, None)).unwrap(), connection.open(request(1, None)).unwrap());
    let third = connection.open(request(1, None)).unwrap();
    written(&mut connection);
    assert!(connection.was_sent(first) && !connection.was_sent(second));
    connection.close(second);
    connection.close(first);
    let frames: Vec<_> = written(&mut connection).iter().map(|(kind, id, _)| (*kind, *id)).collect();
    assert_eq!(frames, [(RST_STREAM, first), (HEADERS, third), (DATA, third)]);
    // The one that was given up before it was sent was never opened, and now never can be.
    assert_eq!(receive(&mut connection, &frame_of(DATA, END_STREAM, second, b"")), Ok(()));
}

#[test]
fn windows_that_shrink_below_zero_stop_the_sending_until_they_grow() {
    let mut connection = Connection::new(Instant::now());
    receive(&mut connection, &SETTINGS).unwrap();
    let call = connection.open(request(70_000, None)).unwrap();
    let sent = |connection: &mut Connection| written(connection).iter().filter(|f| f.0 == DATA).map(|f| f.2.len()).sum::<usize>();
    assert_eq!(sent(&mut connection), 65_535);
    receive(&mut connection, &frame_of(WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes())).unwrap();
    receive(&mut connection, &frame_of(4, 0, 0, &[0, 4, 0, 0, 0, 5])).unwrap();
    receive(&mut connection, &frame_of(WINDOW_UPDATE, 0, call, &65_530u32.to_be_bytes())).unwrap();
    assert_eq!(sent(&mut connection), 0, "the window is 0 again");
    receive(&mut connection, &frame_of(WINDOW_UPDATE, 0, call, &3u32.to_be_bytes())).unwrap();
    assert_eq!(sent(&mut connection), 3);
    receive(&mut connection, &frame_of(4, 0, 0, &[0, 4, 0, 0x10, 0, 0])).unwrap();
    assert_eq!(sent(&mut connection), 70_000 - 65_535 - 3);
}

/// What a server could say, well-formed or nearly.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..30),
        Just(OK_HEAD.to_vec()),
        Just(OK_END.to_vec()),
        Just(vec![0, 0, 0, 1]),
        Just(vec![0; 8]),
        Just(vec![0, 4, 0, 0, 1, 0]),
    ];
    (0u8..11, prop_oneof![Just(0), Just(1), Just(4), Just(5), any::<u8>()], 0u32..8, payload)
        .prop_map(|(kind, flags, stream, payload)| frame_of(kind, flags, stream, &payload))
}

/// Feeds it in pieces, and ends like a reader that is always there.
fn fed(bytes: &[u8], piece: usize) -> (Result<(), Violation>, Vec<u8>) {
    let mut connection = connection(3);
    let now = Instant::now();
    let result = bytes.chunks(piece.max(1)).try_for_each(|piece| connection.receive(piece, now));
    let mut out = Vec::new();
    connection.transmit(&mut out);
    for stream in [1, 3, 5] {
        end_of(&mut connection, stream);
        connection.close(stream);
    }
    connection.transmit(&mut Vec::new());
    assert!(!connection.is_busy());
    (result, out)
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_pieces_means_the_same(
        frames in proptest::collection::vec(any_frame(), 0..30),
        cut in 0usize..20,
        piece in 1usize..50,
    ) {
        let mut bytes = frames.concat();
        bytes.truncate(bytes.len().saturating_sub(cut));
        let whole = fed(&bytes, bytes.len());
        prop_assert_eq!(fed(&bytes, piece).0, whole.0);
        prop_assert_eq!(fed(&bytes, piece).1, whole.1);
    }

    #[test]
    fn noise_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..500), piece in 1usize..50) {
        let _ = fed(&bytes, piece);
        let mut connection = Connection::new(Instant::now());
        let _ = bytes.chunks(piece).try_for_each(|piece| connection.receive(piece, Instant::now()));
    }
}
