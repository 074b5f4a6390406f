//! Header blocks (RFC 7541) without a dynamic table: we announce a table of no bytes, and use none ourselves.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    frame::{Code, Violation, violation},
    huffman,
};

/// Entries of the static table.
const STATIC_ENTRIES: usize = 61;
/// Its entries `:status`, and their values.
const STATUS_FIRST: usize = 8;
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];

/// "My dynamic table has no bytes": it must stand at the beginning of a connection's first block.
pub(super) const NO_TABLE: &[u8] = &[0x20];

/// The part of an answer's headers that means something to gRPC.
#[derive(Debug, Default)]
pub(in super::super) struct Fields {
    /// HTTP's status; 0 in trailers.
    pub http_status: u16,
    /// gRPC's status, words and details.
    pub grpc: HeaderMap,
}

const BROKEN: Violation = violation(Code::COMPRESSION, "headers that cannot be decoded");
const NO_TABLE_HERE: Violation = violation(Code::COMPRESSION, "headers that rely on a table which we had forbidden");

/// What is kept of an answer's headers: all else is of no interest.
enum Kept {
    HttpStatus,
    Grpc(HeaderName),
}

/// Decodes a whole block.
pub(super) fn decode(block: &[u8]) -> Result<Fields, Violation> {
    let mut fields = Fields::default();
    let mut rest = block;
    let mut begun = false;
    while let Some(&first) = rest.first() {
        match first {
            0x80.. => match integer(&mut rest, 7)? {
                0 => return Err(BROKEN),
                index @ 1..=STATIC_ENTRIES => {
                    let status = index.checked_sub(STATUS_FIRST).and_then(|entry| STATUSES.get(entry));
                    fields.http_status = status.copied().unwrap_or(fields.http_status);
                }
                _ => return Err(NO_TABLE_HERE),
            },
            0x20..0x40 if begun => return Err(BROKEN),
            0x20..0x40 => {
                if integer(&mut rest, 5)? > 0 {
                    return Err(NO_TABLE_HERE);
                }
                continue;
            }
            // An entry for the dynamic table is one that does not fit; it is a literal like the others.
            0x40..0x80 => literal(&mut rest, 6, &mut fields)?,
            _ => literal(&mut rest, 4, &mut fields)?,
        }
        begun = true;
    }
    Ok(fields)
}

fn literal(rest: &mut &[u8], prefix: u8, fields: &mut Fields) -> Result<(), Violation> {
    let kept = match integer(rest, prefix)? {
        0 => kept(&text(rest)?.read()?),
        index if index > STATIC_ENTRIES => return Err(NO_TABLE_HERE),
        index => (STATUS_FIRST..STATUS_FIRST + STATUSES.len()).contains(&index).then_some(Kept::HttpStatus),
    };
    let value = text(rest)?;
    match kept {
        None => {}
        Some(Kept::HttpStatus) => {
            let value = value.read()?;
            let status = std::str::from_utf8(&value).ok().and_then(|digits| digits.parse().ok());
            fields.http_status = status.filter(|status| (100..1000).contains(status)).ok_or(BROKEN)?;
        }
        Some(Kept::Grpc(name)) => {
            fields.grpc.insert(name, HeaderValue::from_bytes(&value.read()?).map_err(|_| BROKEN)?);
        }
    }
    Ok(())
}

fn kept(name: &[u8]) -> Option<Kept> {
    Some(match name {
        b":status" => Kept::HttpStatus,
        b"grpc-status" => Kept::Grpc(HeaderName::from_static("grpc-status")),
        b"grpc-message" => Kept::Grpc(HeaderName::from_static("grpc-message")),
        b"grpc-status-details-bin" => Kept::Grpc(HeaderName::from_static("grpc-status-details-bin")),
        _ => return None,
    })
}

/// A number whose first bits share a byte with something else.
fn integer(rest: &mut &[u8], prefix: u8) -> Result<usize, Violation> {
    let mut next = || {
        let (&byte, after) = rest.split_first().ok_or(BROKEN)?;
        *rest = after;
        Ok(usize::from(byte))
    };
    let mask = (1 << prefix) - 1;
    let mut value = next()? & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BROKEN)
}

/// A text that may be Huffman-coded.
struct Text<'a> {
    bytes: &'a [u8],
    coded: bool,
}

impl<'a> Text<'a> {
    fn read(self) -> Result<Cow<'a, [u8]>, Violation> {
        if self.coded { huffman::decode(self.bytes).map(Cow::Owned).ok_or(BROKEN) } else { Ok(Cow::Borrowed(self.bytes)) }
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<Text<'a>, Violation> {
    let coded = rest.first().is_some_and(|byte| byte & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(BROKEN)?;
    *rest = after;
    Ok(Text { bytes, coded })
}

/// Encodes a request's headers.
pub(in super::super) fn request<'a>(
    https: bool,
    authority: &str,
    path: &str,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Vec<u8> {
    // Entries of the static table: `:method POST`, `:scheme`, and the names `:path` and `:authority`.
    let mut block = Vec::with_capacity(256);
    block.extend_from_slice(&[0x83, if https { 0x87 } else { 0x86 }]);
    put_number(&mut block, 0, 4, 4);
    put_text(&mut block, path.as_bytes());
    put_number(&mut block, 0, 4, 1);
    put_text(&mut block, authority.as_bytes());
    for (name, value) in headers {
        block.push(0);
        put_text(&mut block, name.as_bytes());
        put_text(&mut block, value);
    }
    block
}

fn put_text(block: &mut Vec<u8>, text: &[u8]) {
    put_number(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

fn put_number(block: &mut Vec<u8>, flags: u8, prefix: u8, number: usize) {
    let mask = (1 << prefix) - 1;
    if number < mask {
        block.push(flags | number as u8);
        return;
    }
    block.push(flags | mask as u8);
    let mut left = number - mask;
    while left >= 0x80 {
        block.push((left & 0x7f | 0x80) as u8);
        left >>= 7;
    }
    block.push(left as u8);
}
