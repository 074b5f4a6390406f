//! Huffman's code, header blocks and frames alone.

use proptest::prelude::*;

use super::{
    super::{hpack, huffman},
    frame::{self, Code, Frame, HEAD_BYTES, Head},
    frame_of,
};

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn huffmans_code_is_the_protocols() {
    // The examples of RFC 7541, appendix C.
    for (hex, text) in [
        ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
        ("a8eb10649cbf", "no-cache"),
        ("25a849e95bb8e8b4bf", "custom-value"),
        ("6402", "302"),
        ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ("", ""),
    ] {
        assert_eq!(huffman::decode(&bytes_of(hex)).as_deref(), Some(text.as_bytes()), "{hex}");
    }
    // The end symbol, a padding of a whole byte, a padding that is not all ones.
    for hex in ["ffffffff", "6402ff", "f1e3c2e5f23a6ba0ab90f4fe", "00"] {
        assert_eq!(huffman::decode(&bytes_of(hex)), None, "{hex}");
    }
}

#[test]
fn an_answers_headers_are_read_in_every_form() {
    let plain = b"\x88\0\x0bgrpc-status\x0214\0\x0cgrpc-message\x03a%2";
    let fields = hpack::decode(plain).unwrap();
    assert_eq!((fields.http_status, fields.grpc["grpc-status"].to_str().unwrap()), (200, "14"));
    assert_eq!(fields.grpc["grpc-message"], "a%2");
    // A status in letters, Huffman-coded, after the only change of the table that we allow; an entry for a table that has no room.
    let coded = [&b"\x20\x48\x82"[..], &bytes_of("6402"), b"\x40\x0bgrpc-status\x015", b"\x10\x04some\x05thing"].concat();
    let fields = hpack::decode(&coded).unwrap();
    assert_eq!((fields.http_status, fields.grpc.len()), (302, 1));
    assert_eq!(fields.grpc["grpc-status"], "5");
}

#[test]
fn headers_that_rely_on_a_table_are_refused() {
    for block in [
        &b"\xbe"[..],
        b"\xff\x80\x80\x80\x80\x01",
        b"\x3f\xe1\x1f",
        b"\x7e\x01a",
        b"\x88\x20",
        b"\x80",
        b"\x48\x03abc",
        b"\x48\x0599999",
        b"\0\x0bgrpc-status\x01\n",
        b"\0\x7f\xff",
        b"\0",
        b"\0\x81\x00\x00",
    ] {
        assert_eq!(hpack::decode(block).unwrap_err().code, Code::COMPRESSION, "{block:x?}");
    }
}

/// How another implementation reads what we write is seen in `servers`; here: what we write is what we read.
#[test]
fn long_texts_are_written_as_they_are_read() {
    for length in [0, 1, 126, 127, 128, 254, 255, 300, 20_000] {
        let text = "x".repeat(length);
        let block = hpack::request(true, "a", "/b", [("grpc-message", text.as_bytes())].into_iter());
        assert_eq!(hpack::decode(&block).unwrap().grpc["grpc-message"].as_bytes(), text.as_bytes());
    }
}

fn parsed(bytes: &[u8]) -> Frame<'_> {
    let (head, payload) = bytes.split_first_chunk::<HEAD_BYTES>().unwrap();
    frame::parse(Head::parse(head), payload).unwrap()
}

#[test]
fn frames_are_written_as_they_are_read() {
    let mut out = Vec::new();
    let mut written = |write: &dyn Fn(&mut Vec<u8>)| {
        out.clear();
        write(&mut out);
        out.clone()
    };
    let bytes = written(&|out| frame::write_data(out, 5, b"abc", true));
    assert_eq!(parsed(&bytes), Frame::Data { stream: 5, bytes: b"abc", flow: 3, end: true });
    let bytes = written(&|out| frame::write_headers(out, 7, [b"a", b"bc"]));
    assert_eq!(parsed(&bytes), Frame::Headers { stream: 7, fragment: b"abc", end: false, complete: true });
    let bytes = written(&|out| frame::write_reset(out, 9, Code::CANCEL));
    assert_eq!(parsed(&bytes), Frame::Reset { stream: 9, code: Code::CANCEL });
    let bytes = written(&|out| frame::write_ping(out, *b"12345678", true));
    assert_eq!(parsed(&bytes), Frame::Pong(*b"12345678"));
    let bytes = written(&|out| frame::write_goaway(out, Code::PROTOCOL));
    assert_eq!(parsed(&bytes), Frame::GoAway { last: 0, code: Code::PROTOCOL, words: b"" });
    let bytes = written(&|out| frame::write_window_update(out, 3, 77));
    assert_eq!(parsed(&bytes), Frame::WindowUpdate { stream: 3, increment: 77 });
    let bytes = written(&|out| frame::write_settings(out, &[(4, 99), (1, 0)]));
    let Frame::Settings(settings) = parsed(&bytes) else { panic!("{bytes:?}") };
    assert_eq!(settings.iter().collect::<Vec<_>>(), [(4, 99), (1, 0)]);
}

#[test]
fn padding_and_priorities_are_taken_off() {
    let bytes = frame_of(0, 0x8, 1, b"\x02abc\0\0");
    assert_eq!(parsed(&bytes), Frame::Data { stream: 1, bytes: b"abc", flow: 6, end: false });
    let bytes = frame_of(1, 0x2c, 1, b"\x01\0\0\0\0\x10abc\0");
    assert_eq!(parsed(&bytes), Frame::Headers { stream: 1, fragment: b"abc", end: false, complete: true });
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = huffman::decode(&bytes);
        let _ = hpack::decode(&bytes);
        if let Some((head, payload)) = bytes.split_first_chunk::<HEAD_BYTES>() {
            let _ = frame::parse(Head::parse(head), payload);
        }
    }
}
