//! Reading GTID sets as MySQL and Vitess write them.
//!
//! The rule where those two disagree: what either of them accepts is accepted as long as its meaning is beyond doubt
//! (spaces around every part, a trailing colon, an interval that ends before it starts), and overlapping intervals are
//! merged as MySQL does. A UUID with nothing behind it, or in a form that no server prints, is taken for a mistake.
//! `tests/gtid_oracle.rs` lists every known difference from MySQL.

use super::error::excerpt;
use super::interval::{self, Interval, MAX_SEQUENCE};
use super::tag::Tag;
use super::uuid::ServerUuid;
use super::{GtidError, GtidFault, Source, SourceKey};

/// Intervals `from..to` of the flat list that belong to one source; a source may have many runs before they are gathered.
struct Run {
    key: SourceKey,
    from: usize,
    to: usize,
}

/// What was read so far, in the order of the text. One flat list: no allocation per item, however the text is cut into items.
#[derive(Default)]
struct Reading {
    runs: Vec<Run>,
    intervals: Vec<Interval>,
}

/// The offending part of an item and what is wrong with it.
type Refusal<'a> = (&'a str, GtidFault);

/// Reads a whole set into canonical sources.
pub(super) fn parse(text: &str) -> Result<Vec<Source>, GtidError> {
    let mut reading = Reading::default();
    for (index, raw) in text.split(',').enumerate() {
        let item = trim(raw);
        if !item.is_empty() {
            reading.item(item).map_err(|(part, fault)| GtidError::Item {
                number: index + 1,
                byte: offset(text, part),
                item: excerpt(item),
                part: excerpt(part),
                fault,
            })?;
        }
    }
    Ok(reading.gather())
}

impl Reading {
    fn item<'a>(&mut self, item: &'a str) -> Result<(), Refusal<'a>> {
        let (uuid, parts) = match item.split_once(':') {
            Some((uuid, parts)) => (trim(uuid), Some(parts)),
            None => (item, None),
        };
        let uuid = ServerUuid::parse(uuid.as_bytes()).ok_or((uuid, GtidFault::BadUuid))?;
        let mut parts = parts.ok_or((item, GtidFault::NoColon))?.split(':').peekable();
        let mut key = SourceKey { uuid, tag: Tag::NONE };
        let mut from = self.intervals.len();
        while let Some(raw) = parts.next() {
            let part = trim(raw);
            match part.as_bytes().first() {
                None if parts.peek().is_none() => {}
                None => return Err((raw, GtidFault::EmptyPart)),
                Some(b'0'..=b'9') => self.intervals.extend(read_interval(part).map_err(|fault| (part, fault))?),
                Some(_) => {
                    self.end_run(key, from);
                    key.tag = Tag::parse(part.as_bytes()).ok_or((part, GtidFault::BadPart))?;
                    from = self.intervals.len();
                }
            }
        }
        self.end_run(key, from);
        Ok(())
    }

    fn end_run(&mut self, key: SourceKey, from: usize) {
        let to = self.intervals.len();
        if from < to {
            self.runs.push(Run { key, from, to });
        }
    }

    fn gather(mut self) -> Vec<Source> {
        // Unstable is faster, and the order within one key does not matter yet.
        self.runs.sort_unstable_by_key(|run| run.key);
        let gather_one = |runs: &[Run]| Source {
            key: runs[0].key,
            intervals: interval::canonical(runs.iter().flat_map(|run| &self.intervals[run.from..run.to]).copied().collect()),
        };
        self.runs.chunk_by(|a, b| a.key == b.key).map(gather_one).collect()
    }
}

/// `N` or `N-M`; nothing when it ends before it starts, as MySQL has it.
fn read_interval(part: &str) -> Result<Option<Interval>, GtidFault> {
    let (first, after) = read_number(part.as_bytes())?;
    let last = match after {
        [] => first,
        [b'-', after @ ..] => {
            let (last, after) = read_number(trim_start(after))?;
            if !after.is_empty() {
                return Err(GtidFault::BadPart);
            }
            last
        }
        _ => return Err(GtidFault::BadPart),
    };
    match first {
        0 => Err(GtidFault::ZeroStart),
        _ => Ok((first <= last).then_some(Interval { first, last })),
    }
}

/// The decimal number that `text` begins with, and what comes after it and the spaces behind it.
fn read_number(text: &[u8]) -> Result<(u64, &[u8]), GtidFault> {
    let mut number: u64 = 0;
    let mut len = 0;
    while let Some(digit @ b'0'..=b'9') = text.get(len) {
        // Neither step can overflow: the number was at most 2^63 - 1 before, and saturating keeps a longer one beyond that.
        number = number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        if number > MAX_SEQUENCE {
            return Err(GtidFault::TooLarge);
        }
        len += 1;
    }
    if len == 0 {
        return Err(GtidFault::BadPart);
    }
    Ok((number, trim_start(&text[len..])))
}

/// What MySQL takes for a space: also the vertical tab, which Rust's own ASCII trimming leaves in place.
fn is_space(character: u8) -> bool {
    matches!(character, b' ' | b'\t'..=b'\r')
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii() && is_space(c as u8))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|c| is_space(**c)).count();
    &text[spaces..]
}

/// Where `part`, which was cut out of `text`, begins in it.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}
