//! GTID sets: which transactions a MySQL server has, received, or lacks.
//!
//! A transaction is named by the UUID of the server that first committed it, since MySQL 8.3 optionally a tag, and a
//! sequence number that counts separately for every (UUID, tag). A set is kept canonical at all times (sorted, merged,
//! disjoint), so that equality is equality of transactions and every operation is one linear merge.
//!
//! Pure: nothing here does I/O, reads a clock or panics, whatever the text.

mod error;
mod interval;
mod parse;
mod tag;
#[cfg(test)]
mod tests;
mod uuid;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::iter::Peekable;
use std::slice;
use std::str::FromStr;

pub use error::{GtidError, GtidFault};
pub use uuid::ServerUuid;

pub(in crate::mysql) use error::excerpt;
use interval::Interval;
use tag::Tag;

/// A set of transactions, with MySQL 8.3 tags.
///
/// Prints as MySQL does, apart from the newlines that MySQL puts between items: `uuid:1-5:7:tag:1-3,uuid2:4`.
/// Reads the same, liberally: spaces, newlines, empty items, repeated UUIDs, upper case, intervals in any order,
/// overlapping, or ending before they start.
///
/// # Errors
/// Reading fails on anything else, with the item, the part of it and the byte at fault; nothing of such a text is used.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct GtidSet {
    /// Sorted by key, each key once, none without intervals.
    sources: Vec<Source>,
}

/// One independent sequence of transactions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SourceKey {
    uuid: ServerUuid,
    tag: Tag,
}

/// What a set holds of one sequence.
#[derive(Clone, PartialEq, Eq)]
struct Source {
    key: SourceKey,
    intervals: Vec<Interval>,
}

impl GtidSet {
    /// Whether it holds no transaction at all.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether every transaction of `other` is in this set; sets may well contain each other in neither direction.
    pub fn contains(&self, other: &GtidSet) -> bool {
        let mut held = self.sources.iter();
        other.sources.iter().all(|wanted| {
            let next = held.find(|source| source.key >= wanted.key);
            next.is_some_and(|source| source.key == wanted.key && interval::contains(&source.intervals, &wanted.intervals))
        })
    }

    /// The transactions that are in either set.
    pub fn union(&self, other: &GtidSet) -> GtidSet {
        self.merge(other, interval::union)
    }

    /// The transactions of this set that `other` lacks.
    pub fn subtract(&self, other: &GtidSet) -> GtidSet {
        self.merge(other, interval::subtract)
    }

    /// The transactions that are in both sets.
    pub fn intersect(&self, other: &GtidSet) -> GtidSet {
        self.merge(other, interval::intersect)
    }

    /// How many transactions it holds. Wide enough for any number of servers, each of which can fill 63 bits.
    pub fn count(&self) -> u128 {
        self.sources.iter().flat_map(|source| &source.intervals).map(|interval| u128::from(interval.len())).sum()
    }

    /// The servers that first committed any of its transactions.
    pub fn servers(&self) -> BTreeSet<ServerUuid> {
        self.sources.iter().map(|source| source.key.uuid).collect()
    }

    /// Everything but the transactions that `server` first committed, under whatever tag: any client may have chosen the tag.
    pub fn without_server(&self, server: ServerUuid) -> GtidSet {
        self.filter(|key| key.uuid != server)
    }

    /// Only the transactions that `server` first committed, under whatever tag.
    pub fn of_server(&self, server: ServerUuid) -> GtidSet {
        self.filter(|key| key.uuid == server)
    }

    /// The highest sequence number among the untagged transactions of `server`. Tags count separately and are left out.
    pub fn last_sequence(&self, server: ServerUuid) -> Option<u64> {
        let untagged = SourceKey { uuid: server, tag: Tag::NONE };
        let found = self.sources.binary_search_by_key(&untagged, |source| source.key).ok()?;
        self.sources[found].intervals.last().map(|interval| interval.last)
    }

    fn filter(&self, keep: impl Fn(SourceKey) -> bool) -> GtidSet {
        GtidSet { sources: self.sources.iter().filter(|source| keep(source.key)).cloned().collect() }
    }

    /// Walks both sets in step and combines what they hold of each sequence, with nothing where one of them has none.
    fn merge(&self, other: &GtidSet, combine: fn(&[Interval], &[Interval]) -> Vec<Interval>) -> GtidSet {
        let (mut left, mut right) = (self.sources.iter().peekable(), other.sources.iter().peekable());
        let mut sources = Vec::new();
        while let Some(key) = [left.peek(), right.peek()].into_iter().flatten().map(|source| source.key).min() {
            let intervals = combine(take(&mut left, key), take(&mut right, key));
            if !intervals.is_empty() {
                sources.push(Source { key, intervals });
            }
        }
        GtidSet { sources }
    }
}

/// The intervals of `key`, if they are next in line.
fn take<'a>(sources: &mut Peekable<slice::Iter<'a, Source>>, key: SourceKey) -> &'a [Interval] {
    sources.next_if(|source| source.key == key).map_or(&[], |source| &source.intervals)
}

impl FromStr for GtidSet {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        Ok(GtidSet { sources: parse::parse(text)? })
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut item: Option<ServerUuid> = None;
        for Source { key, intervals } in &self.sources {
            if item != Some(key.uuid) {
                let comma = if item.is_some() { "," } else { "" };
                write!(f, "{comma}{}", key.uuid)?;
                item = Some(key.uuid);
            }
            if key.tag != Tag::NONE {
                write!(f, ":{}", key.tag)?;
            }
            for Interval { first, last } in intervals {
                match first.cmp(last) {
                    Ordering::Equal => write!(f, ":{first}")?,
                    _ => write!(f, ":{first}-{last}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GtidSet({self})")
    }
}
